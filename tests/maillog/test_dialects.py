"""sendmail, exim and qmail: lines written by hand, hostile ones, and what the rules make of them."""

import json

import pytest
from helpers import make_engine, rows
from hypothesis import example, given
from hypothesis import strategies as st

from sentinel.detect.rules import load_rules
from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.maillog.fields import COLUMNS, SERVICES

SM = "Nov 22 02:04:46 mx sm-mta[123]: "
EXIM = "2026-11-22 02:04:46 "
ID = "1abcDE-000123-4F"
TAI = "@400000006ab1c2d31234abcd "
VICTIM = "victim@example.com"
ARRIVED = f"{EXIM}{ID} <= a@example.com H=pc.example (pc) [198.51.100.7]:4711 P=esmtpsa X=TLS1.3 A=login:a@example.com S=12 id=x@y"


def parsed(text, **options):
    """The rows of a text, without what the header says of all of them."""
    found = rows(text.encode(), **options)
    return [{name: value for name, value in row.items() if name not in ("time", "host", "syslog_name", "pid")} for row in found]


def one(text):
    (row,) = parsed(text)
    return row


def kinds(text):
    return [row["kind"] for row in parsed(text)]


# --- sendmail ------------------------------------------------------------------------------------------------------------------------------


def test_sendmail_accepts_a_message_of_a_login():
    found = parsed(
        SM + "AUTH=server, relay=pc.example [198.51.100.7], mech=LOGIN, authid=info@example.com, bits=0\n"
        + SM + "7AM24kXx000123: from=<info@example.com>, size=900, class=0, nrcpts=50, msgid=<a@b>, proto=ESMTPSA, daemon=MTA, "
        "relay=pc.example [198.51.100.7]\n"
    )  # fmt: skip
    client = {"client_name": "pc.example", "client_ip": "198.51.100.7"}
    origin = {"service": "sendmail", "queue_id": "7AM24kXx000123", "sasl_username": "info@example.com"}
    assert found == [
        {"service": "sendmail", "kind": "auth_success", **client, "sasl_method": "LOGIN", "sasl_username": "info@example.com"},
        {**origin, "kind": "accepted", **client},
        {
            **origin,
            "kind": "queued",
            "client_ip": "198.51.100.7",
            "sender": "info@example.com",
            "nrcpt": 50,
            "size": 900,
            "message_id": "<a@b>",
        },
    ]


@pytest.mark.parametrize(
    "spelling",
    [
        "relay=[198.51.100.7], authid=info, mech=PLAIN, bits=0",
        "relay=[IPv6:2001:db8::7], authid=info, mech=PLAIN, bits=256",
        "relay=pc.example [198.51.100.7] (may be forged), mech=PLAIN, authid=info, bits=0",
        "relay=joe@pc.example [198.51.100.7], mech=PLAIN, authid=info, bits=0",
    ],
)
def test_sendmail_spellings_of_a_login(spelling):
    row = one(SM + "AUTH=server, " + spelling)
    assert (row["kind"], row["sasl_username"], row["sasl_method"]) == ("auth_success", "info", "PLAIN")
    assert row["client_ip"] in ("198.51.100.7", "2001:db8::7")
    assert row.get("client_name") == (None if "forged" in spelling or "=[" in spelling else "pc.example")


@pytest.mark.parametrize(
    ("pid", "ip", "stamp", "whose"),
    [
        (123, "198.51.100.7", "02:50:00", "info"),
        (124, "198.51.100.7", "02:05:00", None),
        (123, "198.51.100.8", "02:05:00", None),
        (123, "198.51.100.7", "03:30:00", None),
    ],
)
def test_sendmail_login_is_that_of_its_process_and_address(pid, ip, stamp, whose):
    found = parsed(
        SM + "AUTH=server, relay=[198.51.100.7], mech=LOGIN, authid=info, bits=0\n"
        f"Nov 22 {stamp} mx sm-mta[{pid}]: 7AM24kXx000123: from=<a@b>, size=9, class=0, nrcpts=1, relay=[{ip}]\n"
    )
    assert [row.get("sasl_username") for row in found[1:]] == [whose, whose]


