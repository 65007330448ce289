"""The servers that other tests stand on do what mail servers do, and leave nothing behind."""

import imaplib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import until
from servers import (
    Client,
    Dovecot,
    MariaDb,
    PortTaken,
    Postfix,
    PostgreSql,
    Process,
    Reply,
    Server,
    ServerFailed,
    Sink,
    free_port,
    processes_in,
    workspace,
)
from servers.process import family_of, running
from servers.sink import Stage

WANG = "wang@corp.example"
LIU = "liu@corp.example"
PASSWORDS = {WANG: "wang123", LIU: "liu-secret"}
QUERY = "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active = 1"
TABLE = f"""CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, password varchar(255) NOT NULL, active smallint NOT NULL DEFAULT 1);
    INSERT INTO mailbox (username, password) VALUES ('{WANG}', 'wang123'), ('{LIU}', 'liu-secret')"""


@pytest.fixture(scope="module")
def mail(mail_servers: None, folder: Path, sink: Sink) -> Iterator[tuple[Postfix, Dovecot]]:
    """Two submission services: one asks an access map at every recipient, one does not."""
    postfix = Postfix(folder / "postfix")
    locked = postfix.write_map("locked", {})
    postfix.listen("checked", smtpd_recipient_restrictions=f"check_sasl_access {locked}")
    postfix.listen("unchecked")
    postfix.route("remote.example", sink)
    dovecot = Dovecot(folder / "dovecot", postfix.auth_socket, users=PASSWORDS)
    try:
        dovecot.start()
        postfix.start()
        yield postfix, dovecot
    finally:
        postfix.stop()
        dovecot.stop()


@pytest.fixture(autouse=True)
def everybody_may_send(request: pytest.FixtureRequest) -> None:
    if "mail" in request.fixturenames:
        request.getfixturevalue("mail")[0].write_map("locked", {})
        request.getfixturevalue("sink").accept()


def login(postfix: Postfix, account: str, password: str) -> Reply:
    """Of a new session."""
    with Client(postfix.ports["unchecked"]) as client:
        return client.login(account, password)


def test_a_message_goes_from_login_to_the_remote_server_and_through_the_log(mail: tuple[Postfix, Dovecot], sink: Sink) -> None:
    postfix, _ = mail
    with Client(postfix.ports["checked"], client_ip="203.0.113.66") as client:
        assert client.login(WANG, "wang123").code == 235
        reply = client.send(WANG, ["one@remote.example", "two@remote.example"])
    assert reply.accepted
    queue_id = reply.text.rpartition(" ")[2]
    postfix.wait_log(
        rf"postfix/submission/smtpd\[\d+\]: {queue_id}: client=unknown\[203\.0\.113\.66\], sasl_method=PLAIN, sasl_username={WANG}\n"
    )
    postfix.wait_log(rf"postfix/qmgr\[\d+\]: {queue_id}: from=<{WANG}>, size=\d+, nrcpt=2 \(queue active\)\n")
    postfix.wait_log(
        rf"postfix/smtp\[\d+\]: {queue_id}: to=<two@remote\.example>, relay=127\.0\.0\.2\[127\.0\.0\.2\]:{sink.port}, .*dsn=2\.0\.0, status=sent "
    )
    postfix.wait_log(rf"postfix/qmgr\[\d+\]: {queue_id}: removed\n")
    (message,) = sink.messages_of(WANG)
    assert message.recipients == ("one@remote.example", "two@remote.example")
    assert "Subject: hello" in message.text
    assert sink.messages_from("127.0.0.1") == sink.messages
    assert (sink.recipients(WANG), sink.attempts_of(WANG), sink.recipients(LIU)) == (2, 1, 0)


def test_a_wrong_password_is_one_failure_in_the_log(mail: tuple[Postfix, Dovecot]) -> None:
    postfix, _ = mail
    before = len(postfix.log())
    with Client(postfix.ports["checked"], client_ip="203.0.113.9") as client:
        assert client.login(LIU, "guess").code == 535
    postfix.wait_log(r"disconnect from unknown\[203\.0\.113\.9\] ehlo=1 auth=0/1", before)
    assert postfix.log()[before:].count("SASL PLAIN authentication failed") == 1


def test_an_open_session_goes_on_after_the_password_changed(mail: tuple[Postfix, Dovecot]) -> None:
    postfix, dovecot = mail
    with Client(postfix.ports["unchecked"]) as session:
        assert session.login(WANG, "wang123").accepted
        dovecot.set_users({**PASSWORDS, WANG: "another"})
        until(lambda: login(postfix, WANG, "wang123").code == 535, "the old password is refused")
        assert session.send(WANG, ["still@remote.example"]).accepted
    dovecot.set_users(PASSWORDS)
    dovecot.stop()
    assert login(postfix, WANG, "wang123").code == 454
    dovecot.start()
    until(lambda: login(postfix, WANG, "wang123").accepted, "the old password is taken again")


