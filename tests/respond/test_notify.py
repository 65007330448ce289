"""The outbox and its targets, against real servers: said once, in order, never lost, and nobody held up by another."""

import base64
import email
import email.policy
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from receivers import Relay, Web, answering, certificate, drip, free_port, hang, hang_up, nonsense, relay, web

from sentinel.config import Config, NoticeKind, Severity, load_config
from sentinel.errors import UserError
from sentinel.respond.notify import GIVE_UP_SECONDS, Notice, Notifier, Outbox, Target, TargetError
from sentinel.respond.targets import targets_of
from sentinel.state import State

Poll = Callable[..., object]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / "state") as opened:
        yield opened


@pytest.fixture
def chat() -> Iterator[Web]:
    with web() as received:
        yield received


@pytest.fixture
def mails() -> Iterator[Relay]:
    with relay() as received:
        yield received


def notice(id_: str = "n1", incident: str = "i1", kind: NoticeKind = "locked", severity: Severity = "critical", **more: Any) -> Notice:
    return Notice(id_, incident, kind, severity, 1_351_059_487_000_000, f"Locked {id_}", "It was locked.", "info@example.com", **more)


def targets(tmp_path: Path, text: str, **options: Any) -> list[Target]:
    path = tmp_path / "sentinel.yaml"
    path.write_text(f"log: /var/log/mail.log\n{text}", encoding="utf-8")
    return targets_of(load_config(path), host="mx1", **options)


def hook(tmp_path: Path, received: Web, more: str = "") -> list[Target]:
    return targets(tmp_path, f"notify: [{{kind: webhook, url: '{received.url}/path/s3cretpathtoken?q=1', timeout: 2s{more}}}]")


def notifier(state: State, where: Sequence[Target], **options: Any) -> Notifier:
    return Notifier(state, where, **{"first_pause_seconds": 0.02, "longest_pause_seconds": 0.1, **options})


def titles(received: Web) -> list[str]:
    return [json.loads(request.body)["title"] for request in received.requests]


class Kept:
    """A target that keeps what it gets, for what is about the outbox alone."""

    def __init__(self, name: str = "kept", **more: Any) -> None:
        self.name = name
        self.min_severity: Severity = more.get("min_severity", "info")
        self.kinds: tuple[NoticeKind, ...] = more.get("kinds", ())
        self.again_seconds: float = more.get("again_seconds", 0.0)
        self.lasts_seconds: float = more.get("lasts_seconds", 0.0)
        self.got: list[tuple[str, list[str]]] = []
        self.errors: list[Exception] = []

    def send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.got.append((notice.id, [each.id for each in earlier]))


# the outbox


def test_a_notice_is_said_once_for_good(tmp_path: Path) -> None:
    target = Kept()
    for _ in range(3):
        with State(tmp_path / "state") as state:
            told = notifier(state, [target])
            told.offer(notice())
            assert told.drain(5)
    assert target.got == [("n1", [])]


def test_it_is_there_if_and_only_if_the_caller_commits(state: State) -> None:
    target = Kept()
    told = notifier(state, [target])
    with pytest.raises(ZeroDivisionError), state.transaction():
        assert told.offer(notice()) == 1
        1 / 0  # noqa: B018
    assert told.drain(5) and target.got == []
    with state.transaction():
        told.offer(notice())
    assert told.drain(5) and target.got == [("n1", [])]


def test_filters_and_ends(state: State) -> None:
    every, severe, some = Kept("every"), Kept("severe", min_severity="critical"), Kept("some", kinds=("blocked", "unlocked"))
    told = notifier(state, [every, severe, some])
    for each in (
        notice("lock"),
        notice("warned", "i2", "detection", "warning"),
        notice("unlock", "i1", "unlocked", "info", resolved=True),
        notice("other-end", "i3", "unlocked", "info", resolved=True),
    ):
        told.offer(each)
    assert told.drain(5)
    assert [id_ for id_, _ in every.got] == ["lock", "warned", "unlock", "other-end"]
    # What it was told of, it is told the end of.
    assert severe.got == [("lock", []), ("unlock", ["lock"])]
    assert [id_ for id_, _ in some.got] == ["unlock", "other-end"]


