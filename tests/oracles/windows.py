"""Oracle of the windows: all events of a key in a list, everything counted anew at each of them."""

from dataclasses import dataclass, field

LATENESS = 60.0
SET_BACK = 1000
MAX_LASTING = 16
ROOM_AFTER = 3600.0

Answerer = tuple[str, str]
"""A server, and the provider whose host answered it."""


@dataclass
class Rule:
    measure: str
    window: float
    threshold: float
    release: float
    cooldown: float
    at_least: int = 1
    hits: int = 0
    then: bool = False
    """Fires on another event than those it counts."""
    until: bool = False
    """Its episodes last until mail passes."""
    until_key: bool = False
    """Its episodes last until an event with their key."""
    quiet: float = 0.0


@dataclass
class Key:
    events: list[tuple[float, float, str, bool]] = field(default_factory=list)
    """Time, weight, item, whether it is a hit."""
    active: bool = False
    fired: float | None = None
    seen: float = float("-inf")
    answerer: Answerer | None = None
    """With whom its lasting episode is."""


class Windows:
    """One rule. ``count`` and ``follow`` return the value with which it fires, or None; ``passes`` the keys whose episodes it ends, ``over``
    when the episode began that it ends, or None.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.now = float("-inf")
        self.keys: dict[str, Key] = {}
        self.late = 0
        self.late_run = 0
        self.set_back = 0
        self.lasting: list[str] = []
        """Keys in an episode with ``until``, in the order in which they fired."""

    def arrives(self, time: float) -> bool:
        """Moves the watermark; whether the event is in time. Very many late ones in a row: the clock was set back."""
        late = time < self.now - LATENESS
        self.late += late
        self.late_run = self.late_run + 1 if late else 0
        if not late:
            self.now = max(self.now, time)
        elif self.late_run == SET_BACK:
            self.set_back += 1
            self.late_run = 0
            self.now = time
            self.keys = {}
            self.lasting = []
        else:
            return False
        return True

    def count(
        self, name: str, time: float, weight: float, item: str, hit: bool, times: int = 1, answerer: Answerer | None = None
    ) -> float | None:
        key = self.keys.setdefault(name, Key())
        if self.rule.measure == "sum" and weight <= 0:
            return None
        self._settle(key)
        key.events.extend([(time, weight, item, hit)] * times)
        key.seen = self.now
        if self.rule.then:
            return None
        return self._fire(name, key, answerer)

    def follow(self, name: str) -> float | None:
        key = self.keys.setdefault(name, Key())
        self._settle(key)
        return self._fire(name, key)

    def passes(self, answerer: Answerer | None, time: float) -> list[tuple[str, float]]:
        """Each key whose episode a delivery at this time ends, and when that began."""
        over = [
            name
            for name in self.lasting
            if answerer is not None and self.keys[name].answerer == answerer and time - self.keys[name].seen >= self.rule.quiet
        ]
        self.lasting = [name for name in self.lasting if name not in over]
        began = []
        for name in over:
            key = self.keys[name]
            assert key.fired is not None
            key.active = False
            began.append((name, key.fired))
        return began

    def over(self, name: str) -> float | None:
        """An event that may end the episode of its key: not while the measure, of however few, is at the release level."""
        key = self.keys.get(name)
        if key is None or not key.active or self.level(key) >= self.rule.release:
            return None
        key.active = False
        return key.fired

    def ranking(self) -> list[tuple[str, int, int]]:
        """Each key that has events in its window: how many, and how many of them are hits."""
        inside = {name: self._inside(key) for name, key in self.keys.items()}
        return sorted((name, len(events), sum(hit for _, _, _, hit in events)) for name, events in inside.items() if events)

    def value(self, key: Key) -> float:
        hits, total = self._shares(key)
        if self.rule.measure in ("ratio", "share") and (total < self.rule.at_least or hits < self.rule.hits):
            return 0.0
        return self.level(key)

    def level(self, key: Key) -> float:
        """The measure, of however few."""
        inside = self._inside(key)
        if self.rule.measure == "count":
            return len(inside)
        if self.rule.measure == "sum":
            return sum(weight for _, weight, _, _ in inside)
        if self.rule.measure == "distinct":
            return len({item for _, _, item, _ in inside})
        hits, total = self._shares(key)
        return hits / total if total else 0.0

    def _shares(self, key: Key) -> tuple[int, int]:
        """Hits and how many there are; of a share each item once, by its latest event, of one moment the last that was heard of."""
        inside = self._inside(key)
        if self.rule.measure != "share":
            return sum(hit for _, _, _, hit in inside), len(inside)
        latest = {item: hit for _, _, item, hit in sorted(inside, key=lambda event: event[0])}
        return sum(latest.values()), len(latest)

    def _inside(self, key: Key) -> list[tuple[float, float, str, bool]]:
        return [event for event in key.events if self.now - self.rule.window < event[0] <= self.now]

    def _settle(self, key: Key) -> None:
        """An episode is over when the measure is below the release level before the new event comes in."""
        if key.active and not self.rule.until and not self.rule.until_key and self.value(key) < self.rule.release:
            key.active = False

    def _fire(self, name: str, key: Key, answerer: Answerer | None = None) -> float | None:
        value = self.value(key)
        if key.active or value < self.rule.threshold or (key.fired is not None and self.now < key.fired + self.rule.cooldown):
            return None
        if self.rule.until:
            if answerer is None:
                return None
            others = [other for other in self.lasting if self.keys[other].answerer == answerer]
            if len(others) >= MAX_LASTING:
                first = self.keys[others[0]]
                assert first.fired is not None
                if self.now < first.fired + ROOM_AFTER:
                    return None
                first.active = False
                self.lasting.remove(others[0])
            key.answerer = answerer
            self.lasting.append(name)
        key.active, key.fired = True, self.now
        return value
