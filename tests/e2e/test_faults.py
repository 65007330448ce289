"""What goes wrong around a lock, each fault with the daemon itself and real databases: down, stalled, without rights, without the row, with
the row in other hands, the daemon killed, its disk full, two daemons, an old log, one from the future.

The mailbox table has a trigger that writes down every change, so that what was done twice shows. In the end the culprit is locked by one
change, everybody else's row is untouched, and the journal's chain holds. ``pytest -s`` prints the table of it.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from needs import need
from running import Daemon, Traffic, sentinel, until, write
from servers import Client, Dovecot, MariaDb, Postfix, Process, Server, Sink, workspace
from test_attack import Configured

from sentinel.respond import chain
from sentinel.respond.locks import load_preset
from sentinel.state import State

CULPRIT = "wang@corp.example"
LIU = "liu@corp.example"
ANNA = "anna@corp.example"
PASSWORD = "s3cret-word"
KILLS = int(os.environ.get("SENTINEL_TEST_KILLS", "6"))

_ME = {"mysql": "sentinel@127.0.0.1", "postgresql": "sentinel"}
_TABLES = {
    "mysql": """
        CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, name varchar(255) NOT NULL DEFAULT '', active int NOT NULL DEFAULT 1)
            ENGINE=InnoDB;
        CREATE TABLE audit (seq int AUTO_INCREMENT PRIMARY KEY, who varchar(99), username varchar(255), was int, became int) ENGINE=InnoDB;
        CREATE TRIGGER audited AFTER UPDATE ON mailbox FOR EACH ROW
            INSERT INTO audit (who, username, was, became) VALUES (USER(), OLD.username, OLD.active, NEW.active)""",
    "postgresql": """
        CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, name varchar(255) NOT NULL DEFAULT '', active int NOT NULL DEFAULT 1);
        CREATE TABLE audit (seq serial PRIMARY KEY, who varchar(99), username varchar(255), was int, became int);
        CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
            INSERT INTO audit (who, username, was, became) VALUES (session_user, OLD.username, OLD.active, NEW.active); RETURN NEW;
        END $$;
        CREATE TRIGGER audited AFTER UPDATE ON mailbox FOR EACH ROW EXECUTE FUNCTION audit()""",
}
# A mail system's own trigger, which touches a second row after the mailbox's.
_SECOND_ROW = {
    "mysql": """
        CREATE TABLE domain (domain varchar(255) PRIMARY KEY, changes int NOT NULL) ENGINE=InnoDB;
        INSERT INTO domain VALUES ('corp.example', 0);
        CREATE TRIGGER counted AFTER UPDATE ON mailbox FOR EACH ROW UPDATE domain SET changes = changes + 1""",
    "postgresql": """
        CREATE TABLE domain (domain varchar(255) PRIMARY KEY, changes int NOT NULL);
        INSERT INTO domain VALUES ('corp.example', 0);
        CREATE FUNCTION count_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
            UPDATE domain SET changes = changes + 1; RETURN NEW;
        END $$;
        CREATE TRIGGER counted AFTER UPDATE ON mailbox FOR EACH ROW EXECUTE FUNCTION count_changes()""",
}


class Mail:
    """A mail system's table on a server, with the rights that the generic preset asks for, and the trigger."""

    def __init__(self, server: Server, accounts: Sequence[str]) -> None:
        self.server = server
        self.kind = server.kind
        self.accounts = list(accounts)
        server.run("CREATE DATABASE mail")
        server.run(_TABLES[self.kind], "mail")
        for account in accounts:
            server.run("INSERT INTO mailbox (username) VALUES (%s)", "mail", (account,))
        mysql, _, postgresql = load_preset("generic").grants.partition("-- PostgreSQL")
        grants = postgresql if self.kind == "postgresql" else mysql
        server.run(grants.replace("'...'", f"'{PASSWORD}'").replace("'localhost'", "'127.0.0.1'").rstrip().rstrip(";"), "mail")

    @property
    def url(self) -> str:
        return self.server.url("mail", "sentinel")

    @property
    def user(self) -> str:
        return "'sentinel'@'127.0.0.1'" if self.kind == "mysql" else "sentinel"

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.server.run(sql, "mail")

    def locked(self) -> list[str]:
        return [name for (name,) in self.run("SELECT username FROM mailbox WHERE active <> 1 ORDER BY username")]

    def changes(self) -> list[tuple[str, int, int]]:
        """(account, active before, active after) of all that sentinel changed."""
        rows = self.run("SELECT who, username, was, became FROM audit ORDER BY seq")
        return [(username, was, became) for who, username, was, became in rows if who == _ME[self.kind]]

    def waits_for_a_lock(self) -> bool:
        """Whether a statement waits for somebody else's transaction: sentinel's, where the test's own does not."""
        if self.kind == "mysql":
            # Whoever it is: in a trigger the list of processes has its definer's name.
            sql = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
        else:
            sql = "SELECT 1 FROM pg_stat_activity WHERE usename = 'sentinel' AND wait_event_type = 'Lock'"
        if self.run(sql):
            return True
        # InnoDB shows the same again to who asks more often than every tenth of a second.
        threading.Event().wait(0.15)
        return False

    def deadlocks(self) -> int:
        if self.kind == "mysql":
            return int(self.run("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")[0][1])
        return self.server.process.log.read_text("utf-8", "replace").count("ERROR:  deadlock detected")

    def other(self) -> Any:
        """A connection of somebody else, whose statements are one transaction until it commits."""
        connection = self.server._connect("mail")
        connection.autocommit(False) if self.kind == "mysql" else setattr(connection, "autocommit", False)
        return connection

    def remove(self) -> None:
        force = "" if self.kind == "mysql" else " WITH (FORCE)"
        self.server.run(f"DROP DATABASE mail{force}")
        self.server.run(f"DROP {'USER' if self.kind == 'mysql' else 'ROLE'} {self.user}")


