"""The incident, on real servers and against the daemon itself: an account whose password somebody has sends forged mail to fifty
recipients a message, as fast as it can. Before long nothing of it leaves any more, and nobody else has noticed.

``pytest -s`` shows how many seconds and recipients that took.
"""

import contextlib
import datetime
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from running import Daemon, sentinel, until
from servers import Client, Dovecot, MariaDb, Postfix, Sink, workspace
from systems import PASSWORDS, SYSTEMS, WANG
from test_locking import Bystander, InDatabase

THIEF = "203.0.113.66"
FORGED = r"^linda\d+@bank\.example$"


class Configured(Daemon):
    """The daemon of a configuration file; it listens on a port of its own choice."""

    def command(self, *options: str) -> list[str]:
        command = super().command()
        return [*command[: command.index("run") + 1], *self.options, *options]


class Attack(threading.Thread):
    """One session after the other; in each as many messages as are taken, each with another forged sender."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__(daemon=True)
        self.began = self.began_at = 0.0
        self.messages = 0
        self.refused: list[str] = []
        self.over = threading.Event()
        self._ports = ports
        self._number = 0

    def run(self) -> None:
        self.began, self.began_at = time.monotonic(), time.time()
        while not self.over.is_set():
            for port in self._ports:
                with contextlib.suppress(OSError), Client(port, client_ip=THIEF) as session:
                    self._session(session)
            self.over.wait(0.05)

    def _session(self, session: Client) -> None:
        login = session.login(WANG, PASSWORDS[WANG])
        while login.accepted and not self.over.is_set():
            self._number += 1
            victims = [f"victim{self._number}x{n}@remote.example" for n in range(50)]
            sent = session.send(f"linda{self._number}@bank.example", victims)
            if not sent.accepted:
                self.refused.append(str(sent))
                return
            self.messages += 1
        if not login.accepted:
            self.refused.append(str(login))


class Lab:
    """Postfix, Dovecot on ExtMail's table in MariaDB, a remote server, and sentinel's configuration for them."""

    def __init__(self, folder: Path, server: MariaDb, sink: Sink) -> None:
        system = next(system for system in SYSTEMS if str(system) == "extmail-mysql")
        self.accounts = InDatabase(system, server)
        self.sink = sink
        self.folder = folder
        self.postfix = Postfix(folder / "postfix")
        access_map = self.postfix.write_map("locked", {})
        self.postfix.listen("checked", smtpd_recipient_restrictions=f"check_sasl_access {access_map}")
        self.postfix.listen("unchecked")
        self.postfix.route("remote.example", sink)
        self.dovecot = Dovecot(folder / "dovecot", self.postfix.auth_socket, auth_cache=True, imap=True, **self.accounts.dovecot())

    def configure(self, response: str, more: str = "") -> Configured:
        settings = self.accounts.settings()
        assert settings.url is not None
        password = self.folder / "password"
        url, _, rest = settings.url.get_secret_value().partition(":sentinel-secret@")
        password.write_text("sentinel-secret\n", encoding="ascii")
        path = self.folder / "sentinel.yaml"
        path.write_text(
            f"log: {self.postfix.maillog}\nstate: {self.folder / 'state'}\nlisten: 127.0.0.1:0\n"
            f"policy: {{mode: enforce}}\n"
            f"database: {{url: '{url}@{rest}', password_file: {password}, preset: extmail}}\n"
            f"postfix: {{config_directory: {self.postfix.etc}}}\n"
            f"response:\n  doveadm: {json.dumps(self.dovecot.doveadm())}\n{response}{more}",
            encoding="utf-8",
        )
        return Configured(self.folder, "--config", str(path), log=self.postfix.maillog)

    def forged(self) -> list[float]:
        """When the world saw an attempt to deliver forged mail."""
        return [attempt.time for attempt in self.sink.attempts if re.match(FORGED, attempt.sender)]

    def reached(self) -> int:
        """Recipients that got it."""
        return sum(len(message.recipients) for message in self.sink.messages if re.match(FORGED, message.sender))


@pytest.fixture
def lab(imap_server: None, mariadb: MariaDb, sink: Sink) -> Iterator[Lab]:
    sink.accept()
    with workspace() as folder, contextlib.ExitStack() as stack:
        made = Lab(folder, mariadb, sink)
        stack.callback(made.accounts.remove)
        made.dovecot.start()
        stack.callback(made.dovecot.stop)
        made.postfix.start()
        stack.callback(made.postfix.stop)
        yield made


def steps(daemon: Daemon) -> dict[str, str]:
    """Steps of the open lock, and their states, as the journal's entries tell them."""
    done = sentinel("locks", "list", "--journal", "--format", "jsonl", "--state", daemon.state)
    assert done.returncode == 0, done.stderr
    return {entry["what"]: entry["result"] for entry in map(json.loads, done.stdout.splitlines()) if entry["event"] == "step"}


def show(daemon: Daemon, since: float) -> None:
    """The journal as a time-table."""
    done = sentinel("locks", "list", "--journal", "--format", "jsonl", "--state", daemon.state)
    for entry in map(json.loads, done.stdout.splitlines()):
        at = datetime.datetime.fromisoformat(entry["at"]).timestamp() - since
        took = f"{entry['duration_ms']:.0f} ms" if "duration_ms" in entry else ""
        print(
            f"{at:7.3f} s  {entry['event']:<8} {entry['what']:<10} {entry.get('result', entry.get('state')):<8} {took:>7}  {entry.get('detail', '')}"
        )


def rules_of(daemon: Daemon) -> set[str]:
    return {detection["rule"] for detection in json.loads(daemon.get("/api/detections?limit=1000")[1])}


