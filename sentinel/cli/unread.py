"""What ``sentinel parse --all`` could not read: lines grouped by shape, so that a sample can be sent without private data.

A shape is who wrote the line (its tag, or the kind of its header) and its text with all that differs from line to line replaced: numbers,
names, addresses, queue IDs, quoted parts, values. The example keeps the words and the punctuation; letters and digits of what was
replaced are hidden one by one, so that the form can still be seen. A word that stands alone in a text can't be told from a name: whoever
sends a sample should read it first.

Limits: the first 400 characters of a line count. 2,000 shapes are kept; when there are more, the rarer half is let go and only counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sentinel.cli.text import plain

_TEXT_LIMIT = 400
_TAG_LIMIT = 60
_SHAPES = 2000
_SHOWN = 20

_STAMP = r"(?:[A-Z][a-z]{2} [ \d]?\d \d\d:\d\d:\d\d|\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)"
_RFC5424 = re.compile(r"<\d{1,3}>1 \S+ \S+ (?P<tag>\S+) \S+ \S+ (?:-|\[.*?\]) +")
_SYSLOG = re.compile(r"(?:<\d{1,3}>)?" + _STAMP + r" (?:\S+ )?(?P<tag>[A-Za-z_/][^\s:\[\]<>=]*)(?:\[\d*\]:?|:) ")
_STAMPED = re.compile(r"\[?" + _STAMP + r"\]? *")

# What may be private or differs from line to line, and what stands for it. The first that fits counts.
_KINDS = (
    ("header", r"(?<=: header )\S.*|(?<=: body )\S.*|(?<=: content )\S.*|(?<=Subject: )\S.*", "<text>"),
    ("id", r"^(?!NOQUEUE)(?:[0-9A-F]{6,24}|(?=[^:]*\d)[0-9A-Za-z]{12,24})(?=: )", "<id>"),
    ("quoted", r'"[^"]*"?' + r"|(?<!\w)'[^']*'?", '"…"'),
    ("bracketed", r"<(?![= -])[^>]*>?", "<…>"),
    ("host", r"[\w.-]*\[[^\]\s]*\](?::\w+)?", "<host>"),
    ("value", r"(?<==)[^\s,;>][^\s,;]*(?: (?![\w-]+=)[^\s,;]+)*", "…"),
    ("address", r'[^\s<>"=,;:()\[\]]+@[^\s<>",;()\[\]]+', "<address>"),
    ("ipv6", r"(?:[0-9A-Fa-f]{0,4}:){2,}[0-9A-Fa-f.:]*", "<ip>"),
    ("number", r"(?<!\w)\d+(?:[.:/]\d+)*%?(?!\w)", "<n>"),
    ("name", r"[\w-]+(?:\.[\w-]+)+\.?", "<name>"),
    ("path", r"(?<!\w)/[^\s,;:)]+", "<path>"),
    ("who", r"(?<=user )\w\S*|(?<=login )(?!for )\w\S*|(?<=account )\w\S*|(?<=mailbox )\w\S*|(?<=for )\w\S*", "<word>"),
    ("token", r"[A-Za-z_]*\d\w*|[\w+/=-]{25,}", "<id>"),
    ("foreign", r"\w*[^\x00-\x7f]\w*", "<text>"),
)
_PRIVATE = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern, _ in _KINDS), re.DOTALL)
_INSTEAD = {name: instead for name, _, instead in _KINDS}


def shape(text: str) -> str:
    """A text with all that differs from line to line replaced; control characters visible."""
    return plain(_PRIVATE.sub(lambda found: _INSTEAD[found.lastgroup or ""], text))


def redacted(text: str) -> str:
    """The same, but letter for letter: ``x`` and ``9`` for what was there."""
    return plain(_PRIVATE.sub(lambda found: _hidden(found[0]), text))


def _hidden(text: str) -> str:
    return "".join("9" if c.isdigit() else "X" if c.isupper() else "x" if c.isalnum() else c for c in text)


def split(line: str) -> tuple[str, str, str]:
    """Who wrote a line (its tag, or what kind of header it has), the header without what is private in it, and the text."""
    found = _RFC5424.match(line) or _SYSLOG.match(line)
    if found:
        tag = re.sub(r"\d+", "9", found["tag"])[:_TAG_LIMIT]
        return tag, _header(line[: found.start("tag")]) + tag + _hidden(line[found.end("tag") : found.end()]), line[found.end() :]
    if line.startswith("{"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            text = next((record[key] for key in ("MESSAGE", "log", "message") if isinstance(record.get(key), str)), "")
            return "JSON", "", text
    found = _STAMPED.match(line)
    if found:
        return "no tag", re.sub(r"\d", "9", line[: found.end()]), line[found.end() :]
    return "no time", "", line


def _header(before_tag: str) -> str:
    """Priority and time with hidden digits, and a hidden host."""
    found = re.match(r"(?:<\d{1,3}>(?:1 )?)?" + _STAMP, before_tag)
    at = found.end() if found else 0
    return re.sub(r"\d", "9", before_tag[:at]) + _hidden(before_tag[at:])


class _Shape:
    __slots__ = ("example", "number")

    def __init__(self, example: str) -> None:
        self.example = example
        self.number = 0


class Unread:
    """Counts lines by shape. ``add`` for each line that could not be read, then ``report``."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, str], _Shape] = {}
        self.number = 0
        self._let_go = 0

    def __len__(self) -> int:
        """How many shapes are kept."""
        return len(self._shapes)

    def add(self, line: bytes) -> None:
        """A line that could not be read, without its newline."""
        self.number += 1
        whole = line[: 4 * _TEXT_LIMIT if line.startswith(b"{") else _TEXT_LIMIT].decode("utf-8", "replace")
        who, header, text = split(whole)
        text = text[:_TEXT_LIMIT]
        key = (plain(who), shape(text))
        known = self._shapes.get(key)
        if known is None:
            if len(self._shapes) >= _SHAPES:
                self._forget()
            known = self._shapes[key] = _Shape(plain(header) + redacted(text))
        known.number += 1

    def _forget(self) -> None:
        ranked = sorted(self._shapes.items(), key=lambda item: item[1].number, reverse=True)
        self._let_go += sum(one.number for _, one in ranked[_SHAPES // 2 :])
        self._shapes = dict(ranked[: _SHAPES // 2])

    def report(self) -> Iterator[str]:
        """Lines for a person, the most frequent shape first; none if all was read."""
        if not self.number:
            return
        ranked = sorted(self._shapes.items(), key=lambda item: (-item[1].number, item[0]))
        lines = "1 line" if self.number == 1 else f"{self.number:,} lines"
        shapes = "1 shape" if len(ranked) == 1 else f"{len(ranked):,} shapes"
        yield f"{lines} could not be read, {shapes}; examples are redacted, but read them before you send them to us:"
        for (who, text), one in ranked[:_SHOWN]:
            yield f"{one.number:9,}  {who}: {text}".rstrip()
            yield f"{'like':>9}  {one.example}".rstrip()
        rest = sum(one.number for _, one in ranked[_SHOWN:]) + self._let_go
        if rest:
            yield f"{rest:9,}  of other shapes"
