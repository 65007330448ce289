"""Headers in all their forms, lines that syslog has folded, JSON of the journal and of docker: each by hand, and many at random."""

import json

import pytest
from helpers import STAMP, detections, make_engine, rows, rules_from
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import MESSAGES
from test_scan_oracle import YEAR, check, compiled

from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.maillog.journal import translate

CONNECT = "connect from unknown[192.0.2.1]"
FAILED = "warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: no, sasl_username=info@example.com"
AUTUMN = 1_792_822_681_000_000
"""2026-10-24 06:18:01 UTC, in microseconds."""

# header, then host, syslog_name, service, pid
HEADERS = {
    "classic": ("Oct 24 06:18:01 mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "facility before the tag": ("Oct 24 06:18:01 mx mail.info postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "a warning's": ("Oct 24 06:18:01 mx mail.warn postfix/submission/smtpd[7]: ", "mx", "postfix/submission", "smtpd", 7),
    "facility before the host": ("Oct 24 06:18:01 <mail.info> mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "facility in numbers": ("Oct 24 06:18:01 <2.6> mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "priority": ("<22>Oct 24 06:18:01 mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "no host": ("Oct 24 06:18:01 postfix/smtpd[7]: ", None, "postfix", "smtpd", 7),
    "no host, ISO": ("2026-10-24T08:18:01+02:00 postfix/smtpd[7]: ", None, "postfix", "smtpd", 7),
    "no host, no colon": ("Oct 24 06:18:01 postfix/smtpd[7] ", None, "postfix", "smtpd", 7),
    "no host, no pid": ("Oct 24 06:18:01 postfix/smtpd: ", None, "postfix", "smtpd", None),
    "a level and no host": ("2026-10-24T06:18:01.000000+00:00 INFO    postfix/smtpd[7]: ", None, "postfix", "smtpd", 7),
    "a longer level": ("2026-10-24T06:18:01.000000+00:00 WARNING postfix/submission/smtpd[7]: ", None, "postfix/submission", "smtpd", 7),
    "a host with the name of a level": ("Oct 24 06:18:01 INFO postfix postfix/smtpd[7]: ", None, None, None, None),
    "a host named postfix": ("Oct 24 06:18:01 postfix postfix/smtpd[7]: ", "postfix", "postfix", "smtpd", 7),
    "a host that is an address": ("Oct 24 06:18:01 [2001:db8::25] postfix/smtpd[7]: ", "[2001:db8::25]", "postfix", "smtpd", 7),
    "a host that ends in a colon": ("Oct 24 06:18:01 2001:db8:: postfix/smtpd[7]: ", "2001:db8::", "postfix", "smtpd", 7),
    "a host with the name of a facility": ("Oct 24 06:18:01 mail.info postfix/smtpd[7]: ", "mail.info", "postfix", "smtpd", 7),
    "no colon": ("Oct 24 06:18:01 mx postfix/smtpd[7] ", "mx", "postfix", "smtpd", 7),
    "docker": ("2026-10-24T06:18:01.000000000Z Oct 24 08:18:01 mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "docker, space-padded": ("2026-10-24T06:18:01Z Oct  4 08:18:01 mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "docker, one digit": ("2026-10-24T06:18:01Z Oct 4 08:18:01 mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "docker around ISO, level, no host": (
        "2026-10-24T06:18:01.000000000Z 2026-10-24T08:18:01.5+02:00 INFO    postfix/smtpd[7]: ",
        None,
        "postfix",
        "smtpd",
        7,
    ),
    "docker without a header within": ("2026-10-24T06:18:01.000000000Z postfix/smtpd[7]: ", None, "postfix", "smtpd", 7),
    "Kubernetes": ("2026-10-24T06:18:01.000000000Z stdout F Oct 24 08:18:01 mx postfix/smtpd[7]: ", "mx", "postfix", "smtpd", 7),
    "RFC 5424": ("<22>1 2026-10-24T06:18:01Z mx postfix/smtpd 7 - - ", "mx", "postfix", "smtpd", 7),
    "RFC 5424 without a host": ("<22>1 2026-10-24T06:18:01Z - postfix/smtpd 7 - - ", None, "postfix", "smtpd", 7),
    "an instance's name": ("Oct 24 06:18:01 mx postfix-out/smtpd[7]: ", "mx", "postfix-out", "smtpd", 7),
}


def headed(header: str, text: str) -> dict:
    (observed,) = rows(f"{header}{text}\n".encode())
    return observed


@pytest.mark.parametrize("name", [name for name, expected in HEADERS.items() if expected[3]])
def test_header(name):
    header, *expected = HEADERS[name]
    observed = headed(header, CONNECT)
    assert [observed.get(field) for field in ("host", "syslog_name", "service", "pid")] == expected
    assert (observed["kind"], observed["client_ip"], observed["time"]) == ("connect", "192.0.2.1", AUTUMN)


@pytest.mark.parametrize(
    ("tag", "syslog_name", "service", "pid"),
    [
        ("postfix[1279]", "postfix", None, 1279),
        ("/postfix-script[3]", None, "postfix-script", 3),
        ("postmulti[1277]", None, "postmulti", 1277),
        ("postfix/postfix-script[9]", "postfix", "postfix-script", 9),
    ],
)
def test_tags_of_commands(tag, syslog_name, service, pid):
    observed = headed(f"Oct 24 06:18:01 mx {tag}: ", "warning: group or other writable: /etc/postfix/main.cf")
    assert (observed["kind"], observed["host"], observed["pid"]) == ("warning", "mx", pid)
    assert (observed.get("syslog_name"), observed.get("service")) == (syslog_name, service)


@pytest.mark.parametrize(
    "line",
    [
        "Oct 24 06:18:01 mx mail.info mail.info postfix/smtpd[7]: ",
        "Oct 24 06:18:01 mx evil.info postfix/smtpd[7]: ",
        "Oct 24 06:18:01 <evil> mx postfix/smtpd[7]: ",
        "Oct 24 06:18:01 mx INFO    postfix/smtpd[7]: ",
        "Oct 24 06:18:01 INFO    mx postfix/smtpd[7]: ",
        "Oct 24 06:18:01 mx /smtpd[7]: ",
        "Oct 24 06:18:01 mx sshd[7]: postfix/smtpd[8]: ",
        "Oct 24 06:18:01 sshd[7]: postfix ",
        "Oct 24 06:18:01 sshd[7] postfix/smtpd[7]: ",
        "Oct 24 06:18:01 kernel: postfix/smtpd[7]: ",
        "2026-10-24T06:18:01Z Oct 24 06:18 mx postfix/smtpd[7]: ",
    ],
)
def test_not_a_header(line):
    assert headed(line, CONNECT)["kind"] == "unparsed"


def test_no_header_depends_on_the_lines_before():
    lines = [f"{header}{CONNECT}\n".encode() for header, *_ in HEADERS.values()]
    lines += [b"Oct 24 06:18:01 Nov postfix/smtpd[7]: connect from a[192.0.2.1]\n", b"<22>1 2026-10-24T06:18:01Z <x> postfix 7 - - y\n"]
    lines += [b"<22>1 2026-10-24T06:18:01Z postfix/smtpd[7]: postfix 7 - - y\n", b"Oct 24 06:18:01 INFO cron[1]: x\n"]
    for first in lines:
        for second in lines:
            assert rows(first + second) == rows(first) + rows(second)


plain_headers = st.sampled_from([name for name, expected in HEADERS.items() if expected[1:] == ("mx", "postfix", "smtpd", 7)])


@settings(max_examples=settings().max_examples * 5)
@given(plain_headers, MESSAGES["smtpd"])
def test_any_header_around_a_message_gives_the_same_event(name, text):
    data = f"{HEADERS['classic'][0]}{text}\n{HEADERS[name][0]}{text}\n".encode()
    assert check(data) == 2
    first, second = rows(data)
    assert first == second


# --- damage ----------------------------------------------------------------------------------------------------------------------------


def test_nuls_between_lines_and_in_half_a_line():
    whole = STAMP + b"postfix/smtpd[7]: " + CONNECT.encode()
    for nuls in (1, 30, 5000, 100_000):
        gap = b"\0" * nuls
        for data in (
            whole + b"\n" + gap + whole,
            whole + b"\n" + b"Oct 24 06:18:01 mx post" + gap + whole,
            whole + b"\n" + gap + whole + gap,
        ):
            assert [one["kind"] for one in rows(data + b"\n" + whole + b"\n")] == ["connect"] * 3
    glued = STAMP + b"postfix/cleanup[7]: 4A00000001: message-id=<a" + b"\0" * 600 + whole
    batch = compiled(glued)
    assert [batch.kind(i) for i in range(len(batch))] == ["connect"]
    assert batch.offset(0) == glued.rindex(b"Oct")


def test_a_text_cut_at_2000_bytes_keeps_what_is_whole():
    start = "NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 554 5.7.1 <"
    end = ">: Relay access denied; from=<a@example.com> to=<b@example.org> proto=ESMTP helo=<h> sasl_method=LOGIN sasl_username="
    room = 2000 - len(start) - len(end)
    cut = headed(HEADERS["classic"][0], start + "x" * (room - 10) + end + "info@examp")
    assert (cut["client_ip"], cut["sender"], cut["helo"], cut["sasl_method"]) == ("192.0.2.1", "a@example.com", "h", "LOGIN")
    assert "sasl_username" not in cut
    whole = headed(HEADERS["classic"][0], start + "x" * (room - 11) + end + "info@examp")
    assert whole["sasl_username"] == "info@examp"


def test_a_cut_goes_by_the_text_without_its_severity():
    start = "warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: "
    end = ", sasl_username=info@examp"
    for total, login in ((2009, None), (2008, "info@examp"), (2010, "info@examp")):
        observed = headed(HEADERS["classic"][0], start + "x" * (total - len(start) - len(end)) + end)
        assert (observed["kind"], observed["client_ip"], observed.get("sasl_username")) == ("auth_failed", "192.0.2.1", login)


def test_a_login_that_the_cut_goes_through_in_a_refusal():
    start = "NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 553 5.7.1 <"
    end = ">: Sender address rejected: not owned by user info@examp"
    observed = headed(HEADERS["classic"][0], start + "x" * (2000 - len(start) - len(end)) + end)
    assert (observed["kind"], "sasl_username" in observed) == ("rejected", False)


# --- repetitions -----------------------------------------------------------------------------------------------------------------------


def repeats(data: bytes) -> list:
    return [(one["kind"], one.get("repeat", 1)) for one in rows(data)]


def test_message_repeated():
    header = HEADERS["classic"][0].encode()
    assert rows(header + f"message repeated 4 times: [ {FAILED}]".encode()) == [{**headed(HEADERS["classic"][0], FAILED), "repeat": 4}]
    assert repeats(header + b"message repeated 1 times: [ connect from a[192.0.2.1]]\n") == [("connect", 1)]
    assert repeats(header + b"message repeated 99999999999999999999 times: [ connect from a[192.0.2.1]]\n") == [("connect", 1_000_000)]
    for text in ("0 times: [ x]", "x times: [ x]", "2 times", "2 times: x", " times: [ x]", "2 tim"):
        assert repeats(header + b"message repeated " + text.encode() + b"\n") == [("other", 1)]


def test_a_repeated_message_that_rsyslog_cut_at_800_bytes():
    text = FAILED.replace("no,", "x" * (799 - len(FAILED) + 2) + ",")
    assert len(text) == 799
    (observed,) = rows(STAMP + f"postfix/smtpd[7]: message repeated 2 times: [ {text}]\n".encode())
    assert (observed["kind"], observed["repeat"], "sasl_username" in observed) == ("auth_failed", 2, False)


LAST = b"Oct 24 06:18:31 mx last message repeated 3 times\n"


def test_last_message_repeated():
    failed = STAMP + b"postfix/smtpd[7]: " + FAILED.encode() + b"\n"
    first, second = rows(failed + LAST)
    assert second == {**first, "time": AUTUMN + 30_000_000, "repeat": 3}
    assert repeats(failed + LAST + LAST) == [("auth_failed", 1), ("auth_failed", 3), ("auth_failed", 3)]
    for form in (b"syslogd: last message repeated 3 times", b"syslogd[12]: last message repeated 3 times"):
        assert repeats(failed + STAMP + form + b"\n") == [("auth_failed", 1), ("auth_failed", 3)]
    assert repeats(failed + b"Oct 24 06:18:31 --- last message repeated 1 time ---\n") == [("auth_failed", 1), ("auth_failed", 1)]
    assert repeats(failed + b"\n" + b"<46>" + LAST) == [("auth_failed", 1), ("auth_failed", 3)]


def test_last_message_is_that_of_the_same_host():
    failed = STAMP + b"postfix/smtpd[7]: " + FAILED.encode() + b"\n"
    other = b"Oct 24 06:18:02 backup postfix/qmgr[7]: 4A00000001: removed\n"
    cron = STAMP + b"cron[1]: x\n"
    assert repeats(failed + other + LAST) == [("auth_failed", 1), ("removed", 1), ("auth_failed", 3)]
    assert repeats(failed + cron + LAST) == [("auth_failed", 1), ("unparsed", 1), ("other", 3)]
    assert repeats(LAST) == [("other", 3)]
    assert repeats(failed + other * 200 + LAST)[-1] == ("other", 3)


def test_only_syslog_itself_repeats():
    failed = STAMP + b"postfix/smtpd[7]: " + FAILED.encode() + b"\n"
    for text in (
        b"postfix/smtpd[7]: last message repeated 3 times",
        b"sshd[7]: last message repeated 3 times",
        b"last message repeated 3 times ago",
        b"last message repeated 0 times",
        b"last message repeated",
        b"postfix/smtpd[7]: warning: message repeated 3 times: [ connect from a[192.0.2.1]]",
        b"postfix/cleanup[7]: 4A00000001: message-id=message repeated 3 times: [ x]",
        b"postfix/smtpd[7]: warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: no, sasl_username=last message repeated 3 times",
    ):
        assert repeats(failed + STAMP + text + b"\n")[1][1] == 1


def test_line_counts_of_repetitions():
    scanner = Scanner(LogClock(year=YEAR))
    data = STAMP + b"postfix/smtpd[7]: message repeated 9 times: [ connect from a[192.0.2.1]]\n" + LAST + STAMP + b"cron[1]: x\n" + LAST
    batch = scanner.scan(Chunk(data, "", "", 0, len(data)))
    assert [batch.number(i, "repeat") for i in range(len(batch))] == [9, 3]
    assert (batch.lines, scanner.lines) == (4, {"event": 0, "ignored": 2, "unparsed": 0, "repeated": 2})


def test_last_message_across_chunks_and_restarts():
    failed = b"Oct 24 06:18:01 mx postfix/smtpd[7]: " + FAILED.encode() + b"\n"
    data = b"junk\n" * 3000 + failed + LAST + b"Oct 24 06:18:02 b cron[1]: x\n" + LAST + failed.replace(b"info", b"sales") + LAST
    whole = [(one["kind"], one.get("sasl_username"), one.get("repeat")) for one in rows(data) if one["kind"] == "auth_failed"]
    assert whole == [("auth_failed", "info@example.com", n) for n in (None, 3, 3)] + [
        ("auth_failed", "sales@example.com", n) for n in (None, 3)
    ]
    starts = [i for i in range(len(data) + 1) if i == 0 or data[i - 1 : i] == b"\n"][-7:]
    scanner = Scanner(LogClock(year=YEAR))
    found = []
    for start, end in zip([0, *starts], [*starts, len(data)], strict=True):
        state = json.loads(json.dumps(scanner.snapshot()))
        scanner = Scanner(LogClock(year=YEAR))
        scanner.restore(state)
        batch = scanner.scan(Chunk(data[start:end], "mail.log", "1:2", start, end))
        for i in range(len(batch)):
            found.append((batch.text(i, "sasl_username"), batch.number(i, "repeat"), batch.offset(i), batch.line(i)))
    places = [data.index(b"Oct")] * 3 + [data.rindex(b"Oct 24 06:18:01")] * 2
    assert [one[1] for one in found] == [1, 3, 3, 1, 3]
    assert [one[2] for one in found] == places
    assert all(data[place:].startswith(line + b"\n") for _, _, place, line in found)


def test_a_file_that_is_another_has_no_last_message():
    failed = STAMP + b"postfix/smtpd[7]: " + FAILED.encode() + b"\n"
    for following in (("1:3", len(failed)), ("1:2", 0)):
        scanner = Scanner(LogClock(year=YEAR))
        scanner.scan(Chunk(failed, "mail.log", "1:2", 0, len(failed)))
        file_id, start = following
        assert len(scanner.scan(Chunk(LAST, "mail.log", file_id, start, start + len(LAST)))) == 0


def test_a_snapshot_of_before_there_were_repetitions():
    scanner = Scanner(LogClock(year=YEAR))
    scanner.restore([1_792_822_681, [5, 4, 3]])
    assert scanner.lines == {"event": 5, "ignored": 4, "unparsed": 3, "repeated": 0}


def test_a_repeated_failure_counts_as_often_as_it_happened(tmp_path):
    text = "rules:\n  - name: {0}\n    description: x\n    severity: info\n    score: 0\n    by: client_ip\n    window: 60\n    threshold: {2}\n    {1}\n"
    failed = STAMP + b"postfix/smtpd[7]: message repeated 10 times: [ " + FAILED.encode() + b"]\n"
    for measure, threshold, fires in (
        ("on: auth_failed\n    measure: count", 10, True),
        ("on: auth_failed\n    measure: count", 11, False),
        ("on: auth_failed\n    measure: distinct(sasl_username)", 2, False),
        ("on: auth_failed\n    measure: ratio\n    of: {sasl_username: info*}\n    at_least: 10", 1, True),
        ("on: auth_failed\n    measure: ratio\n    of: {sasl_username: info*}\n    at_least: 11", 1, False),
    ):
        engine = make_engine(rules_from(tmp_path, text.format("r", measure, threshold)), year=YEAR)
        assert bool(detections(engine, [failed])) is fires, measure
        assert engine.counters()["events"] == {("auth_failed", "smtpd"): 10}


def test_a_repeated_delivery_counts_in_the_metrics():
    engine = make_engine((), year=YEAR)
    text = b"to=<a@example.org>, relay=none, delay=1, delays=1/0/0/0, dsn=4.4.1, status=deferred (connect: timed out)"
    engine.feed(STAMP + b"postfix/smtp[7]: message repeated 6 times: [ 4A00000001: " + text + b"]\n")
    assert sum(engine.counters()["deliveries"].values()) == 6


# --- JSON ------------------------------------------------------------------------------------------------------------------------------


def journal(text: object, **fields: object) -> bytes:
    entry = {
        "__REALTIME_TIMESTAMP": str(AUTUMN),
        "_HOSTNAME": "mx",
        "SYSLOG_IDENTIFIER": "postfix/smtpd",
        "SYSLOG_PID": "7",
        "MESSAGE": text,
        "PRIORITY": "6",
    }
    entry.update(fields)
    return json.dumps({name: value for name, value in entry.items() if value is not None}).encode() + b"\n"


def docker(text: str, **fields: object) -> bytes:
    return json.dumps({"log": text, "stream": "stdout", "time": "2026-10-24T06:18:01.000000000Z", **fields}).encode() + b"\n"


EXPECTED = {
    "time": AUTUMN,
    "host": "mx",
    "syslog_name": "postfix",
    "service": "smtpd",
    "pid": 7,
    "kind": "connect",
    "client_name": "unknown",
    "client_ip": "192.0.2.1",
}

JSON = {
    "journal": journal(CONNECT),
    "journal, bytes": journal(list(CONNECT.encode())),
    "journal, twice": journal([CONNECT, "x"]),
    "journal, pid of the kernel": journal(CONNECT, SYSLOG_PID=None, _PID="7"),
    "journal, time of the sender": journal(CONNECT, __REALTIME_TIMESTAMP="1", _SOURCE_REALTIME_TIMESTAMP=str(AUTUMN)),
    "docker, classic": docker(f"Oct 24 08:18:01 mx postfix/smtpd[7]: {CONNECT}\n"),
    "docker, ISO": docker(f"2026-10-24T08:18:01.5+02:00 mx postfix/smtpd[7]: {CONNECT}\n"),
    "docker, priority": docker(f"<22>Oct 24 08:18:01 mx postfix/smtpd[7]: {CONNECT}\r\n"),
    "docker, RFC 5424": docker(f"<22>1 2026-10-24T06:18:01Z mx postfix/smtpd 7 - - {CONNECT}\n"),
    "docker, in pieces": docker("Oct 24 08:18:01 mx postfix/sm") + docker("oops\n", stream="stderr") + docker(f"tpd[7]: {CONNECT}\n"),
}


@pytest.mark.parametrize("name", JSON)
def test_json(name):
    observed = rows(JSON[name])
    assert [one for one in observed if one["kind"] != "unparsed"] == [EXPECTED]


@pytest.mark.parametrize(
    "line",
    [
        journal(None),
        journal(7),
        journal([7, 300]),
        journal({"a": 1}),
        journal(CONNECT, __REALTIME_TIMESTAMP=None),
        journal(CONNECT, __REALTIME_TIMESTAMP="-1"),
        journal(CONNECT, __REALTIME_TIMESTAMP="9" * 18),
        journal(CONNECT, SYSLOG_IDENTIFIER=None),
        journal(CONNECT, SYSLOG_IDENTIFIER="postfix/smtpd[9]: connect from a[192.0.2.9]"),
        journal(CONNECT, SYSLOG_IDENTIFIER="postfix/smtpd\n"),
        journal(CONNECT, SYSLOG_IDENTIFIER="sshd"),
        b'{"MESSAGE": ' + b"[" * 100_000 + b"\n",
        b'{"MESSAGE": ' + b"9" * 10_000 + b"}\n",
        b'{"level": "info"}\n',
        b"{}\n",
        b"{\n",
        b'{"log": 1}\n',
    ],
)
def test_json_that_is_no_event(line):
    observed = rows(line + journal(CONNECT))
    assert [one["kind"] for one in observed] == ["unparsed", "connect"]


def test_newlines_in_a_message_begin_no_lines():
    forged = f"{CONNECT}\nOct 24 06:18:01 mx postfix/smtpd[7]: {FAILED}\n"
    for line in (journal(forged), journal(list(forged.encode())), docker(f"Oct 24 06:18:01 mx postfix/smtpd[7]: {forged}")):
        assert [one["kind"] for one in rows(line)] == ["other"]


def test_bytes_of_a_message_stay():
    (observed,) = rows(journal(list(b"4A00000001: message-id=<a\xff\xc3\xa9>"), SYSLOG_IDENTIFIER="postfix/cleanup"))
    assert observed["message_id"] == "<a\ufffdé>"
    (observed,) = rows(journal("4A00000001: message-id=<\ud800>", SYSLOG_IDENTIFIER="postfix/cleanup"))
    assert observed["message_id"] == "<?>"


def test_mixed_lines_keep_their_places():
    plain = STAMP + b"postfix/smtpd[7]: " + CONNECT.encode() + b"\n"
    lines = [plain, journal(CONNECT), plain, b"\0\0" + journal(CONNECT), plain, plain, docker("Oct 24 08:18:01 mx post"), b"\n"]
    lines += [docker(f"fix/smtpd[7]: {CONNECT}\n"), b"junk\n", plain[:-1]]
    data = b"".join(lines)
    batch = Scanner(LogClock(year=YEAR)).scan(Chunk(data, "mail.log", "1:2", 1000, 1000 + len(data)))
    assert [batch.row(i) for i in range(len(batch))] == [EXPECTED] * 8
    assert batch.lines == len(lines)
    starts = [1000 + sum(map(len, lines[:i])) for i in range(len(lines))]
    assert [batch.offset(i) for i in range(len(batch))] == [starts[i] for i in (0, 1, 2, 3, 4, 5, 8, 10)]
    assert batch.line(1) == b"2026-10-24T06:18:01.000000Z mx postfix/smtpd[7]: " + CONNECT.encode()


def test_evidence_of_json_points_into_the_file(tmp_path):
    rules = rules_from(
        tmp_path,
        "rules:\n  - {name: r, description: x, severity: info, score: 0, on: auth_failed, by: client_ip, measure: count, window: 60, threshold: 2}\n",
    )
    data = journal(CONNECT) + journal(FAILED) + journal(CONNECT) + journal(FAILED)
    (found,) = detections(make_engine(rules, year=YEAR), [data])
    assert [data[one["offset"] :].split(b"\n")[0] + b"\n" for one in found.evidence] == [journal(FAILED)] * 2
    assert [one["line"] for one in found.evidence] == ["2026-10-24T06:18:01.000000Z mx postfix/smtpd[7]: " + FAILED] * 2


@settings(max_examples=settings().max_examples * 2)
@given(MESSAGES["smtpd"], st.sampled_from(("journal", "bytes", "docker")))
def test_a_message_in_json_gives_the_same_event(text, form):
    line = HEADERS["docker"][0] + text
    wrapped = (
        docker(f"{HEADERS['classic'][0]}{text}\n") if form == "docker" else journal(text if form == "journal" else list(text.encode()))
    )
    assert rows(wrapped) == rows(line.encode())


# --- anything --------------------------------------------------------------------------------------------------------------------------

_HOSTS = st.sampled_from((b"mx", b"mx", b"backup"))
_LINES = st.one_of(
    st.builds(lambda h, text: b"Oct 24 06:18:01 %s postfix/smtpd[7]: %s" % (h, text.encode()), _HOSTS, MESSAGES["smtpd"]),
    st.builds(lambda h, n: b"Oct 24 06:18:02 %s last message repeated %d times" % (h, n), _HOSTS, st.integers(0, 3)),
    st.builds(lambda h, n: b"<46>2026-10-24T06:18:02Z %s syslogd: last message repeated %d times" % (h, n), _HOSTS, st.integers(1, 2)),
    st.builds(lambda n: b"Oct 24 06:18:02 --- last message repeated %d times ---" % n, st.integers(1, 2)),
    st.builds(
        lambda h, n, text: b"Oct 24 06:18:03 %s postfix/smtpd[7]: message repeated %d times: [ %s]" % (h, n, text.encode()),
        _HOSTS,
        st.integers(0, 3),
        MESSAGES["smtpd"],
    ),
    st.builds(lambda name, text: (HEADERS[name][0] + text).encode(), st.sampled_from(sorted(HEADERS)), MESSAGES["smtpd"]),
    st.builds(lambda h: b"Oct 24 06:18:01 %s cron[1]: x" % h, _HOSTS),
    st.sampled_from(
        (
            b"",
            b"junk",
            b"\0\0\0",
            b"x" * 3000,
            b"\0" * 3000 + b"Oct 24 06:18:01 mx cron[1]: x",
            b"Oct 24 06:18:01 mx postf\0\0Oct 24 06:18:01 mx last message repeated 2 times",
        )
    ),
)
_JSON_LINES = st.one_of(
    _LINES,
    MESSAGES["smtpd"].map(lambda text: journal(text)[:-1]),
    st.builds(
        lambda text, end: docker(f"Oct 24 08:18:01 mx postfix/smtpd[7]: {text}{end}")[:-1],
        MESSAGES["smtpd"],
        st.sampled_from(("\n", "\n", "")),
    ),
)


@settings(max_examples=settings().max_examples * 5)
@given(st.lists(_LINES, max_size=12))
def test_logs_of_many_headers_against_the_oracle(lines):
    check(b"\n".join(lines))


def fed(data: bytes, cuts: list[int]) -> list:
    """Rows with their lines and places, of a log that is cut at these places, and taken up from a snapshot at each."""
    out = []
    engine = make_engine((), year=YEAR, keep_all=True)
    places = sorted({min(cut, len(data)) for cut in cuts})
    for start, end in zip([0, *places], [*places, len(data)], strict=True):
        events = engine.feed(data[start:end]).events
        if events is not None:
            out += [(events.row(i), events.line(i), events.offset(i)) for i in range(len(events))]
        following = make_engine((), year=YEAR, keep_all=True)
        assert following.restore(engine.snapshot())
        engine = following
    events = engine.finish().events
    return out + ([] if events is None else [(events.row(i), events.line(i), events.offset(i)) for i in range(len(events))])


@settings(max_examples=settings().max_examples * 2)
@given(st.lists(_JSON_LINES, max_size=12), st.lists(st.integers(0, 6000), max_size=6))
def test_cut_anywhere(lines, cuts):
    data = b"\n".join(lines) + b"\n"
    assert fed(data, cuts) == fed(data, [])


def test_cut_everywhere():
    data = journal(FAILED) + LAST + docker("Oct 24 08:18:01 mx postfix/") + docker(f"smtpd[7]: {CONNECT}\n") + LAST
    whole = fed(data, [])
    assert [row["kind"] for row, _, _ in whole] == ["auth_failed", "auth_failed", "connect", "connect"]
    assert all(fed(data, [cut]) == whole for cut in range(len(data)))


_BYTES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            (b"\n", b"{", b'{"log":"', b'","stream":"stdout"}', b'{"MESSAGE":[1,', b"\0", STAMP, LAST, b"message repeated 2 times: [")
        ),
    ),
    max_size=20,
).map(b"".join)


@given(_BYTES)
def test_any_bytes(data):
    batch = compiled(data)
    assert batch.lines == len(data.removesuffix(b"\n").split(b"\n")) if data else batch.lines == 0
    for i in range(len(batch)):
        assert 0 <= batch.offset(i) < len(data)
        batch.row(i)
    text, places = translate(data, {})
    assert text.count(b"\n") == data.count(b"\n")
    assert [start for start, _, _ in places] == sorted({start for start, _, _ in places})
