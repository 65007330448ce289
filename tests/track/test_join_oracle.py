"""The compiled join against the oracle, on random traffic over few queue IDs and on the recordings, from every line on."""

import pytest
from helpers import make_engine, open_recording, rules_from
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.join import Join

from sentinel.detect.engine import OWN_NETWORKS
from sentinel.detect.rules import ORIGINS
from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock

IDS = ("4A00000001", "4A00000002", "4A00000003", "4PbC4x469Jz3tBr", "4PBC4x469Jz3tBr")
ids = st.sampled_from(IDS)
accounts = st.sampled_from(("wang@corp.example", "Bob@corp.example", "info"))
ips = st.sampled_from(("198.51.100.7", "203.0.113.66", "127.0.0.1", "10.0.0.9", "::1", "2001:db8::1", "::ffff:10.0.0.1"))
relays = st.sampled_from(
    (
        "127.0.0.1[127.0.0.1]:10024",
        "mx.example.net[192.0.2.25]:25",
        "filter[10.0.0.9]:10025",
        "none",
        "[::1]:24",
        "mx[/run/lmtp]",
        "spamc",
    )
)
senders = st.sampled_from(("", "wang@corp.example", "linda@example.net"))
replies = st.one_of(
    st.builds("250 2.0.0 Ok: queued as {}".format, ids),
    st.builds("250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as {})".format, ids),
    st.builds("forwarded as {}".format, ids),
    st.builds("host mx[192.0.2.25] said: 550 forwarded as {0} queued as {0}".format, ids),
    st.sampled_from(("250 ok", "delivered to maildir", "250 queued as ", "queued as X", "forwarded as ")),
)
messages = st.one_of(
    st.builds("smtpd[1]: {}: client=unknown[{}], sasl_method=PLAIN, sasl_username={}".format, ids, ips, accounts),
    st.builds("smtpd[1]: {}: client=unknown[{}]".format, ids, ips),
    st.builds("smtpd[1]: {}: client=unknown[{}], orig_queue_id={}, orig_client=unknown[198.51.100.7]".format, ids, ips, ids),
    st.builds("smtpd[1]: NOQUEUE: client=unknown[{}], sasl_method=PLAIN, sasl_username={}".format, ips, accounts),
    st.builds(
        "smtpd[1]: {}: reject: RCPT from unknown[{}]: 550 5.1.1 no; from=<{}> to=<x@y.example>".format,
        ids,
        ips,
        senders,
    ),
    st.builds("pickup[1]: {}: uid=33 from=<{}>".format, ids, senders),
    st.builds("pickup[1]: {}: uid=33 from=<{}> orig_id={}".format, ids, senders, ids),
    st.builds("cleanup[1]: {}: message-id=<x@y.example>".format, ids),
    st.builds("qmgr[1]: {}: from=<{}>, size=900, nrcpt={} (queue active)".format, ids, senders, st.integers(1, 60)),
    st.builds("qmgr[1]: {}: from=<{}>, status=expired, returned to sender".format, ids, senders),
    st.builds("qmgr[1]: {}: removed".format, ids),
    st.builds("postsuper[1]: {}: removed".format, ids),
    st.builds("bounce[1]: {}: sender non-delivery notification: {}".format, ids, ids),
    st.builds(
        "{}[1]: {}: to=<u@example.net>, relay={}, delay=1, delays=0/0/1/0, dsn=2.0.0, status={} ({})".format,
        st.sampled_from(("smtp", "lmtp", "local", "pipe")),
        ids,
        relays,
        st.sampled_from(("sent", "sent", "sent", "deferred", "bounced")),
        replies,
    ),
    st.builds("smtpd[1]: connect from unknown[{}]".format, ips),
)


@st.composite
def stories(draw):
    """Lines that belong together: a message through a filter, an alias, a bounce, a requeue; each line perhaps missing."""
    first, second = draw(st.permutations(IDS))[:2]
    origin = draw(st.sampled_from((", sasl_method=PLAIN, sasl_username=wang@corp.example", "")))
    linked = draw(st.sampled_from((f", orig_queue_id={first}", "")))
    queued = "qmgr[1]: {}: from=<" + draw(senders) + ">, size=900, nrcpt=3 (queue active)"
    sent = "{}[1]: {}: to=<u@example.net>, relay={}, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent ({})"
    begin = [f"smtpd[1]: {first}: client=unknown[{draw(ips)}]{origin}", queued.format(first)]
    end = [
        queued.format(second),
        sent.format("smtp", second, draw(relays), draw(replies)),
        f"qmgr[1]: {second}: removed",
    ]
    hop = sent.format(draw(st.sampled_from(("smtp", "lmtp", "pipe"))), first, draw(relays), f"250 2.0.0 Ok: queued as {second}")
    middle = draw(
        st.sampled_from(
            (
                [f"smtpd[1]: {second}: client=localhost[{draw(ips)}]{linked}", hop],
                [f"smtpd[1]: {second}: client=localhost[127.0.0.1]{linked}", hop, f"qmgr[1]: {first}: removed"],
                [f"cleanup[1]: {second}: message-id=<x>", sent.format("local", first, "local", f"forwarded as {second}")],
                [f"cleanup[1]: {second}: message-id=<x>", f"bounce[1]: {first}: sender non-delivery notification: {second}"],
                [f"bounce[1]: {first}: sender non-delivery notification: {second}", f"cleanup[1]: {second}: message-id=<x>"],
                [f"pickup[1]: {second}: uid=0 from=<a> orig_id={first}", f"cleanup[1]: {second}: message-id=<x>"],
            )
        )
    )
    return [line for line in (*begin, *middle, *end) if draw(st.integers(0, 7))]


