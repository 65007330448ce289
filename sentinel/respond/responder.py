"""Drives policy, journal and locker: the daemon hands in detections, a thread of its own does what was decided.

:meth:`Responder.handle` only touches the state database: in one transaction it journals what policy decides and marks
the detections as handled. Whatever was committed as a detection and not handled when a process died is handled at the
next start, and whatever was journalled as pending is carried out then. The thread is the only one to talk to the mail
system's database, so that one being slow or down never holds up detection; it tries short failures again at once and
longer ones with growing pauses, for as long as it takes.

The functions at the end are what the command line does by hand. They work beside a running daemon: both go by the
journal.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from sentinel.config import Mode, PolicySettings
from sentinel.detect.detection import Detection
from sentinel.errors import UserError
from sentinel.respond.journal import Action, Journal, Superseded
from sentinel.respond.locks import Locker, LockError, LockFailed, LockRefused, LockTrouble, LockUnavailable
from sentinel.respond.policy import Policy, printable, protecting_pattern
from sentinel.state import State

ACTIONS = ("lock", "unlock", "notify")
RESULTS = ("simulated", "done", "failed", "refused")

_log = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
"""How soon the thread sees what another process put into the journal."""
_TROUBLE_ATTEMPTS = 30
"""Rounds after which an error that is not about reaching the database is given up."""
_QUICK_ATTEMPTS = 3
_QUICK_SECONDS = 5.0
_STOP_SECONDS = 20.0
"""Longer than connecting and one statement may take."""


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
        on_action: Callable[[Action], None] | None = None,
        first_pause_seconds: float = 1.0,
        longest_pause_seconds: float = 60.0,
    ) -> None:
        """``mode`` overrides the policy's. Reads back from the state what policy has to remember. Raises UserError."""
        settings = policy if mode is None else policy.model_copy(update={"mode": mode})
        if settings.mode == "enforce" and locker is None:
            raise UserError("policy.mode is enforce, but there is no database to lock accounts in; add a database section or --database")
        self.state = state
        self.mode: Mode = settings.mode
        self.journal = Journal(state)
        self.policy = Policy(settings)
        self.results: Counter[tuple[str, str]] = Counter({(action, result): 0 for action in ACTIONS for result in RESULTS})
        self.on_action = [on_action] if on_action else []
        self._locker = locker
        self._now = now
        self._pauses = (first_pause_seconds, longest_pause_seconds)
        self._due: dict[str, float] = {}  # action id -> monotonic time of the next attempt
        self._lock = threading.RLock()  # policy and results
        self._wake = threading.Condition()
        self._awake = False
        self._idle = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._unhandled: list[Detection] = []
        for data, handled in state.account_detections(settings.memory):
            detection = Detection.from_dict(data)
            if handled:
                self.policy.remember(detection)
            else:
                self._unhandled.append(detection)

    # the daemon's side

    def handle(self, detections: Sequence[Detection]) -> list[Action]:
        """Journals what policy decides about detections that are committed; the new rows. Never waits for the mail
        database.
        """
        with self._lock:
            earlier, self._unhandled = self._unhandled, []
            known = {detection.id for detection in earlier}
            every = [*earlier, *(detection for detection in detections if detection.id not in known)]
            if not every:
                return []
            new: list[Action] = []
            now = self._now()
            with self.state.transaction():
                protected = self.journal.protected()
                for detection in every:
                    account = detection.subject.get("sasl_username")
                    if not account:
                        continue
                    standing = self.journal.standing(account, now, simulated=self.mode != "enforce")
                    decision = self.policy.consider(detection, now=now, standing=standing, protected=protected)
                    action = self.journal.decide(decision, now) if decision else None
                    if action:
                        new.append(action)
                self.state.mark_handled([detection.id for detection in every])
        for action in new:
            self._tell(action)
        if new:
            self._wake_up()
        return new

    def scores(self) -> dict[str, float]:
        """Accounts that have points now, and their totals; what came before an account's manual unlock is settled."""
        with self._lock:
            return self.policy.scores(int(self._now() * 1e6), self.journal.releases())

    def locked(self) -> list[str]:
        """Accounts that are locked now, as the mailbox table has them."""
        return [action.login or action.account for action in self.journal.open_locks() if action.state == "done"]

    def start(self) -> None:
        """Settles what an earlier process left behind, and starts the thread."""
        self.handle([])
        self._drop_unwanted()
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
            self._drop_unwanted()
            self._round()
            return not self._mine()
        deadline = time.monotonic() + timeout
        with self._wake:
            while True:
                if self._idle and not self._awake and not self._mine():
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
        while not self._stopping:
            with self._wake:
                self._awake = False
                self._idle = False
            try:
                self._round()
            except UserError as error:
                _log.error("%s", error)
            except Exception:
                # A bug must not end locking for good while the daemon looks healthy.
                _log.exception("unexpected error while carrying out actions")
            with self._wake:
                self._idle = True
                self._wake.notify_all()
                next_due = min(self._due.values(), default=float("inf")) - time.monotonic()
                pause = max(0.01, min(_POLL_SECONDS, next_due))
                self._wake.wait_for(lambda: self._awake or self._stopping, pause)

    def _mine(self) -> list[Action]:
        """Pending actions that this responder may carry out."""
        if self._locker is None:
            return []
        return [action for action in self.journal.pending() if action.by == "hand" or self.mode == "enforce"]

    def _round(self) -> None:
        if self._locker is None:
            return
        pending = self._mine()
        self._due = {action.id: self._due[action.id] for action in pending if action.id in self._due}
        for action in pending:
            if self._stopping:
                return
            if self._due.get(action.id, 0.0) > time.monotonic():
                continue
            settled = carry_out(self.journal, self._locker, action, self._now, self.policy.settings.protected)
            if settled.state == "pending":
                first, longest = self._pauses
                self._due[action.id] = time.monotonic() + min(longest, first * 2 ** min(settled.attempts - 1, 30))
            self._tell(settled)

    def _drop_unwanted(self) -> None:
        """Locks that policy decided before the admin took enforce back."""
        if self.mode == "enforce":
            return
        for action in self.journal.pending():
            if action.by != "policy" or action.prior is not None:
                continue
            if self.journal.finish(action, "refused", self._now(), refused=f"mode: policy.mode is {self.mode} now"):
                self._tell(self.journal.get(action.id) or action)

    def _tell(self, action: Action) -> None:
        result = "failed" if action.state == "pending" and action.attempts else action.state
        if result == "pending":
            return
        with self._lock:
            self.results[action.action, result] += 1
        _log.info(
            "%s %s: %s: %s",
            action.action,
            printable(action.account),
            result,
            action.refused or action.error or action.why,
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
) -> Action:
    """Tries a pending action, short failures several times; the action as it stands then. Never raises for the
    database's sake.
    """
    import stamina
    import stamina.instrumentation

    # Its default hooks print to standard output; what happened stands in the journal.
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        pattern = protecting_pattern(action.account, (*protected, *journal.protected())) if action.action == "lock" else None
        if pattern is not None and action.by == "policy" and action.prior is None:
            journal.finish(action, "refused", now(), refused=f"protected: matches {printable(pattern)}")
        else:
            for attempt in stamina.retry_context(
                on=_worth_a_quick_retry,
                attempts=_QUICK_ATTEMPTS,
                timeout=_QUICK_SECONDS,
                wait_initial=0.1,
                wait_max=1.0,
                wait_jitter=0.1,
            ):
                with attempt:
                    (_unlock if action.action == "unlock" else _lock)(journal, locker, action, now)
    except Superseded:
        pass  # the journal says what became of it
    except LockRefused as error:
        if action.action == "unlock":
            # The account is gone, and its lock with it.
            journal.finish(action, "done", now(), error=str(error))
        else:
            journal.finish(action, "refused", now(), refused=f"account: {error}")
    except LockFailed as error:
        journal.finish(action, "failed", now(), error=str(error))
    except LockTrouble as error:
        if action.attempts + 1 >= _TROUBLE_ATTEMPTS:
            journal.finish(action, "failed", now(), error=str(error))
        else:
            journal.tried(action, str(error), now())
    except LockError as error:
        journal.tried(action, str(error), now())
    return journal.get(action.id) or action


