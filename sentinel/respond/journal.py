"""What was decided and what became of it: the actions and steps of the state database, and the journal that tells of them.

A row is written before anything is tried, in the transaction that marks the detections as handled, and its id follows
from the decision, so the same decision made again is the same row. States change only like this, and only here::

    (new) -> simulated | refused | done (notify, protect)
    (new) -> pending -> done | failed | refused
    failed, refused -> pending   the same decision is made again
    done, failed -> closed   a lock that was undone
    done -> pending          an unlock whose lock was made after it all the same

Before a lock is tried, what the account's columns hold goes into the row (:meth:`Journal.record_prior`). A process
killed at any point leaves a pending row, and whoever goes on from there does the same statement again. A lock that was
carried out but not yet marked so is recognised by its effect, and the prior values from before are kept. The database
itself refuses a second open lock on one account.

What else belongs to an action (sessions to end, mail to hold) are its steps, each with a state of its own::

    (new) -> pending -> done | failed
    pending -> cancelled     the lock was undone, or is not to be
    done | failed -> pending the lock was made meanwhile, so that all is done once more after it; or what was done is taken back

Each change adds an entry to the journal (:mod:`sentinel.respond.chain`) in the same transaction.
"""

import base64
import datetime
import decimal
import hashlib
import json
import os
import pwd
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sentinel.detect.detection import account_key
from sentinel.respond import chain
from sentinel.respond.policy import Decision, Standing
from sentinel.state import State

STEP_ORDER = ("map", "flush", "unmap", "flush-late", "kick", "smtpd", "hold", "hold-late", "verify")
THERE, ABSENT = "there", "absent"
"""What a ``map`` step found before it changed anything."""
FLUSH_AGAIN_SECONDS = 2.0

_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0
_UNLOCK_AGAIN_SECONDS = 600.0
_ERROR_CHARACTERS = 300
_LINE_CHARACTERS = 500
_COLUMNS = (
    "seq, id, account, action, state, by, why, refused, detections, total, event_time, created, changed, "
    "attempts, error, login, prior, target, closed, expires, troubles"
)
_OPEN_LOCK = "action = 'lock' AND state IN ('pending', 'done') AND closed = 0"


