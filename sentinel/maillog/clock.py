"""Year and zone of a log that writes neither.

Classic syslog says ``Oct 22 16:36:01``. The year is the one that brings a line nearest to the line before it, so a log may run over New
Year in both directions of reading, and a late line of December in January is still of December. The first line has no line before it:
its year is given, or is the latest one that does not put it after ``newest`` (the file's modification time, or now for a live log; the
caller knows, this module never asks a clock).

The hour that happens twice in autumn is the first one until that would step back from the line before.
"""

from datetime import UTC, datetime, timedelta, tzinfo

_DAY = 86_400
_STEP_BACK_SECONDS = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_YEAR_UNKNOWN = 2000
"""A leap year: every date that a log can write exists in it."""


def _seconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(seconds=1)


class LogClock:
    """Turns the log's words for a moment into seconds since the epoch."""

    __slots__ = ("newest", "year", "zone")

    def __init__(self, zone: tzinfo = UTC, year: int | None = None, newest: int | None = None) -> None:
        """``newest``: seconds since the epoch that no first line may lie more than a day beyond."""
        self.zone = zone
        self.year = year
        self.newest = newest

    def _candidates(self, year: int, month: int, day: int, hour: int) -> list[int]:
        try:
            naive = datetime(year, month, day, hour)
        except ValueError:
            return []
        return sorted({_seconds(naive.replace(tzinfo=self.zone, fold=fold)) for fold in (0, 1)})

    def hour(self, month: int, day: int, hour: int, within: int, last: int | None) -> tuple[int, bool] | None:
        """Start of the local hour in seconds since the epoch, and whether that holds for the whole hour.

        ``within``: seconds into the hour. ``last``: seconds of the line before, or None. None for a day that does not exist.
        """
        if last is None:
            starts = self._first(month, day, hour)
        else:
            around = datetime.fromtimestamp(last, self.zone).year
            years = [found for year in (around - 1, around, around + 1) if (found := self._candidates(year, month, day, hour))]
            starts = min(years, key=lambda found: min(abs(s + within - last) for s in found), default=[])
        if not starts:
            return None
        return self._once_or_twice(starts, within, last), len(starts) == 1

    @staticmethod
    def _once_or_twice(starts: list[int], within: int, last: int | None) -> int:
        """Of an hour that happens twice the first that does not step back: a log goes forward, but for a line or two."""
        if last is None:
            return starts[0]
        return min(starts, key=lambda s: (s + within < last - _STEP_BACK_SECONDS, abs(s + within - last)))

    def _first(self, month: int, day: int, hour: int) -> list[int]:
        if self.year is not None:
            return self._candidates(self.year, month, day, hour)
        if self.newest is None:
            return self._candidates(_FIRST_YEAR_UNKNOWN, month, day, hour)
        latest = datetime.fromtimestamp(self.newest, self.zone).year + 1
        for year in range(latest, latest - 10, -1):
            starts = self._candidates(year, month, day, hour)
            if starts and starts[0] <= self.newest + _DAY:
                return starts
        return []

    def local(self, year: int, month: int, day: int, hour: int, within: int, last: int | None) -> int | None:
        """Start of an hour that has its year but no zone (an ISO stamp without offset)."""
        starts = self._candidates(year, month, day, hour)
        if not starts:
            return None
        return self._once_or_twice(starts, within, last)
