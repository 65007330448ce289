"""smtpd, pickup and cleanup: every template of theirs, plain and with what an attacker would write into it (``COVERAGE.md``)."""

import pytest
from helpers import STAMP, row, rows

from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock

C = "unknown[198.51.100.7]"
CLIENT = {"client_name": "unknown", "client_ip": "198.51.100.7"}
VICTIM = "alice@corp.example"
LIE = "mx.evil.example[203.0.113.99]"
TAIL = "from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<pc.example.net>"
ENVELOPE = {"sender": "a@example.net", "recipient": "b@example.com", "helo": "pc.example.net"}
BROKEN_OFF = ("lost connection", "timeout", "too many errors")
STAGES = (
    *(
        "CONNECT",
        "HELO",
        "EHLO",
        "MAIL",
        "RCPT",
        "DATA",
        "BDAT",
        "VRFY",
        "ETRN",
        "END-OF-MESSAGE",
        "STARTTLS",
        "AUTH",
        "RSET",
        "NOOP",
        "UNKNOWN",
    ),
)


def smtpd(text):
    return only(text, "smtpd")


def cleanup(text):
    return only(text, "cleanup")


def only(text, service):
    found = row(text, f"postfix/{service}[4202]")
    assert found.pop("service") == service
    return found


def nowhere(found, *values):
    """None of the values stands in a field of a row as if it were one."""
    for value in values:
        assert value not in found.values(), found
    return found


# smtpd: connections


def test_connect():
    assert smtpd(f"connect from {C}") == {"kind": "connect", **CLIENT}
    assert smtpd(f"connect from {C}:51234") == {"kind": "connect", **CLIENT, "client_port": 51234}
    assert smtpd("connect from unknown[unknown]:unknown") == {"kind": "connect", "client_name": "unknown"}


def test_disconnect():
    assert smtpd(f"disconnect from {C}") == {"kind": "disconnect", **CLIENT}


@pytest.mark.parametrize(
    "statistics",
    [
        "ehlo=1 auth=0/3 commands=1/4",
        "helo=1 mail=1 rcpt=0/1 quit=1 unknown=0/1 commands=3/5 notes=bare_lf",
        "ehlo=2 starttls=1 auth=2/3 bdat=1 help=1 commands=6/7",
        "commands=0/0",
    ],
)
def test_disconnect_statistics(statistics):
    assert smtpd(f"disconnect from {C} {statistics}") == {"kind": "disconnect", **CLIENT}


@pytest.mark.parametrize(
    "text",
    [
        "hostname mail.example.net does not resolve to address 198.51.100.7",
        "hostname mail.example.net does not resolve to address 198.51.100.7: Name or service not known",
        "198.51.100.7: address not listed for hostname mail.example.net",
        "198.51.100.7: hostname mail.example.net verification failed: Name or service not known",
        "smtpd_peer_init: 198.51.100.7: hostname mail.example.net verification failed: Name or service not known",
    ],
)
def test_hostname_does_not_resolve(text):
    """The name is what has just been found to be untrue, so it is no client_name."""
    assert smtpd(f"warning: {text}") == {"kind": "warning", "client_ip": "198.51.100.7", "action": "warning", "reply": text}


def test_hostname_that_imitates_an_address():
    text = "hostname 203.0.113.99.dynamic.example does not resolve to address 2001:db8::7: No address associated with hostname"
    assert smtpd(f"warning: {text}")["client_ip"] == "2001:db8::7"
    assert "client_ip" not in smtpd("warning: evil.example: address not listed for hostname 203.0.113.99")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", BROKEN_OFF)
def test_broken_off(what, stage):
    expected = {"kind": "other", **CLIENT, "action": what, "stage": stage}
    assert smtpd(f"{what} after {stage} from {C}") == expected
    assert smtpd(f"4A00000001: {what} after {stage} from {C}") == {"queue_id": "4A00000001", **expected}
    assert smtpd(f"NOQUEUE: {what} after {stage} from {C}") == expected


@pytest.mark.parametrize("size", ["0 bytes", "approximately 0 bytes", "494133 bytes"])
def test_broken_off_with_size(size):
    expected = {"kind": "other", **CLIENT, "action": "timeout", "stage": "DATA"}
    assert smtpd(f"timeout after DATA ({size}) from {C}") == expected
    assert smtpd(f"4A00000001: timeout after DATA ({size}) from {C}") == {"queue_id": "4A00000001", **expected}


def test_broken_off_without_a_client_is_not_read_as_one():
    found = smtpd(f"lost connection after text of nobody from {C}")
    assert found == {"kind": "other"}