def test_order_is_kept_through_failures(state: State) -> None:
    target = Kept()
    target.errors = [TargetError("down")] * 3
    told = notifier(state, [target])
    told.start()
    for n in range(50):
        told.offer(notice(f"n{n}", f"i{n}"))
    assert told.drain(20)
    told.stop()
    assert [id_ for id_, _ in target.got] == [f"n{n}" for n in range(50)]
    assert told.results["kept", "sent"] == 50 and told.results["kept", "retried"] == 3


def test_what_is_refused_for_good_holds_nothing_up(state: State) -> None:
    target = Kept()
    target.errors = [TargetError("this can't be read", for_good=True)]
    told = notifier(state, [target])
    told.offer(notice("bad", "i1"))
    told.offer(notice("good", "i2"))
    assert told.drain(5)
    assert target.got == [("good", [])]
    assert told.results["kept", "failed"] == 1
    assert state.query("SELECT id, state, error FROM notices WHERE state = 'failed'") == [("bad", "failed", "this can't be read")]


def test_given_up_after_a_day_and_not_before(state: State) -> None:
    clock = [1000.0]
    target = Kept()
    told = notifier(state, [target], now=lambda: clock[0], first_pause_seconds=0.0)
    told.offer(notice())
    for after, expected in ((0.0, "pending"), (GIVE_UP_SECONDS - 1, "pending"), (GIVE_UP_SECONDS + 1, "failed")):
        clock[0] = 1000.0 + after
        target.errors = [TargetError("down")]
        told.drain(0)
        assert state.query("SELECT state FROM notices") == [(expected,)]


def test_a_bug_in_a_target_says_nothing_of_its_words(state: State, caplog: pytest.LogCaptureFixture) -> None:
    target = Kept()
    target.errors = [ValueError("https://host/s3cret")]
    told = notifier(state, [target], first_pause_seconds=0.0)
    told.offer(notice())
    with caplog.at_level(logging.DEBUG):
        told.drain(0)
        told.drain(0)
    assert target.got == [("n1", [])]
    assert "unexpected ValueError" in caplog.text and "s3cret" not in caplog.text


def test_targets_that_are_gone_and_too_many_notices(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    notifier(state, [Kept("old")]).offer(notice())
    told = notifier(state, [Kept("new")])
    told.start()
    told.stop()
    assert state.query("SELECT target, state, error FROM notices") == [("old", "failed", "the target is configured no more")]
    monkeypatch.setattr("sentinel.respond.notify.MAX_PENDING", 3)
    for n in range(5):
        told.offer(notice(f"n{n}"))
    assert told.outbox.count("new") == 3 and told.outbox.count("new", "failed") == 2


def test_old_texts_go_and_ids_stay(state: State) -> None:
    clock = [1000.0]
    target = Kept()
    told = notifier(state, [target], now=lambda: clock[0])
    told.offer(notice())
    assert told.drain(5)
    clock[0] += 91 * 86_400
    assert told.outbox.prune() == 1
    assert told.offer(notice()) == 0
    assert told.drain(5) and len(target.got) == 1


def test_what_lasts_is_said_again_until_its_end(state: State) -> None:
    clock = [1000.0]
    target = Kept(again_seconds=300.0, lasts_seconds=3600.0)
    told = notifier(state, [target], now=lambda: clock[0])
    told.offer(notice("lock"))
    for seconds in (0, 299, 2, 301):
        clock[0] += seconds
        told.drain(0)
    assert [id_ for id_, _ in target.got] == ["lock"] * 3
    told.offer(notice("unlock", "i1", "unlocked", resolved=True))
    clock[0] += 301
    told.drain(0)
    clock[0] += 301
    told.drain(0)
    assert target.got[3:] == [("unlock", ["lock"])]
    told.offer(notice("lock2", "i2"))
    for _ in range(30):
        told.drain(0)
        clock[0] += 301
    assert sum(id_ == "lock2" for id_, _ in target.got) == 12


CHILD = """
import sys
from sentinel.config import load_config
from sentinel.respond.notify import Notifier, Notice
from sentinel.respond.targets import targets_of
from sentinel.state import State
with State(sys.argv[2]) as state:
    told = Notifier(state, targets_of(load_config(sys.argv[1]), host="mx1"))
    told.offer(Notice("n1", "i1", "locked", "critical", 1351059487000000, "Locked", "It was locked."))
    told.start()
    told.drain(20)
"""


def test_killed_between_sending_and_marking_it_is_sent_again_once(tmp_path: Path, chat: Web, poll: Poll) -> None:
    hook(tmp_path, chat)
    started: list[subprocess.Popen[bytes]] = []

    def kill(*_: Any) -> None:
        poll(lambda: started)
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].wait()

    chat.answers = [kill]
    started.append(subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "sentinel.yaml"), str(tmp_path / "state")]))
    assert started[0].wait(30) == -signal.SIGKILL
    assert len(chat.requests) == 1
    for _ in range(2):
        subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "sentinel.yaml"), str(tmp_path / "state")], check=True, timeout=30)
    ids = [request.headers["X-Sentinel-Notice"] for request in chat.requests]
    assert ids == ["n1", "n1"]


