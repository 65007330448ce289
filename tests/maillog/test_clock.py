"""Year and zone of stamps that write neither."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from helpers import make_engine, rows

from sentinel.maillog.clock import LogClock

BERLIN = ZoneInfo("Europe/Berlin")


def seconds(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())


def times(*stamps: str, **options) -> list[datetime | None]:
    """The moments of log lines with these stamps, in UTC."""
    engine = make_engine((), keep_all=True, **options)
    step = engine.feed("".join(f"{stamp} mx postfix/qmgr[1]: 4A00000001: removed\n" for stamp in stamps).encode())
    found = [step.events.time(i) for i in range(len(step.events))]
    return [None if one is None else datetime.fromtimestamp(one / 1e6, UTC) for one in found]


def test_a_given_year():
    assert times("Oct 22 16:36:01", year=2012) == [datetime(2012, 10, 22, 16, 36, 1, tzinfo=UTC)]


def test_over_new_year():
    observed = times("Dec 31 23:59:59", "Jan  1 00:00:01", "Jan  2 00:00:00", year=2025)
    assert [one.year for one in observed] == [2025, 2026, 2026]


def test_late_line_of_december_in_january():
    observed = times("Jan  1 00:00:01", "Dec 31 23:59:58", "Jan  1 00:00:02", year=2026)
    assert [one.year for one in observed] == [2026, 2025, 2026]


def test_a_log_of_three_years():
    stamps = [f"{month} 15 12:00:00" for _ in range(3) for month in ("Feb", "Jun", "Oct")]
    assert [one.year for one in times(*stamps, year=2024)] == [2024] * 3 + [2025] * 3 + [2026] * 3


def test_leap_day():
    assert times("Feb 28 23:59:59", "Feb 29 12:00:00", "Mar  1 00:00:00", year=2024)[1] == datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_leap_day_that_the_year_does_not_have():
    assert times("Feb 28 23:59:59", "Feb 29 12:00:00", year=2026)[1] is None


def test_no_year_at_all_is_a_leap_year():
    assert times("Feb 29 12:00:00")[0].timetuple()[1:4] == (2, 29, 12)


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        ((2026, 11, 1, 0, 0), 2026),  # long past
        ((2026, 10, 22, 16, 0), 2026),  # the line is half an hour ahead of the file's date
        ((2026, 10, 21, 18, 0), 2026),  # still less than a day
        ((2026, 10, 20, 0, 0), 2025),  # it would lie in the future
        ((2026, 1, 1, 0, 0), 2025),
    ],
)
def test_newest(newest, expected):
    assert times("Oct 22 16:36:01", newest=seconds(*newest))[0].year == expected


def test_newest_and_a_leap_day():
    assert times("Feb 29 12:00:00", newest=seconds(2026, 6, 1))[0] == datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_new_years_eve_read_on_new_years_day():
    assert times("Dec 31 23:00:00", newest=seconds(2026, 1, 1))[0].year == 2025


def test_zone():
    assert times("Jul  1 12:00:00", "Dec  1 12:00:00", year=2026, timezone=BERLIN) == [
        datetime(2026, 7, 1, 10, tzinfo=UTC),
        datetime(2026, 12, 1, 11, tzinfo=UTC),
    ]


def test_zone_does_not_touch_stamps_that_have_one():
    assert times("2026-07-01T12:00:00Z", "2026-07-01T12:00:00-01:00", year=2026, timezone=BERLIN) == [
        datetime(2026, 7, 1, 12, tzinfo=UTC),
        datetime(2026, 7, 1, 13, tzinfo=UTC),
    ]


def test_iso_without_a_zone_is_local():
    assert times("2026-07-01T12:00:00", timezone=BERLIN) == [datetime(2026, 7, 1, 10, tzinfo=UTC)]


@pytest.mark.parametrize("style", ["Oct 25 {}", "2026-10-25T{}"])
def test_the_hour_that_happens_twice(style):
    clock = ["01:59:59", "02:00:00", "02:30:00", "02:59:59", "02:00:00", "02:20:00", "02:40:00", "02:59:59", "03:00:00"]
    observed = times(*(style.format(one) for one in clock), year=2026, timezone=BERLIN)
    start = datetime(2026, 10, 24, 23, 59, 59, tzinfo=UTC)
    assert [(one - start).total_seconds() for one in observed] == [0, 1, 1801, 3600, 3601, 4801, 6001, 7200, 7201]


def test_a_long_silence_in_the_hour_that_happens_twice():
    """In the second of the two hours a log goes on; it does not step back into the first because that is nearer."""
    observed = times("Oct 25 02:59:59", "Oct 25 02:05:00", "Oct 25 02:45:00", "Oct 25 02:44:59", year=2026, timezone=BERLIN)
    start = datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC)
    assert [(one - start).total_seconds() for one in observed] == [0, 301, 2701, 2700]


def test_the_hour_that_does_not_exist():
    observed = times("Mar 29 01:59:59", "Mar 29 02:30:00", "Mar 29 03:00:00", year=2026, timezone=BERLIN)
    assert None not in observed
    assert observed[2] - observed[0] == timedelta(seconds=1)


def test_a_zone_of_half_hours():
    assert times("Jul  1 12:00:00", year=2026, timezone=timezone(timedelta(hours=5, minutes=30))) == [
        datetime(2026, 7, 1, 6, 30, tzinfo=UTC)
    ]


def test_a_time_out_of_all_reason_does_no_harm():
    observed = times("9999-12-31T23:59:59-12:00", "0000-01-01T00:00:00Z", "Oct 22 16:36:01", year=2026)
    assert observed == [None, None, datetime(2026, 10, 22, 16, 36, 1, tzinfo=UTC)]


def test_a_restored_scanner_dates_mixed_stamps_alike():
    """Debian changes its stamps with an upgrade, so that one log has both."""
    lines = [
        f"{stamp} mx postfix/qmgr[1]: 4A00000001: removed\n".encode()
        for stamp in (
            "Oct 24 06:00:01",
            "2027-10-24T06:00:02Z",
            "Oct 24 06:00:01",
            "Oct 24 06:00:03",
            "2026-10-24T06:00:04Z",
            "Oct 24 06:00:01",
        )
    ]
    whole = [one["time"] for one in rows(b"".join(lines))]
    cut = []
    state = None
    for line in lines:
        engine = make_engine((), year=2026, keep_all=True)
        if state:
            engine.restore(state)
        step = engine.feed(line)
        cut.append(step.events.time(0))
        state = engine.snapshot()
    assert cut == whole


def test_hour_says_whether_it_holds_for_the_whole_hour():
    clock = LogClock(BERLIN, 2026)
    assert clock.hour(10, 24, 6, 60, None) == (seconds(2026, 10, 24, 4), True)
    assert clock.hour(10, 25, 2, 0, seconds(2026, 10, 25, 0, 59, 59)) == (seconds(2026, 10, 25, 1), False)
    assert clock.hour(2, 30, 0, 0, None) is None