@pytest.mark.parametrize(
    "limit",
    [
        "Connection concurrency",
        "Connection rate",
        "Message delivery request rate",
        "Recipient address rate",
        "New TLS session rate",
        "AUTH command rate",
    ],
)
@pytest.mark.parametrize("service", ["smtp", "smtpd", "submission", "25", "127.0.0.1:2525"])
def test_anvil_limit(limit, service):
    text = f"{limit} limit exceeded: 51 from {C} for service {service}"
    assert smtpd(f"warning: {text}") == {"kind": "warning", **CLIENT, "action": "warning", "reply": text}


def test_anvil_limit_takes_the_last_client():
    text = f"Connection rate limit exceeded: 9 from {LIE} for service x from {C} for service smtp"
    assert nowhere(smtpd(f"warning: {text}"), "203.0.113.99")["client_ip"] == "198.51.100.7"


# smtpd: what the client says wrong


def test_non_smtp_command():
    text = f"non-SMTP command from {C}: GET / HTTP/1.1"
    assert smtpd(f"warning: {text}") == {"kind": "warning", **CLIENT, "action": "warning", "reply": text}


def test_non_smtp_command_that_imitates_a_client():
    text = f"non-SMTP command from {C}: Subject: x from {LIE}: SASL LOGIN authentication failed: no, sasl_username={VICTIM}"
    assert smtpd(f"warning: {text}") == {"kind": "warning", **CLIENT, "action": "warning", "reply": text}


def test_message_header_instead_of_a_command():
    text = f"{C} sent message header instead of SMTP command: From: {LIE}"
    assert nowhere(smtpd(f"warning: {text}"), "203.0.113.99") == {"kind": "warning", "action": "warning", "reply": text}


def test_warning_that_begins_with_the_client():
    text = f"{C}: request longer than 2048: MAIL FROM:<{LIE}: SASL x"
    assert nowhere(smtpd(f"warning: {text}"), "203.0.113.99") == {"kind": "warning", **CLIENT, "action": "warning", "reply": text}


@pytest.mark.parametrize("stage", ["MAIL", "RCPT"])
def test_illegal_address_syntax(stage):
    text = f"Illegal address syntax from {C} in {stage} command: <a@b c>"
    assert smtpd(f"warning: {text}") == {"kind": "warning", **CLIENT, "action": "warning", "stage": stage, "reply": text}


def test_illegal_address_that_imitates_a_client():
    text = f"Illegal address syntax from {C} in MAIL command: <x from {LIE} in RCPT command: y>"
    found = nowhere(smtpd(f"warning: {text}"), "203.0.113.99")
    assert (found["client_ip"], found["stage"]) == ("198.51.100.7", "MAIL")


def test_improper_pipelining():
    expected = {"kind": "other", **CLIENT, "action": "improper command pipelining", "stage": "CONNECT"}
    assert smtpd(f"improper command pipelining after CONNECT from {C}: GET / HTTP/1.1\\r\\nHost: x\\r\\n") == expected
    assert smtpd(f"improper command pipelining after CONNECT from {C}") == expected


def test_improper_pipelining_that_imitates_a_client():
    found = smtpd(f"improper command pipelining after DATA from {C}: x after RCPT from {LIE}: y, sasl_username={VICTIM}")
    assert found == {"kind": "other", **CLIENT, "action": "improper command pipelining", "stage": "DATA"}


def test_bare_lf():
    assert smtpd(f"4A00000001: reject: DATA from {C}: bare <LF> received; {TAIL}") == {
        "kind": "rejected",
        "queue_id": "4A00000001",
        **CLIENT,
        "action": "reject",
        "stage": "DATA",
        "reply": "bare <LF> received",
        **ENVELOPE,
    }
    assert smtpd(f"bare <LF> received after DATA from {C}") == {
        "kind": "other",
        **CLIENT,
        "action": "bare <LF> received",
        "stage": "DATA",
    }


# smtpd: TLS


@pytest.mark.parametrize("level", ["", "Anonymous ", "Untrusted ", "Trusted ", "Verified "])
@pytest.mark.parametrize("to", ["", " to mx.example.com"])
def test_tls_established(level, to):
    text = f"{level}TLS connection established from {C}{to}: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519"
    assert smtpd(text) == {"kind": "other", **CLIENT}


@pytest.mark.parametrize("why", ["-1", "0", "lost connection", "Connection reset by peer"])
def test_tls_error(why):
    assert smtpd(f"SSL_accept error from {C}: {why}") == {"kind": "other", **CLIENT, "reply": why}


