"""DESIGN's invariants of the core, on generated logs full of hostile text and on logs of real servers."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from helpers import detections, make_engine, open_recording, pieces_of, rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import VICTIM, damaged, helos, texts

from sentinel.detect.engine import Engine
from sentinel.detect.rules import load_rules

DATA = Path(__file__).resolve().parents[1] / "data"
LOW = load_rules(DATA / "low-thresholds.yaml")
QUICK = settings(max_examples=settings().max_examples)


@st.composite
def traffic(draw):
    """A plain message from a login to its removal, at a moment of one hour."""
    stamp = f"Oct 24 06:{draw(st.integers(0, 59)):02d}:{draw(st.integers(0, 59)):02d} mx1 postfix/"
    queue_id = draw(st.sampled_from(("4A00000001", "4A00000002", "4A00000003")))
    login, ip = draw(st.sampled_from((("wang@corp.example", "203.0.113.66"), ("bob@corp.example", "198.51.100.7"))))
    sender = draw(st.sampled_from(("wang@corp.example", "linda@example.net", "joe@example.org", "")))
    reply = draw(st.sampled_from(("250 ok", "host mx.att.net[192.0.2.25] said: 550 5.7.1 blocked", "connect timed out")))
    lines = [
        f"smtpd[1]: {queue_id}: client=unknown[{ip}], sasl_method=PLAIN, sasl_username={login}",
        f"qmgr[1]: {queue_id}: from=<{sender}>, size=900, nrcpt={draw(st.integers(1, 30))} (queue active)",
        f"smtp[1]: {queue_id}: to=<u@example.net>, relay=mx.example.net[192.0.2.25]:25, delay=1, delays=0/0/1/0, dsn=2.0.0, "
        f"status={draw(st.sampled_from(('sent', 'bounced', 'deferred')))} ({reply})",
        f"smtpd[1]: warning: unknown[{ip}]: SASL PLAIN authentication failed: no, sasl_username={login}",
        f"qmgr[1]: {queue_id}: removed",
    ]
    return [f"{stamp}{line}".encode() for line in lines[: draw(st.integers(1, 5))]]


logs = st.lists(st.one_of(traffic(), st.lists(damaged().map(lambda line: line.replace(b"\n", b"")), max_size=3)), max_size=14).map(
    lambda parts: [line + b"\n" for part in parts for line in part] or [b"\n"]
)


def engine(**options) -> Engine:
    return make_engine(LOW, year=2026, **options)


def as_json(found: list) -> list[str]:
    return [json.dumps(one.to_dict(), sort_keys=True) for one in found]


# 1. Chunks don't matter.


@settings(QUICK)
@given(logs, st.lists(st.integers(0, 20_000), max_size=12), st.booleans())
def test_chunks_do_not_matter(log, cuts, newline_at_the_end):
    data = b"".join(log)
    if not newline_at_the_end:
        data = data[:-1] or b" "
    whole, cut, bytewise = engine(), engine(), engine()
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    expected = as_json(detections(whole, [data]))
    assert as_json(detections(cut, [data[a:b] for a, b in pairwise(places)])) == expected
    assert as_json(detections(bytewise, [data[i : i + 1] for i in range(len(data))])) == expected
    assert cut.counters() == whole.counters()
    assert bytewise.counters() == whole.counters()


def test_chunks_do_not_matter_on_a_recording(data):
    for path in sorted(data.glob("recording-*.log.xz")):
        log = b"".join(open_recording(path).splitlines(keepends=True)[:4000])
        expected = as_json(detections(make_engine(year=2026), [log]))
        for size in (7, 1000, 4093):
            assert as_json(detections(make_engine(year=2026), pieces_of(log, size))) == expected, size
        assert as_json(detections(make_engine(year=2026), log.splitlines(keepends=True))) == expected


@pytest.mark.parametrize("size", [1, 997, 1 << 19, 1 << 20])
def test_chunks_do_not_matter_for_lines_that_are_too_long(size):
    """What stands in the middle of a line never becomes a line, however much comes before it."""
    inner = b"Oct 24 06:18:01 mx postfix/smtpd[1]: 4A00000001: client=unknown[192.0.2.1], sasl_method=PLAIN, sasl_username=bob@corp.example"
    for length in ((1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 21) + 5):
        data = b"z" * length + inner + b"\n" + inner + b"\n"
        pieces = list(pieces_of(data[:length], max(size, 4096))) + list(pieces_of(data[length:], size))
        one = make_engine((), year=2026)
        read = sum(len(step.events) for step in map(one.feed, pieces) if step.events is not None)
        assert read == 1, length


def test_overlong_line_across_a_snapshot():
    inner = b"Oct 24 06:18:01 mx postfix/qmgr[1]: 4A00000001: removed\n"
    before = make_engine((), year=2026)
    before.feed(b"z" * ((1 << 20) + 1))
    after = make_engine((), year=2026)
    after.restore(before.snapshot())
    assert len(after.feed(inner + inner).events) == 1


# 3. State is whole.


@settings(QUICK)
@given(logs, st.data())
def test_restore_changes_nothing_that_follows(log, draw):
    at = draw.draw(st.integers(0, len(log)), label="snapshot after")
    inside = draw.draw(st.integers(0, 60), label="bytes of the next line")
    data = b"".join(log)
    place = min(len(b"".join(log[:at])) + inside, len(data))
    through, before, after = engine(), engine(), engine()
    for piece in (data[:place],):
        assert as_json(through.feed(piece).detections) == as_json(before.feed(piece).detections)
    assert after.restore(before.snapshot()) is True
    assert after.counters() == through.counters()
    assert as_json(detections(after, [data[place:]])) == as_json(detections(through, [data[place:]]))
    assert after.counters() == through.counters()
    assert after.watermark == through.watermark


@settings(QUICK)
@given(logs)
def test_restore_after_every_line(log):
    expected = as_json(detections(engine(), log))
    found, state = [], None
    for line in log:
        one = engine()
        if state is not None:
            one.restore(state)
        found += one.feed(line).detections
        state = one.snapshot()
    assert as_json(found) == expected


def test_restore_changes_nothing_on_a_recording(data):
    for path in sorted(data.glob("recording-*.log.xz")):
        lines = open_recording(path).splitlines(keepends=True)[:6000]
        expected = as_json(detections(make_engine(year=2026), [b"".join(lines)]))
        assert expected
        found, one = [], make_engine(year=2026)
        for start in range(0, len(lines), 250):
            found += one.feed(b"".join(lines[start : start + 250])).detections
            state = one.snapshot()
            one = make_engine(year=2026)
            assert one.restore(state) is True
        assert as_json(found) == expected


def test_damaged_snapshots_are_refused():
    one = engine()
    one.feed(b"Oct 24 06:18:01 mx postfix/smtpd[1]: connect from unknown[192.0.2.1]\n")
    state = one.snapshot()
    for bad in (
        b"",
        b"sentinel",
        state[:-1],
        state[:40],
        state[:30] + bytes([state[30] ^ 1]) + state[31:],
        b"x" + state,
    ):
        with pytest.raises(ValueError, match="snapshot"):
            engine().restore(bad)
    assert engine().restore(state) is True


def test_snapshot_of_other_rules_keeps_the_messages(data):
    lines = (data / "incident.log").read_bytes().splitlines(keepends=True)
    one = engine()
    one.feed(b"".join(lines[:10]))
    other = make_engine((), year=2026)
    assert other.restore(one.snapshot()) is False
    assert other.counters()["open_messages"] == one.counters()["open_messages"] > 0


def test_looking_on_changes_nothing(data):
    for path in sorted(data.glob("recording-*.log.xz")):
        lines = open_recording(path).splitlines(keepends=True)[:1500]
        quiet, watched = engine(), engine()
        for line in lines:
            expected = as_json(quiet.feed(line).detections)
            watched.counters()
            assert as_json(watched.feed(line).detections) == expected


# 5. Text cannot lie.

FORGED = {"203.0.113.9", "198.51.100.1", "192.0.2.9"}
quoted_address = texts.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"@evil.example')
hostile_address = st.one_of(quoted_address, texts.map("{}@evil.example".format))
REAL = {"client_ip": "198.51.100.77", "relay_ip": "192.0.2.77"}
_SESSION = f"unknown[{REAL['client_ip']}]"


@st.composite
def attacks(draw):
    """A line in which only what an attacker writes is hostile. In header checks addresses are quoted: others can be an envelope to the letter."""
    sender, recipient, helo, text = draw(hostile_address), draw(hostile_address), draw(helos), draw(texts)
    checked = f"from {_SESSION}; from=<{draw(quoted_address)}> to=<{draw(quoted_address)}> proto=ESMTP helo=<{helo}>"
    tail = f"; from=<{sender}> to=<{recipient}> proto=ESMTP helo=<{helo}>"
    why = draw(
        st.sampled_from(
            (
                f"<{recipient}>: Recipient address rejected: Access denied",
                f"<{sender}>: Sender address rejected: Domain not found",
                f"<{helo}>: Helo command rejected: Host not found",
                f"<{recipient}>: Relay access denied",
            )
        )
    )
    delivery = f"to=<{recipient}>, relay=mx.evil.example[{REAL['relay_ip']}]:25, delay=1, delays=0/0/1/0, dsn=5.7.1, status=bounced "
    daemon, message = draw(
        st.sampled_from(
            (
                ("smtpd", f"warning: {_SESSION}: SASL PLAIN authentication failed: no, sasl_username={text}"),
                ("smtpd", f"NOQUEUE: reject: RCPT from {_SESSION}: 554 5.7.1 {why}{tail}"),
                ("smtpd", f"warning: non-SMTP command from {_SESSION}: {text}"),
                ("cleanup", f"4A00000001: message-id=<{text}>"),
                ("cleanup", f"4A00000001: reject: header Subject: {text} {checked}"),
                ("cleanup", f"4A00000001: warning: header Subject: {text} {checked}: note"),
                ("qmgr", f"4A00000001: from=<{sender}>, size=900, nrcpt=7 (queue active)"),
                (
                    "smtp",
                    f"4A00000001: {delivery}(host mx.evil.example[{REAL['relay_ip']}] said: 550 {text} (in reply to RCPT TO command))",
                ),
                (
                    "smtp",
                    f"4A00000001: {delivery}(host mx.evil.example[{REAL['relay_ip']}] refused to talk to me: 550 {text})",
                ),
                ("smtp", f"4A00000001: host mx.evil.example[{REAL['relay_ip']}] refused to talk to me: 421 {text}"),
                ("smtp", f"4A00000001: host mx.evil.example[{REAL['relay_ip']}] said: 450 {text} (in reply to RCPT TO command)"),
                ("smtp", f"4A00000001: passing <{recipient}> to transport=relay"),
                ("smtp", f"certificate verification failed for mx.evil.example[{REAL['relay_ip']}]:25: {text}"),
                ("postscreen", f"PREGREET 7 after 0 from [{REAL['client_ip']}]:4001: {text}"),
                ("postscreen", f"COMMAND PIPELINING from [{REAL['client_ip']}]:4001 after EHLO: {text}"),
                ("pickup", f"4A00000001: uid=1000 from=<{text}>"),
            )
        )
    )
    if draw(st.booleans()):
        return f"<22>1 2026-10-24T06:18:01Z mx postfix 1 - -  {message}".encode()
    return f"Oct 24 06:18:01 mx postfix/{daemon}[1]: {message}".encode()


@settings(max_examples=settings().max_examples * 12)
@given(attacks())
@example(
    b"<22>1 2026-10-24T06:18:01Z mx postfix 1 - - 4A00000001: host h[192.0.2.77] refused to talk to me: 421 x notification: 4A00000002"
)
def test_text_cannot_lie(line):
    (observed,) = rows(line)
    assert observed["time"] == 1792822681000000
    assert observed["host"] == "mx"
    assert observed.get("queue_id") in (None, "4A00000001")
    assert observed.get("linked_queue_id") is None
    assert observed.get("client_ip") in (None, REAL["client_ip"])
    assert observed.get("relay_ip") in (None, REAL["relay_ip"])
    assert observed.get("status") in (None, "bounced")
    assert observed.get("dsn") in (None, "5.7.1")
    assert observed.get("nrcpt") in (None, 7)
    if observed["kind"] != "auth_failed":
        assert observed.get("sasl_username") != VICTIM


@settings(QUICK)
@given(st.lists(attacks(), max_size=30))
def test_no_text_brings_a_detection_upon_a_victim(lines):
    found = detections(make_engine(LOW, year=2026), [line + b"\n" for line in lines])
    assert [one for one in found if one.subject.get("sasl_username") == VICTIM] == []


# 6. Memory is bounded: see test_windows.py and track/test_join.py for each table by itself.


def test_memory_is_bounded_under_a_flood_of_names():
    one = make_engine(year=2026, max_open_messages=1000)
    for start in range(0, 200_000, 20_000):
        one.feed(
            b"".join(
                b"Oct 24 06:18:01 mx postfix/smtpd[1]: %010X: client=unknown[192.0.2.1], sasl_method=PLAIN, sasl_username=u%d@x.example\n"
                % (n, n)
                for n in range(start, start + 20_000)
            )
        )
    counters = one.counters()
    assert counters["open_messages"] == 1000
    assert counters["evictions"]["messages"] == 199_000
    # The texts of what was let go are let go as well.
    assert len(one.snapshot()) < 40_000_000


def test_evidence_survives_the_collection_of_names():
    """A hundred thousand names come and go between the first and the last line of a crossing."""
    rules = load_rules(DATA / "low-thresholds.yaml")
    line = (
        b"Oct 24 06:18:01 mx postfix/smtpd[1]: 4A0000000%d: client=unknown[203.0.113.66], sasl_method=PLAIN, "
        b"sasl_username=wang@corp.example\n"
    )
    one = make_engine([rule for rule in rules if rule.name == "logins"], year=2026)
    one.feed(line % 1)
    one.feed(line % 2)
    for start in range(0, 300_000, 50_000):
        one.feed(
            b"".join(b"Oct 24 06:18:01 mx postfix/cleanup[1]: 5A%08X: message-id=<x>\n" % n for n in range(start, start + 1000))
            + b"".join(
                b"Oct 24 06:18:01 mx postfix/smtpd[1]: NOQUEUE: client=unknown[2001:db8::%x]\n" % n for n in range(start, start + 50_000)
            )
        )
    (found,) = one.feed(line % 3).detections
    assert found.subject == {"sasl_username": "wang@corp.example"}
    assert [entry["line"] for entry in found.evidence] == [(line % n).decode().rstrip("\n") for n in (1, 2, 3)]
    assert found.related == {"client_ips": ["203.0.113.66"], "queue_ids": ["4A00000001", "4A00000002", "4A00000003"]}


# 7. No clock in the core.

_SCRIPT = """
import json, sys
from sentinel.detect.engine import Engine
from sentinel.detect.rules import load_rules
import lzma
data = lzma.open(sys.argv[1]).read()[:1_000_000]
for rules in (None, load_rules(sys.argv[2])):
    engine = Engine(rules, year=2026)
    found = engine.feed(data).detections + engine.finish().detections
    print(*(json.dumps(one.to_dict()) for one in found), sep="\\n")