def test_sendmail_process_id_that_comes_back():
    found = parsed(
        SM + "AUTH=server, relay=[198.51.100.7], mech=LOGIN, authid=info, bits=0\n"
        + SM + "NOQUEUE: connect from [198.51.100.7]\n"
        + SM + "7AM24kXx000123: from=<a@b>, size=9, class=0, nrcpts=1, relay=[198.51.100.7]\n"
    )  # fmt: skip
    assert "sasl_username" not in found[2]


def test_sendmail_delivery_to_several():
    found = parsed(
        SM
        + '7AM24kXx000123: to=<a@x.example>,<"b, c"@x.example>,\\root, [more], ctladdr=<info@example.com> (1000/1000), delay=1+00:01:01, '
        "xdelay=00:00:01, mailer=esmtp, pri=120900, relay=mx.x.example. [192.0.2.1], dsn=2.0.0, stat=Sent (250 2.0.0 ok)"
    )
    assert [row["recipient"] for row in found] == ["a@x.example", '"b, c"@x.example', "\\root"]
    assert {json.dumps({name: row[name] for name in row if name != "recipient"}) for row in found} == {
        json.dumps(
            {
                "service": "sendmail", "kind": "delivery", "queue_id": "7AM24kXx000123", "relay_host": "mx.x.example", "relay_ip": "192.0.2.1",
                "delay": 86461.0, "dsn": "2.0.0", "status": "sent", "reply": "250 2.0.0 ok", "reply_code": 250,
            }
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stat", "status", "reply", "code"),
    [
        ("dsn=2.0.0, stat=Sent", "sent", "Sent", None),
        ("dsn=4.7.0, stat=Deferred: 421 4.7.0 blocked", "deferred", "421 4.7.0 blocked", 421),
        ("dsn=4.0.0, stat=Deferred: Connection refused by mx.", "deferred", "Connection refused by mx.", None),
        ("dsn=5.1.1, stat=User unknown", "bounced", "User unknown", None),
        ("dsn=5.7.1, reply=550 5.7.1 no, stat=Service unavailable", "bounced", "550 5.7.1 no", 550),
        ("stat=Sent (ok, dsn=5.0.0, stat=User unknown)", "sent", "ok, dsn=5.0.0, stat=User unknown", None),
        ("dsn=5.7.1, stat=Sent (ok)", "bounced", "ok", None),
    ],
)
def test_sendmail_stat(stat, status, reply, code):
    row = one(SM + f"7AM24kXx000123: to=a@x.example, delay=00:00:01, mailer=esmtp, pri=1, relay=mx. [192.0.2.1], {stat}")
    assert (row["status"], row["reply"], row.get("reply_code")) == (status, reply, code)


def test_sendmail_refusals():
    row = one(
        SM + "7AM24kXx000123: ruleset=check_rcpt, arg1=<u@x.example>, relay=h.example [198.51.100.9] (may be forged), "
        "reject=550 5.7.1 <u@x.example>... Relaying denied"
    )
    assert row == {
        "service": "sendmail", "kind": "rejected", "queue_id": "7AM24kXx000123", "client_ip": "198.51.100.9", "recipient": "u@x.example",
        "dsn": "5.7.1", "reply": "<u@x.example>... Relaying denied", "reply_code": 550, "action": "reject", "stage": "check_rcpt",
    }  # fmt: skip
    row = one(SM + "AUTH failure (LOGIN): authentication failure (-13) SASL(-13): checkpass failed, user=bob, relay=[198.51.100.9]")
    assert (row["kind"], row["client_ip"], row["sasl_username"], row["sasl_method"]) == ("auth_failed", "198.51.100.9", "bob", "LOGIN")
    assert one(SM + "AUTH failure (LOGIN): generic failure (-1) x, relay=[198.51.100.9]")["kind"] == "warning"
    row = one(SM + "7AM24kXx000123: [198.51.100.9] did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA")
    assert (row["kind"], row["client_ip"]) == ("disconnect", "198.51.100.9")


def test_sendmail_local_and_unknown_lines():
    text = SM + "7AM24kXx000123: from=root, size=3, class=0, nrcpts=1, msgid=<x@y>, relay=root@localhost"
    assert [(row["kind"], row["sender"]) for row in parsed(text)] == [("picked_up", "root"), ("queued", "root")]
    assert kinds(SM + "7AM24kXx000123: 7AM24kXx000124: DSN: User unknown") == ["bounce_notice"]
    assert kinds(SM + "starting daemon (8.17.1): SMTP+queueing@00:10:00") == ["other"]
    assert kinds("<22>1 2026-11-22T02:04:46Z mx sm-mta 9 - - AUTH=server, relay=[192.0.2.1], mech=PLAIN, authid=a, bits=0") == [
        "auth_success"
    ]


@pytest.mark.parametrize(
    ("sender", "nrcpt"),
    [
        ('<"x>, size=1, class=0, nrcpts=999, relay=v [203.0.113.9]"@e.example>', 3),
        ("<x@e.example(>, size=1, class=0, nrcpts=999)>", 3),
        ('<"unclosed>', 3),
        ("<>", 3),
    ],
)
@pytest.mark.parametrize("message_id", ["<a@b>", "x, size=1, class=0, nrcpts=999, relay=v [203.0.113.9]"])
def test_sendmail_sender_and_message_id_forge_nothing(sender, nrcpt, message_id):
    found = parsed(
        SM
        + f"7AM24kXx000123: from={sender}, size=10, class=0, nrcpts={nrcpt}, msgid={message_id}, proto=ESMTP, daemon=MTA, relay=[198.51.100.7]"
    )
    assert [row["client_ip"] for row in found] == ["198.51.100.7"] * 2
    assert found[1]["nrcpt"] in (nrcpt, 999 if "unclosed" in sender else nrcpt)
    assert found[1]["size"] == 10


@pytest.mark.parametrize(
    "text",
    [
        'ruleset=check_rcpt, arg1=<"a>, relay=v [203.0.113.9], reject=550 "@e.example>, relay=[198.51.100.7], reject=550 5.7.1 no, relay=v [203.0.113.9]',
        "AUTH failure (LOGIN): failed, user=x, relay=v [203.0.113.9], relay=[198.51.100.7]",
        "7AM24kXx000123: [198.51.100.7] did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA",
    ],
)
def test_sendmail_client_is_the_client(text):
    assert one(SM + text)["client_ip"] == "198.51.100.7"


def test_sendmail_recipient_forges_no_delivery():
    row = one(
        SM + '7AM24kXx000123: to=<"a, delay=00:00:09, relay=v [203.0.113.9], dsn=2.0.0, stat=Sent ("@e.example>, delay=00:00:01, '
        "relay=mx. [192.0.2.1], dsn=5.1.1, stat=User unknown"
    )
    assert (row["delay"], row["relay_ip"], row["status"]) == (1.0, "192.0.2.1", "bounced")


# --- exim ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue_id", [ID, "1abcDE-00000000123-4Fab"])
@pytest.mark.parametrize(
    ("header", "time"),
    [
        (EXIM, "02:04:46"),
        (EXIM + "+01:00 ", "01:04:46"),
        (EXIM + "+0100 [77] ", "01:04:46"),
        ("2026-11-22 02:04:46.500 ", "02:04:46"),
        ("Nov 22 02:04:46 mx exim[77]: ", "02:04:46"),
        (f"Nov 22 02:04:46 mx exim4[77]: {EXIM}", "02:04:46"),
    ],
)
def test_exim_accepts_a_message_of_a_login(header, time, queue_id):
    found = rows(
        f"{header}{queue_id} <= info@example.com H=pc.example (pc) [198.51.100.7]:4711 I=[192.0.2.5]:587 P=esmtpsa X=TLS1.3:x:256 "
        'CV=no SNI="mx.example" A=login:info@example.com S=1234 id=x@y T="Hi \\" for a@b.c" from <info@example.com> '
        'for a@x.example "b c"@x.example'.encode()
    )
    moments = [row.pop("time") // 1_000_000 % 86400 for row in found]
    hours, minutes, seconds = map(int, time.split(":"))
    assert moments == [(hours * 60 + minutes) * 60 + seconds] * 2
    found = [{name: value for name, value in row.items() if name not in ("host", "syslog_name", "pid")} for row in found]
    origin = {"service": "exim", "queue_id": queue_id, "client_ip": "198.51.100.7", "sasl_username": "info@example.com"}
    assert found == [
        {**origin, "kind": "accepted", "client_name": "pc.example", "client_port": 4711, "sasl_method": "login", "helo": "pc"},
        {**origin, "kind": "queued", "sender": "info@example.com", "nrcpt": 2, "size": 1234, "message_id": "x@y"},
    ]


def test_exim_deliveries():
    good = one(
        f'{EXIM}{ID} => a@x.example R=dnslookup T=remote_smtp H=mx.x.example [192.0.2.1]:25 X=T CV=yes C="250 2.0.0 OK" QT=1m2.5s DT=1s'
    )
    assert good == {
        "service": "exim", "kind": "delivery", "queue_id": ID, "recipient": "a@x.example", "relay_host": "mx.x.example", "relay_ip": "192.0.2.1",
        "relay_port": 25, "delay": 62.5, "dsn": "2.0.0", "status": "sent", "reply": "250 2.0.0 OK", "reply_code": 250,
    }  # fmt: skip
    local = one(f"{EXIM}{ID} => marv <marv@example.com> R=localuser T=local_delivery")
    assert (local["recipient"], local["status"]) == ("marv@example.com", "sent")
    pipe = one(f"{EXIM}{ID} => |/usr/bin/x -f y <list@example.com> R=system_aliases T=address_pipe")
    assert (pipe["recipient"], pipe["status"]) == ("list@example.com", "sent")
    alias = one(f"{EXIM}{ID} -> a@x.example <b@example.com> R=dnslookup T=remote_smtp H=mx [192.0.2.1]")
    assert (alias["recipient"], alias["orig_to"]) == ("a@x.example", "b@example.com")


@pytest.mark.parametrize(
    ("text", "status", "reply", "code", "ip"),
    [
        (
            "** a@x.example R=r T=t H=mx [192.0.2.1] X=T: SMTP error from remote mail server after RCPT TO:<a@x.example>: 550-5.7.1 no\\n550 x",
            "bounced", "550-5.7.1 no\\n550 x", 550, "192.0.2.1",
        ),
        (
            "== a@x.example R=r T=t defer (-44): SMTP error from remote mail server after RCPT TO:<a@x.example>: host mx [192.0.2.1]: 450 4.3.2 wait",
            "deferred", "450 4.3.2 wait", 450, "192.0.2.1",
        ),
        (
            "== a@x.example R=r T=t defer (-45) H=mx [192.0.2.1]: SMTP error from remote mail server after initial connection: 421 4.7.0 blocked",
            "deferred", "421 4.7.0 blocked", 421, "192.0.2.1",
        ),
        ("== a@x.example R=r T=t defer (110): Connection timed out", "deferred", "Connection timed out", None, None),
        ("** a@x.example: Unrouteable address", "bounced", "Unrouteable address", None, None),
        ("** a@x.example <b@example.com>: Unrouteable address", "bounced", "Unrouteable address", None, None),
    ],
)  # fmt: skip
def test_exim_refused_deliveries(text, status, reply, code, ip):
    row = one(f"{EXIM}{ID} {text}")
    assert (row["recipient"], row["status"], row["reply"]) == ("a@x.example", status, reply)
    assert (row.get("reply_code"), row.get("relay_ip")) == (code, ip)


def test_exim_message_from_beginning_to_end():
    found = parsed(
        f"{ARRIVED}\n{EXIM}{ID} => b@x.example R=r T=t H=mx [192.0.2.1]\n{EXIM}{ID} Completed\n{EXIM}{ID} => c@x.example R=r T=t\n"
    )
    assert [row["kind"] for row in found] == ["accepted", "queued", "delivery", "removed", "delivery"]
    assert [row.get("sasl_username") for row in found] == ["a@example.com"] * 4 + [None]


def test_exim_refusals():
    row = one(
        f"{EXIM}H=(x) [198.51.100.7]:1 I=[192.0.2.5]:25 X=T CV=no F=<s@e.example> A=login:bob temporarily rejected RCPT <u@x.example>: wait"
    )
    assert row == {
        "service": "exim", "kind": "rejected", "client_ip": "198.51.100.7", "client_port": 1, "sasl_method": "login", "sasl_username": "bob",
        "sender": "s@e.example", "recipient": "u@x.example", "reply": "wait", "action": "reject", "stage": "RCPT", "helo": "x",
    }  # fmt: skip
    row = one(f'{EXIM}H=a.example [198.51.100.7]:1 rejected connection in "connect" ACL: "too many"')
    assert (row["kind"], row["stage"], row["reply"]) == ("rejected", "connection", '"too many"')
    row = one(f"{EXIM}{ID} H=a.example [198.51.100.7] F=<> rejected after DATA: spam")
    assert (row["queue_id"], row["sender"], row["stage"]) == (ID, "", "DATA")
    row = one(
        f"{EXIM}login authenticator failed for a.example ([10.0.0.1]) [198.51.100.7]:22: 535 Incorrect authentication data (set_id=bob)"
    )
    assert row == {
        "service": "exim", "kind": "auth_failed", "client_name": "a.example", "client_ip": "198.51.100.7", "client_port": 22, "sasl_method": "login",
        "sasl_username": "bob", "reply": "Incorrect authentication data", "reply_code": 535, "helo": "[10.0.0.1]",
    }  # fmt: skip
    row = one(f"{EXIM}H=a.example [198.51.100.7]:1 sender verify fail for <s@e.example>: no such sender")
    assert (row["kind"], row["client_ip"], row["sender"], row["action"]) == ("warning", "198.51.100.7", "s@e.example", "sender verify fail")
    assert kinds(f"{EXIM}login authenticator failed for (x) [198.51.100.7]: 435 Internal error: return 3") == ["warning"]
    assert kinds(f"{EXIM}{ID} H=mx.example [192.0.2.1] Connection timed out") == ["connect_failed"]


IMITATION = f"x) [203.0.113.9]: 535 Incorrect authentication data (set_id={VICTIM}"


@pytest.mark.parametrize(
    "text",
    [
        # In default exim a helo name has no blank; where it may have, brackets in it are text.
        f"{ID} <= a@e.example H=(x [203.0.113.9]) [198.51.100.7] P=esmtp S=12",
        f"{ID} <= a@e.example H=(x A=login:{VICTIM}) [198.51.100.7] P=esmtp S=12",
        f'{ID} <= "a H=v [203.0.113.9] P=esmtpa A=login:{VICTIM} S=1"@e.example H=(x) [198.51.100.7] P=esmtp S=12',
        f"{ID} <= a@e.example H=(x) [198.51.100.7] P=esmtp S=12 id=x A=login:{VICTIM} H=v [203.0.113.9]",
        f'{ID} <= a@e.example H=(x) [198.51.100.7] P=esmtp S=12 id=x T="y) [203.0.113.9] P=esmtpa A=login:{VICTIM} S=1"',
        f'{ID} <= a@e.example H=(x) [198.51.100.7] P=esmtps DN="CN=x" A=login:{VICTIM} S=1 id="y" S=12',
        f'{ID} <= a@e.example H=(x) [198.51.100.7] P=esmtps DN="CN=x A=login:{VICTIM}" S=12',
        f'{ID} <= a@e.example H=(x) [198.51.100.7] P=esmtps SNI="x" A=login:{VICTIM} K y" S=12',
        f"{ID} <= a@e.example H=(x) [198.51.100.7] U=x P=esmtpa A=login:{VICTIM} S=1 id=y P=esmtp S=12",
        f'H=(x) [198.51.100.7]:1 F=<"x> A=login:{VICTIM} rejected RCPT <q"@e.example> rejected RCPT <u@x.example>: no',
        f'H=(x) [198.51.100.7]:1 DN="x" F=<> A=login:{VICTIM} rejected RCPT <u@x.example>: no',
        "H=(fake [203.0.113.9]) [198.51.100.7]:1 F=<a@e.example> rejected RCPT <u@x.example>: no",
        "login authenticator failed for (x [203.0.113.9]) [198.51.100.7]: 535 Incorrect authentication data",
    ],
)  # fmt: skip
def test_exim_text_forges_neither_client_nor_login(text):
    found = parsed(EXIM + text)
    assert found
    for row in found:
        assert row["client_ip"] == "198.51.100.7"
        assert row.get("sasl_username") is None


def test_exim_set_id_forges_no_client():
    row = one(f"{EXIM}login authenticator failed for (x) [198.51.100.7]: 535 Incorrect authentication data (set_id={IMITATION})")
    assert (row["client_ip"], row["sasl_username"]) == ("198.51.100.7", IMITATION)


def test_exim_helo_that_is_no_host_name_and_no_place_for_the_address():
    found = parsed(f"{EXIM}{ID} <= a@e.example H=(x y) [203.0.113.9] P=esmtpa A=login:{VICTIM} S=1 id=(z) [198.51.100.7] P=esmtp S=12")
    assert [row["kind"] for row in found] == ["accepted", "queued"]
    assert not any("client_ip" in row or "sasl_username" in row for row in found)


@pytest.mark.parametrize(
    ("tail", "nrcpt"),
    [
        (" id=x for a@x.example b@x.example", 2),
        (' id=x for "a for b"@x.example b@x.example', 2),
        (' T="money for you@home for a@b"', None),
        (' T="x" for a@x.example', 1),
        (" id=x", None),
        (" id=<x for nobody>", None),
    ],
)
def test_exim_recipients(tail, nrcpt):
    found = parsed(f"{EXIM}{ID} <= a@e.example H=(x) [198.51.100.7] P=esmtp S=12{tail}")
    assert found[1].get("nrcpt") == nrcpt


def test_exim_helo_is_no_postfix_line():
    text = f"H=(x postfix/smtpd[1]: 4A00000001: client=unknown[203.0.113.9], sasl_method=LOGIN, sasl_username={VICTIM}) [198.51.100.7] rejected MAIL"
    for row in parsed(EXIM + text):
        assert row.get("sasl_username") is None
        assert row.get("client_ip") in (None, "198.51.100.7")


@pytest.mark.parametrize(
    "text", ["cwd=/var/spool/exim4 3 args: exim", "Start queue run: pid=1", "exim 4.96 daemon started: pid=1", f"{ID} Frozen"]
)
def test_exim_says_nothing_to_us(text):
    assert kinds(EXIM + text) == ["other"]


@pytest.mark.parametrize("text", ["mx sshd[1]: x", "some other program", "", "kernel: H=(x) [192.0.2.1] rejected RCPT"])
def test_not_exim(text):
    assert kinds(EXIM + text + "\n") == ["unparsed"]


# --- qmail ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [TAI, "Nov 22 02:04:46 mx qmail: 1795313086.123456 "])
def test_qmail(header):
    found = parsed(
        f"{header}new msg 12\n{header}info msg 12: bytes 900 from <a> b@b.example> qp 55 uid 33\n{header}starting delivery 1: msg 12 to remote u@x.example\n"
        f"{header}delivery 1: failure: 192.0.2.1_does_not_like_recipient./Remote_host_said:_550_no/\n{header}end msg 12\n{header}status: local 0/10 remote 0/20\n"
    )
    whose = {"service": "qmail", "queue_id": "12", "sender": "a> b@b.example"}
    assert found == [
        {"service": "qmail", "kind": "other"},
        {**whose, "kind": "picked_up", "uid": 33},
        {**whose, "kind": "queued", "size": 900},
        {**whose, "kind": "other", "recipient": "u@x.example"},
        {"service": "qmail", "kind": "delivery", "relay_ip": "192.0.2.1", "status": "bounced", "reply": "550_no/", "reply_code": 550},
        {**whose, "kind": "removed"},
        {"service": "qmail", "kind": "other"},
    ]


def test_tai64n():
    # 2026-09-21T23:50:33.305441229Z
    assert rows(TAI.encode() + b"end msg 1")[0]["time"] == 1_790_034_633_305_441
    for stamp in ("@400000006ab1c2d3ffffffff ", "@4fffffffffffffff00000000 ", "@400000006ab1c2d31234abc ", "@x", "@"):
        assert [row["kind"] for row in rows(stamp.encode() + b"end msg 1")] == ["unparsed"]


# --- all -----------------------------------------------------------------------------------------------------------------------------------

LINES = {
    "postfix": "Nov 22 02:04:46 mx postfix/smtpd[1]: connect from a[192.0.2.1]",
    "sendmail": SM + "NOQUEUE: connect from [192.0.2.1]",
    "exim": f"{EXIM}{ID} Completed",
    "qmail": TAI + "end msg 12",
}


@pytest.mark.parametrize("dialect", ["auto", *LINES])
def test_only_one_dialect(dialect):
    data = "\n".join(LINES.values()).encode()
    batch = Scanner(LogClock(year=2026), dialect=dialect).scan(Chunk(data, "", "", 0, len(data)))
    assert len(batch) == (len(LINES) if dialect == "auto" else 1)
    if dialect != "auto":
        assert batch.line(0).decode() == LINES[dialect]


def test_service_names_of_others_are_not_postfix_daemons():
    for tag in ("postfix/exim", "postfix/qmail", "x/exim"):
        assert {row.get("service") for row in rows(f"Nov 22 02:04:46 mx {tag}[1]: 4A00000001: removed".encode())} <= {
            None,
            tag.split("/")[1],
        }
        assert kinds(f"Nov 22 02:04:46 mx {tag}[1]: 4A00000001: removed") in (["other"], ["unparsed"])


_PIECES = (
    *('"', "<", ">", "(", ")", "[", "]", ",", ":", " ", "\\", "=", "a", "@", "é", "\u2028", "\0"), " [203.0.113.9]", ") [203.0.113.9]:1", " P=esmtpa",
    f" A=login:{VICTIM}", " S=1", " id=x", ' T="', " for a@b", f", authid={VICTIM}", ", relay=v [203.0.113.9]", ", size=1, class=0, nrcpts=9",
    ", delay=00:00:01", ", dsn=2.0.0", ", stat=Sent (", ", reject=550 ", f" (set_id={VICTIM})", " rejected RCPT <", " C=\"", ": SMTP error",
)  # fmt: skip
_FRAMES = (
    (SM, "7AM24kXx000123: from=<{}>, size=9, class=0, nrcpts=1, msgid={}, relay=[198.51.100.7]"),
    (SM, "7AM24kXx000123: to={},<{}>, ctladdr={} (1/1), delay=00:00:01, relay=mx. [192.0.2.1], dsn=2.0.0, stat=Sent ({})"),
    (SM, "7AM24kXx000123: ruleset=check_mail, arg1=<{}>, relay=[198.51.100.7], reject=550 {}"),
    (SM, "AUTH failure (LOGIN): {}, user={}, relay=[198.51.100.7]"),
    (SM, "AUTH=server, relay=[198.51.100.7], mech=LOGIN, authid={}, bits=0"),
    (SM, "{}"),
    (EXIM, ID + " <= {} H={} ({}) [198.51.100.7] P=esmtps S=9 id={}"),
    (EXIM, ID + " => {} <{}> R=r T=t H=mx [192.0.2.1] C=\"{}\""),
    (EXIM, ID + " == {} R=r T=t defer (-44): SMTP error from remote mail server after {}: {}"),
    (EXIM, "H=({}) [198.51.100.7] F=<{}> rejected RCPT <{}>: {}"),
    (EXIM, "login authenticator failed for ({}) [198.51.100.7]: 535 Incorrect authentication data (set_id={})"),
    (EXIM, "{}"),
    (TAI, "info msg 1: bytes 9 from <{}> qp 1 uid 1"),
    (TAI, "delivery 1: failure: {}"),
    ("Nov 22 02:04:46 mx exim[1]: ", "{}"),
)  # fmt: skip


@st.composite
def hostile(draw):
    header, frame = draw(st.sampled_from(_FRAMES))
    texts = st.lists(st.sampled_from(_PIECES), max_size=6).map("".join)
    line = header + frame.format(*[draw(texts) for _ in range(frame.count("{}"))])
    cut = draw(st.integers(0, len(line) * 3))
    return line[:cut].encode()


@given(hostile())
@example((SM + "7AM24kXx000123: to=" + "<" * 30_000).encode())
@example((SM + "7AM24kXx000123: from=<" + '"("' * 20_000).encode())
@example((EXIM + ID + " <= " + '"' * 60_000).encode())
@example((EXIM + ID + " <= a@b H=(" + ") [1.2.3.4]" * 5_000).encode())
@example((EXIM + "H=(" + "(" * 60_000).encode())
@example((EXIM + ID + " => a@b" + " <" * 30_000).encode())
def test_hostile_lines(line):
    found = rows(line)
    for row in found:
        assert set(row) <= set(COLUMNS)
        assert row["kind"] == "unparsed" or row.get("service") in (None, *SERVICES) or b"/" in line


@given(
    st.binary(max_size=300), st.sampled_from([SM, EXIM, TAI, EXIM + ID + " <= ", SM + "7AM24kXx000123: ", "Nov 22 02:04:46 mx exim[1]: "])
)
def test_any_bytes(junk, header):
    rows(header.encode() + junk)


def test_snapshot_within_a_session():
    login = (SM + "AUTH=server, relay=[198.51.100.7], mech=LOGIN, authid=info, bits=0\n").encode()
    mail = (SM + "7AM24kXx000123: from=<a@b>, size=9, class=0, nrcpts=1, relay=[198.51.100.7]\n").encode()
    first = make_engine((), year=2026)
    first.feed(login)
    second = make_engine((), year=2026)
    assert second.restore(first.snapshot())
    batch = second.feed(mail).events
    assert batch is not None
    assert batch.row(0)["sasl_username"] == "info"


def fired(log):
    engine = make_engine(load_rules(), year=2026)
    return {(found.rule, json.dumps(found.subject, sort_keys=True)): found for found in engine.feed(log.encode()).detections}


def test_a_cracked_account_of_sendmail():
    log = ""
    for i in range(5):
        log += f"Nov 22 02:0{i}:01 mx sm-mta[{100 + i}]: AUTH=server, relay=[198.51.100.{i}], mech=LOGIN, authid=info@example.com, bits=0\n"
        log += (
            f"Nov 22 02:0{i}:02 mx sm-mta[{100 + i}]: 7AM24kXx00000{i}: from=<info@example.com>, size=900, class=0, nrcpts=50, msgid=<{i}@x>, "
            f"proto=ESMTPSA, daemon=MTA, relay=[198.51.100.{i}]\n"
        )
    log += (
        "Nov 22 02:06:00 mx sm-mta[300]: 7AM24kXx000001: to=<u@example.net>, ctladdr=<info@example.com> (1/1), delay=00:05:00, xdelay=00:00:01, "
        "mailer=esmtp, pri=1, relay=mx.example.net. [192.0.2.1], dsn=4.7.0, stat=Deferred: 421 4.7.1 [TS03] All messages from 192.0.2.9 will be "
        "permanently deferred; Retrying will NOT succeed. See http://postmaster.yahoo.com/421-ts03.html\n"
    )
    found = fired(log)
    burst = found["outbound-burst-account", '{"sasl_username": "info@example.com"}']
    assert burst.value >= 200
    assert {"198.51.100.3", "198.51.100.2"} <= set(burst.related["client_ips"])
    block = found["remote-block", '{"blocked_ip": "192.0.2.9", "host": "mx", "provider": "yahoo"}']
    assert block.related["client_ips"] == ["198.51.100.1"]


def test_a_cracked_account_of_exim():
    everybody = " ".join(f"u{i}@example.net" for i in range(50))
    log = "".join(
        f"2026-11-22 02:0{i}:02 1abcDE-00000{i}-4F <= info@example.com H=(x) [198.51.100.{i}]:99 P=esmtpsa X=T CV=no A=login:info@example.com S=900 "
        f"id={i}@x for {everybody}\n"
        for i in range(5)
    )
    log += (
        "2026-11-22 02:06:00 1abcDE-000001-4F == u@example.net R=dnslookup T=remote_smtp defer (-45) H=mx.example.net [192.0.2.1]: SMTP error from "
        "remote mail server after initial connection: 421 4.7.1 [TS03] All messages from 192.0.2.9 will be permanently deferred; Retrying will "
        "NOT succeed. See http://postmaster.yahoo.com/421-ts03.html\n"
    )
    found = fired(log)
    burst = found["outbound-burst-account", '{"sasl_username": "info@example.com"}']
    assert burst.value >= 200
    assert {"198.51.100.3", "198.51.100.2"} <= set(burst.related["client_ips"])
    # The log of exim itself names no host.
    block = found["remote-block", '{"blocked_ip": "192.0.2.9", "provider": "yahoo"}']
    assert block.related["client_ips"] == ["198.51.100.1"]