class Table:
    """The faults and what became of them."""

    HEAD = ("fault", "what happened", "locked", "changes", "journal")

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def note(self, fault: str, happened: str, locked: Sequence[str], changes: int, journal: str) -> None:
        who = ", ".join(name.partition("@")[0] for name in locked) if len(locked) < 4 else f"{len(locked)} accounts"
        self.rows.append((fault, happened, who or "nobody", str(changes), journal))

    def show(self) -> str:
        rows = [self.HEAD, *self.rows]
        widths = [max(len(row[at]) for row in rows) for at in range(len(self.HEAD))]
        return "\n".join(" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    print(f"\n{made.show()}\n")


@pytest.fixture(params=["mariadb", "postgresql"])
def mail(request: pytest.FixtureRequest) -> Iterator[Mail]:
    made = Mail(request.getfixturevalue(request.param), [CULPRIT, LIU, ANNA])
    yield made
    made.remove()


@pytest.fixture
def maria(mariadb: MariaDb) -> Iterator[Mail]:
    made = Mail(mariadb, [CULPRIT, LIU, ANNA])
    yield made
    made.remove()


class Watched(Configured):
    """A daemon by its configuration file, and what its journal says."""

    def __init__(self, folder: Path, mail: Mail, more: str = "", *, log: Path | None = None, state: Path | None = None) -> None:
        folder.mkdir(exist_ok=True)
        config = folder / "sentinel.yaml"
        super().__init__(folder, "--config", str(config), log=log)
        self.config = config
        (folder / "password").write_text(f"{PASSWORD}\n", encoding="ascii")
        config.write_text(
            f"log: {self.log}\nstate: {state or self.state}\nlisten: 127.0.0.1:0\n"
            f"database: {{url: '{mail.url}', password_file: {folder / 'password'}, preset: generic}}\n{more or 'policy: {mode: enforce}'}\n",
            encoding="utf-8",
        )
        self.log.touch()

    def entries(self) -> list[dict[str, Any]]:
        with State(self.state, create=False) as state:
            return list(chain.export(state))

    def verified(self) -> None:
        done = sentinel("locks", "verify-journal", "--state", self.state)
        assert done.returncode == 0, done.stdout + done.stderr

    def locks(self) -> list[tuple[str, str]]:
        status, body = self.get("/api/locks")
        assert status == 200, body
        return [(row["account"], row["state"]) for row in json.loads(body)]

    def error(self) -> str:
        """Why the lock that is open does not work yet."""
        return "".join(row.get("error") or "" for row in json.loads(self.get("/api/locks")[1]))

    def subjects(self, kind: str) -> set[str]:
        return {one["subject"][kind] for one in self.detections() if kind in one["subject"]}


@contextlib.contextmanager
def watched(folder: Path, mail: Mail, more: str = "", **where: Path) -> Iterator[Watched]:
    daemon = Watched(folder, mail, more, **where)
    try:
        daemon.start(ready=False).wait_listening()
        yield daemon
    finally:
        daemon.end()


def told(entries: Sequence[dict[str, Any]], account: str = CULPRIT) -> str:
    """The entries about an account's lock, in short: ``decided, tried, settled done``."""
    words = []
    for entry in entries:
        if entry.get("account") == account and entry["event"] != "step":
            words.append(f"{entry['event']} {entry['state']}" if entry["event"] == "settled" else entry["event"])
    return ", ".join(f"{word} x{count}" if count > 1 else word for word, count in Counter(words).items())


def only_the_culprit(daemon: Watched, mail: Mail, accounts: Sequence[str] = (CULPRIT,)) -> str:
    """The end state that every fault has to lead to; what the journal told of the first of them."""
    until(lambda: sorted(daemon.locks()) == sorted((account, "done") for account in accounts), "the journal says so", 30)
    assert daemon.stop() == 0, daemon.messages
    assert mail.locked() == sorted(accounts)
    assert sorted(mail.changes()) == sorted((account, 1, 0) for account in accounts)
    entries = daemon.entries()
    for account in accounts:
        about = [entry for entry in entries if entry.get("account") == account and entry["event"] != "step"]
        assert [entry["event"] for entry in about].count("decided") == 1, about
        assert [entry["state"] for entry in about if entry["event"] == "settled"] == ["done"], about
    daemon.verified()
    assert "Traceback" not in daemon.messages
    assert PASSWORD not in json.dumps(entries) + daemon.messages
    return told(entries, accounts[0])


def latency(daemon: Watched, traffic: Traffic, numbers: Sequence[int]) -> list[float]:
    """Seconds from the write of a line to the detection in the API, for one guessing address after the other."""
    took = []
    for number in numbers:
        ip = f"192.0.2.{number}"
        lines = b"".join(traffic.failure(ANNA, ip) for _ in range(20))
        began = time.monotonic()
        write(daemon.log, lines)
        until(lambda ip=ip: ip in daemon.subjects("client_ip"), f"{ip} is detected")  # type: ignore[misc]
        took.append(time.monotonic() - began)
    return took


# the database


def test_the_database_is_stopped_and_started_again(tmp_path: Path, mail: Mail, table: Table) -> None:
    traffic = Traffic()
    with watched(tmp_path, mail) as daemon:
        mail.server.stop()
        try:
            write(daemon.log, traffic.attack(CULPRIT))
            until(lambda: "cannot connect" in daemon.error(), "the lock is tried")
            assert daemon.locks() == [(CULPRIT, "pending")]
            took = latency(daemon, traffic, [10, 11, 12])
            assert daemon.metric("sentinel_locked_accounts") == 0
            until(lambda: daemon.metric("sentinel_actions_total", action="lock", result="failed") >= 1, "the metric")
        finally:
            mail.server.start()
        until(lambda: mail.locked() == [CULPRIT], "it is locked when the database is back", 30)
        journal = only_the_culprit(daemon, mail)
    assert "tried" in journal
    table.note(
        f"{mail.kind} stopped, started again",
        f"pending meanwhile; {len(took)} other detections within {max(took) * 1000:.0f} ms",
        mail.locked(),
        len(mail.changes()),
        journal,
    )


def test_the_database_is_stalled(tmp_path: Path, mail: Mail, table: Table) -> None:
    traffic = Traffic()
    with watched(tmp_path, mail) as daemon:
        before = latency(daemon, traffic, range(10, 16))
        mail.server.process.pause()
        try:
            write(daemon.log, traffic.attack(CULPRIT))
            until(lambda: daemon.locks() == [(CULPRIT, "pending")], "the lock is decided")
            during = latency(daemon, traffic, range(20, 26))
            assert daemon.locks() == [(CULPRIT, "pending")]
        finally:
            mail.server.process.resume()
        until(lambda: mail.locked() == [CULPRIT], "it is locked when the database goes on", 30)
        journal = only_the_culprit(daemon, mail)
    usual, stalled = statistics.median(before), statistics.median(during)
    assert stalled < max(3 * usual, 0.25), (before, during)
    table.note(
        f"{mail.kind} stalled (SIGSTOP), goes on",
        f"pending meanwhile; log to detection {stalled * 1000:.0f} ms, {usual * 1000:.0f} ms before",
        mail.locked(),
        len(mail.changes()),
        journal,
    )


def test_the_right_to_change_the_row_is_missing_and_then_granted(tmp_path: Path, mail: Mail, table: Table) -> None:
    target = "mail.mailbox" if mail.kind == "mysql" else "mailbox"
    mail.run(f"REVOKE UPDATE (active) ON {target} FROM {mail.user}")
    with watched(tmp_path, mail) as daemon:
        write(daemon.log, Traffic().attack(CULPRIT))
        until(lambda: "grant what is missing: sentinel locks presets generic" in daemon.error(), "the error says what to do")
        assert daemon.locks() == [(CULPRIT, "pending")]
        assert mail.changes() == []
        mail.run(f"GRANT UPDATE (active) ON {target} TO {mail.user}")
        until(lambda: mail.locked() == [CULPRIT], "it is locked with the grant", 30)
        journal = only_the_culprit(daemon, mail)
    table.note(f"{mail.kind} without UPDATE, then granted", "pending with the grants' name", mail.locked(), len(mail.changes()), journal)


def test_the_account_has_no_row(tmp_path: Path, maria: Mail, table: Table) -> None:
    ghost = "ghost@corp.example"
    traffic = Traffic()
    with watched(tmp_path, maria) as daemon:
        write(daemon.log, traffic.attack(ghost))
        until(lambda: daemon.metric("sentinel_actions_total", action="lock", result="refused") == 1, "it is refused")
        write(daemon.log, traffic.attack(ghost))
        write(daemon.log, traffic.attack(CULPRIT))
        until(lambda: maria.locked() == [CULPRIT], "who has a row is locked")
        assert daemon.metric("sentinel_actions_total", action="lock", result="refused") == 1
        only_the_culprit(daemon, maria)
        entries = daemon.entries()
    (refused,) = [entry for entry in entries if entry.get("account") == ghost and entry["event"] == "settled"]
    assert (refused["state"], refused["refused"]) == ("refused", f"account: no such account in mailbox: {ghost}")
    table.note(f"{maria.kind}, no row of ghost@", "refused once; the next culprit is locked", maria.locked(), 1, told(entries, ghost))


def test_the_row_is_in_other_hands(tmp_path: Path, mail: Mail, table: Table) -> None:
    """Longer than sentinel waits for it."""
    if mail.kind == "postgresql":
        mail.run("ALTER ROLE sentinel SET lock_timeout = '300ms'")
    with watched(tmp_path, mail) as daemon, contextlib.closing(mail.other()) as other:
        with contextlib.closing(other.cursor()) as cursor:
            cursor.execute(f"UPDATE mailbox SET name = 'Wang' WHERE username = '{CULPRIT}'")
            write(daemon.log, Traffic().attack(CULPRIT))
            until(mail.waits_for_a_lock, "sentinel waits for the row")
            until(lambda: re.search(r"Lock wait timeout exceeded|canceling statement due to lock timeout", daemon.error()), "it says so")
            assert daemon.locks() == [(CULPRIT, "pending")]
            assert mail.changes() == []
            other.commit()
        until(lambda: mail.locked() == [CULPRIT], "it is locked when the row is free", 30)
        journal = only_the_culprit(daemon, mail)
    assert mail.run(f"SELECT name FROM mailbox WHERE username = '{CULPRIT}'") == [("Wang",)]
    table.note(f"{mail.kind}, row locked by others", "lock wait time-out, tried again", mail.locked(), len(mail.changes()), journal)


def test_two_transactions_cross(tmp_path: Path, mail: Mail, table: Table) -> None:
    """A deadlock: sentinel has the row and waits for what a trigger touches; the other has that, and wants the row."""
    mail.run(_SECOND_ROW[mail.kind])
    before = mail.deadlocks()
    with watched(tmp_path, mail) as daemon, contextlib.closing(mail.other()) as other, contextlib.closing(other.cursor()) as cursor:
        # So that the server gives up sentinel's: InnoDB takes who changed less, PostgreSQL who looks first.
        if mail.kind == "mysql":
            cursor.execute("CREATE TEMPORARY TABLE much (value int) ENGINE=InnoDB")
            cursor.execute("INSERT INTO much VALUES " + ", ".join(["(1)"] * 500))
        else:
            cursor.execute("SET deadlock_timeout = '20s'")
        cursor.execute("UPDATE domain SET changes = changes + 1000")
        write(daemon.log, Traffic().attack(CULPRIT))
        until(mail.waits_for_a_lock, "sentinel waits for the second row")
        cursor.execute(f"UPDATE mailbox SET name = 'Wang' WHERE username = '{CULPRIT}'")
        assert mail.changes() == [], "the first attempt was rolled back"
        other.commit()
        until(lambda: mail.locked() == [CULPRIT], "it is locked by another attempt", 30)
        journal = only_the_culprit(daemon, mail)
    assert mail.deadlocks() == before + 1
    assert mail.run(f"SELECT name FROM mailbox WHERE username = '{CULPRIT}'") == [("Wang",)]
    # The other's thousand, the trigger for the other's row and for ours: what was rolled back counts nowhere.
    assert mail.run("SELECT changes FROM domain") == [(1002,)]
    table.note(f"{mail.kind}, deadlock", "rolled back by the server, tried again", mail.locked(), len(mail.changes()), journal)


# the daemon


class Quick(Watched):
    """The very daemon, but steps that a killed one had begun are taken over sooner."""

    def command(self, *options: str) -> list[str]:
        ordinary = super().command(*options)
        sooner = "import sys, sentinel.cli, sentinel.respond.responder as r; r._LEASE_SECONDS = 3.0; sys.exit(sentinel.cli.main())"
        return [sys.executable, "-c", sooner, *ordinary[3:]]


def test_killed_at_random_moments_of_locks_and_steps(
    tmp_path: Path, mail_servers: None, mariadb: MariaDb, sink: Sink, table: Table
) -> None:
    rng = random.Random(20261128)
    culprits = [f"user{number}@corp.example" for number in range(KILLS)]
    with workspace() as folder, contextlib.ExitStack() as stack:
        mail = Mail(mariadb, [*culprits, LIU])
        stack.callback(mail.remove)
        postfix, dovecot = _with_queued_mail(folder, sink, [*culprits, LIU], stack)
        access_map = f"{{path: {postfix.etc / 'locked'}, postmap: {json.dumps(postfix.command('postmap'))}}}"
        daemon = Quick(
            tmp_path,
            mail,
            "policy: {mode: enforce, max_locks_per_hour: 1000, max_locks_per_day: 1000, breaker: {accounts: 1000, share: 1.0}}\n"
            f"postfix: {{config_directory: {postfix.etc}}}\n"
            f"response: {{flush_auth_cache: true, kick: true, hold: true, access_map: {access_map}, grace: 1s, watch: 1s, "
            f"doveadm: {json.dumps(dovecot.doveadm())}}}",
        )
        stack.callback(daemon.end)
        traffic = Traffic()
        open_when_killed: Counter[str] = Counter()
        for number, culprit in enumerate(culprits):
            daemon.start(ready=False).wait_listening()
            write(daemon.log, traffic.attack(culprit))
            # From the line on, the decision, or the change of the row.
            if number % 4 == 1:
                until(lambda culprit=culprit: culprit in dict(daemon.locks()), "the lock is decided")  # type: ignore[misc]
            elif number % 4:
                until(lambda culprit=culprit: culprit in mail.locked(), "the row is changed")  # type: ignore[misc]
            moment = time.monotonic() + rng.random() * (0.05 if number % 4 == 2 else 0.3)
            until(lambda moment=moment: time.monotonic() > moment, "some moment")  # type: ignore[misc]
            daemon.kill()
            open_when_killed[_how_far(daemon, culprit)] += 1
        daemon.start()
        wanted = {"map", "flush", "flush-late", "kick", "hold", "hold-late", "verify"}
        until(lambda: not _unsettled(daemon, culprits, wanted), "all steps of all locks are done", 40)
        only_the_culprit(daemon, mail, culprits)
        entries = daemon.entries()
        held = {one["sender"]: one["queue_name"] for one in postfix.queue()}
        assert held == {**dict.fromkeys(culprits, "hold"), LIU: "deferred"}
        in_map = [line.split()[0] for line in (postfix.etc / "locked").read_text().splitlines() if "@" in line]
        assert sorted(in_map) == sorted(culprits)
    done = Counter((entry["of"], entry["what"]) for entry in entries if entry["event"] == "step" and entry["result"] == "done")
    assert set(done.values()) == {1}, done
    assert len(done) == KILLS * len(wanted)
    assert len(open_when_killed) > 1, open_when_killed
    moments = ", ".join(f"{count} {what}" for what, count in open_when_killed.most_common())
    table.note(f"daemon killed {KILLS} times", moments, culprits, KILLS, f"{KILLS} x (decided, settled done), {len(done)} steps once each")


def _with_queued_mail(folder: Path, sink: Sink, accounts: Sequence[str], stack: contextlib.ExitStack) -> tuple[Postfix, Dovecot]:
    """A mail server with one deferred message of each account."""
    postfix = Postfix(folder / "postfix")
    postfix.write_map("locked", {})
    postfix.listen("submission")
    postfix.route("remote.example", sink)
    dovecot = Dovecot(folder / "dovecot", postfix.auth_socket, users=dict.fromkeys(accounts, PASSWORD), auth_cache=True)
    stack.callback(dovecot.stop)
    dovecot.start()
    stack.callback(postfix.stop)
    postfix.start()
    sink.answer("mail", "450 4.7.1 not now")
    for account in accounts:
        with Client(postfix.ports["submission"]) as client:
            assert client.login(account, PASSWORD).accepted
            assert client.send(account, ["friend@remote.example"]).accepted
    until(lambda: [one["queue_name"] for one in postfix.queue()] == ["deferred"] * len(accounts), "all of it is deferred")
    return postfix, dovecot


def _state_rows(daemon: Daemon, sql: str) -> list[tuple[Any, ...]]:
    import sqlite3

    with contextlib.closing(sqlite3.connect(f"file:{daemon.state}/sentinel.db?mode=ro", uri=True, timeout=10)) as db:
        return db.execute(sql).fetchall()


def _how_far(daemon: Daemon, account: str) -> str:
    """Where the killed daemon was with an account."""
    rows = _state_rows(daemon, f"SELECT id, state, prior FROM actions WHERE account = '{account}'")
    if not rows:
        return "before the decision"
    ((lock, state, prior),) = rows
    if state == "pending":
        return "before the statement" if prior is None else "in the statement"
    left = _state_rows(
        daemon, f"SELECT count(*) FROM steps WHERE action = '{lock}' AND state = 'pending' AND step NOT LIKE '%-late' AND step != 'verify'"
    )
    return "in the steps" if left[0][0] else "after the steps"


def _unsettled(daemon: Daemon, accounts: Sequence[str], wanted: set[str]) -> set[tuple[str, str]]:
    rows = _state_rows(daemon, "SELECT account, step FROM steps JOIN actions ON actions.id = steps.action WHERE steps.state = 'done'")
    return {(account, step) for account in accounts for step in wanted} - set(rows)


@pytest.fixture
def small_disk(root: None, tmp_path: Path) -> Iterator[tuple[Path, Path, list[str]]]:
    """A disk of 2 MB that only processes of its own see: its path for them, its path for us, and how to start something there."""
    place = tmp_path / "disk"
    place.mkdir()
    unshare = shutil.which("unshare")
    need(unshare is not None and shutil.which("nsenter") is not None, "unshare and nsenter are not installed (apt install util-linux)")
    mounts = f"mount -t tmpfs -o size=2m,mode=700 tmpfs '{place}' && touch '{place}/mounted' && exec tail -f /dev/null"
    tried = subprocess.run([str(unshare), "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", str(place)], check=False)
    need(tried.returncode == 0, "nothing may be mounted here, not even in a mount namespace of its own")
    holder = Process([str(unshare), "--mount", "--propagation", "private", "sh", "-c", mounts], tmp_path / "holder.log")
    try:
        seen = lambda: Path(f"/proc/{holder.pid}/root{place}")  # noqa: E731
        holder.start(lambda: (seen() / "mounted").exists())
        yield place, seen(), ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"]
    finally:
        holder.stop()


class OnSmallDisk(Watched):
    """A daemon whose state directory is on the small disk."""

    def __init__(self, folder: Path, mail: Mail, disk: tuple[Path, Path, list[str]], more: str) -> None:
        place, seen, self._enter = disk
        super().__init__(folder, mail, more, state=place / "state")
        self._seen = seen / "state"

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        # SQLite follows the links in a path, and /proc/PID/root is one: what is looked at afterwards is a copy.
        code = super().stop(number)
        self.state = self.folder / "copy"
        shutil.copytree(self._seen, self.state)
        return code

    def command(self, *options: str) -> list[str]:
        return [*self._enter, *super().command(*options)]


def fill(disk: Path, room: int) -> None:
    """Leaves so many bytes."""
    there = os.statvfs(disk)
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        with contextlib.suppress(OSError):
            ballast.write(bytes(there.f_bavail * there.f_bsize))
            while ballast.write(bytes(4096)):
                pass
        ballast.truncate(max(0, ballast.tell() - room))


def test_the_state_disk_is_full_and_has_room_again(
    tmp_path: Path, maria: Mail, small_disk: tuple[Path, Path, list[str]], table: Table
) -> None:
    """With more room each time, so that it runs out at another place each time: of detections, decisions, values from before, results."""
    rooms = [0, 8192, 24576, 49152, 65536]
    culprits = [f"user{number}@corp.example" for number in range(len(rooms))]
    for culprit in culprits:
        maria.run(f"INSERT INTO mailbox (username) VALUES ('{culprit}')")
    _, disk, _ = small_disk
    daemon = OnSmallDisk(
        tmp_path, maria, small_disk, "policy: {mode: enforce, max_locks_per_hour: 100, breaker: {accounts: 100, share: 1.0}}"
    )
    traffic = Traffic()
    try:
        daemon.start()
        for culprit, room in zip(culprits, rooms, strict=True):
            fill(disk, room)
            read = sum(daemon.lines().values())
            attack = traffic.attack(culprit)
            write(daemon.log, attack)
            until(lambda read=read, attack=attack: sum(daemon.lines().values()) == read + attack.count(b"\n"), "reading goes on")  # type: ignore[misc]
            if room == 0:
                until(lambda: "full" in daemon.get("/readyz")[1], "it is told")
                assert daemon.get("/healthz")[0] == 200
                assert maria.changes() == [], "nothing is done that could not be written down before"
            (disk / "ballast").unlink()
            until(lambda culprit=culprit: culprit in maria.locked(), f"{culprit} is locked when there is room ({room})", 30)  # type: ignore[misc]
        until(lambda: daemon.get("/readyz")[0] == 200, "ready again")
        # Killed and started while it is full: one sentence, and nothing is lost.
        fill(disk, 0)
        write(daemon.log, traffic.attack(CULPRIT))
        until(lambda: "full" in daemon.get("/readyz")[1], "it is told")
        daemon.kill()
        refused = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
        assert (refused.returncode, refused.stderr.count("Traceback")) == (2, 0), refused.stderr
        assert refused.stderr.splitlines()[-1].endswith("make room on that file system")
        (disk / "ballast").unlink()
        daemon.start()
        journal = only_the_culprit(daemon, maria, [*culprits, CULPRIT])
        lines = daemon.messages.count("\n")
    finally:
        daemon.end()
    assert lines < 200
    table.note(
        "state disk full, then room", f"{len(rooms) + 1} times at other places; waits", maria.locked(), len(maria.changes()), journal
    )


def test_two_daemons_on_one_state_directory(tmp_path: Path, maria: Mail, table: Table) -> None:
    with watched(tmp_path, maria) as daemon:
        second = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1), second.stderr
        assert f"another sentinel (process {daemon.process.pid}) is running on state directory" in second.stderr
        write(daemon.log, Traffic().attack(CULPRIT))
        until(lambda: maria.locked() == [CULPRIT], "the first goes on")
        journal = only_the_culprit(daemon, maria)
    table.note("two daemons, one state directory", "the second ends with a sentence", maria.locked(), len(maria.changes()), journal)


