"""Which notices are offered when something happens, and that they go with what they are about."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sentinel.config import PolicySettings, ResponseSettings
from sentinel.detect.detection import Detection
from sentinel.detect.engine import Accepted
from sentinel.respond.locks import AccountLocker, LockFailed, LockResult
from sentinel.respond.notify import Notice, Outbox
from sentinel.respond.responder import Responder, resume, unlock_by_hand
from sentinel.respond.response import Response
from sentinel.respond.telling import Teller
from sentinel.state import State

WANG = "wang@corp.example"
ENFORCE = PolicySettings(mode="enforce")


class Everything:
    """A target that wants all."""

    name = "all"
    min_severity = "info"
    kinds = ()
    again_seconds = lasts_seconds = 0.0

    def send(self, notice: Notice, earlier: Any) -> None:
        raise AssertionError("nothing is sent here")


@pytest.fixture
def teller(state: State) -> Teller:
    return Teller(state, [Everything()], 10.0, "/etc/sentinel/sentinel.yaml")  # type: ignore[list-item]


@pytest.fixture
def make(state: State, clock: Any, sqlite: Any, teller: Teller) -> Iterator[Callable[..., Responder]]:
    sqlite.create_generic(WANG)
    locker = AccountLocker(sqlite.address)

    def build(policy: PolicySettings = ENFORCE, **more: Any) -> Responder:
        return Responder(state, policy, now=clock, teller=teller, **({"locker": locker} | more))

    yield build
    locker.close()


def told(state: State) -> list[Notice]:
    return [row.notice for row in Outbox(state).pending("all", 100)]


def kinds(state: State) -> list[str]:
    return [notice.kind for notice in told(state)]


def report(responder: Responder, *detections: Detection) -> None:
    responder.state.save({}, b"", [detection.to_dict() for detection in detections])
    responder.handle(detections)


def test_a_lock_is_told_once_with_evidence_and_how_to_undo_it(make: Any, detect: Any, state: State) -> None:
    responder = make()
    one = detect(WANG)._replace(
        evidence=({"line": "Oct 24 06:18:01 mx postfix/smtpd[1]: 4A: client=unknown[203.0.113.66]", "source": "", "offset": 0},),
        related={"client_ips": ["203.0.113.66"], "senders": ["linda@example.org"]},
    )
    report(responder, one)
    assert kinds(state) == [], "nothing is done yet"
    responder.drain(0)
    responder.drain(0)
    (notice,) = told(state)
    assert (notice.kind, notice.severity, notice.account) == ("locked", "critical", WANG)
    assert notice.evidence == (one.evidence[0]["line"],)
    assert (notice.client_ips, notice.senders) == (("203.0.113.66",), ("linda@example.org",))
    assert notice.undo == f"sentinel locks unlock --config /etc/sentinel/sentinel.yaml -- {WANG}"
    assert "10 points, locked at 10" in notice.text


def test_an_unlock_by_hand_ends_what_was_told(make: Any, detect: Any, clock: Any, sqlite: Any, state: State, teller: Teller) -> None:
    responder = make()
    report(responder, detect(WANG))
    responder.drain(0)
    unlock_by_hand(state, WANG, "password changed", AccountLocker(sqlite.address), clock, teller=teller)
    locked, unlocked = told(state)
    assert (unlocked.kind, unlocked.resolved, unlocked.incident) == ("unlocked", True, locked.incident)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (PolicySettings(), []),
        (PolicySettings(mode="notify"), ["would-lock"]),
        (PolicySettings(mode="enforce", protected=("wang@*",)), ["refused"]),
        (PolicySettings(mode="enforce", max_locks_per_hour=0), ["refused"]),
    ],
)
def test_what_is_not_locked_is_told_where_somebody_should_know(
    policy: PolicySettings, wanted: list[str], make: Any, detect: Any, state: State
) -> None:
    responder = make(policy)
    report(responder, detect(WANG))
    responder.drain(0)
    assert kinds(state) == wanted


def test_old_evidence_is_nobody_s_business(make: Any, detect: Any, state: State) -> None:
    report(make(), detect(WANG, age=7200))
    assert kinds(state) == []


def test_a_lock_that_failed_and_an_account_that_is_not_there(make: Any, detect: Any, state: State, sqlite: Any) -> None:
    class Broken(AccountLocker):
        def lock(self, account: str, record: Any) -> LockResult:
            raise LockFailed("the table does not show it")

    responder = make(locker=Broken(sqlite.address))
    report(responder, detect(WANG))
    responder.drain(0)
    (notice,) = told(state)
    assert notice.kind == "failed"
    assert "the table does not show it" in notice.text
    responder = make()
    report(responder, detect("nobody@corp.example"))
    responder.drain(0)
    assert kinds(state) == ["failed", "refused"]


def test_a_lock_that_does_not_work(make: Any, detect: Any, clock: Any, state: State) -> None:
    responder = make(response=Response(ResponseSettings()))
    report(responder, detect(WANG))
    responder.drain(0)
    responder.watched()
    clock.seconds += 100
    line = {"line": "…accepted…", "source": "mail.log", "offset": 7}
    responder.accepted([Accepted(int(clock() * 1e6), WANG, "4A00000001", "203.0.113.66", "smtpd", 7, line)])
    locked, ineffective = told(state)
    assert (ineffective.kind, ineffective.incident) == ("lock-ineffective", locked.incident)
    assert ineffective.evidence == ("…accepted…",)


def test_the_breaker_is_one_notice_and_its_closing_ends_it(make: Any, detect: Any, clock: Any, state: State, teller: Teller) -> None:
    report(make(), *(detect(f"user{n}@corp.example") for n in range(14)))
    assert kinds(state) == ["breaker-open"]
    clock.seconds += 60
    assert resume(state, "it was the newsletter", clock, teller=teller)
    assert not resume(state, "again", clock, teller=teller)
    opened, closed = told(state)
    assert (closed.incident, closed.resolved) == (opened.incident, True)
    assert "user13@corp.example" in " ".join(opened.next_steps) or "accounts" in opened.title


def block(rule: str, id_: str) -> Detection:
    subject = {"host": "mx", "provider": "yahoo", "dnsbl": "", "blocked_ip": "192.0.2.1"}
    return Detection(id_, rule, "critical" if rule == "remote-block" else "info", 0.0, 10**15, subject, 60.0, "count", 1.0, 1.0)


def test_a_block_and_its_end_are_one_incident(state: State, teller: Teller) -> None:
    teller.detections([block("remote-block", "a"), block("remote-block", "a"), block("block-ended", "b")])
    began, ended = told(state)
    assert (began.kind, ended.kind, ended.resolved) == ("blocked", "block-ended", True)
    assert began.incident == ended.incident


def test_what_comes_back_is_told_again(state: State, teller: Teller) -> None:
    later = [block("remote-block", "a"), block("block-ended", "b"), block("remote-block", "c"), block("block-ended", "d")]
    teller.detections([*later, *later])
    assert kinds(state) == ["blocked", "block-ended"] * 2
    assert len({notice.incident for notice in told(state)}) == 1


def test_an_outage_of_the_authentication_is_told_and_its_end(state: State, teller: Teller) -> None:
    down = block("auth-backend-down", "e")._replace(severity="critical", subject={"host": "mx"})
    back = down._replace(rule="auth-backend-back", id="f", severity="info")
    teller.detections([down, back])
    began, ended = told(state)
    assert (began.incident, began.resolved, ended.resolved) == (ended.incident, False, True)


def test_critical_detections_without_an_account_are_told_and_others_lead_to_decisions(state: State, teller: Teller) -> None:
    relay = block("open-relay", "c")._replace(severity="critical", subject={"client_ip": "203.0.113.66"})
    guesses = relay._replace(rule="auth-bruteforce-ip", id="d", severity="warning")
    account = relay._replace(rule="many-senders", id="e", subject={"sasl_username": WANG})
    teller.detections([relay, guesses, account])
    assert [(notice.kind, notice.title) for notice in told(state)] == [("detection", "open-relay: 203.0.113.66")]


def test_a_notice_is_there_only_with_what_it_is_about(make: Any, detect: Any, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    responder = make(PolicySettings(mode="notify"))
    monkeypatch.setattr(State, "mark_handled", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        report(responder, detect(WANG))
    assert kinds(state) == []
    assert responder.journal.actions() == []
