"""The compiled scan against the oracle: on lines that an attacker would write, and on the logs of real servers."""

import lzma
import re

import pytest
from helpers import open_recording
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracles import scan as oracle
from strategies import damaged

from sentinel.maillog._scan import EventBatch, Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock

YEAR = 2026
RECORDINGS = (
    "extra-postlogd",
    "incident-A-postlogd",
    "incident-B-rfc5424",
    "incident-B-traditional",
    "incident-C-warn-postlogd",
    "incident-D-reject-postlogd",
    "incident-E-filter-traditional",
    "injection-postlogd",
    "reply-matrix-postlogd",
    "rsyslog-oddities",
    "session-lock-postlogd",
    "sql-maria-postlogd",
)


def compiled(data: bytes) -> EventBatch:
    return Scanner(LogClock(year=YEAR), keep_all=True).scan(Chunk(data, "", "", 0, len(data)))


def compare(line: bytes, expected: dict, observed: dict) -> None:
    if expected["kind"] == "unparsed":
        assert observed["kind"] == "unparsed", line
        return
    if "delay" in expected:
        assert observed.pop("delay") == pytest.approx(expected.pop("delay"), rel=1e-12), line
    assert observed == expected, line


def check(data: bytes) -> int:
    """Compares every line; how many rows there were."""
    batch = compiled(data)
    expected = oracle.read(data, YEAR)
    assert len(expected) == len(batch)
    for i, row in enumerate(expected):
        compare(batch.line(i), row, batch.row(i))
    return len(batch)


@settings(max_examples=settings().max_examples * 25)
@given(damaged())
@example(
    b'Oct 24 06:18:01 mx postfix/smtp[1]: 4A00000001: to=<u@a.example>, orig_to=<"x>y"@a.example>, relay=none, delay=1, status=sent (ok)'
)
@example(
    b"Oct 24 06:18:01 mx postfix/cleanup[1]: 4A00000001: reject: header Subject: x from e[198.51.100.9]: "
    b"y from r[192.0.2.1]; from=<a@b.example>"
)
@example(b"<22>1 2026-10-24T06:18:01Z mx postfix 1 - - 4A00000001: host h[192.0.2.9] refused to talk to me: 421 notification: 4A00000002")
@example(b"2026-02-31T06:18:01Z mx postfix/smtpd[1]: connect from a[192.0.2.1]")
def test_a_hostile_or_damaged_line(line):
    # The oracle's calendar has no year 0, and the scanner's none far from ours.
    assume(b"\n" not in line and not re.match(rb"(<\d+>1? ?)?(?!20)\d{4}-", line))
    check(line)


@given(st.binary(max_size=400))
def test_binary_junk(junk):
    batch = compiled(junk)
    assert batch.lines == len(junk.removesuffix(b"\n").split(b"\n")) if junk else batch.lines == 0
    assert {batch.kind(i) for i in range(len(batch))} <= {"unparsed"}


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_line_of_a_recording(shared, name):
    path = shared / "lab" / "recordings" / f"{name}.log.xz"
    if not path.exists():
        pytest.skip(f"no recording {path.name}")
    data = open_recording(path)
    assert check(data) == data.count(b"\n")


@pytest.mark.parametrize("name", RECORDINGS)
def test_no_line_of_a_recording_is_unparsed(shared, name):
    path = shared / "lab" / "recordings" / f"{name}.log.xz"
    if not path.exists():
        pytest.skip(f"no recording {path.name}")
    batch = compiled(open_recording(path))
    assert [batch.line(i) for i in range(len(batch)) if batch.kind(i) == "unparsed"] == []


def test_every_line_of_our_own_recordings(data):
    paths = sorted(data.glob("recording-*.log.xz"))
    assert paths
    for path in paths:
        with lzma.open(path) as file:
            assert check(file.read()) > 1000
    incident = (data / "incident.log").read_bytes()
    assert check(incident) == 16
