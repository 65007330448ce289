"""What must hold for any bytes whatever: the targets of the fuzzer.

``scan_holds`` is about the scanner and the table, ``engine_holds`` about what follows;
``oracle_holds`` compares the scanner with plain Python. Cuts and restores are drawn from a checksum of the
bytes, so that the same bytes always go the same way.
"""

import ctypes
import json
import math
import random
import re
import zlib
from collections.abc import Iterator
from functools import cache
from typing import Any

from helpers import make_engine
from oracles import scan as oracle

from sentinel.detect.rules import RuleSet, load_rules
from sentinel.maillog._scan import EventBatch, Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.maillog.fields import COLUMNS, KINDS, NUMBER_FIELDS, TEXT_FIELDS

YEAR = 2026
_SECONDS = (-30_000_000_000, 10_000_000_000)
"""Years 1020 to 2286: what a stamp or an inferred year can come to, and far from overflow."""
_ORACLE_LENGTH = 3000
_FAR_YEAR = re.compile(rb"\0*(<\d+>1? ?)?(?!20)\d{4}-")
_A_WORD_OF_OURS = 65535
"""An action that stands nowhere in the line."""
_TEXTS = tuple(name for name in COLUMNS if name in TEXT_FIELDS)
_POISON = getattr(ctypes.CDLL(None), "__asan_poison_memory_region", None)
_BYTES_HEAD = bytes.__basicsize__ - 1


def guarded(data: bytes) -> bytes:
    """The same bytes where, under AddressSanitizer, not even the zero that ends them may be read."""
    if _POISON is None or len(data) < 2:
        return data
    copy = bytes(bytearray(data))
    _POISON(ctypes.c_void_p(id(copy) + _BYTES_HEAD + len(copy)), ctypes.c_size_t(1))
    return copy


def _chunk(data: bytes, start: int = 0) -> Chunk:
    return Chunk(guarded(data), "", "", start, start + len(data))


def _scanner(keep_all: bool = True, dialect: str = "auto") -> Scanner:
    return Scanner(LogClock(year=YEAR), keep_all=keep_all, dialect=dialect)


def _pieces(rng: random.Random, data: bytes, *, at_newlines: bool) -> Iterator[bytes]:
    """The bytes cut at a few places, now and then at every one."""
    places = [i + 1 for i, byte in enumerate(data) if byte == 10] if at_newlines else list(range(1, min(len(data), 5000)))
    cuts = sorted(rng.sample(places, min(len(places), rng.choice((1, 2, 5, 40)))))
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if start < stop:
            yield data[start:stop]


def _rows(batch: EventBatch) -> list[dict[str, Any]]:
    return [batch.row(i) for i in range(len(batch))]


def spans_lie_inside(batch: EventBatch) -> None:
    """Every text of every row lies between its line's header and its line's end."""
    memory = memoryview(batch)  # type: ignore[arg-type]
    dtype = batch.array().dtype
    assert dtype.fields is not None
    size = dtype.itemsize
    assert len(memory) == size * len(batch)
    first = (dtype.fields["service"][1] + 2) // 2 * 2
    for i, length in enumerate(batch.array()["length"].tolist()):
        spans = memory[i * size + first : i * size + first + 4 * len(TEXT_FIELDS)].cast("H").tolist()
        for name, at, n in zip(TEXT_FIELDS, spans[::2], spans[1::2], strict=True):
            if (name, at) == ("action", _A_WORD_OF_OURS):
                continue
            assert at + n <= length, f"{name} of row {i} ends at {at + n} of {length}"
            assert at or not n, f"{name} of row {i} is absent and has a length"


def table_holds(batch: EventBatch, data: bytes, start: int) -> list[dict[str, Any]]:
    """Rows, columns, single values and numpy's view say the same; all of it is sound. Gives the rows."""
    n = len(batch)
    rows = _rows(batch)
    # Another mail server's line may be more than one row.
    assert len({batch.offset(i) for i in range(n)}) <= batch.lines
    columns = {name: batch.column(name) for name in COLUMNS}
    end = start
    for i, row in enumerate(rows):
        json.dumps(row, allow_nan=False)
        assert set(row) <= set(COLUMNS)
        for name in COLUMNS:
            assert row.get(name) == columns[name][i], name
        line, offset = batch.line(i), batch.offset(i)
        assert end <= offset or b" repeated " in data or (i and offset == batch.offset(i - 1))
        if offset < start or data[offset - start : offset - start + 1] == b"{":
            # A repetition of a line before the chunk; JSON, where the row's line is what it was turned into.
            end = max(start, offset)
        else:
            end = offset + len(line)
            assert end <= start + len(data)
            assert data[offset - start : end - start] == line
            assert end == start + len(data) or len(line) == 65535 or data[end - start :][:1] in (b"\n", b"\r", b"\0")
        assert b"\n" not in line
        assert row["kind"] == batch.kind(i)
        assert row["kind"] in KINDS
        assert row.get("service") == batch.service(i)
        assert row.get("time") == batch.time(i)
        if "time" in row:
            assert _SECONDS[0] < row["time"] // 1_000_000 < _SECONDS[1]
        for name in _TEXTS:
            assert row.get(name) == batch.text(i, name)
        for name in (*NUMBER_FIELDS, "delay"):
            value = batch.number(i, name)
            assert row.get(name) == value
            assert value is None or (0 <= value < 10**18 and math.isfinite(value)), f"{name} is {value}"
        assert row.get("reply_code", 0) <= 999
    half = n // 2
    for name in COLUMNS:
        assert batch.column(name, half) + batch.column(name, 0, half) == columns[name][half:] + columns[name][:half]
    if n:
        array = batch.array()
        assert [KINDS[k] for k in array["kind"].tolist()] == columns["kind"]
        spans_lie_inside(batch)
    return rows


