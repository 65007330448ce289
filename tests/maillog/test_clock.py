"""Year and zone of stamps that write neither."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from helpers import make_engine, rows

from sentinel.maillog.clock import LogClock

BERLIN = ZoneInfo("Europe/Berlin")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")


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


def test_leap_day_that_the_year_does_not_have_is_the_day_after_the_28th():
    """The year is wrong, but the lines are not lost, and the year does not slip."""
    for year in (2025, 2026, 2027):
        observed = times("Feb 28 23:59:59", "Feb 29 00:00:00", "Feb 29 23:00:00", "Mar  1 12:00:00", year=year)
        assert observed == [
            datetime(year, 2, 28, 23, 59, 59, tzinfo=UTC),
            datetime(year, 3, 1, tzinfo=UTC),
            datetime(year, 3, 1, 23, tzinfo=UTC),
            datetime(year, 3, 1, 12, tzinfo=UTC),
        ]


def test_a_log_that_begins_on_a_leap_day():
    assert times("Feb 29 00:00:01", "Mar  1 00:00:01", year=2024)[0] == datetime(2024, 2, 29, 0, 0, 1, tzinfo=UTC)
    assert times("Feb 29 00:00:01", "Mar  1 00:00:01", newest=seconds(2027, 3, 5)) == [
        datetime(2024, 2, 29, 0, 0, 1, tzinfo=UTC),
        datetime(2024, 3, 1, 0, 0, 1, tzinfo=UTC),
    ]
    # 2100 is no leap year.
    assert times("Feb 29 12:00:00", newest=seconds(2103, 6, 1))[0].year == 2096


def test_days_that_no_year_has():
    assert times("Feb 30 12:00:00", "Apr 31 12:00:00", "Jan  1 12:00:00", year=2024)[:2] == [None, None]


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


def test_half_an_hour_that_happens_twice():
    """Lord Howe Island puts its clocks back by half an hour, at 2:00 to 1:30."""
    clock = ["01:00:00", "01:29:59", "01:30:00", "01:59:59", "01:30:00", "01:45:00", "01:59:59", "02:00:00", "02:59:59"]
    for style in ("Apr  5 {}", "2026-04-05T{}"):
        observed = times(*(style.format(one) for one in clock), year=2026, timezone=LORD_HOWE)
        start = datetime(2026, 4, 4, 14, tzinfo=UTC)
        assert [(one - start).total_seconds() for one in observed] == [0, 1799, 1800, 3599, 3600, 4500, 5399, 5400, 8999]


def test_half_an_hour_that_does_not_exist():
    for style in ("Oct  4 {}", "2026-10-04T{}"):
        observed = times(*(style.format(one) for one in ("01:59:59", "02:30:00", "02:59:59", "03:00:00")), year=2026, timezone=LORD_HOWE)
        assert [one.timestamp() - observed[0].timestamp() for one in observed] == [0, 1, 1800, 1801]


def test_a_zone_that_changed_a_minute_after_midnight():
    """Newfoundland, until 2011: from 0:01 back to 23:01 of the day before."""
    clock = ["6 23:00:59", "6 23:01:00", "6 23:59:59", "7 00:00:59", "6 23:01:00", "6 23:30:00", "7 00:00:00", "7 00:01:00"]
    observed = times(*(f"Nov  {one}" for one in clock), year=2010, timezone=ZoneInfo("America/St_Johns"))
    start = datetime(2010, 11, 7, 1, 30, 59, tzinfo=UTC)
    assert [(one - start).total_seconds() for one in observed] == [0, 1, 3540, 3600, 3601, 5341, 7141, 7201]


def test_what_does_not_exist_is_read_as_if_the_clock_had_not_been_put_forward():
    for before in ((), ("Mar 29 01:59:59",), ("Mar 29 03:30:00",)):
        assert times(*before, "Mar 29 02:30:00", year=2026, timezone=BERLIN)[-1] == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("stamp", "zone", "expected"),
    [
        ("Dec 31 23:59:60", "UTC", datetime(2017, 1, 1, tzinfo=UTC)),
        ("Jan  1 00:59:60", "Europe/Berlin", datetime(2016, 1, 1, tzinfo=UTC)),
        ("Jan  1 05:29:60", "Asia/Kolkata", datetime(2016, 1, 1, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", "UTC", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-12-31T23:59:60", "UTC", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2016-10-30T02:59:60", "Europe/Berlin", datetime(2016, 10, 30, 1, tzinfo=UTC)),
    ],
)
def test_leap_second(stamp, zone, expected):
    assert times(stamp, stamp, year=2016, timezone=ZoneInfo(zone)) == [expected, expected]


def test_an_offset_that_no_zone_has():
    assert times("2026-10-24T06:18:01+24:00", "2026-10-24T06:18:01+01:60", "2026-10-24T06:18:01+14:00")[:2] == [None, None]


def test_the_machine_s_clock_begins_at_the_first_of_january():
    """Until it has been set. The log is known to end in October."""
    engine = make_engine((), keep_all=True)
    october = seconds(2026, 10, 24, 12)
    engine.begin("", october, limit=october)
    stamps = ("Oct 24 06:00:00", "Jan  1 00:00:03", "Jan  1 00:00:09", "Oct 24 06:01:00", "Oct 24 23:00:00", "Oct 26 06:00:00")
    step = engine.feed("".join(f"{stamp} mx postfix/qmgr[1]: 4A00000001: removed\n" for stamp in stamps).encode())
    found = [datetime.fromtimestamp(step.events.time(i) / 1e6, UTC) for i in range(len(step.events))]
    assert [one.year for one in found] == [2026, 2026, 2026, 2026, 2026, 2025]


def test_the_limit_does_not_hold_up_a_log_that_runs_on():
    """A file's date may be wrong; then what follows closely is believed."""
    engine = make_engine((), keep_all=True)
    engine.begin("", seconds(2026, 1, 1), limit=seconds(2025, 12, 31))
    stamps = ("Dec 31 12:00:00", "Dec 31 23:59:59", "Jan  1 00:00:01", "Jan  2 00:00:00", "Jan  2 23:00:00", "Jul  1 00:00:00")
    step = engine.feed("".join(f"{stamp} mx postfix/qmgr[1]: 4A00000001: removed\n" for stamp in stamps).encode())
    found = [datetime.fromtimestamp(step.events.time(i) / 1e6, UTC) for i in range(len(step.events))]
    assert [one.year for one in found] == [2025, 2025, 2026, 2026, 2026, 2026]


