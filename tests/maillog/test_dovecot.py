"""Dovecot's login lines: which of them are events, and that a user's name can't choose address or account."""

import pytest
from helpers import STAMP, detections, make_engine, row, rows

PROCESSES = ("imap-login", "pop3-login", "submission-login", "managesieve-login")
USER = "info@example.com"
REST = "rip=198.51.100.7, lip=192.0.2.25, mpid=4711, TLS, session=<YfTK5tNg6LB/AAAB>"
WHO = {"service": "dovecot", "sasl_username": USER, "client_ip": "198.51.100.7"}


def dovecot(text, tag="dovecot"):
    return row(text, tag)


@pytest.mark.parametrize("info", ["", "Info: "])
@pytest.mark.parametrize("tag", ["dovecot", "dovecot[7508]"])
@pytest.mark.parametrize("words", ["Login", "Logged in"])
@pytest.mark.parametrize("process", PROCESSES)
def test_login(process, words, tag, info):
    observed = dovecot(f"{process}: {info}{words}: user=<{USER}>, method=PLAIN, {REST}", tag)
    assert observed == {"kind": "auth_success", **WHO, "sasl_method": "PLAIN"}


@pytest.mark.parametrize(
    "words",
    [
        "Disconnected (auth failed, 3 attempts in 5 secs)",
        "Disconnected (auth failed, 1 attempts)",
        "Disconnected: Connection closed (auth failed, 2 attempts in 30 secs)",
        "Disconnected: Inactivity (auth failed, 1 attempts in 180 secs)",
        "Disconnected: Too many invalid commands (auth failed, 1 attempts in 0 secs)",
        "Aborted login (auth failed, 1 attempts in 2 secs)",
        "Aborted login by logging out (auth failed, 1 attempts in 15 secs)",
        "Login aborted: Connection closed (auth failed, 1 attempts in 2 secs) (auth_failed)",
    ],
)
@pytest.mark.parametrize("info", ["", "Info: "])
@pytest.mark.parametrize("process", PROCESSES)
def test_failed_login(process, info, words):
    observed = dovecot(f"{process}: {info}{words}: user=<{USER}>, method=LOGIN, {REST}")
    assert observed == {"kind": "auth_failed", **WHO, "sasl_method": "LOGIN", "reply": words}


def test_failed_login_without_a_method_or_a_user():
    failed = "imap-login: Disconnected (auth failed, 1 attempts in 2 secs): user=<{}>, {}rip=2001:db8::7, lip=2001:db8::1"
    observed = dovecot(failed.format("", ""))
    reply = "Disconnected (auth failed, 1 attempts in 2 secs)"
    assert observed == {"kind": "auth_failed", "service": "dovecot", "client_ip": "2001:db8::7", "reply": reply}
    observed = dovecot(failed.format("x", "method=CRAM-MD5, "))
    assert (observed["sasl_username"], observed["sasl_method"]) == ("x", "CRAM-MD5")


def test_address_at_the_end_of_the_line():
    observed = dovecot(f"imap-login: Login: user=<{USER}>, method=PLAIN, rip=198.51.100.7")
    assert observed == {"kind": "auth_success", **WHO, "sasl_method": "PLAIN"}


@pytest.mark.parametrize(
    "words",
    [
        "Disconnected (no auth attempts in 0 secs)",
        "Disconnected: Inactivity (no auth attempts in 180 secs)",
        "Disconnected (tried to use disallowed plaintext auth)",
        "Disconnected: Connection closed (internal failure, 1 successful auths)",
        "Login aborted: Connection closed (no auth attempts in 2 secs) (no_auth_attempts)",
    ],
)
def test_a_connection_that_tried_no_password_is_no_failure(words):
    observed = dovecot(f"imap-login: {words}: user=<>, {REST}")
    assert observed == {"kind": "other", "service": "dovecot", "client_ip": "198.51.100.7", "reply": words}


@pytest.mark.parametrize(
    "words",
    [
        "Disconnected: Connection closed (auth service reported temporary failure)",
        "Login aborted: Connection closed (auth service reported temporary failure) (auth_failed)",
        "Disconnected (auth process communication failure)",
        "Disconnected: Auth process broken (disconnected before auth was ready, waited 1 secs)",
    ],
)
@pytest.mark.parametrize("user", [USER, ""])
def test_a_login_that_the_server_could_not_check(words, user):
    observed = dovecot(f"imap-login: {words}: user=<{user}>, method=PLAIN, {REST}")
    who = {name: value for name, value in WHO.items() if value != USER or user}
    assert observed == {"kind": "auth_failed", **who, "sasl_method": "PLAIN", "action": "server-fault", "reply": words}


