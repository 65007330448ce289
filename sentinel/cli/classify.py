"""``sentinel classify``: what remote servers' replies mean, one a line, as JSON lines."""

from __future__ import annotations

import argparse
import sys

from sentinel.cli import EXIT_OK
from sentinel.cli.text import as_json
from sentinel.detect.replies import load_replies
from sentinel.source.archive import read_log


def main(arguments: argparse.Namespace) -> int:
    classifier = load_replies(arguments.replies)
    reader = read_log(arguments.file)
    for chunk in reader:
        for line in chunk.data.split(b"\n"):
            reply = line.decode("utf-8", "replace").strip()
            if reply:
                sys.stdout.write(as_json(classifier.classify(reply, arguments.host or "").to_dict()) + "\n")
    if reader.overlong:
        sys.stderr.write(f"sentinel: {reader.overlong:,} lines are too long to be replies and were passed over\n")
    return EXIT_OK
