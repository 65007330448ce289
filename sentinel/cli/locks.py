"""``sentinel locks list|lock|unlock|protect|unprotect``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.text import as_json, plain
from sentinel.config import DEFAULT_STATE, Config, load_config
from sentinel.detect.detection import format_time
from sentinel.errors import UserError
from sentinel.respond.responder import list_locks, lock_by_hand, protect, protected, unlock_by_hand, unprotect
from sentinel.state import State
from sentinel.wiring import locker_of

if TYPE_CHECKING:
    from sentinel.respond.journal import Action


def main(arguments: argparse.Namespace) -> int:
    config = _config(arguments)
    listing = arguments.locks_command == "list"
    with State(config.state if config else arguments.state or DEFAULT_STATE, create=not listing) as state:
        if listing:
            _list(list_locks(state, every=arguments.every), arguments.format)
            if arguments.format == "table":
                for pattern in protected(state):
                    print(f"protected: {plain(pattern)}")
            return EXIT_OK
        if arguments.locks_command == "protect":
            protect(state, arguments.account, arguments.why)
            print(f"{plain(arguments.account)} will not be locked")
            return EXIT_OK
        if arguments.locks_command == "unprotect":
            unprotect(state, arguments.account, arguments.why)
            print(f"{plain(arguments.account)} is protected no more")
            return EXIT_OK
        locker = locker_of(config)
        try:
            work = lock_by_hand if arguments.locks_command == "lock" else unlock_by_hand
            action = work(state, arguments.account, arguments.why, locker)
        finally:
            if locker is not None:
                locker.close()
    print(_line(action))
    return EXIT_OK if action.state == "done" else EXIT_FOUND


def _config(arguments: argparse.Namespace) -> Config | None:
    if arguments.config:
        if arguments.state or arguments.database or arguments.preset:
            raise UserError("--config says it all; --state, --database and --preset can't be given with it")
        return load_config(arguments.config)
    if arguments.database is None and arguments.preset is None:
        return None
    return Config.from_arguments(log=["-"], state=arguments.state, database=arguments.database, preset=arguments.preset)


def _list(actions: list[Action], form: str) -> None:
    if form == "jsonl":
        for action in actions:
            print(as_json(action.to_dict()))
        return
    if not actions:
        print("no locks")
    for action in actions:
        print(_line(action))


def _line(action: Action) -> str:
    parts = [format_time(int(action.created) * 1_000_000), action.action, action.state, plain(action.account), plain(action.why)]
    if action.refused or action.error:
        parts.append(f"({plain(action.refused or action.error or '')})")
    return "  ".join(parts)
