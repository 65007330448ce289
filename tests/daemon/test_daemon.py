"""The daemon as a process: what it finds, what it locks, and what nothing may stop it from."""

import grp
import json
import os
import pwd
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from running import THIEF, Daemon, Mailboxes, Traffic, essence, replayed, running, sentinel, until, write

PEOPLE = ("anna@example.com", "bert@example.com", "info@example.com", "Carla@Example.COM")
CULPRIT = "info@example.com"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mail.log"
    path.touch()
    return path


@pytest.fixture
def mailboxes(tmp_path: Path) -> Mailboxes:
    return Mailboxes(tmp_path / "mail.sqlite", PEOPLE)


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def stored(state: Path) -> list[dict[str, Any]]:
    """All detections of a state directory whose daemon has ended."""
    with closing(sqlite3.connect(f"file:{state}/sentinel.db?mode=ro", uri=True)) as db:
        return [json.loads(data) for (data,) in db.execute("SELECT data FROM detections ORDER BY time, id")]


def offset_of(state: Path, log: Path) -> int:
    """The last checkpoint's position in a log."""
    with closing(sqlite3.connect(f"file:{state}/sentinel.db?mode=ro", uri=True)) as db:
        ((positions,),) = db.execute("SELECT positions FROM checkpoint")
    return int(json.loads(positions)[str(log)]["offset"])


def rules_fired(detections: list[dict[str, Any]], account: str = CULPRIT) -> set[str]:
    return {one["rule"] for one in detections if one["subject"].get("sasl_username") == account}


def says_why(daemon: Daemon, words: str) -> bool:
    status, text = daemon.get("/readyz")
    return status == 503 and words in text


def let_pass(seconds: float) -> None:
    """For a signal at some random moment: there is nothing to wait for."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() >= end, "time passes")


def locks(daemon: Daemon) -> list[tuple[str, str, str]]:
    return [(row["action"], row["state"], row["account"]) for row in daemon.journal()]


# live is replay

# Low thresholds, so that something fires all day long: counts, sums, distinct values, ratios and sequences of one event after others.
NERVOUS = """
rules:
- {name: failures, on: auth_failed, by: client_ip, measure: count, window: 10m, threshold: 3, cooldown: 10m, <>}
- {name: writes, on: queued, where: {origin: login}, by: sasl_username, measure: sum(recipients), window: 1h, threshold: 8, <>}
- {name: senders, on: queued, where: {origin: login}, by: sasl_username, measure: distinct(sender), window: 6h, threshold: 2, <>}
- name: bounces
  on: delivery
  where: {status: [sent, bounced]}
  by: host
  measure: ratio
  of: {status: bounced}
  at_least: 4
  window: 10m
  threshold: 0.1
  cooldown: 10m
  <>
- {name: deferred, on: delivery, where: {status: deferred}, by: [host, provider], measure: count, window: 2h, threshold: 10, <>}
- {name: guessed, on: auth_failed, by: client_ip, measure: count, window: 1h, threshold: 2, then: {on: rejected}, subject: [client_ip], <>}
""".replace(", <>", ", score: 1, severity: info, description: D., advice: A.").replace(
    "  <>", "  score: 1\n  severity: info\n  description: D.\n  advice: A."
)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Yesterday's log of a busy server, with a cracked account in it."""
    path = tmp_path_factory.mktemp("day") / "mail.log"
    generate = Path(__file__).parents[1] / "bench" / "generate.py"
    yesterday = date.today() - timedelta(days=1)
    command = [sys.executable, str(generate), str(path), "--lines", "60000", "--seed", "7", "--date", yesterday.isoformat()]
    subprocess.run(command, check=True, capture_output=True)
    return path.read_bytes()


def odd_pieces(data: bytes, seed: int, largest: int) -> Iterator[bytes]:
    """Cut anywhere: within lines, within numbers, several lines at once, single bytes."""
    rng = random.Random(seed)
    at = 0
    while at < len(data):
        size = rng.choice((1, rng.randrange(2, 80), rng.randrange(100, largest)))
        yield data[at : at + size]
        at += size