# As Dovecot 2.3.19 wrote them when PostgreSQL, or MariaDB, was stopped.
CONN = "conn unix:auth-worker (pid=17515,uid=109): auth-worker<14>: "
NO_DATABASE = {
    "sql": ("auth: Error: sql({u},{i}): ", "Not connected to database"),
    "session": ("auth: Error: sql({u},{i},<lJ3MkFdhQJzLAHEM>): ", "Not connected to database"),
    "query": ("auth: Error: sql({u},{i}): ", "Password query failed: FATAL:  terminating connection due to administrator command"),
    "worker": ("auth-worker(17851): Error: " + CONN + "sql({u},{i}): ", "Not connected to database"),
    "worker, session": ("auth-worker(17851): Error: " + CONN + "sql({u},{i},<9Vitk1dhQJzLAHEN>): ", "Not connected to database"),
}
UNNAMED = {
    "pgsql": ("auth: Error: pgsql(127.0.0.1): ", "Connect failed to database mail: Connection refused"),
    "mysql": (
        "auth-worker(17635): Error: mysql(127.0.0.1): ",
        "Connect failed to database (mail): Can't connect to server on '127.0.0.1' (115) - waiting for 1 seconds before retry",
    ),
    "ldap": ("auth: Error: LDAP: ", "Can't connect to server: ldap://127.0.0.1"),
    "aborted": ("auth: Error: auth worker: ", "Aborted PASSV request for x,203.0.113.9): y: Lookup timed out"),
    "aborted, 2.3": ("auth: Error: auth-worker: ", "Aborted PASSV request for x: Worker process died unexpectedly"),
}


@pytest.mark.parametrize("name", NO_DATABASE)
def test_the_auth_process_can_not_look_up_a_password(name):
    """A warning and no failure: the login process, or smtpd that asked, says that it failed."""
    before, reply = NO_DATABASE[name]
    observed = dovecot(before.format(u=USER, i="198.51.100.7") + reply)
    assert observed == {"kind": "warning", **WHO, "action": "server-fault", "reply": reply}


@pytest.mark.parametrize("name", UNNAMED)
def test_the_auth_process_does_not_reach_its_database(name):
    before, reply = UNNAMED[name]
    assert dovecot(before + reply) == {"kind": "warning", "service": "dovecot", "action": "server-fault", "reply": reply}


@pytest.mark.parametrize(
    "text",
    [
        "auth: Error: sql(info@example.com,198.51.100.7): Invalid password in passdb: Password is not blowfish password",
        "auth: Error: pam(info@example.com,198.51.100.7): pam_start() failed",
        "auth: Error: pgsql(127.0.0.1): Prepared statement failed",
        "auth: Error: #011Is the server running on that host and accepting TCP/IP connections? (state: connecting)",
    ],
)
def test_other_errors_of_the_auth_process(text):
    assert dovecot(text) == {"kind": "other", "service": "dovecot"}


ASKED = {
    "password": "auth: passwd-file({u},{i}): Password mismatch",
    "unknown": "auth: passwd-file({u},{i}): unknown user",
    "session": "auth: Info: passwd-file({u},{i},<yrpPNNNgCtx/AAAB>): Password mismatch",
    "worker": "auth-worker(24058): pam({u},{i},<ab/c>): pam_authenticate() failed: Authentication failure (Password mismatch?)",
    "worker, Info": "auth-worker(24058): Info: pam({u},{i}): unknown user",
    "worker, 2.3": "auth-worker(12): conn unix:auth-worker (pid=919,uid=112): auth-worker<1>: sql({u},{i}): unknown user (given password: x)",
    "worker, 2.3, Info": "auth-worker(12): Info: conn unix:auth-worker (pid=919,uid=112): auth-worker<1>: sql({u},{i}): Password mismatch",
}


@pytest.mark.parametrize("name", ASKED)
def test_what_the_auth_process_says_is_no_event_of_its_own(name):
    observed = dovecot(ASKED[name].format(u=USER, i="198.51.100.7"))
    assert observed == {"kind": "other", **WHO}


@pytest.mark.parametrize(
    "text",
    [
        "master: Dovecot v2.3.19.1 (9b53102964) starting up for imap (core dumps disabled)",
        "imap(info@example.com): Error: Mail access for users with UID 8 not permitted",
        "imap(info@example.com)<7><ab>: Disconnected: Logged out in=1 out=2",
        "auth: Error: auth client 7 disconnected with 2 pending requests: EOF",
        "lmtp(7): Connect from local",
        "imap-login: Error: x",
        "imap-login: proxy(x): started proxying",
    ],
)
def test_other_lines(text):
    assert dovecot(text) == {"kind": "other", "service": "dovecot"}


def test_rfc_5424():
    (observed,) = rows(f"<22>1 2026-10-24T06:18:01Z mx dovecot - - -  imap-login: Login: user=<{USER}>, method=PLAIN, {REST}\n".encode())
    assert (observed["kind"], observed["sasl_username"]) == ("auth_success", USER)


# What attackers write.

VICTIM = "alice@corp.example"


