"""What other programs import: ``read_maillog``, ``replay``, ``Engine``, ``load_rules``."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

import sentinel

COLUMNS = """
    time host syslog_name service pid kind queue_id client_name client_ip client_port sasl_method sasl_username sender recipient orig_to
    relay_host relay_ip relay_port delay dsn status reply reply_code nrcpt size message_id linked_queue_id uid action stage helo repeat
""".split()  # noqa: SIM905
INTEGERS = ("pid", "client_port", "relay_port", "reply_code", "nrcpt", "size", "uid")
DETECTION = "id rule severity score time subject window measure value threshold evidence related description advice".split()  # noqa: SIM905


def lines(messages: int = 4) -> bytes:
    out = []
    for n in range(1, messages + 1):
        out += [
            f"Oct 24 06:18:0{n} mx postfix/smtpd[1]: 4A0000000{n}: client=h[192.0.2.7], sasl_method=LOGIN, sasl_username=info@example.com",
            f"Oct 24 06:18:0{n} mx postfix/qmgr[2]: 4A0000000{n}: from=<linda{n}@example.net>, size=900, nrcpt=50 (queue active)",
            f"Oct 24 06:18:0{n} mx postfix/smtp[3]: 4A0000000{n}: to=<u@example.org>, relay=mx.example.org[192.0.2.9]:25, delay=0.4, "
            "delays=0.1/0/0.1/0.2, dsn=2.0.0, status=sent (250 2.0.0 Ok)",
        ]
    return "".join(f"{line}\n" for line in out).encode()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mail.log"
    path.write_bytes(lines())
    return path


def fresh(code: str) -> list[str]:
    """What code prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# names


def test_every_public_name_is_there() -> None:
    for name in sentinel.__all__:
        assert getattr(sentinel, name) is not None


def test_unknown_name_is_the_usual_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'read_mail'"):
        sentinel.read_mail  # noqa: B018


def test_replay_stays_a_function_when_its_module_is_loaded() -> None:
    assert fresh("import sentinel, sentinel.cli.replay, sentinel.replaying\nprint(callable(sentinel.replay))") == ["True"]


def test_import_costs_nothing() -> None:
    assert fresh("import sys, sentinel\nprint(*(n for n in ('pandas', 'numpy', 'pydantic', 'sentinel.detect') if n in sys.modules))") == []
    assert fresh("import sys, sentinel\nsentinel.Engine\nprint(*(n for n in ('pandas', 'sqlalchemy') if n in sys.modules))") == []


# read_maillog


def test_read_maillog_is_the_event_table(log: Path) -> None:
    frame = sentinel.read_maillog(log, year=2026, timezone="UTC")
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 12
    assert isinstance(frame["time"].dtype, pandas.DatetimeTZDtype)
    assert str(frame["time"].dt.tz) == "UTC"
    assert {name: str(frame[name].dtype) for name in INTEGERS} == dict.fromkeys(INTEGERS, "Int64")
    assert frame["delay"].dtype == "float64"
    assert frame["time"].iloc[0] == pandas.Timestamp("2026-10-24T06:18:01Z")
    assert frame["kind"].tolist() == ["accepted", "queued", "delivery"] * 4
    assert frame["recipient"].notna().tolist() == [False, False, True] * 4
    assert frame["nrcpt"].sum() == 200


def test_attributed_rows_know_their_account(log: Path) -> None:
    frame = sentinel.read_maillog([log], year=2026)
    assert set(frame["sasl_username"]) == {"info@example.com"}
    assert set(frame[frame["kind"] == "delivery"]["sender"]) == {f"linda{n}@example.net" for n in range(1, 5)}
    plain = sentinel.read_maillog([log], year=2026, attributed=False)
    assert plain["sasl_username"].notna().tolist() == [True, False, False] * 4


def test_year_and_zone(log: Path) -> None:
    frame = sentinel.read_maillog(str(log), year=2012, timezone="Asia/Shanghai")
    assert frame["time"].iloc[0] == pandas.Timestamp("2012-10-23T22:18:01Z")
    with pytest.raises(sentinel.UserError, match="Asia/Shanghai"):
        sentinel.read_maillog(log, timezone="Asia/Shangai")


def test_several_logs_are_one_table_in_order_of_time(tmp_path: Path) -> None:
    whole = lines()
    cut = whole.index(b"Oct 24 06:18:03")
    (tmp_path / "mail.log.1.gz").write_bytes(gzip.compress(whole[:cut]))
    (tmp_path / "mail.log").write_bytes(whole[cut:])
    (tmp_path / "whole").write_bytes(whole)
    parts = sentinel.read_maillog(sorted(tmp_path.glob("mail.log*")), year=2026)
    pandas.testing.assert_frame_equal(parts, sentinel.read_maillog(tmp_path / "whole", year=2026))


