"""A database of passwords that is down is told from guessing: on logs of real servers whose database was stopped, and on made-up ones.

``outage-*.log.xz``: Postfix 3.7.11 and Dovecot 2.3.19 with PostgreSQL 15 or MariaDB 10.11. Twelve users log in at SMTP and IMAP, then one fails
to; the database is stopped and all of them try, a stranger too; it is started, and all of them try twice.
"""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from helpers import detections, make_engine, open_recording
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.detect.detection import Detection

START = datetime(2026, 10, 24, 8, tzinfo=UTC)
MINUTE = 60.0
OUTAGE = {
    # when the first login failed because of it, and when the first one succeeded again
    "pgsql": ("15:09:39.129", "15:10:16"),
    "mariadb": ("15:10:27.151", "15:11:04"),
}


def moment(stamp: str) -> int:
    return round(datetime.fromisoformat(f"2026-11-28T{stamp}+00:00").timestamp() * 1e6)


@pytest.mark.parametrize("dovecot", [True, False], ids=["with Dovecot's lines", "without"])
@pytest.mark.parametrize("name", OUTAGE)
def test_real_servers(data, name, dovecot):
    lines = open_recording(data / f"outage-{name}.log.xz").splitlines(keepends=True)
    found = detections(make_engine(), [line for line in lines if dovecot or b" dovecot: " not in line])
    # Nobody is accused of guessing.
    assert [one.rule for one in found] == ["auth-backend-down", "auth-backend-back"]
    assert [one.subject for one in found] == [{"host": "mx1"}] * 2
    down, back = (moment(stamp) for stamp in OUTAGE[name])
    assert down <= found[0].time < down + 2_000_000
    assert back <= found[1].time
    said = " ".join(evidence["line"] for evidence in found[0].evidence)
    assert "(reason unavailable)" in said
    assert ("Not connected to database" in said) == dovecot


@pytest.mark.parametrize("name", OUTAGE)
def test_real_servers_of_which_nothing_is_known_yet(data, name):
    """The log begins in the outage: Dovecot's words are enough."""
    lines = open_recording(data / f"outage-{name}.log.xz").splitlines(keepends=True)
    began = next(i for i, line in enumerate(lines) if b"onnect" in line and b"Error" in line)
    # It ends when those who were not known in it have not failed for two minutes.
    ends = b"2026-11-28T16:00:00Z mx1 postfix/smtpd[1]: 4A00000001: client=unknown[203.0.113.10], sasl_method=PLAIN, sasl_username=alice@corp.example\n"
    found = detections(make_engine(), [*lines[began:], ends])
    assert [one.rule for one in found] == ["auth-backend-down", "auth-backend-back"]


# --- made-up logs


