"""When scores become a lock: a function of detections, what the journal says about the account, and the wall clock as
an argument.

Scores add up per account as SpamAssassin's do. Each rule counts once within the memory span ``(t - memory, t]`` of
event time, with the highest score it had there; ``t`` is the account's newest detection. At ``lock_at`` the decision is
made. What may stop it: the account is locked already, is protected, too many were locked lately, or the evidence is too
old (or lies in the future, which means a wrong zone or year). After a manual unlock only what happened later counts.

One incident, one decision: while the evidence of the last decision on an account is within the memory span, the same
decision is not made again. A decision that came to nothing (simulated, over the cap, too old, failed) gives way to a
better one at the account's next detection; nothing is decided without a new detection.

Nothing here reads a clock, a file or a database.
"""

import fnmatch
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from sentinel.detect.detection import Detection, account_key

if TYPE_CHECKING:
    from sentinel.config import PolicySettings

MAX_ACCOUNTS = 20_000
"""Accounts with points that are remembered. Those with the fewest points are dropped first, so that guessed logins of a
brute force do not push out a culprit."""

# A decision gives way to a heavier one within its incident. What is not named here weighs nothing: refused, failed.
# "account" means that the mailbox table has no such account, which another detection does not change.
_WEIGHT = {"notify": 1, "simulated": 1, "lock": 2, "account": 3}
_US = 1_000_000
_HOUR_SECONDS = 3600


class Standing(NamedTuple):
    """What the journal knows about an account at the moment of a decision."""

    locked: bool = False
    """Locked, or its lock is pending."""
    released_at: float | None = None
    """Wall clock of the last unlock."""
    previous: str | None = None
    """Kind of policy's last decision on it: lock, simulated, notify, failed, protected, cap, stale, account."""
    previous_event_time: int | None = None
    """Newest evidence of that decision, microseconds."""
    locks_last_hour: int = 0
    """Locks of all accounts that policy decided."""
    locks_last_day: int = 0


class Decision(NamedTuple):
    """What to do about an account, and why."""

    id: str
    """Depends on the account, the detections and the kind of decision alone."""
    subject: dict[str, str]
    action: str
    """observe, notify or lock."""
    why: str
    detections: tuple[str, ...]
    """Ids of those that made up the total."""
    total: float
    event_time: int
    """Of the newest of them, microseconds."""
    simulated: bool = False
    refused: str | None = None
    """Why it is not done; begins with the kind: ``protected: …``, ``cap: …``, ``stale: …``."""

    @property
    def kind(self) -> str:
        """As :attr:`Standing.previous` has it."""
        if self.refused:
            return self.refused.partition(":")[0]
        return "simulated" if self.simulated else self.action


class _Point(NamedTuple):
    time: int
    score: float
    id: str


class _Account:
    __slots__ = ("newest", "rules")

    def __init__(self, newest: int) -> None:
        self.newest = newest
        self.rules: dict[str, list[_Point]] = {}


