"""``sentinel parse``."""

import csv
import io
import json
import os
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commands import UTC_2026, Run, write

COLUMNS = """
    time host syslog_name service pid kind queue_id
    client_name client_ip client_port sasl_method sasl_username sender recipient orig_to
    relay_host relay_ip relay_port delay dsn status reply reply_code nrcpt size message_id linked_queue_id uid action stage helo repeat
""".split()  # noqa: SIM905
"""CONTRACT: event fields."""

LINES = [
    "Oct 24 06:18:01 mx postfix/submission/smtpd[7]: 4A00000001: client=h.example.net[192.0.2.7]:5025, sasl_method=PLAIN, "
    "sasl_username=info@example.com",
    "Oct 24 06:18:01 mx postfix/cleanup[8]: 4A00000001: message-id=<1@example.com>",
    "Oct 24 06:18:01 mx postfix/qmgr[9]: 4A00000001: from=<info@example.com>, size=900, nrcpt=2 (queue active)",
    "Oct 24 06:18:02 mx postfix/smtp[10]: 4A00000001: to=<u@example.org>, orig_to=<list@example.com>, relay=mx.example.org[192.0.2.9]:25, "
    "delay=0.8, delays=0.1/0/0.3/0.4, dsn=4.7.1, status=deferred (host mx.example.org[192.0.2.9] said: 450 4.7.1 come back later "
    "(in reply to RCPT TO command))",
    "Oct 24 06:18:02 mx postfix/bounce[11]: 4A00000001: sender delay notification: 4B00000002",
    "Oct 24 06:18:03 mx postfix/qmgr[9]: 4B00000002: from=<>, size=2000, nrcpt=1 (queue active)",
    "Oct 24 06:18:04 mx postfix/pickup[12]: 4C00000003: uid=33 from=<www-data>",
    "Oct 24 06:18:05 mx postfix/smtpd[13]: NOQUEUE: reject: RCPT from unknown[198.51.100.7]: 554 5.7.1 <x@example.org>: "
    "Relay access denied; from=<a@example.net> to=<x@example.org> proto=ESMTP helo=<pc>",
    "Oct 24 06:18:06 mx postfix/qmgr[9]: 4A00000001: removed",
    "Oct 24 06:18:06 mx postfix/scache[14]: statistics: domain lookup hits=0 miss=1 success=0%",
    "Oct 24 06:18:07 mx sshd[15]: Accepted publickey for root",
]


