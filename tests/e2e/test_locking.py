"""What a lock does to a mail server that is running: each preset on the system that it is for, with everything that has to follow.

An account sends spam: one session is open where Postfix asks an access map at each recipient, one where it asks nothing, one is
reading mail, and deferred mail waits in the queue. It is locked, Dovecot's cache is flushed, the sessions are ended, the queue is
held; then all of it is undone. All the time another user logs in and sends, and must not notice.

``pytest -s`` shows how many milliseconds each step took. Tests look at effects only.
"""

import contextlib
import imaplib
import os
import re
import signal
import smtplib
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from needs import need
from running import until
from servers import Client, Dovecot, Postfix, Reply, Server, Sink, Sql, dovecot, workspace
from servers.process import run
from systems import LIU, PASSWORDS, SYSTEMS, WANG, System

from sentinel.config import DatabaseSettings, PostfixSettings, ResponseSettings
from sentinel.respond.locks import AccessMapLocker, Locker, load_preset, locker_of_settings
from sentinel.respond.queue import PostfixQueue
from sentinel.respond.response import Facts, Response, Session, StepError

QUEUED = 4
"""Messages that wait in the queue when the account is locked."""
STEPS = (
    "lock",
    "flush",
    "AUTH refused",
    "RCPT refused",
    "session cut",
    "IMAP kicked",
    "queue held",
    "unlock",
    "AUTH again",
    "queue sent",
)


class Table:
    """Milliseconds by preset and step."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, str]] = {}

    @contextlib.contextmanager
    def timed(self, row: str, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.note(row, step, f"{(time.perf_counter() - began) * 1000:.0f}")

    def note(self, row: str, step: str, text: str) -> None:
        self._rows.setdefault(row, {})[step] = text

    def show(self) -> str:
        lines = [["milliseconds", *STEPS], *([row, *(cells.get(step, "-") for step in STEPS)] for row, cells in self._rows.items())]
        widths = [max(len(line[at]) for line in lines) for at in range(len(STEPS) + 1)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width) for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    made = Table()
    yield made
    print(f"\n{made.show()}\n")


class Bystander:
    """A user who logs in anew and sends, and sends in a session that is always open, again and again on both services."""

    def __init__(self, postfix: Postfix) -> None:
        self.sent = 0
        self.troubles: list[str] = []
        self._ports = [postfix.ports["checked"], postfix.ports["unchecked"]]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> "Bystander":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def wait_for_more(self, messages: int = 4) -> None:
        wanted = self.sent + messages
        until(lambda: self.troubles or self.sent >= wanted, "the other user sends")
        assert self.troubles == []

    def _go_on(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                lasting = [stack.enter_context(Client(port, client_ip="198.51.100.20")) for port in self._ports]
                for session in lasting:
                    self._note("login", session.login(LIU, PASSWORDS[LIU]))
                while not self._over.is_set():
                    for port, session in zip(self._ports, lasting, strict=True):
                        self._note("open session", session.send(LIU, ["friend@remote.example"]))
                        with Client(port, client_ip="198.51.100.21") as fresh:
                            self._note("login", fresh.login(LIU, PASSWORDS[LIU]))
                            self._note("new session", fresh.send(LIU, ["friend@remote.example"]))
                    self._over.wait(0.02)
        except (OSError, smtplib.SMTPException) as error:
            self.troubles.append(repr(error))

    def _note(self, what: str, reply: Reply) -> None:
        if not reply.accepted:
            self.troubles.append(f"{what}: {reply}")
        elif what != "login":
            self.sent += 1


class Accounts(Protocol):
    """Where a mail system keeps its accounts, made for one test."""

    def dovecot(self) -> dict[str, Any]:
        """How Dovecot asks for them."""

    def settings(self) -> DatabaseSettings:
        """How sentinel locks them, with no more rights than the preset's grants."""

    def kept(self) -> object:
        """Everything about WANG that a lock could change."""


