"""What an admin is told: which notice each thing that happens is worth. How it is worded stands in :mod:`sentinel.respond.compose`.

Notices are offered inside the transaction that commits what they are about, so the one is never there without the other.

- of policy's decisions: what was only told (mode ``notify``), what was refused by a limit, a protection or a recent unlock, each lock that
  was made and each that failed; not what is only observed, nor what was refused because its evidence is old, as in a log that is replayed
- every unlock of such a lock, by hand too: it ends what was told of the lock
- a lock that does not work; the breaker; a block of this server and its end
- of other detections those that are critical and about no account, such as an open relay

What an admin does at the command line is not told, except what ends an earlier notice: somebody knows of it.
"""

from collections.abc import Iterable, Sequence

from sentinel.config import NoticeKind
from sentinel.detect.detection import Detection
from sentinel.respond import compose
from sentinel.respond.journal import Action
from sentinel.respond.notify import Notice, Outbox, Target
from sentinel.state import State

_NOT_TOLD = ("stale", "mode", "breaker", "hand")
"""Refusals that are nobody's business, or that another notice tells."""
_ENDS = {"remote-block": "block-ended", "auth-backend-down": "auth-backend-back"}
"""What lasts, and the detection that it is over."""
_US = 1_000_000


class Teller:
    """Offers notices to the targets. Any thread may use it. ``config``: the path of the configuration, for the command
    that undoes a lock.
    """

    def __init__(self, state: State, targets: Sequence[Target], lock_at: float, config: str | None = None) -> None:
        self.state = state
        self._targets = tuple(targets)
        self._outbox = Outbox(state)
        self._lock_at = lock_at
        self._config = config

    def action(self, event: str, action: Action) -> None:
        """An action was decided, settled or closed (see :mod:`sentinel.respond.journal`)."""
        if not self._targets:
            return
        if action.action == "unlock":
            if event == "settled" and action.state == "done" and action.target:
                lock_time = int(action.changed * _US)
                self._offer(self._about("unlocked", action, action.target, time=lock_time))
        elif action.by == "policy":
            kind, problem = self._kind(event, action)
            if kind is not None:
                self._offer(self._about(kind, action, action.id, problem=problem))

    @staticmethod
    def _kind(event: str, action: Action) -> tuple[NoticeKind | None, str | None]:
        match action.state:
            case "done" if action.action == "notify":
                return "would-lock", None
            case "done" if event == "settled":
                return "locked", None
            case "failed":
                return "failed", action.error
            case "refused" if (action.refused or "").partition(":")[0] not in _NOT_TOLD:
                return "refused", action.refused
        return None, None

    def _about(self, kind: NoticeKind, action: Action, lock_id: str, *, problem: str | None = None, time: int | None = None) -> Notice:
        detections = self.state.detections_by_id(action.detections)
        return compose.about_account(
            kind,
            action.account,
            incident=compose.account_incident(action.account, lock_id),
            why=action.why,
            detections=detections,
            time=time if time is not None or detections else int(action.created * _US),
            points=action.total or None,
            lock_at=self._lock_at,
            problem=problem,
            config=self._config,
        )

    def ineffective(self, detection: Detection, lock: Action) -> None:
        """Mail of a locked account was accepted."""
        self._offer(
            compose.about_account(
                "lock-ineffective",
                lock.account,
                incident=compose.account_incident(lock.account, lock.id),
                why=lock.why,
                detections=[detection.to_dict()],
                problem=detection.description,
                config=self._config,
            )
        )

    def breaker_opened(self, why: str, accounts: Sequence[str], now: float) -> None:
        """Policy locks nobody any more."""
        self._offer(compose.about_breaker(why, accounts, incident=_breaker_incident(now), time=int(now * _US)))

    def breaker_closed(self, why: str, opened_at: float, now: float) -> None:
        """It may lock again."""
        self._offer(compose.about_breaker(why, (), incident=_breaker_incident(opened_at), time=int(now * _US), closed=True))

    def detections(self, found: Iterable[Detection]) -> None:
        """What is told of detections themselves."""
        for detection in found:
            data = detection.to_dict()
            ended = detection.rule in _ENDS.values()
            if detection.rule in ("remote-block", "block-ended"):
                notice = compose.about_block(data, incident=compose.lasting_incident("remote-block", data), ended=ended)
            elif detection.rule in (*_ENDS, *_ENDS.values()):
                notice = compose.about_detection(data, incident=compose.lasting_incident("auth-backend-down", data))
            elif detection.severity == "critical" and "sasl_username" not in detection.subject:
                notice = compose.about_detection(data)
            else:
                continue
            # What comes back after it had ended is told again: so the id is of this detection, not of what it is about.
            self._offer(notice._replace(id=compose.notice_id(detection.id, notice.kind), resolved=ended))

    def _offer(self, notice: Notice) -> None:
        self._outbox.offer(notice, self._targets)


def _breaker_incident(opened_at: float) -> str:
    return f"breaker\0{opened_at!r}"
