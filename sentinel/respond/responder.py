"""Drives policy, journal, locker and what follows: the daemon hands in detections, a thread of its own does what was decided.

:meth:`Responder.handle` only touches the state database: in one transaction it journals what policy decides and marks
the detections as handled. Whatever was committed as a detection and not handled when a process died is handled at the
next start, and whatever was journalled as pending is carried out then. The thread is the only one to talk to the mail
system's database and to run programs, so that one being slow or down never holds up detection; it tries short failures again at once and
longer ones with growing pauses, for as long as it takes.

A lock is checked against the log: mail of the account that is accepted when the grace is over means that the lock does not work,
and that is a detection of its own, ``lock-ineffective``.

The functions at the end are what the command line does by hand. They work beside a running daemon: both go by the
journal.
"""

import contextlib
import hashlib
import logging
import re
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from sentinel.config import Mode, PolicySettings
from sentinel.detect.detection import Detection, account_key
from sentinel.detect.engine import Accepted, OpenMessages
from sentinel.errors import UserError
from sentinel.respond import chain
from sentinel.respond.journal import Action, Done, Journal, Step, Superseded
from sentinel.respond.locks import Locker, LockError, LockFailed, LockRefused, LockTrouble, LockUnavailable
from sentinel.respond.policy import Policy, printable, protecting_pattern
from sentinel.respond.response import STEPS, Facts, Response, Session, StepError
from sentinel.respond.telling import Teller
from sentinel.state import State

ACTIONS = ("lock", "unlock", "notify", *(step for step in STEPS if step != "verify"), "ban")
RESULTS = ("simulated", "done", "failed", "refused")
INEFFECTIVE = "lock-ineffective"

_log = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
"""How soon the thread sees what another process put into the journal."""
_TROUBLE_ATTEMPTS = 30
"""Rounds after which an error that is not about reaching the database is given up, and a step too."""
_QUICK_ATTEMPTS = 3
_QUICK_SECONDS = 5.0
_STOP_SECONDS = 20.0
"""Longer than connecting and one statement may take."""
_SLOW_SECONDS = 3.0
"""How long a lock may take before the rest is begun without it."""
_LEASE_SECONDS = 15.0
"""For how long a step is left to the process that has begun it; when that dies over it, mail goes on leaving for no longer."""
_LONG_STEPS = ("hold", "hold-late")
_LOOKED_AT_ONCE = 100
_PASSING = ("released", "cap", "breaker")
"""Refusals whose reason passes without another detection."""
_NOT_YET_SECONDS = 5.0
_MAX_ACCOUNTS = 1000
_MAX_SESSIONS = 50
_ACCEPTED_LINE = re.compile(r"^[^\[]{1,200}/smtpd\[([0-9]{1,10})\]: [0-9A-Za-z]{6,24}: client=[^\[\]]{0,300}\[([0-9A-Fa-f.:]{2,45})\]")
"""An evidence line as smtpd writes it: from the line's beginning, before any text that a client chooses."""