class InDatabase:
    """On MariaDB or PostgreSQL, with the table, the grants and the password query of the preset."""

    def __init__(self, system: System, server: Server) -> None:
        self._system, self._server = system, server
        server.run(f"CREATE DATABASE {system.database}")
        server.run(system.table, system.database)
        for account, password in PASSWORDS.items():
            server.run(system.accounts.format(account=account, password=password, local=account.split("@")[0]), system.database)
        server.run(self._reader() + self._grants(), system.database)

    def dovecot(self) -> dict[str, Any]:
        return {"sql": self._server.sql(self._system.database, "dovecot", "dovecot", self._system.query)}

    def settings(self) -> DatabaseSettings:
        url = self._server.url(self._system.database, "sentinel", "sentinel-secret")
        return DatabaseSettings.model_validate({"url": url, "preset": self._system.preset, "options": self._system.options})

    def kept(self) -> object:
        return self._server.run(self._system.row, self._system.database)

    def remove(self) -> None:
        force, user = (" WITH (FORCE)", "ROLE {}") if self._server.kind == "postgresql" else ("", "USER '{}'@'127.0.0.1'")
        self._server.run(f"DROP DATABASE IF EXISTS {self._system.database}{force}")
        for name in ("dovecot", "sentinel"):
            self._server.run(f"DROP {user.format(name)}")

    def _reader(self) -> str:
        if self._server.kind == "postgresql":
            return "CREATE ROLE dovecot LOGIN PASSWORD 'dovecot'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO dovecot;"
        return f"CREATE USER 'dovecot'@'127.0.0.1' IDENTIFIED BY 'dovecot'; GRANT SELECT ON {self._system.database}.* TO 'dovecot'@'127.0.0.1';"

    def _grants(self) -> str:
        """What the preset tells an admin to paste, for this kind of server and with a password."""
        text = load_preset(self._system.preset).grants
        mysql, _, postgresql = text.partition("-- PostgreSQL")
        text = postgresql if self._server.kind == "postgresql" else mysql
        return text.replace("'...'", "'sentinel-secret'").replace("'localhost'", "'127.0.0.1'").rstrip().rstrip(";")


class InSqlite:
    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._path = folder / "accounts.db"
        with contextlib.closing(sqlite3.connect(self._path)) as db, db:
            db.execute(system.table)
            for account, password in PASSWORDS.items():
                db.execute(system.accounts.format(account=account, password=password))
        self._path.chmod(0o644)

    def dovecot(self) -> dict[str, Any]:
        return {"sql": Sql("sqlite", str(self._path), self._system.query)}

    def settings(self) -> DatabaseSettings:
        return DatabaseSettings.model_validate({"url": f"sqlite:///{self._path}", "preset": self._system.preset})

    def kept(self) -> object:
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            return db.execute(self._system.row).fetchall()


class InFile:
    """In Dovecot's passwd-file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "dovecot" / "users"

    def dovecot(self) -> dict[str, Any]:
        return {"users": PASSWORDS}

    def settings(self) -> DatabaseSettings:
        return DatabaseSettings.model_validate({"preset": "dovecot-passwd-file", "options": {"path": str(self._path)}})

    def kept(self) -> object:
        return self._path.read_bytes(), self._path.stat().st_mode, self._path.stat().st_uid, self._path.stat().st_gid


class Lab:
    """Postfix with two services and a map, Dovecot with a cache and IMAP, on some system's accounts."""

    def __init__(self, folder: Path, accounts: Accounts, sink: Sink) -> None:
        self.sink = sink
        self.postfix = Postfix(folder / "postfix")
        access_map = self.postfix.write_map("locked", {})
        self.postfix.listen("checked", smtpd_recipient_restrictions=f"check_sasl_access {access_map}")
        self.postfix.listen("unchecked")
        self.postfix.route("remote.example", sink)
        self.dovecot = Dovecot(folder / "dovecot", self.postfix.auth_socket, auth_cache=True, imap=True, **accounts.dovecot())
        self.map_path = self.postfix.etc / "locked"

    def response(self) -> Response:
        """What follows a lock, all of it."""
        settings = ResponseSettings(flush_auth_cache=True, kick=True, hold=True, doveadm=tuple(self.dovecot.doveadm()))
        return Response(settings, PostfixQueue(PostfixSettings(config_directory=str(self.postfix.etc))), self.map_locker())

    def map_locker(self) -> AccessMapLocker:
        return AccessMapLocker(options={"path": str(self.map_path), "postmap": tuple(self.postfix.command("postmap"))})

    def __enter__(self) -> "Lab":
        self.dovecot.start()
        self.postfix.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.postfix.stop()
        self.dovecot.stop()

    def login(self, service: str = "unchecked") -> Reply:
        with self.session(service) as session:
            return session.login(WANG, PASSWORDS[WANG])

    def session(self, service: str) -> Client:
        return Client(self.postfix.ports[service], client_ip="203.0.113.66")

    def queue_ids(self) -> list[str]:
        """Of what the account has in the queue, whatever sender it wrote."""
        mine = set(re.findall(rf" (\w+): client=.*, sasl_username={re.escape(WANG)}\n", self.postfix.log()))
        return [message["queue_id"] for message in self.postfix.queue() if message["queue_id"] in mine]

    def queues(self) -> set[str]:
        """In which queues that is."""
        mine = self.queue_ids()
        return {message["queue_name"] for message in self.postfix.queue() if message["queue_id"] in mine}


