"""Notices: what an admin is told, kept until it has been said.

A notice is offered in the transaction that commits what it is about, so neither can be there without the other. It is one row for each
target that wants it; the pair of notice and target is unique for good, so a notice that is offered again, after a restart too, is not
said again. Rows change only like this, and only here::

    (new) -> pending -> sent | failed

Each target has a thread of its own: one that is slow, hangs or is down holds up neither the others nor the daemon. A target gets its
notices one after the other in the order in which they were offered. What can't be delivered is tried again with growing pauses for 24
hours and has failed then; what the target refuses for good (a mail address that is none, a text it can't read) has failed at once, so
that it does not hold up what comes after it.

Sent is at least once: a process that is killed after the target has taken a notice and before the row says so sends it a second time at
the next start. It has the same id then, by which Matrix, Alertmanager and most mail programs see that it is the same. Nothing is lost.

A notice that ends an incident goes wherever the incident's earlier notices went, whatever a target's filters say. A target that has to
be told again as long as something lasts (Alertmanager) says so by ``again_seconds``.

Limits: at most :data:`MAX_PENDING` notices wait for one target; more are not kept, and that is logged. The texts of old notices are
dropped after 90 days, their ids stay.
"""

import json
import logging
import sqlite3
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from sentinel.config import NoticeKind, Severity
from sentinel.errors import UserError
from sentinel.state import State

GIVE_UP_SECONDS = 86_400.0
MAX_PENDING = 10_000
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

_log = logging.getLogger(__name__)

_ROUND = 20
"""Notices that one round reads for a target."""
_POLL_SECONDS = 1.0
_STOP_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 600.0
_KEEP_SECONDS = 90 * 86_400.0
_PRUNE_EVERY_SECONDS = 3600.0
_ERROR_CHARACTERS = 300


class Notice(NamedTuple):
    """What is said about one thing that happened. All texts may come from a log; targets clean them."""

    id: str
    """Deterministic: the same incident and kind give the same id."""
    incident: str
    """What belongs together: a lock and its undoing, a block and its end."""
    kind: NoticeKind
    severity: Severity
    time: int
    """Event time, microseconds since the epoch."""
    title: str
    text: str
    """What happened and what was done, in a few sentences."""
    account: str | None = None
    client_ips: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    """Log lines."""
    next_steps: tuple[str, ...] = ()
    """Sentences: what to do now."""
    undo: str | None = None
    """The command that takes back what was done."""
    resolved: bool = False
    """It ends an earlier notice of the same incident."""
    provider: str | None = None
    """Who blocks us, of a notice about a block."""

    def to_json(self) -> str:
        """For the state database; ASCII, so that even a lone surrogate passes."""
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Notice":
        """The inverse of :meth:`to_json`."""
        # A newer version may have written more.
        known = {name: value for name, value in json.loads(text).items() if name in cls._fields}
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        return cls(**values)


class TargetError(Exception):
    """Why a target did not take a notice; a sentence that names its host and nothing else of its address."""

    def __init__(self, sentence: str, *, for_good: bool = False, after_seconds: float = 0.0) -> None:
        super().__init__(sentence)
        self.for_good = for_good
        """Trying the same notice again changes nothing."""
        self.after_seconds = after_seconds
        """How long the target wants to be left alone."""


class Target(Protocol):
    """Where notices go; :mod:`sentinel.respond.targets` has them."""

    name: str
    """Unique among the targets; rows of the state database refer to it."""
    min_severity: Severity
    kinds: tuple[NoticeKind, ...]
    """None: all."""
    again_seconds: float
    """How often a notice is said again as long as it lasts; 0: never."""
    lasts_seconds: float
    """For how long, counted from when it was first offered."""

    def send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        """Returns when the target has taken the notice, else raises :class:`TargetError`. ``earlier``: of a notice that ends an
        incident, the sent ones that it ends.
        """


def wants(target: Target, notice: Notice) -> bool:
    """Whether a notice passes the target's filters."""
    return SEVERITIES.index(notice.severity) >= SEVERITIES.index(target.min_severity) and (not target.kinds or notice.kind in target.kinds)


