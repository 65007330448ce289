"""Time zones by name, and the machine's own."""

import os
import re
import zoneinfo
from datetime import UTC, timedelta, timezone, tzinfo

from sentinel.errors import UserError

_OFFSET = re.compile(r"([+-])([0-9]{2}):?([0-9]{2})")


def parse_zone(name: str) -> tzinfo:
    """A zone of the tz database (``Asia/Shanghai``, ``UTC``) or a fixed offset (``+08:00``); ValueError with the reason."""
    offset = _OFFSET.fullmatch(name)
    if offset and int(offset[2]) < 24 and int(offset[3]) < 60:
        delta = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(-delta if offset[1] == "-" else delta)
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        # Only here, because listing the zones reads some hundred files.
        import difflib

        near = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=1, cutoff=0.6)
        hint = f'; did you mean "{near[0]}"?' if near else "; write it as Asia/Shanghai or +08:00"
        raise ValueError(f'"{name}" is not a time zone{hint}') from None


def local_zone() -> tzinfo:
    """The machine's zone: a log without zones was written in it. ``TZ`` goes before /etc/localtime, as for every program."""
    name = os.environ.get("TZ", "").removeprefix(":") or os.path.realpath("/etc/localtime").partition("zoneinfo/")[2]
    try:
        return zoneinfo.ZoneInfo(name) if name else UTC
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return UTC


def zone(name: str | None) -> tzinfo:
    """A zone by name, the machine's for None; UserError for a name that is none."""
    if name is None:
        return local_zone()
    try:
        return parse_zone(name)
    except ValueError as error:
        raise UserError(str(error)) from None