def connections_of(postfix: Postfix, account: str) -> list[tuple[str, str]]:
    """Both ends of the open connections of smtpd processes that served the account last, as ``address:port``."""
    served: dict[int, str] = {}
    for pid, name in re.findall(r"smtpd\[(\d+)\]: \w+: client=.*, sasl_username=(\S+)\n", postfix.log()):
        served[int(pid)] = name
    sockets = set()
    for pid, name in served.items():
        if name == account and Path(f"/proc/{pid}/fd").exists():
            sockets |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [(_end(row[1]), _end(row[2])) for row in rows if row[3] == "01" and f"socket:[{row[9]}]" in sockets]


def _end(text: str) -> str:
    address, port = text.split(":")
    return f"{socket.inet_ntoa(int(address, 16).to_bytes(4, 'little'))}:{int(port, 16)}"


def cut(here: str, there: str) -> None:
    """Closes a connection of some other process, as if the client had gone."""
    subprocess.run(["ss", "-K", "-t", "src", here, "dst", there], capture_output=True, timeout=10, check=True)


@pytest.fixture(scope="module")
def can_cut() -> bool:
    """Whether this kernel closes connections of others (CONFIG_INET_DIAG_DESTROY), for us."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        ends = ["{}:{}".format(*client.getsockname()), "{}:{}".format(*client.getpeername())]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            cut(ends[0], ends[1])
        client.settimeout(1)
        try:
            client.recv(1)
        except TimeoutError:
            return False
        except OSError:
            return True
    return True


def open_imap(lab: Lab, account: str) -> imaplib.IMAP4:
    session = imaplib.IMAP4("127.0.0.1", lab.dovecot.imap_port)
    session.login(account, PASSWORDS[account])
    return session


def ended(session: imaplib.IMAP4) -> bool:
    try:
        return session.noop()[0] != "OK"
    except (imaplib.IMAP4.abort, OSError):
        return True


def nobody_asks(login: str, prior: dict[str, Any], locked_already: bool) -> None:
    """A record that is not kept."""


@pytest.fixture(params=[*SYSTEMS, "dovecot-passwd-file"], ids=str)
def system(request: pytest.FixtureRequest, imap_server: None, sink: Sink) -> Iterator[tuple[str, Accounts, Path]]:
    """Each mail system in turn: its name, its accounts, and a folder."""
    sink.accept()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(workspace())
        accounts: Accounts
        if request.param == "dovecot-passwd-file":
            accounts = InFile(folder)
        elif request.param.kind == "sqlite":
            need(dovecot.sqlite_installed(), "Dovecot cannot read SQLite (apt install dovecot-sqlite)")
            accounts = InSqlite(request.param, folder)
        else:
            server = request.getfixturevalue("mariadb" if request.param.kind == "mysql" else "postgresql")
            accounts = InDatabase(request.param, server)
            stack.callback(accounts.remove)
        yield str(request.param), accounts, folder


def test_a_locked_account_stops_and_an_unlocked_one_is_as_before(
    system: tuple[str, Accounts, Path], sink: Sink, table: Table, can_cut: bool
) -> None:
    name, accounts, folder = system
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(folder, accounts, sink))
        locker = stack.enter_context(contextlib.closing(locker_of_settings(accounts.settings())))
        response = lab.response()
        before = accounts.kept()
        sink.answer("mail", "450 4.7.1 not now", sender=f"^{re.escape(WANG)}$")
        checked, unchecked = stack.enter_context(lab.session("checked")), stack.enter_context(lab.session("unchecked"))
        for session in (checked, unchecked):
            assert session.login(WANG, PASSWORDS[WANG]).accepted
            for number in range(QUEUED // 2):
                assert session.send(WANG, [f"victim{number}@remote.example"]).accepted
        reading = open_imap(lab, WANG)
        until(lambda: len(lab.queue_ids()) == QUEUED and lab.queues() == {"deferred"}, "the spam is deferred")
        bystander = stack.enter_context(Bystander(lab.postfix))
        bystander.wait_for_more()

        locked = _lock(name, lab, locker, response, table)
        assert accounts.kept() != before
        assert unchecked.send(WANG, ["victim@remote.example"]).accepted, "an open session does not ask the database"
        with table.timed(name, "RCPT refused"):
            response.perform("map", WANG, Facts())
            refused = checked.send(WANG, ["victim@remote.example"])
        assert refused.code == 554, refused
        _cut_sessions(name, lab, unchecked, table, can_cut)
        with table.timed(name, "IMAP kicked"):
            assert response.perform("kick", WANG, Facts()).detail == "sessions were ended"
            until(lambda: ended(reading), "the IMAP session ends")
        with table.timed(name, "queue held"):
            held = response.perform("hold", WANG, Facts())
        # What no log has told: the logins stand in the envelopes.
        assert held.rows == len(lab.queue_ids()) == QUEUED + 1, held
        assert response.perform("hold-late", WANG, Facts()).rows == 0
        _nothing_leaves(lab, bystander)

        _unlock(
            name,
            lab,
            lambda: (response.perform("unmap", WANG, Facts(), found="absent"), locker.unlock(locked.login, locked.prior)),
            response,
            table,
        )
        assert accounts.kept() == before
        bystander.wait_for_more()
    assert bystander.troubles == []


def _lock(name: str, lab: Lab, locker: Locker, response: Response, table: Table) -> Any:
    assert lab.login().accepted
    with table.timed(name, "lock"):
        locked = locker.lock(WANG, nobody_asks)
    assert (locked.login, locked.locked_already, locker.is_locked(WANG), locker.is_locked(LIU)) == (WANG, False, True, False)
    assert lab.login().accepted, "Dovecot remembers the answer from before"
    with table.timed(name, "flush"):
        response.perform("flush", WANG, Facts())
    with table.timed(name, "AUTH refused"):
        _next_login(name, lab, accepted=False)
    return locked


def _next_login(name: str, lab: Lab, *, accepted: bool) -> None:
    """The very next one with a database. Dovecot looks at a passwd-file once a second at most, and what it says until then is
    remembered too: there, the cache has to be flushed again.
    """
    if name != "dovecot-passwd-file":
        assert lab.login().accepted == accepted
        return

    def so() -> bool:
        if lab.login().accepted == accepted:
            return True
        lab.dovecot.flush_auth_cache(WANG)
        return False

    until(so, f"logins are {'accepted' if accepted else 'refused'}")


def _cut_sessions(name: str, lab: Lab, session: Client, table: Table, can_cut: bool) -> None:
    if not can_cut:
        table.note(name, "session cut", "kernel cannot")
        return
    with table.timed(name, "session cut"):
        for here, there in connections_of(lab.postfix, WANG):
            cut(here, there)
        assert session.noop().code == 0


def _nothing_leaves(lab: Lab, bystander: Bystander) -> None:
    """Although the world would take it, and the queue is run."""
    lab.sink.accept()
    attempts = lab.sink.attempts_of(WANG)
    delivered = lab.sink.recipients(LIU)
    lab.postfix.flush()
    bystander.wait_for_more()
    until(lambda: lab.sink.recipients(LIU) > delivered + 4, "the other user's mail is delivered")
    assert lab.sink.attempts_of(WANG) == attempts
    assert lab.queues() == {"hold"}


def _unlock(name: str, lab: Lab, undo: Callable[[], object], response: Response, table: Table) -> None:
    taken = lab.sink.recipients(WANG)
    waiting = lab.queue_ids()
    with table.timed(name, "unlock"):
        undo()
        response.perform("flush", WANG, Facts())
    with table.timed(name, "AUTH again"):
        _next_login(name, lab, accepted=True)
    with table.timed(name, "queue sent"):
        lab.postfix.release(waiting)
        lab.postfix.flush()
        until(lambda: lab.sink.recipients(WANG) == taken + len(waiting), "what was held is delivered")
    for service in ("checked", "unchecked"):
        with lab.session(service) as session:
            assert session.login(WANG, PASSWORDS[WANG]).accepted
            assert session.send(WANG, ["friend@remote.example"]).accepted
    until(lambda: lab.sink.recipients(WANG) == taken + len(waiting) + 2, "new mail is delivered")


def test_the_access_map_alone_stops_every_session_where_postfix_asks_it(imap_server: None, folder: Path, sink: Sink, table: Table) -> None:
    sink.accept()
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab(folder / "map", InFile(folder / "map"), sink))
        text = lab.map_path
        text.write_text("# who may not send\nolduser@corp.example REJECT gone\n\n")
        run(*lab.postfix.command("postmap", f"lmdb:{text}"))
        before = text.read_bytes()
        locker = lab.map_locker()
        session = stack.enter_context(lab.session("checked"))
        assert session.login(WANG, PASSWORDS[WANG]).accepted
        assert session.send(WANG, ["victim@remote.example"]).accepted
        bystander = stack.enter_context(Bystander(lab.postfix))

        with table.timed("access-map", "lock"):
            locked = locker.lock(WANG, nobody_asks)
        with table.timed("access-map", "RCPT refused"):
            assert session.send(WANG, ["victim@remote.example"]).code == 554
        with lab.session("checked") as fresh:
            assert fresh.login(WANG, PASSWORDS[WANG]).accepted, "the map is asked at the recipient, not at the login"
            assert fresh.send(WANG, ["victim@remote.example"]).code == 554
        bystander.wait_for_more()

        with table.timed("access-map", "unlock"):
            locker.unlock(locked.login, locked.prior)
        assert session.send(WANG, ["friend@remote.example"]).accepted
        assert text.read_bytes() == before
        assert run(*lab.postfix.command("postmap", "-q", "olduser@corp.example", f"lmdb:{text}")) == "REJECT gone\n"
    assert bystander.troubles == []


@pytest.fixture
def one_session(imap_server: None, sink: Sink) -> Iterator[tuple[Lab, Client, int]]:
    """A session that is the first one of its smtpd, and that process."""
    sink.accept()
    with workspace() as folder, Lab(folder, InFile(folder), sink) as lab, lab.session("unchecked") as session:
        assert session.login(WANG, PASSWORDS[WANG]).accepted
        assert session.send(WANG, ["victim@remote.example"]).accepted
        line = lab.postfix.wait_log(rf"smtpd\[(\d+)\]: \w+: client=.*, sasl_username={re.escape(WANG)}\n")
        yield lab, session, int(line[1])


def test_a_signal_to_smtpd_ends_the_session_and_keeps_everybody_from_the_service(one_session: tuple[Lab, Client, int]) -> None:
    """Postfix's master takes the death of a process in its first session for a broken program, and starts none for a minute."""
    lab, session, pid = one_session
    os.kill(pid, signal.SIGTERM)
    assert session.noop().code == 0
    lab.postfix.wait_log("bad command startup -- throttling")
    with pytest.raises((smtplib.SMTPException, OSError)):
        Client(lab.postfix.ports["unchecked"], seconds=2)
    with Client(lab.postfix.ports["checked"]) as elsewhere:
        assert elsewhere.login(LIU, PASSWORDS[LIU]).accepted