class Responder:
    """See the module's text. ``now`` is the wall clock in seconds."""

    def __init__(
        self,
        state: State,
        policy: PolicySettings,
        locker: Locker | None = None,
        mode: Mode | None = None,
        now: Callable[[], float] = time.time,
        *,
        response: Response | None = None,
        open_messages: Callable[[str], OpenMessages | None] | None = None,
        teller: Teller | None = None,
        on_action: Callable[[Action], None] | None = None,
        first_pause_seconds: float = 1.0,
        longest_pause_seconds: float = 60.0,
    ) -> None:
        """``mode`` overrides the policy's. ``response``: what follows a lock; ``open_messages``: what the log knows of an
        account's mail under way, asked from the thread. Reads back from the state what policy has to remember. Raises UserError.
        """
        settings = policy if mode is None else policy.model_copy(update={"mode": mode})
        if settings.may_enforce and locker is None:
            raise UserError("policy.mode is enforce, but there is no database to lock accounts in; add a database section or --database")
        self.state = state
        self.mode: Mode = settings.mode
        self._teller = teller
        self.journal = Journal(state, teller.action if teller else None)
        self.policy = Policy(settings)
        self.results: Counter[tuple[str, str]] = Counter({(action, result): 0 for action in ACTIONS for result in RESULTS})
        self.on_action = [on_action] if on_action else []
        self.caught_up = True
        """Whether the logs have been read up to now: before that, an account's silence tells nothing."""
        self._locker = locker
        self._response = response
        self._open_messages = open_messages
        self._now = now
        self._pauses = (first_pause_seconds, longest_pause_seconds)
        self._due: dict[str, float] = {}  # action id -> monotonic time of the next attempt
        self._lock = threading.RLock()  # policy, sessions and results
        self._wake = threading.Condition()
        self._awake = False
        self._idle = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._sessions: OrderedDict[str, deque[Session]] = OrderedDict()
        self._standing_locks: dict[str, Action] = {}
        self._watch: tuple[int, set[str]] = (-1, set())
        self._unhandled: list[Detection] = []
        for data, handled in state.account_detections(settings.memory, now() + settings.max_evidence_age):
            detection = Detection.from_dict(data)
            if handled:
                self.policy.remember(detection, now())
            else:
                self._unhandled.append(detection)
        # Accounts that policy looks at again when the reason why they were left alone has passed.
        since = now() - settings.memory
        self._left_alone = {account_key(action.account): action.account for action in self.journal.left_alone(since)}

    # the daemon's side

    def handle(self, detections: Sequence[Detection], active: int | None = None) -> list[Action]:
        """Journals what policy decides about detections that are committed; the new rows. Never waits for the mail
        database. ``active``: how many accounts send mail at present.
        """
        with self._lock:
            earlier, self._unhandled = self._unhandled, []
            known = {detection.id for detection in earlier}
            every = [*earlier, *(detection for detection in detections if detection.id not in known)]
            if not every:
                return []
            new: list[Action] = []
            now = self._now()
            try:
                with self.state.transaction():
                    for detection in every:
                        account = detection.subject.get("sasl_username")
                        if account and self.policy.remember(detection, now):
                            self._remember_sessions(account, _sessions_of(detection))
                            new += self._decide(account, now, active)
                    self.state.mark_handled([detection.id for detection in every])
            except UserError:
                self._unhandled = earlier
                raise
        self._announce(new)
        return new

    def _decide(self, account: str, now: float, active: int | None = None, *, again: bool = False) -> list[Action]:
        """What policy does about an account, journalled; also the locks that an opening breaker stops. ``again``: it was decided before
        and counted for the breaker then, which somebody may have closed since because these are culprits indeed.
        """
        settings = self.policy.settings
        simulated = self.policy.mode_of(account) != "enforce"
        standing = self.journal.standing(account, now, simulated=simulated, breaker_span=settings.breaker.span)
        if again:
            standing = standing._replace(others_lately=0)
        decision = self.policy.decide(account, now=now, standing=standing, protected=self.journal.protected(), active=active)
        if decision is None:
            return []
        expires = None if settings.unlock_after is None else now + settings.unlock_after
        action = self.journal.decide(decision, now, expires=expires)
        new = [action] if action else []
        if decision.kind in _PASSING:
            self._left_alone[account_key(account)] = account
        if decision.trips and self.journal.open_breaker(decision.trips, now):
            _log.critical("the breaker is open, policy locks nobody any more: %s; close it with: sentinel locks resume", decision.trips)
            stopped = self._refuse_waiting(lambda _: f"breaker: {decision.trips}")
            if self._teller is not None:
                self._teller.breaker_opened(decision.trips, self.journal.wanted(now - settings.breaker.span), now)
            new += stopped
        return new

    def _announce(self, actions: Iterable[Action]) -> None:
        some = False
        for action in actions:
            self._tell(action)
            some = True
        if some:
            self._wake_up()

    def accepted(self, rows: Iterable[Accepted]) -> list[Detection]:
        """Mail of watched accounts that smtpd took. New detections of locks that do not work, committed."""
        found = []
        with self._lock:
            for row in rows:
                self._remember_sessions(row.account, [Session(row.pid, row.client_ip, row.time / 1e6)])
                lock = self._standing_locks.get(account_key(row.account))
                if lock is not None and self._response is not None and self._response.settings.verify:
                    late = row.time / 1e6 - lock.changed - self._response.settings.grace
                    if late > 0:
                        found += self._ineffective(lock, row)
        return found

    def _ineffective(self, lock: Action, row: Accepted) -> list[Detection]:
        assert self._response is not None
        detection = Detection(
            id=hashlib.blake2b(f"{INEFFECTIVE}\0{lock.id}".encode(), digest_size=10).hexdigest(),
            rule=INEFFECTIVE,
            severity="critical",
            score=0.0,
            time=row.time,
            subject={"sasl_username": row.account},
            window=self._response.settings.grace,
            measure="count",
            value=1.0,
            threshold=1.0,
            evidence=(row.evidence,),
            related={"client_ips": [row.client_ip], "queue_ids": [row.queue_id]},
            description=(
                f"The account was locked, and {row.time / 1e6 - lock.changed:.0f} seconds later the server still accepted a message "
                "from it."
            ),
            advice=(
                "Does the authentication query test the column that the lock changes? Is Dovecot's auth cache flushed? A session that was "
                "open goes on unless smtpd asks an access map for each recipient. End it: postfix stop and start, or kill that smtpd."
            ),
        )
        now = self._now()
        with self.state.transaction():
            if not self.state.add_detections([detection.to_dict()]):
                return []
            for step in self.journal.steps(lock):
                if step.step == "verify":
                    self.journal.step_tried(step, lock, detection.description, now, due=None)
            self.journal.want(lock, self._response.meanwhile(now), now)
            if self._teller is not None:
                self._teller.ineffective(detection, lock)
        self._wake_up()
        return [detection]

    def watched(self) -> list[str] | None:
        """Accounts whose accepted mail :meth:`accepted` wants to hear of: those with points, and those that are locked. None
        while they are the same as at the last call.
        """
        with self._lock:
            locks = {account_key(lock.account): lock for lock in self.journal.open_locks() if lock.state == "done"}
            seen = self.policy.changes, {lock.id for lock in locks.values()}
            self._standing_locks = locks
            if seen == self._watch:
                return None
            self._watch = seen
            return [*self.policy.accounts(), *(lock.account for lock in locks.values())]

    def _remember_sessions(self, account: str, sessions: Iterable[Session]) -> None:
        key = account_key(account)
        for session in sessions:
            if session.pid <= 1:
                continue
            kept = self._sessions.setdefault(key, deque(maxlen=_MAX_SESSIONS))
            self._sessions.move_to_end(key)
            for other in [other for other in kept if other.pid == session.pid]:
                kept.remove(other)
            kept.append(session)
        while len(self._sessions) > _MAX_ACCOUNTS:
            self._sessions.popitem(last=False)

    def scores(self) -> dict[str, float]:
        """Accounts that have points now, and their totals; what came before an account's unlock is settled."""
        with self._lock:
            return self.policy.scores(int(self._now() * 1e6), self.journal.releases())

    def locked(self) -> list[str]:
        """Accounts that are locked now, as the mailbox table has them."""
        return [action.login or action.account for action in self.journal.open_locks() if action.state == "done"]

    def start(self) -> None:
        """Settles what an earlier process left behind, and starts the thread."""
        self.handle([])
        self._announce(self._drop_unwanted())
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="sentinel-respond", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the attempt that it is at. What is pending stays in the journal."""
        self._stopping = True
        self._wake_up()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            if self._thread.is_alive():
                _log.warning("the mail database does not answer; its pending actions go on at the next start")
            self._thread = None

    def drain(self, timeout: float) -> bool:
        """Waits until nothing is pending, at most ``timeout`` seconds; whether that is so. Without the thread it does
        one round itself.
        """
        if self._thread is None:
            self._announce(self._drop_unwanted())
            self._round()
            return not self._busy()
        deadline = time.monotonic() + timeout
        with self._wake:
            while True:
                if self._idle and not self._awake and not self._busy():
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._wake.wait(min(left, 0.5))

    # the thread

    def _wake_up(self) -> None:
        with self._wake:
            self._awake = True
            self._wake.notify_all()

    def _work(self) -> None:
        if self._locker is not None:
            # What the first lock needs is loaded now: half a second is hundreds of recipients.
            import subprocess  # noqa: F401

            import stamina  # noqa: F401
        trouble = ""
        while not self._stopping:
            with self._wake:
                self._awake = False
                self._idle = False
            before, trouble = trouble, ""
            pause = _POLL_SECONDS
            try:
                self._round()
                pause = max(0.01, min(_POLL_SECONDS, self._next_due()))
            except UserError as error:
                trouble = str(error)
                if trouble != before:
                    _log.error("%s", error)
            except Exception:
                # A bug must not end locking for good while the daemon looks healthy.
                _log.exception("unexpected error while carrying out actions")
            with self._wake:
                self._idle = True
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._awake or self._stopping, pause)

    def _next_due(self) -> float:
        """Seconds until something is to be tried again."""
        waits = [due - time.monotonic() for due in self._due.values()]
        step_due = self.journal.next_due()
        if step_due is not None:
            waits.append(step_due - self._now())
        return min(waits, default=_POLL_SECONDS)

    def _mine(self) -> list[Action]:
        """Pending actions that this responder may carry out."""
        if self._locker is None:
            return []
        return [
            action
            for action in self.journal.pending()
            if action.by == "hand"
            or action.action == "unlock"
            or action.prior is not None  # the row may have been changed
            or self.policy.mode_of(action.account) == "enforce"
        ]

    def _busy(self) -> bool:
        return bool(self._mine() or (self._response is not None and self.journal.due_steps(self._now())))

    def _round(self) -> None:
        if self._locker is None:
            self._take_steps()
            return
        self._undo_expired()
        self._look_again()
        pending = self._mine()
        self._due = {action.id: self._due[action.id] for action in pending if action.id in self._due}
        for action in pending:
            if self._stopping:
                return
            if self._due.get(action.id, 0.0) > time.monotonic():
                continue
            with self._not_waiting(action):
                settled = carry_out(self.journal, self._locker, action, self._now, self.policy.settings.protected, self._response)
            if settled.state == "pending":
                self._due[action.id] = time.monotonic() + self._pause(settled.attempts)
            self._tell(settled)
        self._take_steps()

    @contextlib.contextmanager
    def _not_waiting(self, action: Action) -> Iterator[None]:
        """Where a database takes a lock's statement and does not answer, what can be done meanwhile is done by another thread."""
        if self._response is None or action.action != "lock" or not self._response.meanwhile(0.0):
            yield
            return
        timer = threading.Timer(_SLOW_SECONDS, self._contain, [action, self._response])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _contain(self, action: Action, response: Response) -> None:
        try:
            with self.state.transaction():
                current = self.journal.get(action.id)
                if current is None or current.state != "pending" or _stopped(self.journal, current, self.policy.settings.protected):
                    return
                self.journal.want(action, response.meanwhile(self._now()), self._now(), again=False)
            self._take_steps(to_the_end=True)
        except UserError as error:
            _log.error("%s", error)
        except Exception:
            _log.exception("unexpected error while the database did not answer")

    def _pause(self, attempts: int) -> float:
        first, longest = self._pauses
        return min(longest, first * 2.0 ** min(attempts - 1, 30))

    def _take_steps(self, *, to_the_end: bool = False) -> None:
        """Does what is due. What takes long gives way to a lock that nobody has tried yet, unless ``to_the_end``."""
        if self._response is None:
            return
        for step in self.journal.due_steps(self._now()):
            if self._stopping or (not to_the_end and step.step in _LONG_STEPS and self._new_work()):
                return
            if step.step == "verify" and not self.caught_up:
                self.journal.claim(step, self._now(), self._now() + _NOT_YET_SECONDS)
                continue
            action = self.journal.get(step.action)
            if action is not None:
                result = take_step(self.journal, self._response, action, step, self._facts_of(action, step), self._now, self._pause)
                if result is not None:
                    self._tell_step(action, step, result)

    def _new_work(self) -> bool:
        """Whether something waits that nobody has tried yet: it goes before what takes long."""
        return any(action.id not in self._due for action in self._mine())

    def _facts_of(self, action: Action, step: Step) -> Facts:
        messages = None
        if step.step in ("hold", "hold-late") and self._open_messages is not None:
            messages = self._open_messages(action.account)
        with self._lock:
            sessions = tuple(self._sessions.get(account_key(action.account), ()))
        return Facts(messages.mine, messages.others, sessions) if messages else Facts(sessions=sessions)

    def _undo_expired(self) -> None:
        now = self._now()
        for lock in self.journal.expired(now):
            action = self.journal.by_hand("unlock", lock.account, "its time is over", now, target=lock, by="policy")
            if action is not None and lock.prior is None:
                self.journal.finish(action, "done", now)

    def _look_again(self) -> None:
        """Decides anew about accounts that were left alone for a reason that passes. As long as it has not, the decision is the same and
        is not journalled again.
        """
        new: list[Action] = []
        with self._lock:
            now = self._now()
            # A hundred at a time: who is still left alone goes to the end of the line.
            for key in list(self._left_alone)[:_LOOKED_AT_ONCE]:
                account = self._left_alone.pop(key)
                with self.state.transaction():
                    new += self._decide(account, now, again=True)
        self._announce(new)

    def _drop_unwanted(self) -> list[Action]:
        """Locks that policy decided before the admin took enforce back."""
        return self._refuse_waiting(
            lambda action: None if self.policy.mode_of(action.account) == "enforce" else f"mode: policy.mode is {self.mode} now"
        )

    def _refuse_waiting(self, reason: Callable[[Action], str | None]) -> list[Action]:
        """Refuses locks of policy that nothing was done for yet."""
        refused = []
        for action in self.journal.pending():
            why = reason(action) if action.by == "policy" and action.action == "lock" and action.prior is None else None
            if why is not None and self.journal.finish(action, "refused", self._now(), refused=why):
                refused.append(self.journal.get(action.id) or action)
        return refused

    def _tell_step(self, action: Action, step: Step, result: str) -> None:
        if step.step != "verify":
            with self._lock:
                self.results[step.step, result] += 1
        current = next((other for other in self.journal.steps(action) if other.step == step.step), step)
        what = f"{step.step} after the {action.action} of {printable(action.account)}"
        _log.info("%s: %s: %s (journal %s)", what, result, current.detail or "", chain.head(self.state))

    def _tell(self, action: Action) -> None:
        result = "failed" if action.state == "pending" and action.attempts else action.state
        if result == "pending":
            return
        with self._lock:
            self.results[action.action, result] += 1
        # The journal's last number and hash, for whoever wants to see later that it is still the same (locks verify-journal --head).
        _log.info(
            "%s %s: %s: %s (journal %s)",
            action.action,
            printable(action.account),
            result,
            action.refused or action.error or action.why,
            chain.head(self.state),
        )
        for callback in self.on_action:
            try:
                callback(action)
            except Exception:
                _log.exception("a listener to actions failed")


