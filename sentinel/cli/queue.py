"""``sentinel queue list|hold|release|delete``: one culprit's mail in Postfix's queue."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.cli.text import as_json, plain
from sentinel.config import DEFAULT_STATE, Config, PostfixSettings, load_config
from sentinel.detect.detection import format_time
from sentinel.errors import UserError
from sentinel.respond.journal import Journal
from sentinel.respond.queue import Found, Match, Outcome, PostfixQueue, parse_address
from sentinel.state import DATABASE_NAME, State
from sentinel.wiring import remembered_messages

_SHOWN_ON_A_TERMINAL = 40
_TOP = 5
_SHORT_CHARACTERS = 120
_US = 1_000_000
_DONE = {"hold": "put on hold", "release": "released", "delete": "deleted"}
_ALREADY = {"hold": "on hold already", "release": "not on hold"}


def main(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config) if arguments.config else None
    if config is not None and arguments.state:
        raise UserError("--config says it all; --state can't be given with it")
    subject = _subject(arguments)
    queue = PostfixQueue(_settings(config, arguments.postfix_config))
    with _state(config, arguments.state) as state, _Progress() as progress:
        remembered, unknown = remembered_messages(state, **subject)
        found = queue.find(
            **subject,
            known=remembered.mine,
            max_envelopes=arguments.max_envelopes,
            progress=progress,
        )
        progress.clear()
        if unknown:
            _say(f"{unknown}, so only envelopes were asked: mail that came back from a content filter is not found")
        numbers = _numbers(arguments.queue_command, subject, found)
        if arguments.queue_command == "list":
            _list(found, numbers, arguments.format)
            return _complain(found, None)
        _check_max(arguments, len(found.matches), subject)
        if arguments.dry_run:
            _report({**numbers, "dry_run": True}, None, arguments.format)
            return _complain(found, None)
        if arguments.format == "table":
            _show_numbers(numbers)
        if arguments.queue_command == "delete" and found.matches:
            _confirm(len(found.matches), arguments.max)
        act = {"hold": queue.hold, "release": queue.release, "delete": queue.delete}[arguments.queue_command]
        outcome = act(found.entries, progress)
        progress.clear()
        _report(numbers, outcome, arguments.format)
        if state is not None and found.matches:
            _journal(state, subject, arguments.why, numbers, outcome)
    return _complain(found, outcome)


def _subject(arguments: argparse.Namespace) -> dict[str, str]:
    """``{"account": …}`` or ``{"client_ip": …}``, an address in its usual spelling."""
    if arguments.account is not None:
        if not arguments.account.strip():
            raise UserError("--account: is empty; name one as it logs in, such as info@example.com")
        return {"account": arguments.account}
    address = parse_address(arguments.client_ip)
    if address is None:
        raise UserError(f'--client-ip: "{_short(arguments.client_ip)}" is not an IP address; write it as 192.0.2.1 or 2001:db8::1')
    return {"client_ip": str(address)}


def _settings(config: Config | None, directory: str | None) -> PostfixSettings:
    settings = config.postfix if config else PostfixSettings()
    if directory is None:
        return settings
    if not directory.strip():
        raise UserError("--postfix-config: is empty; name the directory that main.cf is in, such as /etc/postfix")
    return settings.model_copy(update={"config_directory": directory})


# what the daemon knows


@contextmanager
def _state(config: Config | None, directory: str | None) -> Iterator[State | None]:
    """The daemon's state; None where there is none yet and nobody has named one."""
    path = directory or (config.state if config else DEFAULT_STATE)
    if directory is None and not os.path.lexists(os.path.join(path, DATABASE_NAME)):
        yield None
        return
    with State(path, create=False) as state:
        yield state


def _journal(state: State, subject: Mapping[str, str], why: str, numbers: Mapping[str, Any], outcome: Outcome) -> None:
    Journal(state).note(
        f"queue-{outcome.action}",
        time.time(),
        **subject,
        why=why,
        statement=shlex.join(outcome.statement),
        rows=outcome.done - outcome.already,
        result="failed" if outcome.error else "done",
        error=str(outcome.error) if outcome.error else None,
        numbers={**_result(outcome), **{name: numbers[name] for name in ("messages", "recipients", "bytes")}},
    )


# numbers


def _numbers(action: str, subject: Mapping[str, str], found: Found) -> dict[str, Any]:
    entries = found.entries
    senders: Counter[str] = Counter(entry.sender for entry in entries)
    domains: Counter[str] = Counter()
    for entry in entries:
        domains.update(dict(entry.domains))
    times = [entry.arrival_time for entry in entries]
    named = {"sasl_username": subject["account"]} if "account" in subject else dict(subject)
    return {
        "action": action,
        **named,
        "messages": len(entries),
        "recipients": sum(entry.nrcpt for entry in entries),
        "bytes": sum(entry.size for entry in entries),
        "queues": dict(Counter(entry.queue_name for entry in entries).most_common()),
        **({"oldest": format_time(min(times) * _US), "newest": format_time(max(times) * _US)} if times else {}),
        "senders": _top(senders),
        "recipient_domains": _top(domains),
        "by_join": sum(match.envelope is None for match in found.matches),
        "in_queue": found.queued,
        "unread": found.unread,
    }


def _top(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_TOP])


def _show_numbers(numbers: Mapping[str, Any], *, to: Any = None) -> None:
    who = _short(numbers.get("sasl_username") or numbers["client_ip"])
    say = _printer(to)
    if not numbers["messages"]:
        say(f"{who}: no message among {numbers['in_queue']:,} in the queue")
        return
    size = f"{numbers['bytes']:,} bytes"
    say(f"{who}: {numbers['messages']:,} of {numbers['in_queue']:,} messages in the queue, {numbers['recipients']:,} recipients, {size}")
    say(f"  queues             {_counted(numbers['queues'])}")
    say(f"  oldest, newest     {numbers['oldest']}, {numbers['newest']}")
    say(f"  senders            {_counted(numbers['senders'])}")
    say(f"  recipient domains  {_counted(numbers['recipient_domains'])}")


