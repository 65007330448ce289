"""What was decided and what became of it: the actions table of the state database.

A row is written before anything is tried, in the transaction that marks the detections as handled, and its id follows
from the decision, so the same decision made again is the same row. States change only like this, and only here::

    (new) -> simulated | refused | done (notify, protect)
    (new) -> pending -> done | failed | refused
    failed -> pending        the same decision is made again
    done -> done, closed     a lock that was undone by hand

Before a lock is tried, what the account's columns hold goes into the row (:meth:`Journal.record_prior`). A process
killed at any point leaves a pending row, and whoever goes on from there does the same statement again. A lock that was
carried out but not yet marked so is recognised by its effect, and the prior values from before are kept. The database
itself refuses a second open lock on one account.
"""

import base64
import datetime
import decimal
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sentinel.detect.detection import account_key
from sentinel.respond.policy import Decision, Standing
from sentinel.state import State

_HOUR_SECONDS = 3600.0
_DAY_SECONDS = 86_400.0
_ERROR_CHARACTERS = 300
_COLUMNS = (
    "seq, id, account, action, state, by, why, refused, detections, total, event_time, created, changed, "
    "attempts, error, login, prior, target, closed"
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON output. Without the prior values: they may be password hashes."""
        out = {name: getattr(self, name) for name in self.__slots__ if name not in ("prior", "seq", "event_time", "detections")}
        out["detections"] = list(self.detections)
        for name in ("created", "changed"):
            moment = datetime.datetime.fromtimestamp(out[name], datetime.UTC)
            out[name] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {name: value for name, value in out.items() if value is not None}


class Superseded(Exception):
    """Somebody else has settled this action meanwhile; nothing is to be done for it any more."""


class Journal:
    """The actions in a :class:`State`. Any thread and several processes may use it at the same time."""

    def __init__(self, state: State) -> None:
        self.state = state

    # writing

    def decide(self, decision: Decision, now: float) -> Action | None:
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
        )

    def by_hand(
        self, action: str, account: str, why: str, now: float, *, state: str = "pending", target: Action | None = None
    ) -> Action | None:
        """Journals what an admin asked for; None when that is in the journal already."""
        seed = target.id if target else f"{account_key(account)}\0{now!r}"
        id_ = hashlib.blake2b(f"{action}\0hand\0{seed}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        return self._append(
            id_=id_,
            account=account,
            action=action,
            state=state,
            by="hand",
            why=why,
            now=now,
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
    ) -> Action | None:
        with self.state.transaction() as db:
            if action == "lock" and state == "pending" and self.open_lock(account) is not None:
                return None
            cursor = db.execute(
                "INSERT INTO actions (id, account, account_key, action, state, by, why, refused, detections, total, "
                "event_time, created, changed, login, prior, target) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET state = excluded.state, changed = excluded.changed, "
                "attempts = 0, error = NULL WHERE actions.state = 'failed'",
                (
                    id_, account, account_key(account), action, state, by, why, refused, json.dumps(list(detections)),
                    total, event_time, now, now, login, _encode(prior), target,
                ),
            )  # fmt: skip
            return self.get(id_) if cursor.rowcount else None

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

    def tried(self, action: Action, error: str, now: float) -> None:
        """An attempt failed; the action stays pending."""
        with self.state.transaction() as db:
            db.execute(
                "UPDATE actions SET attempts = attempts + 1, error = ?, changed = ? WHERE id = ? AND state = 'pending'",
                (error[:_ERROR_CHARACTERS], now, action.id),
            )

    def finish(self, action: Action, state: str, now: float, *, error: str | None = None, refused: str | None = None) -> bool:
        """Settles a pending action; False when somebody else has done so meanwhile. An unlock that is done closes its
        lock.
        """
        with self.state.transaction() as db:
            settled = db.execute(
                "UPDATE actions SET state = ?, attempts = attempts + 1, error = ?, refused = COALESCE(?, refused), "
                "changed = ? "
                "WHERE id = ? AND state = 'pending'",
                (state, error[:_ERROR_CHARACTERS] if error else None, refused, now, action.id),
            ).rowcount
            if settled and state == "done" and action.action == "unlock":
                self.close_lock(str(action.target), now)
            return bool(settled)

    def close_lock(self, lock_id: str, now: float) -> None:
        """The lock is undone. One that was still pending is refused by that."""
        with self.state.transaction() as db:
            db.execute(
                "UPDATE actions SET closed = 1, changed = ?, refused = CASE state WHEN 'pending' "
                "THEN 'hand: undone before it was confirmed' "
                "ELSE refused END, state = CASE state WHEN 'pending' THEN 'refused' ELSE state END WHERE id = ?",
                (now, lock_id),
            )

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

    def open_locks(self) -> list[Action]:
        """All such locks, oldest first."""
        return self._select(_OPEN_LOCK)

    def actions(self, limit: int = 1000) -> list[Action]:
        """The newest rows, newest last."""
        return self._select("seq > (SELECT COALESCE(max(seq), 0) FROM actions) - ?", (limit,))

    def releases(self) -> dict[str, float]:
        """Account key → wall clock of its last unlock."""
        return dict(self.state.query("SELECT account_key, max(changed) FROM actions WHERE action = 'unlock' AND state = 'done' GROUP BY 1"))

    def standing(self, account: str, now: float, *, simulated: bool) -> Standing:
        """What policy has to know. With ``simulated``, simulated locks count for the caps, otherwise real ones."""
        key = account_key(account)
        ((released_at,),) = self.state.query(
            "SELECT max(changed) FROM actions WHERE account_key = ? AND action = 'unlock' AND state = 'done'", (key,)
        )
        latest = self._select(
            "account_key = ? AND by = 'policy' AND closed = 0 AND created > ? ORDER BY seq DESC LIMIT 1",
            (key, released_at or 0.0),
        )
        counted = "state = 'simulated'" if simulated else "state IN ('pending', 'done', 'failed')"
        ((hour, day),) = self.state.query(
            f"SELECT count(CASE WHEN created > ? THEN 1 END), count(*) FROM actions "
            f"WHERE action = 'lock' AND by = 'policy' AND {counted} AND created > ?",
            (now - _HOUR_SECONDS, now - _DAY_SECONDS),
        )
        return Standing(
            locked=self.open_lock(account) is not None,
            released_at=released_at,
            previous=_kind(latest[0]) if latest else None,
            previous_event_time=latest[0].event_time if latest else None,
            locks_last_hour=hour,
            locks_last_day=day,
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