def table(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write(tmp_path / "mail.log", LINES)


def test_keys_are_those_of_the_contract(log: Path, sentinel: Run) -> None:
    done = sentinel("parse", *UTC_2026, log)
    rows = table(done.out)
    assert done.code == 0
    assert len(rows) == 9
    assert {key for row in rows for key in row} == set(COLUMNS) - {"repeat"}  # no line is folded
    for row in rows:
        assert list(row) == [name for name in COLUMNS if name in row]
        assert None not in row.values()
    assert done.sentences == ["11 lines read"]


def test_a_row_whole(log: Path, sentinel: Run) -> None:
    row = table(sentinel("parse", *UTC_2026, log).out)[3]
    assert row == {
        "time": "2026-10-24T06:18:02Z",
        "host": "mx",
        "syslog_name": "postfix",
        "service": "smtp",
        "pid": 10,
        "kind": "delivery",
        "queue_id": "4A00000001",
        "recipient": "u@example.org",
        "orig_to": "list@example.com",
        "relay_host": "mx.example.org",
        "relay_ip": "192.0.2.9",
        "relay_port": 25,
        "delay": 0.8,
        "dsn": "4.7.1",
        "status": "deferred",
        "reply": "host mx.example.org[192.0.2.9] said: 450 4.7.1 come back later (in reply to RCPT TO command)",
        "reply_code": 450,
    }


def test_null_sender_is_empty_and_an_unknown_one_is_absent(log: Path, sentinel: Run) -> None:
    rows = table(sentinel("parse", *UTC_2026, log).out)
    assert rows[5]["sender"] == ""
    assert "sender" not in rows[0]


def test_attributed_rows_carry_the_origin(log: Path, sentinel: Run) -> None:
    rows = table(sentinel("parse", "--attributed", *UTC_2026, log).out)
    delivery = rows[3]
    assert (delivery["sasl_username"], delivery["client_ip"], delivery["sender"]) == ("info@example.com", "192.0.2.7", "info@example.com")
    plain = table(sentinel("parse", *UTC_2026, log).out)[3]
    assert {key: delivery[key] for key in plain} == plain


def test_all_keeps_what_means_nothing(log: Path, sentinel: Run) -> None:
    rows = table(sentinel("parse", "--all", *UTC_2026, log).out)
    assert [row["kind"] for row in rows[-2:]] == ["other", "unparsed"]
    assert rows[-1]["line"] == LINES[-1]


def test_csv_has_every_column_and_the_same_values(log: Path, sentinel: Run) -> None:
    done = sentinel("parse", "--format", "csv", *UTC_2026, log)
    reader = csv.DictReader(io.StringIO(done.out))
    rows = list(reader)
    assert reader.fieldnames == COLUMNS
    expected = table(sentinel("parse", *UTC_2026, log).out)
    assert [{key: value for key, value in row.items() if value != ""} for row in rows] == [
        {key: str(value) for key, value in row.items() if value != ""} for row in expected
    ]


def test_csv_of_all_lines_has_the_text_of_what_can_not_be_read(log: Path, sentinel: Run) -> None:
    reader = csv.DictReader(io.StringIO(sentinel("parse", "--all", "--format", "csv", *UTC_2026, log).out))
    assert reader.fieldnames == [*COLUMNS, "line"]
    assert list(reader)[-1]["line"] == LINES[-1]


def test_old_output_stays_when_the_log_is_not_there(tmp_path: Path, sentinel: Run) -> None:
    target = write(tmp_path / "rows.jsonl", ["kept"])
    sentinel("parse", "--out", target, tmp_path / "gone.log").refused("gone.log")
    assert target.read_text(encoding="utf-8") == "kept\n"


def test_out_writes_the_same_to_a_file(log: Path, tmp_path: Path, sentinel: Run) -> None:
    target = tmp_path / "rows.jsonl"
    done = sentinel("parse", *UTC_2026, "--out", target, log)
    assert (done.code, done.out) == (0, "")
    assert target.read_text(encoding="utf-8") == sentinel("parse", *UTC_2026, log).out


def test_out_that_can_not_be_written(log: Path, tmp_path: Path, sentinel: Run) -> None:
    sentinel("parse", *UTC_2026, "--out", tmp_path / "no" / "rows", log).refused("--out", str(tmp_path / "no" / "rows"), "No such file")
    sentinel("parse", *UTC_2026, "--out", tmp_path, log).refused("--out", str(tmp_path), "directory")


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_parquet_without_pyarrow_says_what_to_install(log: Path, tmp_path: Path, sentinel: Run) -> None:
    done = sentinel("parse", *UTC_2026, "--format", "parquet", "--out", tmp_path / "x", log)
    done.refused("parquet", "pip install", "maillog-sentinel[parquet]")


def test_parquet_holds_the_table(log: Path, tmp_path: Path, sentinel: Run) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pandas

    target = tmp_path / "rows.parquet"
    assert sentinel("parse", *UTC_2026, "--format", "parquet", "--out", target, log).code == 0
    frame = pandas.read_parquet(target)
    assert list(frame.columns) == COLUMNS
    assert frame["recipient"].dropna().tolist() == ["u@example.org", "x@example.org"]


def test_dialects(log: Path, sentinel: Run) -> None:
    rows = sentinel("parse", *UTC_2026, log).out
    assert sentinel("parse", *UTC_2026, "--dialect", "postfix", log).out == rows
    for other in ("sendmail", "exim", "qmail"):
        assert sentinel("parse", *UTC_2026, "--dialect", other, log).out == ""


def test_dialect_of_another_server(tmp_path: Path, sentinel: Run) -> None:
    log = tmp_path / "mainlog"
    log.write_text("2026-11-22 02:04:46 1abcDE-000123-4F Completed\n")
    for dialect in ("auto", "exim"):
        (row,) = map(json.loads, sentinel("parse", *UTC_2026, "--dialect", dialect, log).out.splitlines())
        assert (row["service"], row["kind"], row["queue_id"]) == ("exim", "removed", "1abcDE-000123-4F")


def test_standard_input(log: Path, sentinel: Run, process: Run) -> None:
    assert process("parse", *UTC_2026, "-", stdin=log.read_bytes()).out == sentinel("parse", *UTC_2026, log).out


@pytest.mark.parametrize("junk", [b"", b"\0\0\0\n", b"\xff\xfe\n" * 3, b"no log line at all", b"z" * 2_000_000 + b"\n"])
def test_junk_is_no_row_and_no_error(junk: bytes, tmp_path: Path, sentinel: Run) -> None:
    path = tmp_path / "junk"
    path.write_bytes(junk)
    done = sentinel("parse", *UTC_2026, path)
    assert (done.code, done.out) == (0, "")
    assert done.sentences


def test_file_that_is_not_there(tmp_path: Path, sentinel: Run) -> None:
    sentinel("parse", tmp_path / "mail.lgo").refused("mail.lgo")
    sentinel("parse", tmp_path).refused(str(tmp_path), "directory")


def test_year_and_zone(tmp_path: Path, sentinel: Run) -> None:
    log = write(
        tmp_path / "mail.log",
        [
            "Dec 31 23:59:59 mx postfix/smtpd[1]: connect from a[192.0.2.1]",
            "Jan  1 00:00:01 mx postfix/smtpd[1]: connect from a[192.0.2.1]",
            "2013-01-01T00:00:02+01:00 mx postfix/smtpd[1]: connect from a[192.0.2.1]",
        ],
    )
    times = [row["time"] for row in table(sentinel("parse", "--year", "2012", "--timezone", "Asia/Shanghai", log).out)]
    assert times == ["2012-12-31T15:59:59Z", "2012-12-31T16:00:01Z", "2012-12-31T23:00:02Z"]


def test_year_of_several_logs_over_new_year(tmp_path: Path, sentinel: Run) -> None:
    """As the shell lists them: the newest first. The year is that of the first line of all."""
    line = "{} 12:00:00 mx postfix/smtpd[1]: connect from a[192.0.2.1]"
    logs = [
        write(tmp_path / "mail.log", [line.format("Jan  4")]),
        write(tmp_path / "mail.log.1", [line.format("Dec 28"), line.format("Jan  3")]),
        write(tmp_path / "mail.log.2", [line.format("Dec 21"), line.format("Dec 27")]),
    ]
    times = [row["time"][:10] for row in table(sentinel("parse", "--year", "2025", "--timezone", "UTC", *logs).out)]
    assert times == ["2025-12-21", "2025-12-27", "2025-12-28", "2026-01-03", "2026-01-04"]


def test_year_of_a_log_that_was_never_rotated(tmp_path: Path, sentinel: Run) -> None:
    line = "{} 12:00:00 mx postfix/smtpd[1]: connect from a[192.0.2.1]"
    days = ["Aug 10", "Dec 30", "Apr 10", "Aug 12", "Dec 30", "Feb  1"]
    log = write(tmp_path / "mail.log", [line.format(day) for day in days])
    written = datetime(2026, 2, 1, 12, tzinfo=UTC).timestamp()
    os.utime(log, (written, written))
    times = [row["time"][:4] for row in table(sentinel("parse", "--timezone", "UTC", log).out)]
    assert times == ["2024", "2024", "2025", "2025", "2025", "2026"]


REPLY_COLUMNS = ["reply_class", "reply_sub", "reply_confidence", "provider", "dnsbl", "blocked_ip", "delist_url", "reply_rule"]


def test_what_refusals_mean_with_attributed_rows(tmp_path: Path, sentinel: Run) -> None:
    log = write(
        tmp_path / "mail.log",
        [
            *LINES,
            "Oct 24 06:18:08 mx postfix/smtp[10]: 4A00000001: to=<u@example.org>, relay=mx1.gmx.net[192.0.2.9]:25, delay=1, delays=0/0/1/0, dsn=5.0.0, "
            "status=bounced (host mx1.gmx.net[192.0.2.9] said: 554 5.7.1 Client host [198.51.100.1] blocked using bl.spamcop.net; see "
            "https://www.spamcop.net/bl.shtml?198.51.100.1)",
        ],
    )
    rows = table(sentinel("parse", *UTC_2026, "--attributed", log).out)
    told = {name: value for name, value in rows[-1].items() if name in REPLY_COLUMNS}
    assert told == {
        "reply_class": "ip_blocked",
        "reply_confidence": 0.97,
        "provider": "gmx",
        "dnsbl": "bl.spamcop.net",
        "blocked_ip": "198.51.100.1",
        "delist_url": "https://www.spamcop.net/bl.shtml?198.51.100.1",
        "reply_rule": "list-client",
    }
    # Nothing is told of what is no refusal, nor without --attributed.
    assert {name for row in rows[:3] for name in row} & set(REPLY_COLUMNS) == set()
    assert {name for row in table(sentinel("parse", *UTC_2026, log).out) for name in row} & set(REPLY_COLUMNS) == set()
    header = sentinel("parse", *UTC_2026, "--attributed", "--format", "csv", log).out.splitlines()[0]
    assert header.split(",") == [*COLUMNS, *REPLY_COLUMNS]