def test_an_access_map_in_lmdb_refuses_an_open_session_at_its_next_recipient(mail: tuple[Postfix, Dovecot]) -> None:
    postfix, _ = mail
    with Client(postfix.ports["checked"]) as session, Client(postfix.ports["checked"]) as other:
        assert session.login(WANG, "wang123").accepted
        assert other.login(LIU, "liu-secret").accepted
        assert session.send(WANG, ["before@remote.example"]).accepted
        postfix.write_map("locked", {WANG: "REJECT account locked"})
        refused = session.send(WANG, ["after@remote.example"])
        assert (refused.code, "account locked" in refused.text) == (554, True)
        assert other.send(LIU, ["free@remote.example"]).accepted
        postfix.write_map("locked", {})
        assert session.send(WANG, ["again@remote.example"]).accepted


@pytest.mark.parametrize(
    ("stage", "reply", "status"),
    [
        ("banner", "554 5.7.1 no mail from you", "deferred"),
        ("ehlo", "550 5.7.1 blocked", "bounced"),
        ("mail", "421 4.7.1 [TS03] deferred\npermanently", "deferred"),
        ("rcpt", "550 5.1.1 no such user", "bounced"),
        ("data", "450 4.7.1 later", "deferred"),
        ("end", "550 5.7.1 spam", "bounced"),
    ],
)
def test_the_sink_refuses_where_it_is_told_to(mail: tuple[Postfix, Dovecot], sink: Sink, stage: Stage, reply: str, status: str) -> None:
    postfix, _ = mail
    refused = sink.counts.refused[stage]
    sink.answer(stage, reply)
    with Client(postfix.ports["checked"]) as client:
        assert client.login(LIU, "liu-secret").accepted
        queue_id = client.send(LIU, [f"{stage}@remote.example"]).text.rpartition(" ")[2]
    line = postfix.wait_log(rf"{queue_id}: to=<{stage}@remote\.example>, .*status=(\w+) \((.*)\)\n")
    assert line[1] == status
    assert reply.split("\n")[0][10:] in line[2]
    assert sink.counts.refused[stage] > refused
    postfix.empty()


def test_the_sink_refuses_one_sender_after_so_many_recipients_and_the_queue_can_be_held(mail: tuple[Postfix, Dovecot], sink: Sink) -> None:
    postfix, _ = mail
    sink.answer("mail", "450 4.7.1 not now", after=sink.recipients() + 2, sender="^wang@")
    with Client(postfix.ports["checked"]) as client:
        assert client.login(WANG, "wang123").accepted
        for number in range(2):
            client.send(WANG, [f"{number}@remote.example"])
            postfix.wait_log(rf"to=<{number}@remote\.example>.*status=sent")
        waiting = client.send(WANG, ["waiting@remote.example"]).text.rpartition(" ")[2]
        postfix.wait_log(rf"{waiting}: to=.*status=deferred \(host .* said: 450 4\.7\.1 not now")
        assert client.send(LIU, ["other@remote.example"]).accepted
    postfix.wait_log(r"to=<other@remote\.example>.*status=sent")
    postfix.hold([waiting])
    assert postfix.queues(WANG) == {"hold"}
    sink.accept()
    before = sink.attempts_of(WANG)
    postfix.flush()
    with Client(postfix.ports["checked"]) as client:
        assert client.login(LIU, "liu-secret").accepted
        client.send(LIU, ["meanwhile@remote.example"])
    postfix.wait_log(r"to=<meanwhile@remote\.example>.*status=sent")
    assert sink.attempts_of(WANG) == before
    postfix.release([waiting])
    postfix.flush()
    postfix.wait_log(rf"{waiting}: to=.*status=sent")


