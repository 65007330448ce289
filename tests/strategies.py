"""Hypothesis strategies: Postfix lines of every form with texts that an attacker would choose."""

from hypothesis import strategies as st

SHORT_IDS = ("4A00000001", "4A00000002", "8F005249014", "DEADBEEF", "1C34F26235C", "123456")
LONG_IDS = ("4PbC4x469Jz3tBr", "4PBC4x469Jz3tBr", "4jXC7f5RFvzKqMj")
VICTIM = "alice@corp.example"

_PIECES = (
    *('"', ">", "<", "\\", ";", ":", ",", " ", "(", ")", "[", "]", "=", "@", "?", ".", "-", "+"),
    *("a", "b7", "info", "example.com", "é", "邮件", "\u2028", "nbsp\u00a0"),
    "; from=<",
    "; from=<a@x.example> to=<b@x.example> proto=ESMTP helo=<h>",
    " from=<",
    " to=<",
    " proto=ESMTP",
    " helo=<",
    "> to=<",
    "> proto=",
    f", sasl_username={VICTIM}",
    f" sasl_username={VICTIM}",
    f" sasl_username=<{VICTIM}>",
    f" sasl_method=PLAIN sasl_username={VICTIM}",
    ", sasl_method=LOGIN",
    ", orig_queue_id=4A00000001",
    ">, orig_to=<",
    ">, relay=evil.example[203.0.113.9]:25",
    ", delay=1",
    ", dsn=2.0.0",
    ", status=sent (",
    ">, size=1, nrcpt=1 (queue active)",
    ">, to=<",
    "queued as 4A00000001",
    " notification: 4A00000002",
    " from x[198.51.100.1]: ",
    f">: Sender address rejected: not owned by user {VICTIM}",
    " authentication failed:",
    "host h[192.0.2.9] said: 550 ",
    " refused to talk to me: ",
    "554 5.7.1 ",
    ": user=<",
    f": user=<{VICTIM}>, method=PLAIN, rip=203.0.113.9, lip=192.0.2.25",
    ">, method=PLAIN, rip=203.0.113.9, ",
    ", rip=203.0.113.9",
    ",203.0.113.9): unknown user",
    ",203.0.113.9,<",
    " (port 25)",
    " while sending ",
    "> to transport=",
    " from local; from=<",
    " from x[198.51.100.1]; from=<",
    ': "@',
    "5.7.1 ",
    ", sasl_sender=",
    "UGFzc3dvcmQ6",
)
texts = st.lists(st.sampled_from(_PIECES), max_size=6).map("".join)
words = st.sampled_from(("a", "user", "info@example.com", "news-7", "x_y", "LOGIN", "PLAIN"))


@st.composite
def addresses(draw):
    """An envelope address as Postfix logs it: plain, null, quoted (3.5 and later), or the raw internal form (before)."""
    shape = draw(st.sampled_from(("plain", "plain", "null", "quoted", "internal")))
    if shape == "plain":
        return draw(st.sampled_from(("a@example.com", "list+7@example.net", "wang@corp.example", "root", "b@xn--fiqs8s.example")))
    if shape == "null":
        return ""
    local = draw(texts)
    if shape == "quoted":
        local = '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return local + "@example.org"


ips = st.sampled_from(("192.0.2.1", "198.51.100.7", "127.0.0.1", "10.1.2.3", "2001:db8::1", "::1", "fe80::1%eth0", "::ffff:192.0.2.1"))
names = st.sampled_from(("unknown", "mail.example.net", "121.145.133.37.dynamic.example", "localhost"))


@st.composite
def clients(draw):
    if draw(st.integers(0, 9)) == 0:
        return "unknown[unknown]"
    port = draw(st.sampled_from(("", "", ":25", ":40123")))
    return f"{draw(names)}[{draw(ips)}]{port}"