def carry_out(
    journal: Journal,
    locker: Locker,
    action: Action,
    now: Callable[[], float] = time.time,
    protected: Sequence[str] = (),
    response: Response | None = None,
) -> Action:
    """Tries a pending action, short failures several times; the action as it stands then. Never raises for the
    database's sake. What follows it becomes due.
    """
    import stamina
    import stamina.instrumentation

    # Its default hooks print to standard output; what happened stands in the journal.
    stamina.instrumentation.set_on_retry_hooks([])
    began = time.monotonic()
    try:
        refused = _stopped(journal, action, protected)
        if refused is not None:
            journal.finish(action, "refused", now(), refused=refused)
        else:
            # Where something else can be done meanwhile, it is not to wait for the same thing to fail three times.
            once = action.action == "lock" and response is not None and bool(response.meanwhile(0.0))
            for attempt in stamina.retry_context(
                on=_worth_a_quick_retry,
                attempts=1 if once else _QUICK_ATTEMPTS,
                timeout=_QUICK_SECONDS,
                wait_initial=0.1,
                wait_max=1.0,
                wait_jitter=0.1,
            ):
                with attempt:
                    (_unlock if action.action == "unlock" else _lock)(journal, locker, action, now, response)
    except Superseded:
        pass  # the journal says what became of it
    except LockRefused as error:
        if action.action == "unlock":
            # The account is gone, and its lock with it.
            journal.finish(action, "done", now(), error=str(error), steps=_after_unlock(journal, response, action, now))
        else:
            journal.finish(action, "refused", now(), refused=f"account: {error}")
    except LockError as error:
        _not_done(journal, action, error, now, time.monotonic() - began, response)
    except UserError:
        raise  # the state can't be written: nothing can be noted, and nothing more is done
    except Exception as error:
        # One action that meets a bug must not keep the others from their turn.
        _log.exception("unexpected error at the %s of %s", action.action, printable(action.account))
        _not_done(journal, action, LockTrouble(f"unexpected {type(error).__name__}"), now, time.monotonic() - began, response)
    return journal.get(action.id) or action