def test_a_closed_connection_ends_the_session_and_nobody_else_notices(one_session: tuple[Lab, Client, int], can_cut: bool) -> None:
    if not can_cut:
        pytest.skip("this kernel does not close connections of other processes (ss -K, CONFIG_INET_DIAG_DESTROY)")
    lab, session, pid = one_session
    ((here, there),) = connections_of(lab.postfix, WANG)
    cut(here, there)
    assert session.noop().code == 0
    lab.postfix.wait_log(rf"smtpd\[{pid}\]: (lost connection|disconnect)")
    with Client(lab.postfix.ports["unchecked"], seconds=2) as other:
        assert other.login(LIU, PASSWORDS[LIU]).accepted
        assert other.send(LIU, ["friend@remote.example"]).accepted
    assert "throttling" not in lab.postfix.log()


@pytest.fixture
def direct(imap_server: None, sink: Sink) -> Iterator[tuple[Lab, Client, Session]]:
    """A session that came without a proxy, so that Postfix's log names the address at the other end of the connection."""
    sink.accept()
    with workspace() as folder:
        lab = Lab(folder, InFile(folder), sink)
        port = lab.postfix.listen("direct", proxy=False)
        with lab, Client(port, client_ip=None) as session:
            assert session.login(WANG, PASSWORDS[WANG]).accepted
            assert session.send(WANG, ["victim@remote.example"]).accepted
            line = lab.postfix.wait_log(rf"smtpd\[(\d+)\]: \w+: client=.*\[(.*)\], sasl_method=.*, sasl_username={re.escape(WANG)}\n")
            yield lab, session, Session(int(line[1]), line[2], time.time())


