"""What the daemon says about itself, for others to read: one thread writes, any thread reads.

The engine belongs to the daemon's thread. After each step that thread publishes a :class:`Snapshot`, which never
changes again; whoever looks on takes the latest one and needs no lock. What stands in the state database (detections,
locks) is not copied but asked for when somebody wants to see it.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

__all__ = ["HEARTBEAT_SECONDS", "Snapshot", "Status"]

HEARTBEAT_SECONDS = 60.0
"""A daemon that has not published or beaten for longer is taken for dead."""


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of things after one step. Mappings are copied, so that the publisher may go on changing its own."""

    counters: Mapping[str, Any] = field(default_factory=_nothing)
    """As ``Engine.counters()`` gives them."""
    detections: Mapping[tuple[str, str], int] = field(default_factory=_nothing)
    """(rule, severity) → detections since the start."""
    actions: Mapping[tuple[str, str], int] = field(default_factory=_nothing)
    """(action, result) → how often since the start."""
    notices: Mapping[tuple[str, str], int] = field(default_factory=_nothing)
    """(target, sent | failed | retried) → how often since the start."""
    breaker: bool = False
    """Policy locks nobody any more, until somebody closes the breaker."""
    scores: Mapping[str, float] = field(default_factory=_nothing)
    """Account → its points now."""
    locked: Sequence[str] = ()
    """Accounts that are locked now."""
    lag: Mapping[str, int] = field(default_factory=_nothing)
    """Source → bytes not yet read."""
    rotations: Mapping[str, int] = field(default_factory=_nothing)
    """Source → rotations and truncations since the start."""
    overlong: Mapping[str, int] = field(default_factory=_nothing)
    """Source → lines skipped because of their length, since the start."""
    last_event: Mapping[str, float] = field(default_factory=_nothing)
    """Source → time of its latest event as the log has it, seconds since the epoch."""
    checkpoint_at: float | None = None
    """Wall clock of the last checkpoint, seconds since the epoch."""
    ready: bool = False
    """Caught up with the logs, and the databases answer."""
    reason: str = "starting: the logs have not been opened yet"
    """Why not ready, in plain words."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Mapping) and not isinstance(value, MappingProxyType):
                object.__setattr__(self, item.name, MappingProxyType(dict(value)))
        object.__setattr__(self, "locked", tuple(self.locked))


class Status:
    """The latest snapshot, and what stays the same while the daemon runs.

    ``sources``: the logs as configured. ``rules``: (name, severity) of each. ``detections``: the newest so many, newest
    last, as in the contract. ``locks``: the open locks as JSON-ready mappings, oldest first. Both are called from HTTP
    threads and may raise UserError. ``lock_total``: the score at which policy acts.
    ``targets``: names of those that notices go to.
    """

    def __init__(
        self,
        *,
        sources: Sequence[str],
        rules: Sequence[tuple[str, str]],
        detections: Callable[[int], Sequence[Mapping[str, Any]]],
        locks: Callable[[], Sequence[Mapping[str, Any]]],
        mode: str = "observe",
        lock_total: float = 10.0,
        targets: Sequence[str] = (),
    ) -> None:
        self.sources = tuple(sources)
        self.rules = tuple(rules)
        self.detections = detections
        self.locks = locks
        self.mode = mode
        self.lock_total = lock_total
        self.targets = tuple(targets)
        self.started = time.time()
        """Wall clock, seconds since the epoch."""
        self.baseline: Mapping[str, Any] = {}
        self._snapshot = Snapshot()
        self._lock = threading.Lock()
        self._beat = time.monotonic()

    # the daemon's side

    def count_from(self, counters: Mapping[str, Any]) -> None:
        """Call it once, with ``Engine.counters()`` right after ``restore`` and before the first line.

        The engine's totals go on from the checkpoint, which lies a little behind what was exported when a process was
        killed. To Prometheus a total that steps back has begun anew at 0, and all of it would count as an increase. So
        totals are exported as what came since the start.
        """
        self.baseline = dict(counters)

    def publish(self, snapshot: Snapshot) -> None:
        """Replaces what readers see. It is a heartbeat too."""
        with self._lock:
            self._snapshot = snapshot
            self._beat = time.monotonic()

    def beat(self) -> None:
        """Nothing new, but the daemon's loop is alive. Call it at least every few seconds."""
        with self._lock:
            self._beat = time.monotonic()

    # the reader's side

    @property
    def current(self) -> Snapshot:
        """The latest snapshot. Take it once and use that, not this property over and over."""
        return self._snapshot

    def silent_seconds(self) -> float:
        """How long the daemon has not given a sign of life."""
        with self._lock:
            return time.monotonic() - self._beat

    def alive(self) -> tuple[bool, str]:
        """Whether the daemon's loop moves, and a sentence about it."""
        silent = self.silent_seconds()
        if silent >= HEARTBEAT_SECONDS:
            return False, f"the daemon's loop has not moved for {silent:.0f} seconds; look at its log, or restart it"
        return True, "ok"

    def readiness(self) -> tuple[bool, str]:
        """Whether the daemon is alive, caught up and able to work, and otherwise why not."""
        alive, why = self.alive()
        if not alive:
            return False, why
        snapshot = self._snapshot
        return (True, "ready") if snapshot.ready else (False, snapshot.reason or "not ready")

    def totals(self, name: str, snapshot: Snapshot) -> dict[Any, Any]:
        """A mapping of the engine's totals as of a snapshot, counted from the start of this process."""
        return _since(snapshot.counters.get(name, {}), self.baseline.get(name, {}))

    def number(self, name: str, snapshot: Snapshot) -> int:
        """The same for a total that is one number."""
        return max(0, int(snapshot.counters.get(name, 0)) - int(self.baseline.get(name, 0)))


def _since(now: Mapping[Any, Any], then: Mapping[Any, Any]) -> dict[Any, Any]:
    out: dict[Any, Any] = {}
    for key, value in now.items():
        if isinstance(value, Mapping):
            out[key] = _since(value, then.get(key, {}))
        else:
            out[key] = max(0, value - then.get(key, 0))
    return out