def test_tls_library_problem_has_no_client():
    text = "TLS library problem: error:0A00010B:SSL routines::wrong version number:../ssl/record/ssl3_record.c:350:"
    assert smtpd(f"warning: {text}") == {"kind": "warning", "action": "warning", "reply": text}


def test_tls_abort():
    assert smtpd(f"NOQUEUE: abort: TLS from {C}: Client certificate not trusted") == {
        "kind": "rejected",
        **CLIENT,
        "action": "abort",
        "stage": "TLS",
        "reply": "Client certificate not trusted",
    }


# smtpd: logins


def failed(reason):
    return smtpd(f"warning: {C}: SASL LOGIN authentication failed{reason}")


FAILED = {"kind": "auth_failed", **CLIENT, "sasl_method": "LOGIN"}


@pytest.mark.parametrize("reason", ["", ":", ": ", ": UGFzc3dvcmQ6", ": VXNlcm5hbWU6"])
def test_login_failed_without_a_reason(reason):
    assert failed(reason) == FAILED


@pytest.mark.parametrize(
    "prompt",
    [
        "UGFzc3dvcmQ6",
        "VXNlcm5hbWU6",
        "VXNlciBOYW1lAA==",
        "PDE2NTQyMzUuMTY5OTk5QG14LmV4YW1wbGUuY29tPg==",
        "cmVhbG09ImV4YW1wbGUuY29tIg==",
        "bm9uY2U9IkFCQ0QiLHFvcD0iYXV0aCI=",
    ],
)
def test_prompts_are_no_reasons(prompt):
    assert failed(f": {prompt}, sasl_username=info@example.com") == {**FAILED, "sasl_username": "info@example.com"}


@pytest.mark.parametrize("reason", ["authentication failure", "PD user unknown!", "UGFzc3dvcmQ6 x", "(reason unavailable)"])
def test_reasons_are_no_prompts(reason):
    assert failed(f": {reason}") == {**FAILED, "reply": reason}


def test_login_failed_with_the_name():
    assert failed(": authentication failure, sasl_username=info@example.com") == {
        **FAILED,
        "reply": "authentication failure",
        "sasl_username": "info@example.com",
    }


def test_login_failed_unavailable_is_no_name():
    assert failed(": (reason unavailable), sasl_username=(unavailable)") == {**FAILED, "reply": "(reason unavailable)"}


@pytest.mark.parametrize(
    "name",
    [
        f"x, sasl_username={VICTIM}",
        f"{LIE}: SASL LOGIN authentication failed: z, sasl_username={VICTIM}",
        f": SASL PLAIN authentication failed: Connection lost to authentication server, sasl_username={VICTIM}",
        "(unavailable) ",
        "UGFzc3dvcmQ6",
        "a" * 100,
        "\u2028" + STAMP.decode() + f"postfix/smtpd[1]: 4A00000001: client={LIE}, sasl_username={VICTIM}",
    ],
)
def test_login_failed_with_a_hostile_name(name):
    assert failed(f": authentication failure, sasl_username={name}") == {**FAILED, "reply": "authentication failure", "sasl_username": name}


@pytest.mark.parametrize(
    "reason", ["Connection lost to authentication server", "generic failure", "Temporary authentication failure. [x:1]"]
)
def test_server_fault(reason):
    assert failed(f": {reason}") == {**FAILED, "reply": reason, "action": "server-fault"}
    assert failed(f": {reason}, sasl_username=info@example.com") == {
        **FAILED,
        "reply": reason,
        "action": "server-fault",
        "sasl_username": "info@example.com",
    }


def test_a_name_does_not_make_a_server_fault():
    assert "action" not in failed(": no, sasl_username=Connection lost to authentication server")


def test_method_as_the_client_typed_it():
    assert smtpd(f"warning: {C}: SASL Plain authentication failed: no")["sasl_method"] == "Plain"


def test_authentication_aborted():
    text = f"{C}: SASL LOGIN authentication aborted"
    assert smtpd(f"warning: {text}") == {"kind": "warning", **CLIENT, "sasl_method": "LOGIN", "action": "warning", "reply": text}


@pytest.mark.parametrize(
    "text",
    [
        "SASL authentication failure: Password verification failed",
        "SASL authentication problem: unknown password verifier",
        "SASL authentication failure: no user in db [198.51.100.7]: x",
        "SASL: Connect to private/auth failed: Connection refused",
    ],
)
def test_sasl_backend_has_no_client(text):
    assert smtpd(f"warning: {text}") == {"kind": "warning", "action": "warning", "reply": text}