def test_the_spam_stops_within_seconds_and_nobody_else_notices(lab: Lab) -> None:
    access_map = f"{{path: {lab.postfix.etc / 'locked'}, postmap: {json.dumps(lab.postfix.command('postmap'))}}}"
    daemon = lab.configure(f"  flush_auth_cache: true\n  kick: true\n  access_map: {access_map}\n  hold: true\n  grace: 3s\n  watch: 3s\n")
    before = lab.accounts.kept()
    # A provider defers some of it, so that much of it stands in the queue when the account is locked.
    lab.sink.answer("mail", "450 4.7.1 not now", after=100, sender=FORGED)
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.end)
        daemon.start()
        bystander = stack.enter_context(Bystander(lab.postfix))
        bystander.wait_for_more()
        attack = Attack([lab.postfix.ports["checked"]])
        stack.callback(attack.over.set)
        attack.start()
        until(lambda: steps(daemon).get("hold-late") == "done", "the sequence is done", 30)
        last = max(lab.forged())
        # The world would take it now, and Postfix is asked to try: for seconds on end nothing comes.
        lab.sink.accept()
        reached = lab.reached()
        lab.postfix.flush()
        until(lambda: steps(daemon).get("verify") == "done", "the log has been silent about the account", 30)
        attempts = lab.forged()
        attack.over.set()
        attack.join(30)
        bystander.wait_for_more()
        assert max(attempts) == last, f"{max(attempts) - last:.1f} s after the last step something left"
        assert lab.reached() == reached
        spam = [message for message in lab.postfix.queue() if re.match(FORGED, message["sender"])]
        assert {message["queue_name"] for message in spam} == {"hold"}
        assert attack.refused, "the thief noticed it"
        assert [row["account"] for row in json.loads(daemon.get("/api/locks")[1])] == [WANG]
        assert daemon.metric("sentinel_actions_total", action="hold", result="done") >= 1
        assert "lock-ineffective" not in rules_of(daemon)
        verified = sentinel("locks", "verify-journal", "--state", daemon.state)
        assert verified.returncode == 0, verified.stdout
        print(
            f"\nthe last delivery attempt {last - attack.began:.2f} s after the first spam, {reached} recipients reached; "
            f"{attack.messages} messages of 50 taken, {len(spam)} of them held"
        )
        show(daemon, attack.began_at)

        done = sentinel("locks", "unlock", WANG, "--config", lab.folder / "sentinel.yaml", "--why", "password changed")
        assert done.returncode == 0, done.stderr
        assert lab.accounts.kept() == before
        with Client(lab.postfix.ports["checked"]) as session:
            assert session.login(WANG, PASSWORDS[WANG]).accepted
            assert session.send(WANG, ["friend@remote.example"]).accepted
        queue = ("--account", WANG, "--config", lab.folder / "sentinel.yaml", "--postfix-config", lab.postfix.etc)
        found = sentinel("queue", "delete", *queue, "--dry-run", "--format", "jsonl")
        assert json.loads(found.stdout)["messages"] >= len(spam)
        assert sentinel("queue", "delete", *queue, "--max", str(len(spam) - 1)).returncode == 2
        assert len([m for m in lab.postfix.queue() if re.match(FORGED, m["sender"])]) == len(spam)
        assert sentinel("queue", "delete", *queue, "--max", "100000").returncode == 0
        assert [m for m in lab.postfix.queue() if re.match(FORGED, m["sender"])] == []
        assert daemon.stop() == 0
    assert bystander.troubles == []


class Listener:
    """A webhook."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        heard = self.heard

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not to standard error."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def __enter__(self) -> "Listener":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def test_a_lock_that_an_open_session_survives_is_reported_within_the_grace(lab: Lab) -> None:
    """Only the row is changed: whoever is logged in goes on, and that is said."""
    with Listener() as hook, contextlib.ExitStack() as stack:
        daemon = lab.configure("  grace: 1s\n  watch: 60s\n", f"notify:\n- {{kind: webhook, url: '{hook.url}'}}\n")
        stack.callback(daemon.end)
        daemon.start()
        session = stack.enter_context(Client(lab.postfix.ports["unchecked"], client_ip=THIEF))
        assert session.login(WANG, PASSWORDS[WANG]).accepted
        number = 0

        def sends(sender: str) -> None:
            nonlocal number
            number += 1
            assert session.send(sender.format(number), [f"victim{n}@remote.example" for n in range(50)]).accepted

        while not json.loads(daemon.get("/api/locks")[1]):
            sends("linda{}@bank.example")
        until(lambda: [notice["kind"] for notice in hook.heard] == ["locked"], "the lock is told")

        def still_sends() -> bool:
            sends("linda{}@bank.example")
            return "lock-ineffective" in rules_of(daemon)

        until(still_sends, "lock-ineffective")
        until(lambda: [notice["kind"] for notice in hook.heard] == ["locked", "lock-ineffective"], "that is told")
        locked, ineffective = hook.heard
        assert locked["incident"] == ineffective["incident"]
        assert (locked["account"], locked["client_ips"]) == (WANG, [THIEF])
        assert locked["undo"] == f"sentinel locks unlock --config {lab.folder / 'sentinel.yaml'} -- {WANG}"
        assert any(f"sasl_username={WANG}" in line for line in ineffective["evidence"])
        assert "sentinel-secret" not in json.dumps(hook.heard) + daemon.messages
        until(lambda: daemon.metric("sentinel_detections_total", rule="lock-ineffective", severity="critical") == 1, "the metric")
        undone = sentinel("locks", "unlock", WANG, "--config", lab.folder / "sentinel.yaml")
        assert undone.returncode == 0, undone.stderr
        until(lambda: hook.heard[-1]["kind"] == "unlocked", "the end is told")
        assert hook.heard[-1]["resolved"]
        assert daemon.stop() == 0
