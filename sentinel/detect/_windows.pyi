from collections.abc import Iterable, Sequence
from typing import Any

from sentinel.detect.senders import Logins
from sentinel.maillog._scan import EventBatch
from sentinel.maillog._symbols import Symbols
from sentinel.track._join import Networks, Tracker

FIELD_NUMBERS: dict[str, int]
CONDITIONS: dict[str, int]
MEASURES: dict[str, int]
STATUSES: tuple[str, ...]

class Windows:
    now: int
    late: int
    set_back: int
    evidence_evicted: int
    def __init__(
        self,
        symbols: Symbols,
        networks: Networks,
        knowledge: Any,
        compiled: Sequence[dict[str, Any]],
        class_names: Sequence[str],
        *,
        evidence_limit: int = 50_000,
    ) -> None: ...
    def use_logins(self, logins: Logins) -> None: ...
    def keys(self) -> list[int]: ...
    def active(self) -> list[int]: ...
    def evicted(self) -> dict[str, int]: ...
    def event_counts(self) -> dict[tuple[int, int], int]: ...
    def delivery_counts(self) -> dict[tuple[str, str], int]: ...
    def reply_counts(self) -> dict[tuple[str, str], int]: ...
    def snapshot(self) -> tuple[list[Any], bytes, list[Any]]: ...
    def restore(self, head: list[Any], data: bytes, kept: list[Any]) -> None: ...

class Core:
    symbols: Symbols
    tracker: Tracker
    windows: Windows
    def __init__(self, symbols: Symbols, tracker: Tracker, windows: Windows) -> None: ...
    def process(self, batch: EventBatch, start: int = 0, stop: int = -1) -> None: ...
    def collect(self, batches: Iterable[EventBatch] = ()) -> None: ...