def test_empty_log_is_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "mail.log").write_bytes(b"")
    frame = sentinel.read_maillog(tmp_path / "mail.log")
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 0
    assert isinstance(frame["time"].dtype, pandas.DatetimeTZDtype)


def test_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(sentinel.UserError, match=r"mail\.lgo"):
        sentinel.read_maillog(tmp_path / "mail.lgo")


# replay


def test_replay_is_a_table_of_detections(log: Path, tmp_path: Path) -> None:
    frame = sentinel.replay(log)
    assert list(frame.columns) == DETECTION
    assert sorted(frame["rule"]) == ["outbound-burst-account", "sender-login-mismatch"]
    assert isinstance(frame["time"].dtype, pandas.DatetimeTZDtype)
    assert frame["subject"].iloc[0] == {"sasl_username": "info@example.com"}
    (tmp_path / "empty").write_bytes(b"")
    assert list(sentinel.replay([tmp_path / "empty"]).columns) == DETECTION


RULE = """
rules:
  - {name: any-mail, description: Somebody writes., severity: info, score: 1,
     on: queued, by: sasl_username, measure: count, window: 1m, threshold: 2}
"""


def test_replay_takes_a_rules_file_or_loaded_rules(log: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULE, encoding="utf-8")
    by_path = sentinel.replay([log], rules)
    pandas.testing.assert_frame_equal(by_path, sentinel.replay([log], sentinel.load_rules(rules)))
    assert by_path["rule"].tolist() == ["any-mail"]


# load_rules


def test_load_rules(tmp_path: Path) -> None:
    names = [rule.name for rule in sentinel.load_rules()]
    assert "sender-login-mismatch" in names
    (tmp_path / "own.yaml").write_text(RULE, encoding="utf-8")
    assert [rule.name for rule in sentinel.load_rules(tmp_path)] == ["any-mail"]
    assert [rule.name for rule in sentinel.load_rules([tmp_path / "own.yaml"])] == ["any-mail"]
    (tmp_path / "twice.yaml").write_text(RULE, encoding="utf-8")
    with pytest.raises(sentinel.UserError, match=r"twice\.yaml:3: .*own\.yaml:3"):
        sentinel.load_rules(tmp_path)


# Engine


def test_engine_feeds_bytes_cut_anywhere() -> None:
    engine = sentinel.Engine(sentinel.load_rules(), year=2026)
    data = lines()
    found = []
    for at in range(0, len(data), 7):
        step = engine.feed(data[at : at + 7])
        found += step.detections
    assert engine.finish().detections == []
    assert sorted(detection.rule for detection in found) == ["outbound-burst-account", "sender-login-mismatch"]
    assert all(isinstance(detection, sentinel.Detection) for detection in found)
    json.dumps([detection.to_dict() for detection in found])


def test_engine_feeds_chunks_and_knows_their_places() -> None:
    data = lines()
    engine = sentinel.Engine(year=2026)
    step = engine.feed(sentinel.Chunk(data, "mx1/mail.log", "8:15", 1000, 1000 + len(data)))
    assert step.lines == 12
    for detection in step.detections:
        for item in detection.evidence:
            assert item["source"] == "mx1/mail.log"
            at = item["offset"] - 1000
            assert data[at:].startswith(item["line"].encode() + b"\n")


def test_engine_goes_on_from_a_snapshot() -> None:
    data = lines()
    cut = len(data) // 2 + 11
    whole = sentinel.Engine(year=2026)
    expected = whole.feed(data).detections
    first = sentinel.Engine(year=2026)
    before = first.feed(data[:cut]).detections
    second = sentinel.Engine(year=2026)
    assert second.restore(first.snapshot()) is True
    assert before + second.feed(data[cut:]).detections == expected


def test_snapshot_of_other_rules_or_damaged(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(RULE, encoding="utf-8")
    snapshot = sentinel.Engine(year=2026).snapshot()
    assert sentinel.Engine(sentinel.load_rules(tmp_path)).restore(snapshot) is False
    with pytest.raises(ValueError, match="snapshot"):
        sentinel.Engine().restore(snapshot[:-1] + bytes([snapshot[-1] ^ 1]))
    with pytest.raises(ValueError, match="snapshot"):
        sentinel.Engine().restore(b"something else")