@pytest.mark.parametrize(
    "user",
    [
        f"x>, method=PLAIN, rip=203.0.113.9, lip=192.0.2.25, session=<{VICTIM}",
        f"x>, rip=203.0.113.9, user=<{VICTIM}",
        "x, rip=203.0.113.9",
        f"(auth failed, 1 attempts in 1 secs): user=<{VICTIM}>, method=PLAIN, rip=203.0.113.9, lip=1",
        ">, method=",
        "a>b",
        "\u2028",
    ],
)
@pytest.mark.parametrize("words", ["Login", "Disconnected (auth failed, 3 attempts in 5 secs)"])
def test_a_user_can_not_choose_address_or_account(user, words):
    observed = dovecot(f"imap-login: {words}: user=<{user}>, method=PLAIN, {REST}")
    assert (observed["sasl_username"], observed["client_ip"], observed["sasl_method"]) == (user, "198.51.100.7", "PLAIN")


def test_a_line_that_may_have_been_cut_before_the_address_is_not_believed():
    user = "x>, method=PLAIN, rip=203.0.113.9, lip=192.0.2.25, " + "a" * 2000
    text = f"imap-login: Disconnected (auth failed, 1 attempts in 2 secs): user=<{user}"
    for length in (1024, 2000):
        assert dovecot(text[: length - len(STAMP) - len("dovecot: ")]) == {"kind": "other", "service": "dovecot"}


@pytest.mark.parametrize(
    "text",
    [
        "auth: passwd-file(x,203.0.113.9): unknown user,198.51.100.7): unknown user",
        "auth: passwd-file(x,198.51.100.7): Password mismatch (given password: ,203.0.113.9): y)",
        "auth: passwd-file(x,203.0.113.9,<y,198.51.100.7): Password mismatch",
    ],
)
def test_an_auth_line_that_can_be_read_in_two_ways_gives_no_fields(text):
    assert dovecot(text) == {"kind": "other", "service": "dovecot"}


@pytest.mark.parametrize(
    "text",
    [
        # A name that holds another address: which of them is the client's can't be told.
        "auth: Error: sql(x,203.0.113.9): Not connected to database,198.51.100.7): Not connected to database",
        f"auth: Error: sql({VICTIM},203.0.113.9,<y,198.51.100.7): Not connected to database",
        "auth-worker(7): Error: " + CONN + "sql(x,203.0.113.9): Not connected to database,198.51.100.7): Not connected to database",
        # Names in lines that are no errors.
        "auth: sql(x): Error: mysql(db): Connect failed to database,198.51.100.7): unknown user",
        "auth-worker(7): sql(x): Error: mysql(db): Connect failed to database,198.51.100.7): unknown user",
        "auth-worker(7): Info: sql(x): Error: LDAP: Can't connect to server,198.51.100.7): unknown user",
        "imap-login: Error: auth: Error: pgsql(127.0.0.1): Connect failed to database mail",
    ],
)
def test_a_user_can_not_make_the_server_seem_at_fault(text):
    observed = dovecot(text)
    assert (observed["kind"], observed.get("action")) == ("other", None)
    assert observed.get("sasl_username") != VICTIM


def test_an_error_that_may_have_been_cut_before_the_address_is_not_believed():
    text = f"auth: Error: sql({VICTIM},203.0.113.9): Not connected to database" + "a" * 2000
    for length in (1024, 2000):
        assert dovecot(text[: length - len(STAMP) - len("dovecot: ")]) == {"kind": "other", "service": "dovecot"}


def test_postfix_does_not_write_dovecots_lines():
    text = f"imap-login: Login: user=<{VICTIM}>, method=PLAIN, {REST}"
    for tag in ("postfix[1]", "postfix/smtpd[1]"):
        assert row(text, tag)["kind"] == "other"


# The rules.


def fired(*lines):
    found = detections(make_engine(year=2026), [STAMP + line.encode() + b"\n" for line in lines])
    return {one.rule: one.subject for one in found}


FAILED = f"dovecot: imap-login: Disconnected (auth failed, 1 attempts in 2 secs): user=<u{{n}}@example.com>, method=PLAIN, {REST}"
ASK = "dovecot: auth: passwd-file(u{n}@example.com,198.51.100.7{s}): unknown user"
SMTPD = "postfix/smtpd[1]: warning: unknown[198.51.100.7]: SASL PLAIN authentication failed: no, sasl_username=u{n}@example.com"


def test_failures_at_imap_count_with_those_at_smtp():
    """They are guesses at the same passwords."""
    mixed = [text.format(n=n) for n in range(10) for text in (FAILED, SMTPD)]
    assert fired(*mixed)["auth-bruteforce-ip"] == {"client_ip": "198.51.100.7"}
    assert "auth-bruteforce-ip" not in fired(*mixed[1:])


def test_one_failure_counts_once():
    """Whoever asked says that it failed; the auth process has said so before."""
    lines = [text.format(n=n, s=s) for n in range(9) for text, s in ((ASK, ",<ab/c>"), (FAILED, ""), (ASK, ""), (SMTPD, ""))]
    assert "auth-bruteforce-ip" not in fired(*lines)
    assert "auth-bruteforce-ip" in fired(*lines, FAILED.format(n=9), SMTPD.format(n=9))