# The tags of a log that has lost the service names are tried too.
parts = st.one_of(stories(), st.lists(messages, min_size=1, max_size=4))
logs = st.lists(st.tuples(st.sampled_from(("mx1", "mx1", "mx2")), parts, st.booleans()), min_size=1, max_size=10).map(
    lambda log: [(host, message, lost) for host, part, lost in log for message in part]
)

KINDS = "[connect, accepted, picked_up, message_id, queued, delivery, removed, rejected, bounce_notice]"


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    """Rules that fire on every row that counts, and thereby tell its origin and its recipients."""
    rule = "- {{name: {}, description: x, severity: info, score: 0, on: {}, where: {}, by: host, measure: {}, "
    rule += "window: 1s, threshold: 1, release: 1, cooldown: 1s}}\n"
    text = "rules:\n" + "".join(
        rule.format(f"{origin}-{flag}".lower(), KINDS, f"{{origin: {origin}, forwarded: {flag}}}", "count")
        for origin in ORIGINS
        for flag in ("true", "false")
    )
    text += rule.format("recipients", "queued", "{}", "sum(recipients)")
    return rules_from(tmp_path_factory.mktemp("rules"), text)


def chunk(data: bytes) -> Chunk:
    return Chunk(data, "", "", 0, len(data))


def check(lines: list[bytes], probes, limit: int) -> None:
    scanner, engine, join = (
        Scanner(LogClock()),
        make_engine(probes, max_open_messages=limit),
        Join(list(OWN_NETWORKS), limit),
    )
    for line in lines:
        step = engine.feed(line)
        expected = join.attribute(scanner.scan(chunk(line)).row(0))
        assert step.events.row(0) == expected.row, line
        probe = f"{expected.origin}-{str(expected.forwarded).lower()}"
        fired = {found.rule: found.value for found in step.detections}
        wanted = {probe: 1.0} if expected.counted else {}
        if expected.recipients:
            wanted["recipients"] = float(expected.recipients)
        assert fired == wanted, line
    counters = engine.counters()
    assert (counters["open_messages"], counters["unattributed"]) == (len(join.messages), join.unattributed)
    assert counters["evictions"]["messages"] == join.evicted


def stamped(log: list[tuple[str, str, bool]]) -> list[bytes]:
    out = []
    for second, (host, message, lost) in enumerate(log):
        stamp = f"2026-10-24T06:{second * 2 // 60:02d}:{second * 2 % 60:02d}Z"
        if lost:
            out.append(f"<22>1 {stamp} {host} postfix 1 - -  {message.partition(': ')[2]}\n".encode())
        else:
            out.append(f"{stamp} {host} postfix/{message}\n".encode())
    return out


@settings(max_examples=settings().max_examples * 5)
@given(logs, st.sampled_from((2, 3, 1_000_000)))
def test_random_traffic(probes, log, limit):
    check(stamped(log), probes, limit)


@pytest.mark.parametrize("name", ["incident-E-filter-traditional", "injection-postlogd", "session-lock-postlogd", "extra-postlogd"])
def test_recording(shared, name):
    path = shared / "lab" / "recordings" / f"{name}.log.xz"
    if not path.exists():
        pytest.skip(f"no recording {path.name}")
    data = open_recording(path)
    data = b"".join(data.splitlines(keepends=True)[:6000])
    batch, join = make_engine((), year=2026).feed(data).events, Join(list(OWN_NETWORKS), 1_000_000)
    scanned = Scanner(LogClock(year=2026)).scan(chunk(data))
    assert len(scanned) == len(batch)
    for i in range(len(batch)):
        assert batch.row(i) == join.attribute(scanned.row(i)).row, batch.line(i)


def test_starting_at_every_line(data):
    """Whatever line the log begins with, the oracle and the join say the same, and no row gets an origin from the lines before."""
    lines = (data / "incident.log").read_bytes().splitlines(keepends=True)
    for start in range(len(lines)):
        rest = b"".join(lines[start:])
        batch = make_engine((), year=2026).feed(rest).events
        scanned, join = Scanner(LogClock(year=2026)).scan(chunk(rest)), Join(list(OWN_NETWORKS), 1_000_000)
        for i in range(len(batch)):
            assert batch.row(i) == join.attribute(scanned.row(i)).row, (start, batch.line(i))