# HTTP


def test_webhook_gets_json_with_its_headers(tmp_path: Path, chat: Web, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_TOKEN", "tok-en")
    (tmp_path / "key").write_text("k3y-value\n", encoding="utf-8")
    where = hook(tmp_path, chat, f", headers: {{X-Token: '${{HOOK_TOKEN}}'}}, header_files: {{X-Key: {tmp_path}/key}}")
    where[0].send(notice(evidence=("a line with tok-en and k3y-value and s3cretpathtoken?",)), ())
    (request,) = chat.requests
    assert (request.method, request.path) == ("POST", "/path/s3cretpathtoken?q=1")
    assert (request.headers["X-Token"], request.headers["X-Key"]) == ("tok-en", "k3y-value")
    body = json.loads(request.body)
    assert body == {
        "host": "mx1", "id": "n1", "incident": "i1", "kind": "locked", "severity": "critical", "time": "2012-10-24T06:18:07Z",
        "title": "Locked n1", "text": "It was locked.", "account": "info@example.com", "client_ips": [], "senders": [],
        "evidence": ["a line with [redacted] and [redacted] and [redacted]?"], "next_steps": [], "undo": None, "resolved": False, "provider": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "expected", "for_good"),
    [
        (500, "answered 500 Internal Server Error", False),
        (404, "answered 404 Not Found", False),
        (403, "answered 403 Forbidden", False),
        (400, "answered 400 Bad Request", True),
        (599, "answered 599", False),
        (
            answering(302, Location="http://127.0.0.1:1/stolen"),
            "sends us on to another address (302), which is not followed; write the final URL",
            False,
        ),
        (
            answering(308, Location="file:///etc/passwd"),
            "sends us on to another address (308), which is not followed; write the final URL",
            False,
        ),
        (hang, "no answer in time", False),
        (drip, "no answer in time", False),
        (hang_up, "the connection was closed before an answer", False),
        (nonsense, "its answer is not HTTP (BadStatusLine)", False),
    ],
    ids=lambda value: getattr(value, "__name__", str(value))[:20],
)
def test_errors_name_the_host_alone(tmp_path: Path, chat: Web, answer: Any, expected: str, for_good: bool) -> None:
    chat.answers = [answer]
    where = targets(tmp_path, f"notify: [{{kind: webhook, url: '{chat.url}/path/s3cretpathtoken?q=1', timeout: 0.5s}}]")
    began = time.monotonic()
    with pytest.raises(TargetError) as caught:
        where[0].send(notice(), ())
    assert time.monotonic() - began < 2
    assert str(caught.value).rstrip() == f"127.0.0.1:{chat.port}{'' if expected.startswith(('answered', 'sends')) else ':'} {expected}"
    assert caught.value.for_good is for_good
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert len(chat.requests) == 1


