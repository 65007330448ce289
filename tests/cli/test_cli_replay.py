"""``sentinel replay``."""

import bz2
import gzip
import json
import lzma
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from commands import UTC_2026, Run, spam, write

KEYS = {"id", "rule", "severity", "score", "time", "subject", "window", "measure", "value", "threshold", "evidence", "related"}
"""CONTRACT: detection; baseline only where it was learned."""

RULE = """
rules:
  - name: any-mail
    description: Somebody writes.
    severity: info
    score: 1
    on: queued
    by: sasl_username
    measure: count
    window: 1m
    threshold: {threshold}
"""


def found(text: str, *, but: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in row.items() if key not in but} for row in rows]


def test_table(spam_log: Path, sentinel: Run) -> None:
    done = sentinel("replay", *UTC_2026, spam_log)
    head, *rows = done.out.splitlines()
    assert done.code == 0
    assert head.split() == ["TIME", "SEVERITY", "SCORE", "RULE", "WHO", "AND", "HOW", "MUCH"]
    assert sorted(row.split()[3] for row in rows) == ["outbound-burst-account", "sender-login-mismatch"]
    for row in rows:
        assert row.startswith("2026-10-24T06:18:04Z  critical")
        assert row[head.index("WHO") :].startswith("info@example.com: ")
        assert "198.51.100.7" in row
    assert done.sentences == [
        "8 lines: 8 events, 0 ignored, 0 unparsed",
        "would lock info@example.com: score 11 at 2026-10-24T06:18:04Z",
    ]


def test_nothing_found(quiet_log: Path, sentinel: Run) -> None:
    done = sentinel("replay", *UTC_2026, quiet_log)
    assert (done.code, done.out) == (0, "")
    assert done.sentences[1].startswith("nobody reaches the score of 10")


def test_empty_log_is_not_silence(tmp_path: Path, sentinel: Run) -> None:
    done = sentinel("replay", write(tmp_path / "mail.log", []))
    assert (done.code, done.out) == (0, "")
    assert done.sentences[0].startswith("0 lines")


def test_jsonl_has_the_contract_s_keys(spam_log: Path, sentinel: Run) -> None:
    rows = found(sentinel("replay", "--format", "jsonl", *UTC_2026, spam_log).out)
    assert len(rows) == 2
    for row in rows:
        assert set(row) == KEYS | {"description", "advice"}
        assert row["subject"] == {"sasl_username": "info@example.com"}
        assert row["time"] == "2026-10-24T06:18:04Z"
        assert 1 <= len(row["evidence"]) <= 10
        data = spam_log.read_bytes()
        for item in row["evidence"]:
            assert set(item) == {"line", "source", "offset"}
            assert item["source"] == str(spam_log)
            assert data[item["offset"] :].startswith(item["line"].encode() + b"\n")
        assert row["related"]["client_ips"] == ["198.51.100.7"]


def test_same_log_same_bytes(spam_log: Path, process: Run) -> None:
    first = process("replay", "--format", "jsonl", *UTC_2026, spam_log, env={"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo"})
    second = process("replay", "--format", "jsonl", *UTC_2026, spam_log, env={"PYTHONHASHSEED": "2", "TZ": "America/Lima"})
    assert first.out == second.out != ""


@pytest.mark.parametrize(("severity", "code"), [("info", 1), ("warning", 1), ("critical", 1)])
def test_fail_on_a_critical_detection(severity: str, code: int, spam_log: Path, sentinel: Run) -> None:
    assert sentinel("replay", "--fail-on", severity, *UTC_2026, spam_log).code == code


@pytest.mark.parametrize(("severity", "code"), [("info", 1), ("warning", 0), ("critical", 0)])
def test_fail_on_is_from_a_severity_on(severity: str, code: int, tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULE.format(threshold=1), encoding="utf-8")
    assert sentinel("replay", "--rules", rules, "--fail-on", severity, *UTC_2026, spam_log).code == code


def test_fail_on_without_detections(quiet_log: Path, sentinel: Run) -> None:
    assert sentinel("replay", "--fail-on", "info", *UTC_2026, quiet_log).code == 0


# several files


def test_files_are_put_in_order_of_time(tmp_path: Path, sentinel: Run) -> None:
    lines = spam("a@example.com", minute="06:18") + spam("b@example.com", minute="07:18", begin=11)
    whole = write(tmp_path / "whole.log", lines)
    older = write(tmp_path / "z-older.log", lines[:8])
    newer = write(tmp_path / "a-newer.log", lines[8:])
    expected = found(sentinel("replay", "--format", "jsonl", *UTC_2026, whole).out, but=("evidence",))
    for order in ((older, newer), (newer, older)):
        assert found(sentinel("replay", "--format", "jsonl", *UTC_2026, *order).out, but=("evidence",)) == expected
    assert [row["subject"]["sasl_username"][0] for row in expected] == ["a", "a", "b", "b"]


