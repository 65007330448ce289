"""``sentinel doctor --blocks``: who blocks us now, since when, on which list, with which words, and how to get off."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.replay import progress
from sentinel.cli.text import as_json, plain
from sentinel.detect.blocks import words
from sentinel.detect.detection import Detection, format_time
from sentinel.detect.engine import Engine, Episode
from sentinel.detect.replies import load_replies
from sentinel.detect.rules import RuleSet, load_rules
from sentinel.errors import UserError
from sentinel.replaying import Merge, detections
from sentinel.zones import zone

_COLUMNS = ("PROVIDER", "ADDRESS", "LIST", "SINCE", "LAST REFUSED", "SERVER")


def main(arguments: argparse.Namespace) -> int:
    rules = RuleSet(rule for rule in load_rules(arguments.rules or None) if rule.ending is not None and rule.on == ("delivery",))
    if not rules:
        raise UserError('--rules: no rule there has "until", so none tells how long a block lasts; name rules/default.yaml too')
    engine = Engine(rules, replies=load_replies(arguments.replies), timezone=zone(arguments.timezone), year=arguments.year)
    begun: dict[str, Detection] = {}
    ended = 0
    with progress(arguments.blocks) as report:
        merge = Merge(engine, arguments.blocks, report)
        for detection in detections(merge):
            if any(detection.rule == rule.name for rule in rules):
                begun[detection.id] = detection
            else:
                ended += 1
    blocks = [_block(begun[episode.detection], episode) for episode in engine.lasting()]
    if arguments.format == "jsonl":
        sys.stdout.write("".join(as_json(block) + "\n" for block in blocks))
    else:
        _table(blocks)
    sys.stdout.flush()
    over = f"; {ended:,} {'is' if ended == 1 else 'are'} over" if ended else ""
    sys.stderr.write(f"sentinel: {merge.lines:,} lines read, {len(blocks) or 'no'} {'block' if len(blocks) == 1 else 'blocks'} now{over}\n")
    return EXIT_FOUND if blocks else EXIT_OK


def _block(detection: Detection, episode: Episode) -> dict[str, Any]:
    related = detection.related
    return {
        "provider": detection.subject.get("provider", ""),
        "blocked_ip": detection.subject.get("blocked_ip", ""),
        "dnsbl": detection.subject.get("dnsbl", ""),
        "since": format_time(detection.time),
        "last": format_time(episode.last),
        "host": detection.subject.get("host", ""),
        "delist_url": next(iter(related.get("delist_urls", [])), ""),
        "told_by": episode.told_by,
        "reply": words(next(iter(related.get("replies", [])), "")),
        "accounts": related.get("accounts", []),
    }


def _table(blocks: list[dict[str, Any]]) -> None:
    """A line a block, and below it what the provider said and where to go."""
    cells = []
    for block in blocks:
        times = [f"{block[name][:19]}Z" for name in ("since", "last")]
        cells.append([block["provider"], block["blocked_ip"] or "(not said)", block["dnsbl"] or "-", *times, block["host"]])
    if not cells:
        print("Nobody is known to block this server.")
        return
    rows = [list(_COLUMNS), *([plain(cell) for cell in row] for row in cells)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    for number, row in enumerate(rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number:
            block = blocks[number - 1]
            print(f"    said:      {plain(block['reply'])}")
            if block["told_by"]:
                print(f"    by:        a host of {plain(block['told_by'])}; only its words name {plain(block['provider'])}")
            nowhere = f"the reply names no page: write to the postmaster of {block['provider']}"
            print(f"    get off:   {plain(block['delist_url'] or nowhere)}")
            if block["accounts"]:
                print(f"    earned by: {plain(', '.join(block['accounts']))}")