def test_nobody_listens_and_no_such_host(tmp_path: Path) -> None:
    for url, expected in (
        (f"http://127.0.0.1:{free_port()}/s3cret", "Connection refused"),
        ("http://no-such-host.invalid/s3cret", "its name is not found"),
    ):
        with pytest.raises(TargetError, match=expected) as caught:
            targets(tmp_path, f"notify: [{{kind: webhook, url: '{url}'}}]")[0].send(notice(), ())
        assert "s3cret" not in str(caught.value)


def test_busy_server_is_left_alone_as_long_as_it_asks(tmp_path: Path, chat: Web) -> None:
    chat.answers = [answering(429, Retry_After="7"), answering(503, Retry_After="soon")]
    for expected in (7.0, 0.0):
        with pytest.raises(TargetError) as caught:
            hook(tmp_path, chat)[0].send(notice(), ())
        assert caught.value.after_seconds == expected


def test_failure_then_success(tmp_path: Path, chat: Web, state: State, caplog: pytest.LogCaptureFixture) -> None:
    chat.answers = [500, 500, hang_up]
    told = notifier(state, hook(tmp_path, chat))
    told.offer(notice())
    with caplog.at_level(logging.DEBUG):
        told.start()
        assert told.drain(20)
        told.stop()
    assert len(chat.requests) == 4
    assert told.results == {("json", "sent"): 1, ("json", "failed"): 0, ("json", "retried"): 3}
    assert "s3cret" not in caplog.text and "s3cret" not in str(state.query("SELECT error FROM notices"))


def test_one_target_that_hangs_holds_up_no_other(tmp_path: Path, chat: Web, state: State, poll: Poll) -> None:
    with web() as slow:
        slow.answers = [hang] * 100
        text = f"notify:\n- {{kind: webhook, name: slow, url: '{slow.url}', timeout: 30s}}\n- {{kind: webhook, name: quick, url: '{chat.url}'}}\n"
        told = notifier(state, targets(tmp_path, text))
        told.start()
        began = time.monotonic()
        for n in range(5):
            told.offer(notice(f"n{n}", f"i{n}"))
        told.wake()
        poll(lambda: told.outbox.count("quick") == 0)
        assert time.monotonic() - began < 3
        assert told.outbox.count("slow") == 5
        slow.closing.set()
        told.stop()
    assert titles(chat) == [f"Locked n{n}" for n in range(5)]


def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, and makes the certificate")
    cert, context = certificate(tmp_path)
    with web(context) as received:
        where = hook(tmp_path, received)
        with pytest.raises(TargetError, match="its certificate is not valid: self-signed certificate") as caught:
            where[0].send(notice(), ())
        assert "s3cret" not in str(caught.value) and not received.requests
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        where[0].send(notice(), ())
        assert titles(received) == ["Locked n1"]


