"""From detections to a locked row and back, with the database up, down, stalled, and the process killed in between."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel.config import PolicySettings
from sentinel.errors import UserError
from sentinel.respond.journal import Action, Journal
from sentinel.respond.locks import AccountLocker
from sentinel.respond.policy import Standing
from sentinel.respond.responder import Responder, list_locks, lock_by_hand, protect, unlock_by_hand, unprotect
from sentinel.state import State

WANG = "wang@corp.example"
LIU = "liu@corp.example"
ENFORCE = PolicySettings(mode="enforce")
PATIENCE_SECONDS = 20.0

Make = Callable[..., Responder]


@pytest.fixture
def make(state: State, clock: Any) -> Iterator[Make]:
    """Responders that are stopped in the end."""
    made: list[Responder] = []

    def build(locker: AccountLocker | None = None, policy: PolicySettings = ENFORCE, **more: Any) -> Responder:
        more = {"first_pause_seconds": 0.05, "longest_pause_seconds": 0.2} | more
        made.append(Responder(state, policy, locker, now=clock, **more))
        return made[-1]

    yield build
    for responder in made:
        responder.stop()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def report(responder: Responder, *detections: Any) -> list[Action]:
    """What the daemon does: commit, then handle."""
    responder.state.save({}, b"", [detection.to_dict() for detection in detections])
    return responder.handle(detections)


def test_lock_in_every_database(database: Any, make: Make, detect: Any, state: State) -> None:
    database.create_extmail(WANG, LIU)
    heard: list[tuple[str, str]] = []
    responder = make(AccountLocker(database.address, "extmail"), on_action=lambda a: heard.append((a.action, a.state)))
    responder.start()
    (action,) = report(responder, detect(WANG, 6, "r1"), detect(LIU, 6, "r1"), detect(None, 99), detect(WANG, 6, "r2"))
    assert (action.state, action.account, action.total) == ("pending", WANG, 12)
    assert responder.drain(PATIENCE_SECONDS)
    assert database.rows() == {WANG: 1, LIU: None}
    assert responder.locked() == [WANG]
    assert responder.results["lock", "done"] == 1
    assert sum(responder.results.values()) == 1
    assert heard == [("lock", "done")]
    (lock,) = list_locks(state)
    assert (lock.state, lock.prior, lock.login, lock.detections) == (
        "done",
        {"disablesmtpd": None},
        WANG,
        ("d0001", "d0004"),
    )
    assert report(responder, detect(WANG, 10, "r3")) == []
    assert responder.scores() == {WANG: 22, LIU: 6}


def test_observe_journals_once_and_touches_nothing(sqlite: Any, make: Make, detect: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    responder = make(AccountLocker(sqlite.address), PolicySettings())
    responder.start()
    report(responder, detect(WANG))
    report(responder, detect(WANG, 5, "r2"), detect(WANG))
    assert responder.drain(PATIENCE_SECONDS)
    assert [a.state for a in list_locks(state, every=True)] == ["simulated"]
    assert sqlite.rows() == {WANG: 1}
    assert responder.results["lock", "simulated"] == 1
    assert responder.locked() == []


def test_notify_is_done_at_once(make: Make, detect: Any, state: State) -> None:
    responder = make(None, PolicySettings(mode="notify"))
    (action,) = report(responder, detect(WANG))
    assert (action.action, action.state) == ("notify", "done")
    assert report(responder, detect(WANG)) == []
    assert list_locks(state) == []


def test_enforce_without_database_is_refused_at_once(state: State) -> None:
    with pytest.raises(UserError, match="there is no database to lock accounts in"):
        Responder(state, PolicySettings(), None, "enforce")


@pytest.mark.parametrize("server", ["mysql", "postgresql"])
def test_database_down_then_back(
    server: str, request: pytest.FixtureRequest, gate: Callable[[Any], Any], make: Make, detect: Any, state: State
) -> None:
    database = request.getfixturevalue(server)
    database.create_extmail(WANG)
    door = gate(database)
    url = database.url.set(host="127.0.0.1", port=door.port, password="geheim").render_as_string(hide_password=False)
    failed = threading.Event()
    responder = make(AccountLocker(url, "extmail"), on_action=lambda a: failed.set() if a.attempts else None)
    responder.start()
    began = time.monotonic()
    (action,) = report(responder, detect(WANG))
    assert time.monotonic() - began < 1
    assert failed.wait(PATIENCE_SECONDS)
    (waiting,) = list_locks(state)
    assert (waiting.state, waiting.id) == ("pending", action.id)
    assert waiting.error is not None
    assert waiting.error.startswith(f"cannot connect to {server} sentinel_test_")
    assert "geheim" not in waiting.error
    assert responder.results["lock", "failed"] >= 1
    assert not responder.drain(0.1)
    if server == "mysql":
        # Unlike PostgreSQL's trust, MariaDB refuses a password where there is none.
        url = database.url.set(host="127.0.0.1", port=door.port).render_as_string(hide_password=False)
        responder._locker = AccountLocker(url, "extmail")
    door.open()
    assert responder.drain(PATIENCE_SECONDS)
    assert database.rows() == {WANG: 1}
    (lock,) = list_locks(state)
    assert (lock.state, lock.error) == ("done", None)
    assert lock.attempts > 1


def test_stalled_database_never_holds_up_handle(mysql: Any, gate: Callable[[Any], Any], make: Make, detect: Any) -> None:
    mysql.create_generic(WANG)
    door = gate(mysql)
    door.open(stalled=True)
    responder = make(AccountLocker(mysql.url.set(port=door.port).render_as_string(hide_password=False)))
    responder.start()
    report(responder, detect(WANG))
    began = time.monotonic()
    for number in range(20):
        report(responder, detect(f"user{number}@x", 1))
    responder.scores()
    assert time.monotonic() - began < 2
    door.shut()
    door.open()
    assert responder.drain(PATIENCE_SECONDS)
    assert mysql.rows() == {WANG: 0}


def test_no_such_account_is_refused_and_not_tried_again(sqlite: Any, make: Make, detect: Any, state: State) -> None:
    sqlite.create_generic(LIU)
    responder = make(AccountLocker(sqlite.address))
    report(responder, detect("'; DROP TABLE mailbox; --"))
    assert responder.drain(0)
    assert report(responder, detect("'; DROP TABLE mailbox; --", 5, "r2")) == []
    (action,) = list_locks(state, every=True)
    assert action.state == "refused"
    assert action.refused == "account: no such account in mailbox: '; DROP TABLE mailbox; --"
    assert responder.results["lock", "refused"] == 1
    assert sqlite.rows() == {LIU: 1}


def test_failed_verification_is_final_until_the_next_detection(sqlite: Any, make: Make, detect: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    sqlite.run("CREATE TRIGGER no BEFORE UPDATE ON mailbox BEGIN SELECT RAISE(IGNORE); END")
    responder = make(AccountLocker(sqlite.address))
    report(responder, detect(WANG))
    assert responder.drain(0)
    assert [a.state for a in list_locks(state, every=True)] == ["failed"]
    sqlite.run("DROP TRIGGER no")
    report(responder, detect(WANG, 5, "r2"))
    assert responder.drain(0)
    assert [a.state for a in list_locks(state, every=True)] == ["failed", "done"]
    assert sqlite.rows() == {WANG: 0}


def test_cap_then_room_again(sqlite: Any, make: Make, detect: Any, clock: Any, state: State) -> None:
    users = [f"user{number}@x" for number in range(4)]
    sqlite.create_generic(*users)
    responder = make(AccountLocker(sqlite.address), PolicySettings(mode="enforce", max_locks_per_hour=2))
    report(responder, *(detect(user) for user in users))
    assert responder.drain(0)
    assert [sqlite.rows()[user] for user in users] == [0, 0, 1, 1]
    refused = [a.refused for a in list_locks(state, every=True) if a.state == "refused"]
    assert refused == ["cap: 2 locks within an hour, at most 2 allowed"] * 2
    assert report(responder, detect(users[2])) == []
    clock.seconds += 3601
    report(responder, detect(users[2]))
    assert responder.drain(0)
    assert sqlite.rows()[users[2]] == 0


def test_locks_by_hand_do_not_use_up_the_cap(sqlite: Any, make: Make, detect: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG, LIU)
    locker = AccountLocker(sqlite.address)
    responder = make(locker, PolicySettings(mode="enforce", max_locks_per_hour=1))
    lock_by_hand(state, LIU, "phoned", locker, clock)
    report(responder, detect(WANG))
    assert responder.drain(0)
    assert sqlite.rows() == {WANG: 0, LIU: 0}


def test_protected_at_run_time(sqlite: Any, make: Make, detect: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG, LIU)
    responder = make(AccountLocker(sqlite.address))
    protect(state, "*@CORP.example", "the boss", clock)
    report(responder, detect(WANG))
    assert responder.drain(0)
    assert sqlite.rows() == {WANG: 1, LIU: 1}
    with pytest.raises(UserError, match=r"there are: \*@CORP.example"):
        unprotect(state, "other", "", clock)
    clock.seconds += 1
    unprotect(state, "*@CORP.example", "", clock)
    report(responder, detect(WANG))
    assert responder.drain(0)
    assert sqlite.rows() == {WANG: 0, LIU: 1}
    assert [(a.action, a.state) for a in list_locks(state, every=True)] == [
        ("protect", "done"), ("lock", "refused"), ("unprotect", "done"), ("lock", "done"),
    ]  # fmt: skip


def test_protected_while_the_lock_waits(sqlite: Any, make: Make, detect: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    responder = make(AccountLocker(sqlite.address))
    report(responder, detect(WANG))
    protect(state, WANG, "", clock)
    assert responder.drain(0)
    assert sqlite.rows() == {WANG: 1}
    assert list_locks(state) == []


def test_stale_evidence_is_only_reported(sqlite: Any, make: Make, detect: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    responder = make(AccountLocker(sqlite.address))
    (action,) = report(responder, detect(WANG, age=7200))
    assert action.refused == "stale: the newest evidence is 2h old, more than 1h"
    assert responder.drain(0)
    assert sqlite.rows() == {WANG: 1}


def test_manual_unlock_is_respected_across_a_restart(database: Any, make: Make, detect: Any, clock: Any, state: State) -> None:
    database.create_extmail(WANG)
    locker = AccountLocker(database.address, "extmail")
    responder = make(locker)
    report(responder, detect(WANG))
    assert responder.drain(0)
    clock.seconds += 10
    undone = unlock_by_hand(state, WANG.upper(), "password changed", locker, clock)
    assert (undone.state, undone.action) == ("done", "unlock")
    assert database.rows() == {WANG: None}
    assert list_locks(state) == []
    responder = make(locker)
    responder.start()
    late = detect(WANG, 10, "r2", age=5)
    assert report(responder, late) == []
    assert responder.drain(PATIENCE_SECONDS)
    assert database.rows() == {WANG: None}
    clock.seconds += 10
    (left_alone,) = report(responder, detect(WANG))
    assert left_alone.refused == "released: it was unlocked by hand 10s ago, and is left alone for 1h"
    assert responder.drain(PATIENCE_SECONDS)
    assert database.rows() == {WANG: None}
    # A restart in between, and no further detection: policy looks again by itself.
    responder.stop()
    responder = make(locker)
    clock.seconds += 3591
    responder.start()
    until(lambda: database.rows() == {WANG: 1})
    (again,) = list_locks(state)
    assert again.id != undone.target


def test_unlock_of_what_sentinel_did_not_lock(sqlite: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG, active=0)
    with pytest.raises(UserError, match=r"there is no lock by sentinel on wang@corp\.example"):
        unlock_by_hand(state, WANG, "", AccountLocker(sqlite.address), clock)


def test_locked_by_somebody_else_before(sqlite: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG, active=0)
    locker = AccountLocker(sqlite.address)
    action = lock_by_hand(state, WANG, "", locker, clock)
    assert (action.state, action.error) == ("done", "it was locked already")
    unlock_by_hand(state, WANG, "", locker, clock)
    assert sqlite.rows() == {WANG: 0}


def test_by_hand_while_the_database_is_down_goes_on_later(sqlite: Any, make: Make, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    path = Path(str(sqlite.url.database))
    locker = AccountLocker(sqlite.address)
    path.rename(path.with_suffix(".away"))
    action = lock_by_hand(state, WANG, "phoned", locker, clock)
    assert (action.state, action.attempts) == ("pending", 1)
    cancelled = unlock_by_hand(state, WANG, "mistake", None, clock)
    assert (cancelled.action, cancelled.state) == ("unlock", "done")
    clock.seconds += 1
    lock_by_hand(state, WANG, "phoned again", locker, clock)
    path.with_suffix(".away").rename(path)
    # Observing daemons too do what was asked for by hand.
    responder = make(locker, PolicySettings())
    responder.start()
    assert responder.drain(PATIENCE_SECONDS)
    assert sqlite.rows() == {WANG: 0}
    assert lock_by_hand(state, WANG, "", locker, clock).why == "phoned again"


def test_unlock_of_an_account_that_is_gone(sqlite: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    locker = AccountLocker(sqlite.address)
    lock_by_hand(state, WANG, "", locker, clock)
    sqlite.run("DELETE FROM mailbox")
    action = unlock_by_hand(state, WANG, "", locker, clock)
    assert (action.state, action.error) == ("done", "no such account in mailbox: wang@corp.example")
    assert list_locks(state) == []


def test_unlock_between_the_statement_and_its_journal_entry(sqlite: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    locker = AccountLocker(sqlite.address)

    class Interrupted(AccountLocker):
        def lock(self, account: str, record: Any) -> Any:
            result = super().lock(account, record)
            unlock_by_hand(state, WANG, "at the same moment", locker, clock)
            return result

    lock_by_hand(state, WANG, "", Interrupted(sqlite.address), clock)
    assert sqlite.rows() == {WANG: 1}
    assert list_locks(state) == []


def test_unlock_before_the_statement_stops_it(sqlite: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG)

    class Interrupted(AccountLocker):
        def lock(self, account: str, record: Any) -> Any:
            unlock_by_hand(state, WANG, "at the same moment", None, clock)
            return super().lock(account, record)

    lock_by_hand(state, WANG, "", Interrupted(sqlite.address), clock)
    assert sqlite.rows() == {WANG: 1}
    assert list_locks(state) == []


def test_back_to_observe_drops_what_waits(sqlite: Any, make: Make, detect: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    locker = AccountLocker(sqlite.address)
    report(make(locker), detect(WANG))
    observer = make(locker, PolicySettings())
    observer.start()
    assert observer.drain(PATIENCE_SECONDS)
    (action,) = list_locks(state, every=True)
    assert (action.state, action.refused) == ("refused", "mode: policy.mode is observe now")
    assert sqlite.rows() == {WANG: 1}


def test_committed_but_not_handled_is_handled_at_the_next_start(sqlite: Any, make: Make, detect: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    locker = AccountLocker(sqlite.address)
    first = make(locker)
    report(first, detect(WANG, 6, "r1"))
    state.save({}, b"", [detect(WANG, 6, "r2").to_dict()])
    second = make(locker)
    second.start()
    assert second.drain(PATIENCE_SECONDS)
    assert sqlite.rows() == {WANG: 0}
    assert [a.detections for a in list_locks(state)] == [("d0001", "d0002")]


def test_restart_remembers_scores_and_decides_nothing_anew(make: Make, detect: Any, state: State) -> None:
    observer = make(None, PolicySettings())
    report(observer, detect(WANG), detect(LIU, 4))
    scores = observer.scores()
    again = make(None, PolicySettings())
    again.start()
    assert again.scores() == scores == {WANG: 10, LIU: 4}
    assert len(list_locks(state, every=True)) == 1


def test_standing_of_a_stranger(state: State, clock: Any) -> None:
    assert Journal(state).standing("nobody@x", clock(), simulated=False) == Standing()


def test_stop_is_quick_and_start_again_works(sqlite: Any, make: Make, detect: Any) -> None:
    responder = make(AccountLocker(sqlite.address))
    responder.start()
    began = time.monotonic()
    responder.stop()
    assert time.monotonic() - began < 1
    sqlite.create_generic(WANG)
    report(responder, detect(WANG))
    responder.start()
    assert responder.drain(PATIENCE_SECONDS)
    assert sqlite.rows() == {WANG: 0}


def test_listener_that_fails_does_no_harm(sqlite: Any, make: Make, detect: Any, caplog: pytest.LogCaptureFixture) -> None:
    sqlite.create_generic(WANG)

    def bad(action: Action) -> None:
        raise RuntimeError("listener")

    responder = make(AccountLocker(sqlite.address), on_action=bad)
    responder.start()
    report(responder, detect(WANG))
    assert responder.drain(PATIENCE_SECONDS)
    assert sqlite.rows() == {WANG: 0}
    assert "a listener to actions failed" in caplog.text


def test_two_processes_at_once_lock_once(sqlite: Any, make: Make, detect: Any, clock: Any, state: State) -> None:
    sqlite.create_generic(WANG)
    audit(sqlite)
    responder = make(AccountLocker(sqlite.address))
    responder.start()
    go = threading.Barrier(3)

    def by_hand() -> None:
        with State(state.directory) as mine:
            go.wait()
            lock_by_hand(mine, WANG, "", AccountLocker(sqlite.address), clock)

    threads = [threading.Thread(target=by_hand) for _ in range(2)]
    for thread in threads:
        thread.start()
    go.wait()
    report(responder, detect(WANG))
    for thread in threads:
        thread.join()
    assert responder.drain(PATIENCE_SECONDS)
    (lock,) = list_locks(state)
    assert (lock.state, lock.prior) == ("done", {"active": 1})
    assert sqlite.run("SELECT count(*) FROM audit") == [(1,)]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, sentinel.respond.responder, sentinel.state\n"
        "print([m for m in ('sqlalchemy', 'stamina', 'pandas', 'yaml', 'pymysql', 'psycopg') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


# killed between any two steps

CHILD = """
import os, signal, sys
from sentinel.config import PolicySettings
from sentinel.detect.detection import Detection
from sentinel.respond.journal import Journal
from sentinel.respond.locks import AccountLocker
from sentinel.respond.responder import Responder
from sentinel.state import State