def test_after_a_stop_of_many_months():
    engine = make_engine((), newest=seconds(2026, 1, 20), year=2026)
    line = "{} mx postfix/qmgr[1]: 4A00000001: removed\n"
    engine.feed(line.format("Jan 20 12:00:00").encode())
    later = make_engine((), newest=seconds(2026, 11, 22), year=2026)
    later.restore(engine.snapshot())
    later.forget_years()
    later.written_until(seconds(2026, 11, 22))
    batch = later.feed(line.format("Nov 22 11:00:00").encode()).events
    assert datetime.fromtimestamp(batch.time(0) / 1e6, UTC) == datetime(2026, 11, 22, 11, tzinfo=UTC)


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
    assert clock.hour(10, 24, 6, 60, None) == (seconds(2026, 10, 24, 4), True, True)
    assert clock.hour(10, 25, 2, 0, seconds(2026, 10, 25, 0, 59, 59)) == (seconds(2026, 10, 25, 1), False, True)
    assert clock.hour(2, 30, 0, 0, None) is None
    assert LogClock(LORD_HOWE, 2026).hour(4, 5, 1, 0, None) == (seconds(2026, 4, 4, 14), False, True)


@pytest.mark.parametrize("last", [-(1 << 60), -62_135_596_800, 0, 253_402_300_800, 1 << 60])
@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-12)), BERLIN])
def test_beyond_the_calendar(last, zone):
    LogClock(zone).hour(12, 31, 23, 3600, last)
    LogClock(zone, 9998).hour(12, 31, 23, 3600, None)
