"""When scores become a lock: a function of detections, what the journal says about the account, and the wall clock as
an argument.

Scores add up per account as SpamAssassin's do. Each rule counts once within the memory span ``(t - memory, t]`` of
event time, with the highest score it had there; ``t`` is the account's newest detection. At ``lock_at`` the decision is
made. What may stop it: the account is locked already, is protected, too many were locked lately, or the evidence is too
old (or lies in the future, which means a wrong zone or year). After an unlock only what happened later counts, and after
one by hand nothing is locked for a while.

The mode may differ by rule and by account. What is named for the rule or the account replaces ``mode``; where both are
named, the more careful one counts. An account is locked when the points of rules that may lock it reach the total; else
policy tells when the points of those that may do at least that reach it; and so on.

The breaker is for the case that policy itself is wrong: many accounts at once are more likely a mistake in a rule, a
mailing of the whole house, or an attack that locks won't stop, than as many thefts. The decision that trips it is refused,
and so is every later one until somebody closes it.

One incident, one decision: while the evidence of the last decision on an account is within the memory span, the same
decision is not made again. A decision that came to nothing (simulated, over the cap, too old, failed) gives way to a
better one at the account's next detection; nothing is decided without a new detection.

Nothing here reads a clock, a file or a database.
"""

import fnmatch
import hashlib
import ipaddress
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from sentinel.detect.detection import Detection, account_key

if TYPE_CHECKING:
    from sentinel.config import Mode, PolicySettings

MAX_ACCOUNTS = 20_000
"""Accounts with points that are remembered. Those with the fewest points are dropped first, so that guessed logins of a
brute force do not push out a culprit."""