def test_proxy_of_the_environment_is_used_but_not_to_this_machine(tmp_path: Path, chat: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with web() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        hook(tmp_path, chat)[0].send(notice(), ())
        assert len(chat.requests) == 1 and not proxy.requests
        targets(tmp_path, "notify: [{kind: webhook, url: 'http://hooks.invalid/x'}]")[0].send(notice(), ())
        assert [request.path for request in proxy.requests] == ["http://hooks.invalid/x"]


def test_slack_teams_and_bridge_go_to_their_url(tmp_path: Path, chat: Web) -> None:
    for form, key in (("slack", "blocks"), ("teams", "attachments"), ("matrix", "html")):
        (target,) = hook(tmp_path, chat, f", format: {form}")
        assert target.name == form
        target.send(notice(), ())
        request = chat.requests[-1]
        assert key in json.loads(request.body)
        assert (request.method, request.headers["Content-Type"]) == ("POST", "application/json")


def test_matrix_room_by_token_and_transaction(tmp_path: Path, chat: Web) -> None:
    (tmp_path / "token").write_text("syt_t0ken\n", encoding="utf-8")
    text = f"notify: [{{kind: webhook, format: matrix, url: '{chat.url}/', room: '!a/b:example.org', token_file: {tmp_path}/token}}]"
    (target,) = targets(tmp_path, text)
    target.send(notice()._replace(text="It says syt_t0ken."), ())
    (request,) = chat.requests
    assert (request.method, request.path) == ("PUT", "/_matrix/client/v3/rooms/%21a%2Fb%3Aexample.org/send/m.room.message/n1")
    assert request.headers["Authorization"] == "Bearer syt_t0ken"
    body = json.loads(request.body)
    assert (body["msgtype"], body["format"], body["m.mentions"]) == ("m.text", "org.matrix.custom.html", {})
    assert "It says [redacted]." in body["body"] and "syt_t0ken" not in request.body.decode()


def test_login_in_the_url_is_a_header(tmp_path: Path, chat: Web) -> None:
    url = f"http://us%40er:pa%3Ass@127.0.0.1:{chat.port}/x"
    targets(tmp_path, f"notify: [{{kind: webhook, url: '{url}'}}]")[0].send(notice(), ())
    (request,) = chat.requests
    assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")) == b"us@er:pa:ss"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{kind: webhook, url: 'ftp://host/s3cret'}", "notify[1]: the URL is none that can be used"),
        ("{kind: webhook, url: 'file:///etc/s3cret'}", "notify[1]: the URL is none that can be used"),
        ("{kind: webhook, url: 'https://host:99999/s3cret'}", "notify[1]: the URL is none that can be used"),
        ("{kind: webhook, url: \"https://host/s3cret\\nX: y\"}", "notify[1]: the URL is none that can be used"),
        ("{kind: webhook, url: 'https://host/${S3CRET_UNSET}'}", "notify[1].url: the environment variable S3CRET_UNSET is not set"),
        ("{kind: webhook, url_file: /nowhere/url}", "notify[1].url_file /nowhere/url cannot be read: No such file or directory"),
        ("{kind: webhook, url: 'https://host/x', headers: {X-A: \"s3cret\\r\\nB: c\"}}", "notify[1].headers.X-A: a header's value must be one line of ASCII"),
        ("{kind: webhook, format: matrix, url: 'https://host/x', room: '!a:b', token_file: /nowhere/t}", "notify[1].token_file /nowhere/t cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_at_the_start(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        targets(tmp_path, f"notify: [{text}]")
    assert str(caught.value).startswith(expected)
    assert "s3cret" not in str(caught.value)


def test_passwords_of_the_databases_do_not_go_out(tmp_path: Path, chat: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGIN_DB", "hunter-three")
    (tmp_path / "password").write_text("hunter-two\n", encoding="utf-8")
    text = (
        f"database: {{url: 'mysql://u@h/d', password_file: {tmp_path}/password}}\n"
        "logins: {database: 'mysql://u:${LOGIN_DB}@h/d', query: 'SELECT 1, 2'}\n"
        f"notify: [{{kind: webhook, url: '{chat.url}'}}]"
    )
    (target,) = targets(tmp_path, text)
    target.send(notice()._replace(text="hunter-two hunter-three"), ())
    assert json.loads(chat.requests[0].body)["text"] == "[redacted] [redacted]"
    assert "hunter" not in repr(target)


# mail


def mail_to(tmp_path: Path, received: Relay, more: str = "tls: none") -> Target:
    text = f"notify: [{{kind: email, to: [a@example.org, b@example.org], from: s@example.com, relay: '127.0.0.1:{received.port}', timeout: 2s, {more}}}]"
    return targets(tmp_path, text, now=lambda: 1_351_059_600.0)[0]


def test_mail_is_whole_and_threads_by_incident(tmp_path: Path, mails: Relay) -> None:
    target = mail_to(tmp_path, mails)
    for each in (notice(), notice("n2", "i1", "unlocked", "info", resolved=True), notice("n3", "i9")):
        target.send(each, ())
    target.send(notice(), ())
    assert {(mail.sender, tuple(mail.recipients)) for mail in mails.mails} == {("s@example.com", ("a@example.org", "b@example.org"))}
    parsed = [email.message_from_bytes(mail.data, policy=email.policy.default) for mail in mails.mails]
    assert parsed[0]["Subject"] == "[critical] Locked n1 (mx1)"
    assert parsed[0]["Date"].datetime.timestamp() == 1_351_059_600
    assert parsed[0]["References"] == parsed[1]["References"] != parsed[2]["References"]
    assert parsed[0]["Message-ID"] == parsed[3]["Message-ID"] != parsed[1]["Message-ID"]
    assert parsed[0]["Message-ID"].endswith("@example.com>")


@pytest.mark.parametrize(
    ("replies", "expected", "for_good"),
    [
        ({"RCPT": "550 5.1.1 no s3cret"}, "takes mail for none of the recipients (550)", True),
        ({"RCPT": "451 4.3.0 later"}, "takes mail for none of the recipients (451)", False),
        ({".": "554 5.7.1 spam"}, "does not take the mail (554)", True),
        ({".": "452 4.3.1 full"}, "does not take the mail (452)", False),
        ({"MAIL": "530 5.7.0 login first"}, ": it does not accept the sender (530)", False),
        ({"EHLO": "421 busy", "HELO": "421 busy"}, ": it does not talk to us (421)", False),
    ],
)  # fmt: skip
def test_what_a_relay_refuses(tmp_path: Path, mails: Relay, replies: dict[str, str], expected: str, for_good: bool) -> None:
    mails.replies = replies
    with pytest.raises(TargetError) as caught:
        mail_to(tmp_path, mails).send(notice(), ())
    assert str(caught.value) == f"127.0.0.1:{mails.port}{'' if expected[0] == ':' else ' '}{expected}"
    assert caught.value.for_good is for_good


def test_starttls_must_succeed_and_login_goes_through_it(tmp_path: Path, mails: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, and makes the certificate")
    with pytest.raises(TargetError, match="does not offer what is configured: STARTTLS or a login"):
        mail_to(tmp_path, mails, "tls: starttls").send(notice(), ())
    cert, context = certificate(tmp_path)
    (tmp_path / "pw").write_text("pass-word\n", encoding="utf-8")
    with relay(context) as received:
        target = mail_to(tmp_path, received, f"tls: starttls, user: me, password_file: {tmp_path}/pw")
        with pytest.raises(TargetError, match="its certificate is not valid"):
            target.send(notice(), ())
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        target.send(notice()._replace(text="pass-word"), ())
        (mail,) = received.mails
        assert mail.secure and base64.b64decode(mail.login or "") == b"\0me\0pass-word"
        assert b"pass-word" not in mail.data
        received.replies = {"AUTH": "535 5.7.8 wrong pass-word"}
        with pytest.raises(TargetError) as caught:
            target.send(notice(), ())
        assert str(caught.value) == f"127.0.0.1:{received.port}: it does not accept user and password (535)"
    with relay(context, implicit=True) as received:
        mail_to(tmp_path, received, "tls: implicit").send(notice(), ())
        assert received.mails[0].secure


def test_no_relay_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="Connection refused"):
        mail_to(tmp_path, Relay(port=free_port())).send(notice(), ())


# programs


def test_command_gets_json_and_no_shell(tmp_path: Path) -> None:
    out = tmp_path / "out $(touch x); `y`"
    text = f"notify: [{{kind: command, argv: [{sys.executable}, -c, 'import sys; open(sys.argv[1], \"wb\").write(sys.stdin.buffer.read())', '{out}']}}]"
    targets(tmp_path, text)[0].send(notice(), ())
    assert json.loads(out.read_bytes())["title"] == "Locked n1"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("[/bin/false]", "false failed with exit code 1"),
        ("[/bin/sleep, '60']", "sleep took longer than 0.3 s and was ended"),
        ("[/bin/sh, -c, 'echo \"bad pass-word\" >&2; exit 3']", "sh failed with exit code 3: bad pass-word"),
        ("[/nowhere/program, s3cret]", "there is no program /nowhere/program here; install it, or configure where it is"),
    ],
)
def test_commands_that_fail(tmp_path: Path, argv: str, expected: str) -> None:
    began = time.monotonic()
    with pytest.raises(TargetError) as caught:
        targets(tmp_path, f"notify: [{{kind: command, argv: {argv}, timeout: 0.3s}}]")[0].send(notice(), ())
    assert str(caught.value) == expected
    assert time.monotonic() - began < 5