class Policy:
    """Remembers the points of each account; see the module's text."""

    def __init__(self, settings: "PolicySettings", *, max_accounts: int = MAX_ACCOUNTS) -> None:
        self.settings = settings
        self.max_accounts = max_accounts
        self.evicted = 0
        self._accounts: dict[str, _Account] = {}
        self._memory_us = int(settings.memory * _US)

    def remember(self, detection: Detection) -> str | None:
        """Counts a detection without deciding; its account's key, None when it has no account or scores 0."""
        name = detection.subject.get("sasl_username")
        if not name or not detection.score:
            return None
        key = account_key(name)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(detection.time)
        account.newest = max(account.newest, detection.time)
        points = account.rules.setdefault(detection.rule, [])
        point = _Point(detection.time, detection.score, detection.id)
        if not any(_outlives(other, point) for other in points):
            horizon = account.newest - self._memory_us
            points[:] = [other for other in points if other.time > horizon and not _outlives(point, other)]
            points.append(point)
        if len(self._accounts) > self.max_accounts:
            self._evict()
        return key

    def consider(self, detection: Detection, *, now: float, standing: Standing, protected: Iterable[str] = ()) -> Decision | None:
        """Counts a detection and decides about its account. ``now`` is the wall clock in seconds; ``protected`` adds to
        the settings.
        """
        key = self.remember(detection)
        if key is None or key not in self._accounts:
            return None
        newest = self._accounts[key].newest
        after = newest - self._memory_us
        if standing.released_at is not None:
            after = max(after, int(standing.released_at * _US))
        points = self._points(key, after)
        total = _sum(points)
        if total < self.settings.lock_at or standing.locked:
            return None
        decision = self._decide(detection.subject, key, points, total, now, standing, protected)
        same_incident = standing.previous is not None and (standing.previous_event_time or 0) > newest - self._memory_us
        if same_incident and _WEIGHT.get(decision.kind, 0) <= _WEIGHT.get(standing.previous or "", 0):
            return None
        return decision

    def total(self, account: str, *, at: int | None = None, released_at: float | None = None) -> float:
        """Points of an account at an event time (default: its newest detection)."""
        known = self._accounts.get(account_key(account))
        if known is None:
            return 0.0
        after = (known.newest if at is None else at) - self._memory_us
        return _sum(self._points(account_key(account), max(after, int((released_at or 0) * _US))))

    def scores(self, at: int, releases: Mapping[str, float] | None = None) -> dict[str, float]:
        """Accounts that have points at an event time in microseconds. ``releases``: account key → wall clock of its last unlock."""
        after = at - self._memory_us
        released = releases or {}
        totals = ((key, _sum(self._points(key, max(after, int(released.get(key, 0.0) * _US))))) for key in self._accounts)
        return {key: total for key, total in totals if total}

    def _points(self, key: str, after: int) -> dict[str, _Point]:
        """The best point of each rule later than ``after``."""
        out = {}
        for rule, points in self._accounts[key].rules.items():
            alive = [point for point in points if point.time > after]
            if alive:
                out[rule] = max(alive, key=lambda point: (point.score, -point.time, point.id))
        return out

    def _decide(
        self,
        subject: dict[str, str],
        key: str,
        points: dict[str, _Point],
        total: float,
        now: float,
        standing: Standing,
        protected: Iterable[str],
    ) -> Decision:
        settings = self.settings
        best_first = sorted(points.items(), key=lambda item: (-item[1].score, item[0]))
        ids = tuple(point.id for _, point in best_first)
        event_time = max(point.time for point in points.values())
        parts = ", ".join(f"{rule} ({point.score:g})" for rule, point in best_first)
        why = f"{printable(subject['sasl_username'])} has {total:g} of {settings.lock_at:g} points: {parts}"
        refused = None
        if settings.mode != "notify":
            refused = self._protected(key, protected) or self._stale(event_time, now) or self._capped(standing)
        action = {"enforce": "lock", "notify": "notify"}.get(settings.mode, "observe")
        decision = Decision("", dict(subject), action, why, ids, total, event_time, settings.mode == "observe", refused)
        return Decision(
            _decision_id(decision.kind, key, ids),
            decision.subject,
            action,
            why,
            ids,
            total,
            event_time,
            decision.simulated,
            refused,
        )

    def _protected(self, key: str, more: Iterable[str]) -> str | None:
        pattern = protecting_pattern(key, (*self.settings.protected, *more))
        return f"protected: matches {printable(pattern)}" if pattern is not None else None

    def _stale(self, event_time: int, now: float) -> str | None:
        age = now - event_time / _US
        if age > self.settings.max_evidence_age:
            return f"stale: the newest evidence is {_span(age)} old, more than {_span(self.settings.max_evidence_age)}"
        if -age > self.settings.max_evidence_age:
            return f"stale: the evidence is dated {_span(-age)} in the future; check the time zone and year of the log"
        return None

    def _capped(self, standing: Standing) -> str | None:
        settings = self.settings
        if standing.locks_last_hour >= settings.max_locks_per_hour:
            return f"cap: {standing.locks_last_hour} locks within an hour, at most {settings.max_locks_per_hour} allowed"
        if standing.locks_last_day >= settings.max_locks_per_day:
            return f"cap: {standing.locks_last_day} locks within a day, at most {settings.max_locks_per_day} allowed"
        return None

    def _evict(self) -> None:
        def worth(key: str) -> tuple[float, int, str]:
            account = self._accounts[key]
            return _sum(self._points(key, account.newest - self._memory_us)), account.newest, key

        # A few more than needed, so that the sort is rare.
        too_many = len(self._accounts) - self.max_accounts + self.max_accounts // 64
        for key in sorted(self._accounts, key=worth)[:too_many]:
            del self._accounts[key]
            self.evicted += 1


def protecting_pattern(account: str, patterns: Iterable[str]) -> str | None:
    """The first of the patterns (names, or globs with ``*`` and ``?``) that covers an account, letter case aside."""
    key = account_key(account)
    for pattern in patterns:
        if key == account_key(pattern) or fnmatch.fnmatchcase(key, account_key(pattern)):
            return pattern
    return None


def printable(text: str) -> str:
    """Text from a log for a terminal: control and invisible characters become ``?``, and 200 characters are enough."""
    clean = "".join(char if char.isprintable() else "?" for char in text[:201])
    return clean if len(clean) <= 200 else clean[:199] + "…"


def _outlives(one: _Point, other: _Point) -> bool:
    """Whether ``other`` can never again matter beside ``one``."""
    return one.time >= other.time and one.score >= other.score


def _sum(points: dict[str, _Point]) -> float:
    # fsum: the total must not depend on the order in which rules fired.
    return math.fsum(point.score for point in points.values())


def _decision_id(kind: str, key: str, ids: tuple[str, ...]) -> str:
    text = "\0".join((kind, key, *sorted(ids)))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", _HOUR_SECONDS), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g}{unit}"
    return f"{seconds:.3g}s"