class Row(NamedTuple):
    """A notice and a target, and what became of it. Times are wall clock, seconds."""

    seq: int
    id: str
    target: str
    state: str
    created: float
    changed: float
    attempts: int
    error: str | None
    notice: Notice


_COLUMNS = "seq, id, target, state, created, changed, attempts, error, data"


class Outbox:
    """The notices in a :class:`State`. Any thread may use it."""

    def __init__(self, state: State, now: Callable[[], float] = time.time) -> None:
        self.state = state
        self._now = now

    def offer(self, notice: Notice, targets: Sequence[Target]) -> int:
        """Keeps a notice for each target that wants it, in the caller's transaction if there is one; how many rows were new."""
        now, new = self._now(), 0
        with self.state.transaction() as db:
            for target in targets:
                if not (wants(target, notice) or (notice.resolved and self._began(db, notice, target.name))):
                    continue
                ((waiting,),) = db.execute("SELECT count(*) FROM notices WHERE target = ? AND state = 'pending'", (target.name,)).fetchall()
                full = waiting >= MAX_PENDING
                if full:
                    _log.error("%s: %d notices wait already; a notice of kind %s is not sent there", target.name, waiting, notice.kind)
                new += db.execute(
                    "INSERT OR IGNORE INTO notices (id, target, incident, resolved, data, state, created, changed, error) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        notice.id, target.name, notice.incident, notice.resolved, notice.to_json(),
                        "failed" if full else "pending", now, now, "too many notices were waiting" if full else None,
                    ),
                ).rowcount  # fmt: skip
        return new

    @staticmethod
    def _began(db: sqlite3.Connection, notice: Notice, target: str) -> bool:
        return bool(
            db.execute(
                "SELECT 1 FROM notices WHERE incident = ? AND target = ? AND NOT resolved AND state != 'failed' LIMIT 1",
                (notice.incident, target),
            ).fetchall()
        )

    def pending(self, target: str, limit: int = _ROUND) -> list[Row]:
        """What a target is to be sent, oldest first."""
        return self._select("target = ? AND state = 'pending' ORDER BY seq LIMIT ?", (target, limit))

    def count(self, target: str, state: str = "pending") -> int:
        """How many notices of a target are in a state."""
        ((found,),) = self.state.query("SELECT count(*) FROM notices WHERE target = ? AND state = ?", (target, state))
        return int(found)

    def earlier(self, row: Row) -> list[Notice]:
        """Notices of the same incident that the target got before this one, and that are no ends themselves."""
        rows = self._select(
            "incident = ? AND target = ? AND NOT resolved AND state = 'sent' AND seq < ? AND data != '' ORDER BY seq",
            (row.notice.incident, row.target, row.seq),
        )
        return [earlier.notice for earlier in rows]

    def lasting(self, target: str, since: float, sent_before: float) -> list[Row]:
        """Sent notices, offered after ``since``, that nothing has ended and that were last sent before ``sent_before``."""
        return self._select(
            "target = ? AND state = 'sent' AND NOT resolved AND data != '' AND created > ? AND changed < ? AND NOT EXISTS "
            "(SELECT 1 FROM notices AS ends WHERE ends.incident = notices.incident AND ends.target = notices.target "
            "AND ends.resolved AND ends.seq > notices.seq) ORDER BY changed LIMIT ?",
            (target, since, sent_before, _ROUND),
        )

    def settle(self, row: Row, state: str, error: str | None = None) -> bool:
        """The row is sent or failed from now on; False when it was settled already."""
        with self.state.transaction() as db:
            return bool(
                db.execute(
                    "UPDATE notices SET state = ?, error = ?, attempts = attempts + 1, changed = ? WHERE seq = ? AND state = 'pending'",
                    (state, error[:_ERROR_CHARACTERS] if error else None, self._now(), row.seq),
                ).rowcount
            )

    def tried(self, row: Row, error: str) -> None:
        """An attempt failed; the row stays pending."""
        with self.state.transaction() as db:
            db.execute(
                "UPDATE notices SET error = ?, attempts = attempts + 1, changed = ? WHERE seq = ? AND state = 'pending'",
                (error[:_ERROR_CHARACTERS], self._now(), row.seq),
            )

    def said_again(self, row: Row) -> None:
        """A notice that lasts was sent once more."""
        with self.state.transaction() as db:
            db.execute("UPDATE notices SET changed = ? WHERE seq = ? AND state = 'sent'", (self._now(), row.seq))

    def drop_unknown(self, targets: Sequence[str]) -> int:
        """Fails what waits for targets that are configured no more."""
        marks = ", ".join("?" * len(targets))
        with self.state.transaction() as db:
            return db.execute(
                "UPDATE notices SET state = 'failed', error = 'the target is configured no more', changed = ? "
                f"WHERE state = 'pending' AND target NOT IN ({marks})",
                (self._now(), *targets),
            ).rowcount

    def prune(self) -> int:
        """Drops the texts of settled notices that are old; their ids stay, so that they are never said again."""
        with self.state.transaction() as db:
            return db.execute(
                "UPDATE notices SET data = '' WHERE state != 'pending' AND data != '' AND changed < ?", (self._now() - _KEEP_SECONDS,)
            ).rowcount

    def _select(self, where: str, parameters: Sequence[object]) -> list[Row]:
        rows = self.state.query(f"SELECT {_COLUMNS} FROM notices WHERE {where}", parameters)
        return [Row._make((*row[:-1], Notice.from_json(row[-1]))) for row in rows]


