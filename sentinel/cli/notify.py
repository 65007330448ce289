"""``sentinel notify test``: a trial notice to each target, and what became of it."""

from __future__ import annotations

import argparse
import time

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.text import plain
from sentinel.config import load_config
from sentinel.errors import UserError
from sentinel.respond.compose import trial_notice
from sentinel.respond.notify import TargetError
from sentinel.respond.targets import targets_of


def main(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config)
    if not config.notify:
        raise UserError(f"{arguments.config}: notify: there are no targets; add one, such as notify: [{{kind: webhook, url: https://…}}]")
    try:
        targets = targets_of(config)
    except UserError as error:
        raise UserError(f"{arguments.config}: {error}") from None
    notice = trial_notice(time.time())
    failed = False
    for target in targets:
        began = time.monotonic()
        target.lasts_seconds = 0.0  # where an alert is made of it, that is over after ten minutes
        try:
            target.send(notice, ())
            print(f"{plain(target.name)}: taken in {(time.monotonic() - began) * 1000:.0f} ms", flush=True)
        except TargetError as error:
            failed = True
            print(f"{plain(target.name)}: failed: {plain(str(error))}", flush=True)
    return EXIT_FOUND if failed else EXIT_OK
