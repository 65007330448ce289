"""Every form of ``forms.py`` at least once, each field by hand; headers of all kinds; text that lies; lines that are broken."""

import pytest
from helpers import STAMP, open_recording, row, rows

from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.maillog.forms import FORMS

CLIENT = {"client_name": "mail.example.net", "client_ip": "192.0.2.1"}
UNKNOWN = {"client_name": "unknown", "client_ip": "198.51.100.7"}
RELAY = {"relay_host": "mx.example.net", "relay_ip": "192.0.2.25", "relay_port": 25}

# tag, text, row
GOLDEN = {
    "connect": ("smtpd", "connect from mail.example.net[192.0.2.1]", {"kind": "connect", **CLIENT}),
    "connect with port": (
        "smtpd",
        "connect from mail.example.net[192.0.2.1]:40123",
        {"kind": "connect", **CLIENT, "client_port": 40123},
    ),
    "connect, IPv6": (
        "smtpd",
        "connect from unknown[2001:db8::1]",
        {"kind": "connect", "client_name": "unknown", "client_ip": "2001:db8::1"},
    ),
    "connect, the socket was gone": (
        "smtpd",
        "connect from unknown[unknown]",
        {"kind": "connect", "client_name": "unknown"},
    ),
    "connect, a name that looks like an address": (
        "smtpd",
        "connect from 121.145.133.37.dynamic.example[203.0.113.121]",
        {"kind": "connect", "client_name": "121.145.133.37.dynamic.example", "client_ip": "203.0.113.121"},
    ),
    "disconnect, old": ("smtpd", "disconnect from mail.example.net[192.0.2.1]", {"kind": "disconnect", **CLIENT}),
    "disconnect": (
        "smtpd",
        "disconnect from unknown[198.51.100.7] ehlo=1 auth=0/3 mail=1 rcpt=0/2 quit=1 commands=3/8",
        {"kind": "disconnect", **UNKNOWN},
    ),
    "authentication failed, old": (
        "smtpd",
        "warning: unknown[198.51.100.7]: SASL LOGIN authentication failed: UGFzc3dvcmQ6",
        {"kind": "auth_failed", **UNKNOWN, "sasl_method": "LOGIN"},
    ),
    "authentication failed without a reason": (
        "smtpd",
        "warning: unknown[198.51.100.7]: SASL login authentication failed:",
        {"kind": "auth_failed", **UNKNOWN, "sasl_method": "login"},
    ),
    "authentication failed, with the name that was tried": (
        "smtpd",
        "warning: unknown[198.51.100.7]: SASL PLAIN authentication failed: (reason unavailable), sasl_username=info@example.com",
        {
            "kind": "auth_failed",
            **UNKNOWN,
            "sasl_method": "PLAIN",
            "reply": "(reason unavailable)",
            "sasl_username": "info@example.com",
        },
    ),
    "accepted": (
        "smtpd",
        "8F005249014: client=mail.example.net[192.0.2.1]",
        {"kind": "accepted", "queue_id": "8F005249014", **CLIENT},
    ),
    "accepted, login": (
        "smtpd",
        "4PbC4x469Jz3tBr: client=unknown[198.51.100.7]:2525, sasl_method=LOGIN, sasl_username=info@example.com, sasl_sender=x@example.com",
        {
            "kind": "accepted",
            "queue_id": "4PbC4x469Jz3tBr",
            **UNKNOWN,
            "client_port": 2525,
            "sasl_method": "LOGIN",
            "sasl_username": "info@example.com",
        },
    ),
    "accepted, back from a filter": (
        "smtpd",
        "4A00000002: client=localhost[127.0.0.1], orig_queue_id=4A00000001, orig_client=unknown[198.51.100.7]",
        {
            "kind": "accepted",
            "queue_id": "4A00000002",
            "client_name": "localhost",
            "client_ip": "127.0.0.1",
            "linked_queue_id": "4A00000001",
        },
    ),
    "accepted by a proxy filter": (
        "smtpd",
        "NOQUEUE: client=unknown[198.51.100.7], sasl_method=PLAIN, sasl_username=info@example.com",
        {"kind": "accepted", **UNKNOWN, "sasl_method": "PLAIN", "sasl_username": "info@example.com"},
    ),
    "reject": (
        "smtpd",
        "NOQUEUE: reject: RCPT from mail.example.net[192.0.2.1]: 550 5.1.1 <nosuch@example.com>: Recipient "
        "address rejected: User unknown in "
        "virtual mailbox table; from=<news@example.net> to=<nosuch@example.com> proto=ESMTP helo=<mail.example.net>",
        {
            "kind": "rejected",
            **CLIENT,
            "action": "reject",
            "stage": "RCPT",
            "reply_code": 550,
            "dsn": "5.1.1",
            "reply": "<nosuch@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
            "sender": "news@example.net",
            "recipient": "nosuch@example.com",
            "helo": "mail.example.net",
        },
    ),
    "reject with semicolons in the text": (
        "smtpd",
        "NOQUEUE: reject: RCPT from unknown[198.51.100.7]: 554 5.7.1 Service unavailable; Client host [198.51.100.7] blocked using "
        "bl.example; see https://bl.example/?ip=198.51.100.7; from=<a@example.net> to=<b@example.com> proto=SMTP helo=<x>",
        {
            "kind": "rejected",
            **UNKNOWN,
            "action": "reject",
            "stage": "RCPT",
            "reply_code": 554,
            "dsn": "5.7.1",
            "reply": "Service unavailable; Client host [198.51.100.7] blocked using bl.example; see https://bl.example/?ip=198.51.100.7",
            "sender": "a@example.net",
            "recipient": "b@example.com",
            "helo": "x",
        },
    ),
    "not owned by user": (
        "smtpd",
        "4A00000001: reject_warning: RCPT from unknown[198.51.100.7]: 553 5.7.1 <x@example.net>: Sender "
        "address rejected: not owned by user "
        "info@example.com; from=<x@example.net> to=<u@example.org> proto=ESMTP helo=<User>",
        {
            "kind": "rejected",
            "queue_id": "4A00000001",
            **UNKNOWN,
            "action": "reject_warning",
            "stage": "RCPT",
            "reply_code": 553,
            "dsn": "5.7.1",
            "reply": "<x@example.net>: Sender address rejected: not owned by user info@example.com",
            "sasl_username": "info@example.com",
            "sender": "x@example.net",
            "recipient": "u@example.org",
            "helo": "User",
        },
    ),
    "reject at CONNECT: nothing is known yet": (
        "smtpd",
        "NOQUEUE: reject: CONNECT from unknown[198.51.100.7]: 554 5.7.1 <unknown[198.51.100.7]>: Client host "
        "rejected: Access denied; proto=SMTP",
        {
            "kind": "rejected",
            **UNKNOWN,
            "action": "reject",
            "stage": "CONNECT",
            "reply_code": 554,
            "dsn": "5.7.1",
            "reply": "<unknown[198.51.100.7]>: Client host rejected: Access denied",
        },
    ),
    "reject with the login of 3.10": (
        "smtpd",
        "4A00000001: reject: RCPT from unknown[198.51.100.7]: 450 4.7.1 <b@example.com>: Recipient address rejected: try later; "
        "from=<a@example.com> to=<b@example.com> proto=ESMTP helo=<pc> sasl_method=PLAIN sasl_username=info@example.com",
        {
            "kind": "rejected",
            "queue_id": "4A00000001",
            **UNKNOWN,
            "action": "reject",
            "stage": "RCPT",
            "reply_code": 450,
            "dsn": "4.7.1",
            "reply": "<b@example.com>: Recipient address rejected: try later",
            "sender": "a@example.com",
            "recipient": "b@example.com",
            "helo": "pc",
            "sasl_method": "PLAIN",
            "sasl_username": "info@example.com",
        },
    ),
    "milter of smtpd, login in brackets": (
        "smtpd",
        "4A00000001: milter-reject: END-OF-MESSAGE from unknown[198.51.100.7]: 554 5.7.1 Spam message rejected; from=<a@example.com> "
        "to=<b@example.net> proto=ESMTP helo=<pc> sasl_username=<info@example.com>",
        {
            "kind": "rejected",
            "queue_id": "4A00000001",
            **UNKNOWN,
            "action": "milter-reject",
            "stage": "END-OF-MESSAGE",
            "reply_code": 554,
            "dsn": "5.7.1",
            "reply": "Spam message rejected",
            "sender": "a@example.com",
            "recipient": "b@example.net",
            "helo": "pc",
            "sasl_username": "info@example.com",
        },
    ),
    "milter of cleanup, no reply code": (
        "cleanup",
        "4A00000001: milter-hold: END-OF-MESSAGE from unknown[198.51.100.7]: milter triggers HOLD action; "
        "from=<> to=<b@example.net> proto=ESMTP",
        {
            "kind": "rejected",
            "queue_id": "4A00000001",
            **UNKNOWN,
            "action": "milter-hold",
            "stage": "END-OF-MESSAGE",
            "reply": "milter triggers HOLD action",
            "sender": "",
            "recipient": "b@example.net",
        },
    ),
    "bare LF, neither code nor dsn": (
        "smtpd",
        "NOQUEUE: reject: DATA from unknown[198.51.100.7]: bare <LF> received; from=<a@example.net> "
        "to=<b@example.com> proto=ESMTP helo=<x>",
        {
            "kind": "rejected",
            **UNKNOWN,
            "action": "reject",
            "stage": "DATA",
            "reply": "bare <LF> received",
            "sender": "a@example.net",
            "recipient": "b@example.com",
            "helo": "x",
        },
    ),
    "postscreen reject": (
        "postscreen",
        "NOQUEUE: reject: RCPT from [203.0.113.217]:40000: 550 5.7.1 Service unavailable; client [203.0.113.217] blocked using bl.example; "
        "from=<news@example.net>, to=<alice@example.com>, proto=ESMTP, helo=<h.example.net>",
        {
            "kind": "rejected",
            "client_ip": "203.0.113.217",
            "client_port": 40000,
            "action": "reject",
            "stage": "RCPT",
            "reply_code": 550,
            "dsn": "5.7.1",
            "reply": "Service unavailable; client [203.0.113.217] blocked using bl.example",
            "sender": "news@example.net",
            "recipient": "alice@example.com",
            "helo": "h.example.net",
        },
    ),
    "message-id": (
        "cleanup",
        "69EA423F027: message-id=<20121025185427.69EA423F027@mail.example.com>",
        {
            "kind": "message_id",
            "queue_id": "69EA423F027",
            "message_id": "<20121025185427.69EA423F027@mail.example.com>",
        },
    ),
    "message-id, empty": (
        "cleanup",
        "69EA423F027: message-id=",
        {"kind": "message_id", "queue_id": "69EA423F027", "message_id": ""},
    ),
    "resent-message-id": (
        "cleanup",
        "69EA423F027: resent-message-id=<x@y.example>",
        {"kind": "other", "queue_id": "69EA423F027"},
    ),
    "pickup": (
        "pickup",
        "4A00000001: uid=33 from=<www-data>",
        {"kind": "picked_up", "queue_id": "4A00000001", "uid": 33, "sender": "www-data"},
    ),
    "pickup, requeued": (
        "pickup",
        "4A00000002: uid=0 from=<a@example.com> orig_id=4A00000001",
        {
            "kind": "picked_up",
            "queue_id": "4A00000002",
            "uid": 0,
            "sender": "a@example.com",
            "linked_queue_id": "4A00000001",
        },
    ),
    "queued": (
        "qmgr",
        "184F627BF64: from=<linda@example.net>, size=2338, nrcpt=50 (queue active)",
        {"kind": "queued", "queue_id": "184F627BF64", "sender": "linda@example.net", "size": 2338, "nrcpt": 50},
    ),
    "queued, null sender": (
        "oqmgr",
        "184F627BF64: from=<>, size=1, nrcpt=1 (queue active)",
        {"kind": "queued", "queue_id": "184F627BF64", "sender": "", "size": 1, "nrcpt": 1},
    ),
    "expired": (
        "qmgr",
        "184F627BF64: from=<linda@example.net>, status=force-expired, returned to sender",
        {"kind": "delivery", "queue_id": "184F627BF64", "sender": "linda@example.net", "status": "force-expired"},
    ),
    "removed": ("qmgr", "184F627BF64: removed", {"kind": "removed", "queue_id": "184F627BF64"}),
    "sent": (
        "smtp",
        "4A00000001: to=<u@example.net>, orig_to=<alias@example.com>, relay=mx.example.net[192.0.2.25]:25, conn_use=3, delay=2.6, "
        "delays=0.1/0/1.5/1, tls=dane/!requiretls:nostarttls, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4PbC4x469Jz3tBr)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.net",
            "orig_to": "alias@example.com",
            **RELAY,
            "delay": 2.6,
            "dsn": "2.0.0",
            "status": "sent",
            "reply": "250 2.0.0 Ok: queued as 4PbC4x469Jz3tBr",
            "reply_code": 250,
        },
    ),
    "sent, before 2.3": (
        "smtp",
        "4A00000001: to=<u@example.net>, relay=mx.example.net[192.0.2.25], delay=3, status=sent (250 Ok)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.net",
            "relay_host": "mx.example.net",
            "relay_ip": "192.0.2.25",
            "delay": 3.0,
            "status": "sent",
            "reply": "250 Ok",
            "reply_code": 250,
        },
    ),
    "bounced, the remote said so": (
        "smtp",
        "4A00000001: to=<u@example.net>, relay=mx.example.net[192.0.2.25]:25, delay=1, delays=0/0/1/0, dsn=5.1.1, status=bounced (host "
        "mx.example.net[192.0.2.25] said: 550 5.1.1 <u@example.net>: User unknown (in reply to RCPT TO command))",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.net",
            **RELAY,
            "delay": 1.0,
            "dsn": "5.1.1",
            "status": "bounced",
            "reply": "host mx.example.net[192.0.2.25] said: 550 5.1.1 <u@example.net>: User unknown (in reply to RCPT TO command)",
            "reply_code": 550,
        },
    ),
    "repeated by error": (
        "error",
        "4A00000001: to=<u@example.net>, relay=none, delay=111421, delays=105070/6348/0/2.6, dsn=4.0.0, "
        "status=deferred (delivery temporarily "
        "suspended: host mx.example.net[192.0.2.25] refused to talk to me: 421-go 421 away)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.net",
            "delay": 111421.0,
            "dsn": "4.0.0",
            "status": "deferred",
            "reply": "delivery temporarily suspended: host mx.example.net[192.0.2.25] refused to talk to me: 421-go 421 away",
            "reply_code": 421,
        },
    ),
    "our own login at a relay is refused": (
        "smtp",
        "4A00000001: to=<u@example.net>, relay=mx.example.net[192.0.2.25]:587, delay=1, delays=0/0/1/0, dsn=4.7.8, status=deferred (SASL "
        "authentication failed; server mx.example.net[192.0.2.25] said: 535 5.7.8 Error)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.net",
            **RELAY,
            "relay_port": 587,
            "delay": 1.0,
            "dsn": "4.7.8",
            "status": "deferred",
            "reply": "SASL authentication failed; server mx.example.net[192.0.2.25] said: 535 5.7.8 Error",
            "reply_code": 535,
        },
    ),
    "local": (
        "local",
        "4A00000001: to=<u@example.com>, relay=local, delay=0.02, delays=0.01/0/0/0.01, dsn=2.0.0, status=sent (forwarded as 4A00000002)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.com",
            "relay_host": "local",
            "delay": 0.02,
            "dsn": "2.0.0",
            "status": "sent",
            "reply": "forwarded as 4A00000002",
        },
    ),
    "lmtp over a socket": (
        "lmtp",
        "4A00000001: to=<u@example.com>, relay=mx.example.com[private/dovecot-lmtp], delay=0.1, "
        "delays=0/0/0/0.1, dsn=2.0.0, status=sent (250 "
        "2.0.0 <u@example.com> Saved)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.com",
            "relay_host": "mx.example.com",
            "delay": 0.1,
            "dsn": "2.0.0",
            "status": "sent",
            "reply": "250 2.0.0 <u@example.com> Saved",
            "reply_code": 250,
        },
    ),
    "lmtp to an IPv6 literal": (
        "lmtp",
        "4A00000001: to=<u@example.com>, relay=::1[::1]:24, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 ok)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.com",
            "relay_host": "::1",
            "relay_ip": "::1",
            "relay_port": 24,
            "delay": 0.0,
            "dsn": "2.0.0",
            "status": "sent",
            "reply": "250 ok",
            "reply_code": 250,
        },
    ),
    "pipe": (
        "pipe",
        "4A00000001: to=<u@example.com>, relay=dovecot, delay=0.1, delays=0/0/0/0.1, dsn=2.0.0, status=sent "
        "(delivered via dovecot service)",
        {
            "kind": "delivery",
            "queue_id": "4A00000001",
            "recipient": "u@example.com",
            "relay_host": "dovecot",
            "delay": 0.1,
            "dsn": "2.0.0",
            "status": "sent",
            "reply": "delivered via dovecot service",
        },
    ),
    "connect failed": (
        "smtp",
        "connect to mx.example.net[192.0.2.25]:25: Connection refused",
        {"kind": "connect_failed", **RELAY, "reply": "Connection refused"},
    ),
    "bounce notice": (
        "bounce",
        "99F4C23F008: sender non-delivery notification: 69EA423F027",
        {
            "kind": "bounce_notice",
            "queue_id": "99F4C23F008",
            "action": "sender non-delivery",
            "linked_queue_id": "69EA423F027",
        },
    ),
    "postsuper removes": ("postsuper", "99F4C23F008: removed", {"kind": "removed", "queue_id": "99F4C23F008"}),
    "postsuper holds": (
        "postsuper",
        "99F4C23F008: placed on hold",
        {"kind": "other", "queue_id": "99F4C23F008", "action": "placed on hold"},
    ),
    "warning": (
        "smtpd",
        "warning: hostname a.example does not resolve to address 192.0.2.1",
        {
            "kind": "warning",
            "client_ip": "192.0.2.1",
            "action": "warning",
            "reply": "hostname a.example does not resolve to address 192.0.2.1",
        },
    ),
    "fatal": (
        "master",
        "fatal: bind 0.0.0.0 port 25",
        {"kind": "warning", "action": "fatal", "reply": "bind 0.0.0.0 port 25"},
    ),
    "lost connection": (
        "smtpd",
        "lost connection after AUTH from unknown[198.51.100.7]",
        {"kind": "other", **UNKNOWN, "action": "lost connection", "stage": "AUTH"},
    ),
    "removed by cleanup": (
        "cleanup",
        "69EA423F027: removed (canceled)",
        {"kind": "removed", "queue_id": "69EA423F027", "action": "canceled"},
    ),
    "what means nothing": ("anvil", "statistics: max cache size 2 at Oct 24 06:18:01", {"kind": "other"}),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name):
    service, text, expected = GOLDEN[name]
    assert row(text, f"postfix/{service}[4202]") == {"service": service, **expected}


