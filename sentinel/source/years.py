"""The year in which a finished log begins, where its stamps have none.

A log's modification time tells about its last line. How many times it runs over New Year before that is seen by looking at stamps all over
a plain file, and at all of an archive that is small; of a large archive or a pipe only the first line is known.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo

from sentinel.errors import UserError
from sentinel.maillog.clock import LogClock
from sentinel.source.archive import LogReader, read_log

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_STAMP = re.compile(
    rb"^\0*(?:<\d{1,3}>(?:1 )?)?(?:"
    rb"(?P<month>" + rb"|".join(_MONTHS) + rb") (?P<day>[ \d]\d|\d) (?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d) "
    rb"|(?P<iso>\d{4}-\d\d-\d\d)[T ]\d\d:)",
    re.MULTILINE,
)
_PIECE_BYTES = 4096
_LOOKS = 512
"""Places of a plain file that are looked at, at most."""
_SMALL_BYTES = 1 << 18
"""Of a file that is not larger, and of the beginning of an archive, every line is looked at."""
_SMALL_ARCHIVE_BYTES = 8 << 20
_CHUNK_BYTES = 1 << 17
_MOST_YEARS = 50
_DAY = 86_400
_HALF_A_YEAR_SECONDS = 183 * _DAY

Stamp = tuple[int, int, int, int]
"""Month, day, hour, seconds into the hour."""


def first_stamp(data: bytes) -> Stamp | datetime | None:
    """The first stamp of some lines; a date (UTC) where it has its year."""
    match = _STAMP.search(data)
    if match is None:
        return None
    try:
        if match["iso"]:
            return datetime.fromisoformat(match["iso"].decode()).replace(tzinfo=UTC)
        hour, minute, second = (int(match[name]) for name in ("hour", "minute", "second"))
        return (_MONTHS.index(match["month"]) + 1, int(match["day"]), hour, minute * 60 + second)
    except ValueError:
        return None


def year_of(path: str, zone: tzinfo, newest: int) -> int | None:
    """The latest year of a log's first line that does not put its last line more than a day after ``newest``; None if it can't be told."""
    stamps: list[Stamp] = []
    for data in _looks(path):
        stamp = first_stamp(data)
        if isinstance(stamp, datetime):
            # From here on the log says it by itself, and what is before is not later.
            newest = min(newest, int(stamp.timestamp()))
            break
        if stamp is None:
            continue
        if len(stamps) > 1 and stamp[:2] == stamps[-1][:2] == stamps[-2][:2]:
            # Of a day the first and the last are enough.
            stamps[-1] = stamp
        else:
            stamps.append(stamp)
    if not stamps:
        return None
    latest = datetime.fromtimestamp(newest, zone).year + 1
    for year in range(latest, latest - _MOST_YEARS, -1):
        last = _last(stamps, LogClock(zone, year))
        if last is not None and last <= newest + _DAY:
            return year
    return None


def years_of(paths: Sequence[str], year: int) -> list[int]:
    """The year of each log's first line, when ``year`` is that of the log which comes first.

    Logs that begin within half a year of each other, New Year between them, are of two years.
    """
    begins = [_place(path) for path in paths] if len(paths) > 1 else []
    known = sorted({place for place in begins if place is not None})
    gaps = [(after - before, before) for before, after in itertools.pairwise(known)]
    gap, before = max(gaps, default=(0, 0))
    if gap <= _HALF_A_YEAR_SECONDS:
        return [year] * len(paths)
    return [year + (place is not None and place <= before) for place in begins]


def _last(stamps: Iterable[Stamp], clock: LogClock) -> int | None:
    """Seconds of the last stamp, read with a clock; None if a stamp does not exist in its year."""
    last: int | None = None
    for month, day, hour, within in stamps:
        found = clock.hour(month, day, hour, within, last)
        if found is None:
            continue
        last = found[0] + within
        if (month, day) == (2, 29) and datetime.fromtimestamp(last, clock.zone).month != 2:
            return None
    return last


def _place(path: str) -> int | None:
    """How many seconds into a leap year a log begins."""
    if not os.path.isfile(path):
        return None
    try:
        data = next(iter(read_log(path, _CHUNK_BYTES))).data
        stamp = first_stamp(data)
        if stamp is None or isinstance(stamp, datetime):
            return None
        month, day, hour, within = stamp
        since = datetime(2000, month, day, hour) - datetime(2000, 1, 1) + timedelta(seconds=within)
    except (StopIteration, UserError, ValueError):
        return None
    return since // timedelta(seconds=1)


def _looks(path: str) -> Iterator[bytes]:
    """Pieces of a log, in order, each beginning at a line. What can't be read is told when it is read in earnest."""
    if not os.path.isfile(path):
        return
    try:
        reader = read_log(path, _CHUNK_BYTES)
        if reader.plain:
            yield from _all_over(reader)
        elif (reader.size or 0) <= _SMALL_ARCHIVE_BYTES:
            for chunk in reader:
                if chunk.start < _SMALL_BYTES:
                    yield from chunk.data.splitlines()
                    continue
                for at in range(0, len(chunk.data), _PIECE_BYTES):
                    start = chunk.data.rfind(b"\n", 0, at) + 1
                    yield chunk.data[start : start + _PIECE_BYTES]
                yield _last_line(chunk.data)
    except UserError:
        return


def _all_over(reader: LogReader) -> Iterator[bytes]:
    size = reader.size or 0
    if size <= _SMALL_BYTES:
        yield from reader.peek(size, 0).splitlines()
        return
    step = max(_PIECE_BYTES, size // _LOOKS)
    for at in range(0, size, step):
        piece = reader.peek(_PIECE_BYTES, at)
        yield piece if at == 0 else piece[piece.find(b"\n") + 1 :]
    yield _last_line(reader.peek(_PIECE_BYTES, max(0, size - _PIECE_BYTES)))


def _last_line(data: bytes) -> bytes:
    return data[data.rfind(b"\n", 0, len(data) - 1) + 1 :]
