"""Queue manager, deliveries, bounces, postsuper and the smaller daemons: a line of every template by hand, and its text turned against it."""

import pytest
from helpers import detections, make_engine, row, rows

LINE = b"Oct 24 06:18:01 mx postfix/"
RELAY = {"relay_host": "mx.example.net", "relay_ip": "192.0.2.25"}
HOST = "mx.example.net[192.0.2.25]"
TO = "4A00000001: to=<u@example.net>"
DELAYS = "delay=2.6, delays=0.1/0/1.5/1"


def fields(text, service="smtp"):
    """The row of a text that a daemon of this name wrote."""
    observed = row(text, f"postfix/{service}[4202]")
    assert observed.pop("service") == service
    return observed


def delivery(**more):
    return {"kind": "delivery", "queue_id": "4A00000001", "recipient": "u@example.net", **more}


# service, what stands between recipient and status, fields
FORMS_OF_DELIVERY = {
    "host, address, port": ("smtp", f", relay={HOST}:25, {DELAYS}, dsn=2.0.0", {**RELAY, "relay_port": 25, "delay": 2.6, "dsn": "2.0.0"}),
    "before 2.3": ("smtp", f", relay={HOST}, delay=3", {**RELAY, "delay": 3.0}),
    "before 2.3, by the queue manager": ("nqmgr", ", relay=none, delay=86400", {"delay": 86400.0}),
    "connection used again": (
        "smtp",
        f", relay={HOST}:25, conn_use=12, {DELAYS}, dsn=2.0.0",
        {**RELAY, "relay_port": 25, "delay": 2.6, "dsn": "2.0.0"},
    ),
    "tls, a level": (
        "smtp",
        f", relay={HOST}:25, {DELAYS}, tls=may, dsn=2.0.0",
        {**RELAY, "relay_port": 25, "delay": 2.6, "dsn": "2.0.0"},
    ),
    "tls, downgraded": (
        "smtp",
        f", relay={HOST}:25, conn_use=2, {DELAYS}, tls=dane/!requiretls:nostarttls, dsn=2.0.0",
        {**RELAY, "relay_port": 25, "delay": 2.6, "dsn": "2.0.0"},
    ),
    "tls, unknown": ("smtp", f", relay=none, {DELAYS}, tls=may?, dsn=4.4.1", {"delay": 2.6, "dsn": "4.4.1"}),
    "before rewriting": (
        "smtp",
        f", orig_to=<alias@example.com>, relay={HOST}:25, {DELAYS}, dsn=2.0.0",
        {"orig_to": "alias@example.com", **RELAY, "relay_port": 25, "delay": 2.6, "dsn": "2.0.0"},
    ),
    "IPv6": (
        "smtp",
        f", relay=mx.example.net[2001:db8::25]:587, {DELAYS}, dsn=2.0.0",
        {"relay_host": "mx.example.net", "relay_ip": "2001:db8::25", "relay_port": 587, "delay": 2.6, "dsn": "2.0.0"},
    ),
    "IPv6 as a host": (
        "lmtp",
        f", relay=::1[::1]:24, {DELAYS}, dsn=2.0.0",
        {"relay_host": "::1", "relay_ip": "::1", "relay_port": 24, "delay": 2.6, "dsn": "2.0.0"},
    ),
    "a socket": (
        "lmtp",
        f", relay=mx.example.net[private/dovecot-lmtp], {DELAYS}, dsn=2.0.0",
        {"relay_host": "mx.example.net", "delay": 2.6, "dsn": "2.0.0"},
    ),
    "a socket by its path": (
        "lmtp",
        f", relay=mx.example.net[/run/lmtp/socket], {DELAYS}, dsn=2.0.0",
        {"relay_host": "mx.example.net", "delay": 2.6, "dsn": "2.0.0"},
    ),
    "local": ("local", f", relay=local, {DELAYS}, dsn=2.0.0", {"relay_host": "local", "delay": 2.6, "dsn": "2.0.0"}),
    "virtual": ("virtual", f", relay=virtual, {DELAYS}, dsn=2.0.0", {"relay_host": "virtual", "delay": 2.6, "dsn": "2.0.0"}),
    "a pipe": ("pipe", f", relay=spamfilter, {DELAYS}, dsn=2.0.0", {"relay_host": "spamfilter", "delay": 2.6, "dsn": "2.0.0"}),
    "discard": ("discard", f", relay=none, {DELAYS}, dsn=2.0.0", {"delay": 2.6, "dsn": "2.0.0"}),
    "retry": ("retry", f", relay=none, {DELAYS}, dsn=4.3.0", {"delay": 2.6, "dsn": "4.3.0"}),
    "cleanup": ("cleanup", f", relay=none, {DELAYS}, dsn=5.1.6", {"delay": 2.6, "dsn": "5.1.6"}),
    "three digits in the dsn": ("smtp", f", relay=none, {DELAYS}, dsn=4.7.650", {"delay": 2.6, "dsn": "4.7.650"}),
}


