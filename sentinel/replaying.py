"""Finished logs through the same core as the live daemon.

Several files are put in order of event time: a file is opened to its first event, and where files overlap their rows are merged. A file's
modification time tells the year of stamps that have none (a log does not end after it was last written), unless a year is given.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sentinel.detect.detection import Detection
from sentinel.detect.engine import Engine
from sentinel.errors import UserError
from sentinel.source.archive import LogReader, read_log
from sentinel.source.years import year_of, years_of
from sentinel.zones import local_zone, zone

if TYPE_CHECKING:
    import pandas

    from sentinel.detect.rules import Rule, RuleSet
    from sentinel.maillog._scan import EventBatch

CHUNK_BYTES = 1 << 17
"""Small enough that a chunk and its rows stay in a processor's cache, large enough that what is done once a chunk does not show."""
_NEVER = 1 << 62
_DAY_SECONDS = 86_400


def newest_of(path: str) -> int:
    """Seconds since the epoch that no line of a log lies after: when it was last written; now for a stream."""
    if path == "-":
        return int(time.time())
    try:
        return int(os.stat(path).st_mtime)
    except OSError:
        return int(time.time())


class _Cursor:
    """Where the merge stands in one file. ``number``: of the file, as given; rows of one time come in this order."""

    __slots__ = ("at", "batch", "number", "reader")

    def __init__(self, number: int, reader: LogReader, batch: EventBatch) -> None:
        self.number, self.reader, self.batch = number, reader, batch
        self.at = 0

    def place(self) -> tuple[int, int]:
        return self.time(), self.number

    def time(self) -> int:
        """Of the next row; a row without a time goes with the one before it."""
        t: int | None = self.batch.time(self.at)
        return -_NEVER if t is None else t

    def run(self, other: tuple[int, int]) -> int:
        """End of the rows from here that come before another file's place; at least one."""
        i = self.at + 1
        while i < len(self.batch):
            t = self.batch.time(i)
            if t is not None and (t, self.number) > other:
                break
            i += 1
        return i


class Merge:
    """Rows of several logs in order of event time: iterates over (batch, start, stop). ``lines`` counts what was read."""

    def __init__(self, engine: Engine, paths: Iterable[str | Path], progress: Callable[[int], None] | None = None) -> None:
        self.engine = engine
        self.lines = 0
        self.overlong = 0
        self.ahead: list[str] = []
        """Logs whose dates run past the time at which they were written: they begin in an earlier year than was inferred."""
        self.judged = False
        """All files could be opened, and what they hold has begun to come."""
        self._paths = [str(path) for path in paths]
        self._progress = progress
        self._failed: UserError | None = None
        self._live: list[EventBatch] = []

    def __iter__(self) -> Iterator[tuple[EventBatch, int, int]]:
        cursors = []
        # All are opened before anything is judged: a name that is mistyped is told at once.
        readers = [read_log(path, CHUNK_BYTES) for path in self._paths]
        self._date()
        for number, reader in enumerate(readers):
            cursor = self._advance(number, reader)
            if cursor is not None:
                cursors.append(cursor)
        self.judged = True
        while len(cursors) > 1:
            cursors.sort(key=_Cursor.place)
            first = cursors[0]
            stop = first.run(cursors[1].place())
            self._live = [cursor.batch for cursor in cursors]
            yield first.batch, first.at, stop
            first.at = stop
            if stop == len(first.batch):
                following = self._advance(first.number, first.reader)
                cursors[:1] = [following] if following else []
        last = cursors[0] if cursors else None
        while last is not None:
            self._live = [last.batch]
            if last.at < len(last.batch):
                yield last.batch, last.at, len(last.batch)
            last = self._advance(last.number, last.reader)
        if self._failed is not None:
            raise self._failed

    def _date(self) -> None:
        """Tells the engine in which year each log begins. A year that is given depends on no file's date."""
        given = self.engine.year
        if given is not None:
            for path, year in zip(self._paths, years_of(self._paths, given), strict=True):
                self.engine.begin(path, year=year)
            return
        for path in self._paths:
            newest = newest_of(path)
            limit = newest if os.path.isfile(path) else None
            self.engine.begin(path, newest, year=year_of(path, self.engine.timezone, newest), limit=limit)

    def collect(self) -> None:
        """Lets the engine forget what none of the batches under way needs."""
        self.engine.collect(self._live)

    def _advance(self, number: int, reader: LogReader) -> _Cursor | None:
        """The next batch that has rows. Damage ends one file and is told after the others are done."""
        try:
            for chunk in reader:
                batch = self.engine.scan(chunk)
                self.lines += batch.lines
                if self._progress is not None:
                    self._progress(reader.bytes_read)
                if len(batch):
                    return _Cursor(number, reader, batch)
        except UserError as error:
            self._failed = self._failed or error
        self.overlong += reader.overlong
        last = self.engine.last_events().get(reader.path)
        if self.engine.year is None and last is not None and last > newest_of(reader.path) + _DAY_SECONDS:
            self.ahead.append(reader.path)
        return None


def detections(merge: Merge) -> Iterator[Detection]:
    """What the engine's rules find, in order of event time."""
    for batch, start, stop in merge:
        if start == 0:
            merge.collect()
        yield from merge.engine.process(batch, start, stop).detections


def replay(paths: str | Path | Iterable[str | Path], rules: RuleSet | Iterable[Rule] | str | Path | None = None) -> pandas.DataFrame:
    """Detections of finished logs as a DataFrame, one row each, columns as CONTRACT's detection fields.

    ``rules``: a rule set, the path of a rules file, or None for the product's own. UserError for what can't be read.
    """
    import pandas

    from sentinel.detect.rules import load_rules

    if rules is None or isinstance(rules, str | Path):
        rules = load_rules(rules)
    engine = Engine(rules, timezone=local_zone())
    found = [detection.to_dict() for detection in detections(Merge(engine, _listed(paths)))]
    columns = ["id", "rule", "severity", "score", "time", "subject", "window", "measure", "value", "threshold", "evidence", "related"]
    frame = pandas.DataFrame(found, columns=[*columns, "description", "advice"])
    frame["time"] = pandas.to_datetime(frame["time"], utc=True, format="ISO8601")
    return frame


def _listed(paths: str | Path | Iterable[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def read_maillog(
    paths: str | Path | Iterable[str | Path],
    *,
    attributed: bool = True,
    year: int | None = None,
    timezone: str | None = None,
) -> pandas.DataFrame:
    """The event table of finished logs as a DataFrame: one row a meaningful line, columns as CONTRACT's event fields.

    ``time`` is UTC; absent is null. ``attributed``: with the origin's account, client and sender on every row of a message. ``year``
    and ``timezone`` are for stamps without them; left out, the files' modification times and this machine's zone tell. UserError for
    what can't be read.
    """
    import pandas

    from sentinel.maillog.fields import COLUMNS

    engine = Engine((), timezone=zone(timezone), year=year)
    merge = Merge(engine, _listed(paths))
    columns: dict[str, list[object]] = {name: [] for name in COLUMNS}
    for batch, start, stop in merge:
        if start == 0:
            merge.collect()
        if attributed:
            engine.process(batch, start, stop)
        for name, values in columns.items():
            values.extend(batch.column(name, start, stop))
    frame = pandas.DataFrame(columns)
    frame["time"] = pandas.to_datetime(frame["time"], unit="us", utc=True)
    for name in ("pid", "client_port", "relay_port", "reply_code", "nrcpt", "size", "uid"):
        frame[name] = frame[name].astype("Int64")
    frame["delay"] = frame["delay"].astype("float64")
    return frame