def test_overlapping_files_are_merged(tmp_path: Path, sentinel: Run) -> None:
    """smtpd's lines in one file and qmgr's in the other, as some syslog configurations have it; no message is whole in either."""
    lines = [line for n in range(1, 5) for line in spam(messages=1, begin=n, minute=f"06:{18 + n}")]
    smtpd = write(tmp_path / "smtpd.log", [line for line in lines if "/smtpd" in line])
    qmgr = write(tmp_path / "qmgr.log", [line for line in lines if "/qmgr" in line])
    # Both lines of a message have the same second: the order in which the files are given decides.
    expected = found(sentinel("replay", "--format", "jsonl", *UTC_2026, write(tmp_path / "whole", lines)).out, but=("evidence",))
    assert found(sentinel("replay", "--format", "jsonl", *UTC_2026, smtpd, qmgr).out, but=("evidence",)) == expected
    assert len(expected) == 2


def test_rotated_logs_as_a_shell_lists_them(tmp_path: Path, sentinel: Run) -> None:
    parts = [spam(messages=1, begin=n, minute=f"06:{18 + n}") for n in range(1, 5)]
    data = ["".join(f"{line}\n" for line in part).encode() for part in parts]
    (tmp_path / "mail.log").write_bytes(data[3])
    (tmp_path / "mail.log.1.bz2").write_bytes(bz2.compress(data[2]))
    (tmp_path / "mail.log.2.gz").write_bytes(gzip.compress(data[1]))
    (tmp_path / "mail.log.3.xz").write_bytes(lzma.compress(data[0]))
    done = sentinel("replay", "--format", "jsonl", *UTC_2026, *sorted(tmp_path.glob("mail.log*")))
    assert [row["rule"] for row in found(done.out)] == ["outbound-burst-account", "sender-login-mismatch"]
    sources = {os.path.basename(item["source"]) for row in found(done.out) for item in row["evidence"]}
    assert sources == {"mail.log", "mail.log.1.bz2", "mail.log.2.gz", "mail.log.3.xz"}