@pytest.fixture(params=["mariadb", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Server]:
    server: Server = request.getfixturevalue(request.param)
    server.run("CREATE DATABASE mail")
    server.run(TABLE, "mail")
    user = "IDENTIFIED BY" if server.kind == "mysql" else "LOGIN PASSWORD"
    grant = "mail.*" if server.kind == "mysql" else "mailbox"
    server.run(f"CREATE {'USER' if server.kind == 'mysql' else 'ROLE'} dovecot {user} 'dovecot'")
    server.run(f"GRANT SELECT ON {grant} TO dovecot", "mail")
    yield server
    server.run("DROP DATABASE mail" if server.kind == "mysql" else "DROP DATABASE mail WITH (FORCE)")
    server.run(f"DROP {'USER' if server.kind == 'mysql' else 'ROLE'} dovecot")


@pytest.fixture
def cached(imap_server: None, database: Server) -> Iterator[tuple[Postfix, Dovecot, Server]]:
    """Dovecot remembers what the database said, and has IMAP."""
    with workspace() as folder:
        postfix = Postfix(folder / "postfix")
        postfix.listen("submission")
        sql = database.sql("mail", "dovecot", "dovecot", QUERY)
        dovecot = Dovecot(folder / "dovecot", postfix.auth_socket, sql=sql, auth_cache=True, imap=True)
        try:
            dovecot.start()
            postfix.start()
            yield postfix, dovecot, database
        finally:
            postfix.stop()
            dovecot.stop()


def test_dovecots_cache_remembers_until_it_is_flushed_and_kick_ends_an_imap_session(cached: tuple[Postfix, Dovecot, Server]) -> None:
    postfix, dovecot, database = cached
    with Client(postfix.ports["submission"]) as client:
        assert client.login(WANG, "wang123").accepted
    database.run(f"UPDATE mailbox SET active = 0 WHERE username = '{WANG}'", "mail")
    with Client(postfix.ports["submission"]) as client:
        assert client.login(WANG, "wang123").accepted
    assert dovecot.flush_auth_cache(WANG).strip() == "1 cache entries flushed"
    with Client(postfix.ports["submission"]) as client:
        assert client.login(WANG, "wang123").code == 535

    sessions = {account: imaplib.IMAP4("127.0.0.1", dovecot.imap_port) for account in PASSWORDS}
    database.run("UPDATE mailbox SET active = 1", "mail")
    dovecot.flush_auth_cache()
    for account, session in sessions.items():
        session.login(account, PASSWORDS[account])
    until(lambda: all(dovecot.sessions(account) == 1 for account in PASSWORDS), "both sessions are known")
    dovecot.kick(WANG)
    with pytest.raises((imaplib.IMAP4.abort, OSError)):
        until(lambda: sessions[WANG].noop()[0] != "OK", "the session of wang ends")
    assert sessions[LIU].noop()[0] == "OK"
    until(lambda: dovecot.sessions(WANG) == 0, "no session of wang is left")
    sessions[LIU].logout()


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"])
def test_a_database_can_be_paused_killed_and_started_again(request: pytest.FixtureRequest, kind: str) -> None:
    server: Server = request.getfixturevalue(kind)
    server.run("CREATE DATABASE lasting")
    server.run("CREATE TABLE one (value int); INSERT INTO one VALUES (7)", "lasting")
    server.process.pause()
    for one in family_of(server.process.pid):
        state = Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state == "T", one
    server.process.resume()
    assert server.run("SELECT value FROM one", "lasting") == [(7,)]
    server.process.pause()
    server.stop()
    server.start()
    assert server.run("SELECT value FROM one", "lasting") == [(7,)]
    server.process.kill()
    server.start()
    assert server.run("SELECT value FROM one", "lasting") == [(7,)]


def test_nothing_is_left_of_any_server(mail_servers: None, mariadb: MariaDb, postgresql: PostgreSql) -> None:
    with workspace() as folder:
        postfix = Postfix(folder / "postfix")
        postfix.listen("submission")
        dovecot = Dovecot(folder / "dovecot", postfix.auth_socket, users=PASSWORDS)
        servers = [MariaDb(folder / "mariadb"), PostgreSql(folder / "postgresql")]
        try:
            dovecot.start()
            postfix.start()
            for server in servers:
                server.start()
            client = Client(postfix.ports["submission"])
            assert client.login(WANG, "wang123").accepted
            here = " ".join(processes_in(folder))
            assert all(name in here for name in ("smtpd", "qmgr", "postlogd", "dovecot/auth", "mariadbd", "bin/postgres"))
        finally:
            postfix.stop()
            dovecot.stop()
            for server in servers:
                server.stop()
        assert processes_in(folder) == []
        assert client.noop().code == 0
    assert not folder.exists()
    assert mariadb.run("SELECT 1") == postgresql.run("SELECT 1") == [(1,)]


def test_a_process_that_is_left_behind_fails_the_test_that_left_it() -> None:
    with pytest.raises(AssertionError, match="left behind"), workspace() as folder:
        left = Process(["tail", "-f", folder / "log"], folder / "log")
        left.start(lambda: True)
    left.stop()
    assert processes_in(folder) == []


def test_children_that_outlive_their_parent_are_ended_too(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    parent = Process(["bash", "-c", f"(trap '' TERM; touch {ready}; exec tail -f /dev/null) & wait"], tmp_path / "log")
    parent.start(ready.exists)
    family = family_of(parent.pid)
    assert len(family) == 2
    parent.stop()
    assert family & running().keys() == set()


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="bash ended with 3 before it was ready: no such luck"):
        Process(["bash", "-c", "echo no such luck; exit 3"], tmp_path / "log").start(lambda: False)


def test_a_port_that_somebody_has_is_reported_also_where_the_kernel_would_share_it(mail_servers: None) -> None:
    port = free_port()
    with workspace() as folder:
        first, second = Postfix(folder / "first"), Postfix(folder / "second")
        first.listen("submission", port=port)
        second.listen("submission", port=port)
        try:
            first.start()
            with pytest.raises(PortTaken, match=rf"postfix \(submission\) cannot listen on 127\.0\.0\.1:{port}: somebody else does"):
                second.start()
        finally:
            second.stop()
            first.stop()
    with Sink(port=port), pytest.raises(PortTaken, match="somebody else does"), Sink(port=port):
        pass


def test_a_held_signal_does_not_keep_a_server_alive(tmp_path: Path) -> None:
    process = Process(["tail", "-f", "/dev/null"], tmp_path / "log", stop_signal=signal.SIGINT)
    process.start(lambda: True)
    process.pause()
    began = time.monotonic()
    process.stop()
    assert time.monotonic() - began < 10
    assert not process.alive
