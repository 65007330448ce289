"""The journal: what was decided, tried and done, by whom and why, as entries that are only ever added.

Each entry's hash covers the hash of the one before, its own number and its text::

    hash = SHA-256( hash of the entry before ‖ "\\n" ‖ number ‖ "\\n" ‖ entry )      in hexadecimal; 64 zeros before the first

so an entry that was changed, put in, taken out or moved shows, and the last hash stands for all that came before. The database refuses to
change or delete a row. Whoever can write the file can still make the whole chain anew, or cut its end off together with
the count of rows; against that only a witness elsewhere helps: the daemon writes each new number and hash to its log,
and :func:`verify` takes such a pair.

An entry is a JSON object with sorted keys and ASCII escapes, so the same entry has the same bytes everywhere, also in an export.
"""

import datetime
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from sentinel.errors import UserError
from sentinel.state import State

GENESIS = "0" * 64
_KEYS_OF_THE_CHAIN = ("seq", "prev", "hash")
_PAGE = 1000


class Head(NamedTuple):
    """The last entry of a chain, as a witness keeps it."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


class Verdict(NamedTuple):
    """What :func:`verify` found."""

    head: Head
    problems: list[str]
    """One sentence each; none when the chain holds."""


def append(state: State, entry: Mapping[str, Any], now: float | None = None) -> Head:
    """Adds an entry, inside the caller's transaction if there is one. ``at`` is put in; what is None is left out."""
    moment = datetime.datetime.fromtimestamp(time.time() if now is None else now, datetime.UTC)
    given = {name: value for name, value in entry.items() if value is not None}
    text = _text({**given, "at": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")})
    with state.transaction() as db:
        before = head(state)
        # By the number that comes next, not by the last row's: what was cut off leaves a gap.
        ((last,),) = state.query("SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'journal'), 0)")
        seq = max(before.seq, last) + 1
        new = Head(seq, _hash(before.hash, seq, text))
        db.execute("INSERT INTO journal (seq, entry, hash) VALUES (?, ?, ?)", (new.seq, text, new.hash))
    return new


def head(state: State) -> Head:
    """The last entry's number and hash; number 0 before the first."""
    rows = state.query("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1")
    return Head(*rows[0]) if rows else Head(0, GENESIS)


def export(state: State, after: int = 0) -> Iterator[dict[str, Any]]:
    """The entries in order, each with ``seq``, ``prev`` and ``hash``: what a JSONL export holds."""
    before = GENESIS
    for seq, text, hash_ in _rows(state):
        if seq > after:
            yield {**_loaded(text), "seq": seq, "prev": before, "hash": hash_}
        before = hash_


def verify(state: State, witnesses: Iterable[Head] = ()) -> Verdict:
    """Checks the chain in the database, its end, and that it agrees with the actions that it is about."""
    # All of it at one moment: a daemon that writes meanwhile would make it look cut off.
    with state.transaction():
        last, problems = _check(_rows(state), witnesses)
        ((count,),) = state.query("SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'journal'), 0)")
        if count > last.seq:
            problems.append(f"the journal ends with entry {last.seq}, but {count} were written: its end has been cut off")
        problems += _disagreements(state)
    return Verdict(last, problems)


def verify_export(lines: Iterable[str], name: str, witnesses: Iterable[Head] = ()) -> Verdict:
    """The same for the lines of a whole JSONL export; ``name`` is the file's, for errors. UserError for what is no export."""

    def rows() -> Iterator[tuple[int, str, str]]:
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                seq, hash_ = int(entry["seq"]), str(entry["hash"])
                text = _text({key: value for key, value in entry.items() if key not in _KEYS_OF_THE_CHAIN})
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(
                    f"{name}:{number}: is no line of a journal export; write one with: sentinel locks list --journal --format jsonl"
                ) from None
            yield seq, text, hash_

    return Verdict(*_check(rows(), witnesses))


def parse_head(text: str) -> Head:
    """A witness's ``NUMBER:HASH``. UserError for anything else."""
    seq, _, hash_ = text.strip().partition(":")
    if not (seq.isascii() and seq.isdigit()) or len(hash_) != 64 or any(char not in "0123456789abcdef" for char in hash_):
        raise UserError(f'"{text[:90]}" is not NUMBER:HASH; the daemon\'s log has it behind "journal", with 64 hexadecimal digits')
    return Head(int(seq), hash_)


def _check(rows: Iterable[tuple[int, str, str]], witnesses: Iterable[Head]) -> tuple[Head, list[str]]:
    problems = []
    waiting = {witness.seq: witness.hash for witness in witnesses}
    before = Head(0, GENESIS)
    for seq, text, hash_ in rows:
        if seq != before.seq + 1:
            missing = f"entry {before.seq + 1} is" if seq == before.seq + 2 else f"entries {before.seq + 1} to {seq - 1} are"
            problems.append(f"{missing} missing" if seq > before.seq else f"entry {seq} comes after entry {before.seq}")
        if hash_ != _hash(before.hash, seq, text):
            problems.append(f"entry {seq} has been changed, or what came before it")
        noted = waiting.pop(seq, hash_)
        if noted != hash_:
            problems.append(f"entry {seq} is not the one that was noted elsewhere")
        before = Head(seq, hash_)
    problems += [f"entry {seq}, which was noted elsewhere, is not there" for seq in sorted(waiting) if seq > 0]
    return before, problems


def _disagreements(state: State) -> list[str]:
    """Actions whose row says something else than the last entry about it."""
    told: dict[str, str] = {}
    for _, text, _ in _rows(state):
        entry = _loaded(text)
        if "action" in entry and "state" in entry:
            told[entry["action"]] = entry["state"]
    rows = dict(state.query("SELECT id, state FROM actions"))
    problems = [
        f"action {id_} is {rows[id_]}, but the journal's last word about it is {state_}"
        for id_, state_ in told.items()
        if id_ in rows and rows[id_] != state_
    ]
    problems += [f"action {id_} is in the journal, but not among the actions" for id_ in told if id_ not in rows]
    ((upgraded,),) = state.query(
        "SELECT COALESCE((SELECT max(CAST(value AS INTEGER)) FROM flags WHERE name = 'actions_before_journal'), 0)"
    )
    unknown = state.query("SELECT id FROM actions WHERE seq > ?", (upgraded,))
    problems += [f"action {id_} is not in the journal" for (id_,) in unknown if id_ not in told]
    return problems


def _rows(state: State) -> Iterator[tuple[int, str, str]]:
    # In pages: the daemon writes meanwhile, and nobody holds the database for long.
    after = -1
    while True:
        page = state.query("SELECT seq, entry, hash FROM journal WHERE seq > ? ORDER BY seq LIMIT ?", (after, _PAGE))
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1][0]


def _loaded(text: str) -> dict[str, Any]:
    """An entry, or nothing of one that somebody has spoiled: its hash tells of that."""
    try:
        entry = json.loads(text)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _text(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _hash(before: str, seq: int, text: str) -> str:
    return hashlib.sha256(f"{before}\n{seq}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()
