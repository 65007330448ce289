"""The live loop: source → engine → state → respond, in one thread.

What others do has threads of its own and can't hold up detection: locking in the mail system's database (respond), HTTP (observe),
asking whether that database answers (here). Stopping is a wake-up of the reader; the loop then ends where it always does, between two
reads.

Detections are committed as they come, before anybody acts on them. Position and snapshot are committed together every few seconds: after a
crash the lines since then are read again, give the same detections with the same ids, and those are known already.

While the state can't be written (a full disk) detection goes on and what it finds is kept in memory; nobody is locked, since
nothing is done that was not written down before. No position is saved until all that came before it is.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import sentinel
from sentinel.config import Config
from sentinel.detect.detection import Detection
from sentinel.detect.engine import Accepted, OpenMessages
from sentinel.detect.replies import ReplyClassifier
from sentinel.detect.senders import Logins
from sentinel.errors import UserError
from sentinel.observe.metrics import Metrics
from sentinel.observe.server import Server
from sentinel.observe.status import Snapshot, Status
from sentinel.respond.ban import banner_of
from sentinel.respond.journal import Action, Journal
from sentinel.respond.locks import Locker, LockError
from sentinel.respond.notify import Notifier
from sentinel.respond.responder import INEFFECTIVE, Responder, list_locks
from sentinel.respond.targets import targets_of
from sentinel.respond.telling import Teller
from sentinel.source.follow import Follower
from sentinel.source.position import Position
from sentinel.state import State
from sentinel.wiring import ReplyFiles, engine_of, locker_of, logins_of, response_of

_READ_SECONDS = 1.0
_CHECKPOINT_SECONDS = 5.0
_CHECKPOINT_SHARE = 20
"""A checkpoint that took long is not made again before that many times as long has passed."""
_DATABASE_CHECK_SECONDS = 15.0
_REPLIES_CHECK_SECONDS = 2.0
_CAUGHT_UP_BYTES = 1 << 16
_LONG_STOP_SECONDS = 120 * 86_400
"""After a longer stop the last line read says nothing about the year of the next one."""
_DRAIN_SECONDS = 2.0
_TOLD_SECONDS = 86_400.0
"""What a log tells of longer ago is stored, and no notice is made of it."""
_WRITE_AGAIN_SECONDS = 1.0
_PUBLISH_SECONDS = 0.2
_MAX_UNWRITTEN = 10_000
"""Detections that wait for a state that can be written; with more the logs are left unread until then."""
_ANSWER_SECONDS = 5.0
"""How long the responder's thread waits for the loop to tell what the log knows."""

_log = logging.getLogger("sentinel")


@dataclass(slots=True)
class _Check:
    """What the last look at the mail system's database said."""

    reason: str


@dataclass(slots=True)
class _Question:
    """Which mail of an account is under way: the engine belongs to the loop, so others have to ask it."""

    account: str
    answered: threading.Event = field(default_factory=threading.Event)
    answer: OpenMessages | None = None


