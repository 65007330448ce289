"""Year and zone of a log that writes neither.

Classic syslog says ``Oct 22 16:36:01``. The year is the one that brings a line nearest to the line before it, so a log may run over New
Year in both directions of reading, and a late line of December in January is still of December. The first line has no line before it:
its year is given, or is the latest one that does not put it after ``newest`` (the file's modification time, or now for a live log; the
caller knows, this module never asks a clock). Where ``limit`` is known, a line jumps ahead of the one before only up to there: a machine
whose clock begins at 1 January until it is set does not take a log of October into the next year.

Where the clock is put back in autumn, the moments that happen twice are the first ones until that would step back from the line before.
Moments that do not exist in spring are read as if the clock had not been put forward. A 29 February in a year that has none is the day
after the 28th: the year is wrong then, and the line is not lost.
"""

from datetime import UTC, datetime, timedelta, tzinfo

_DAY = 86_400
_STEP_BACK_SECONDS = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_YEAR_UNKNOWN = 2000
"""A leap year: every date that a log can write exists in it."""
_YEARS_BACK = 10
"""Among so many there is a leap year, also around 2100."""
_EARLIEST_YEAR, _LATEST_YEAR = 2, 9998
_EARLIEST, _LATEST = -62_100_000_000, 253_370_000_000
"""Seconds of about these years: there are no dates to count with beyond."""

_Hour = tuple[datetime, list[int]]
"""A local hour, and the moments that a stamp in it may mean."""


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


class LogClock:
    """Turns the log's words for a moment into seconds since the epoch."""

    __slots__ = ("limit", "newest", "year", "zone")

    def __init__(self, zone: tzinfo = UTC, year: int | None = None, newest: int | None = None, limit: int | None = None) -> None:
        """``newest``: seconds since the epoch that no first line may lie more than a day beyond. ``limit``: the same for later lines."""
        self.zone = zone
        self.year = year
        self.newest = newest
        self.limit = limit

    def _moments(self, naive: datetime) -> list[int]:
        """A local time in seconds since the epoch: one moment, or the two at which the clocks show it."""
        first, second = (_seconds(naive.replace(tzinfo=self.zone, fold=fold)) for fold in (0, 1))
        return [first, second] if first < second else [first]

    def _in_year(self, year: int, month: int, day: int, hour: int, within: int) -> _Hour | None:
        if not _EARLIEST_YEAR <= year <= _LATEST_YEAR:
            return None
        after = timedelta()
        if (month, day) == (2, 29) and not _is_leap(year):
            day, after = 28, timedelta(days=1)
        try:
            start = datetime(year, month, day, hour) + after
        except ValueError:
            return None
        # A leap second comes after 59:59, wherever that is.
        whole = min(within, 3599)
        return start, [one + within - whole for one in self._moments(start + timedelta(seconds=whole))]

    def _one_offset(self, start: datetime) -> bool:
        """Whether the clocks are not changed within an hour."""
        end = start + timedelta(seconds=3599)
        return len({moment.replace(tzinfo=self.zone, fold=fold).utcoffset() for moment in (start, end) for fold in (0, 1)}) == 1

    def hour(self, month: int, day: int, hour: int, within: int, last: int | None) -> tuple[int, bool, bool] | None:
        """What ``within`` must be added to, in seconds since the epoch; whether that holds for the whole hour; whether the log goes on.

        ``within``: seconds into the local hour. ``last``: seconds of the line before, or None. None for a day that does not exist. The log
        does not go on at a line that the limit has taken back a year: the next one is to be seen from the line before.
        """
        stray = False
        if last is None:
            found = self._first(month, day, hour, within)
        else:
            found, stray = self._nearest(month, day, hour, within, last)
        if found is None:
            return None
        start, moments = found
        return _forward(moments, last) - within, not stray and self._one_offset(start), not stray

    def local(self, year: int, month: int, day: int, hour: int, within: int, last: int | None) -> tuple[int, bool] | None:
        """The same for an hour that has its year but no zone (an ISO stamp without offset)."""
        found = self._in_year(year, month, day, hour, within)
        if found is None:
            return None
        start, moments = found
        return _forward(moments, last) - within, self._one_offset(start)

    def _nearest(self, month: int, day: int, hour: int, within: int, last: int) -> tuple[_Hour | None, bool]:
        """In the year that brings it nearest to ``last``, and whether that would have been beyond the limit and it is the next best."""
        last = min(max(last, _EARLIEST), _LATEST)
        around = datetime.fromtimestamp(last, self.zone).year
        found = [one for year in (around - 1, around, around + 1) if (one := self._in_year(year, month, day, hour, within))]
        found.sort(key=lambda one: min(abs(moment - last) for moment in one[1]))
        if not found:
            return None, False
        if self.limit is not None and last <= self.limit + _DAY and found[0][1][0] > max(self.limit, last) + _DAY:
            return found[1], True
        return found[0], False

    def _first(self, month: int, day: int, hour: int, within: int) -> _Hour | None:
        if self.year is not None:
            return self._in_year(self.year, month, day, hour, within)
        if self.newest is None:
            return self._in_year(_FIRST_YEAR_UNKNOWN, month, day, hour, within)
        latest = datetime.fromtimestamp(self.newest, self.zone).year + 1
        for year in range(latest, latest - _YEARS_BACK, -1):
            if (month, day) == (2, 29) and not _is_leap(year):
                continue
            found = self._in_year(year, month, day, hour, within)
            if found and found[1][0] <= self.newest + _DAY:
                return found
        return None


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _forward(moments: list[int], last: int | None) -> int:
    """Of a time that comes twice the first that does not step back: a log goes forward, but for a line or two."""
    if last is None:
        return moments[0]
    return min(moments, key=lambda moment: (moment < last - _STEP_BACK_SECONDS, abs(moment - last)))