def _worth_a_quick_retry(error: Exception) -> bool:
    return isinstance(error, (LockUnavailable, LockTrouble))


def _lock(journal: Journal, locker: Locker, action: Action, now: Callable[[], float]) -> None:
    def record(login: str, prior: dict[str, object], locked_already: bool) -> None:
        journal.record_prior(action, login, prior, locked_already=locked_already, now=now())

    result = locker.lock(action.account, record)
    if not journal.finish(
        action,
        "done",
        now(),
        error="it was locked already" if result.locked_already and _first(journal, action) else None,
    ):
        # Undone by hand between the statement and here.
        current = journal.get(action.id)
        if current is not None and current.state != "done" and current.prior is not None:
            locker.unlock(result.login, current.prior)


def _first(journal: Journal, action: Action) -> bool:
    """Whether no earlier attempt of ours can have locked it."""
    return action.prior is None and action.attempts == 0


def _unlock(journal: Journal, locker: Locker, action: Action, now: Callable[[], float]) -> None:
    if action.login is None or action.prior is None:
        raise LockFailed("the journal holds no prior values for this lock")
    locker.unlock(action.login, action.prior)
    journal.finish(action, "done", now())


# by hand


def list_locks(state: State, *, every: bool = False, limit: int = 1000) -> list[Action]:
    """Open locks, oldest first; with ``every`` the journal's newest rows of any kind, newest last."""
    journal = Journal(state)
    return journal.actions(limit) if every else journal.open_locks()


