"""What a reader hands back, and the patterns that readers share.

Patterns have no two ways to match the same text, so that they are linear; none of them looks for a word in a stranger's text.
"""

import re
from typing import Any, Final

from sentinel.maillog.fields import KINDS, NUMBER_FIELDS, STATUSES, TEXT_FIELDS

Span = tuple[int, int, int]
"""Field, first byte and end in the line."""
Event = tuple[int, int, float, list[Span], list[tuple[int, int]]]
"""Kind, status (in ``STATUSES``; 0 for none), delay in seconds (-1 for none), texts, numbers (field, value)."""

TEXT: Final = {name: i for i, name in enumerate(TEXT_FIELDS)}
NUMBER: Final = {name: i for i, name in enumerate(NUMBER_FIELDS)}
KIND: Final = {name: i for i, name in enumerate(KINDS)}
SENT, DEFERRED, BOUNCED = (STATUSES.index(name) for name in ("sent", "deferred", "bounced"))

QUOTED = rb'"(?:[^"\\]|\\.)*"'
MAILBOX = rb"(?:[^\"\\>(]|\\.|" + QUOTED + rb"|\((?:[^()\\]|\\.)*\))*"
"""What stands in angle brackets: quoted strings and comments may hold a bracket."""
IP = rb"[0-9A-Fa-f:.]{2,45}"
CODE = re.compile(rb"([2-5]\d\d)(?=[ -]|\Z)(?:[ -]([245]\.\d{1,3}\.\d{1,3})(?=[ \\]|\Z))?")
_LONGEST = 18
"""Digits of a number that we count with."""


def texts(match: "re.Match[bytes]", *names: str) -> list[Span]:
    """The spans of a match's groups, those that took part."""
    found = []
    for name in names:
        start, end = match.span(name)
        if start >= 0:
            found.append((TEXT[name], start, end))
    return found


def numbers(match: "re.Match[bytes]", *names: str) -> list[tuple[int, int]]:
    return [(NUMBER[name], int(match[name][:_LONGEST])) for name in names if match[name]]


def code(line: bytes, start: int, end: int, spans: list[Span], counted: list[tuple[int, int]], dsn: bool = True) -> None:
    """The code and the DSN that a reply begins with."""
    match = CODE.match(line, start, end)
    if match is None:
        return
    counted.append((NUMBER["reply_code"], int(match[1])))
    if dsn and match[2] is not None:
        spans.append((TEXT["dsn"], *match.span(2)))


def event(kind: str, spans: list[Span], counted: Any = (), said: int = 0, delay: float = -1.0) -> Event:
    return KIND[kind], said, delay, spans, list(counted)
