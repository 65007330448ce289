"""Which account has logged in from which address before: against the oracle, and each trap by its name."""

import json
import struct
import zlib
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from helpers import detections, make_engine, pieces_of, rules_from
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.clients import KnownClients as Oracle

import sentinel.detect.engine
from sentinel.detect.engine import Engine
from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.track._clients import KnownClients

START = datetime(2026, 10, 24, tzinfo=UTC)
DAY = 86400.0
ACCOUNTS = ("ann@corp.example", "Ann@Corp.Example", "bob@corp.example", "ÄNN@corp.example", "änn@corp.example", "203.0.113.1")
ADDRESSES = (
    *("203.0.113.1", "203.0.113.2", "::ffff:203.0.113.1", "::ffff:cb00:7101"),
    *("2001:db8::1", "2001:db8::ffff:1", "2001:0db8:0:0:1::1", "2001:db8:0:1::1", "fe80::1"),
)
IMAP = "user=<{}>, method=PLAIN, rip={}, lip=192.0.2.25, session=<a>"
LINES = {
    "accepted": "postfix/smtpd[1]: 4A00000001: client=unknown[{1}], sasl_method=PLAIN, sasl_username={0}",
    "let in": "dovecot: imap-login: Login: " + IMAP,
    "failed": "postfix/smtpd[1]: warning: unknown[{1}]: SASL PLAIN authentication failed: no, sasl_username={0}",
    "failed at IMAP": "dovecot: imap-login: Disconnected (auth failed, 1 attempts in 2 secs): " + IMAP,
    "no login": "postfix/smtpd[1]: 4A00000002: client=unknown[{1}]",
    "nobody": "postfix/smtpd[1]: warning: unknown[{1}]: SASL PLAIN authentication failed: no",
}


def line(time: float, what: str, account: str, address: str) -> bytes:
    stamp = (START + timedelta(seconds=time)).isoformat().replace("+00:00", "Z")
    return f"{stamp} mx {LINES[what].format(account, address)}\n".encode()


PROBE = """rules:
  - name: {name}
    description: x
    severity: info
    score: 0
    on: [accepted, auth_success, auth_failed]
    where: {{known_client: {value}}}
    by: host
    measure: count
    window: 1s
    threshold: 1
    release: 1
    cooldown: 1s
"""


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    text = PROBE.format(name="known", value="true") + PROBE.format(name="unknown", value="false").removeprefix("rules:\n")
    return rules_from(tmp_path_factory.mktemp("rules"), text)


def engine_of(rules, limit: int = 200_000) -> Engine:
    """With room for so many pairs."""
    tracker = sentinel.detect.engine.Tracker
    with mock.patch("sentinel.detect.engine.Tracker", lambda *arguments: tracker(*arguments, known_clients=limit)):
        return make_engine(rules)


def restored(engine: Engine, rules, limit: int) -> Engine:
    tracker = sentinel.detect.engine.Tracker
    other = engine_of(rules, limit)
    with mock.patch("sentinel.detect.engine.Tracker", lambda *arguments: tracker(*arguments, known_clients=limit)):
        assert other.restore(engine.snapshot())
    return other


# seconds since the line before (a late one is negative), what it says, of whom, from where
steps = st.tuples(
    st.sampled_from((2.0, 2.0, 2.0, 3600.0, 10 * DAY, 29.9 * DAY, 30 * DAY, 30 * DAY + 1, 31 * DAY, 400 * DAY, -30.0)),
    st.sampled_from((*LINES, "accepted", "let in", "failed")),
    st.sampled_from(ACCOUNTS),
    st.sampled_from(ADDRESSES),
)


@settings(max_examples=settings().max_examples * 5)
@given(st.lists(steps, max_size=40), st.sampled_from((2, 3, 200_000)), st.none() | st.integers(0, 40))
@example(
    [(2.0, "accepted", "ann", f"203.0.113.{n}") for n in range(8)] + [(2.0, "failed", "ann", f"203.0.113.{n}") for n in range(8)], 3, 9
)
@example([(31 * DAY, "accepted", "ann", f"203.0.113.{n}") for n in range(4)] + [(-20.0, "failed", "ann", "203.0.113.3")], 200_000, 3)
def test_random_logins(probes, events, limit, stop):
    oracle, engine, scanner = Oracle(limit), engine_of(probes, limit), Scanner(LogClock())
    latest = 0.0
    for place, (step, what, account, address) in enumerate(events):
        if stop == place:
            engine = restored(engine, probes, limit)
        time = latest + (step if place else 0)
        latest = max(latest, time)
        data = line(time, what, account, address)
        fired = [one.rule for one in engine.feed(data).detections]
        known = oracle.look(scanner.scan(Chunk(data, "", "", 0, len(data))).row(0), time)
        # What comes late is beyond the probes' window of a second.
        assert fired == ([] if step < 0 and place else ["known" if known else "unknown"]), data
        counters = engine.counters()
        assert (counters["known_clients"], counters["evictions"]["known_clients"]) == (len(oracle.pairs), oracle.evicted)


def test_chunks_do_not_matter(probes):
    lines = [
        line(n * 2.0, ("accepted", "failed", "let in", "failed at IMAP")[n % 4], ACCOUNTS[n * 7 % 6], ADDRESSES[n * 5 % 9])
        for n in range(400)
    ]
    data = b"".join(lines)
    expected = [(one.rule, one.time) for one in detections(make_engine(probes), [data])]
    assert {rule for rule, _ in expected} == {"known", "unknown"}
    for size in (1, 997, 1 << 16):
        assert [(one.rule, one.time) for one in detections(make_engine(probes), pieces_of(data, size))] == expected