def lock_by_hand(state: State, account: str, why: str, locker: Locker | None, now: Callable[[], float] = time.time) -> Action:
    """Locks an account now. The action is done, refused or failed, or pending when the database could not be reached; a
    running daemon goes on with it then. An account that is locked already gives its existing action.
    """
    _check_given(account)
    if locker is None:
        raise UserError("locking needs the mail system's database; give --database, or --config with a database section")
    journal = Journal(state)
    with state.transaction():
        action = journal.open_lock(account) or journal.by_hand("lock", account, why, now())
    if action is None:
        raise UserError(f"{printable(account)} is being locked or unlocked by another process; look at: sentinel locks list")
    return carry_out(journal, locker, action, now) if action.state == "pending" else action


def unlock_by_hand(state: State, account: str, why: str, locker: Locker | None, now: Callable[[], float] = time.time) -> Action:
    """Undoes the lock of an account: its columns hold again what they held before. Policy counts only what happens
    later.

    A lock that was not yet tried is cancelled without touching the database. Raises UserError when there is no lock of
    ours.
    """
    _check_given(account)
    journal = Journal(state)
    with state.transaction():
        lock = journal.open_lock(account)
        if lock is None:
            raise UserError(f"there is no lock by sentinel on {printable(account)}; sentinel locks list shows those that there are")
        if lock.prior is None:
            journal.close_lock(lock.id, now())
            cancelled = journal.by_hand("unlock", account, why, now(), state="done", target=lock)
            if cancelled is not None:
                return cancelled
        if locker is None:
            raise UserError("unlocking needs the mail system's database; give --database, or --config with a database section")
        waiting = [a for a in journal.pending() if a.action == "unlock" and a.target == lock.id]
        action = waiting[0] if waiting else journal.by_hand("unlock", account, why, now(), target=lock)
    if action is None:
        raise UserError(f"{printable(account)} is being unlocked by another process; look at: sentinel locks list")
    return carry_out(journal, locker, action, now)


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
    if not account.strip():
        raise UserError("the account is empty; name one as it logs in, such as info@example.com")