print(json.dumps({str(key): value for key, value in engine.counters()["events"].items()}))
"""


def test_the_same_log_gives_the_same_bytes_in_any_process(data):
    path = sorted(data.glob("recording-*.log.xz"))[0]
    faketime = shutil.which("faketime")
    outputs = []
    for zone, seed, date in (
        ("UTC", "0", None),
        ("Asia/Shanghai", "1", "2031-02-03 04:05:06"),
        ("America/St_Johns", "4242", "1999-12-31 23:59:59"),
    ):
        environment = {
            **os.environ,
            "TZ": zone,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "LC_ALL": "C",
        }
        command = [sys.executable, "-c", _SCRIPT, str(path), str(DATA / "low-thresholds.yaml")]
        if faketime and date:
            command = [faketime, "-f", date, *command]
        outputs.append(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert outputs[0].count(b"\n") > 10
    assert outputs[1] == outputs[0]
    assert outputs[2] == outputs[0]


def test_the_core_asks_no_clock_and_opens_no_file():
    """Nothing in the core's own code names a clock, a thread or a file; rules and knowledge are read through ``marked.py``."""
    package = Path(__file__).resolve().parents[2] / "sentinel"
    if not package.is_dir():
        pytest.skip("the sources are not beside the tests")
    forbidden = (
        "import time",
        "from time",
        "datetime.now",
        "utcnow",
        "import threading",
        "import logging",
        "import random",
        "open(",
        "sqlalchemy",
    )
    for room in ("maillog", "track", "detect"):
        for path in sorted((package / room).glob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                text = path.read_text(encoding="utf-8")
                assert [word for word in forbidden if word in text] == [], path.name
