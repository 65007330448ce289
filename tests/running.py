"""The real daemon as a process, a mailbox table that counts its changes, and a small mail server's log of right now.

Nothing here sleeps for a fixed time: everything that is waited for is asked again and again until a deadline.
"""

import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

SECONDS = 20.0
"""How long anything may take on a slow machine."""
THIEF = "203.0.113.66"

_T = TypeVar("_T")


class Late(AssertionError):
    """Something did not come true in time."""


def until(condition: Callable[[], _T], what: str, seconds: float = SECONDS) -> _T:
    """The first value of the condition that is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Late(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)
    return value


def sentinel(*arguments: str | Path, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command of the command line, to its end."""
    command = [sys.executable, "-m", "sentinel", *map(str, arguments)]
    options = {"encoding": "utf-8", "errors": "replace", "capture_output": True, "timeout": 60, **options}
    return subprocess.run(command, env={**os.environ, **(env or {})}, **options)


def replayed(*logs: Path, options: Sequence[str | Path] = ()) -> list[dict[str, Any]]:
    """What ``sentinel replay`` finds in finished logs."""
    done = sentinel("replay", "--format", "jsonl", *options, *logs)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def essence(detections: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Everything of detections but the name of the file that the evidence was in, which rotation changes. Sorted by id: where
    two have the same time, their order is nobody's promise.
    """
    out = []
    for one in detections:
        evidence = [(item["line"], item["offset"]) for item in one["evidence"]]
        rest = {name: value for name, value in one.items() if name != "evidence"}
        out.append((one["id"], json.dumps(rest, sort_keys=True), evidence))
    return sorted(out, key=lambda one: str(one[0]))


class Daemon:
    """``sentinel run`` on one log and one state directory; it may be started, ended and started again."""

    def __init__(self, folder: Path, *options: str, log: Path | None = None) -> None:
        self.folder = folder
        self.log = folder / "mail.log" if log is None else log
        self.state = folder / "state"
        self.options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def messages(self) -> str:
        """What this run has written to standard error."""
        return self._messages_file.read_text("utf-8", "replace")

    @property
    def _messages_file(self) -> Path:
        return self.folder / f"stderr-{self._runs}"

    def command(self, *options: str) -> list[str]:
        where = ["--log", str(self.log), "--state", str(self.state), "--listen", "127.0.0.1:0"]
        return [sys.executable, "-m", "sentinel", "run", *where, *self.options, *options]

    def start(self, *options: str, ready: bool = True) -> "Daemon":
        self._runs += 1
        self.port = 0
        with self._messages_file.open("wb") as messages:
            self._process = subprocess.Popen(self.command(*options), stdin=subprocess.DEVNULL, stdout=messages, stderr=messages)
        if ready:
            self.wait_ready()
        return self

    def wait_listening(self) -> None:
        def listening() -> bool:
            self._alive()
            found = re.search(r"status at http://127\.0\.0\.1:([0-9]+)/", self.messages)
            self.port = int(found[1]) if found else 0
            return self.port > 0

        until(listening, "the daemon says where it listens")

    def wait_ready(self) -> None:
        self.wait_listening()
        until(lambda: self._alive() and self.get("/readyz")[0] == 200, "/readyz")

    def _alive(self) -> bool:
        code = self.process.poll()
        assert code is None, f"the daemon ended with {code}: {self.messages}"
        return True

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def detections(self) -> list[dict[str, Any]]:
        status, body = self.get("/api/detections?limit=1000")
        assert status == 200, body
        found: list[dict[str, Any]] = json.loads(body)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """One sample of the exposition; 0 where there is none."""
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0

    def lines(self) -> dict[str, int]:
        """Outcome to log lines since the start."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.name == "sentinel_lines_total"]
        return {sample.labels["outcome"]: int(sample.value) for sample in samples}

    def journal(self) -> list[dict[str, Any]]:
        done = sentinel("locks", "list", "--every", "--format", "jsonl", "--state", self.state)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def wait_lines(self, count: int | None = None) -> None:
        """Until so many lines have been read in this run; all that the log has now unless told otherwise."""
        wanted = self.log.read_bytes().count(b"\n") if count is None else count

        def read() -> bool:
            self._alive()
            return sum(self.lines().values()) >= wanted

        until(read, f"{wanted} lines of {self.log} are read")

    def position(self) -> int:
        """The checkpoint's offset in the log at the path, -1 where it is of another file or there is none."""
        try:
            with closing(sqlite3.connect(f"file:{self.state}/sentinel.db?mode=ro", uri=True, timeout=10)) as db:
                rows = db.execute("SELECT positions FROM checkpoint").fetchall()
        except sqlite3.OperationalError:
            return -1
        position = json.loads(rows[0][0]).get(str(self.log)) if rows else None
        there = self.log.stat()
        if position is None or position["file_id"] != f"{there.st_dev}:{there.st_ino}":
            return -1
        return int(position["offset"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()


@contextmanager
def running(folder: Path, *options: str, log: Path | None = None, ready: bool = True) -> Iterator[Daemon]:
    daemon = Daemon(folder, *options, log=log)
    try:
        yield daemon.start(ready=ready)
    finally:
        daemon.end()


class Mailboxes:
    """An SQLite mailbox table with a trigger that writes down every change of a row."""

    def __init__(self, path: Path, accounts: Sequence[str], *, create: bool = True) -> None:
        self.path = path
        self.accounts = list(accounts)
        if create:
            self.create()

    def create(self) -> None:
        # As a whole or not at all: a daemon may be waiting for the file.
        fresh = self.path.with_suffix(".new")
        with closing(sqlite3.connect(fresh)) as db, db:
            db.execute("CREATE TABLE mailbox (username TEXT PRIMARY KEY, active INTEGER NOT NULL)")
            db.execute("CREATE TABLE audit (username TEXT, before INTEGER, after INTEGER)")
            db.execute(
                "CREATE TRIGGER audited AFTER UPDATE ON mailbox BEGIN INSERT INTO audit VALUES (old.username, old.active, new.active); END"
            )
            db.executemany("INSERT INTO mailbox VALUES (?, 1)", [(account,) for account in self.accounts])
        fresh.rename(self.path)

    @property
    def options(self) -> tuple[str, ...]:
        return "--database", self.url, "--preset", "generic"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10)) as db:
            return db.execute(sql).fetchall()

    def locked(self) -> list[str]:
        return [username for (username,) in self._rows("SELECT username FROM mailbox WHERE active = 0 ORDER BY username")]

    def changes(self) -> list[tuple[str, int, int]]:
        """(account, active before, active after) of every row change there ever was."""
        return self._rows("SELECT * FROM audit")


class Traffic:
    """Lines as a Postfix server writes them, stamped with the present second in local time, as syslog does."""

    def __init__(self) -> None:
        self._next = 0x4A0000
        self._login = 0

    def stamp(self) -> str:
        return time.strftime("%b %e %H:%M:%S", time.localtime())

    def line(self, tag: str, text: str) -> bytes:
        return f"{self.stamp()} mx postfix/{tag}: {text}\n".encode()

    def queue_id(self) -> str:
        self._next += 1
        return f"{self._next:08X}"

    def message(self, account: str, sender: str, recipients: int, ip: str, *, verdict: str = "status=sent (250 2.0.0 Ok)") -> bytes:
        """One message from login to removal; ``recipients`` of them, of which two deliveries are written."""
        queue_id = self.queue_id()
        relay = "mta5.am0.yahoodns.net[192.0.2.5]:25"
        dsn = "2.0.0" if "status=sent" in verdict else "4.7.1"
        deliveries = b"".join(
            self.line(
                "smtp[77]", f"{queue_id}: to=<r{n}@example.net>, relay={relay}, delay=0.3, delays=0.1/0/0.1/0.1, dsn={dsn}, {verdict}"
            )
            for n in range(2)
        )
        return (
            self.line("submission/smtpd[7]", f"connect from unknown[{ip}]")
            + self.line("submission/smtpd[7]", f"{queue_id}: client=unknown[{ip}], sasl_method=LOGIN, sasl_username={account}")
            + self.line("cleanup[8]", f"{queue_id}: message-id=<{queue_id}@example.com>")
            + self.line("qmgr[9]", f"{queue_id}: from=<{sender}>, size=1890, nrcpt={recipients} (queue active)")
            + deliveries
            + self.line("qmgr[9]", f"{queue_id}: removed")
            + self.line(
                "submission/smtpd[7]", f"disconnect from unknown[{ip}] ehlo=1 auth=1 mail=1 rcpt={recipients} data=1 quit=1 commands=6"
            )
        )

    def ordinary(self, account: str) -> bytes:
        """A person writes to one or two others."""
        return self.message(account, account, 2, "198.51.100.20")

    def spam(self, account: str, number: int = 0) -> bytes:
        """One message of a thief; four of them are enough for a decision."""
        return self.message(
            account,
            f"linda{number}@example.org",
            50,
            THIEF,
            verdict="status=deferred (host mta5.am0.yahoodns.net[192.0.2.5] refused to talk to me: "
            "421 4.7.1 [TS03] All messages from 198.51.100.1 will be permanently deferred)",
        )

    def failure(self, account: str, ip: str = THIEF) -> bytes:
        self._login += 1
        return self.line(
            "submission/smtpd[7]",
            f"warning: unknown[{ip}]: SASL LOGIN authentication failed: authentication failure, sasl_username={account}",
        )

    def attack(self, account: str, messages: int = 6) -> bytes:
        """Guesses, then forged mail."""
        guesses = b"".join(self.failure(account) for _ in range(10))
        return guesses + b"".join(self.spam(account, number) for number in range(messages))


def write(log: Path, data: bytes) -> None:
    """Adds to a log as syslog does: opened for appending, written at once."""
    with log.open("ab", buffering=0) as file:
        file.write(data)