def _not_done(
    journal: Journal, action: Action, error: LockError, now: Callable[[], float], seconds: float, response: Response | None
) -> None:
    trouble = isinstance(error, LockTrouble)
    hopeless = isinstance(error, LockFailed) or (trouble and action.troubles + 1 >= _TROUBLE_ATTEMPTS)
    with journal.state.transaction():
        if hopeless:
            journal.finish(action, "failed", now(), error=str(error), done=Done(seconds=seconds))
        else:
            journal.tried(action, str(error), now(), seconds=seconds, trouble=trouble)
        current = journal.get(action.id)
        if response is not None and action.action == "lock" and current is not None and current.state in ("pending", "failed"):
            journal.want(action, response.meanwhile(now()), now())


def _stopped(journal: Journal, action: Action, protected: Sequence[str]) -> str | None:
    """Why a lock that policy decided and nothing was done for yet is not wanted any more."""
    if action.action != "lock" or action.by != "policy" or action.prior is not None:
        return None
    pattern = protecting_pattern(action.account, (*protected, *journal.protected()))
    if pattern is not None:
        return f"protected: matches {printable(pattern)}"
    breaker = journal.breaker()
    return f"breaker: {breaker[0]}" if breaker else None


def _worth_a_quick_retry(error: Exception) -> bool:
    return isinstance(error, (LockUnavailable, LockTrouble))


