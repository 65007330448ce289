"""postscreen, dnsblog and tlsproxy: a line of every template by hand, and what a client sends turned against it."""

import pytest
from helpers import row, rows

CLIENT = {"client_ip": "203.0.113.217", "client_port": 40000}
AT = "[203.0.113.217]:40000"
LIE = "EHLO x from [192.0.2.9]:9: y after RCPT: z\\r\\n"

# text, row
POSTSCREEN = {
    "connect": (f"CONNECT from {AT} to [192.0.2.1]:25", {"kind": "connect", **CLIENT}),
    "connect, before 2.9": (f"CONNECT from {AT}", {"kind": "connect", **CLIENT}),
    "connect, IPv6": (
        "CONNECT from [2001:db8::7]:4001 to [2001:db8::1]:25",
        {"kind": "connect", "client_ip": "2001:db8::7", "client_port": 4001},
    ),
    "disconnect": (f"DISCONNECT {AT}", {"kind": "disconnect", **CLIENT}),
    **{
        words: (f"{words} {AT}", {"kind": "other", "action": words, **CLIENT})
        for words in (
            "PASS OLD",
            "PASS NEW",
            "ALLOWLISTED",
            "WHITELISTED",
            "DENYLISTED",
            "BLACKLISTED",
            "ALLOWLIST VETO",
            "WHITELIST VETO",
        )
    },
    "PREGREET": (f"PREGREET 11 after 0.07 from {AT}: {LIE}", {"kind": "other", "action": "PREGREET", **CLIENT, "reply": LIE}),
    "DNSBL": (f"DNSBL rank 3 for {AT}", {"kind": "other", "action": "DNSBL rank", **CLIENT}),
    **{
        f"HANGUP {when}": (f"HANGUP after 2.5 from {AT} in tests {when} SMTP handshake", {"kind": "other", "action": "HANGUP", **CLIENT})
        for when in ("before", "after")
    },
    **{
        words: (f"{words} from {AT} after CONNECT", {"kind": "other", "action": words, **CLIENT, "stage": "CONNECT"})
        for words in ("COMMAND TIME LIMIT", "COMMAND COUNT LIMIT", "COMMAND LENGTH LIMIT", "BARE NEWLINE")
    },
    **{
        words: (f"{words} from {AT} after EHLO: {LIE}", {"kind": "other", "action": words, **CLIENT, "stage": "EHLO", "reply": LIE})
        for words in ("NON-SMTP COMMAND", "COMMAND PIPELINING")
    },
    "COMMAND PIPELINING, before 2.10": (
        f"COMMAND PIPELINING from {AT}: QUIT",
        {"kind": "other", "action": "COMMAND PIPELINING", **CLIENT, "reply": "QUIT"},
    ),
    **{
        f"{stage} without RCPT": (f"{stage} without valid RCPT from {AT}", {"kind": "other", "stage": stage, **CLIENT})
        for stage in ("DATA", "BDAT")
    },
    **{
        f"reject: {words}": (
            f"NOQUEUE: reject: CONNECT from {AT}: {words}",
            {"kind": "rejected", "action": "reject", "stage": "CONNECT", **CLIENT, "reply": words},
        )
        for words in ("too many connections", "all server ports busy", "all screening ports busy")
    },
    "reject": (
        f"NOQUEUE: reject: RCPT from {AT}: 550 5.7.1 Service unavailable; client [203.0.113.217] blocked using bl.example; "
        "from=<>, to=<u@example.com>, proto=SMTP, helo=<x>",
        {
            "kind": "rejected",
            "action": "reject",
            "stage": "RCPT",
            **CLIENT,
            "reply_code": 550,
            "dsn": "5.7.1",
            "reply": "Service unavailable; client [203.0.113.217] blocked using bl.example",
            "sender": "",
            "recipient": "u@example.com",
            "helo": "x",
        },
    ),
    "reject, an address that imitates the rest": (
        f"NOQUEUE: reject: RCPT from {AT}: 450 4.3.2 Service currently unavailable; "
        'from=<"a>, to=<v@example.com>, proto=ESMTP, helo=<h"@example.net>, to=<u@example.com>, proto=ESMTP, helo=<x>',
        {
            "kind": "rejected",
            "action": "reject",
            "stage": "RCPT",
            **CLIENT,
            "reply_code": 450,
            "dsn": "4.3.2",
            "reply": "Service currently unavailable",
            "sender": '"a>, to=<v@example.com>, proto=ESMTP, helo=<h"@example.net',
            "recipient": "u@example.com",
            "helo": "x",
        },
    ),
    "reject, cut": (
        f"NOQUEUE: reject: RCPT from {AT}: 550 5.7.1 Service unavailable; client blocked; from=<a@example.net>, to=<uuuu",
        {
            "kind": "rejected",
            "action": "reject",
            "stage": "RCPT",
            **CLIENT,
            "reply_code": 550,
            "dsn": "5.7.1",
            "reply": "Service unavailable; client blocked",
        },
    ),
    "cache": ("cache btree:/var/lib/postfix/postscreen_cache full cleanup: retained=7 dropped=2 entries", {"kind": "other"}),
    "stress": ("entering STRESS mode with 90 connections", {"kind": "other"}),
    "a warning": (
        f"warning: psc_tls: {AT}: x",
        {"kind": "warning", "action": "warning", "reply": f"psc_tls: {AT}: x"},
    ),
}