def test_sentinel_cuts_the_session_of_the_account_alone(direct: tuple[Lab, Client, Session], can_cut: bool) -> None:
    lab, session, known = direct
    response = Response(ResponseSettings(end_smtp="cut"))
    with Client(lab.postfix.ports["direct"], client_ip=None) as other:
        assert other.login(LIU, PASSWORDS[LIU]).accepted
        if not can_cut:
            with pytest.raises(StepError, match="this kernel does not close other programs' connections"):
                response.perform("smtpd", WANG, Facts(sessions=[known]))
            return
        # One that is over, one that another client has, one that was never an smtpd, one that began later than its message.
        strangers = [known._replace(pid=999_999_999), known._replace(client_ip="203.0.113.66"), known._replace(pid=os.getpid())]
        for stranger in [*strangers, known._replace(time=known.time - 3600)]:
            assert response.perform("smtpd", WANG, Facts(sessions=[stranger])).rows == 0
        assert session.noop().accepted
        done = response.perform("smtpd", WANG, Facts(sessions=[known]))
        assert (done.rows, done.statement.split()[:4]) == (1, ["ss", "-K", "-t", "src"])
        assert session.noop().code == 0
        assert other.send(LIU, ["friend@remote.example"]).accepted
        assert response.perform("smtpd", WANG, Facts(sessions=[known])).rows == 0