def _lock(journal: Journal, locker: Locker, action: Action, now: Callable[[], float], response: Response | None) -> None:
    def record(login: str, prior: dict[str, object], locked_already: bool) -> None:
        journal.record_prior(action, login, prior, locked_already=locked_already, now=now())

    began = time.monotonic()
    result = locker.lock(action.account, record)
    done = Done(result.statement, result.rows, time.monotonic() - began)
    if not journal.finish(
        action,
        "done",
        now(),
        error="it was locked already" if result.locked_already and _first(journal, action) else None,
        done=done,
        steps=response.after_lock(now()) if response else None,
    ):
        # Undone by hand between the statement and here.
        current = journal.get(action.id)
        if current is not None and current.state != "done" and current.prior is not None:
            journal.reopen_unlock(current, now())


def _first(journal: Journal, action: Action) -> bool:
    """Whether no earlier attempt of ours can have locked it."""
    return action.prior is None and action.attempts == 0


def _unlock(journal: Journal, locker: Locker, action: Action, now: Callable[[], float], response: Response | None) -> None:
    if action.login is None or action.prior is None:
        raise LockFailed("the journal holds no prior values for this lock")
    began = time.monotonic()
    result = locker.unlock(action.login, action.prior)
    done = Done(result.statement, result.rows, time.monotonic() - began)
    journal.finish(action, "done", now(), done=done, steps=_after_unlock(journal, response, action, now))


