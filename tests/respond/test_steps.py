"""What follows a lock: which steps, when, in which order, and that none is lost or done for nothing."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel.config import AccessMapSettings, BreakerSettings, PolicySettings, ResponseSettings
from sentinel.detect.detection import Detection
from sentinel.detect.engine import Accepted, OpenMessages
from sentinel.errors import UserError
from sentinel.respond import chain
from sentinel.respond import responder as module
from sentinel.respond.journal import Action, Done, Journal
from sentinel.respond.locks import AccessMapLocker, AccountLocker, LockUnavailable
from sentinel.respond.responder import INEFFECTIVE, Responder, lock_by_hand, take_step, unlock_by_hand
from sentinel.respond.response import Facts, Response, Session, StepError
from sentinel.state import State

WANG = "wang@corp.example"
LIU = "liu@corp.example"
ALL = ResponseSettings(flush_auth_cache=True, kick=True, end_smtp="cut", hold=True, grace=60.0, watch=600.0)
ENFORCE = PolicySettings(mode="enforce")


class Recorded(Response):
    """Writes down what it is asked to do; the servers have tests of their own."""

    def __init__(self, settings: ResponseSettings = ALL) -> None:
        super().__init__(settings)
        self.done: list[tuple[str, str]] = []
        self.facts: list[Facts] = []
        self.failing: dict[str, StepError] = {}

    def perform(self, step: str, account: str, facts: Facts, *, record: Any = None, found: str | None = None) -> Done:
        self.done.append((step, account))
        self.facts.append(facts)
        if step in self.failing:
            raise self.failing[step]
        return Done(f"do {step}", 1, 0.001, "done well")

    @property
    def steps(self) -> list[str]:
        return [step for step, _ in self.done]


@pytest.fixture
def response() -> Recorded:
    return Recorded()


@pytest.fixture
def make(state: State, clock: Any, sqlite: Any, response: Recorded) -> Iterator[Callable[..., Responder]]:
    sqlite.create_generic(WANG, LIU)
    locker = AccountLocker(sqlite.address)
    made: list[Responder] = []

    def build(policy: PolicySettings = ENFORCE, **more: Any) -> Responder:
        more = {"response": response, "locker": locker, "first_pause_seconds": 1.0} | more
        made.append(Responder(state, policy, now=clock, **more))
        return made[-1]

    yield build
    locker.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def report(responder: Responder, *detections: Detection) -> list[Action]:
    responder.state.save({}, b"", [detection.to_dict() for detection in detections])
    return responder.handle(detections)


def states(journal: Journal, action: Action) -> dict[str, str]:
    return {step.step: step.state for step in journal.steps(action)}


def entries(state: State, /, **wanted: object) -> list[dict[str, Any]]:
    return [entry for entry in chain.export(state) if all(entry.get(name) == value for name, value in wanted.items())]


def test_a_lock_is_followed_by_what_was_chosen_in_order(make: Any, response: Recorded, detect: Any, clock: Any, state: State) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    assert responder.drain(0)
    assert response.done == [("flush", WANG), ("kick", WANG), ("smtpd", WANG), ("hold", WANG)]
    assert states(responder.journal, lock) == {
        "flush": "done", "flush-late": "pending", "kick": "done", "smtpd": "done", "hold": "done", "hold-late": "pending",
        "verify": "pending",
    }  # fmt: skip
    assert responder.results["hold", "done"] == 1
    (told,) = entries(state, event="step", what="hold")
    assert (told["of"], told["account"], told["statement"], told["rows"], told["result"]) == (lock.id, WANG, "do hold", 1, "done")
    assert responder.drain(0)
    assert len(response.done) == 4, "nothing is done twice"
    assert chain.verify(state).problems == []


def test_nothing_is_chosen_by_default_but_the_look_at_the_log(clock: Any) -> None:
    plain = Response(ResponseSettings())
    assert plain.after_lock(100.0) == {"verify": 760.0}
    assert plain.meanwhile(100.0) == plain.after_unlock(100.0) == {}


def test_mail_that_came_in_meanwhile_is_held_when_the_grace_is_over(make: Any, response: Recorded, detect: Any, clock: Any) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    clock.seconds += 59.9
    responder.drain(0)
    assert "hold-late" not in response.steps
    clock.seconds += 0.1
    responder.drain(0)
    assert response.steps[-1] == "hold-late"
    clock.seconds += 600
    responder.drain(0)
    assert states(responder.journal, lock)["verify"] == "done"


def test_a_step_that_fails_is_tried_again_and_holds_up_no_other(
    make: Any, response: Recorded, detect: Any, clock: Any, state: State
) -> None:
    responder = make()
    response.failing["kick"] = StepError("doveadm kick failed: no such file")
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    assert response.steps == ["flush", "kick", "smtpd", "hold"]
    assert states(responder.journal, lock)["kick"] == "pending"
    for pause in (1, 2, 4, 8):
        clock.seconds += pause
        responder.drain(0)
    assert response.steps.count("kick") == 5
    assert len(entries(state, what="kick")) == 1, "the same error is journalled once"
    del response.failing["kick"]
    clock.seconds += 60
    responder.drain(0)
    assert states(responder.journal, lock)["kick"] == "done"


def test_a_step_is_given_up_in_the_end(make: Any, response: Recorded, detect: Any, clock: Any) -> None:
    responder = make()
    response.failing["kick"] = StepError("no")
    (lock,) = report(responder, detect(WANG))
    for _ in range(40):
        responder.drain(0)
        clock.seconds += 61
    assert response.steps.count("kick") == 30
    assert states(responder.journal, lock)["kick"] == "failed"
    assert responder.results["kick", "failed"] == 30


def test_what_can_never_work_is_not_tried_again(make: Any, response: Recorded, detect: Any, clock: Any) -> None:
    responder = make()
    response.failing["kick"] = StepError("would mean several users", final=True)
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    clock.seconds += 3600
    responder.drain(0)
    assert response.steps.count("kick") == 1
    assert states(responder.journal, lock)["kick"] == "failed"


class Away:
    """A database that can't be reached while it is away."""

    def __init__(self, locker: AccountLocker) -> None:
        self.locker = locker
        self.away = True

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise LockUnavailable("cannot connect")
        return getattr(self.locker, name)