class Notifier:
    """Sends what is in the outbox; see the module's text. ``results`` counts ``(target, "sent" | "failed" | "retried")``."""

    def __init__(
        self,
        state: State,
        targets: Sequence[Target],
        now: Callable[[], float] = time.time,
        *,
        first_pause_seconds: float = _FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = _LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.outbox = Outbox(state, now)
        self.targets = tuple(targets)
        self.results: Counter[tuple[str, str]] = Counter(
            {(target.name, result): 0 for target in self.targets for result in ("sent", "failed", "retried")}
        )
        self._workers = [_Worker(self, target, now, first_pause_seconds, longest_pause_seconds) for target in self.targets]
        self._lock = threading.Lock()

    def offer(self, notice: Notice) -> int:
        """:meth:`Outbox.offer` to all targets."""
        return self.outbox.offer(notice, self.targets)

    def start(self) -> None:
        """Starts a thread a target; what an earlier process left pending is sent first."""
        gone = self.outbox.drop_unknown([target.name for target in self.targets])
        if gone:
            _log.warning("%d notices waited for targets that are configured no more; they are not sent", gone)
        for worker in self._workers:
            worker.start()

    def wake(self) -> None:
        """Something was offered and committed: no need to wait for the next look."""
        for worker in self._workers:
            worker.wake()

    def stop(self) -> None:
        """Ends the threads after the attempt that each is at; what is pending goes on at the next start."""
        for worker in self._workers:
            worker.stopping = True
            worker.wake()
        until = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.join(until)

    def drain(self, timeout: float) -> bool:
        """Waits until nothing is pending, at most ``timeout`` seconds; whether that is so. Without the threads it does one round itself."""
        until = time.monotonic() + timeout
        for worker in self._workers:
            if worker.started:
                worker.wake()
            else:
                worker.round()
        for worker in self._workers:
            while self.outbox.count(worker.target.name):
                left = until - time.monotonic()
                if left <= 0 or not worker.started:
                    return False
                worker.settled.wait(min(left, 0.1))
                worker.settled.clear()
        return True

    def count(self, target: str, result: str) -> None:
        """Adds to the results."""
        with self._lock:
            self.results[target, result] += 1


class _Worker:
    """The thread of one target."""

    def __init__(self, notifier: Notifier, target: Target, now: Callable[[], float], first: float, longest: float) -> None:
        self.target = target
        self.stopping = False
        self.settled = threading.Event()
        self._notifier = notifier
        self._now = now
        self._pauses = (first, longest)
        self._awake = threading.Event()
        self._due = 0.0  # monotonic: not before
        self._failures = 0
        self._taken: set[int] = set()
        self._pruned: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        return self._thread is not None

    def start(self) -> None:
        self.stopping = False
        self._thread = threading.Thread(target=self._work, name=f"sentinel-notify-{self.target.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        self._awake.set()

    def join(self, until: float) -> None:
        if self._thread is not None:
            self._thread.join(max(0.0, until - time.monotonic()))
            self._thread = None

    def _work(self) -> None:
        while not self.stopping:
            self._awake.clear()
            more = False
            try:
                more = self.round()
            except UserError as error:
                _log.error("%s", error)
                self._rest(0.0)
            except Exception:
                # Who stopped us does not wait for long, and may have closed the state database.
                if not self.stopping:
                    _log.exception("unexpected error while going through the notices for %s", self.target.name)
            if not more:
                self._awake.wait(_POLL_SECONDS)

    def round(self) -> bool:
        """Sends what is pending as long as the target takes it, at most :data:`_ROUND`; whether there may be more at once."""
        outbox = self._notifier.outbox
        if time.monotonic() < self._due:
            return False
        rows = outbox.pending(self.target.name)
        for row in rows:
            if self.stopping or not self._send(row):
                return False
        self._say_again()
        if self._pruned is None or time.monotonic() > self._pruned + _PRUNE_EVERY_SECONDS:
            outbox.prune()
            self._pruned = time.monotonic()
        return len(rows) == _ROUND

    def _send(self, row: Row) -> bool:
        """Whether the next one may be tried."""
        outbox, name = self._notifier.outbox, self.target.name
        if row.seq not in self._taken:
            try:
                earlier = outbox.earlier(row) if row.notice.resolved else []
                self._hand_over(row.notice, earlier)
            except TargetError as error:
                return self._failed(row, error)
            # While the state can't be written it is not sent again and again.
            self._taken.add(row.seq)
        outbox.settle(row, "sent")
        self._taken.discard(row.seq)
        self._failures = 0
        self._notifier.count(name, "sent")
        self.settled.set()
        return True

    def _hand_over(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        try:
            self.target.send(notice, earlier)
        except TargetError:
            raise
        except Exception as error:
            # A bug. Without the error's own words: a library may put an address with its token into them.
            places = "".join(traceback.format_tb(error.__traceback__))
            _log.error("unexpected %s while sending a notice to %s:\n%s", type(error).__name__, self.target.name, places)
            raise TargetError(f"unexpected {type(error).__name__}") from None

    def _failed(self, row: Row, error: TargetError) -> bool:
        outbox, name = self._notifier.outbox, self.target.name
        if error.for_good or self._now() - row.created > GIVE_UP_SECONDS:
            _log.error("%s: a notice of kind %s was not delivered: %s", name, row.notice.kind, error)
            outbox.settle(row, "failed", str(error))
            self._notifier.count(name, "failed")
            self.settled.set()
            return True
        if str(error) != row.error:
            _log.warning("%s: %s; trying again", name, error)
        outbox.tried(row, str(error))
        self._notifier.count(name, "retried")
        self._rest(error.after_seconds)
        return False

    def _rest(self, at_least: float) -> None:
        first, longest = self._pauses
        self._due = time.monotonic() + min(longest, max(at_least, first * 2 ** min(self._failures, 30)))
        self._failures += 1

    def _say_again(self) -> None:
        every, now = self.target.again_seconds, self._now()
        if not every:
            return
        for row in self._notifier.outbox.lasting(self.target.name, now - self.target.lasts_seconds, now - every):
            if self.stopping:
                return
            try:
                self._hand_over(row.notice, [])
            except TargetError as error:
                _log.warning("%s: %s; trying again", self.target.name, error)
                self._rest(error.after_seconds)
                return
            self._notifier.outbox.said_again(row)


def as_dict(notice: Notice, host: str) -> dict[str, Any]:
    """A notice as JSON carries it to webhooks and commands; ``host`` is the machine that it is about."""
    from sentinel.detect.detection import format_time

    return {"host": host, **notice._asdict(), "time": format_time(notice.time)}
