"""Small things that many tests need: lines in, rows or detections out."""

import lzma
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sentinel.detect.detection import Detection
from sentinel.detect.engine import Engine
from sentinel.detect.replies import load_replies
from sentinel.detect.rules import RuleSet, load_rules

STAMP = b"Oct 24 06:18:01 mx "
"""The header of a line up to its tag, for tests in which time and host do not matter."""

_KNOWLEDGE: dict[str, Any] = {}


def make_engine(rules: Any = None, **options: Any) -> Engine:
    """An engine; what it knows of remote replies is read once for all tests."""
    if not _KNOWLEDGE:
        _KNOWLEDGE.update(replies=load_replies())
    return Engine(rules, **{**_KNOWLEDGE, **options})


def rows(data: bytes, **options: Any) -> list[dict[str, Any]]:
    """The attributed rows of a log, with those that mean nothing."""
    engine = make_engine((), year=2026, keep_all=True, **options)
    first = engine.feed(data)
    out = [] if first.events is None else [first.events.row(i) for i in range(len(first.events))]
    last = engine.finish()
    return out if last.events is None else out + [last.events.row(i) for i in range(len(last.events))]


def row(text: bytes | str, tag: str = "postfix/smtpd[4202]") -> dict[str, Any]:
    """The one row of a message under a tag, without time, host, pid and syslog_name."""
    text = text.encode() if isinstance(text, str) else text
    (only,) = rows(STAMP + tag.encode() + b": " + text)
    return {name: value for name, value in only.items() if name not in ("time", "host", "pid", "syslog_name")}


def rules_from(folder: Path, text: str, name: str = "rules.yaml") -> RuleSet:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_rules(path)


def detections(engine: Engine, pieces: Iterable[bytes]) -> list[Detection]:
    found = [detection for piece in pieces for detection in engine.feed(piece).detections]
    return found + engine.finish().detections


def open_recording(path: Path) -> bytes:
    with lzma.open(path) as file:
        return file.read()


def pieces_of(data: bytes, size: int = 1 << 16) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]