def test_two_daemons_with_states_of_their_own(tmp_path: Path, mail: Mail, table: Table) -> None:
    culprits = [f"user{number}@corp.example" for number in range(8)]
    for culprit in culprits:
        mail.run(f"INSERT INTO mailbox (username) VALUES ('{culprit}')")
    traffic = Traffic()
    log = tmp_path / "mail.log"
    more = "policy: {mode: enforce, max_locks_per_hour: 100, breaker: {accounts: 100, share: 1.0}}"
    with watched(tmp_path / "one", mail, more, log=log) as one, watched(tmp_path / "two", mail, more, log=log) as two:
        for culprit in culprits:
            write(log, traffic.attack(culprit))
        journals = [only_the_culprit(daemon, mail, culprits) for daemon in (one, two)]
        settled = [
            {entry["account"]: entry.get("error") for entry in daemon.entries() if entry["event"] == "settled"} for daemon in (one, two)
        ]
    for culprit in culprits:
        assert sorted(str(errors[culprit]) for errors in settled) == ["None", "it was locked already"]
    table.note(
        f"two daemons, two states ({mail.kind})", "one locks, the other finds it locked", mail.locked(), len(mail.changes()), journals[0]
    )


@pytest.mark.parametrize("days", [-7, 2], ids=["last week's", "the day after tomorrow's"])
def test_a_log_of_another_day_is_read_from_its_start(tmp_path: Path, maria: Mail, table: Table, days: int) -> None:
    traffic = Traffic()
    traffic.stamp = lambda: time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() + days * 86_400))  # type: ignore[method-assign]
    daemon = Watched(tmp_path, maria)
    write(daemon.log, traffic.attack(CULPRIT) + traffic.attack(LIU))
    try:
        daemon.start("--from-start")
        until(lambda: daemon.metric("sentinel_actions_total", action="lock", result="refused") == 2, "both are refused")
        assert daemon.locks() == []
        assert maria.changes() == []
        # What happens now still counts.
        traffic.stamp = lambda: time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())  # type: ignore[method-assign]
        if days > 0:
            # So many lines in a row say that the clock was set back, and not that some come late.
            write(daemon.log, b"".join(traffic.ordinary(ANNA) for _ in range(150)))
        write(daemon.log, traffic.attack(CULPRIT))
        until(lambda: maria.locked() == [CULPRIT], "a new attack is locked")
        assert daemon.stop() == 0
    finally:
        daemon.end()
    entries = daemon.entries()
    reasons = [entry["refused"] for entry in entries if entry.get("refused")]
    assert len(reasons) == 2
    assert all(
        re.match(r"stale: the newest evidence is 7d old" if days < 0 else r"stale: the evidence is dated 2d in the future", one)
        for one in reasons
    )
    assert maria.changes() == [(CULPRIT, 1, 0)]
    daemon.verified()
    table.note(
        f"a log of {'last week' if days < 0 else 'the day after tomorrow'}", f"refused: {reasons[0]}", maria.locked(), 1, told(entries)
    )