def _without_time(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "time"}


def scan_holds(data: bytes) -> None:
    rng = random.Random(zlib.crc32(data))
    start = rng.choice((0, 0, 1, 1 << 31, 1 << 40))
    scanner = _scanner()
    batch = scanner.scan(_chunk(data, start))
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    assert batch.lines == len(lines)
    assert sum(scanner.lines.values()) == len(lines)
    rows = table_holds(batch, data, start)

    # Only lines that mean something.
    few = _scanner(keep_all=False)
    assert _rows(few.scan(_chunk(data, start))) == [row for row in rows if row["kind"] not in ("unparsed", "other")]
    assert few.lines == scanner.lines
    assert few.snapshot() == scanner.snapshot()

    # In pieces, with a fresh scanner now and then that goes on from the state of the last.
    going_on = _scanner()
    together: list[dict[str, Any]] = []
    at = start
    for piece in _pieces(rng, data, at_newlines=True):
        part = going_on.scan(_chunk(piece, at))
        together += table_holds(part, piece, at)
        at += len(piece)
        if rng.random() < 0.5:
            state = json.loads(json.dumps(going_on.snapshot()))
            going_on = _scanner()
            going_on.restore(state)
    assert together == rows
    assert going_on.lines == scanner.lines

    # No line means anything else for those around it, but for the year.
    if b" repeated " in data:
        return
    alone: list[dict[str, Any]] = []
    for line in lines:
        alone += _rows(_scanner().scan(_chunk(line)))
    assert list(map(_without_time, alone)) == list(map(_without_time, rows))


@cache
def _rules() -> RuleSet:
    return load_rules()


def engine_holds(data: bytes) -> None:
    rng = random.Random(zlib.crc32(data))
    rules = _rules()
    limit = rng.choice((2, 3, 1_000_000))

    whole = make_engine(rules, year=YEAR, keep_all=True, max_open_messages=limit)
    step = whole.feed(Chunk(guarded(data), "", "", 0, len(data)))
    assert step.events is not None
    rows = table_holds(step.events, data, 0)
    counters = whole.counters()
    assert sum(counters["lines"][""].values()) == step.lines
    assert sum(counters["events"].values()) <= step.lines or b" repeated " in data
    assert 0 <= counters["open_messages"] <= limit
    for name, value in counters["evictions"].items():
        assert value >= 0, name
    for detection in step.detections:
        json.dumps(detection.to_dict(), allow_nan=False)

    going_on = make_engine(rules, year=YEAR, keep_all=True, max_open_messages=limit)
    together: list[dict[str, Any]] = []
    found = []
    pieces = [*_pieces(rng, data, at_newlines=False), None]
    anew = rng.choices(range(len(pieces)), k=rng.randint(0, 2))
    for i, piece in enumerate(pieces):
        part = going_on.finish() if piece is None else going_on.feed(guarded(piece))
        found += part.detections
        if part.events is not None:
            together += _rows(part.events)
        if i in anew:
            state, before = going_on.snapshot(), going_on.counters()
            going_on = make_engine(rules, year=YEAR, keep_all=True, max_open_messages=limit)
            assert going_on.restore(state)
            assert going_on.counters() == before
    assert found == step.detections
    if max(map(len, data.split(b"\n"))) <= 65535:
        assert together == rows
    assert going_on.watermark == whole.watermark


def oracle_holds(data: bytes) -> None:
    """Every field of every line as the plain regular expressions of the oracle see it."""
    for line in data.split(b"\n"):
        # The oracle's calendar has no year 0, the scanner's none far from ours; regular expressions take their time; JSON is translated.
        if len(line) > _ORACLE_LENGTH or _FAR_YEAR.match(line) or line.lstrip(b"\0").startswith(b"{"):
            continue
        rows = _rows(_scanner(dialect="postfix").scan(_chunk(line)))
        expected_rows = oracle.read(line, YEAR)
        assert len(rows) == len(expected_rows)
        for row, expected in zip(rows, expected_rows, strict=True):
            if expected["kind"] == "unparsed":
                assert row["kind"] == "unparsed"
                continue
            if "delay" in row and "delay" in expected:
                assert math.isclose(row["delay"], expected.pop("delay"), rel_tol=1e-12)
                del row["delay"]
            differing = {
                name: (row.get(name), expected.get(name)) for name in row.keys() | expected.keys() if row.get(name) != expected.get(name)
            }
            assert not differing


TARGETS = {"scan": scan_holds, "engine": engine_holds, "oracle": oracle_holds}
