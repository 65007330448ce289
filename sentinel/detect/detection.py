"""What a rule says when it fires."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

OWN_NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
"""What counts as inside unless told otherwise: loopback and the private ranges (RFC 1918, 3927, 4193, 4291)."""
LOCK_AT = 10.0
"""The total score at which policy locks, unless told otherwise."""
MEMORY_SECONDS = 86_400.0
"""For how long a detection counts towards the total, in event time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def format_time(microseconds: int) -> str:
    """RFC 3339 in UTC; the fraction is left out where it is zero."""
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time; the inverse of :func:`format_time`."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def account_key(account: str) -> str:
    """One name for all the ways to write an account that differ in letter case alone.

    Stricter than ``str.casefold``: names that only a database's collation or a full case folding holds for equal (``ß``
    and ``ss``, the Kelvin sign and ``k``) stay different, because locking by such an equality would lock somebody else.

    >>> account_key("Info@Example.COM")
    'info@example.com'
    >>> account_key("stra\\u00dfe@x") == account_key("strasse@x"), account_key("\\u212aim@x") == account_key("kim@x")
    (False, False)
    """
    lower = account.lower()
    return lower if lower.upper() == account.upper() else account


class Detection(NamedTuple):
    """One upward crossing of one rule by one key.

    The id depends on the rule, the window's key and the event time alone, so that the same log gives the same ids on any day.
    """

    id: str
    rule: str
    severity: str
    score: float
    time: int
    """Event time of the crossing, microseconds since the epoch."""
    subject: dict[str, str]
    window: float
    """Seconds."""
    measure: str
    value: float
    threshold: float
    baseline: float | None = None
    evidence: tuple[dict[str, Any], ...] = ()
    related: Mapping[str, list[str]] = MappingProxyType({})
    description: str = ""
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The detection as JSON carries it; ``baseline`` only where there is one."""
        out: dict[str, Any] = {
            "id": self.id,
            "rule": self.rule,
            "severity": self.severity,
            "score": self.score,
            "time": format_time(self.time),
            "subject": self.subject,
            "window": self.window,
            "measure": self.measure,
            "value": self.value,
            "threshold": self.threshold,
            "evidence": list(self.evidence),
            "related": dict(self.related),
            "description": self.description,
            "advice": self.advice,
        }
        if self.baseline is not None:
            out["baseline"] = self.baseline
        return out

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Detection":
        """The inverse of :meth:`to_dict`."""
        return cls(**{**data, "time": parse_time(data["time"]), "evidence": tuple(data["evidence"])})
