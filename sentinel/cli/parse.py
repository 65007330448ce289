"""``sentinel parse``: the event table as JSON lines, CSV or Parquet."""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

from sentinel.cli import EXIT_OK
from sentinel.cli.replay import progress
from sentinel.cli.text import as_json
from sentinel.cli.unread import Unread
from sentinel.detect.detection import format_time
from sentinel.detect.engine import REPLY_COLUMNS, Engine
from sentinel.errors import UserError
from sentinel.maillog.fields import COLUMNS
from sentinel.replaying import Merge
from sentinel.zones import zone


def main(arguments: argparse.Namespace) -> int:
    engine = Engine((), timezone=zone(arguments.timezone), year=arguments.year, keep_all=arguments.all, dialect=arguments.dialect)
    unread = Unread()
    with progress(arguments.files) as report:
        merge = Merge(engine, arguments.files, report)
        rows = _rows(merge, arguments.attributed, unread)
        columns: tuple[str, ...] = (*COLUMNS, *REPLY_COLUMNS) if arguments.attributed else COLUMNS
        columns = (*columns, "line") if arguments.all else columns
        # A log that is not there is told before an old output is overwritten.
        first = next(rows, None)
        rows = iter(()) if first is None else itertools.chain((first,), rows)
        if arguments.format == "parquet":
            _parquet(rows, columns, arguments.out)
        elif arguments.out:
            try:
                out = open(arguments.out, "w", encoding="utf-8", newline="")  # noqa: SIM115 - closed below, errors of opening apart
            except OSError as error:
                raise UserError(f"--out {arguments.out}: can't be written: {error.strerror}") from None
            with out:
                _write(rows, arguments.format, columns, out)
        else:
            _write(rows, arguments.format, columns, sys.stdout)
    sys.stdout.flush()
    sys.stderr.write("".join(f"sentinel: {line}\n" for line in (f"{merge.lines:,} lines read", *unread.report())))
    return EXIT_OK


def _rows(merge: Merge, attributed: bool, unread: Unread) -> Iterator[dict[str, Any]]:
    for batch, start, stop in merge:
        if start == 0:
            merge.collect()
        if attributed:
            merge.engine.process(batch, start, stop)
        for i in range(start, stop):
            row = batch.row(i)
            if "time" in row:
                row["time"] = format_time(row["time"])
            if row["kind"] == "unparsed":
                # Nothing of it has a field; the line itself is what one wants to see.
                row["line"] = batch.line(i).decode("utf-8", "replace")
                unread.add(batch.line(i))
            elif batch.unknown(i):
                unread.add(batch.line(i))
            if attributed and row.get("reply_code", 0) >= 400:
                row.update(merge.engine.explain(row))
            yield row


def _write(rows: Iterator[dict[str, Any]], form: str, columns: Sequence[str], out: IO[str]) -> None:
    if form == "csv":
        writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return
    for row in rows:
        out.write(as_json(row) + "\n")


def _parquet(rows: Iterator[dict[str, Any]], columns: Sequence[str], path: str | None) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("--format parquet needs pyarrow: pip install 'maillog-sentinel[parquet]'") from None
    import pandas

    frame = pandas.DataFrame.from_records(rows, columns=list(columns))
    frame["time"] = pandas.to_datetime(frame["time"], utc=True, format="ISO8601")
    if path is None and sys.stdout.isatty():
        raise UserError("--format parquet is not for a terminal; give --out FILE or redirect the output")
    try:
        frame.to_parquet(path if path is not None else sys.stdout.buffer, index=False)
    except OSError as error:
        raise UserError(f"--out {path}: can't be written: {error.strerror}") from None