relays = st.one_of(
    st.builds(lambda n, i, p: f"{n}[{i}]:{p}", names, ips, st.sampled_from((25, 587, 10024))),
    st.sampled_from(("none", "local", "virtual", "dovecot", "mx[private/dovecot-lmtp]", "mx[/var/run/lmtp]", "::1[::1]:24")),
)
queue_ids = st.sampled_from(SHORT_IDS + LONG_IDS)
codes = st.sampled_from(("550 5.1.1 ", "554 5.7.1 ", "450 4.3.2 ", "553 ", "4.7.1 ", ""))
stages = st.sampled_from(("CONNECT", "HELO", "EHLO", "MAIL", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY"))
helos = texts.map(lambda text: "".join("?" if c in ' <>()\\";@' else c for c in text))
"""smtpd.c's NEUTER_CHARACTERS are gone from a HELO name."""


@st.composite
def tails(draw):
    """``; from=<> to=<> proto= helo=<>`` and the login, each item perhaps."""
    out = ";"
    for item in (
        addresses().map(" from=<{}>".format),
        addresses().map(" to=<{}>".format),
        st.sampled_from((" proto=SMTP", " proto=ESMTP")),
        helos.map(" helo=<{}>".format),
    ):
        if draw(st.integers(0, 4)):
            out += draw(item)
    login = draw(st.sampled_from(("", "", "", " sasl_username=<bob@example.com>", " sasl_method=PLAIN sasl_username=bob@example.com")))
    return out + login + draw(st.sampled_from(("", "", " sasl_sender=z@example.com"))) if login.startswith(" sasl_m") else out + login


replies = st.one_of(
    texts,
    st.builds(
        lambda start, peer, said, text: f"{start}host {peer} {said}: {text}",
        st.sampled_from(("", "delivery temporarily suspended: ")),
        clients(),
        st.sampled_from(("said", "refused to talk to me")),
        st.builds("{}{}".format, st.sampled_from(("550 ", "421 4.7.1 ", "554-")), texts),
    ),
    st.builds("250 2.0.0 Ok: queued as {}{}".format, queue_ids, texts),
    st.builds("delivery temporarily suspended: {}".format, texts),
    st.builds("SASL authentication failed; server {} said: 535 {}".format, clients(), texts),
)


@st.composite
def deliveries(draw):
    orig_to = draw(st.one_of(st.just(""), addresses().map(", orig_to=<{}>".format)))
    use = draw(st.sampled_from(("", "", ", conn_use=3")))
    delay = draw(st.sampled_from(("0", "0.04", "111421", "2.6", "3.25")))
    delays = draw(st.sampled_from(("", ", delays=105070/6348/0/2.6", ", delays=0/0/0/0")))
    tls = draw(st.sampled_from(("", "", ", tls=may", ", tls=dane/!requiretls:nostarttls")))
    dsn = draw(st.sampled_from(("", ", dsn=2.0.0", ", dsn=4.7.500")))
    status = draw(st.sampled_from(("sent", "deferred", "bounced", "SOFTBOUNCE", "deliverable", "undeliverable-but-not-cached")))
    return (
        f"to=<{draw(addresses())}>{orig_to}, relay={draw(relays)}{use}, delay={delay}{delays}{tls}{dsn}, status={status} ({draw(replies)})"
    )


numbers = st.integers(0, 10**12)


def _queued(form):
    return st.builds("{}: {}".format, queue_ids, form)


_access = st.builds(
    "{}: {}: {} from {}: {}{}{}".format,
    st.one_of(queue_ids, st.just("NOQUEUE")),
    st.sampled_from(("reject", "reject_warning", "warn", "hold", "discard", "filter", "milter-reject", "milter-hold")),
    stages,
    clients(),
    codes,
    st.one_of(texts, addresses().map("<{}>: Sender address rejected: not owned by user bob@example.com".format)),
    tails(),
)
_screened = st.builds("[{}]:{}".format, ips, st.integers(1, 65535))
_dovecot = st.one_of(
    st.builds(
        "{}-login: {}{}: user=<{}>{}, rip={}, lip=192.0.2.25{}".format,
        st.sampled_from(("imap", "pop3", "submission", "managesieve", "lmtp")),
        st.sampled_from(("", "", "Info: ")),
        st.sampled_from(
            (
                "Login",
                "Logged in",
                "Disconnected (auth failed, 3 attempts in 5 secs)",
                "Disconnected: Connection closed (auth failed, 1 attempts)",
                "Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed)",
                "Disconnected (no auth attempts in 0 secs)",
                "Disconnected: Connection closed (auth service reported temporary failure)",
                "Disconnected: Auth process broken (disconnected before auth was ready, waited 1 secs)",
            )
        ),
        st.one_of(words, texts),
        st.sampled_from((", method=PLAIN", "", ", method=CRAM-MD5")),
        ips,
        st.sampled_from(("", ", mpid=12, secured, session=<ab/c>", ", TLS: Disconnected")),
    ),
    st.builds(
        "{}{}({},{}{}): {}".format,
        st.sampled_from(
            (
                "auth: ",
                "auth: Info: ",
                "auth-worker(123): ",
                "auth-worker(12): conn unix:auth-worker (pid=919,uid=112): auth-worker<1>: ",
                "auth-worker(12): Info: conn unix:auth-worker (pid=919,uid=112): auth-worker<1>: ",
                *("auth: Error: ", "auth-worker(12): Error: ", "auth-worker(12): sql(x): Error: ", "auth: Error: Info: "),
                "auth-worker(12): Error: conn unix:auth-worker (pid=919,uid=112): auth-worker<1>: ",
            )
        ),
        st.sampled_from(("passwd-file", "pam", "sql", "cram-md5", "SQL")),
        st.one_of(words, texts),
        ips,
        st.sampled_from(("", ",<ab/c>")),
        st.one_of(
            st.sampled_from(("Password mismatch", "unknown user", "Not connected to database", "Password query failed: FATAL: x")), texts
        ),
    ),
    st.builds(
        "auth{}: Error: {}: {}{}".format,
        st.sampled_from(("", "-worker(12)", "-worker(12): sql(x)")),
        st.sampled_from(("mysql(db)", "pgsql(192.0.2.1,192.0.2.2)", "sqlite(/a b)", "LDAP", "auth worker", "auth-worker", "mysql(a): b)")),
        st.sampled_from(
            ("Connect failed to database (mail)", "Aborted PASSV request for ", "Can't connect to server: ldap://x", "Query failed", "")
        ),
        texts,
    ),
    texts.map("imap(x): Error: {}".format),
)
MESSAGES = {
    "smtpd": st.one_of(
        clients().map("connect from {}".format),
        st.builds("disconnect from {}{}".format, clients(), st.sampled_from(("", " ehlo=1 auth=0/3 commands=1/4"))),
        st.builds(
            "warning: {}: SASL {} authentication failed:{}{}".format,
            clients(),
            words,
            st.sampled_from(
                (
                    *("", " ", " UGFzc3dvcmQ6", " (reason unavailable)", " Invalid authentication mechanism", " generic failure"),
                    *(" bm9uY2U9IkFCQ0QiLHFvcD0iYXV0aCI=", " UGFzc3dvcmQ6=", " UGFzc3dv", " Connection lost to authentication server"),
                )
            ),
            st.one_of(st.just(""), st.just(", sasl_username=(unavailable)"), texts.map(", sasl_username={}".format)),
        ),
        st.builds(
            "{}: client={}{}{}{}{}".format,
            st.one_of(queue_ids, st.just("NOQUEUE")),
            clients(),
            st.sampled_from(("", ", sasl_method=LOGIN")),
            st.one_of(st.just(""), st.just(", sasl_username=bob@example.com"), texts.map(", sasl_username={}".format)),
            st.one_of(st.just(""), addresses().map(", sasl_sender={}".format)),
            st.one_of(st.just(""), queue_ids.map(", orig_queue_id={}, orig_client=unknown[192.0.2.9]".format)),
        ),
        _access,
        _access,
        _access,
        st.builds(
            "{}{} after {}{} from {}".format,
            st.sampled_from(("", "", "NOQUEUE: ", "4A00000001: ")),
            st.sampled_from(("lost connection", "timeout", "too many errors", "bare <LF> received", "improper command pipelining")),
            stages,
            st.sampled_from(("", "", " (0 bytes)", " (approximately 9 bytes)")),
            st.one_of(clients(), st.builds("{}: {}".format, clients(), texts)),
        ),
        st.builds(
            "warning: {} from {}{}".format,
            st.sampled_from(
                ("Connection rate limit exceeded: 9", "AUTH command rate limit exceeded: 9", "non-SMTP command", "Illegal address syntax")
            ),
            clients(),
            st.one_of(st.just(" for service 127.0.0.1:25"), texts.map(": {}".format), texts.map(" in MAIL command: {}".format)),
        ),
        st.builds("warning: {}: {}".format, clients(), st.one_of(texts, st.just("SASL LOGIN authentication aborted"))),
        st.builds(
            "warning: {}".format,
            st.one_of(
                st.builds("hostname {} does not resolve to address {}{}".format, names, ips, st.sampled_from(("", ": not found"))),
                st.builds("{}: address not listed for hostname {}".format, st.one_of(ips, names), names),
                st.builds("{}: hostname {} verification failed: {}".format, ips, names, texts),
                st.builds("{}: {}".format, queue_ids, texts),
            ),
        ),
        st.builds(
            "{}TLS connection established from {}{}: TLSv1.3{}".format,
            st.sampled_from(("", "Anonymous ", "Verified ")),
            clients(),
            st.sampled_from(("", " to mx.example.com")),
            texts,
        ),
        st.builds("SSL_accept error from {}: {}".format, clients(), texts),
        st.builds("NOQUEUE: abort: TLS from {}: {}".format, clients(), texts),
        st.builds("NOQUEUE: {}: END-OF-MESSAGE: {}{}{}".format, st.sampled_from(("proxy-accept", "proxy-reject")), codes, texts, tails()),
        texts.map("warning: {}".format),
        st.builds("{}: {}: {}".format, st.sampled_from(("warning", "fatal")), queue_ids, texts),
    ),
    "cleanup": st.one_of(
        _queued(texts.map("message-id={}".format)),
        _queued(texts.map("resent-message-id={}".format)),
        _queued(
            st.builds(
                "{}: {} {} from {}{}{}".format,
                st.sampled_from(("reject", "warning", "hold", "info", "milter-header-reject")),
                st.sampled_from(("header", "body", "content")),
                texts,
                st.one_of(clients(), st.just("local")),
                tails(),
                st.one_of(st.just(""), st.just(": 5.7.1 rejected"), texts.map(": {}".format)),
            )
        ),
        _queued(st.sampled_from(("removed (canceled)", "removed (discarded)"))),
        _access,
        _queued(deliveries()),
    ),
    "pickup": _queued(
        st.builds(
            "uid={} from=<{}>{}".format,
            st.integers(0, 70000),
            addresses(),
            st.sampled_from(("", " orig_id=4A00000001")),
        )
    ),
    "qmgr": _queued(
        st.one_of(
            st.builds("from=<{}>, size={}, nrcpt={} (queue active)".format, addresses(), numbers, numbers),
            st.builds(
                "from=<{}>, status={}, returned to sender".format,
                addresses(),
                st.sampled_from(("expired", "force-expired", "a, b")),
            ),
            st.sampled_from(("removed", "skipped, still being delivered")),
        )
    ),
    "smtp": st.one_of(
        _queued(deliveries()),
        st.builds("connect to {}: {}{}".format, relays, texts, st.sampled_from(("", " (port 25)"))),
        _queued(replies),
        _queued(
            st.one_of(
                st.builds("lost connection with {} while {}".format, clients(), texts),
                st.builds("conversation with {} timed out while {}".format, clients(), texts),
                st.builds("connect to {}: {}".format, relays, texts),
                st.builds("passing <{}> to transport={}".format, addresses(), words),
                st.builds("enabling PIX workarounds: {} for {}".format, words, clients()),
                clients().map("enabling PIX <CRLF>.<CRLF> workaround for {}".format),
                clients().map("TLS is required, but was not offered by host {}".format),
            )
        ),
        st.builds(
            "{}TLS connection {} to {}: {}".format,
            st.sampled_from(("", "Untrusted ", "Verified ", "Certain ")),
            st.sampled_from(("established", "reused", "lost")),
            clients(),
            texts,
        ),
        st.builds("certificate verification failed for {}: {}".format, clients(), texts),
        st.builds("SSL_connect error to {}: {}".format, clients(), texts),
    ),
    "lmtp": st.one_of(_queued(deliveries()), st.builds("connect to {}: {}".format, relays, texts)),
    "nqmgr": _queued(deliveries()),
    "local": _queued(deliveries()),
    "error": _queued(deliveries()),
    "bounce": _queued(
        st.builds(
            "{} {} notification: {}".format,
            st.sampled_from(("sender", "postmaster")),
            st.sampled_from(("non-delivery", "delay", "delivery status")),
            queue_ids,
        )
    ),
    "postsuper": st.one_of(
        _queued(st.sampled_from(("removed", "requeued", "placed on hold", "released from hold", "expired"))),
        st.sampled_from(("Deleted: 1 message", "Placed on hold: 7 messages", "Force-expired: 2 messages", "Expired: 1 message")),
    ),
    "postscreen": st.one_of(
        st.builds(
            "NOQUEUE: reject: RCPT from [{}]:{}: 550 5.7.1 Service unavailable; client [{}] blocked; "
            "from=<{}>, to=<{}>, proto=ESMTP, helo=<{}>".format,
            ips,
            st.integers(1, 65535),
            ips,
            addresses(),
            addresses(),
            helos,
        ),
        st.builds("CONNECT from {}{}".format, _screened, st.sampled_from(("", " to [192.0.2.1]:25"))),
        st.builds(
            "NOQUEUE: reject: CONNECT from {}: {}".format,
            _screened,
            st.sampled_from(("too many connections", "all server ports busy", "x")),
        ),
        st.builds("NOQUEUE: reject: RCPT from {}: 550 5.5.1 {}; from=<{}".format, _screened, texts, texts),
        st.builds(
            "{} {}".format,
            st.sampled_from(
                ("DISCONNECT", "PASS OLD", "PASS NEW", "PASS", "ALLOWLISTED", "BLACKLISTED", "ALLOWLIST VETO", "DENYLIST VETO")
            ),
            _screened,
        ),
        st.builds("PREGREET {} after 0.1 from {}: {}".format, numbers, _screened, texts),
        st.builds("DNSBL rank {} for {}".format, numbers, _screened),
        st.builds("HANGUP after 0 from {} in tests {} SMTP handshake".format, _screened, words | st.just("before")),
        st.builds(
            "{} from {}{}{}".format,
            st.sampled_from(("COMMAND TIME LIMIT", "BARE NEWLINE", "NON-SMTP COMMAND", "COMMAND PIPELINING", "COMMAND")),
            _screened,
            st.sampled_from(("", " after CONNECT", " after HELO x")),
            st.one_of(st.just(""), texts.map(": {}".format)),
        ),
        st.builds("{} without valid RCPT from {}".format, st.sampled_from(("DATA", "BDAT", "RCPT")), _screened),
    ),
    "dnsblog": st.builds("addr {} listed by domain {} as {}".format, ips, words, texts),
    "tlsproxy": st.one_of(
        st.builds("{} {}".format, st.sampled_from(("CONNECT from", "DISCONNECT")), _screened),
        st.builds("TLS handshake failed for service={} peer={}".format, words, _screened),
    ),
    "anvil": st.just("statistics: max connection rate 1/60s for (smtp:192.0.2.1) at Oct 24 06:18:01"),
    "newdaemon": st.one_of(_queued(deliveries()), texts),
}
"""What each daemon may write, by its name."""

_DAEMONS = (*sorted(MESSAGES), *["smtpd"] * 8, *["cleanup"] * 4, *["smtp"] * 4)

stamps = st.sampled_from(
    (
        "Oct 24 06:18:01 ",
        "Oct  3 16:36:01 ",
        "Oct 3 16:36:01 ",
        "Oct 03 16:36:01 ",
        "2026-11-22T02:04:44.292282+00:00 ",
        "2026-11-22T02:04:44Z ",
        "2026-11-22T02:04:44.5+0130 ",
        "2026-11-22T02:04:44-08:00 ",
    )
)
prefixes = st.sampled_from(("postfix/", "postfix/", "postfix/submission/", "postfix-out/", "postfix/10025/", "postfix-10.20.30.40/"))


@st.composite
def lines(draw):
    """A whole line, without its newline, under any of the headers."""
    daemon = draw(st.sampled_from(_DAEMONS))
    message = draw(MESSAGES[daemon])
    stamp = draw(stamps)
    if draw(st.integers(0, 5)) == 0:
        data = draw(st.sampled_from(("-", '[origin ip="192.0.2.1"][x@1 a="b\\"]" c="d"]')))
        app = draw(st.sampled_from(("postfix", f"postfix/{daemon}")))
        return f"<22>1 2026-11-22T02:04:44.292282+00:00 mx1 {app} 4202 - {data}  {message}".encode()
    pri = draw(st.sampled_from(("", "", "<22>")))
    pid = draw(st.sampled_from(("[4202]", "[1]", "")))
    if draw(st.integers(0, 9)) == 0:
        return f"{pri}{stamp}mx1 dovecot{pid}: {draw(_dovecot)}".encode()
    colon = draw(st.sampled_from((":", ":", ":", ""))) if pid else ":"
    return f"{pri}{stamp}mx1 {draw(prefixes)}{daemon}{pid}{colon} {message}".encode()


@st.composite
def damaged(draw):
    """A line as the world delivers it: whole, cut anywhere, or with a few bytes changed."""
    line = draw(lines())
    harm = draw(st.sampled_from(("none", "none", "cut", "bytes", "carriage return", "zeros")))
    if harm == "cut":
        return line[: draw(st.integers(0, len(line)))]
    if harm == "bytes":
        out = bytearray(line)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(out) - 1))
            out[at] = draw(st.sampled_from(b' <>[]:;,="\\\x00\xff\x80aZ19'))
        return bytes(out)
    return line + b"\r" if harm == "carriage return" else b"\0\0\0" + line if harm == "zeros" else line