def _after_unlock(journal: Journal, response: Response | None, action: Action, now: Callable[[], float]) -> dict[str, float]:
    """What an unlock brings; not what its lock's own steps do when they are taken back."""
    lock = journal.get(str(action.target))
    if response is None or (lock is not None and any(step.step == "flush" and step.state == "done" for step in journal.steps(lock))):
        return {}
    return response.after_unlock(now())


def take_step(
    journal: Journal,
    response: Response,
    action: Action,
    step: Step,
    facts: Facts,
    now: Callable[[], float] = time.time,
    pause: Callable[[int], float] = lambda attempts: 0.0,
) -> str | None:
    """Does a step that is due: ``done`` or ``failed``, or None when another process does it, or it is not wanted any more."""
    if not journal.claim(step, now(), now() + _LEASE_SECONDS):
        return None
    if step.step == "verify":
        return _verify(journal, response, action, step, now)
    began = time.monotonic()
    found = next((other.found for other in journal.steps(action) if other.step == "map"), None)
    try:
        done = response.perform(
            step.step,
            action.login or action.account,
            facts,
            record=lambda there: journal.record_found(step, there),
            found=found,
        )
    except Exception as problem:
        error = problem if isinstance(problem, StepError) else StepError(f"unexpected {type(problem).__name__}")
        if error is not problem:
            _log.exception("unexpected error at the step %s of %s", step.step, printable(action.account))
        attempts = step.attempts + 1
        # Who is unlocked must not stand in the map for ever because postmap did not work for an hour.
        given_up = error.final or (attempts >= _TROUBLE_ATTEMPTS and step.step != "unmap")
        due = None if given_up else now() + pause(attempts)
        journal.step_tried(step, action, str(error), now(), due=due, done=Done(seconds=time.monotonic() - began))
        return "failed"
    journal.step_done(step, action, done, now())
    return "done"