def test_while_the_database_is_away_mail_is_held_all_the_same(
    make: Any, response: Recorded, detect: Any, clock: Any, sqlite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stamina

    locker = Away(AccountLocker(sqlite.address))
    responder = make(locker=locker)
    with stamina.set_testing(True):
        (lock,) = report(responder, detect(WANG))
        responder.drain(0)
        assert response.steps == ["kick", "smtpd", "hold"]
        monkeypatch.setattr(responder, "_due", {})
        responder.drain(0)
        assert response.steps == ["kick", "smtpd", "hold"] * 2, "mail goes on coming in"
        locker.away = False
        monkeypatch.setattr(responder, "_due", {})
        responder.drain(0)
    assert response.steps[6:] == ["flush", "kick", "smtpd", "hold"]
    assert sqlite.rows() == {WANG: 0, LIU: 1}
    assert states(responder.journal, lock)["verify"] == "pending"


def test_a_database_that_does_not_answer_holds_up_no_step(
    make: Any, response: Recorded, detect: Any, sqlite: Any, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a PostgreSQL server that is stopped: the statement waits for as long as it likes."""
    answers = threading.Event()

    class Slow(AccountLocker):
        def lock(self, account: str, record: Any) -> Any:
            assert answers.wait(30)
            return super().lock(account, record)

    monkeypatch.setattr(module, "_SLOW_SECONDS", 0.1)
    responder = make(locker=Slow(sqlite.address))
    responder.start()
    try:
        (lock,) = report(responder, detect(WANG))
        until(lambda: response.steps == ["kick", "smtpd", "hold"])
        until(lambda: states(responder.journal, lock) == dict.fromkeys(("kick", "smtpd", "hold"), "done"))
        assert sqlite.rows() == {WANG: 1, LIU: 1}
        answers.set()
        assert responder.drain(20)
        assert sqlite.rows() == {WANG: 0, LIU: 1}
        assert response.steps[3:] == ["flush", "kick", "smtpd", "hold"], "and once more, for what came in meanwhile"
    finally:
        answers.set()
        responder.stop()


def test_an_unlock_cancels_what_waits_and_flushes_the_cache(
    make: Any, response: Recorded, detect: Any, clock: Any, state: State, sqlite: Any
) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    del response.done[:]
    clock.seconds += 5
    undone = unlock_by_hand(state, WANG, "", AccountLocker(sqlite.address), clock, response=response)
    assert response.steps == ["flush"]
    assert states(responder.journal, lock) == {
        "flush": "done", "flush-late": "pending", "kick": "done", "smtpd": "done", "hold": "done", "hold-late": "cancelled",
        "verify": "cancelled",
    }  # fmt: skip
    assert states(responder.journal, undone) == {}, "what the lock did is taken back, and nothing besides"


def test_by_hand_the_same_follows_at_once(response: Recorded, clock: Any, state: State, sqlite: Any) -> None:
    sqlite.create_generic(WANG)
    facts = Facts({"4A00000001": 1})
    action = lock_by_hand(state, WANG, "", AccountLocker(sqlite.address), clock, response=response, facts=facts)
    assert action.state == "done"
    assert response.steps == ["flush", "kick", "smtpd", "hold"]
    assert response.facts[0] is facts
    assert entries(state, event="settled")[0]["who"].startswith("hand:")


def test_two_processes_do_a_step_once(make: Any, response: Recorded, detect: Any, clock: Any, state: State) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    responder.journal.want(lock, {"hold": clock()}, clock())
    (step,) = responder.journal.steps(lock)
    with State(state.directory) as other:
        assert Journal(other).claim(step, clock(), clock() + 60)
    assert take_step(responder.journal, response, lock, step, Facts(), clock) is None
    assert response.done == []
    # The one that claimed it died over it.
    clock.seconds += 61
    assert take_step(responder.journal, response, lock, step, Facts(), clock) == "done"


def test_the_queue_ids_come_from_the_log(make: Any, response: Recorded, detect: Any, clock: Any) -> None:
    asked: list[str] = []

    def messages(account: str) -> OpenMessages:
        asked.append(account)
        return OpenMessages({"4A00000001": 5}, {"4B00000001"})

    responder = make(open_messages=messages)
    report(responder, detect(WANG))
    responder.drain(0)
    assert asked == [WANG]
    facts = dict(zip(response.steps, response.facts, strict=True))
    assert facts["hold"] == Facts({"4A00000001": 5}, {"4B00000001"}, ())


def accepted(clock: Any, account: str = WANG, *, later: float = 0.0, pid: int = 4242) -> Accepted:
    line = {"line": "…", "source": "mail.log", "offset": 7}
    return Accepted(int((clock() + later) * 1e6), account, "4A00000001", "203.0.113.66", "smtpd", pid, line)


def test_sessions_come_from_the_log_and_from_evidence(make: Any, response: Recorded, detect: Any, clock: Any) -> None:
    responder = make()
    lines = [
        "Oct 24 06:18:01 mx postfix/submission/smtpd[4321]: 4A00000001: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username=x",
        "Oct 24 06:18:01 mx postfix/smtpd[1]: NOQUEUE: reject: postfix/smtpd[66]: 4A00000001: client=unknown[198.51.100.7]",
        "Oct 24 06:18:01 mx postfix/qmgr[77]: 4A00000001: from=<postfix/smtpd[66]: 4A00000001: client=unknown[198.51.100.7]>",
    ]
    one = detect(WANG, 6, "r1")._replace(evidence=tuple({"line": line} for line in lines))
    report(responder, one)
    responder.accepted([accepted(clock), accepted(clock, LIU, pid=99), accepted(clock)])
    report(responder, detect(WANG, 6, "r2"))
    responder.drain(0)
    facts = dict(zip(response.steps, response.facts, strict=True))["smtpd"]
    assert [session.pid for session in facts.sessions] == [4321, 4242]
    assert facts.sessions[1] == Session(4242, "203.0.113.66", clock())


def test_mail_accepted_after_the_grace_is_a_detection(make: Any, response: Recorded, detect: Any, clock: Any, state: State) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    assert responder.watched() == [WANG, WANG]
    assert responder.watched() is None
    clock.seconds += 30
    assert responder.accepted([accepted(clock)]) == [], "within the grace"
    clock.seconds += 31
    assert responder.accepted([accepted(clock, LIU)]) == []
    del response.done[:]
    (found,) = responder.accepted([accepted(clock), accepted(clock, later=1)])
    assert (found.rule, found.severity, found.score, found.subject) == (INEFFECTIVE, "critical", 0.0, {"sasl_username": WANG})
    assert found.evidence == ({"line": "…", "source": "mail.log", "offset": 7},)
    assert state.recent_detections()[-1]["id"] == found.id
    assert responder.accepted([accepted(clock, later=2)]) == [], "once a lock"
    assert states(responder.journal, lock)["verify"] == "failed"
    responder.drain(0)
    assert set(response.steps) >= {"kick", "smtpd", "hold"}, "what can be stopped is stopped once more"


def test_a_restart_reads_the_same_lines_and_finds_the_same(make: Any, detect: Any, clock: Any) -> None:
    responder = make()
    report(responder, detect(WANG))
    responder.drain(0)
    clock.seconds += 100
    responder.watched()
    (found,) = responder.accepted([accepted(clock)])
    again = make()
    again.watched()
    assert again.accepted([accepted(clock)]) == []
    assert [data["id"] for data in again.state.recent_detections()].count(found.id) == 1


def test_silence_counts_only_when_the_log_has_been_read(make: Any, detect: Any, clock: Any) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    clock.seconds += 700
    responder.caught_up = False
    responder.drain(0)
    assert states(responder.journal, lock)["verify"] == "pending"
    responder.caught_up = True
    clock.seconds += 31
    responder.drain(0)
    assert states(responder.journal, lock)["verify"] == "done"


# the access map, with the real postmap


@pytest.fixture
def mapped(tmp_path: Path) -> Callable[[], Response]:
    """Responses with an access map in which somebody was put by hand."""
    if shutil.which("postmap") is None:
        pytest.skip("Postfix is not installed (apt install postfix)")
    path, main = tmp_path / "locked", tmp_path / "postfix" / "main.cf"
    path.write_text("liu@corp.example REJECT by hand\n", encoding="utf-8")
    main.parent.mkdir()
    main.write_text("compatibility_level = 3.6\n", encoding="utf-8")
    # Postfix waits until a new main.cf is two seconds old.
    os.utime(main, (1_700_000_000, 1_700_000_000))
    postmap = ("postmap", "-c", str(main.parent))
    subprocess.run([*postmap, f"hash:{path}"], check=True)
    settings = ResponseSettings(access_map=AccessMapSettings(path=str(path), type="hash", postmap=postmap))
    locker = AccessMapLocker(options=settings.access_map.model_dump())  # type: ignore[union-attr]
    return lambda: Response(settings, None, locker)


@pytest.mark.parametrize("killed", [False, True])
def test_an_entry_of_ours_goes_with_the_unlock_and_one_that_was_there_before_stays(
    killed: bool, make: Any, mapped: Any, detect: Any, clock: Any, state: State, sqlite: Any, tmp_path: Path
) -> None:
    before = (tmp_path / "locked").read_text(encoding="utf-8")
    response = mapped()
    responder = make(response=response)
    wang, liu = report(responder, detect(WANG), detect(LIU))
    if killed:
        # The entry is made, and the process dies before it says so.
        real = responder.journal.step_done
        responder.journal.step_done = lambda *_, **__: 1 / 0
        with pytest.raises(ZeroDivisionError):
            responder.drain(0)
        responder.journal.step_done = real
        clock.seconds += 16
    responder.drain(0)
    # Once more, as after an outage of the database.
    for action in (wang, liu):
        responder.journal.want(action, {"map": clock()}, clock())
    responder.drain(0)
    assert (tmp_path / "locked").read_text(encoding="utf-8").count("REJECT") == 2
    for account in (WANG, LIU):
        unlock_by_hand(state, account, "", AccountLocker(sqlite.address), clock, response=response)
    assert (tmp_path / "locked").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("ending", ["refused", "failed"])
def test_what_was_done_for_a_lock_that_never_came_is_taken_back(
    ending: str, make: Any, mapped: Any, detect: Any, clock: Any, state: State, sqlite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stamina

    response = mapped()
    before = (tmp_path / "locked").read_text(encoding="utf-8")
    locker = Away(AccountLocker(sqlite.address))
    responder = make(locker=locker, response=response)
    with stamina.set_testing(True):
        (lock,) = report(responder, detect(WANG))
        responder.drain(0)
        assert WANG in (tmp_path / "locked").read_text(encoding="utf-8")
        if ending == "refused":
            # Protected by hand while the database is away.
            responder.journal.protect("wang@*", "a mistake", clock())
            monkeypatch.setattr(responder, "_due", {})
            responder.drain(0)
        else:
            responder.journal.finish(lock, "failed", clock(), error="given up")
            assert WANG in (tmp_path / "locked").read_text(encoding="utf-8"), "it stays out until somebody says so"
            unlock_by_hand(state, WANG, "", None, clock, response=response)
            with pytest.raises(UserError, match="there is no lock by sentinel"):
                unlock_by_hand(state, WANG, "", None, clock, response=response)
        responder.drain(0)
    assert (tmp_path / "locked").read_text(encoding="utf-8") == before
    assert chain.verify(state).problems == []


def test_an_expired_lock_that_never_came_leaves_nothing_in_the_map(
    make: Any, mapped: Any, detect: Any, clock: Any, sqlite: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = mapped()
    before = (tmp_path / "locked").read_text(encoding="utf-8")
    responder = make(PolicySettings(mode="enforce", unlock_after=3600.0), locker=Away(AccountLocker(sqlite.address)), response=response)
    report(responder, detect(WANG))
    responder.drain(0)
    assert WANG in (tmp_path / "locked").read_text(encoding="utf-8")
    clock.seconds += 3601
    responder.drain(0)
    responder.drain(0)
    assert (tmp_path / "locked").read_text(encoding="utf-8") == before


def test_the_entry_of_a_lock_that_failed_goes_with_the_next_one(
    make: Any, mapped: Any, detect: Any, clock: Any, state: State, sqlite: Any, tmp_path: Path
) -> None:
    response = mapped()
    before = (tmp_path / "locked").read_text(encoding="utf-8")
    away = Away(AccountLocker(sqlite.address))
    responder = make(locker=away, response=response)
    (first,) = report(responder, detect(WANG))
    responder.drain(0)
    responder.journal.finish(first, "failed", clock(), error="given up")
    away.away = False
    clock.seconds += 1
    (second,) = report(responder, detect(WANG, rule="another"))
    responder.drain(0)
    assert second.id != first.id
    assert sqlite.rows()[WANG] == 0
    unlock_by_hand(state, WANG, "", AccountLocker(sqlite.address), clock, response=response)
    assert (tmp_path / "locked").read_text(encoding="utf-8") == before
    assert sqlite.rows()[WANG] == 1


# what must not stop the others


class Odd(AccountLocker):
    """A bug, or a driver's own error, for one account."""

    def lock(self, account: str, record: Any) -> Any:
        if account == WANG:
            raise UnicodeEncodeError("latin-1", account, 0, 1, "ordinal not in range")
        return super().lock(account, record)


def test_one_action_that_meets_a_bug_does_not_keep_the_others_from_their_turn(make: Any, detect: Any, sqlite: Any, clock: Any) -> None:
    responder = make(locker=Odd(sqlite.address))
    report(responder, detect(WANG), detect(LIU))
    responder.drain(0)
    assert sqlite.rows() == {WANG: 1, LIU: 0}
    (wang,) = [action for action in responder.journal.actions() if action.account == WANG]
    assert (wang.state, wang.error, wang.troubles) == ("pending", "unexpected UnicodeEncodeError", 1)


def test_an_hour_of_outage_is_no_trouble(make: Any, detect: Any, sqlite: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    locker = Away(AccountLocker(sqlite.address))
    responder = make(locker=locker)
    (lock,) = report(responder, detect(WANG))
    for _ in range(40):
        monkeypatch.setattr(responder, "_due", {})
        responder.drain(0)
    sqlite.run("ALTER TABLE mailbox RENAME TO elsewhere")
    locker.away = False
    monkeypatch.setattr(responder, "_due", {})
    responder.drain(0)
    current = responder.journal.get(lock.id)
    assert (current.state, current.attempts, current.troubles) == ("pending", 41, 1)
    sqlite.run("ALTER TABLE elsewhere RENAME TO mailbox")
    monkeypatch.setattr(responder, "_due", {})
    responder.drain(0)
    assert sqlite.rows()[WANG] == 0


def test_a_failed_lock_that_changed_the_row_can_be_undone(make: Any, detect: Any, sqlite: Any, clock: Any, state: State) -> None:
    responder = make()
    (lock,) = report(responder, detect(WANG))
    responder.drain(0)
    with state.transaction() as db:
        db.execute("UPDATE actions SET state = 'failed'")
    assert responder.journal.failed_lock(WANG.upper()).id == lock.id
    unlock_by_hand(state, WANG, "", AccountLocker(sqlite.address), clock)
    assert sqlite.rows() == {WANG: 1, LIU: 1}
    assert responder.journal.failed_lock(WANG) is None


def test_a_lock_of_policy_that_an_admin_wants_is_his(make: Any, detect: Any, sqlite: Any, clock: Any, state: State) -> None:
    responder = make(PolicySettings(mode="enforce", unlock_after=600.0))
    report(responder, detect(WANG))
    responder.drain(0)
    kept = lock_by_hand(state, WANG, "stolen, I know it", AccountLocker(sqlite.address), clock)
    assert (kept.by, kept.why, kept.expires) == ("hand", "stolen, I know it", None)
    clock.seconds += 700
    responder.drain(0)
    assert sqlite.rows()[WANG] == 0
    assert chain.verify(state).problems == []


def test_what_the_breaker_refused_is_decided_anew_when_it_is_closed(make: Any, detect: Any, sqlite: Any, clock: Any) -> None:
    for n in range(20):
        sqlite.run("INSERT INTO mailbox VALUES (:name, 1)", name=f"user{n}@corp.example")
    policy = PolicySettings(mode="enforce", max_locks_per_hour=100, breaker=BreakerSettings(accounts=3))
    responder = make(policy)
    report(responder, *many(4, detect))
    responder.drain(0)
    assert set(sqlite.rows().values()) == {1}
    clock.seconds += 700
    responder.journal.close_breaker("they are stolen indeed", clock())
    # A restart in between.
    responder = make(policy)
    for _ in range(3):
        responder.drain(0)
    assert sorted(name for name, active in sqlite.rows().items() if not active) == [f"user{n}@corp.example" for n in range(4)]
    assert responder.journal.breaker() is None


# the breaker, and time


def many(count: int, detect: Any) -> list[Detection]:
    return [detect(f"user{n}@corp.example") for n in range(count)]


def test_the_breaker_stops_all_locking_until_it_is_closed(make: Any, detect: Any, clock: Any, state: State, sqlite: Any) -> None:
    for n in range(20):
        sqlite.run("INSERT INTO mailbox VALUES (:name, 1)", name=f"user{n}@corp.example")
    responder = make(PolicySettings(mode="enforce", max_locks_per_hour=100))
    actions = report(responder, *many(12, detect))
    refused = {action.account: action.refused for action in actions if action.state == "refused"}
    assert len(refused) == 12, "also those that were waiting"
    assert set(refused.values()) == {"breaker: 11 accounts reached the score within 10m, more than 10"}
    responder.drain(0)
    assert set(sqlite.rows().values()) == {1}
    assert entries(state, event="breaker-open")[0]["why"].startswith("11 accounts")
    clock.seconds += 3000
    restarted = make(PolicySettings(mode="enforce", max_locks_per_hour=100))
    (action,) = report(restarted, detect(WANG))
    assert action.refused is not None
    assert action.refused.startswith("breaker: 11 accounts"), "it stays open over a restart"
    assert restarted.journal.close_breaker("looked into it", clock())
    (lock,) = report(restarted, detect(WANG, rule="another"))
    assert lock.state == "pending"
    restarted.drain(0)
    assert sqlite.rows()[WANG] == 0


def test_a_share_of_the_active_accounts_opens_it_too(make: Any, detect: Any) -> None:
    responder = make()
    responder.state.save({}, b"", [])
    five = many(5, detect)
    responder.state.add_detections([detection.to_dict() for detection in five])
    actions = responder.handle(five, 12)
    assert sum(action.state == "refused" for action in actions) == 5
    assert responder.journal.breaker() is not None


def test_a_lock_of_policy_ends_by_itself_where_that_was_chosen(
    make: Any, response: Recorded, detect: Any, clock: Any, sqlite: Any, state: State
) -> None:
    responder = make(PolicySettings(mode="enforce", unlock_after=7200.0))
    report(responder, detect(WANG))
    lock_by_hand(state, LIU, "", AccountLocker(sqlite.address), clock)
    responder.drain(0)
    assert sqlite.rows() == {WANG: 0, LIU: 0}
    clock.seconds += 7199
    responder.drain(0)
    assert sqlite.rows() == {WANG: 0, LIU: 0}
    clock.seconds += 1
    responder.drain(0)
    assert sqlite.rows() == {WANG: 1, LIU: 0}
    (settled,) = entries(state, what="unlock", event="settled")
    assert (settled["who"], settled["why"], settled["state"]) == ("policy", "its time is over", "done")
    # A lock that ended by itself is no wish of anybody's: what happens later counts at once.
    clock.seconds += 1
    report(responder, detect(WANG))
    responder.drain(0)
    assert sqlite.rows() == {WANG: 0, LIU: 0}


# killed between any two steps

CHILD = """
import os, signal, sys
from pathlib import Path
from sentinel.config import PolicySettings, ResponseSettings
from sentinel.detect.detection import Detection
from sentinel.respond.journal import Done, Journal
from sentinel.respond.locks import AccountLocker
from sentinel.respond.responder import Responder
from sentinel.respond.response import Response
from sentinel.state import State

directory, url, point, now = sys.argv[1:]
WANG = {"sasl_username": "wang@corp.example"}
clock = float(now)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Files(Response):
    # Each step leaves a file; it is there once however often the step is done.
    def perform(self, step, account, facts, **_):
        if point == f"before {step}":
            die()
        Path(directory, f"{step} {account}").write_text("")
        if point == f"after {step}":
            die()
        return Done(f"do {step}", 1, 0.0)

def dying(owner, name, when):
    real = getattr(owner, name)
    def wrapped(self, *a, **k):
        if when == "before":
            die()
        result = real(self, *a, **k)
        die()
    setattr(owner, name, wrapped)

where, _, name = point.partition(" ")
if name.startswith("Journal."):
    dying(Journal, name.removeprefix("Journal."), where)
settings = ResponseSettings(flush_auth_cache=True, kick=True, hold=True, grace=60.0, watch=600.0)
state = State(directory)
state.hold()
responder = Responder(state, PolicySettings(mode="enforce"), AccountLocker(url), now=lambda: clock, response=Files(settings))
found = Detection("d1", "burst", "critical", 10.0, int(float(now) * 1e6) // 10**9 * 10**9, WANG, 60.0, "m", 1.0, 1.0)
state.save({"log": {"offset": 1}}, b"snapshot", [found.to_dict()])
responder.handle([found])
for later in (0, 61, 700):
    clock = float(now) + later
    responder.drain(0)
    if later:
        clock += 200  # longer than a lease
        responder.drain(0)
print("alive")
"""
POINTS = [
    *(f"{when} {step}" for when in ("before", "after") for step in ("flush", "flush-late", "kick", "hold", "hold-late")),
    *(f"{when} Journal.{name}" for when in ("before", "after") for name in ("finish", "want", "claim", "step_done", "_note")),
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_any_two_steps_each_is_done_and_the_journal_is_whole(point: str, sqlite: Any, tmp_path: Path, clock: Any) -> None:
    sqlite.create_generic(WANG, LIU)
    directory = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *sys.path[1:]])}

    def child(point: str, now: float) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", CHILD, str(directory), sqlite.address, point, str(now)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)

    killed = child(point, clock())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = child("none", clock() + 5)
    assert (again.returncode, again.stdout) == (0, "alive\n"), again.stderr
    assert sqlite.rows() == {WANG: 0, LIU: 1}
    with State(directory) as state:
        assert chain.verify(state).problems == []
        journal = Journal(state)
        (lock,) = journal.open_locks()
        assert set(states(journal, lock).values()) == {"done"}
        assert sorted(path.name for path in directory.glob("* *@*")) == [
            f"{step} {WANG}" for step in ("flush", "flush-late", "hold", "hold-late", "kick")
        ]
        assert len(entries(state, event="settled", what="lock", state="done")) == 1


def test_a_state_of_the_version_before_is_brought_up(tmp_path: Path, clock: Any) -> None:
    import sqlite3

    from sentinel import state as module

    directory = tmp_path / "old"
    directory.mkdir()
    with sqlite3.connect(directory / module.DATABASE_NAME) as db:
        for statement in module._SCHEMA:
            db.execute(statement)
        db.execute(
            "INSERT INTO actions (id, account, account_key, action, state, by, why, detections, total, created, changed, login, prior) "
            "VALUES ('old', ?, ?, 'lock', 'done', 'policy', '', '[]', 10, 1, 1, ?, '{\"active\": 1}')",
            (WANG, WANG, WANG),
        )
        db.execute(f"PRAGMA application_id = {module._APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
    with State(directory) as state:
        (lock,) = Journal(state).open_locks()
        assert (lock.id, lock.prior, lock.expires) == ("old", {"active": 1}, None)
        assert chain.verify(state).problems == [], "what is older than the journal is not missed in it"
        Journal(state).by_hand("lock", LIU, "", clock())
        assert chain.verify(state).problems == []