@pytest.mark.parametrize("name", FORMS_OF_DELIVERY)
def test_delivery(name):
    service, middle, expected = FORMS_OF_DELIVERY[name]
    said = "host mx9.example.org[203.0.113.9] said: 550 x, relay=y[203.0.113.9]:9, delay=9, delays=9, tls=no, dsn=9.9.9, status=sent (z)"
    for status in ("sent", "deferred", "bounced"):
        assert fields(f"{TO}{middle}, status={status} (as told)", service) == delivery(**expected, status=status, reply="as told")
        observed = fields(f"{TO}{middle}, status={status} ({said})", service)
        assert observed == delivery(**expected, status=status, reply=said, reply_code=550)


@pytest.mark.parametrize("status", ["deliverable", "undeliverable", "undeliverable-but-not-cached"])
def test_address_verification_is_not_mail(status):
    """No rule that counts messages or bounces of an account sees it; the metrics keep it apart."""
    engine = make_engine(year=2026)
    log = [
        LINE + b"smtpd[1]: 4A00000001: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username=info@example.com\n",
        *(
            LINE
            + f"smtp[2]: 4A00000001: to=<u{n}@d{n}.example>, relay={HOST}:25, {DELAYS}, dsn=5.1.1, status={status} "
            f"(host {HOST} said: 550 5.1.1 <u{n}@d{n}.example>: User unknown (in reply to RCPT TO command))\n".encode()
            for n in range(100)
        ),
    ]
    assert detections(engine, log) == []
    assert {name for name, _ in engine.counters()["deliveries"]} == {status.removesuffix("-but-not-cached")}


def test_soft_bounce():
    observed = fields(f'{TO}, relay=local, {DELAYS}, dsn=4.1.1, status=SOFTBOUNCE (unknown user: "u")', "local")
    assert observed == delivery(relay_host="local", delay=2.6, dsn="4.1.1", status="SOFTBOUNCE", reply='unknown user: "u"')


def test_handed_to_a_filter_is_a_hop_and_final_sent_counts():
    engine = make_engine(year=2026)
    engine.feed(
        LINE
        + b"smtpd[1]: 4A00000001: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username=info@example.com\n"
        + LINE
        + b"smtpd[1]: 4A00000002: client=localhost[127.0.0.1]\n"
        + LINE
        + b"smtp[2]: 4A00000001: to=<u@example.net>, relay=127.0.0.1[127.0.0.1]:10024, delay=1, delays=0/0/0/1, dsn=2.0.0, "
        b"status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 4A00000002)\n"
        + LINE
        + b"smtp[2]: 4A00000002: to=<u@example.net>, relay=mx.example.net[192.0.2.25]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, "
        b"status=sent (250 2.0.0 Ok: queued as 4A00000001)\n"
    )
    engine.finish()
    assert sum(engine.counters()["deliveries"].values()) == 1


