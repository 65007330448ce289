"""JSON lines as syslog lines: what ``journalctl -o json`` prints, and what docker's json-file driver keeps.

Each line of JSON becomes one line of text, so that lines are counted and placed as in the file. A journal entry becomes
``{UTC} {_HOSTNAME} {SYSLOG_IDENTIFIER}[{pid}]: {MESSAGE}``; a line that docker wrapped becomes ``{time} {log}``, where the log has its own
header. Control characters become ``?``, as Postfix itself writes them: a newline in a message begins no line. What is neither stays as it
is.

Docker cuts what a container writes into pieces of 16 KiB; a piece without a newline waits for the next one of its stream.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

_MAX_UNFINISHED = 1 << 16
"""Characters of a line in pieces that are kept. What goes beyond belongs to a line that is too long in any case."""
_STREAMS = ("stdout", "stderr")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROSECOND = 7_258_118_400_000_000
"""2200: no log is from then."""
_CONTROL = {i: "?" for i in (*range(32), 127) if i != 9}
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_PRIORITY = re.compile(r"<\d{1,3}>(?P<version>1 )?", re.ASCII)
_TAG = re.compile(r"[^\s\[\]:]{1,128}")
_HOST = re.compile(r"[^\s\[\]]{1,255}(?<!:)")
_PID = re.compile(r"\d{1,18}", re.ASCII)


def translate(data: bytes, unfinished: dict[str, str]) -> tuple[bytes, list[tuple[int, int, bool]]]:
    """Lines of ``data`` with JSON made into text, and where they come from: (start in the text, offset in ``data``, the same bytes).

    ``unfinished`` is what docker's streams have begun; it is kept from one call to the next.
    """
    out: list[bytes] = []
    places: list[tuple[int, int, bool]] = []
    at = size = 0
    verbatim = False
    for line in data.split(b"\n"):
        text = _text(line.lstrip(b"\0"), unfinished)
        if text is None:
            if not verbatim:
                places.append((size, at, True))
            verbatim, text = True, line
        else:
            places.append((size, at, False))
            verbatim = False
        out.append(text)
        at += len(line) + 1
        size += len(text) + 1
    return b"\n".join(out), places


def _text(line: bytes, unfinished: dict[str, str]) -> bytes | None:
    """The syslog line that a line of JSON stands for, without newline; None if it stands for none."""
    if not line.startswith(b"{"):
        return None
    try:
        entry = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    text = None
    if isinstance(entry, dict):
        if "MESSAGE" in entry:
            text = _journal(entry)
        elif isinstance(entry.get("log"), str):
            text = _docker(entry, unfinished)
    if text is None:
        return None
    text = text.translate(_CONTROL)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _first(value: Any) -> Any:
    """The journal gives a field that an entry has twice as an array."""
    return value[0] if isinstance(value, list) and value else value


def _journal(entry: dict[str, Any]) -> str | None:
    tag, host = _first(entry.get("SYSLOG_IDENTIFIER")), _first(entry.get("_HOSTNAME"))
    time = _microseconds(entry.get("_SOURCE_REALTIME_TIMESTAMP"))
    if time is None:
        time = _microseconds(entry.get("__REALTIME_TIMESTAMP"))
    message = _message(entry["MESSAGE"])
    # Whoever writes to the journal chooses the tag; it must not hold a header.
    if time is None or message is None or not isinstance(tag, str) or not _TAG.fullmatch(tag):
        return None
    pid = next((pid for name in ("SYSLOG_PID", "_PID") if isinstance(pid := _first(entry.get(name)), str) and _PID.fullmatch(pid)), None)
    stamp = (_EPOCH + timedelta(microseconds=time)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    known = f"{host} " if isinstance(host, str) and _HOST.fullmatch(host) else ""
    return f"{stamp} {known}{tag}{'' if pid is None else f'[{pid}]'}: {message}"


def _microseconds(value: Any) -> int | None:
    value = _first(value)
    if isinstance(value, str) and _PID.fullmatch(value) and int(value) < _LAST_MICROSECOND:
        return int(value)
    return None


def _message(value: Any) -> str | None:
    """The text; the journal gives what is not UTF-8, or has control characters, as an array of bytes."""
    if isinstance(value, list) and value and not isinstance(value[0], int):
        value = value[0]
    if isinstance(value, list):
        try:
            value = bytes(value).decode("utf-8", "surrogateescape")
        except (TypeError, ValueError):
            return None
    return value.rstrip("\r\n") if isinstance(value, str) else None


def _docker(entry: dict[str, Any], unfinished: dict[str, str]) -> str:
    stream = entry.get("stream")
    stream = stream if stream in _STREAMS else ""
    text: str = unfinished.pop(stream, "") + entry["log"]
    if not text.endswith("\n"):
        unfinished[stream] = text[:_MAX_UNFINISHED]
        return ""
    text = text.rstrip("\r\n")
    time = entry.get("time")
    priority = _PRIORITY.match(text)
    if not isinstance(time, str) or not _STAMP.fullmatch(time) or (priority and priority["version"]):
        return text
    return f"{time} {text[priority.end() :] if priority else text}"