@dataclass(frozen=True, slots=True)
class Action:
    """One row of the journal. Times are wall clock seconds since the epoch."""

    seq: int
    id: str
    account: str
    action: str
    """lock, unlock, notify, protect or unprotect."""
    state: str
    """pending, done, failed, refused or simulated."""
    by: str
    """policy or hand."""
    why: str
    refused: str | None
    detections: tuple[str, ...]
    total: float
    event_time: int | None
    """Newest evidence, microseconds since the epoch."""
    created: float
    changed: float
    attempts: int
    error: str | None
    login: str | None
    """The account exactly as the mailbox table has it."""
    prior: dict[str, Any] | None = field(repr=False)
    """What the columns held before the lock."""
    target: str | None
    """Of an unlock: the id of the lock that it undoes."""
    closed: bool
    """Of a lock: it was undone."""
    expires: float | None = None
    """Of a lock: when policy undoes it."""
    troubles: int = 0
    """Attempts that the database answered with an error."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON output. Without the prior values: they may be password hashes."""
        out = {name: getattr(self, name) for name in self.__slots__ if name not in ("prior", "seq", "event_time", "detections", "troubles")}
        out["detections"] = list(self.detections)
        for name in ("created", "changed", "expires"):
            if out[name] is not None:
                moment = datetime.datetime.fromtimestamp(out[name], datetime.UTC)
                out[name] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {name: value for name, value in out.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Step:
    """Something that belongs to an action besides the change of the account's row."""

    action: str
    step: str
    """As :mod:`sentinel.respond.response` names them."""
    state: str
    """pending, done, failed or cancelled."""
    due: float
    """Wall clock: not before."""
    attempts: int
    detail: str | None
    """What came of it, or the last error."""
    found: str | None
    """What was there before the first attempt changed anything, where that matters."""
    changed: float


@dataclass(frozen=True, slots=True)
class Done:
    """What an attempt did, for the journal."""

    statement: str = ""
    """The SQL with its placeholders, or the command."""
    rows: int | None = None
    """Rows, messages or sessions that were changed."""
    seconds: float | None = None
    detail: str = ""


class Superseded(Exception):
    """Somebody else has settled this action meanwhile; nothing is to be done for it any more."""


class Journal:
    """The actions in a :class:`State`. Any thread and several processes may use it at the same time."""

    def __init__(self, state: State, listener: Callable[[str, Action], None] | None = None) -> None:
        """``listener`` is called with each change of an action (decided, tried, settled, closed), inside the transaction that makes it."""
        self.state = state
        self._listener = listener

    # writing

    def decide(self, decision: Decision, now: float, *, expires: float | None = None) -> Action | None:
        """Journals a policy decision; None when it stands there already, or the account has an open lock."""
        if decision.refused:
            state = "refused"
        elif decision.simulated:
            state = "simulated"
        else:
            state = "pending" if decision.action == "lock" else "done"
        return self._append(
            id_=decision.id,
            account=decision.subject["sasl_username"],
            action="notify" if decision.action == "notify" else "lock",
            state=state,
            by="policy",
            why=decision.why,
            now=now,
            refused=decision.refused,
            detections=decision.detections,
            total=decision.total,
            event_time=decision.event_time,
            expires=expires,
        )

    def by_hand(
        self,
        action: str,
        account: str,
        why: str,
        now: float,
        *,
        state: str = "pending",
        target: Action | None = None,
        by: str = "hand",
        expires: float | None = None,
    ) -> Action | None:
        """Journals what an admin asked for, or what policy does because time has passed; None when that is in the journal already."""
        seed = target.id if target else f"{account_key(account)}\0{now!r}"
        id_ = hashlib.blake2b(f"{action}\0hand\0{seed}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        return self._append(
            id_=id_,
            account=account,
            action=action,
            state=state,
            by=by,
            why=why,
            now=now,
            expires=expires,
            login=target.login if target else None,
            prior=target.prior if target else None,
            target=target.id if target else None,
        )

    def _append(
        self,
        *,
        id_: str,
        account: str,
        action: str,
        state: str,
        by: str,
        why: str,
        now: float,
        refused: str | None = None,
        detections: Sequence[str] = (),
        total: float = 0.0,
        event_time: int | None = None,
        login: str | None = None,
        prior: Mapping[str, Any] | None = None,
        target: str | None = None,
        expires: float | None = None,
    ) -> Action | None:
        with self.state.transaction() as db:
            if action == "lock" and state == "pending" and self.open_lock(account) is not None:
                return None
            cursor = db.execute(
                "INSERT INTO actions (id, account, account_key, action, state, by, why, refused, detections, total, "
                "event_time, created, changed, login, prior, target, expires) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET state = excluded.state, changed = excluded.changed, created = excluded.created, "
                "by = excluded.by, why = excluded.why, expires = excluded.expires, event_time = excluded.event_time, "
                "refused = excluded.refused, attempts = 0, troubles = 0, error = NULL "
                "WHERE actions.state = 'failed' OR (actions.state = 'refused' AND excluded.state = 'pending')",
                (
                    id_, account, account_key(account), action, state, by, why, refused, json.dumps(list(detections)),
                    total, event_time, now, now, login, _encode(prior), target, expires,
                ),
            )  # fmt: skip
            new = self.get(id_) if cursor.rowcount else None
            if new is not None:
                self._note(new, "decided", now, total=total or None, evidence=self._evidence(detections))
            return new

    def record_prior(self, action: Action, login: str, prior: Mapping[str, Any], *, locked_already: bool, now: float) -> None:
        """Keeps what the columns hold, just before the lock statement. Raises :class:`Superseded` when the lock is not
        wanted any more.

        Values that were recorded by an earlier attempt stay when the row is locked already: then that attempt did it.
        """
        with self.state.transaction() as db:
            if action.id not in {open_.id for open_ in self.pending()}:
                raise Superseded
            db.execute(
                "UPDATE actions SET login = ?, prior = CASE WHEN prior IS NOT NULL AND ? THEN prior ELSE ? END, changed = ? WHERE id = ?",
                (login, locked_already, _encode(prior), now, action.id),
            )

    def tried(self, action: Action, error: str, now: float, *, seconds: float | None = None, trouble: bool = False) -> None:
        """An attempt failed; the action stays pending."""
        with self.state.transaction() as db:
            counted = db.execute(
                "UPDATE actions SET attempts = attempts + 1, troubles = troubles + ?, error = ?, changed = ? "
                "WHERE id = ? AND state = 'pending'",
                (trouble, error[:_ERROR_CHARACTERS], now, action.id),
            ).rowcount
            # While a database is away the same error comes every minute: once is enough.
            if counted and action.error != error[:_ERROR_CHARACTERS]:
                self._note(action, "tried", now, result="failed", error=error[:_ERROR_CHARACTERS], **_timed(seconds))

    def finish(
        self,
        action: Action,
        state: str,
        now: float,
        *,
        error: str | None = None,
        refused: str | None = None,
        done: Done | None = None,
        steps: Mapping[str, float] | None = None,
    ) -> bool:
        """Settles a pending action; False when somebody else has done so meanwhile. An unlock that is done closes its
        lock. ``steps``: what is to follow, and when it is due (:meth:`want`).
        """
        with self.state.transaction() as db:
            settled = db.execute(
                "UPDATE actions SET state = ?, attempts = attempts + 1, error = ?, refused = COALESCE(?, refused), "
                "changed = ? "
                "WHERE id = ? AND state = 'pending'",
                (state, error[:_ERROR_CHARACTERS] if error else None, refused, now, action.id),
            ).rowcount
            if settled:
                if state == "done" and action.action == "unlock":
                    self.close_lock(str(action.target), now)
                if state == "refused":
                    self._take_back(action, now)
                if steps:
                    self.want(action, steps, now)
                more = {} if done is None else {"statement": done.statement or None, "rows": done.rows, **_timed(done.seconds)}
                self._note(self.get(action.id) or action, "settled", now, **more)
            return bool(settled)

    def _take_back(self, action: Action, now: float) -> None:
        """A lock that is not to be was waiting for the database, and some steps may have been taken meanwhile. Mail on hold stays there."""
        with self.state.transaction() as db:
            db.execute("UPDATE steps SET state = 'cancelled', changed = ? WHERE action = ? AND state = 'pending'", (now, action.id))
            taken = {step.step: step for step in self.steps(action)}
            undo = {}
            if "map" in taken and taken["map"].found == ABSENT:
                undo["unmap"] = now
            if "flush" in taken and taken["flush"].state == "done":
                undo |= {"flush": now, "flush-late": now + FLUSH_AGAIN_SECONDS}
            self.want(action, undo, now)

    def close_lock(self, lock_id: str, now: float) -> None:
        """The lock is undone. One that was still pending is refused by that."""
        with self.state.transaction() as db:
            db.execute(
                "UPDATE actions SET closed = 1, changed = ?, refused = CASE state WHEN 'pending' "
                "THEN 'hand: undone before it was confirmed' "
                "ELSE refused END, state = CASE state WHEN 'pending' THEN 'refused' ELSE state END WHERE id = ?",
                (now, lock_id),
            )
            lock = self.get(lock_id)
            if lock is not None:
                self._take_back(lock, now)
                self._note(lock, "closed", now)

    def reopen_unlock(self, lock: Action, now: float) -> None:
        """A lock was made after it had been undone by hand: it is to be undone once more, by what it recorded."""
        with self.state.transaction() as db:
            db.execute(
                "UPDATE actions SET state = 'pending', login = ?, prior = ?, attempts = 0, changed = ? "
                "WHERE target = ? AND action = 'unlock' AND state = 'done'",
                (lock.login, _encode(lock.prior), now, lock.id),
            )
            for undo in self._select("target = ? AND action = 'unlock' AND state = 'pending'", (lock.id,)):
                self._note(undo, "decided", now)

    def adopt(self, action: Action, why: str, now: float, *, expires: float | None = None) -> Action:
        """What policy began is an admin's from now on."""
        with self.state.transaction() as db:
            db.execute(
                "UPDATE actions SET by = 'hand', why = ?, expires = ? WHERE id = ? AND state IN ('pending', 'done')",
                (why, expires, action.id),
            )
            adopted = self.get(action.id) or action
            self._note(adopted, "decided", now, expires=expires)
            return adopted

    # steps

    def want(self, action: Action, steps: Mapping[str, float], now: float, *, again: bool = True) -> None:
        """Makes steps pending, each from its time on; also those that are done or failed, unless ``again`` is off."""
        anew = "UPDATE SET state = 'pending', due = excluded.due, attempts = 0, changed = excluded.changed" if again else "NOTHING"
        with self.state.transaction() as db:
            db.executemany(
                "INSERT INTO steps (action, step, state, due, changed) VALUES (?, ?, 'pending', ?, ?) "
                f"ON CONFLICT (action, step) DO {anew}",
                [(action.id, step, due, now) for step, due in steps.items()],
            )

    def record_found(self, step: Step, found: str) -> None:
        """Keeps what a step finds, just before it changes anything; what the first attempt found stays. What an earlier lock of the
        same account has left there is not somebody else's.
        """
        with self.state.transaction() as db:
            if found == THERE:
                ((left,),) = self.state.query(
                    "SELECT count(*) FROM steps AS ours JOIN actions AS earlier ON earlier.id = ours.action "
                    "WHERE ours.step = 'map' AND ours.found = ? AND ours.action != ? "
                    "AND earlier.account_key = (SELECT account_key FROM actions WHERE id = ?) "
                    "AND NOT EXISTS (SELECT 1 FROM steps AS gone "
                    "WHERE gone.action = ours.action AND gone.step = 'unmap' AND gone.state = 'done')",
                    (ABSENT, step.action, step.action),
                )
                found = ABSENT if left else THERE
            db.execute("UPDATE steps SET found = COALESCE(found, ?) WHERE action = ? AND step = ?", (found, step.action, step.step))

    def step_tried(self, step: Step, action: Action, error: str, now: float, *, due: float | None, done: Done | None = None) -> None:
        """An attempt at a step failed. It is due again then, or never where ``due`` is None."""
        state = "failed" if due is None else "pending"
        with self.state.transaction() as db:
            counted = db.execute(
                "UPDATE steps SET attempts = attempts + 1, state = ?, due = COALESCE(?, due), detail = ?, changed = ? "
                "WHERE action = ? AND step = ? AND state = 'pending'",
                (state, due, error[:_ERROR_CHARACTERS], now, step.action, step.step),
            ).rowcount
            if counted and (due is None or step.detail != error[:_ERROR_CHARACTERS]):
                self._note_step(action, step, "failed", now, done or Done(), error=error[:_ERROR_CHARACTERS])

    def step_done(self, step: Step, action: Action, done: Done, now: float, *, due: float | None = None) -> bool:
        """A step is done; with ``due`` it is done once more then. False when it was settled by somebody else meanwhile."""
        with self.state.transaction() as db:
            settled = db.execute(
                "UPDATE steps SET attempts = attempts + 1, state = ?, due = COALESCE(?, due), detail = ?, changed = ? "
                "WHERE action = ? AND step = ? AND state = 'pending'",
                ("done" if due is None else "pending", due, done.detail[:_ERROR_CHARACTERS], now, step.action, step.step),
            ).rowcount
            if settled:
                self._note_step(action, step, "done", now, done)
            return bool(settled)

    def steps(self, action: Action) -> list[Step]:
        """All steps of an action."""
        return self._steps("action = ?", (action.id,))

    def due_steps(self, now: float) -> list[Step]:
        """What is to be done now: what is quick and stops most comes first, for all accounts."""
        due = self._steps("state = 'pending' AND due <= ?", (now,))
        return sorted(due, key=lambda step: STEP_ORDER.index(step.step) if step.step in STEP_ORDER else len(STEP_ORDER))

    def claim(self, step: Step, now: float, until: float) -> bool:
        """Takes a step that is due, so that no other process does it at the same time; one that dies over it leaves it due ``until``."""
        with self.state.transaction() as db:
            return bool(
                db.execute(
                    "UPDATE steps SET due = ? WHERE action = ? AND step = ? AND state = 'pending' AND due <= ?",
                    (until, step.action, step.step, now),
                ).rowcount
            )

    def next_due(self) -> float | None:
        """Wall clock of the next step that waits for its time."""
        ((due,),) = self.state.query("SELECT min(due) FROM steps WHERE state = 'pending'")
        return None if due is None else float(due)

    def _steps(self, where: str, parameters: Sequence[object]) -> list[Step]:
        rows = self.state.query(
            f"SELECT action, step, state, due, attempts, detail, found, changed FROM steps WHERE {where} ORDER BY rowid", parameters
        )
        return [Step(*row) for row in rows]

    # the breaker

    def open_breaker(self, why: str, now: float) -> bool:
        """Stops all locking by policy until it is closed by hand; False when it is open already."""
        with self.state.transaction() as db:
            opened = db.execute("INSERT OR IGNORE INTO flags (name, value, since) VALUES ('breaker', ?, ?)", (why, now)).rowcount
            if opened:
                chain.append(self.state, {"event": "breaker-open", "who": "policy", "why": why}, now)
            return bool(opened)

    def close_breaker(self, why: str, now: float) -> bool:
        """Policy may lock again; False when it was not open."""
        with self.state.transaction() as db:
            closed = db.execute("DELETE FROM flags WHERE name = 'breaker'").rowcount
            if closed:
                db.execute("INSERT OR REPLACE INTO flags (name, value, since) VALUES ('breaker_closed', ?, ?)", (why, now))
                chain.append(self.state, {"event": "breaker-closed", "who": who("hand"), "why": why}, now)
            return bool(closed)

    def breaker(self) -> tuple[str, float] | None:
        """Why the breaker is open and since when (wall clock); None while it is closed."""
        rows = self.state.query("SELECT value, since FROM flags WHERE name = 'breaker'")
        return rows[0] if rows else None

    def breaker_closed_at(self) -> float:
        """Wall clock of the last time that it was closed by hand, 0 if never."""
        ((since,),) = self.state.query("SELECT COALESCE(max(since), 0) FROM flags WHERE name = 'breaker_closed'")
        return float(since)

    # the journal's entries

    def note(self, event: str, now: float, *, by: str = "hand", **more: object) -> None:
        """An entry about something that is no action: mail held by hand, an address banned."""
        chain.append(self.state, {"event": event, "who": who(by), **more}, now)

    def _note(self, action: Action, event: str, now: float, **more: object) -> None:
        chain.append(
            self.state,
            {
                "event": event,
                "who": who(action.by),
                "action": action.id,
                "what": action.action,
                "account": action.account,
                "state": action.state,
                "why": action.why,
                "refused": action.refused,
                "error": action.error,
                "target": action.target,
                **more,
            },
            now,
        )
        if self._listener is not None:
            self._listener(event, action)

    def _note_step(self, action: Action, step: Step, result: str, now: float, done: Done, error: str | None = None) -> None:
        chain.append(
            self.state,
            {
                "event": "step",
                "who": who(action.by),
                "what": step.step,
                "of": action.id,
                "account": action.account,
                "statement": done.statement or None,
                "rows": done.rows,
                "result": result,
                "detail": done.detail or None,
                "error": error,
                **_timed(done.seconds),
            },
            now,
        )

    def _evidence(self, ids: Iterable[str]) -> list[dict[str, Any]] | None:
        """What the detections said, in short: they themselves are dropped after months, the journal is not."""
        out = []
        for data in self.state.detections_by_id(ids):
            lines = [str(item.get("line", ""))[:_LINE_CHARACTERS] for item in data.get("evidence", ())[-1:]]
            told = {name: data[name] for name in ("rule", "time", "value", "threshold", "score")}
            out.append({"detection": data["id"], **told, "lines": lines})
        return out or None

    # reading

    def get(self, id_: str) -> Action | None:
        """One action by its id."""
        found = self._select("id = ?", (id_,))
        return found[0] if found else None

    def pending(self) -> list[Action]:
        """What is to be carried out, oldest first; not a lock whose unlock is pending too, which settles both."""
        return self._select(
            "state = 'pending' AND NOT (action = 'lock' AND EXISTS "
            "(SELECT 1 FROM actions AS undo WHERE undo.target = actions.id "
            "AND undo.action = 'unlock' AND undo.state = 'pending'))"
        )

    def open_lock(self, account: str) -> Action | None:
        """The lock on an account that is done or pending and not undone."""
        found = self._select(f"account_key = ? AND {_OPEN_LOCK}", (account_key(account),))
        return found[0] if found else None

    def failed_lock(self, account: str) -> Action | None:
        """A lock that was given up, and may all the same have changed the row, or put the account into the access map."""
        found = [lock for lock in self.failed_locks() if account_key(lock.account) == account_key(account)]
        return found[-1] if found else None

    def failed_locks(self) -> list[Action]:
        """All such locks that nobody has undone, oldest first."""
        return self._select(
            "action = 'lock' AND state = 'failed' AND closed = 0 AND (prior IS NOT NULL OR EXISTS "
            "(SELECT 1 FROM steps WHERE steps.action = actions.id AND step = 'map' AND found IS NOT NULL))"
        )

    def open_locks(self) -> list[Action]:
        """All such locks, oldest first."""
        return self._select(_OPEN_LOCK)

    def actions(self, limit: int = 1000) -> list[Action]:
        """The newest rows, newest last."""
        return self._select("seq > (SELECT COALESCE(max(seq), 0) FROM actions) - ?", (limit,))

    def releases(self) -> dict[str, float]:
        """Account key → wall clock of its last unlock."""
        return dict(self.state.query("SELECT account_key, max(changed) FROM actions WHERE action = 'unlock' AND state = 'done' GROUP BY 1"))

    def standing(self, account: str, now: float, *, simulated: bool, breaker_span: float = 0.0) -> Standing:
        """What policy has to know. With ``simulated``, simulated locks count for the caps, otherwise real ones."""
        key = account_key(account)
        ((released_at, by_hand_at),) = self.state.query(
            "SELECT max(changed), max(CASE WHEN by = 'hand' THEN changed END) FROM actions "
            "WHERE account_key = ? AND action = 'unlock' AND state = 'done'",
            (key,),
        )
        latest = self._select(
            "account_key = ? AND by = 'policy' AND action != 'unlock' AND closed = 0 AND created > ? ORDER BY seq DESC LIMIT 1",
            (key, released_at or 0.0),
        )
        counted = "state = 'simulated'" if simulated else "state IN ('pending', 'done', 'failed')"
        ((hour, day),) = self.state.query(
            f"SELECT count(CASE WHEN created > ? THEN 1 END), count(*) FROM actions "
            f"WHERE action = 'lock' AND by = 'policy' AND {counted} AND created > ?",
            (now - _HOUR_SECONDS, now - _DAY_SECONDS),
        )
        # Those that reached the total, whether they were locked, or not for the reason of their number; not what policy leaves alone.
        ((others,),) = self.state.query(
            "SELECT count(DISTINCT account_key) FROM actions WHERE action = 'lock' AND by = 'policy' AND state != 'simulated' "
            "AND account_key != ? AND created > ? "
            "AND (refused IS NULL OR refused LIKE 'cap:%' OR refused LIKE 'breaker:%' OR refused LIKE 'account:%')",
            (key, max(now - breaker_span, self.breaker_closed_at())),
        )
        breaker = self.breaker()
        return Standing(
            locked=self.open_lock(account) is not None,
            released_at=released_at,
            previous=_kind(latest[0]) if latest else None,
            previous_event_time=latest[0].event_time if latest else None,
            locks_last_hour=hour,
            locks_last_day=day,
            released_by_hand_at=by_hand_at,
            others_lately=others,
            breaker=breaker[0] if breaker else None,
        )

    def wanted(self, since: float) -> list[str]:
        """Accounts that policy has wanted to lock since then, the newest first."""
        rows = self.state.query(
            "SELECT account FROM actions WHERE action = 'lock' AND by = 'policy' AND state != 'simulated' AND created > ? "
            "GROUP BY account_key ORDER BY max(seq) DESC",
            (since,),
        )
        return [account for (account,) in rows]

    def expired(self, now: float) -> list[Action]:
        """Locks whose time is over and that nobody undoes yet."""
        return self._select(
            f"{_OPEN_LOCK} AND expires <= ? AND NOT EXISTS "
            "(SELECT 1 FROM actions AS undo WHERE undo.target = actions.id AND undo.action = 'unlock' "
            "AND (undo.state = 'pending' OR (undo.state = 'failed' AND undo.changed > ?)))",
            (now, now - _UNLOCK_AGAIN_SECONDS),
        )

    def left_alone(self, since: float) -> list[Action]:
        """What was refused since then for a reason that passes: an unlock by hand, the number of locks, the breaker."""
        return self._select(
            "state = 'refused' AND (refused LIKE 'released:%' OR refused LIKE 'cap:%' OR refused LIKE 'breaker:%') AND created > ?",
            (since,),
        )

    def _select(self, where: str, parameters: Sequence[object] = ()) -> list[Action]:
        order = "" if "ORDER BY" in where else " ORDER BY seq"
        rows = self.state.query(f"SELECT {_COLUMNS} FROM actions WHERE {where}{order}", parameters)
        return [_action(row) for row in rows]

    # accounts protected at run time

    def protect(self, pattern: str, why: str, now: float) -> None:
        """Policy never locks accounts that match the pattern from now on."""
        with self.state.transaction() as db:
            db.execute("INSERT OR REPLACE INTO protected (pattern, why, created) VALUES (?, ?, ?)", (pattern, why, now))
            self.by_hand("protect", pattern, why, now, state="done")

    def unprotect(self, pattern: str, why: str, now: float) -> bool:
        """Takes a pattern back; False when it was not there."""
        with self.state.transaction() as db:
            gone = db.execute("DELETE FROM protected WHERE pattern = ?", (pattern,)).rowcount
            if gone:
                self.by_hand("unprotect", pattern, why, now, state="done")
            return bool(gone)

    def protected(self) -> list[str]:
        """The patterns, oldest first."""
        return [pattern for (pattern,) in self.state.query("SELECT pattern FROM protected ORDER BY created, pattern")]


def who(by: str) -> str:
    """Who acts: ``policy``, or ``hand:`` and the name of the person at the terminal, behind sudo too."""
    if by != "hand":
        return by
    name = os.environ.get("SUDO_USER")
    try:
        name = name or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"hand:{name}"


def _timed(seconds: float | None) -> dict[str, float]:
    return {} if seconds is None else {"duration_ms": round(seconds * 1000, 1)}


def _kind(action: Action) -> str:
    if action.state == "refused" and action.refused:
        return action.refused.partition(":")[0]
    if action.state in ("simulated", "failed"):
        return action.state
    return action.action


def _action(row: tuple[Any, ...]) -> Action:
    named = dict(zip(_COLUMNS.split(", "), row, strict=True))
    named["detections"] = tuple(json.loads(named["detections"]))
    named["prior"] = _decode(named["prior"])
    named["closed"] = bool(named["closed"])
    return Action(**named)


# Column values of any database as JSON, exactly: what comes back at unlock must be what was read.


def _encode(values: Mapping[str, Any] | None) -> str | None:
    return None if values is None else json.dumps({name: _tagged(value) for name, value in values.items()})


def _tagged(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytes": base64.b64encode(bytes(value)).decode("ascii")}
    if isinstance(value, decimal.Decimal):
        return {"decimal": str(value)}
    if isinstance(value, datetime.datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, datetime.date):
        return {"date": value.isoformat()}
    if isinstance(value, (dict, list)):
        return {"json": value}
    raise TypeError(f"a column of type {type(value).__name__} cannot be kept for the unlock")


_UNTAG: dict[str, Callable[[Any], Any]] = {
    "bytes": base64.b64decode,
    "decimal": decimal.Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "json": lambda value: value,
}


def _decode(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    return {name: _untagged(value) for name, value in json.loads(text).items()}


def _untagged(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    return _UNTAG[kind](inner)
