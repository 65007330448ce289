"""The year in which a finished log begins: its file's date, its last line, and the logs beside it."""

import bz2
import gzip
import lzma
import os
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from sentinel.source import years
from sentinel.source.years import first_stamp, year_of, years_of

TAG = " mx postfix/qmgr[1]: 4A00000001: removed\n"


def at(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())


def write(path: Path, *stamps: str, pack=bytes) -> str:
    path.write_bytes(pack("".join(stamp + TAG for stamp in stamps).encode()))
    return str(path)


def every_third_day(first_month: int, months: int) -> list[str]:
    names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    return [f"{names[(first_month - 1 + n) % 12]} {day:2} 00:00:01" for n in range(months) for day in range(1, 28, 3)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_a_log_of_a_whole_year_that_was_rotated_on_new_year_s_day(tmp_path, pack):
    path = write(tmp_path / "mail.log.1", *every_third_day(1, 12), "Dec 31 23:59:59", "Jan  1 00:00:00", pack=pack)
    assert year_of(path, UTC, at(2026, 1, 1)) == 2025
    assert year_of(path, UTC, at(2026, 1, 1, 6)) == 2025


@pytest.mark.parametrize("months", [1, 11, 13, 14, 25, 40])
@pytest.mark.parametrize("large", [False, True])
def test_a_log_that_was_never_rotated(tmp_path, months, large, monkeypatch):
    """Large ones are looked at here and there."""
    if large:
        monkeypatch.setattr(years, "_SMALL_BYTES", 0)
    stamps = [stamp for stamp in every_third_day(8, months) for _ in range(100 if large else 1)]
    end = divmod(8 - 1 + months - 1, 12)
    for pack in (bytes, gzip.compress):
        path = write(tmp_path / "mail.log", *stamps, pack=pack)
        assert year_of(path, UTC, at(2020 + end[0], end[1] + 1, 25, 12)) == 2020


def test_a_leap_day_tells_the_year(tmp_path):
    """The file was copied in 2026."""
    assert year_of(write(tmp_path / "a", "Feb 27 00:00:01", "Feb 29 00:00:01", "Mar  1 00:00:01"), UTC, at(2026, 11, 22)) == 2024
    assert year_of(write(tmp_path / "b", "Feb 29 00:00:01"), UTC, at(2023, 11, 22)) == 2020
    assert year_of(write(tmp_path / "c", "Dec 27 00:00:01", "Feb 29 00:00:01"), UTC, at(2026, 11, 22)) == 2023


def test_a_log_that_goes_over_to_stamps_with_a_year(tmp_path):
    path = write(tmp_path / "mail.log", "Nov  1 00:00:01", "Dec 31 00:00:01", "2022-01-01T00:00:01Z", "2022-03-01T00:00:01Z")
    assert year_of(path, UTC, at(2026, 11, 22)) == 2021
    path = write(tmp_path / "mail.log", "2022-01-01T00:00:01Z", "Nov  1 00:00:01")
    assert year_of(path, UTC, at(2026, 11, 22)) is None


def test_a_time_of_a_zone(tmp_path):
    """Half past two of New Year's Day in Kolkata, written there an hour later: in UTC still of December."""
    path = write(tmp_path / "mail.log", "Jan  1 02:30:00")
    assert year_of(path, ZoneInfo("Asia/Kolkata"), at(2025, 12, 31, 22)) == 2026


def test_what_tells_nothing(tmp_path):
    assert year_of(write(tmp_path / "empty"), UTC, at(2026, 1, 1)) is None
    assert year_of(str(tmp_path / "gone"), UTC, at(2026, 1, 1)) is None
    assert year_of("-", UTC, at(2026, 1, 1)) is None
    (tmp_path / "junk").write_bytes(os.urandom(1 << 20))
    assert year_of(str(tmp_path / "junk"), UTC, at(2026, 1, 1)) is None
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(1 << 20))[:-50_000])
    assert year_of(str(tmp_path / "cut.gz"), UTC, at(2026, 1, 1)) is None


def test_a_pipe_is_not_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert year_of(str(tmp_path / "pipe"), UTC, at(2026, 1, 1)) is None
    assert years_of([str(tmp_path / "pipe"), str(tmp_path / "pipe")], 2026) == [2026, 2026]


def test_first_stamp():
    assert first_stamp(b"junk\n\0\0<22>Oct  4 16:36:01 mx x") == (10, 4, 16, 2161)
    assert first_stamp(b"Oct 24 16:36:01 mx x\n2026-10-24T00:00:00Z") == (10, 24, 16, 2161)
    assert first_stamp(b"<22>1 2026-10-24T00:00:00Z mx x\nOct 24 16:36:01 mx x") == datetime(2026, 10, 24, tzinfo=UTC)
    assert first_stamp(b"2026-02-30T00:00:00Z mx x") is None
    assert first_stamp(b"xOct 24 16:36:01 mx x") is None


@pytest.mark.parametrize(
    ("begins", "expected"),
    [
        (["Jan  4", "Dec 21", "Dec 28", "Dec 14"], [2026, 2025, 2025, 2025]),
        (["Oct 24", "Oct 23"], [2025, 2025]),
        (["Jan  1", "Feb  1", "May  1", "Aug  1", "Nov  1", "Dec 31"], [2025] * 6),
        (["Sep  1", "Mar  3"], [2025, 2025]),
        (["Sep  3", "Mar  1"], [2025, 2026]),
        (["Jan  1"], [2025]),
        (["Feb 29", "Dec 31"], [2026, 2025]),
        ([], []),
    ],
)
def test_years_of_several_logs(tmp_path, begins, expected):
    """However they are named and given, and whatever dates the files have."""
    paths = [write(tmp_path / f"{n}.log", f"{day} 00:00:01") for n, day in enumerate(begins)]
    assert years_of(paths, 2025) == expected


def test_years_of_logs_without_a_first_stamp(tmp_path):
    paths = [
        write(tmp_path / "a"),
        write(tmp_path / "b", "Jan  4 00:00:01"),
        write(tmp_path / "c", "Dec  4 00:00:01", pack=gzip.compress),
        "-",
    ]
    assert years_of([*paths, str(tmp_path / "gone")], 2025) == [2025, 2026, 2025, 2025, 2025]