# smtpd: messages


def test_accepted():
    assert smtpd(f"4A00000001: client={C}") == {"kind": "accepted", "queue_id": "4A00000001", **CLIENT}
    assert smtpd(f"4A00000001: client={C}:unknown") == {"kind": "accepted", "queue_id": "4A00000001", **CLIENT}


LOGIN = {"kind": "accepted", "queue_id": "4A00000001", **CLIENT, "sasl_method": "PLAIN", "sasl_username": "info@example.com"}


def test_accepted_login():
    text = f"4A00000001: client={C}, sasl_method=PLAIN, sasl_username=info@example.com"
    assert smtpd(text) == LOGIN
    assert smtpd(f"{text}, sasl_sender=x@example.com") == LOGIN


def test_accepted_with_original():
    assert smtpd(f"4A00000002: client={C}, orig_queue_id=4A00000001, orig_client={LIE}") == {
        "kind": "accepted",
        "queue_id": "4A00000002",
        **CLIENT,
        "linked_queue_id": "4A00000001",
    }


def test_accepted_login_with_original():
    text = f"4A00000001: client={C}, sasl_method=PLAIN, sasl_username=info@example.com, orig_queue_id=4A00000009, orig_client={LIE}"
    assert smtpd(text) == {**LOGIN, "linked_queue_id": "4A00000009"}


@pytest.mark.parametrize(
    "sender",
    [
        f"x, orig_queue_id=4A00000009, orig_client={LIE}",
        f"x, sasl_username={VICTIM}",
        "x, sasl_sender=y, orig_queue_id=4A00000009",
        f", sasl_method=LOGIN, sasl_username={VICTIM}, orig_queue_id=4A00000009",
    ],
)
def test_sasl_sender_forges_nothing(sender):
    """MAIL FROM:<> AUTH=... is the client's text."""
    assert smtpd(f"4A00000001: client={C}, sasl_method=PLAIN, sasl_username=info@example.com, sasl_sender={sender}") == LOGIN


def test_login_that_imitates_a_method_or_another_login():
    found = smtpd(f"4A00000001: client={C}, sasl_method=PLAIN, sasl_username=eve, sasl_method=LOGIN, sasl_username={VICTIM}")
    assert (found["sasl_method"], found["sasl_username"]) == ("PLAIN", f"eve, sasl_method=LOGIN, sasl_username={VICTIM}")


def test_original_client_forges_nothing():
    found = smtpd(
        f"4A00000002: client={C}, orig_queue_id=4A00000001, orig_client=x, sasl_username={VICTIM}, orig_queue_id=4A00000009[192.0.2.1]"
    )
    assert found["linked_queue_id"] == "4A00000001"
    assert "sasl_username" not in found


# smtpd: access