directory, url, preset, point, now = sys.argv[1:]
WANG = {"sasl_username": "wang@corp.example"}

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def before(owner, name):
    setattr(owner, name, die)

def after(owner, name, when=lambda *a: True):
    real = getattr(owner, name)
    def wrapped(self, *a, **k):
        result = real(self, *a, **k)
        if when(*a):
            die()
        return result
    setattr(owner, name, wrapped)

state = State(directory)
state.hold()
responder = Responder(state, PolicySettings(mode="enforce"), AccountLocker(url, preset), now=lambda: float(now))
found = Detection("d1", "burst", "critical", 10.0, int(float(now) * 1e6), WANG, 60.0, "m", 1.0, 1.0)
match point:
    case "detected": after(State, "save")
    case "deciding": after(Journal, "decide")
    case "decided": after(Responder, "handle", lambda found: found)
    case "reading": before(Journal, "record_prior")
    case "recorded": after(Journal, "record_prior")
    case "updated": after(AccountLocker, "_change")
    case "committed": before(Journal, "finish")
    case "finished": after(Journal, "finish")
responder.start()
state.save({"log": {"offset": 1}}, b"snapshot", [found.to_dict()])
responder.handle([found])
assert responder.drain(20)
print("alive")
"""
POINTS = ["detected", "deciding", "decided", "reading", "recorded", "updated", "committed", "finished"]


def audit(database: Any) -> None:
    """Each change of a mailbox row leaves a row in audit."""
    column = next(name for name in ("disablesmtpd", "active") if name in database._columns())
    # Without transactions, so that it also sees what a kill left in a table without transactions.
    engine = " ENGINE=MyISAM" if database.kind == "mysql" else ""
    database.run(f"CREATE TABLE audit (username VARCHAR(200)){engine}")
    if database.kind == "sqlite":
        database.run(
            f"CREATE TRIGGER seen AFTER UPDATE ON mailbox WHEN OLD.{column} IS NOT NEW.{column} "
            "BEGIN INSERT INTO audit VALUES (NEW.username); END"
        )
    else:
        database.run(
            "CREATE TRIGGER seen AFTER UPDATE ON mailbox FOR EACH ROW INSERT INTO audit "
            f"SELECT NEW.username FROM DUAL WHERE NOT (OLD.{column} <=> NEW.{column})"
        )


def run_child(directory: Path, database: Any, preset: str, point: str, now: float) -> subprocess.CompletedProcess[str]:
    package = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(directory), database.address, preset, point, str(now)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package), *sys.path[1:]])},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("server", ["sqlite", "mysql"])
def test_killed_at_any_point_locks_exactly_once(
    server: str, point: str, request: pytest.FixtureRequest, tmp_path: Path, clock: Any
) -> None:
    database = request.getfixturevalue(server)
    preset = "generic" if server == "sqlite" else "extmail"
    if server == "sqlite":
        database.create_generic(WANG, LIU)
    else:
        database.create_extmail(WANG, LIU)
    before = database.rows()
    audit(database)
    directory = tmp_path / "killed"
    killed = run_child(directory, database, preset, point, clock())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # The daemon starts again and reads the same lines again.
    for _ in range(2):
        again = run_child(directory, database, preset, "none", clock() + 5)
        assert (again.returncode, again.stdout) == (0, "alive\n"), again.stderr
    locker = AccountLocker(database.address, preset)
    with State(directory) as state:
        (lock,) = list_locks(state, every=True)
        assert (lock.state, lock.prior) == ("done", dict.fromkeys(lock.prior or {}, before[WANG]))
        assert lock.prior is not None
        assert database.run("SELECT username FROM audit") == [(WANG,)]
        assert locker.is_locked(WANG)
        assert not locker.is_locked(LIU)
        unlock_by_hand(state, WANG, "", locker, clock)
    assert database.rows() == before
    locker.close()