def _printer(to: Any) -> Callable[[str], None]:
    return lambda text: print(text, file=to)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_short(name) or '<>'} {count:,}" for name, count in counts.items())


# what is shown


def _list(found: Found, numbers: Mapping[str, Any], form: str) -> None:
    if form == "jsonl":
        for match in found.matches:
            print(as_json(_message(match)))
        _show_numbers(numbers, to=sys.stderr)
        return
    _show_numbers(numbers)
    shown = found.matches[:_SHOWN_ON_A_TERMINAL] if sys.stdout.isatty() else found.matches
    for match in shown:
        entry = match.entry
        where = f"{format_time(entry.arrival_time * _US)}  {entry.queue_id:<16}  {plain(entry.queue_name):<8}"
        print(f"{where}  {entry.size:>9,} bytes  {entry.nrcpt:>5,} recipients  {_short(entry.sender) or '<>'}")
    if len(shown) < len(found.matches):
        print(f"… and {len(found.matches) - len(shown):,} older ones; --format jsonl shows all")


def _message(match: Match) -> dict[str, Any]:
    entry, envelope = match.entry, match.envelope
    out: dict[str, Any] = {
        "time": format_time(entry.arrival_time * _US),
        "queue_id": entry.queue_id,
        "queue_name": entry.queue_name,
        "sender": entry.sender,
        "nrcpt": entry.nrcpt,
        "size": entry.size,
        "recipient_domains": dict(entry.domains),
        "found_by": "join" if envelope is None else "envelope",
    }
    if envelope is not None:
        more = {"sasl_username": envelope.account, "client_ip": envelope.client_ip}
        out.update({name: value for name, value in more.items() if value is not None})
    return out


def _result(outcome: Outcome) -> dict[str, int]:
    return {"asked": outcome.asked, "done": outcome.done, "already": outcome.already, "gone": outcome.gone}


def _report(numbers: Mapping[str, Any], outcome: Outcome | None, form: str) -> None:
    """Without an outcome it was a dry run."""
    if form == "jsonl":
        result = {**_result(outcome), "statement": list(outcome.statement)} if outcome else {}
        print(as_json({**numbers, **result, **({"error": str(outcome.error)} if outcome and outcome.error else {})}))
        return
    if outcome is None:
        _show_numbers(numbers)
        print(f"dry run: {numbers['messages']:,} messages would be {_DONE[numbers['action']]}; nothing was done")
        return
    if outcome.asked:
        more = [f"{outcome.already:,} of them {_ALREADY[outcome.action]}"] if outcome.already else []
        more += [f"{outcome.gone:,} had left the queue"] if outcome.gone else []
        print(f"{outcome.done:,} messages {_DONE[outcome.action]}" + (f" ({', '.join(more)})" if more else ""))


def _complain(found: Found, outcome: Outcome | None) -> int:
    """Says what is not complete; the exit code."""
    code = EXIT_OK
    if found.unread:
        _say(f"{found.unread:,} older messages were not looked at, they may be the culprit's too; --max-envelopes N looks at more")
        code = EXIT_FOUND
    if found.skipped:
        _say(f"{found.skipped:,} lines of postqueue were not understood and left out")
        code = EXIT_FOUND
    if outcome is not None and outcome.error is not None:
        left = outcome.asked - outcome.done - outcome.gone
        _say(f"{outcome.error}; {left:,} messages may not be {_DONE[outcome.action]}: look with sentinel queue list")
        code = EXIT_FOUND
    return code


# asking


def _check_max(arguments: argparse.Namespace, count: int, subject: Mapping[str, str]) -> None:
    if arguments.max is not None and count > arguments.max:
        who = _short(next(iter(subject.values())))
        raise UserError(
            f"refusal to {arguments.queue_command} more than asked: {count} messages of {who} match, and --max is {arguments.max}"
        )


def _confirm(count: int, given: int | None) -> None:
    """Deleting can't be undone, so the number of messages must be said: with ``--max``, or at the terminal."""
    if not sys.stdin.isatty():
        if given is None:
            raise UserError(
                f"delete can't be undone, and there is no terminal to ask at: {count} messages match; allow so many with --max N"
            )
        return
    sys.stderr.write(f"Delete {count} messages for good? Type their number to do it: ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip()
    if answer != str(count):
        raise UserError(f'nothing was deleted: "{_short(answer)}" is not the number of messages, {count}')


def _short(text: str) -> str:
    return plain(text if len(text) <= _SHORT_CHARACTERS else text[:_SHORT_CHARACTERS] + "…")


def _say(text: str) -> None:
    sys.stderr.write(f"sentinel: {text}\n")


class _Progress:
    """A line on a terminal that tells how far it is; nothing elsewhere."""

    _EVERY_SECONDS = 0.1

    def __init__(self) -> None:
        self._shown = 0
        self._next = time.monotonic() + self._EVERY_SECONDS
        self._on = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, what: str, done: int, of: int) -> None:
        if not self._on or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._EVERY_SECONDS
        words = {"listing": "messages listed", "reading": "envelopes read"}.get(what, "messages")
        text = f"{done:,} {words}" if not of else f"{done:,} of {of:,} {words}"
        sys.stderr.write(f"\r{text:<{self._shown}}")
        sys.stderr.flush()
        self._shown = len(text)

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(f"\r{'':<{self._shown}}\r")
            sys.stderr.flush()
            self._shown = 0