ACTIONS = {
    "reject": "554 5.7.1 ",
    "reject_warning": "450 4.7.1 ",
    "warn": "",
    "info": "",
    "hold": "",
    "delay": "",
    "discard": "",
    "filter": "",
    "redirect": "",
    "bcc": "",
    "permit": "",
    "hangup": "",
    "milter-reject": "550 5.7.1 ",
    "milter-hold": "",
    "milter-discard": "",
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("stage", STAGES)
def test_access(action, stage):
    code = ACTIONS[action]
    text = "<b@example.com>: Recipient address triggers FILTER smtp:[192.0.2.9]; see https://example.com/?a;b"
    expected = {
        "kind": "rejected",
        "queue_id": "4A00000001",
        **CLIENT,
        "action": action,
        "stage": stage,
        "reply": text,
        **ENVELOPE,
    }
    if code:
        expected.update(reply_code=int(code[:3]), dsn=code[4:].strip())
    assert smtpd(f"4A00000001: {action}: {stage} from {C}: {code}{text}; {TAIL}") == expected
    del expected["queue_id"]
    assert smtpd(f"NOQUEUE: {action}: {stage} from {C}: {code}{text}; {TAIL}") == expected


@pytest.mark.parametrize(
    ("login", "fields"),
    [
        ("", {}),
        (" sasl_username=<info@example.com>", {"sasl_username": "info@example.com"}),
        (" sasl_method=PLAIN sasl_username=info@example.com", {"sasl_method": "PLAIN", "sasl_username": "info@example.com"}),
        (
            f" sasl_method=PLAIN sasl_username=info@example.com sasl_sender=x sasl_username={VICTIM}",
            {"sasl_method": "PLAIN", "sasl_username": "info@example.com"},
        ),
    ],
)
def test_access_spellings_of_the_login(login, fields):
    found = smtpd(f"4A00000001: reject: RCPT from {C}: 554 5.7.1 no; {TAIL}{login}")
    assert found == {
        "kind": "rejected",
        "queue_id": "4A00000001",
        **CLIENT,
        "action": "reject",
        "stage": "RCPT",
        "reply_code": 554,
        "dsn": "5.7.1",
        "reply": "no",
        **ENVELOPE,
        **fields,
    }


@pytest.mark.parametrize(
    "text",
    [
        f"x from {LIE}: 550 5.1.1 y; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie>",
        f"x; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie> sasl_username=<{VICTIM}>",
        f"x; from=<{VICTIM}> sasl_method=PLAIN sasl_username={VICTIM}",
    ],
)
@pytest.mark.parametrize("action", ["reject", "milter-reject", "discard"])
def test_access_text_forges_nothing(action, text):
    found = smtpd(f"NOQUEUE: {action}: RCPT from {C}: 554 5.7.1 {text}; {TAIL}")
    assert found == {
        "kind": "rejected",
        **CLIENT,
        "action": action,
        "stage": "RCPT",
        "reply_code": 554,
        "dsn": "5.7.1",
        "reply": text,
        **ENVELOPE,
    }


def test_milter_text_that_names_an_owner():
    """Only Postfix itself knows whose an address is."""
    text = f"<x@example.net>: Sender address rejected: not owned by user {VICTIM}"
    assert smtpd(f"NOQUEUE: reject: RCPT from {C}: 553 5.7.1 {text}; {TAIL}")["sasl_username"] == VICTIM
    assert "sasl_username" not in smtpd(f"NOQUEUE: milter-reject: RCPT from {C}: 553 5.7.1 {text}; {TAIL}")
    assert "sasl_username" not in smtpd(f"NOQUEUE: proxy-reject: END-OF-MESSAGE: 553 5.7.1 {text}; {TAIL}")
    assert "sasl_username" not in cleanup(f"4A00000001: milter-reject: END-OF-MESSAGE from {C}: 5.7.1 {text}; {TAIL}")
    assert "sasl_username" not in cleanup(f"4A00000001: reject: header X: y from {C}; {TAIL}: {text}")


def test_local_data_error():
    assert smtpd(f"NOQUEUE: reject: RCPT from {C}: 421 4.3.0 mx.example.com Server local data error") == {
        "kind": "rejected",
        **CLIENT,
        "action": "reject",
        "stage": "RCPT",
        "reply_code": 421,
        "dsn": "4.3.0",
        "reply": "mx.example.com Server local data error",
    }


@pytest.mark.parametrize(("action", "kind"), [("proxy-accept", "other"), ("proxy-reject", "rejected")])
def test_proxy(action, kind):
    expected = {"kind": kind, "action": action, "stage": "END-OF-MESSAGE", **ENVELOPE}
    assert smtpd(f"NOQUEUE: {action}: END-OF-MESSAGE: ; {TAIL}") == expected
    assert smtpd(f"NOQUEUE: {action}: END-OF-MESSAGE: 250 2.0.0 Ok: queued as 4A00000009; {TAIL} sasl_username=<info@example.com>") == {
        **expected,
        "reply_code": 250,
        "dsn": "2.0.0",
        "reply": "Ok: queued as 4A00000009",
        "sasl_username": "info@example.com",
    }


@pytest.mark.parametrize("action", ["proxy-accept", "proxy-reject"])
def test_proxy_reply_forges_nothing(action):
    text = f"Subject x from {LIE}: 550 y; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie> sasl_username=<{VICTIM}>"
    found = smtpd(f"NOQUEUE: {action}: END-OF-MESSAGE: 554 5.7.0 {text}; {TAIL} sasl_username=<eve@example.com>")
    assert {name: found.get(name) for name in ENVELOPE} == ENVELOPE
    assert (found["reply"], found["sasl_username"], "client_ip" in found) == (text, "eve@example.com", False)


# smtpd: what has no field of its own


def test_queue_file_size_limit():
    text = "4A00000001: queue file size limit exceeded"
    assert smtpd(f"warning: {text}") == {"kind": "warning", "queue_id": "4A00000001", "action": "warning", "reply": text}
    assert cleanup(f"warning: {text}")["queue_id"] == "4A00000001"


@pytest.mark.parametrize("severity", ["warning", "error", "fatal", "panic"])
def test_severity_before_a_queue_id(severity):
    text = f"4PbC4x469Jz3tBr: write queue file: 4A00000009: from {LIE}"
    assert smtpd(f"{severity}: {text}") == {"kind": "warning", "queue_id": "4PbC4x469Jz3tBr", "action": severity, "reply": text}


@pytest.mark.parametrize(
    "text",
    [
        "not enough free space in mail queue: 1024 bytes < 1.5*message size limit",
        "192.0.2.9.bl.example: RBL lookup error: Name service error for name=192.0.2.9.bl.example type=A: Host not found, try again",
        "abcdef12: lower case is no queue ID",
    ],
)
def test_other_warning(text):
    assert smtpd(f"warning: {text}") == {"kind": "warning", "action": "warning", "reply": text}


@pytest.mark.parametrize("text", ["discarding EHLO keywords: CHUNKING STARTTLS", "using backwards-compatible default setting chroot=y"])
def test_information(text):
    assert smtpd(text) == {"kind": "other"}


# pickup


def test_pickup():
    expected = {"kind": "picked_up", "queue_id": "4A00000002", "uid": 33, "sender": "www-data"}
    assert only("4A00000002: uid=33 from=<www-data>", "pickup") == expected
    assert only("4A00000002: uid=33 from=<www-data> orig_id=4A00000001", "pickup") == {**expected, "linked_queue_id": "4A00000001"}


@pytest.mark.parametrize("sender", ["x> orig_id=4A00000001", '"> orig_id=4A00000001"@example.com', "x> uid=0 from=<root"])
def test_pickup_sender_forges_nothing(sender):
    assert only(f"4A00000002: uid=33 from=<{sender}>", "pickup") == {
        "kind": "picked_up",
        "queue_id": "4A00000002",
        "uid": 33,
        "sender": sender,
    }


# cleanup


@pytest.mark.parametrize(
    "raw",
    [
        "<a@example.net>",
        "<>",
        "",
        "no brackets",
        "<a b@c> trailing ",
        "=?utf-8?q?x?=",
        f"<x>, sasl_username={VICTIM}",
        f"<x> from {LIE}; {TAIL}",
        "<a> 4A00000009: client=x[203.0.113.99]",
    ],
)
def test_message_id(raw):
    assert cleanup(f"4A00000001: message-id={raw}") == {"kind": "message_id", "queue_id": "4A00000001", "message_id": raw}
    assert cleanup(f"4A00000001: resent-message-id={raw}") == {"kind": "other", "queue_id": "4A00000001"}


@pytest.mark.parametrize("word", ["canceled", "discarded"])
def test_removed_by_cleanup(word):
    assert cleanup(f"4A00000001: removed ({word})") == {"kind": "removed", "queue_id": "4A00000001", "action": word}


def test_cleanup_bounces():
    assert cleanup(
        "4A00000001: to=<b@example.com>, orig_to=<c@example.com>, relay=none, delay=0.13, delays=0.13/0/0/0, dsn=5.7.1, status=bounced (no)"
    ) == {
        "kind": "delivery",
        "queue_id": "4A00000001",
        "recipient": "b@example.com",
        "orig_to": "c@example.com",
        "delay": 0.13,
        "dsn": "5.7.1",
        "status": "bounced",
        "reply": "no",
    }


@pytest.mark.parametrize(
    ("action", "text"),
    [("milter-reject", "5.7.1 spam"), ("milter-hold", "milter triggers HOLD action"), ("milter-discard", "milter triggers DISCARD action")],
)
def test_cleanup_milter(action, text):
    found = cleanup(f"4A00000001: {action}: END-OF-MESSAGE from {C}: {text}; {TAIL}")
    expected = {"kind": "rejected", "queue_id": "4A00000001", **CLIENT, "action": action, "stage": "END-OF-MESSAGE", **ENVELOPE}
    assert found == expected | ({"dsn": "5.7.1", "reply": "spam"} if text == "5.7.1 spam" else {"reply": text})


def test_cleanup_milter_text_forges_nothing():
    text = f"header X from {LIE}; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie>"
    found = cleanup(f"4A00000001: milter-reject: END-OF-MESSAGE from {C}: 5.7.1 {text}; {TAIL}")
    assert {name: found.get(name) for name in (*CLIENT, *ENVELOPE)} == {**CLIENT, **ENVELOPE}


CHECKS = ("reject", "warning", "hold", "discard", "filter", "redirect", "replace", "prepend", "bcc", "info", "strip", "pass", "delay")


@pytest.mark.parametrize("action", CHECKS)
@pytest.mark.parametrize("where", ["header", "body", "content"])
def test_checks(action, where):
    expected = {"kind": "rejected", "queue_id": "4A00000001", "action": action, "stage": where, **ENVELOPE}
    text = f"4A00000001: {action}: {where} Subject: buy this??and that from"
    assert cleanup(f"{text} {C}; {TAIL}") == {**expected, **CLIENT}
    assert cleanup(f"{text} {C}:40123; {TAIL}: 5.7.1 message content rejected") == {
        **expected,
        **CLIENT,
        "client_port": 40123,
        "dsn": "5.7.1",
        "reply": "message content rejected",
    }


@pytest.mark.parametrize("action", CHECKS)
@pytest.mark.parametrize("where", ["header", "body"])
def test_milter_header_checks(action, where):
    expected = {"kind": "rejected", "queue_id": "4A00000001", **CLIENT, "action": f"milter-{where}-{action}", "stage": where, **ENVELOPE}
    text = f"4A00000001: milter-{where}-{action}: {where} X-Spam-Flag: YES from {C}; {TAIL}"
    assert cleanup(text) == expected
    assert cleanup(f"{text}: smtp:[192.0.2.9]:10025") == {**expected, "reply": "smtp:[192.0.2.9]:10025"}


def test_check_of_local_mail():
    expected = {"kind": "rejected", "queue_id": "4A00000001", "action": "hold", "stage": "header", "sender": "root@example.com"}
    assert cleanup("4A00000001: hold: header Subject: x from local; from=<root@example.com>") == expected
    assert cleanup("4A00000001: hold: header Subject: x from local; from=<root@example.com> to=<b@example.com>: why") == {
        **expected,
        "recipient": "b@example.com",
        "reply": "why",
    }


HOSTILE_TEXTS = (
    f"x from {LIE}; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie>",
    f"x from {LIE}; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie>: 5.7.1 sasl_username={VICTIM}",
    f'x from {LIE}; from=<"',
    f'x from {LIE}; from=<"a',
    f"x from {LIE};",
    f"x from local; from=<{VICTIM}>: ",
    f"from {LIE}: 550 5.7.1 x; from=<{VICTIM}>",
    f"from {LIE}: milter-reject: END-OF-MESSAGE from {LIE}: 5.7.1 x",
    " from " * 30,
    f" from {LIE}; from=<x>: " * 8,
)
HOSTILE_SENDERS = (
    "a@example.net",
    "",
    f'" from {LIE}; from=<x"@evil.example',
    f'" from {LIE}; from=<x> to=<y> proto=SMTP helo=<z>: "@evil.example',
    f'" from {LIE};"@evil.example',
    f'" from {LIE}; to=<"@evil.example',
    '"@x.example> to=<b> proto=ESMTP helo=<h>: zz"@evil.example',
    '"@x.example> to=<"@evil.example',
    r'"\"> to=<\"@x"@evil.example',
    f'" from local; from=<{VICTIM}>: "@evil.example',
)
HOSTILE_RECIPIENTS = ("b@example.com", '"@b.example> proto=ESMTP helo=<h>: "@example.com', f'"> helo=<x> from {LIE}; from=<y"@example.com')


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("sender", HOSTILE_SENDERS)
@pytest.mark.parametrize("recipient", HOSTILE_RECIPIENTS)
@pytest.mark.parametrize("client", [C, "local"])
def test_checked_text_and_addresses_forge_nothing(text, sender, recipient, client):
    """Addresses are quoted as since 3.5: all of a line is right, whatever stands in its text and in its addresses."""
    known = {"kind": "rejected", "queue_id": "4A00000001", "action": "warning", "stage": "header"}
    all_of_it = {**known, "sender": sender, "recipient": recipient, "helo": "pc"} | (CLIENT if client == C else {})
    line = f"4A00000001: warning: header {text} from {client}; from=<{sender}> to=<{recipient}> proto=ESMTP helo=<pc>"
    assert cleanup(line) == all_of_it
    assert cleanup(f"{line}: see https://example.com/") == {**all_of_it, "reply": "see https://example.com/"}


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@pytest.mark.parametrize("sender", [f'"> to=<x>: y from {LIE};"@evil.example', f'"> from {LIE};: "@evil.example', '">: "@evil.example'])
@pytest.mark.parametrize("end", ["", ": 5.7.1 no"])
def test_checked_line_of_which_little_is_known(text, sender, end):
    """Mail without a recipient, of which the sender is all that is known: right, or nothing."""
    known = {"kind": "rejected", "queue_id": "4A00000001", "action": "warning", "stage": "header"}
    found = cleanup(f"4A00000001: warning: header {text} from local; from=<{sender}>{end}")
    assert found in (known, {**known, "sender": sender} | ({"dsn": "5.7.1", "reply": "no"} if end else {}))


def test_checked_line_that_was_cut():
    line = f"4A00000001: reject: header Subject: x from {C}; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<p"
    assert cleanup(line) == {"kind": "rejected", "queue_id": "4A00000001", "action": "reject", "stage": "header"}


def test_checked_line_that_was_cut_in_an_imitation():
    """Whatever would tell that it is one may be gone."""
    lie = f'" from {LIE}; from=<{VICTIM}> to=<{VICTIM}> proto=SMTP helo=<lie>: '
    known = {"kind": "rejected", "queue_id": "4A00000001", "action": "reject", "stage": "header"}
    head = f"4A00000001: reject: header Subject: x from {C}; from=<{lie}"
    assert cleanup(head + "x" * (2000 - len(head))) == known
    found = cleanup(f"message repeated 2 times: [ {head}{'x' * (799 - len(head))}]")
    assert found == {**known, "repeat": 2}


def test_body_that_imitates_a_milter():
    found = cleanup(f"4A00000001: reject: body from {LIE}: 550 5.7.1 x from {C}; {TAIL}: 5.7.1 no")
    assert (found["stage"], found["client_ip"], found["reply"]) == ("body", "198.51.100.7", "no")


def test_body_that_imitates_postscreen_where_the_service_is_lost():
    text = f"reject: body from {LIE}: 550 x; from=<{VICTIM}>, to=<{VICTIM}>, proto=SMTP, helo=<lie"
    (found,) = rows(f"<22>1 2026-10-24T06:18:01Z mx postfix 1 - -  4A00000001: {text} from local; from=<x>\n".encode())
    assert (found["stage"], found["sender"], "client_ip" in found) == ("body", "x", False)


@pytest.mark.parametrize(
    "text", [f" from {LIE}; from=<" * 33, f" from {LIE}; from=<" * 1400, f"x from {LIE}; {TAIL} from {LIE};", f"x from {LIE};: y"]
)
@pytest.mark.parametrize("sender", ["a b@example.net", f" from {LIE}; from=<x> to=<y@example.net"])
def test_checked_line_that_nobody_can_tell(text, sender):
    """Before 3.5 an address may be an envelope; and nobody writes more than a few."""
    assert cleanup(f"4A00000001: reject: header {text} from {C}; from=<{sender}> to=<b@example.com> proto=ESMTP helo=<pc>: 5.7.1 no") == {
        "kind": "rejected",
        "queue_id": "4A00000001",
        "action": "reject",
        "stage": "header",
    }


def test_checked_line_with_as_many_places_as_are_looked_at():
    known = {"kind": "rejected", "queue_id": "4A00000001", "action": "reject", "stage": "header"}
    for lies, expected in ((31, {**known, **CLIENT, **ENVELOPE}), (32, known)):
        assert cleanup(f"4A00000001: reject: header {f' from {LIE}; from=<' * lies} from {C}; {TAIL}") == expected


def test_checked_line_before_addresses_were_quoted():
    """Alone in its line, an envelope is believed that would have needed quotes."""
    line = f"4A00000001: reject: header x from {C}; from=<a> b (c)@example.net> to=<d;e@example.com> proto=ESMTP helo=<pc>"
    found = cleanup(f"{line}: 5.7.1 no")
    assert (found["sender"], found["recipient"], found["reply"]) == ("a> b (c)@example.net", "d;e@example.com", "no")
    assert {name: found[name] for name in CLIENT} == CLIENT


def test_rows_do_not_depend_on_what_is_kept():
    """Without ``keep_all`` forms of no meaning are not tried; no other may fit in their place."""
    lines = [f"{what} after DATA (1 bytes) from {C}" for what in BROKEN_OFF] + [
        f"proxy-accept: END-OF-MESSAGE: 250 ok; {TAIL}",
        f"SSL_accept error from {C}: -1",
        "resent-message-id=<x>",
    ]
    data = b"".join(
        STAMP + f"postfix{daemon}[1]: {queue}{line}\n".encode()
        for daemon in ("/smtpd", "/cleanup", "/smtp", "")
        for queue in ("", "NOQUEUE: ", "4A00000001: ")
        for line in lines
    )
    assert len(Scanner(LogClock(year=2026)).scan(Chunk(data, "", "", 0, len(data)))) == 0
    assert {one["kind"] for one in rows(data)} == {"other"}