@pytest.mark.parametrize("name", POSTSCREEN)
def test_postscreen(name):
    text, expected = POSTSCREEN[name]
    assert row(text, "postfix/postscreen[4202]") == {"service": "postscreen", **expected}


@pytest.mark.parametrize("name", [name for name in POSTSCREEN if POSTSCREEN[name][1]["kind"] == "rejected" and "cut" not in name])
def test_rejects_where_the_service_is_lost(name):
    text, expected = POSTSCREEN[name]
    (observed,) = rows(f"<22>1 2026-10-24T06:18:01Z mx postfix 4202 - -  {text}\n".encode())
    assert {field: observed.get(field) for field in expected} == expected


OTHERS = {
    "dnsblog": (
        "dnsblog",
        "addr 203.0.113.217 listed by domain bl.example as 127.0.0.2 127.0.0.4",
        {"kind": "other", "client_ip": "203.0.113.217", "reply": "bl.example as 127.0.0.2 127.0.0.4"},
    ),
    "dnsblog, IPv6": (
        "dnsblog",
        "addr 2001:db8::7 listed by domain bl.example as 127.0.0.2",
        {"kind": "other", "client_ip": "2001:db8::7", "reply": "bl.example as 127.0.0.2"},
    ),
    # Counted by postscreen as a connection.
    "tlsproxy connect": ("tlsproxy", f"CONNECT from {AT}", {"kind": "other", "action": "CONNECT", **CLIENT}),
    "tlsproxy disconnect": ("tlsproxy", f"DISCONNECT {AT}", {"kind": "other", "action": "DISCONNECT", **CLIENT}),
    "tlsproxy handshake": (
        "tlsproxy",
        f"TLS handshake failed for service=smtpd peer={AT}",
        {"kind": "other", "action": "TLS handshake failed", **CLIENT},
    ),
    "tlsproxy as a client": (
        "tlsproxy",
        "Verified TLS connection established to mx.example.net[192.0.2.25]:25: TLSv1.3",
        {
            "kind": "other",
            "action": "established",
            "relay_host": "mx.example.net",
            "relay_ip": "192.0.2.25",
            "relay_port": 25,
            "reply": "TLSv1.3",
        },
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_dnsblog_and_tlsproxy(name):
    service, text, expected = OTHERS[name]
    assert row(text, f"postfix/{service}[4202]") == {"service": service, **expected}
