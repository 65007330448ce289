"""True moments, written as a log in a zone writes them, and read back with what is promised to be known.

The oracle goes the other way: from UTC to the words of the stamp, by ``astimezone`` alone.
"""

import itertools
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from helpers import make_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.detect.engine import Engine
from sentinel.replaying import Merge

ZONES = [
    ZoneInfo(name)
    for name in (
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "America/St_Johns",
        "Africa/Casablanca",
        "Pacific/Auckland",
        "Pacific/Chatham",
        "Pacific/Apia",
    )
]
DAY = 86_400
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def classic(moment: datetime, zone: ZoneInfo) -> str:
    local = moment.astimezone(zone)
    return f"{MONTHS[local.month - 1]} {local.day:2} {local:%H:%M:%S}"


def iso(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%dT%H:%M:%S}"


def ambiguous(moment: datetime, zone: ZoneInfo) -> bool:
    """Whether the clocks show this time twice."""
    shown = moment.astimezone(zone).replace(tzinfo=None)
    near = (moment + timedelta(minutes=minutes) for minutes in (-1440, -120, -60, -40, -30, -20, 20, 30, 40, 60, 120, 1440))
    return any(other.astimezone(zone).replace(tzinfo=None) == shown for other in near)


def log_of(moments: list[datetime], zone: ZoneInfo, style=classic) -> bytes:
    return "".join(f"{style(one, zone)} mx postfix/qmgr[1]: 4A00000001: removed\n" for one in moments).encode()


def read(engine: Engine, log: bytes) -> list[datetime]:
    batch = engine.feed(log).events
    return [datetime.fromtimestamp(batch.time(i) / 1e6, UTC) for i in range(len(batch))]


@st.composite
def beginnings(draw):
    """Anywhere, but often where something happens: New Year, a leap day, a change of the clocks."""
    zone = draw(st.sampled_from(ZONES))
    year = draw(st.integers(2000, 2036))
    place = draw(st.sampled_from(("any", "new year", "leap day", "change")))
    start = datetime(year, 1, 1, tzinfo=UTC)
    if place == "any":
        return zone, start + timedelta(seconds=draw(st.integers(0, 365 * DAY - 1)))
    if place == "new year":
        start = datetime(year, 12, 31, tzinfo=UTC)
    elif place == "leap day":
        start = datetime(year - year % 4, 2, 28, tzinfo=UTC)
    else:
        days = [start + timedelta(days=n) for n in range(366)]
        changes = [a for a, b in itertools.pairwise(days) if a.astimezone(zone).utcoffset() != b.astimezone(zone).utcoffset()]
        start = draw(st.sampled_from(changes or days))
    return zone, start + timedelta(seconds=draw(st.integers(0, DAY)))


def told(start: datetime, steps: list[int]) -> list[datetime]:
    """A log that goes on from its latest line; a step back is a line that comes late."""
    out, latest = [start], start
    for step in steps:
        moment = latest + timedelta(seconds=step)
        out.append(moment)
        latest = max(latest, moment)
    return out


# The shortest time that comes twice is half an hour: a silence must be shorter for it to be noticed, and late lines too.
dense = st.lists(st.one_of(st.integers(0, 1700), st.integers(-60, 5), st.sampled_from((0, 1, 599, 600, 1679))), max_size=60)
sparse = st.lists(st.one_of(st.integers(0, 150 * DAY), st.integers(-100 * DAY, 0), st.integers(-60, 3600)), max_size=40)


@settings(max_examples=settings().max_examples * 4)
@given(beginnings(), dense, st.sampled_from((classic, iso)))
def test_a_log_without_long_silences_is_read_exactly(beginning, steps, style):
    zone, start = beginning
    moments = told(start, steps)
    if ambiguous(start, zone):
        # Of a first line nobody can know.
        moments = [start - timedelta(seconds=1500 * n) for n in range(90, 0, -1)] + moments
    engine = make_engine((), timezone=zone, year=moments[0].astimezone(zone).year)
    observed = read(engine, log_of(moments, zone, style))
    if ambiguous(moments[0], zone):
        return
    assert observed == moments


@settings(max_examples=settings().max_examples * 4)
@given(beginnings(), sparse)
def test_a_log_with_long_silences_has_the_right_year_and_words(beginning, steps):
    """Over any number of years, with lines months late; a time that the clocks show twice may be either."""
    zone, start = beginning
    moments = told(start, [min(step, 150 * DAY) for step in steps])
    # A late line must be nearer to the line before than its like in another year.
    near = [moments[0]]
    for moment in moments[1:]:
        if abs((moment - near[-1]).total_seconds()) < 170 * DAY:
            near.append(moment)
    observed = read(make_engine((), timezone=zone, year=start.astimezone(zone).year), log_of(near, zone))
    for expected, found in zip(near, observed, strict=True):
        if ambiguous(expected, zone):
            assert classic(found, zone) == classic(expected, zone)
            assert abs(found - expected) <= timedelta(days=1)
        else:
            assert found == expected


@given(beginnings(), dense, st.lists(st.integers(0, 60), max_size=3))
def test_chunks_and_restarts_change_no_time(beginning, steps, cuts):
    zone, start = beginning
    lines = log_of(told(start, steps), zone).splitlines(keepends=True)
    whole = read(make_engine((), timezone=zone, year=2024), b"".join(lines))
    observed, state = [], None
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), len(lines)], strict=True):
        engine = make_engine((), timezone=zone, year=2024)
        if state:
            engine.restore(state)
        if lines[first:last]:
            observed += read(engine, b"".join(lines[first:last]))
            state = engine.snapshot()
    assert observed == whole


def merged(paths: list[Path], **options) -> dict[str, list[datetime]]:
    engine = make_engine((), **options)
    found: dict[str, list[datetime]] = {str(path): [] for path in paths}
    for batch, start, stop in Merge(engine, paths):
        found[batch.chunk.source] += [datetime.fromtimestamp(batch.time(i) / 1e6, UTC) for i in range(start, stop)]
    return found


@settings(max_examples=settings().max_examples)
@given(beginnings(), st.lists(st.integers(0, 100 * DAY), max_size=25), st.integers(-DAY + 3600, 300 * DAY))
def test_an_archive_is_dated_by_its_last_line(tmp_path_factory, beginning, steps, later):
    """It may hold many years. The file was written or copied up to ten months later, or its host's clock was ahead by less than a day."""
    zone, start = beginning
    moments = told(start, steps)
    path = tmp_path_factory.mktemp("log") / "mail.log"
    path.write_bytes(log_of(moments, zone))
    written = (moments[-1] + timedelta(seconds=later)).timestamp()
    os.utime(path, (written, written))
    (observed,) = merged([path], timezone=zone).values()
    assert [classic(one, zone) for one in observed] == [classic(one, zone) for one in moments]
    assert all(abs(a - b) <= timedelta(days=1) for a, b in zip(observed, moments, strict=True))