def rotate_by_rename(log: Path) -> None:
    log.rename(log.with_name("mail.log.1"))
    log.touch()


def rotate_by_logrotate(log: Path) -> None:
    binary = shutil.which("logrotate") or ("/usr/sbin/logrotate" if os.access("/usr/sbin/logrotate", os.X_OK) else None)
    if binary is None:
        pytest.skip("logrotate is not installed")
    config = log.with_name("rotate.conf")
    # Where the tests run as root in a folder that others may write, logrotate wants to be told that this is all right.
    user = f"su {pwd_name()} {group_name()}\n"
    config.write_text(f"{log} {{\n rotate 5\n nocompress\n missingok\n create 0600\n {user}}}\n")
    config.chmod(0o600)
    done = subprocess.run([binary, "--force", "--state", str(log.with_name("rotate.state")), str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert log.with_name("mail.log.1").exists()


def pwd_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def group_name() -> str:
    return grp.getgrgid(os.getegid()).gr_name


@pytest.mark.parametrize("rotate", [rotate_by_rename, rotate_by_logrotate])
def test_live_is_replay(tmp_path: Path, log: Path, day: bytes, rotate: Callable[[Path], None]) -> None:
    """Grown in odd pieces, rotated, stopped and started again: the very detections of a replay of the finished files."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(NERVOUS)
    daemon = Daemon(tmp_path, "--rules", str(rules))
    # The stop falls into a line; rotation does not: who writes a line ends it in the file in which it began.
    third, two_thirds = len(day) // 3, day.index(b"\n", 2 * len(day) // 3) + 1
    try:
        daemon.start()
        for piece in odd_pieces(day[:third], 1, 200_000):
            write(log, piece)
        assert daemon.stop() == 0
        for piece in odd_pieces(day[third:two_thirds], 2, 400_000):
            write(log, piece)
        daemon.start()
        rotate(log)
        for piece in odd_pieces(day[two_thirds:], 3, 400_000):
            write(log, piece)
        finish(daemon, log)
    finally:
        daemon.end()
    expected = replayed(tmp_path / "mail.log.1", log, options=("--rules", rules))
    assert len(expected) > 200
    assert {one["rule"] for one in expected} >= {"failures", "writes", "senders", "bounces", "deferred"}
    assert essence(stored(daemon.state)) == essence(expected)


def finish(daemon: Daemon, log: Path) -> None:
    """Ends the daemon when it has read everything, as its last checkpoint says."""

    def all_read() -> bool:
        if daemon.process.poll() is None:
            assert daemon.stop() == 0, daemon.messages
        if offset_of(daemon.state, log) == log.stat().st_size:
            return True
        daemon.start()
        return False

    until(all_read, f"{log} is read to its end", 60)


def test_the_same_in_another_time_zone(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamps without a zone are those of the machine; evidence of right now is then neither old nor from the future."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        mailboxes = Mailboxes(tmp_path / "mail.sqlite", PEOPLE)
        with running(tmp_path, *mailboxes.options, "--enforce") as daemon:
            write(log, Traffic().attack(CULPRIT))
            until(mailboxes.locked, "a lock")
            daemon.stop()
        assert mailboxes.locked() == [CULPRIT]
        assert essence(stored(daemon.state)) == essence(replayed(log))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_kill_at_any_moment(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    """A dozen times kill -9 while the log grows: the same detections, and one lock."""
    rng = random.Random(20261122)
    traffic = Traffic()
    daemon = Daemon(tmp_path, *mailboxes.options, "--enforce")
    attack = traffic.attack(CULPRIT, 12).splitlines(keepends=True)
    parts = [attack[len(attack) * n // 8 : len(attack) * (n + 1) // 8] for n in range(8)]
    try:
        daemon.start()
        for number in range(12):
            lines = [traffic.ordinary(rng.choice(PEOPLE[:2]))]
            if 2 <= number < 10:
                lines += parts[number - 2]
            data = b"".join(lines)
            cut = rng.randrange(len(data))
            write(log, data[:cut])
            match rng.randrange(3):
                case 0:  # at an odd place of the start, or just after it
                    let_pass(rng.random() * 0.4)
                    daemon.kill()
                    write(log, data[cut:])
                case 1:  # between the halves of a line
                    daemon.wait_ready()
                    daemon.kill()
                    write(log, data[cut:])
                case 2:  # while it works on what has just come
                    daemon.wait_ready()
                    write(log, data[cut:])
                    let_pass(rng.random() * 0.04)
                    daemon.kill()
            daemon.start(ready=False)
        until(mailboxes.locked, "a lock")
        daemon.wait_ready()
        finish(daemon, log)
    finally:
        daemon.end()
    expected = replayed(log)
    assert {"outbound-burst-account", "sender-login-mismatch", "auth-success-after-failures"} <= rules_fired(expected)
    assert essence(stored(daemon.state)) == essence(expected)
    assert mailboxes.changes() == [(CULPRIT, 1, 0)]
    assert locks(daemon) == [("lock", "done", CULPRIT)]


@pytest.mark.parametrize("existing", [True, False], ids=["log is there", "log comes later"])
def test_lines_of_a_time_when_no_daemon_ran(tmp_path: Path, existing: bool) -> None:
    """A daemon that had nothing to read yet was stopped: what is written until the next start is read then."""
    log = tmp_path / "mail.log"
    if existing:
        write(log, Traffic().attack("long.ago@example.com"))
    daemon = Daemon(tmp_path)
    try:
        daemon.start()
        assert daemon.stop() == 0
        write(log, Traffic().attack(CULPRIT))
        daemon.start()
        until(lambda: rules_fired(daemon.detections()), "detections", 5)
        assert not rules_fired(daemon.detections(), "long.ago@example.com")
    finally:
        daemon.end()


# locking


def test_observing_is_the_default(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    with running(tmp_path, *mailboxes.options) as daemon:
        write(log, Traffic().attack(CULPRIT))
        until(lambda: locks(daemon), "the journal has something")
        daemon.wait_lines()
        assert daemon.stop() == 0
        assert locks(daemon) == [("lock", "simulated", CULPRIT)]
    assert mailboxes.changes() == []


def test_only_the_culprit_is_locked(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    traffic = Traffic()
    with running(tmp_path, *mailboxes.options, "--enforce") as daemon:
        for message in range(8):
            write(log, traffic.ordinary(PEOPLE[message % 2]))
        write(log, b"".join(traffic.failure("bert@example.com", "198.51.100.9") for _ in range(60)))
        write(log, traffic.attack(CULPRIT))
        write(log, traffic.ordinary("anna@example.com"))
        until(mailboxes.locked, "a lock")
        daemon.wait_lines()
        assert mailboxes.locked() == [CULPRIT]
        until(lambda: daemon.metric("sentinel_locked_accounts") == 1, "the metric")
        assert daemon.metric("sentinel_actions_total", action="lock", result="done") == 1
        assert daemon.metric("sentinel_account_score", sasl_username=CULPRIT) >= 10
        shown = json.loads(daemon.get("/api/locks")[1])
        assert [(lock["account"], lock["state"]) for lock in shown] == [(CULPRIT, "done")]
        found = daemon.detections()
        assert {"outbound-burst-account", "sender-login-mismatch", "auth-success-after-failures"} <= rules_fired(found)
        assert not rules_fired(found, "anna@example.com")
        blocked = [one["subject"] for one in found if one["rule"] == "remote-block"]
        assert blocked == [{"host": "mx", "provider": "yahoo", "blocked_ip": "198.51.100.1"}]
        (burst,) = (one for one in found if one["rule"] == "outbound-burst-account")
        assert burst["related"]["client_ips"] == [THIEF]
        assert daemon.stop() == 0
    assert mailboxes.changes() == [(CULPRIT, 1, 0)]


def test_the_account_is_found_whatever_its_letters_are(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    """SQLite compares letter by letter, so a login that differs from the table in letter case is no row of it; nothing else is locked."""
    with running(tmp_path, *mailboxes.options, "--enforce") as daemon:
        write(log, Traffic().attack("Carla@Example.COM"))
        until(mailboxes.locked, "a lock")
        assert daemon.stop() == 0
    assert mailboxes.changes() == [("Carla@Example.COM", 1, 0)]


def test_protected_accounts_are_not_locked(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    config = tmp_path / "sentinel.yaml"
    config.write_text(
        f"log: {log}\nstate: {tmp_path / 'state'}\nlisten: 127.0.0.1:0\n"
        f"policy: {{mode: enforce, protected: ['info@*']}}\ndatabase: {{url: '{mailboxes.url}'}}\n"
    )
    daemon = Daemon(tmp_path)
    daemon.command = lambda *options: [sys.executable, "-m", "sentinel", "run", "--config", str(config)]  # type: ignore[method-assign]
    try:
        daemon.start()
        done = sentinel("locks", "protect", "bert@example.com", "--config", config)
        assert done.returncode == 0, done.stderr
        traffic = Traffic()
        for account in (CULPRIT, "bert@example.com", "anna@example.com"):
            write(log, traffic.attack(account))
        until(mailboxes.locked, "a lock")
        daemon.wait_lines()
        assert daemon.stop() == 0
    finally:
        daemon.end()
    assert mailboxes.changes() == [("anna@example.com", 1, 0)]
    assert set(locks(daemon)) == {
        ("protect", "done", "bert@example.com"),
        ("lock", "refused", CULPRIT),
        ("lock", "refused", "bert@example.com"),
        ("lock", "done", "anna@example.com"),
    }


def test_undone_by_hand_beside_the_daemon(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    traffic = Traffic()
    with running(tmp_path, *mailboxes.options, "--enforce") as daemon:
        write(log, traffic.attack(CULPRIT))
        until(mailboxes.locked, "a lock")
        until(lambda: daemon.metric("sentinel_locked_accounts") == 1, "the metric")
        options = ("--state", daemon.state, *mailboxes.options)
        done = sentinel("locks", "unlock", CULPRIT, "--why", "password changed", *options)
        assert (done.returncode, done.stderr) == (0, "")
        assert mailboxes.locked() == []
        until(lambda: daemon.metric("sentinel_locked_accounts") == 0, "the metric")
        write(log, traffic.ordinary(CULPRIT))
        daemon.wait_lines()
        again = sentinel("locks", "unlock", CULPRIT, *options)
        assert again.returncode == 2
        assert "there is no lock by sentinel on info@example.com" in again.stderr
        done = sentinel("locks", "lock", CULPRIT, "--why", "to be sure", *options)
        assert done.returncode == 0, done.stderr
        assert daemon.stop() == 0
    assert mailboxes.changes() == [(CULPRIT, 1, 0), (CULPRIT, 0, 1), (CULPRIT, 1, 0)]


def test_the_lock_waits_for_a_database_file_that_is_not_there(tmp_path: Path, log: Path) -> None:
    mailboxes = Mailboxes(tmp_path / "later" / "mail.sqlite", PEOPLE, create=False)
    daemon = Daemon(tmp_path, *mailboxes.options, "--enforce")
    # The very daemon, but asking the database more often whether it is there again.
    impatient = "import sys, sentinel.cli, sentinel.daemon as d; d._DATABASE_CHECK_SECONDS = 0.5; sys.exit(sentinel.cli.main())"
    ordinary = daemon.command()
    assert ordinary[1:3] == ["-m", "sentinel"]
    daemon.command = lambda *options: [sys.executable, "-c", impatient, *ordinary[3:]]  # type: ignore[method-assign]
    try:
        daemon.start(ready=False).wait_listening()
        until(lambda: says_why(daemon, "mail.sqlite"), "the reason")
        assert daemon.get("/healthz")[0] == 200
        write(log, Traffic().attack(CULPRIT))
        until(lambda: "outbound-burst-account" in rules_fired(daemon.detections()), "detections go on")
        until(lambda: locks(daemon) == [("lock", "pending", CULPRIT)], "the lock is pending")
        mailboxes.path.parent.mkdir()
        mailboxes.create()
        until(mailboxes.locked, "the lock is carried out", 30)
        until(lambda: locks(daemon) == [("lock", "done", CULPRIT)], "the journal")
        until(lambda: daemon.get("/readyz")[0] == 200, "ready again", 30)
        assert daemon.stop() == 0
    finally:
        daemon.end()
    assert mailboxes.changes() == [(CULPRIT, 1, 0)]


def test_a_lock_that_was_pending_is_carried_out_by_the_next_run(tmp_path: Path, log: Path) -> None:
    mailboxes = Mailboxes(tmp_path / "later" / "mail.sqlite", PEOPLE, create=False)
    daemon = Daemon(tmp_path, *mailboxes.options, "--enforce")
    try:
        daemon.start(ready=False).wait_listening()
        write(log, Traffic().attack(CULPRIT))
        until(lambda: locks(daemon) == [("lock", "pending", CULPRIT)], "the lock is pending")
        daemon.kill()
        mailboxes.path.parent.mkdir()
        mailboxes.create()
        daemon.start()
        until(mailboxes.locked, "the lock is carried out")
        assert daemon.stop() == 0
    finally:
        daemon.end()
    assert mailboxes.changes() == [(CULPRIT, 1, 0)]


def test_a_database_server_that_is_down(tmp_path: Path, log: Path) -> None:
    pytest.importorskip("pymysql")
    url = f"mysql://sentinel:s3cret-word@127.0.0.1:{closed_port()}/mail"
    with running(tmp_path, "--database", url, "--preset", "generic", "--enforce", ready=False) as daemon:
        daemon.wait_listening()
        until(lambda: says_why(daemon, "cannot connect to mysql mail on 127.0.0.1"), "the reason")
        assert daemon.get("/healthz")[0] == 200
        write(log, Traffic().attack(CULPRIT))
        until(lambda: locks(daemon) == [("lock", "pending", CULPRIT)], "the lock is pending")
        everything = "".join(daemon.get(path)[1] for path in ("/readyz", "/", "/metrics", "/api/locks", "/api/detections"))
        assert daemon.stop() == 0
        assert "s3cret-word" not in everything + daemon.messages + json.dumps(daemon.journal())
        assert "Traceback" not in daemon.messages


# starting and ending


def test_one_daemon_a_state_directory(tmp_path: Path, log: Path) -> None:
    with running(tmp_path) as daemon:
        done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"another sentinel (process {daemon.process.pid}) is running on state directory {daemon.state}" in done.stderr
        assert daemon.get("/readyz")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_in_order(tmp_path: Path, log: Path, number: signal.Signals) -> None:
    with running(tmp_path) as daemon:
        write(log, Traffic().ordinary("anna@example.com") + b"half a li")
        daemon.wait_lines()
        assert daemon.stop(number) == 0
        assert "Traceback" not in daemon.messages
        assert daemon.messages.splitlines()[-1].endswith("stopped")
    # What is left out is only the line that has no end yet.
    assert offset_of(daemon.state, log) == log.stat().st_size - len(b"half a li")


def test_a_stop_while_it_starts(tmp_path: Path, log: Path) -> None:
    """A service manager may stop what it has just started."""
    rng = random.Random(1)
    for _ in range(6):
        daemon = Daemon(tmp_path)
        try:
            daemon.start(ready=False)
            let_pass(rng.random() * 0.6)
            assert daemon.stop() in (0, -signal.SIGTERM)
            assert "Traceback" not in daemon.messages
        finally:
            daemon.end()


def test_waits_for_its_log(tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    with running(tmp_path) as daemon:
        assert f"{log} does not exist yet; waiting for it" in daemon.messages
        write(log, Traffic().attack(CULPRIT))
        until(lambda: "outbound-burst-account" in rules_fired(daemon.detections()), "detections")
        daemon.stop()
    assert essence(stored(daemon.state)) == essence(replayed(log))


def flipped(snapshot: bytes) -> bytes:
    at = len(snapshot) // 2
    return snapshot[:at] + bytes(byte ^ 0xFF for byte in snapshot[at : at + 3]) + snapshot[at + 3 :]


SNAPSHOTS = {
    "flipped bytes": flipped,
    "a flipped length": lambda snapshot: snapshot[:20] + b"\xff" * 8 + snapshot[28:],
    "a cut snapshot": lambda snapshot: snapshot[: len(snapshot) // 2],
    "nearly nothing": lambda snapshot: b"s",
    "another version": lambda snapshot: b"sentinel-state-9" + snapshot[16:],
}
POSITIONS = {
    "no JSON": lambda positions: positions[:-5],
    "another form": lambda positions: '{"LOG": {"offset": "many"}}'.replace("LOG", next(iter(json.loads(positions)))),
}


def damaged(daemon: Daemon, log: Path, column: str, damages: dict[str, Callable[[Any], object]], words: str) -> None:
    """Damages a checkpoint in several ways; each time the daemon must tell it, read its log and find what is new."""
    traffic = Traffic()
    try:
        daemon.start()
        write(log, traffic.ordinary("anna@example.com"))
        daemon.wait_lines()
        assert daemon.stop() == 0
        for what, damage in damages.items():
            with closing(sqlite3.connect(daemon.state / "sentinel.db")) as db, db:
                ((value,),) = db.execute(f"SELECT {column} FROM checkpoint")
                db.execute(f"UPDATE checkpoint SET {column} = ?", (damage(value),))
            daemon.start()
            assert " WARNING " in daemon.messages, what
            assert words in daemon.messages, f"{what}: {daemon.messages}"
            account = f"{what.replace(' ', '-').lower()}@example.com"
            write(log, traffic.attack(account))
            until(lambda account=account: rules_fired(daemon.detections(), account), f"detections after {what}")  # type: ignore[misc]
            assert daemon.stop() == 0
            assert "Traceback" not in daemon.messages
    finally:
        daemon.end()


def test_a_damaged_snapshot_is_told_and_stops_nobody(tmp_path: Path, log: Path) -> None:
    damaged(Daemon(tmp_path), log, "snapshot", SNAPSHOTS, "can't be used")


def test_damaged_positions_are_told_and_stop_nobody(tmp_path: Path, log: Path) -> None:
    damaged(Daemon(tmp_path), log, "positions", POSITIONS, "")


def test_a_damaged_state_database_is_one_sentence(tmp_path: Path, log: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.state.mkdir()
    (daemon.state / "sentinel.db").write_bytes(b"this is no database at all, " * 100)
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "damaged; move it away" in done.stderr


FEW = """
rules:
- name: few
  description: A few.
  advice: Look.
  severity: info
  score: 1
  on: auth_failed
  by: client_ip
  measure: count
  window: 1h
  threshold: {}
"""


def test_changed_rules_are_told(tmp_path: Path, log: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(FEW.format(5))
    traffic = Traffic()
    daemon = Daemon(tmp_path, "--rules", str(rules))
    try:
        daemon.start()
        write(log, b"".join(traffic.failure(CULPRIT) for _ in range(4)))
        daemon.wait_lines()
        daemon.stop()
        rules.write_text(FEW.format(6))
        daemon.start()
        assert "the rules have changed since the last run" in daemon.messages
        write(log, b"".join(traffic.failure(CULPRIT) for _ in range(5)))
        daemon.wait_lines(5)
        assert daemon.detections() == []
        write(log, traffic.failure(CULPRIT))
        until(daemon.detections, "a detection")
        assert daemon.stop() == 0
    finally:
        daemon.end()


MOON = (
    b"Nov 22 10:00:00 mx postfix/smtp[3]: 4A00000001: to=<a@x.example>, relay=mx.x.example[192.0.2.1]:25, delay=1, delays=0/0/1/0, dsn=5.0.0, "
    b"status=bounced (host mx.x.example[192.0.2.1] said: 550 the moon is up)\n"
)
MOON_RULE = "replies:\n  - {{name: moon, class: {}, patterns: ['the moon']}}\n"


def test_reply_rules_are_read_anew_when_they_change(tmp_path: Path, log: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(MOON_RULE.format("greylisted"))
    with running(tmp_path, "--replies", str(own)) as daemon:

        def replies(name: str) -> float:
            return daemon.metric("sentinel_remote_replies_total", **{"class": name, "provider": "other"})

        write(log, MOON)
        until(lambda: replies("greylisted") == 1, "the class of one's own rule")
        own.write_text(MOON_RULE.format("moonish"))
        until(lambda: "going on with the reply rules read before" in daemon.messages, "the mistake is told")
        assert f"{own}:2: " in daemon.messages
        write(log, MOON)
        until(lambda: replies("greylisted") == 2, "the rules from before go on")
        own.write_text(MOON_RULE.format("sender_blocked"))
        until(lambda: "the reply rules have changed" in daemon.messages, "they are read")
        write(log, MOON)
        until(lambda: replies("sender_blocked") == 1, "the class of the changed rule")
        assert replies("greylisted") == 2


def test_reply_rules_that_are_wrong_at_the_start(tmp_path: Path, log: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(MOON_RULE.format("moonish"))
    done = sentinel("run", "--log", log, "--state", tmp_path / "state", "--replies", own)
    assert done.returncode == 2
    assert f"{own}:2: " in done.stderr


def test_accounts_as_an_attacker_writes_them(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    """Nothing breaks, nobody else is locked, and the culprit among them still is."""
    traffic = Traffic()
    wild = [
        "x" * 300 + "'\"; DROP TABLE mailbox; --@example.com",
        "a\\b\"c'd@example.com",
        "tab\there\x01\x7f\x1b[31m@example.com",
        "{table} :account %s ${HOME}@example.com",
        "ïnfö@example.com",
        "\u202einfo@example.com",
        "info@example.com\u00a0",
        "%@example.com",
    ]
    with running(tmp_path, *mailboxes.options, "--enforce") as daemon:
        for account in wild[:3]:
            write(log, traffic.attack(account))
        write(log, traffic.attack(CULPRIT))
        until(mailboxes.locked, "a lock")
        # So many at once open the breaker.
        for account in wild[3:]:
            write(log, traffic.attack(account))
        # No UTF-8, and a NUL.
        write(log, traffic.attack("bad").replace(b"sasl_username=bad", b"sasl_username=\xff\xfe\x00info@example.com"))
        daemon.wait_lines()
        for path in ("/", "/metrics", "/api/detections?limit=1000", "/api/locks"):
            status, body = daemon.get(path)
            assert status == 200
            assert path == "/metrics" or "\x1b" not in body
        until(lambda: not [row for row in daemon.journal() if row["state"] == "pending"], "everything is settled")
        done = sentinel("locks", "list", "--every", "--state", daemon.state)
        assert done.returncode == 0
        assert all(line.isprintable() for line in done.stdout.splitlines())
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.messages
        assert all(character == "\n" or character.isprintable() for character in daemon.messages)
    assert mailboxes.changes() == [(CULPRIT, 1, 0)]
    assert essence(stored(daemon.state)) == essence(replayed(log))


def test_a_log_that_cannot_be_followed(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, log=tmp_path)
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "directory" in done.stderr


def test_the_port_is_taken(tmp_path: Path, log: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([*Daemon(tmp_path).command(), "--listen", where], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert where in done.stderr


def test_old_evidence_never_locks(tmp_path: Path, log: Path, mailboxes: Mailboxes) -> None:
    """A log of last week that is read from its start is told and locks nobody."""
    traffic = Traffic()
    traffic.stamp = lambda: time.strftime("%b %e %H:%M:%S", time.localtime(time.time() - 7 * 86_400))  # type: ignore[method-assign]
    write(log, traffic.attack(CULPRIT))
    with running(tmp_path, *mailboxes.options, "--enforce", "--from-start") as daemon:
        until(lambda: locks(daemon), "the journal")
        daemon.wait_lines()
        assert daemon.stop() == 0
        assert locks(daemon) == [("lock", "refused", CULPRIT)]
    assert mailboxes.changes() == []