# A decision gives way to a heavier one within its incident. What is not named here weighs nothing: refused, failed.
# "account" means that the mailbox table has no such account, which another detection does not change.
_WEIGHT = {"notify": 1, "simulated": 1, "lock": 2, "account": 3}
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CAREFUL_FIRST: tuple["Mode", ...] = ("observe", "notify", "enforce")
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
    released_by_hand_at: float | None = None
    """Wall clock of the last unlock by hand."""
    others_lately: int = 0
    """Other accounts that reached the total within the breaker's span."""
    breaker: str | None = None
    """Why the breaker is open."""


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
    """Why it is not done; begins with the kind: ``protected: …``, ``cap: …``, ``stale: …``, ``released: …``, ``breaker: …``."""
    trips: str | None = None
    """Why the breaker opens with this decision."""

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
    client_ips: tuple[str, ...] = ()


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
        self.changes = 0
        """How often an account has come or gone."""
        self._accounts: dict[str, _Account] = {}
        self._memory_us = int(settings.memory * _US)

    def remember(self, detection: Detection, now: float | None = None) -> str | None:
        """Counts a detection without deciding; its account's key, None when it has no account or scores 0.

        With ``now``, the wall clock in seconds, one of the present makes those of its account be forgotten that a wrong clock has dated
        into the future: they never lock, and next to them nothing of the present would count.
        """
        name = detection.subject.get("sasl_username")
        if not name or not detection.score:
            return None
        key = account_key(name)
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(detection.time)
            self.changes += 1
        if now is not None:
            self._forget_future(account, detection, int((now + self.settings.max_evidence_age) * _US))
        account.newest = max(account.newest, detection.time)
        points = account.rules.setdefault(detection.rule, [])
        point = _Point(detection.time, detection.score, detection.id, _client_ips(detection))
        if not any(_outlives(other, point) for other in points):
            horizon = account.newest - self._memory_us
            points[:] = [other for other in points if other.time > horizon and not _outlives(point, other)]
            points.append(point)
        if len(self._accounts) > self.max_accounts:
            self._evict()
        return key

    @staticmethod
    def _forget_future(account: _Account, detection: Detection, until: int) -> None:
        if detection.time <= until < account.newest:
            account.rules = {rule: [point for point in points if point.time <= until] for rule, points in account.rules.items()}
            account.rules = {rule: points for rule, points in account.rules.items() if points}
            account.newest = max((point.time for points in account.rules.values() for point in points), default=detection.time)

    def consider(
        self, detection: Detection, *, now: float, standing: Standing, protected: Iterable[str] = (), active: int | None = None
    ) -> Decision | None:
        """Counts a detection and decides about its account. ``now`` is the wall clock in seconds; ``protected`` adds to
        the settings; ``active`` is how many accounts send mail at present, None when that is not known.
        """
        if self.remember(detection, now) is None:
            return None
        return self.decide(detection.subject["sasl_username"], now=now, standing=standing, protected=protected, active=active)

    def decide(
        self, account: str, *, now: float, standing: Standing, protected: Iterable[str] = (), active: int | None = None
    ) -> Decision | None:
        """Decides about an account by the points that it has."""
        key = account_key(account)
        if key not in self._accounts or standing.locked:
            return None
        newest = self._accounts[key].newest
        after = newest - self._memory_us
        if standing.released_at is not None:
            after = max(after, int(standing.released_at * _US))
        reached = self._reached(key, self._points(key, after))
        if reached is None:
            return None
        decision = self._decide(account, *reached, now, standing, protected, active)
        same_incident = standing.previous is not None and (standing.previous_event_time or 0) > newest - self._memory_us
        if same_incident and _WEIGHT.get(decision.kind, 0) <= _WEIGHT.get(standing.previous or "", 0):
            return None
        return decision

    def mode_of(self, account: str, rule: str | None = None) -> "Mode":
        """What may be done about an account for the points of a rule; without a rule, for those of any."""
        key = account_key(account)
        for_account = next((mode for pattern, mode in self.settings.accounts.items() if _fits(key, pattern)), None)
        if rule is None:
            every = [self.mode_of(account, name) for name in self.settings.rules]
            return max([for_account or self.settings.mode, *every], key=_CAREFUL_FIRST.index)
        named = [mode for mode in (for_account, self.settings.rules.get(rule)) if mode is not None]
        return min(named, key=_CAREFUL_FIRST.index) if named else self.settings.mode

    def _reached(self, key: str, points: dict[str, _Point]) -> "tuple[Mode, dict[str, _Point], float] | None":
        """The boldest mode whose rules' points make up the total, with those points and their sum."""
        for mode in reversed(_CAREFUL_FIRST):
            rank = _CAREFUL_FIRST.index(mode)
            allowed = {rule: point for rule, point in points.items() if _CAREFUL_FIRST.index(self.mode_of(key, rule)) >= rank}
            total = _sum(allowed)
            if allowed and total >= self.settings.lock_at:
                return mode, allowed, total
        return None

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

    def accounts(self) -> list[str]:
        """All that are remembered, in lower case."""
        return list(self._accounts)

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
        account: str,
        mode: "Mode",
        points: dict[str, _Point],
        total: float,
        now: float,
        standing: Standing,
        protected: Iterable[str],
        active: int | None,
    ) -> Decision:
        key = account_key(account)
        best_first = sorted(points.items(), key=lambda item: (-item[1].score, item[0]))
        ids = tuple(point.id for _, point in best_first)
        event_time = max(point.time for point in points.values())
        parts = ", ".join(f"{rule} ({point.score:g})" for rule, point in best_first)
        why = f"{printable(account)} has {total:g} of {self.settings.lock_at:g} points: {parts}"
        refused = trips = None
        if mode != "notify":
            refused = self._protected(key, points.values(), protected) or self._stale(event_time, now) or self._released(standing, now)
        if mode == "enforce" and refused is None:
            trips = None if standing.breaker else self._trips(standing, active)
            if standing.breaker or trips:
                refused = f"breaker: {standing.breaker or trips}"
        if mode != "notify" and refused is None:
            refused = self._capped(standing)
        action = {"enforce": "lock", "notify": "notify"}.get(mode, "observe")
        decision = Decision("", {"sasl_username": account}, action, why, ids, total, event_time, mode == "observe", refused, trips)
        return decision._replace(id=_decision_id(decision.kind, key, ids))

    def _protected(self, key: str, points: Iterable[_Point], more: Iterable[str]) -> str | None:
        names, networks = split_protected((*self.settings.protected, *more))
        pattern = protecting_pattern(key, names)
        if pattern is not None:
            return f"protected: matches {printable(pattern)}"
        networks += [ipaddress.ip_network(network) for network in self.settings.protected_networks]
        every = [point.client_ips for point in points]
        used = {address for addresses in every for address in addresses}
        # Points that tell no address may be anybody's.
        if networks and all(every) and all(_within(address, networks) for address in used):
            return f"protected: all its mail came from protected networks ({printable(', '.join(sorted(used)[:3]))})"
        return None

    def _released(self, standing: Standing, now: float) -> str | None:
        at, span = standing.released_by_hand_at, self.settings.respect_unlock
        if at is None or now - at >= span:
            return None
        return f"released: it was unlocked by hand {_span(max(0.0, now - at))} ago, and is left alone for {_span(span)}"

    def _trips(self, standing: Standing, active: int | None) -> str | None:
        breaker = self.settings.breaker
        wanted = standing.others_lately + 1
        within = f"{wanted} accounts reached the score within {_span(breaker.span)}"
        if wanted > breaker.accounts:
            return f"{within}, more than {breaker.accounts}"
        if active and wanted >= breaker.at_least and wanted > breaker.share * active:
            return f"{within}, more than {breaker.share:.0%} of the {active} that send mail"
        return None

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
            self.changes += 1


def protecting_pattern(account: str, patterns: Iterable[str]) -> str | None:
    """The first of the patterns (names, or globs with ``*`` and ``?``) that covers an account, letter case aside."""
    return next((pattern for pattern in patterns if _fits(account_key(account), pattern)), None)


def split_protected(patterns: Iterable[str]) -> tuple[list[str], list[_Network]]:
    """Those that are patterns of accounts, and those that are networks: with a slash, such as 192.0.2.0/24."""
    names, networks = [], []
    for pattern in patterns:
        try:
            if "/" not in pattern:
                raise ValueError
            networks.append(ipaddress.ip_network(pattern))
        except ValueError:
            names.append(pattern)
    return names, networks


def _fits(key: str, pattern: str) -> bool:
    return key == account_key(pattern) or fnmatch.fnmatchcase(key, account_key(pattern))


def _within(address: str, networks: Iterable[_Network]) -> bool:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return any((mapped or ip) in network for network in networks)


def _client_ips(detection: Detection) -> tuple[str, ...]:
    own = detection.subject.get("client_ip")
    return tuple(dict.fromkeys([*([own] if own else []), *detection.related.get("client_ips", ())]))


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