def test_sentinel_ends_the_smtpd_where_the_admin_wants_that(direct: tuple[Lab, Client, Session]) -> None:
    _, session, known = direct
    response = Response(ResponseSettings(end_smtp="kill"))
    assert response.perform("smtpd", WANG, Facts(sessions=[known])).statement == f"kill -TERM {known.pid}"
    assert session.noop().code == 0


def test_doveadm_without_a_dovecot_is_a_sentence(tmp_path: Path, imap_server: None) -> None:
    settings = ResponseSettings(flush_auth_cache=True, kick=True, doveadm=("doveadm", "-o", f"base_dir={tmp_path}"))
    response = Response(settings)
    for step in ("flush", "kick"):
        with pytest.raises(StepError, match=r"^doveadm (auth cache flush|kick) failed: "):
            response.perform(step, WANG, Facts())


@pytest.mark.parametrize("account", ["*", "w*@corp.example", "?", "", "a\nb", "x" * 400])
def test_no_account_means_several_users_to_doveadm(account: str) -> None:
    response = Response(ResponseSettings(flush_auth_cache=True, kick=True, doveadm=("/bin/false",)))
    for step in ("flush", "kick"):
        with pytest.raises(StepError) as raised:
            response.perform(step, account, Facts())
        assert raised.value.final
