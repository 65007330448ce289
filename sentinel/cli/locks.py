"""``sentinel locks list|lock|unlock|protect|unprotect|presets``."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.text import as_json, plain
from sentinel.config import DEFAULT_STATE, Config, load_config
from sentinel.detect.detection import format_time
from sentinel.errors import UserError
from sentinel.respond.presets import STATEMENTS, Preset, load_preset, preset_names
from sentinel.respond.responder import list_locks, lock_by_hand, protect, protected, unlock_by_hand, unprotect
from sentinel.state import State
from sentinel.wiring import locker_of

if TYPE_CHECKING:
    from sentinel.respond.journal import Action


_WIDTH = 120


def main(arguments: argparse.Namespace) -> int:
    if arguments.locks_command == "presets":
        _presets(arguments.name)
        return EXIT_OK
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


def _presets(name: str | None) -> None:
    """The presets' names, or everything that stands in one of them."""
    if name is None:
        presets = [load_preset(known) for known in preset_names()]
        width = max(len(preset.name) for preset in presets)
        for preset in presets:
            print(f"{preset.name.ljust(width)}  {preset.description}")
        print("\nsentinel locks presets NAME prints statements, grants, and what stops and what goes on")
        return
    preset = load_preset(name)
    print(f"{plain(preset.name)}: {plain(preset.description)}")
    _paragraph("Options (database.options in sentinel.yaml)", "\n".join(_options(preset)))
    _paragraph("Statements" if preset.kind in ("sql", "command") else "What it does", "\n".join(_statements(preset)))
    if preset.may_change:
        _paragraph("Others may change meanwhile, and keep what they have set", ", ".join(preset.may_change))
    _paragraph("Rights to give", preset.grants)
    _paragraph("What stops, what goes on", preset.notes)


def _statements(preset: Preset) -> Iterator[str]:
    width = max(map(len, STATEMENTS)) + 1
    for key in STATEMENTS:
        for number, line in enumerate(textwrap.wrap(preset.statement(key), _WIDTH, break_long_words=False, break_on_hyphens=False)):
            yield f"{f'{key}:' if number == 0 else '':<{width}} {line}"


def _options(preset: Preset) -> Iterator[str]:
    width = max(map(len, preset.options), default=0)
    for name, option in preset.options.items():
        default = shlex.join(option.default) if isinstance(option.default, tuple) else option.default
        choices = f"one of {', '.join(option.choices)}; " if option.choices else ""
        given = f"{choices}default: {'none' if default == '' else default}" if default is not None else "has to be set"
        yield f"{name.ljust(width)}  {option.description} ({given})"


def _paragraph(title: str, text: str) -> None:
    if text:
        print(f"\n{title}")
        for line in text.split("\n"):
            print(f"  {plain(line)}".rstrip())


def _line(action: Action) -> str:
    parts = [format_time(int(action.created) * 1_000_000), action.action, action.state, plain(action.account), plain(action.why)]
    if action.refused or action.error:
        parts.append(f"({plain(action.refused or action.error or '')})")
    return "  ".join(parts)