CONNECT_FAILED = {
    "refused": (f"connect to {HOST}:25: Connection refused", {**RELAY, "relay_port": 25, "reply": "Connection refused"}),
    "before 2.5": (f"connect to {HOST}: Connection timed out (port 25)", {**RELAY, "relay_port": 25, "reply": "Connection timed out"}),
    "before 2.5, IPv6": (
        "connect to mx.example.net[2001:db8::25]: No route to host (port 587)",
        {"relay_host": "mx.example.net", "relay_ip": "2001:db8::25", "relay_port": 587, "reply": "No route to host"},
    ),
    "before 2.5, the greeting": (
        f"connect to {HOST}: server refused to talk to me: 452 later (port 7) (port 25)",
        {**RELAY, "relay_port": 25, "reply": "server refused to talk to me: 452 later (port 7)", "reply_code": 452},
    ),
    "a socket": (
        "connect to mx.example.net[private/lmtp]: No such file or directory",
        {"relay_host": "mx.example.net", "reply": "No such file or directory"},
    ),
    "with a queue ID": (
        f"4A00000001: connect to {HOST}:25: Connection refused",
        {"queue_id": "4A00000001", **RELAY, "relay_port": 25, "reply": "Connection refused"},
    ),
    "said": (
        f"4A00000001: host {HOST} said: 450 4.2.0 <u@example.net>: Greylisted (in reply to RCPT TO command)",
        {
            "queue_id": "4A00000001",
            **RELAY,
            "reply": "450 4.2.0 <u@example.net>: Greylisted (in reply to RCPT TO command)",
            "reply_code": 450,
        },
    ),
    "said what imitates us": (
        f"4A00000001: host {HOST} said: 550-host x[203.0.113.9] said: 421 y refused to talk to me: 250 (port 9)",
        {
            "queue_id": "4A00000001",
            **RELAY,
            "reply": "550-host x[203.0.113.9] said: 421 y refused to talk to me: 250 (port 9)",
            "reply_code": 550,
        },
    ),
    "refused to talk": (
        f"4A00000001: host {HOST} refused to talk to me: 554-x 554 host y[203.0.113.9] said: 250 ok",
        {"queue_id": "4A00000001", **RELAY, "reply": "554-x 554 host y[203.0.113.9] said: 250 ok", "reply_code": 554},
    ),
    "our login was refused": (
        f"4A00000001: SASL authentication failed; server {HOST} said: 535 5.7.8 no",
        {"queue_id": "4A00000001", **RELAY, "reply": "535 5.7.8 no", "reply_code": 535},
    ),
    "our login was refused before": (
        f"4A00000001: SASL [CACHED] authentication failed; server {HOST}:587 said: 535 5.7.8 SASL authentication failed; server x said: 550 y",
        {
            "queue_id": "4A00000001",
            **RELAY,
            "relay_port": 587,
            "reply": "535 5.7.8 SASL authentication failed; server x said: 550 y",
            "reply_code": 535,
        },
    ),
    "we cannot log in": (
        f"4A00000001: SASL authentication failed; cannot authenticate to server {HOST}: no mechanism available",
        {"queue_id": "4A00000001", **RELAY, "reply": "no mechanism available"},
    ),
    "we cannot log in, and why imitates an answer": (
        f"4A00000001: SASL authentication failed; cannot authenticate to server {HOST}:25: x server y[203.0.113.9] said: 550 z",
        {"queue_id": "4A00000001", **RELAY, "relay_port": 25, "reply": "x server y[203.0.113.9] said: 550 z"},
    ),
    "lost connection": (
        f"4A00000001: lost connection with {HOST} while sending MAIL FROM",
        {"queue_id": "4A00000001", **RELAY, "action": "lost connection", "reply": "while sending MAIL FROM"},
    ),
    "timed out": (
        f"4A00000001: conversation with {HOST} timed out while receiving the initial server greeting",
        {
            "queue_id": "4A00000001",
            **RELAY,
            "action": "conversation",
            "reply": "timed out while receiving the initial server greeting",
        },
    ),
    "TLS": (
        f"4A00000001: TLS is required, but was not offered by host {HOST}",
        {"queue_id": "4A00000001", **RELAY, "reply": "TLS is required"},
    ),
    "TLS handshake": (
        f"SSL_connect error to {HOST}:25: lost connection",
        {**RELAY, "relay_port": 25, "action": "SSL_connect error", "reply": "lost connection"},
    ),
}


@pytest.mark.parametrize("name", CONNECT_FAILED)
def test_one_host_failed(name):
    text, expected = CONNECT_FAILED[name]
    assert fields(text) == {"kind": "connect_failed", **expected}


@pytest.mark.parametrize("cached", ["", "[CACHED] "])
@pytest.mark.parametrize("suspended", ["", "delivery temporarily suspended: "])
def test_delivery_that_waits_for_a_login(cached, suspended):
    reply = f"{suspended}SASL {cached}authentication failed; server {HOST} said: 535 5.7.8 no"
    observed = fields(f"4A00000001: to=<u@example.net>, relay={HOST}:25, delay=1, delays=0/0/1/0, dsn=4.7.8, status=deferred ({reply})")
    assert (observed["reply"], observed["reply_code"]) == (reply, 535)


def test_a_greeting_does_not_choose_its_port():
    observed = fields(f"4A00000001: host {HOST} refused to talk to me: 421 x (port 7)")
    assert "relay_port" not in observed
    assert fields(f"connect to {HOST}:25: x (port 7)")["relay_port"] == 25