class Log:
    """Lines at seconds from the start, put in order of time."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, str]] = []

    def add(self, time: float, text: str, host: str = "mx1") -> None:
        stamp = (START + timedelta(seconds=time)).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.lines.append((time, f"{stamp} {host} {text}\n"))

    def succeeds(self, time: float, account: str, ip: str, host: str = "mx1") -> None:
        queue_id = f"{len(self.lines):010X}"
        self.add(time, f"postfix/smtpd[1]: {queue_id}: client=unknown[{ip}], sasl_method=PLAIN, sasl_username={account}", host)

    def fails(self, time: float, account: str, ip: str, host: str = "mx1") -> None:
        self.add(
            time,
            f"postfix/smtpd[1]: warning: unknown[{ip}]: SASL PLAIN authentication failed: (reason unavailable), sasl_username={account}",
            host,
        )

    def found(self) -> list[Detection]:
        return detections(make_engine(), [text.encode() for _, text in sorted(self.lines, key=lambda line: line[0])])


def at(found: Detection) -> float:
    return found.time / 1e6 - START.timestamp()


def user(n: int) -> tuple[str, str]:
    return f"user{n}@corp.example", f"2001:db8:{n >> 12:x}:{n & 0xFFF:x}::1"


seconds = st.floats(0, 59, allow_nan=False)


@settings(max_examples=settings().max_examples * 3)
@given(
    st.lists(st.floats(0, 20 * 86400, allow_nan=False), min_size=12, max_size=12),
    st.lists(seconds, min_size=12, max_size=12),
    st.booleans(),
    st.lists(st.tuples(seconds, st.integers(0, 40), st.booleans()), max_size=60),
)
def test_a_dozen_users_within_the_first_minute(before, after, office, guesses):
    """Whenever they logged in before and in whatever order they fail; guesses in between change nothing."""
    log, down = Log(), 21 * 86400.0
    for n, (earlier, later) in enumerate(zip(before, after, strict=True)):
        account, ip = user(n)
        ip = "198.51.100.7" if office else ip
        log.succeeds(down - 1 - earlier, account, ip)
        log.fails(down + later, account.upper(), ip)
    for later, n, known in guesses:
        log.fails(down + later, user(n)[0] if known else f"guess{n}@corp.example", f"203.0.113.{n}")
    found = log.found()
    (outage,) = [one for one in found if one.rule == "auth-backend-down"]
    assert down <= at(outage) <= down + max(after) + 0.001
    accused = {one.subject.get("client_ip", "") for one in found if one.rule.startswith("auth-bruteforce")}
    assert not any(ip.startswith(("198.51.100.", "2001:")) for ip in accused)


@settings(max_examples=settings().max_examples * 3)
@given(
    st.lists(st.tuples(st.floats(0, 600, allow_nan=False), st.integers(0, 300), st.integers(1, 250)), min_size=1, max_size=150),
    st.integers(0, 12),
)
def test_guesses_are_never_an_outage(guesses, users):
    """Of however many accounts from however many addresses, whoever logs in meanwhile or has logged in before."""
    log = Log()
    for n in range(users):
        log.succeeds(0, *user(n))
    for time, n, host in guesses:
        log.fails(1 + time, user(n)[0], f"203.0.113.{host}")
    assert "auth-backend-down" not in {one.rule for one in log.found()}


def test_a_large_server():
    """Two thousand users of whom forty have an old password, and a botnet of sixty: two hours, with an outage of ten minutes in the second."""
    log, dice = Log(), random.Random(5)
    down, back, end = 90 * MINUTE, 100 * MINUTE, 120 * MINUTE
    for n in range(2000):
        account, ip = user(n)
        log.succeeds(dice.uniform(-600, 0), account, ip)
        time = dice.uniform(0, 300)
        while time < end:
            if n < 40 or down <= time < back:
                log.fails(time, account, ip)
            else:
                log.succeeds(time, account, ip)
            # A program that failed asks its owner, or tries again.
            time += dice.uniform(20, 90) if down <= time < back else dice.uniform(60, 540)
    bots = [f"203.0.113.{n}" for n in range(1, 61)]
    guesses = 60 * 360
    for n in range(guesses):
        log.fails(n * end / guesses, user(dice.randrange(3000))[0], bots[n % 60])
    found = log.found()
    outage = [(one.rule, at(one)) for one in found if one.rule.startswith("auth-backend")]
    assert [rule for rule, _ in outage] == ["auth-backend-down", "auth-backend-back"]
    assert down < outage[0][1] <= down + MINUTE
    assert back < outage[1][1] <= back + 3 * MINUTE
    accused = Counter(one.rule for one in found if not one.rule.startswith("auth-backend"))
    assert set(accused) == {"auth-bruteforce-ip"}
    # Each bot, an hour (its cooldown) after it was told the last time.
    assert {one.subject["client_ip"] for one in found if one.rule == "auth-bruteforce-ip"} == set(bots)


def test_one_server_of_two():
    log = Log()
    for n in range(12):
        for host in ("mx1", "mx2"):
            log.succeeds(n, *user(n), host)
            log.succeeds(MINUTE + n, *user(n), "mx1")
            log.fails(MINUTE + n, *user(n), "mx2")
    (outage,) = log.found()
    assert (outage.rule, outage.subject) == ("auth-backend-down", {"host": "mx2"})


def test_the_guesser_in_an_outage_is_found_and_found_again():
    log = Log()
    for n in range(12):
        log.succeeds(n, *user(n))
        log.fails(MINUTE + n, *user(n))
    for n in range(40):
        log.fails(MINUTE + n, user(n % 12)[0], "203.0.113.9")
    found = log.found()
    assert {one.rule: one.subject for one in found} == {
        "auth-backend-down": {"host": "mx1"},
        "auth-bruteforce-ip": {"client_ip": "203.0.113.9"},
    }


def test_who_shares_an_address_with_the_owner_is_seen_when_he_guesses_fast():
    log = Log()
    log.succeeds(0, "boss@corp.example", "198.51.100.7")
    for n in range(200):
        log.fails(MINUTE + n, "boss@corp.example", "198.51.100.7")
    (found,) = log.found()
    assert (found.rule, found.subject) == ("auth-bruteforce-known", {"sasl_username": "boss@corp.example", "client_ip": "198.51.100.7"})