def test_every_form_has_a_golden_row():
    shown = {(service, expected["kind"]) for service, _, expected in GOLDEN.values()}
    # These have their own: test_deliveries.py, test_postscreen.py, test_dovecot.py.
    shown |= {(service, kind) for service in ("smtp", "tlsproxy", "dnsblog", "qmgr", "postscreen") for kind in ("other", "connect_failed")}
    shown |= {("postscreen", "connect"), ("postscreen", "disconnect")}
    shown |= {("dovecot", kind) for kind in ("auth_success", "auth_failed", "warning", "other")}
    missing = [form.template for form in FORMS if not any((service, form.kind) in shown for service in form.services)]
    assert missing == []


CONNECT = "connect from mail.example.net[192.0.2.1]"
AUTUMN = 1792822681_000000
"""2026-10-24 06:18:01 UTC in microseconds."""

# header, what it says
HEADERS = {
    "classic": ("Oct 24 06:18:01 mx postfix/smtpd[4202]:", {"time": AUTUMN, "host": "mx", "pid": 4202}),
    "classic, day padded with a blank": ("Oct  4 06:18:01 mx postfix/smtpd[1]:", {"time": AUTUMN - 20 * 86400_000000}),
    "classic, day padded with a zero": ("Oct 04 06:18:01 mx postfix/smtpd[1]:", {"time": AUTUMN - 20 * 86400_000000}),
    "classic, day not padded": ("Oct 4 06:18:01 mx postfix/smtpd[1]:", {"time": AUTUMN - 20 * 86400_000000}),
    "leap second": ("Oct 24 06:17:60 mx postfix/smtpd[1]:", {"time": AUTUMN - 1_000000}),
    "ISO": ("2026-10-24T06:18:01Z mx.example.com postfix/smtpd[1]:", {"time": AUTUMN, "host": "mx.example.com"}),
    "ISO, fraction and zone": ("2026-10-24T08:18:01.250000+02:00 mx postfix/smtpd[1]:", {"time": AUTUMN + 250_000}),
    "ISO, zone without a colon": ("2026-10-24T01:48:01.5-0430 mx postfix/smtpd[1]:", {"time": AUTUMN + 500_000}),
    "ISO, nanoseconds": ("2026-10-24T06:18:01.123456789Z mx postfix/smtpd[1]:", {"time": AUTUMN + 123_456}),
    "ISO, local": ("2026-10-24T06:18:01 mx postfix/smtpd[1]:", {"time": AUTUMN}),
    "ISO, a blank for the T": ("2026-10-24 06:18:01.000001 mx postfix/smtpd[1]:", {"time": AUTUMN + 1}),
    "RFC 5424": (
        "<22>1 2026-10-24T06:18:01.000000+00:00 mx postfix/smtpd 4202 - - ",
        {"time": AUTUMN, "host": "mx", "pid": 4202},
    ),
    "RFC 5424, the service is lost": (
        "<22>1 2026-10-24T06:18:01Z mx postfix 4202 - - ",
        {"time": AUTUMN, "syslog_name": "postfix"},
    ),
    "RFC 5424, structured data": (
        '<22>1 2026-10-24T06:18:01Z mx postfix/smtpd 4202 ID47 [a@1 x="]\\"]"][b@1]',
        {"time": AUTUMN, "pid": 4202},
    ),
    "PRI": ("<22>Oct 24 06:18:01 mx postfix/smtpd[4202]:", {"time": AUTUMN, "pid": 4202}),
    "no colon": ("Oct 24 06:18:01 mx postfix/smtpd[4202]", {"time": AUTUMN, "pid": 4202}),
    "no pid": ("Oct 24 06:18:01 mx postfix/smtpd:", {"time": AUTUMN}),
    "NULs of copytruncate": (
        "\0\0\0\0Oct 24 06:18:01 mx postfix/smtpd[4202]:",
        {"time": AUTUMN, "host": "mx", "pid": 4202},
    ),
    "submission": ("Oct 24 06:18:01 mx postfix/submission/smtpd[1]:", {"syslog_name": "postfix/submission"}),
    "a port as a name": ("Oct 24 06:18:01 mx postfix/10025/smtpd[1]:", {"syslog_name": "postfix/10025"}),
    "an instance": ("Oct 24 06:18:01 mx postfix-out/smtpd[1]:", {"syslog_name": "postfix-out"}),
    "an instance named by address": (
        "Oct 24 06:18:01 mx postfix-10.20.30.40/smtpd[1]:",
        {"syslog_name": "postfix-10.20.30.40"},
    ),
    "an instance with a service": (
        "Oct 24 06:18:01 mx postfix-in/submission/smtpd[1]:",
        {"syslog_name": "postfix-in/submission"},
    ),
    "a name of its own": ("Oct 24 06:18:01 mx outgoing/smtpd[1]:", {"syslog_name": "outgoing"}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_header(name):
    header, expected = HEADERS[name]
    (observed,) = rows(f"{header} {CONNECT}\n".encode())
    assert {key: observed.get(key) for key in ("kind", "service", "client_ip")} == {
        "kind": "connect",
        "service": "smtpd",
        "client_ip": "192.0.2.1",
    }
    assert {key: observed.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("tag", "service"),
    [
        ("postfix/newdaemon[1]", "newdaemon"),
        ("postfix/master[1]", "master"),
        ("postfix-out/smtp[1]", "smtp"),
        ("postfix[1]", None),
    ],
)
def test_service_of_a_tag(tag, service):
    assert row("text without a meaning", tag).get("service") == service


def test_an_unknown_daemon_is_not_read_as_a_known_one():
    assert row("8F005249014: client=unknown[198.51.100.7]", "postfix/newdaemon[1]")["kind"] == "other"


@pytest.mark.parametrize(
    ("relay", "service"),
    [
        ("mx.example.net[192.0.2.25]:25", "smtp"),
        ("none", "error"),
        ("local", "local"),
        ("virtual", "virtual"),
        ("dovecot", "pipe"),
    ],
)
def test_agent_where_the_service_is_lost(relay, service):
    text = f"4A00000001: to=<u@example.net>, relay={relay}, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent (250 ok)"
    (observed,) = rows(f"<22>1 2026-10-24T06:18:01Z mx postfix 4202 - -  {text}\n".encode())
    assert (observed["kind"], observed["service"]) == ("delivery", service)


def test_postscreen_where_the_service_is_lost():
    text = GOLDEN["postscreen reject"][1]
    (observed,) = rows(f"<22>1 2026-10-24T06:18:01Z mx postfix 4202 - -  {text}\n".encode())
    assert (observed["sender"], observed.get("recipient"), observed["helo"]) == (
        "news@example.net",
        "alice@example.com",
        "h.example.net",
    )


UNPARSED = {
    "binary junk": b"\x00\xff\xfe\x1b[31m\x80",
    "words": b"the quick brown fox jumps over the lazy dog and back again",
    "no such month": b"Okt 24 06:18:01 mx postfix/smtpd[1]: x",
    "no such day": b"Feb 30 06:18:01 mx postfix/smtpd[1]: x",
    "no such day, ISO": b"2026-02-31T06:18:01Z mx postfix/smtpd[1]: x",
    "no such hour": b"Oct 24 24:00:00 mx postfix/smtpd[1]: x",
    "a year out of all reason": b"9999-12-31T23:59:59-12:00 mx postfix/smtpd[1]: x",
    "the year 0": b"0000-01-01T00:00:00Z mx postfix/smtpd[1]: x",
    "another program": b"Oct 24 06:18:01 mx dovecat[1]: imap-login: Login: user=<a>",
    "a program that has only the daemon's name": b"Oct 24 06:18:01 mx smtpd[1]: connect from a[192.0.2.1]",
    "cut in the stamp": b"Oct 24 06:1",
    "cut after the host": b"Oct 24 06:18:01 mx",
    "cut in the tag": b"Oct 24 06:18:01 mx postfix/sm",
    "cut in the pid": b"Oct 24 06:18:01 mx postfix/smtpd[12",
    "a pid that is none": b"Oct 24 06:18:01 mx postfix/smtpd[x]: connect from a[192.0.2.1]",
    "a tag without end": b"Oct 24 06:18:01 mx " + b"postfix/" * 40 + b"smtpd[1]: connect from a[192.0.2.1]",
}


@pytest.mark.parametrize("name", UNPARSED)
def test_unparsed_and_the_next_line_is_read(name):
    observed = rows(UNPARSED[name] + b"\n" + STAMP + b"postfix/smtpd[1]: " + CONNECT.encode() + b"\n")
    assert [one["kind"] for one in observed] == ["unparsed", "connect"]
    assert observed[1]["time"] == AUTUMN


def test_a_line_of_a_megabyte():
    long = STAMP + b"postfix/smtpd[1]: connect from " + b"a" * (1 << 20) + b"[192.0.2.1]\n"
    observed = rows(long + STAMP + b"postfix/smtpd[1]: " + CONNECT.encode() + b"\n")
    assert [one["kind"] for one in observed] == ["unparsed", "connect"]


def test_the_longest_line_that_is_read():
    head = STAMP + b"postfix/cleanup[1]: 4A00000001: message-id="
    fits, too_long = (rows(head + b"a" * (limit - len(head)) + b"\n")[0] for limit in (65535, 65536))
    assert (fits["kind"], len(fits["message_id"])) == ("message_id", 65535 - len(head))
    assert too_long["kind"] == "unparsed"


def test_empty_lines_and_carriage_returns():
    observed = rows(b"\n\r\n\0\0\n" + STAMP + b"postfix/qmgr[1]: 4A00000001: removed\r\n")
    assert [one["kind"] for one in observed] == ["removed"]


def test_bytes_that_are_not_utf8_are_replaced_and_the_rest_is_kept():
    observed = row(b"4A00000001: message-id=<a\xffb\xc3\xa9\xe2\x80\xa8c>", "postfix/cleanup[1]")
    assert observed["message_id"] == "<a\ufffdbé\u2028c>"


def test_line_counts():
    scanner = Scanner(LogClock(year=2026))
    data = STAMP + b"postfix/qmgr[1]: 4A00000001: removed\n" + STAMP + b"cron[1]: x\n" + b"junk\n\n"
    batch = scanner.scan(Chunk(data, "", "", 0, len(data)))
    assert (batch.lines, len(batch)) == (4, 1)
    assert scanner.lines == {"event": 1, "ignored": 2, "unparsed": 1, "repeated": 0}


def test_offsets_and_lines():
    data = b"\n" + STAMP + b"postfix/qmgr[1]: 4A00000001: removed\n" + b"\0\0" + STAMP + b"postfix/qmgr[1]: 4A00000002: removed"
    batch = Scanner(LogClock(year=2026)).scan(Chunk(data, "mail.log", "1:2", 1000, 1000 + len(data)))
    assert [(batch.offset(i) - 1000, batch.line(i)) for i in range(2)] == [
        (1, STAMP + b"postfix/qmgr[1]: 4A00000001: removed"),
        (data.rindex(b"Oct"), STAMP + b"postfix/qmgr[1]: 4A00000002: removed"),
    ]


def test_the_answer_does_not_depend_on_tags_seen_before():
    odd = STAMP + b"postfix/smtpd:x[1]: " + CONNECT.encode() + b"\n"
    alone = rows(odd)
    after = rows(b"<22>1 2026-10-24T06:18:01Z mx postfix/smtpd:x 1 - - hello\n" + odd)
    assert after[1:] == alone


# What attackers write. Nothing of it may become a field that it is not in.

VICTIM = "alice@corp.example"


def test_login_that_holds_another_login():
    observed = row(f"warning: unknown[198.51.100.7]: SASL PLAIN authentication failed: no, sasl_username=x, sasl_username={VICTIM}")
    assert (observed["client_ip"], observed["sasl_username"]) == ("198.51.100.7", f"x, sasl_username={VICTIM}")


def test_login_that_pretends_to_be_a_client():
    observed = row(
        "warning: unknown[198.51.100.7]: SASL PLAIN authentication failed: no, sasl_username=a[203.0.113.1]: "
        "SASL LOGIN authentication failed: z"
    )
    assert observed["client_ip"] == "198.51.100.7"
    assert observed["sasl_username"] == "a[203.0.113.1]: SASL LOGIN authentication failed: z"


def test_reply_that_imitates_a_status():
    observed = row(
        "4A00000001: to=<u@example.net>, relay=mx.example.net[192.0.2.25]:25, delay=1, delays=0/0/1/0, dsn=5.7.1, status=bounced (host "
        f"mx.example.net[192.0.2.25] said: 550 no, relay=evil[203.0.113.9]:25, delay=2, dsn=2.0.0, "
        f"status=sent (250 ok) sasl_username={VICTIM})",
        "postfix/smtp[1]",
    )
    assert (observed["status"], observed["dsn"], observed["relay_ip"]) == ("bounced", "5.7.1", "192.0.2.25")
    assert "sasl_username" not in observed


def test_recipient_that_imitates_a_relay():
    observed = row(
        '4A00000001: to=<"v>, relay=x[198.51.100.1]:25, status=sent (ok"@remote.example>, relay=mx.example.net[192.0.2.25]:25, delay=0.02, '
        "delays=0/0/0/0, dsn=2.0.0, status=sent (250 ok)",
        "postfix/smtp[1]",
    )
    assert observed["recipient"] == '"v>, relay=x[198.51.100.1]:25, status=sent (ok"@remote.example'
    assert observed["relay_ip"] == "192.0.2.25"


def test_quoted_alias_that_holds_a_bracket():
    observed = row(
        '4A00000001: to=<u@example.com>, orig_to=<"a>b"@example.com>, relay=mx.example.net[192.0.2.25]:25, delay=1, delays=0/0/1/0, '
        "dsn=2.0.0, status=sent (250 ok)",
        "postfix/smtp[1]",
    )
    assert (observed["kind"], observed.get("orig_to")) == ("delivery", '"a>b"@example.com')


def test_sender_of_the_internal_form_that_imitates_the_size():
    observed = row(
        "4A00000001: from=<a>, size=1, nrcpt=1 (queue active)@x.example>, size=526, nrcpt=50 (queue active)",
        "postfix/qmgr[1]",
    )
    assert (observed["sender"], observed["nrcpt"]) == ("a>, size=1, nrcpt=1 (queue active)@x.example", 50)


def test_local_sender_that_imitates_a_requeued_message():
    observed = row("4A00000002: uid=1000 from=<x> orig_id=4A00000001>", "postfix/pickup[1]")
    assert (observed["sender"], "linked_queue_id" in observed) == ("x> orig_id=4A00000001", False)


def test_sender_that_imitates_the_tail_of_a_reject():
    sender = f'"; from=<{VICTIM}> to=<b@x.example> proto=ESMTP helo=<h> sasl_username=<{VICTIM}>"@evil.example'
    observed = row(
        f"NOQUEUE: reject: RCPT from unknown[198.51.100.7]: 554 5.7.1 <b@example.net>: Relay access denied; "
        f"from=<{sender}> to=<b@example.net> "
        "proto=ESMTP helo=<evil>"
    )
    assert (observed["sender"], observed["recipient"], observed["helo"]) == (sender, "b@example.net", "evil")
    assert "sasl_username" not in observed


def test_recipient_that_imitates_not_owned_by_user():
    recipient = f'"x>: Sender address rejected: not owned by user {VICTIM}"@example.com'
    observed = row(
        f"NOQUEUE: reject: RCPT from unknown[198.51.100.7]: 550 5.1.1 <{recipient}>: Recipient address rejected: User unknown; "
        f"from=<a@b.example> to=<{recipient}> proto=ESMTP helo=<h>"
    )
    assert (observed["recipient"], "sasl_username" in observed) == (recipient, False)


def test_subject_that_imitates_a_client():
    observed = row(
        "4A00000001: reject: header Subject: x from evil.example[203.0.113.99]: 550 5.7.1 bar from "
        "real.example[192.0.2.1]; from=<a@b.example> "
        "to=<c@d.example> proto=ESMTP helo=<h>",
        "postfix/cleanup[1]",
    )
    assert observed.get("client_ip") != "203.0.113.99"


def test_greeting_that_imitates_a_bounce_notice():
    (observed,) = rows(
        b"<22>1 2026-10-24T06:18:01Z mx postfix 1 - - 4A00000001: host h[192.0.2.9] refused to talk to me: 421 x notification: 4A00000002\n"
    )
    assert (observed["kind"], observed["relay_ip"], "linked_queue_id" in observed) == ("connect_failed", "192.0.2.9", False)


def test_message_id_that_imitates_a_login():
    observed = row(f"4A00000001: message-id=<x>, sasl_username={VICTIM}>", "postfix/cleanup[1]")
    assert (observed["message_id"], "sasl_username" in observed) == (f"<x>, sasl_username={VICTIM}>", False)


def test_recorded_injection(shared):
    """A real Postfix, attacked with all of the above: the victim is named only where somebody tried to log in by that name."""
    path = shared / "lab" / "recordings" / "injection-postlogd.log.xz"
    if not path.exists():
        pytest.skip(f"no recording {path.name}")
    observed = rows(open_recording(path))
    assert len(observed) == 55
    named = [one for one in observed if VICTIM in one.get("sasl_username", "")]
    assert {one["kind"] for one in named} == {"auth_failed"}
    assert not any(one["sasl_username"] == VICTIM for one in named)
    logins = {one["sasl_username"] for one in observed if one["kind"] != "auth_failed" and "sasl_username" in one}
    assert logins == {"eve@corp.example"}
    bounced = next(one for one in observed if one.get("status") == "bounced")
    assert (bounced["recipient"], bounced["relay_ip"], bounced["dsn"]) == ("liar@remote.example", "127.0.2.1", "5.7.1")
