"""``sentinel locks list|lock|unlock|protect|unprotect|resume|verify-journal|presets``."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.text import as_json, plain
from sentinel.config import DEFAULT_STATE, Config, load_config, parse_duration
from sentinel.detect.detection import format_time
from sentinel.errors import UserError
from sentinel.respond import chain
from sentinel.respond.journal import Journal
from sentinel.respond.locks import LockError
from sentinel.respond.presets import STATEMENTS, Preset, load_preset, preset_names
from sentinel.respond.responder import list_locks, lock_by_hand, protect, protected, resume, unlock_by_hand, unprotect
from sentinel.respond.response import Facts
from sentinel.respond.targets import targets_of
from sentinel.respond.telling import Teller
from sentinel.state import State
from sentinel.wiring import locker_of, remembered_messages, response_of

if TYPE_CHECKING:
    from sentinel.respond.journal import Action


_WIDTH = 120


def main(arguments: argparse.Namespace) -> int:
    command = arguments.locks_command
    if command == "presets":
        _presets(arguments.name)
        return EXIT_OK
    if command == "verify-journal" and arguments.file:
        return _verify_export(arguments)
    config = _config(arguments)
    # What a state directory holds is looked at or undone: a wrong name must not make a new one.
    looking = command in ("list", "verify-journal", "unlock", "unprotect", "resume")
    with State(config.state if config else arguments.state or DEFAULT_STATE, create=not looking) as state:
        match command:
            case "list":
                return _list(state, config, arguments)
            case "verify-journal":
                return _verdict(chain.verify(state, map(chain.parse_head, arguments.head)))
            case "protect":
                protect(state, arguments.account, arguments.why)
                print(f"{plain(arguments.account)} will not be locked")
            case "unprotect":
                unprotect(state, arguments.account, arguments.why)
                print(f"{plain(arguments.account)} is protected no more")
            case "resume":
                if not resume(state, arguments.why, teller=_teller(state, config, arguments)):
                    print("the breaker was not open")
                    return EXIT_OK
                print("the breaker is closed; policy may lock again")
            case _:
                return _act(state, config, arguments)
    return EXIT_OK


def _act(state: State, config: Config | None, arguments: argparse.Namespace) -> int:
    locker = locker_of(config)
    response = response_of(config) if config else None
    try:
        if arguments.locks_command == "unlock":
            teller = _teller(state, config, arguments)
            action = unlock_by_hand(state, arguments.account, arguments.why, locker, response=response, teller=teller)
        else:
            expires = _until(arguments.for_)
            facts = None
            if response is not None and response.settings.hold:
                messages, _ = remembered_messages(state, account=arguments.account)
                facts = Facts(messages.mine)  # a checkpoint may be old, and short queue IDs come back: nothing is ruled out by it
            action = lock_by_hand(state, arguments.account, arguments.why, locker, response=response, facts=facts, expires=expires)
    finally:
        if locker is not None:
            locker.close()
    print(_line(action))
    journal = Journal(state)
    lock = journal.get(action.target) if action.target else None
    steps = [*journal.steps(action), *(journal.steps(lock) if lock is not None else ())]
    steps = [step for step in steps if lock is None or step.action == action.id or step.changed >= action.created]
    for step in steps:
        if step.state in ("done", "failed") or step.attempts:
            print(f"    {step.step}: {step.state}{f': {plain(step.detail)}' if step.detail else ''}")
    if arguments.locks_command == "unlock" and action.state == "done" and config is not None and config.response.hold:
        print(
            f"sentinel: mail that is on hold stays there; look at it: sentinel queue list --account {plain(action.account)}",
            file=sys.stderr,
        )
    failed = any(step.state == "failed" or (step.attempts and step.state == "pending") for step in steps)
    return EXIT_OK if action.state == "done" and not failed else EXIT_FOUND


def _teller(state: State, config: Config | None, arguments: argparse.Namespace) -> Teller | None:
    """For notices that end what was told before; a running daemon sends them."""
    return Teller(state, targets_of(config), config.policy.lock_at, arguments.config) if config is not None and config.notify else None


def _until(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        return time.time() + parse_duration(given)
    except ValueError as error:
        raise UserError(f"--for: {error}") from None


def _verify_export(arguments: argparse.Namespace) -> int:
    heads = [chain.parse_head(text) for text in arguments.head]
    try:
        with sys.stdin if arguments.file == "-" else open(arguments.file, encoding="utf-8") as lines:
            return _verdict(chain.verify_export(lines, arguments.file, heads))
    except UnicodeDecodeError:
        raise UserError(f"{arguments.file}: is no journal export: it is not text in UTF-8") from None
    except OSError as error:
        raise UserError(f"{arguments.file}: can't be read: {error.strerror}") from None


def _verdict(verdict: chain.Verdict) -> int:
    for problem in verdict.problems:
        print(problem)
    if verdict.problems:
        print(f"sentinel: the journal does not hold: {len(verdict.problems)} problems", file=sys.stderr)
        return EXIT_FOUND
    print(f"{verdict.head.seq} entries, unbroken; the last is {verdict.head}")
    return EXIT_OK


def _config(arguments: argparse.Namespace) -> Config | None:
    if arguments.config:
        if arguments.state or arguments.database or arguments.preset:
            raise UserError("--config says it all; --state, --database and --preset can't be given with it")
        return load_config(arguments.config)
    if arguments.database is None and arguments.preset is None:
        return None
    return Config.from_arguments(log=["-"], state=arguments.state, database=arguments.database, preset=arguments.preset)


def _list(state: State, config: Config | None, arguments: argparse.Namespace) -> int:
    table = arguments.format == "table"
    if arguments.journal:
        for entry in chain.export(state):
            print(_entry(entry) if table else as_json(entry))
        return EXIT_OK
    if arguments.actual:
        return _list_actual(state, config, table)
    journal = Journal(state)
    actions = list_locks(state, every=arguments.every)
    if not table:
        for action in actions:
            print(as_json(action.to_dict()))
        return EXIT_OK
    breaker = journal.breaker()
    if breaker:
        since = format_time(int(breaker[1]) * 1_000_000)
        print(f"the breaker is open since {since}: {plain(breaker[0])}; close it with: sentinel locks resume")
    if not actions:
        print("no locks")
    for action in actions:
        print(_line(action))
        if not arguments.every:
            for step in journal.steps(action):
                print(f"    {step.step}: {step.state}{f': {plain(step.detail)}' if step.detail else ''}")
    for action in journal.failed_locks() if not arguments.every else ():
        print(f"given up, and not undone: {_line(action)}")
    for pattern in protected(state):
        print(f"protected: {plain(pattern)}")
    return EXIT_OK


def _list_actual(state: State, config: Config | None, table: bool) -> int:
    """Accounts that the mail system itself holds for locked, whoever did it."""
    locker = locker_of(config)
    if locker is None:
        raise UserError("--actual asks the mail system's database; give --database, or --config with a database section")
    ours = {action.login or action.account for action in list_locks(state)}
    try:
        found = locker.list_locked()
    except LockError as error:
        raise UserError(str(error)) from None
    finally:
        locker.close()
    for account in found:
        by = "sentinel" if account in ours else "others"
        print(f"{plain(account)}  by {by}" if table else as_json({"account": account, "by": by}))
    if table and not found:
        print("no account is locked")
    return EXIT_OK


def _entry(entry: dict[str, object]) -> str:
    """An entry for a person: what tells most of it."""
    order = ("seq", "at", "who", "event", "what", "state", "result", "account", "why", "refused", "error", "detail", "statement")
    parts = [str(entry[name]) for name in order if entry.get(name) not in (None, "")]
    if entry.get("rows") is not None:
        parts.append(f"{entry['rows']} changed")
    if entry.get("duration_ms") is not None:
        parts.append(f"{entry['duration_ms']} ms")
    return plain("  ".join(parts))


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
    if action.expires and not action.closed:
        parts.append(f"until {format_time(int(action.expires) * 1_000_000)}")
    return "  ".join(parts)