class Daemon:
    """One process that follows the logs of a configuration until it is told to stop."""

    def __init__(
        self, config: Config, *, from_start: bool = False, now: Callable[[], float] = time.time, config_path: str | None = None
    ) -> None:
        """``config_path``: of the file, to name it in commands that people are told."""
        self.config = config
        self._config_path = config_path
        self._from_start = from_start
        self._now = now
        self._stopping = threading.Event()
        self._follower: Follower | None = None
        self._detections: Counter[tuple[str, str]] = Counter()
        self._caught_up = False
        self._checkpoint_at: float | None = None
        self._checkpoint_due = 0.0
        self._publish_due = 0.0
        self._dirty = False
        self._unwritten: list[Detection] = []
        self._unheard: deque[Accepted] = deque(maxlen=_MAX_UNWRITTEN)
        self._write_due = 0.0
        self._trouble = ""
        self._new_logins: Logins | None = None
        self._new_replies: ReplyClassifier | None = None
        self._questions: deque[_Question] = deque()
        self._database = _Check("the database that accounts are locked in has not been asked yet" if config.database else "")

    def stop(self) -> None:
        """Ends :meth:`run` soon; for other threads and signal handlers."""
        self._stopping.set()
        if self._follower is not None:
            self._follower.wake()

    def run(self) -> None:
        """Follows until stopped. UserError for what is wrong at the start."""
        logging.basicConfig(
            stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z"
        )
        if "-" in self.config.log:
            raise UserError("run follows files; standard input ends and can't be followed: use replay -")
        self._reply_files = ReplyFiles(self.config.replies)
        engine = engine_of(self.config, newest=int(self._now()))
        locker = locker_of(self.config)
        try:
            with State(self.config.state) as state:
                state.hold()
                self._with_state(engine, state, locker)
        finally:
            if locker is not None:
                locker.close()

    def _with_state(self, engine: Any, state: State, locker: Locker | None) -> None:
        positions = self._resume(engine, state)
        notifier = self._notifier = Notifier(state, targets_of(self.config, now=self._now), self._now)
        banner = self._banner = banner_of(self.config, state, rules=[rule.name for rule in engine.rules], now=self._now)
        self._teller = Teller(state, notifier.targets, self.config.policy.lock_at, self._config_path)
        responder = Responder(
            state,
            self.config.policy,
            locker,
            response=response_of(self.config),
            open_messages=self._ask_for_messages,
            teller=self._teller,
            on_action=lambda _: notifier.wake(),
        )
        status = Status(
            sources=self.config.log,
            rules=[*((rule.name, rule.severity) for rule in engine.rules), (INEFFECTIVE, "critical")],
            detections=state.recent_detections,
            locks=lambda: [_with_steps(action, responder.journal) for action in list_locks(state)],
            mode=responder.mode,
            lock_total=self.config.policy.lock_at,
            targets=[target.name for target in notifier.targets],
        )
        status.count_from(engine.counters())
        metrics = Metrics(status, version=sentinel.__version__)
        follower = Follower(self.config.log, positions=positions, from_start=self._from_start, on_notice=_log.warning)
        self._follower = follower
        try:
            host, port = self.config.listen_address
            with Server(status, metrics, host, port, version=sentinel.__version__) as server, _Signals(self.stop):
                for part in (responder, notifier, banner):
                    if part is not None:
                        part.start()
                for work in (lambda: self._check_database(locker), self._refresh_logins, self._refresh_replies):
                    threading.Thread(target=work, name="sentinel-look", daemon=True).start()
                _log.info(
                    "sentinel %s follows %s; %s mode; status at %s",
                    sentinel.__version__,
                    ", ".join(self.config.log),
                    responder.mode,
                    server.url,
                )
                try:
                    self._loop(engine, state, follower, responder, status, metrics)
                finally:
                    self._stopping.set()
                    responder.drain(_DRAIN_SECONDS)
                    for part in (responder, notifier, banner):
                        if part is not None:
                            part.stop()
        finally:
            follower.close()
        _log.info("stopped")

    def _resume(self, engine: Any, state: State) -> dict[str, Position]:
        """Goes on from the checkpoint, as far as it can be used."""
        try:
            checkpoint = state.load()
            if checkpoint is None:
                return {}
            positions = {path: Position.from_dict(position) for path, position in checkpoint.positions.items() if path in self.config.log}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("the checkpoint of the last run can't be used (%s): the logs are followed as if there had been none", error)
            return {}
        try:
            if not engine.restore(checkpoint.snapshot):
                _log.warning("the rules have changed since the last run: the windows begin anew, the position in the logs is kept")
        except ValueError as error:
            _log.warning("the state of the last run can't be used (%s): the windows begin anew, the position in the logs is kept", error)
        if self._now() - checkpoint.saved_at > _LONG_STOP_SECONDS:
            engine.forget_years()
        self._checkpoint_at = checkpoint.saved_at
        return positions

    def _loop(self, engine: Any, state: State, follower: Follower, responder: Responder, status: Status, metrics: Metrics) -> None:
        # Where the logs stood when they were opened is worth keeping before the first line: what comes while nobody reads is not lost.
        self._dirty = True
        self._checkpoint(engine, state, follower)
        responder.caught_up = False
        timeout = 0.0
        while not self._stopping.is_set():
            watched = responder.watched()
            if watched is not None:
                engine.watch(watched)
            chunks = follower.read(timeout) if len(self._unwritten) < _MAX_UNWRITTEN else self._pause()
            timeout = _READ_SECONDS
            # Taken at once: what is read anew meanwhile comes with the next chunk.
            logins, self._new_logins = self._new_logins, None
            if logins is not None:
                engine.use_logins(logins)
            replies, self._new_replies = self._new_replies, None
            if replies is not None:
                engine.use_replies(replies)
                _log.info("the reply rules have changed and hold from now on")
            found: list[Detection] = []
            if chunks:
                engine.written_until(int(self._now()))
            for chunk in chunks:
                step = engine.feed(chunk)
                found += step.detections
                self._unheard += step.accepted
                self._dirty = True
            if found:
                self._tell(found, metrics)
                self._unwritten += found
            self._answer(engine)
            if time.monotonic() >= self._write_due:
                try:
                    if self._act(engine, state, responder, metrics) | self._checkpoint(engine, state, follower):
                        self._trouble = ""
                except UserError as error:
                    self._write_due = time.monotonic() + _WRITE_AGAIN_SECONDS
                    if self._trouble != str(error):
                        _log.error("%s; detection goes on, and what it finds is written and acted on later", error)
                    self._trouble = str(error)
            if found or time.monotonic() >= self._publish_due:
                self._publish(engine, follower, responder, status)
                self._publish_due = time.monotonic() + _PUBLISH_SECONDS
        self._act(engine, state, responder, metrics)
        self._checkpoint_due = 0.0
        self._checkpoint(engine, state, follower)

    def _pause(self) -> list[Any]:
        self._stopping.wait(_WRITE_AGAIN_SECONDS)
        return []

    def _act(self, engine: Any, state: State, responder: Responder, metrics: Metrics) -> bool:
        """Commits what was found and has policy decide; whether there was anything. UserError where the state can't be written: then
        all of it is done again, which changes nothing about what was done already.
        """
        some = bool(self._unwritten or self._unheard)
        if self._unwritten:
            self._keep(self._unwritten, state)
            responder.handle(self._unwritten, engine.active_accounts())
            self._unwritten = []
            self._wake_others()
        if self._unheard:
            ineffective = responder.accepted(self._unheard)
            self._unheard.clear()
            if ineffective:
                self._tell(ineffective, metrics)
                self._wake_others()
        return some

    def _keep(self, found: Iterable[Detection], state: State) -> None:
        """Commits detections, and with them what is to be told of them and which addresses are to be banned."""
        with state.transaction():
            state.add_detections([detection.to_dict() for detection in found])
            since = int((self._now() - _TOLD_SECONDS) * 1e6)
            self._teller.detections(detection for detection in found if detection.time >= since)
            if self._banner is not None:
                for detection in found:
                    self._banner.offer(detection.to_dict())

    def _wake_others(self) -> None:
        self._notifier.wake()
        if self._banner is not None:
            self._banner.wake()

    def _ask_for_messages(self, account: str) -> OpenMessages | None:
        """What the log knows of an account's mail under way; None when the loop does not answer. For other threads."""
        question = _Question(account)
        self._questions.append(question)
        if self._follower is not None and not self._stopping.is_set():
            self._follower.wake()
            question.answered.wait(_ANSWER_SECONDS)
        return question.answer

    def _answer(self, engine: Any) -> None:
        while self._questions:
            question = self._questions.popleft()
            question.answer = engine.open_messages(account=question.account)
            question.answered.set()

    def _tell(self, found: Iterable[Detection], metrics: Metrics) -> None:
        now = self._now()
        for detection in found:
            self._detections[detection.rule, detection.severity] += 1
            metrics.observe_decision(max(0.0, now - detection.time / 1e6))
            _log.warning(
                "detection %s %s %s score=%g value=%g threshold=%g id=%s",
                detection.rule,
                detection.severity,
                " ".join(f"{key}={value!r}" for key, value in detection.subject.items()),
                detection.score,
                detection.value,
                detection.threshold,
                detection.id,
            )

    def _checkpoint(self, engine: Any, state: State, follower: Follower) -> bool:
        """Saves where everything stands when it is time; whether it did."""
        if not self._dirty or time.monotonic() < self._checkpoint_due:
            return False
        began = time.monotonic()
        state.save({path: position.to_dict() for path, position in follower.positions().items()}, engine.snapshot(), ())
        ended = time.monotonic()
        self._checkpoint_due = ended + max(_CHECKPOINT_SECONDS, _CHECKPOINT_SHARE * (ended - began))
        self._checkpoint_at = self._now()
        self._dirty = False
        return True

    def _publish(self, engine: Any, follower: Follower, responder: Responder, status: Status) -> None:
        lag = follower.lag()
        # Once caught up, a burst of lines does not make it unready again: it is read within the second.
        self._caught_up = self._caught_up or sum(lag.values()) <= _CAUGHT_UP_BYTES
        responder.caught_up = sum(lag.values()) <= _CAUGHT_UP_BYTES
        behind = "" if self._caught_up else f"catching up: {sum(lag.values()):,} bytes of log are still to be read"
        reason = self._trouble or behind or self._database.reason
        status.publish(
            Snapshot(
                counters=engine.counters(),
                detections=self._detections,
                actions={**responder.results, **self._bans()},
                notices=self._notifier.results,
                breaker=responder.journal.breaker() is not None,
                scores=responder.scores(),
                locked=responder.locked(),
                lag=lag,
                rotations=follower.rotations,
                overlong=follower.overlong,
                last_event=engine.last_events(),
                # With nothing to save, what is saved is of now.
                checkpoint_at=self._checkpoint_at if self._dirty else self._now(),
                ready=not reason,
                reason=reason,
            )
        )

    def _bans(self) -> dict[tuple[str, str], int]:
        return {("ban", result): count for result, count in self._banner.results.items()} if self._banner is not None else {}

    def _check_database(self, locker: Locker | None) -> None:
        """Asks now and then whether accounts could be locked, for /readyz."""
        while locker is not None and not self._stopping.is_set():
            try:
                locker.check()
                self._database = _Check("")
            except LockError as error:
                if self._database.reason != str(error):
                    _log.warning("%s", error)
                self._database = _Check(str(error))
            self._stopping.wait(_DATABASE_CHECK_SECONDS)

    def _refresh_logins(self) -> None:
        """Reads the map of senders and logins anew now and then; the loop takes it over."""
        settings = self.config.logins
        while settings is not None and not self._stopping.wait(settings.refresh):
            try:
                self._new_logins = logins_of(settings)
            except UserError as error:
                _log.warning("%s; going on with the map read before", error)

    def _refresh_replies(self) -> None:
        """Reads the reply rules anew when one of their files has changed; the loop takes them over."""
        while not self._stopping.wait(_REPLIES_CHECK_SECONDS):
            if self._reply_files.changed():
                try:
                    self._new_replies = self._reply_files.load()
                except UserError as error:
                    _log.warning("%s; going on with the reply rules read before", error)


def _with_steps(action: Action, journal: Journal) -> dict[str, Any]:
    """A lock for /api/locks, with what followed it."""
    return {**action.to_dict(), "steps": {step.step: step.state for step in journal.steps(action)}}


class _Signals:
    """SIGTERM, SIGINT and SIGHUP stop the daemon in order, where it runs in the main thread."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._before[number] = signal.signal(number, lambda *_: self._stop())

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