def test_command_sees_no_secret_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "s3cret")
    code = "import os, sys; sys.exit('DB_PASSWORD' in os.environ)"
    targets(tmp_path, f'notify: [{{kind: command, argv: [{sys.executable}, -c, "{code}"]}}]')[0].send(notice(), ())


# Alertmanager

ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
ALERTS_CONFIG = """
route: {receiver: hook, group_by: [alertname, sasl_username], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}
receivers: [{name: hook, webhook_configs: [{url: "%s", send_resolved: true}]}]
"""


@pytest.fixture
def alertmanager(tmp_path: Path, chat: Web, poll: Poll) -> Iterator[str]:
    if ALERTMANAGER is None:
        pytest.skip("Alertmanager is not installed: apt install prometheus-alertmanager")
    (tmp_path / "am.yaml").write_text(ALERTS_CONFIG % chat.url, encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        [ALERTMANAGER, f"--config.file={tmp_path}/am.yaml", f"--storage.path={tmp_path}/am", f"--web.listen-address=127.0.0.1:{port}",
         "--cluster.listen-address="],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        poll(lambda: asked(f"http://127.0.0.1:{port}") is not None, 20)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def asked(url: str) -> list[dict[str, Any]] | None:
    """The alerts that Alertmanager holds for firing; None while it does not answer."""
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true", timeout=5) as answer:
            return list(json.load(answer))
    except OSError:
        return None


def test_alertmanager_fires_until_the_end(tmp_path: Path, state: State, alertmanager: str, chat: Web, poll: Poll) -> None:
    now_us = int(time.time() * 1e6)
    begin = notice(
        evidence=("<b>line</b>",), next_steps=("Do this.", "Then that."), undo="sentinel locks unlock -- info@example.com"
    )._replace(time=now_us)
    told = notifier(state, targets(tmp_path, f"notify: [{{kind: alertmanager, url: '{alertmanager}/', min_severity: critical}}]"))
    assert (told.targets[0].name, told.targets[0].again_seconds) == ("alertmanager", 300.0)
    told.start()
    told.offer(begin)
    assert told.drain(10)
    (alert,) = asked(alertmanager) or []
    assert alert["labels"] == {
        "alertname": "SentinelAccountLocked",
        "severity": "critical",
        "sasl_username": "info@example.com",
        "instance": "mx1",
    }
    assert alert["annotations"]["next_steps"] == "1. Do this.\n2. Then that."
    assert alert["annotations"]["undo"] == "sentinel locks unlock -- info@example.com"
    # Far beyond resolve_timeout (5 minutes): it is over when a notice says so, or after a day.
    assert alert["endsAt"][:13] == time.strftime("%Y-%m-%dT%H", time.gmtime(now_us / 1e6 + 86_400))
    poll(lambda: [json.loads(request.body)["status"] for request in chat.requests] == ["firing"])
    told.offer(notice("n2", "i1", "unlocked", "info", resolved=True)._replace(time=now_us))
    assert told.drain(10)
    poll(lambda: asked(alertmanager) == [])
    poll(lambda: [json.loads(request.body)["status"] for request in chat.requests] == ["firing", "resolved"], 20)
    told.stop()


def test_alertmanager_that_was_started_anew_is_told_again(tmp_path: Path, state: State, chat: Web) -> None:
    clock = [1_351_059_500.0]
    told = notifier(
        state,
        targets(tmp_path, f"notify: [{{kind: alertmanager, url: '{chat.url}', lasts: 1h}}]", now=lambda: clock[0]),
        now=lambda: clock[0],
    )
    told.offer(notice())
    for _ in range(20):
        told.drain(0)
        clock[0] += 301
    sent = [json.loads(request.body)[0] for request in chat.requests]
    assert len(sent) == 12
    assert {each["startsAt"] for each in sent} == {"2012-10-24T06:18:07Z"}
    assert {each["endsAt"] for each in sent[:9]} == {"2012-10-24T07:18:07Z"}
    assert {request.path for request in chat.requests} == {"/api/v2/alerts"}


def test_alert_of_old_evidence_still_lasts_a_while(tmp_path: Path, alertmanager: str) -> None:
    (target,) = targets(tmp_path, f"notify: [{{kind: alertmanager, url: '{alertmanager}', lasts: 1h}}]")
    target.send(notice(), ())
    assert len(asked(alertmanager) or []) == 1


def test_end_of_what_was_never_said_is_no_alert(tmp_path: Path, chat: Web) -> None:
    targets(tmp_path, f"notify: [{{kind: alertmanager, url: '{chat.url}'}}]")[0].send(notice(resolved=True), ())
    assert chat.requests == []


# the command line


def test_notify_test_says_what_happened(tmp_path: Path, chat: Web, mails: Relay, capsys: pytest.CaptureFixture[str]) -> None:
    from sentinel.cli import main

    good = f"- {{kind: webhook, url: '{chat.url}/s3cret'}}\n- {{kind: email, to: a@b.example, from: c@d.example, relay: '127.0.0.1:{mails.port}', tls: none}}\n"
    path = tmp_path / "sentinel.yaml"
    path.write_text(f"log: x\nnotify:\n{good}", encoding="utf-8")
    assert main(["notify", "test", "--config", str(path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in out] == ["json: taken", "email: taken"]
    assert len(mails.mails) == 1
    path.write_text(f"log: x\nnotify:\n{good}- {{kind: command, argv: [/bin/false]}}\n", encoding="utf-8")
    chat.answers = [500]
    assert main(["notify", "test", "--config", str(path)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"json: failed: 127.0.0.1:{chat.port} answered 500 Internal Server Error"
    assert out[1].startswith("email: taken")
    assert out[2] == "command: failed: false failed with exit code 1"
    path.write_text("log: x\n", encoding="utf-8")
    assert main(["notify", "test", "--config", str(path)]) == 2
    assert "there are no targets" in capsys.readouterr().err


def test_settings_do_not_show_urls(tmp_path: Path) -> None:
    path = tmp_path / "sentinel.yaml"
    path.write_text("log: x\nnotify: [{kind: webhook, url: 'https://h/s3cret', headers: {X: s3cret}}]\n", encoding="utf-8")
    config = load_config(path)
    assert isinstance(config, Config)
    assert "s3cret" not in repr(config) + str(config) + config.model_dump_json()


def test_outbox_stands_alone(state: State) -> None:
    outbox = Outbox(state, lambda: 5.0)
    assert outbox.offer(notice(), [Kept("a"), Kept("b")]) == 2
    (row,) = outbox.pending("a")
    assert (row.notice, row.created, row.state) == (notice(), 5.0, "pending")
    assert outbox.settle(row, "sent") and not outbox.settle(row, "failed")


def test_some_recipients_are_enough_and_the_others_are_logged(tmp_path: Path, mails: Relay, caplog: pytest.LogCaptureFixture) -> None:
    mails.refused = ["a@example.org"]
    mail_to(tmp_path, mails).send(notice(), ())
    assert [mail.recipients for mail in mails.mails] == [["b@example.org"]]
    assert "takes no mail for 1 of the 2 recipients" in caplog.text