INFORMATION = {
    "passing": (
        "smtp",
        "4A00000001: passing <u@example.net> to transport=local",
        {"queue_id": "4A00000001", "action": "passing", "recipient": "u@example.net"},
    ),
    "passing, a recipient that imitates the rest": (
        "lmtp",
        '4A00000001: passing <"u> to transport=x"@example.net> to transport=relay',
        {"queue_id": "4A00000001", "action": "passing", "recipient": '"u> to transport=x"@example.net'},
    ),
    "PIX": (
        "smtp",
        f"4A00000001: enabling PIX workarounds: disable_esmtp delay_dotcrlf for {HOST}:25",
        {"queue_id": "4A00000001", "action": "enabling PIX workarounds", **RELAY, "relay_port": 25},
    ),
    "PIX, before 2.5": (
        "smtp",
        f"4A00000001: enabling PIX <CRLF>.<CRLF> workaround for {HOST}",
        {"queue_id": "4A00000001", "action": "enabling PIX", **RELAY},
    ),
    **{
        f"TLS {level}{word}": (
            "smtp",
            f"{level}TLS connection {word} to {HOST}:25: TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)",
            {
                "action": word,
                **RELAY,
                "relay_port": 25,
                "reply": "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)",
            },
        )
        for level in ("Untrusted ", "Trusted ", "Verified ", "Anonymous ", "")
        for word in ("established", "reused")
    },
    "certificate": (
        "smtp",
        f"certificate verification failed for {HOST}:25: untrusted issuer /CN=x to y[203.0.113.9]:9: z",
        {
            "action": "certificate verification failed",
            **RELAY,
            "relay_port": 25,
            "reply": "untrusted issuer /CN=x to y[203.0.113.9]:9: z",
        },
    ),
    "skipped": ("qmgr", "4A00000001: skipped, still being delivered", {"queue_id": "4A00000001", "action": "skipped"}),
    **{
        f"postsuper {word}": ("postsuper", f"4A00000001: {word}", {"queue_id": "4A00000001", "action": word})
        for word in ("requeued", "placed on hold", "released from hold", "expired")
    },
    **{
        f"postsuper, total {word}": ("postsuper", f"{word}: {count}", {"action": word})
        for word in ("Deleted", "Requeued", "Placed on hold", "Released from hold", "Force-expired")
        for count in ("1 message", "7 messages")
    },
    "anvil rate": ("anvil", "statistics: max connection rate 9/60s for (smtp:198.51.100.7) at Oct 24 06:18:01", {}),
    "anvil rate, a service with an address": (
        "anvil",
        "statistics: max auth rate 9/60s for (127.0.0.1:2525:2001:db8::7) at Oct 24 06:18:01",
        {},
    ),
    "anvil count": ("anvil", "statistics: max connection count 9 for (submission:unknown) at Oct 24 06:18:01", {}),
    "anvil cache": ("anvil", "statistics: max cache size 2 at Oct 24 06:18:01", {}),
    "scache start": ("scache", "statistics: start interval Oct 24 06:18:01", {}),
    "scache domain": ("scache", "statistics: domain lookup hits=1 miss=3 success=25%", {}),
    "scache address": ("scache", "statistics: address lookup hits=1 miss=3 success=25%", {}),
    "scache maximum": ("scache", "statistics: max simultaneous domains=1 addresses=2 connection=2", {}),
    "master start": ("master", "daemon started -- version 3.10.1, configuration /etc/postfix", {}),
    "master reload": ("master", "reload -- version 3.10.1, configuration /etc/postfix", {}),
    "master end": ("master", "terminating on signal 15", {}),
    "verify cache": ("verify", "cache btree:/var/lib/postfix/verify_cache full cleanup: retained=7 dropped=2 entries", {}),
    "postfix-script": ("postfix-script", "starting the Postfix mail system", {}),
    "a table": ("trivial-rewrite", "table hash:/etc/postfix/transport(0,lock|fold_fix) has changed -- restarting", {}),
}


@pytest.mark.parametrize("name", INFORMATION)
def test_information(name):
    service, text, expected = INFORMATION[name]
    assert fields(text, service) == {"kind": "other", **expected}


def test_an_operators_removal_is_no_delivery():
    assert fields("4A00000001: removed", "postsuper") == {"kind": "removed", "queue_id": "4A00000001"}