def _verify(journal: Journal, response: Response, action: Action, step: Step, now: Callable[[], float]) -> str:
    """The log has been silent about the account for as long as it was to be; otherwise the step has failed before."""
    journal.step_done(step, action, Done(detail=f"no mail of it was accepted from {response.settings.grace:g} s after the lock on"), now())
    return "done"


def _sessions_of(detection: Detection) -> Iterable[Session]:
    """Processes that the evidence lines name."""
    for item in detection.evidence:
        match = _ACCEPTED_LINE.match(str(item.get("line", "")))
        if match:
            yield Session(int(match[1]), match[2], detection.time / 1e6)


# by hand


def list_locks(state: State, *, every: bool = False, limit: int = 1000) -> list[Action]:
    """Open locks, oldest first; with ``every`` the journal's newest rows of any kind, newest last."""
    journal = Journal(state)
    return journal.actions(limit) if every else journal.open_locks()


def lock_by_hand(
    state: State,
    account: str,
    why: str,
    locker: Locker | None,
    now: Callable[[], float] = time.time,
    *,
    response: Response | None = None,
    facts: Facts | None = None,
    expires: float | None = None,
) -> Action:
    """Locks an account now, and does what follows. The action is done, refused or failed, or pending when the database
    could not be reached; a running daemon goes on with it then. An account that is locked already gives its existing action.
    """
    _check_given(account)
    if locker is None:
        raise UserError("locking needs the mail system's database; give --database, or --config with a database section")
    journal = Journal(state)
    with state.transaction():
        action = journal.open_lock(account)
        if action is None:
            action = journal.by_hand("lock", account, why, now(), expires=expires)
        elif action.by == "policy" or action.expires != expires:
            action = journal.adopt(action, why, now(), expires=expires)
    if action is None:
        raise UserError(f"{printable(account)} is being locked or unlocked by another process; look at: sentinel locks list")
    if action.state == "pending":
        action = carry_out(journal, locker, action, now, response=response)
        _take_steps_of(journal, response, action, facts or Facts(), now)
    return action