def known(probes, *lines: bytes) -> bool:
    """Of the last line."""
    return detections(make_engine(probes), lines)[-1].rule == "known"


def test_letter_case_of_the_account_does_not_matter(probes):
    assert known(probes, line(0, "accepted", "Ann@Corp.example", "203.0.113.1"), line(2, "failed", "ann@corp.example", "203.0.113.1"))


def test_one_login_makes_known_one_account_at_one_address(probes):
    login = line(0, "let in", "ann", "203.0.113.1")
    assert known(probes, login, line(2, "failed", "ann", "203.0.113.1"))
    assert not known(probes, login, line(2, "failed", "bob", "203.0.113.1"))
    assert not known(probes, login, line(2, "failed", "ann", "203.0.113.2"))
    assert not known(probes, login, line(2, "nobody", "", "203.0.113.1"))


def test_a_failure_makes_nothing_known(probes):
    assert not known(probes, *(line(2 * n, "failed", "ann", "203.0.113.1") for n in range(3)))


def test_the_first_login_from_an_address_is_not_known_itself(probes):
    assert not known(probes, line(0, "accepted", "ann", "203.0.113.1"))
    assert known(probes, line(0, "accepted", "ann", "203.0.113.1"), line(2, "let in", "ann", "203.0.113.1"))


def test_an_ipv6_network_is_one_client_and_a_mapped_address_is_ipv4(probes):
    login = line(0, "accepted", "ann", "2001:db8:1:2:aaaa::1")
    assert known(probes, login, line(2, "failed", "ann", "2001:db8:1:2:bbbb:0:0:9"))
    assert not known(probes, login, line(2, "failed", "ann", "2001:db8:1:3:aaaa::1"))
    assert known(probes, line(0, "let in", "ann", "::ffff:203.0.113.1"), line(2, "failed", "ann", "203.0.113.1"))


def test_thirty_days(probes):
    login = line(0, "accepted", "ann", "203.0.113.1")
    assert known(probes, login, line(30 * DAY, "failed", "ann", "203.0.113.1"))
    assert not known(probes, login, line(30 * DAY + 1, "failed", "ann", "203.0.113.1"))


def test_one_line_with_a_wrong_date_takes_no_more_than_two_away(probes):
    engine = make_engine(probes)
    engine.feed(b"".join(line(2 * n, "accepted", f"user{n}", "203.0.113.1") for n in range(50)))
    engine.feed(line(3000 * DAY, "accepted", "x", "203.0.113.1"))
    assert engine.counters()["known_clients"] == 49
    assert engine.counters()["evictions"]["known_clients"] == 0


def test_names_beyond_all_measure_are_never_known(probes):
    longest, longer = "x" * 320, "x" * 321
    assert known(probes, line(0, "accepted", longest, "203.0.113.1"), line(2, "failed", longest, "203.0.113.1"))
    assert not known(probes, line(0, "accepted", longer, "203.0.113.1"), line(2, "failed", longer, "203.0.113.1"))


def test_memory_has_a_limit_and_what_is_forgotten_is_counted(probes):
    engine = engine_of(probes, 1000)
    for first in range(0, 5000, 500):
        engine.feed(b"".join(line(n, "accepted", f"user{n}@corp.example", "203.0.113.1") for n in range(first, first + 500)))
    counters = engine.counters()
    assert (counters["known_clients"], counters["evictions"]["known_clients"]) == (1000, 4000)
    assert len(KnownClients(1000).snapshot()[1]) == 0
    assert len(engine._core.tracker.clients.snapshot()[1]) == 16 * 1000


def test_other_rules_forget_no_client(probes):
    """What took 30 days to learn outlives a change of rules, and the windows do not."""
    one = make_engine(probes)
    one.feed(line(0, "accepted", "ann", "203.0.113.1"))
    other = make_engine(probes[:1])
    assert other.restore(one.snapshot()) is False
    assert [found.rule for found in other.feed(line(2, "failed", "ann", "203.0.113.1")).detections] == ["known"]


def test_a_snapshot_without_known_clients_begins_with_none(probes):
    """One of the version before."""
    one = make_engine(probes)
    one.feed(line(0, "accepted", "ann", "203.0.113.1"))
    state = one.snapshot()
    prefix = len(b"sentinel-state-2") + 4
    length = struct.unpack("<Q", state[prefix : prefix + 8])[0]
    head = json.loads(state[prefix + 8 : prefix + 8 + length])
    del head["clients"]
    last = head["sizes"].pop()
    text = json.dumps(head, separators=(",", ":")).encode()
    body = struct.pack("<Q", len(text)) + text + state[prefix + 8 + length : len(state) - last]
    other = make_engine(probes)
    assert other.restore(state[: prefix - 4] + struct.pack("<I", zlib.crc32(body)) + body) is True
    assert other.counters()["known_clients"] == 0


@pytest.mark.parametrize("damage", [lambda head, data: ([0, *head[1:]], data), lambda head, data: (head, data[:-1])])
def test_damaged_snapshots_are_refused(damage):
    clients = make_engine((), year=2026)
    clients.feed(line(0, "accepted", "ann", "203.0.113.1"))
    head, data = clients._core.tracker.clients.snapshot()
    with pytest.raises(ValueError, match="snapshot"):
        KnownClients().restore(*damage(head, data))
    KnownClients().restore(head, data)


def test_a_limit_that_is_none():
    with pytest.raises(ValueError, match="at least 2"):
        KnownClients(1)
