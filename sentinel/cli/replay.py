"""``sentinel replay``: what the rules find in finished logs, and who it comes down to."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.text import as_json, plain
from sentinel.detect.blocks import words
from sentinel.detect.detection import LOCK_AT, MEMORY_SECONDS, Detection, format_time
from sentinel.detect.engine import Engine
from sentinel.detect.replies import load_replies
from sentinel.detect.rules import SEVERITIES, load_rules
from sentinel.replaying import Merge, detections
from sentinel.respond.policy import Policy, protecting_pattern
from sentinel.zones import zone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentinel.config import Config

_COLUMNS = (("TIME", 20), ("SEVERITY", 8), ("SCORE", 5), ("RULE", 29))
_LONG_SECONDS = 2.0
"""A replay that takes longer shows how far it is, on a terminal."""


def main(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    engine = make_engine(arguments, config)
    settings = config.policy if config else SimpleNamespace(memory=MEMORY_SECONDS, lock_at=LOCK_AT, protected=())
    policy = Policy(settings)  # type: ignore[arg-type]
    show = _show_jsonl if arguments.format == "jsonl" else _Table().show
    highest = -1
    totals: dict[str, tuple[float, Detection]] = {}
    with progress(arguments.files) as report:
        merge = Merge(engine, arguments.files, report)
        try:
            for detection in detections(merge):
                show(detection)
                highest = max(highest, SEVERITIES.index(detection.severity))
                _score(policy, totals, detection)
        finally:
            # Of what was read, also where the end of an archive is damaged; not where nothing could be read at all.
            if merge.judged:
                _summary(engine, merge, policy, totals)
    if arguments.fail_on and highest >= SEVERITIES.index(arguments.fail_on):
        return EXIT_FOUND
    return EXIT_OK


def _config(arguments: argparse.Namespace) -> Config | None:
    if not arguments.config:
        return None
    from sentinel.config import load_config

    return load_config(arguments.config)


def make_engine(arguments: argparse.Namespace, config: Config | None) -> Engine:
    if config:
        from sentinel.wiring import engine_of

        return engine_of(config, rules=arguments.rules, replies=arguments.replies, year=arguments.year, timezone=arguments.timezone)
    replies = load_replies(arguments.replies) if arguments.replies else None
    return Engine(load_rules(arguments.rules or None), replies=replies, timezone=zone(arguments.timezone), year=arguments.year)


def _score(policy: Policy, totals: dict[str, tuple[float, Detection]], detection: Detection) -> None:
    account = policy.remember(detection)
    if account is not None:
        total = policy.total(account)
        if account not in totals or (totals[account][0] < policy.settings.lock_at and total > totals[account][0]):
            totals[account] = (total, detection)


def _show_jsonl(detection: Detection) -> None:
    sys.stdout.write(as_json(detection.to_dict()) + "\n")


class _Table:
    """One line a detection, as they come."""

    def __init__(self) -> None:
        self._headed = False

    def show(self, detection: Detection) -> None:
        if not self._headed:
            self._headed = True
            print("  ".join(name.ljust(width) for name, width in _COLUMNS), "WHO AND HOW MUCH", sep="  ")
        cells = (format_time(detection.time)[:19] + "Z", detection.severity, f"{detection.score:g}", detection.rule)
        line = "  ".join(text.ljust(width) for text, (_, width) in zip(cells, _COLUMNS, strict=True))
        print(f"{line}  {plain(describe(detection))}")


def describe(detection: Detection) -> str:
    """The subject and the measure in a few words."""
    who = ", ".join(detection.subject.values())
    text = f"{who}: {detection.measure} {detection.value:g} in {_span(detection.window)}"
    if detection.measure == "episode":
        return f"{who}: over after {_span(round(detection.value, -1) if detection.value < 600 else round(detection.value / 60) * 60)}"
    if detection.related.get("replies"):
        accounts = ", ".join(detection.related.get("accounts", [])[:3])
        return f'{who}: "{words(detection.related["replies"][0])}"' + (f", earned by {accounts}" if accounts else "")
    used = {
        "client_ips": "from",
        "providers": "answered by",
    }
    for name, word in used.items():
        values = [value for value in detection.related.get(name, []) if value not in detection.subject.values()]
        if values:
            more = f" and {len(values) - 2} more" if len(values) > 2 else ""
            text += f", {word} {', '.join(values[:2])}{more}"
    return text


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _summary(engine: Engine, merge: Merge, policy: Policy, totals: dict[str, tuple[float, Detection]]) -> None:
    """To standard error: what was read, and whom policy would lock."""
    outcomes = {"event": 0, "ignored": 0, "unparsed": 0, "repeated": 0}
    for lines in engine.counters()["lines"].values():
        for outcome, number in lines.items():
            outcomes[outcome] += number
    out = [
        f"{merge.lines:,} lines: {outcomes['event']:,} events, {outcomes['ignored']:,} ignored, {outcomes['unparsed']:,} unparsed"
        + (f", {outcomes['repeated']:,} repeated" if outcomes["repeated"] else "")
        + (f", {merge.overlong:,} too long" if merge.overlong else "")
    ]
    counters = engine.counters()
    facts = {
        "late": "events more than a minute out of order, left out of the windows",
        "clock_set_back": "times that the clock of the log was set back, and the windows began anew",
        "unattributed": "deliveries of messages that began before the log, which count for no account",
    }
    out += [f"{what}: {counters[name]:,}" for name, what in facts.items() if counters[name]]
    for path in merge.ahead:
        out.append(f"{plain(path)}: its dates run past the time when it was last written; give the year of its first line with --year")
    for episode in engine.lasting():
        if "provider" not in episode.subject:
            who_else = ", ".join(filter(None, episode.subject.values()))
            out.append(plain(f"{episode.rule} of {who_else} since {format_time(episode.since)}"))
            continue
        who = {"blocked_ip": "", "provider": "", "dnsbl": "", **episode.subject}
        on = f" on the list {who['dnsbl']}" if who["dnsbl"] else ""
        by = f" (so a host of {episode.told_by} says)" if episode.told_by else ""
        told = f"blocked {who['blocked_ip']} by {who['provider']}{on} since {format_time(episode.since)}{by}"
        out.append(plain(told.replace("  ", " ")))
    lock_at = policy.settings.lock_at
    culprits = sorted(((total, account, d) for account, (total, d) in totals.items() if total >= lock_at), key=lambda c: c[2].time)
    for total, account, detection in culprits:
        pattern = protecting_pattern(account, policy.settings.protected)
        what = "would lock" if pattern is None else f"would not lock (protected by {plain(pattern)})"
        out.append(f"{what} {plain(account)}: score {total:g} at {format_time(detection.time)}")
    if not culprits:
        out.append(f"nobody reaches the score of {lock_at:g} at which an account is locked")
    sys.stdout.flush()
    sys.stderr.write("".join(f"sentinel: {line}\n" for line in out))


@contextmanager
def progress(files: list[str]) -> Iterator[Callable[[int], None] | None]:
    """A bar on standard error for what takes long; nothing where that is not a terminal."""
    if not sys.stderr.isatty() or "-" in files:
        yield None
        return
    total = sum(os.path.getsize(path) for path in files if os.path.isfile(path))
    began = time.monotonic()
    bars: list[tuple[object, object]] = []
    done = [0, 0]  # bytes of files before this one, bytes of this one

    def report(read: int) -> None:
        if read < done[1]:
            done[0] += done[1]
        done[1] = read
        if not bars and time.monotonic() - began > _LONG_SECONDS:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            bar.start()
            bars.append((bar, bar.add_task("reading", total=total)))
        if bars:
            bar_, task = bars[0]
            bar_.update(task, completed=done[0] + done[1])  # type: ignore[attr-defined]

    try:
        yield report
    finally:
        for bar_, _ in bars:
            bar_.stop()  # type: ignore[attr-defined]
