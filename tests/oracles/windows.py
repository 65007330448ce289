"""Oracle of the windows: all events of a key in a list, everything counted anew at each of them."""

from dataclasses import dataclass, field

LATENESS = 60.0


@dataclass
class Rule:
    measure: str
    window: float
    threshold: float
    release: float
    cooldown: float
    at_least: int = 1
    then: bool = False
    """Fires on another event than those it counts."""


@dataclass
class Key:
    events: list[tuple[float, float, str, bool]] = field(default_factory=list)
    """Time, weight, item, whether it is a hit."""
    active: bool = False
    fired: float | None = None


class Windows:
    """One rule. ``count`` and ``follow`` return the value with which it fires, or None."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.now = float("-inf")
        self.keys: dict[str, Key] = {}
        self.late = 0

    def arrives(self, time: float) -> bool:
        """Moves the watermark; whether the event is in time."""
        if time < self.now - LATENESS:
            self.late += 1
            return False
        self.now = max(self.now, time)
        return True

    def count(self, name: str, time: float, weight: float, item: str, hit: bool, times: int = 1) -> float | None:
        key = self.keys.setdefault(name, Key())
        if self.rule.measure == "sum" and weight <= 0:
            return None
        self._settle(key)
        key.events.extend([(time, weight, item, hit)] * times)
        if self.rule.then:
            return None
        return self._fire(key)

    def follow(self, name: str) -> float | None:
        key = self.keys.setdefault(name, Key())
        self._settle(key)
        return self._fire(key)

    def value(self, key: Key) -> float:
        inside = [event for event in key.events if self.now - self.rule.window < event[0] <= self.now]
        if self.rule.measure == "count":
            return len(inside)
        if self.rule.measure == "sum":
            return sum(weight for _, weight, _, _ in inside)
        if self.rule.measure == "distinct":
            return len({item for _, _, item, _ in inside})
        hits = sum(hit for _, _, _, hit in inside)
        return hits / len(inside) if inside and len(inside) >= self.rule.at_least else 0.0

    def _settle(self, key: Key) -> None:
        """An episode is over when the measure is below the release level before the new event comes in."""
        if key.active and self.value(key) < self.rule.release:
            key.active = False

    def _fire(self, key: Key) -> float | None:
        value = self.value(key)
        if key.active or value < self.rule.threshold or (key.fired is not None and self.now < key.fired + self.rule.cooldown):
            return None
        key.active, key.fired = True, self.now
        return value