@pytest.mark.parametrize("status", ["expired", "force-expired"])
def test_expired(status):
    sender = '"a>, status=sent, returned to sender"@example.net'
    observed = fields(f"4A00000001: from=<{sender}>, status={status}, returned to sender", "qmgr")
    assert observed == {"kind": "delivery", "queue_id": "4A00000001", "sender": sender, "status": status}


def test_first_sighting_and_retry():
    """qmgr prints a message again with every attempt; its recipients count once."""
    queued = LINE + b"qmgr[1]: 4A00000001: from=<a@example.com>, size=9, nrcpt=5 (queue active)\n"
    login = LINE + b"smtpd[1]: 4A00000001: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username=info@example.com\n"
    observed = rows(login + queued * 3)
    assert [one["nrcpt"] for one in observed[1:]] == [5, 5, 5]
    engine = make_engine(year=2026)
    assert detections(engine, [login + queued * 100]) == []


NOTICES = (
    "sender non-delivery",
    "sender delay",
    "sender delivery status",
    "postmaster non-delivery",
    "postmaster delay",
    "postmaster delivery status",
)


@pytest.mark.parametrize("service", ["bounce", "defer", "trace"])
@pytest.mark.parametrize("words", NOTICES)
def test_bounce_notice(words, service):
    observed = fields(f"4A00000001: {words} notification: 4A00000002", service)
    assert observed == {"kind": "bounce_notice", "queue_id": "4A00000001", "action": words, "linked_queue_id": "4A00000002"}


@pytest.mark.parametrize("order", ["before 3.11", "3.11"])
def test_bounce_notice_in_both_orders(order):
    """The notification is Postfix's own mail, and not that of the account whose message bounced."""
    notice = LINE + b"bounce[1]: 4A00000001: sender non-delivery notification: 4A00000002\n"
    own = LINE + b"cleanup[1]: 4A00000002: message-id=<x@mx>\n" + LINE + b"qmgr[1]: 4A00000002: from=<>, size=9, nrcpt=1 (queue active)\n"
    log = LINE + b"smtpd[1]: 4A00000001: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username=info@example.com\n"
    log += own + notice if order == "before 3.11" else notice + own
    log += LINE + b"local[1]: 4A00000002: to=<u@example.com>, relay=local, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (delivered)\n"
    engine = make_engine((), year=2026)
    last = engine.feed(log).events
    observed = [last.row(i) for i in range(len(last))]
    assert [one["kind"] for one in observed].count("bounce_notice") == 1
    assert all("sasl_username" not in one for one in observed if one.get("queue_id") == "4A00000002")
    engine.finish()


def test_notification_that_failed():
    observed = fields("warning: 4A00000001: sender notification failed to u@example.net: 4A00000002: x", "bounce")
    assert observed == {
        "kind": "warning",
        "action": "warning",
        "queue_id": "4A00000001",
        "reply": "4A00000001: sender notification failed to u@example.net: 4A00000002: x",
    }


WARNINGS = {
    "a child that ended": ("master", "warning", "process /usr/lib/postfix/sbin/smtpd pid 7 exit status 1"),
    "a child that was killed": ("master", "warning", "process /usr/lib/postfix/sbin/smtpd pid 7 killed by signal 15"),
    "throttling": ("master", "warning", "/usr/lib/postfix/sbin/smtpd: bad command startup -- throttling"),
    "process limit": ("master", "warning", 'service "smtp" (25) has reached its process limit "100": new clients may experience delays'),
    "no file": ("postdrop", "warning", "mail_queue_enter: create file maildrop/4.7: Permission denied"),
    "sendmail": ("sendmail", "fatal", "u@example.com(1000): message file too big"),
    "an error": ("smtp", "error", "unsupported dictionary type: x"),
    "panic": ("qmgr", "panic", "myfree: corrupt memory block"),
    "an address, not a queue ID": ("smtp", "warning", "2001:db8::7: x"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_warning(name):
    service, severity, text = WARNINGS[name]
    assert fields(f"{severity}: {text}", service) == {"kind": "warning", "action": severity, "reply": text}


@pytest.mark.parametrize("tag", ["postmulti[7]", "postsuper[7]", "postfix/postmulti[7]"])
def test_commands_log_under_their_own_name(tag):
    observed = row("4A00000001: text", tag)
    assert (observed["kind"], observed["service"]) == ("other", tag.rpartition("/")[2].removesuffix("[7]"))