def test_zst(tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    path = tmp_path / "mail.log.1.zst"
    path.write_bytes(zstandard.compress(spam_log.read_bytes()))
    assert len(found(sentinel("replay", "--format", "jsonl", *UTC_2026, path).out)) == 2


def test_standard_input(spam_log: Path, process: Run) -> None:
    rows = found(process("replay", "--format", "jsonl", *UTC_2026, "-", stdin=spam_log.read_bytes()).out)
    assert len(rows) == 2
    assert {item["source"] for row in rows for item in row["evidence"]} == {"-"}


def test_missing_file_is_told_before_anything_is_read(spam_log: Path, tmp_path: Path, sentinel: Run) -> None:
    sentinel("replay", *UTC_2026, spam_log, tmp_path / "gone.log").refused("gone.log")
    sentinel("replay", *UTC_2026, spam_log, tmp_path).refused(str(tmp_path), "directory")


def test_damaged_archive_is_told_after_what_could_be_read(tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    path = tmp_path / "mail.log.1.gz"
    path.write_bytes(gzip.compress(spam_log.read_bytes() + os.urandom(100_000).hex().encode())[:-20_000])
    done = sentinel("replay", "--format", "jsonl", *UTC_2026, path)
    assert done.code == 2
    assert len(found(done.out)) == 2
    assert "mail.log.1.gz" in done.sentences[-1]


# rules, year, zone


def test_own_rules_replace_the_product_s(tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULE.format(threshold=2), encoding="utf-8")
    rows = found(sentinel("replay", "--format", "jsonl", "--rules", rules, *UTC_2026, spam_log).out)
    assert [(row["rule"], row["value"]) for row in rows] == [("any-mail", 2)]


def test_rules_that_are_wrong(tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULE.format(threshold=-1), encoding="utf-8")
    sentinel("replay", "--rules", rules, *UTC_2026, spam_log).refused(f"{rules}:11:", "threshold")
    sentinel("replay", "--rules", tmp_path / "none.yaml", spam_log).refused("none.yaml")


def test_zone_that_is_none(spam_log: Path, sentinel: Run) -> None:
    sentinel("replay", "--timezone", "Europe/Berln", spam_log).refused("Europe/Berln", 'did you mean "Europe/Berlin"')


def test_zone_shifts_the_times(spam_log: Path, sentinel: Run) -> None:
    rows = found(sentinel("replay", "--format", "jsonl", "--year", "2012", "--timezone", "Asia/Shanghai", spam_log).out)
    assert {row["time"] for row in rows} == {"2012-10-23T22:18:04Z"}


@pytest.mark.parametrize(("written", "year"), [("2020-11-01", 2020), ("2020-10-24", 2020), ("2020-10-20", 2019), ("2021-01-01", 2020)])
def test_year_by_the_file_s_date(written: str, year: int, spam_log: Path, sentinel: Run) -> None:
    seconds = datetime.fromisoformat(written).replace(tzinfo=UTC).timestamp()
    os.utime(spam_log, (seconds, seconds))
    rows = found(sentinel("replay", "--format", "jsonl", "--timezone", "UTC", spam_log).out)
    assert {row["time"] for row in rows} == {f"{year}-10-24T06:18:04Z"}


# configuration


def test_configuration_gives_rules_networks_and_logins(tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    logins = tmp_path / "logins"
    logins.write_text("@example.net  info@example.com, other@example.com\n", encoding="utf-8")
    config = tmp_path / "sentinel.yaml"
    config.write_text(f"log: /var/log/mail.log\ntimezone: Asia/Shanghai\nyear: 2012\nlogins:\n  file: {logins}\n", encoding="utf-8")
    rows = found(sentinel("replay", "--format", "jsonl", "--config", config, spam_log).out)
    assert [(row["rule"], row["time"]) for row in rows] == [("outbound-burst-account", "2012-10-23T22:18:04Z")]
    rows = found(sentinel("replay", "--format", "jsonl", "--config", config, *UTC_2026, spam_log).out)
    assert [row["time"] for row in rows] == ["2026-10-24T06:18:04Z"]


def test_summary_goes_by_the_configured_policy(tmp_path: Path, spam_log: Path, sentinel: Run) -> None:
    config = tmp_path / "sentinel.yaml"
    config.write_text("log: /var/log/mail.log\npolicy:\n  lock_at: 12\n", encoding="utf-8")
    assert sentinel("replay", "--config", config, *UTC_2026, spam_log).sentences[-1].startswith("nobody reaches the score of 12")
    config.write_text("log: /var/log/mail.log\npolicy:\n  protected: info@*\n", encoding="utf-8")
    assert not any("would lock" in sentence for sentence in sentinel("replay", "--config", config, *UTC_2026, spam_log).sentences)


# time


def test_summary_tells_of_late_lines_and_of_messages_without_a_beginning(tmp_path: Path, sentinel: Run) -> None:
    connect = "Oct 24 {} mx postfix/smtpd[1]: connect from unknown[198.51.100.7]"
    sent = "Oct 24 06:19:01 mx postfix/smtp[1]: 4A00000001: to=<a@example.net>, relay=none, delay=1, dsn=2.0.0, status=sent (ok)"
    log = write(tmp_path / "mail.log", [connect.format("06:20:00"), connect.format("06:18:59"), sent])
    sentences = sentinel("replay", *UTC_2026, log).sentences
    assert "events more than a minute out of order, left out of the windows: 1" in sentences
    assert "deliveries of messages that began before the log, which count for no account: 1" in sentences
    assert not any("set back" in sentence or "--year" in sentence for sentence in sentences)


def test_summary_tells_of_a_clock_that_was_set_back(tmp_path: Path, sentinel: Run) -> None:
    connect = "Oct 24 {} mx postfix/smtpd[1]: connect from unknown[198.51.100.7]"
    log = write(tmp_path / "mail.log", [connect.format("06:20:00"), *[connect.format("05:20:00")] * 1000])
    sentences = sentinel("replay", *UTC_2026, log).sentences
    assert "times that the clock of the log was set back, and the windows began anew: 1" in sentences


def test_summary_tells_of_dates_that_run_past_the_file_s(process: Run) -> None:
    """Of a pipe only the first line is known: a log of two years has a year too late."""
    now = datetime.now(UTC)
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    names = [months[(now.month + n) % 12] for n in range(0, 28, 3)]
    log = "".join(f"{name}  1 06:00:00 mx postfix/smtpd[1]: connect from unknown[198.51.100.7]\n" for name in names)
    sentences = process("replay", "--timezone", "UTC", "-", stdin=log.encode()).sentences
    assert any(sentence.startswith("-: its dates run past the time") and "--year" in sentence for sentence in sentences)