def unlock_by_hand(
    state: State,
    account: str,
    why: str,
    locker: Locker | None,
    now: Callable[[], float] = time.time,
    *,
    response: Response | None = None,
    teller: Teller | None = None,
) -> Action:
    """Undoes the lock of an account: its columns hold again what they held before. Policy counts only what happens
    later, and leaves the account alone for a while.

    A lock that was not yet tried is cancelled without touching the database. Raises UserError when there is no lock of
    ours.
    """
    _check_given(account)
    journal = Journal(state, teller.action if teller else None)
    with state.transaction():
        lock = journal.open_lock(account) or journal.failed_lock(account)
        if lock is None:
            raise UserError(f"there is no lock by sentinel on {printable(account)}; sentinel locks list shows those that there are")
        action = None
        if lock.prior is None:
            journal.close_lock(lock.id, now())
            action = journal.by_hand("unlock", account, why, now(), state="done", target=lock)
            if action is not None:
                journal.want(action, _after_unlock(journal, response, action, now), now())
        if action is None:
            if locker is None:
                raise UserError("unlocking needs the mail system's database; give --database, or --config with a database section")
            waiting = [a for a in journal.pending() if a.action == "unlock" and a.target == lock.id]
            action = journal.adopt(waiting[0], why, now()) if waiting else journal.by_hand("unlock", account, why, now(), target=lock)
    if action is None:
        raise UserError(f"{printable(account)} is being unlocked by another process; look at: sentinel locks list")
    if action.state == "pending" and locker is not None:
        action = carry_out(journal, locker, action, now, response=response)
    _take_steps_of(journal, response, action, Facts(), now)
    return action


def _take_steps_of(journal: Journal, response: Response | None, action: Action, facts: Facts, now: Callable[[], float]) -> None:
    if response is None:
        return
    for step in journal.due_steps(now()):
        owner = journal.get(step.action)
        if owner is not None and owner.id in (action.id, action.target):
            take_step(journal, response, owner, step, facts, now, lambda attempts: 1.0)


def resume(state: State, why: str, now: Callable[[], float] = time.time, *, teller: Teller | None = None) -> bool:
    """Closes the breaker: policy may lock again. False when it was not open."""
    journal = Journal(state)
    with state.transaction():
        opened = journal.breaker()
        if opened is None:
            return False
        moment = now()
        journal.close_breaker(why, moment)
        if teller is not None:
            teller.breaker_closed(why, opened[1], moment)
    return True


def protected(state: State) -> list[str]:
    """The patterns that :func:`protect` added."""
    return list(Journal(state).protected())


def protect(state: State, pattern: str, why: str, now: Callable[[], float] = time.time) -> None:
    """Policy never locks accounts that match from now on, in a running daemon too. An existing lock stays."""
    _check_given(pattern)
    Journal(state).protect(pattern, why, now())


def unprotect(state: State, pattern: str, why: str, now: Callable[[], float] = time.time) -> None:
    """Takes a pattern back that :func:`protect` added. Raises UserError when there is none."""
    if not Journal(state).unprotect(pattern, why, now()):
        known = ", ".join(map(printable, Journal(state).protected())) or "none"
        raise UserError(f"{printable(pattern)} is not among the accounts protected at run time (there are: {known})")


def _check_given(account: str) -> None:
    try:
        account.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"the account {printable(account)} is not text in UTF-8; write it as it stands in the mail system's table"
        ) from None
    if not account.strip():
        raise UserError("the account is empty; name one as it logs in, such as info@example.com")
