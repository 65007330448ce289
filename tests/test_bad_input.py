"""Input that is wrong, through the command line and the daemon: each gets its sentence or its counter, and nothing else is lost."""

import bz2
import gzip
import json
import lzma
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import Daemon, Traffic, replayed, running, sentinel, until, write

CULPRIT = "info@example.com"
MEGABYTE = 1 << 20
_RANDOM = random.Random(5)

JUNK = {
    "binary": bytes(_RANDOM.randrange(256) for _ in range(5000)).replace(b"\n", b"") + b"\n",
    "binary with line ends": b"\n".join(bytes(_RANDOM.randrange(256) for _ in range(40)) for _ in range(200)) + b"\n",
    "a line of 1 MB": b"x" * (MEGABYTE - 1) + b"\n",
    "lines of more than 1 MB": (b"y" * (MEGABYTE + 7) + b"\n") * 2 + b"z" * 3 * MEGABYTE + b"\n",
    "a log line that goes on for 1 MB": b"Nov 22 04:00:00 mx postfix/smtpd[1]: connect from " + b"a" * MEGABYTE + b"[192.0.2.1]\n",
    "NULs": b"\0" * 4096 + b"\n" + b"\0\n\0\0\n",
    "NULs in a line": b"Nov 22 04:00:00 mx postfix/smtpd[1]: conn\0ect from unknown[192.0.2.1]\n",
    "no UTF-8": b"\xff\xfe\xc3\x28\xed\xa0\x80\n",
    "the beginning of a line": b"Nov 22 04:00:00 mx postfix/smtpd[1]: 4A000000: client=unk\n",
    "the end of a line": b"unknown[192.0.2.1], sasl_method=LOGIN, sasl_username=victim@example.com\n",
    "only a header": b"Nov 22 04:00:00 mx postfix/smtpd[1]:\nNov 22 04:00:00 mx postfix/smtpd[1]: \nNov 22 04:00:00 mx\nNov 22\n",
    "empty lines": b"\n" * 500 + b" \n\t\n\r\n",
    "another log": b'192.0.2.7 - - [22/Nov/2026:04:00:00 +0000] "GET / HTTP/1.1" 200 12\n{"json": true}\n<html>\n',
    "impossible dates": b"Nov 31 04:00:00 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n9999-99-99T99:99:99Z mx postfix/smtpd[1]: x\n",
}
OVERLONG = {"a line of 1 MB", "lines of more than 1 MB", "a log line that goes on for 1 MB"}


@pytest.fixture(scope="module")
def attack() -> list[bytes]:
    """Good lines, of which something must be found."""
    return Traffic().attack(CULPRIT).splitlines(keepends=True)


def spread(good: list[bytes], *junk: bytes) -> bytes:
    """Junk before, between and after good lines."""
    middle = len(good) // 2
    whole = b"".join(junk)
    return whole + b"".join(good[:middle]) + whole + b"".join(good[middle:]) + whole


def good_rows(*files: Path, data: bytes | None = None) -> list[dict[str, Any]]:
    """The rows of ``parse`` that are of the good lines' server."""
    options: dict[str, Any] = {"encoding": None, "errors": None}
    done = sentinel("parse", "--attributed", *(files or ["-"]), input=data, **options)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr  # type: ignore[operator]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [row for row in rows if row["pid"] in (7, 8, 9, 77)]


def one_sentence(done: "subprocess.CompletedProcess[str]", *words: str | Path) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("sentinel: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert str(word) in done.stderr


# in the log


@pytest.mark.parametrize("what", JUNK)
def test_junk_between_good_lines(tmp_path: Path, attack: list[bytes], what: str) -> None:
    clean, dirty = tmp_path / "clean.log", tmp_path / "dirty.log"
    clean.write_bytes(b"".join(attack))
    dirty.write_bytes(spread(attack, JUNK[what]))
    expected = good_rows(clean)
    assert len(expected) == len(attack)
    assert good_rows(dirty) == expected


def test_all_junk_at_once_in_every_wrapping(tmp_path: Path, attack: list[bytes]) -> None:
    data = spread(attack, *JUNK.values())
    clean = tmp_path / "clean.log"
    clean.write_bytes(b"".join(attack))
    expected = good_rows(clean)
    for name, wrapped in (("a.gz", gzip.compress(data)), ("a.bz2", bz2.compress(data)), ("a.xz", lzma.compress(data))):
        path = tmp_path / name
        path.write_bytes(wrapped)
        assert good_rows(path) == expected, name
    assert good_rows(data=data) == expected


def test_junk_is_counted_and_detections_stay(tmp_path: Path, attack: list[bytes]) -> None:
    clean, dirty = tmp_path / "clean.log", tmp_path / "dirty.log"
    clean.write_bytes(b"".join(attack))
    dirty.write_bytes(spread(attack, *JUNK.values()))
    expected = {one["id"] for one in replayed(clean)}
    assert len(expected) >= 4
    done = sentinel("replay", "--format", "jsonl", dirty)
    assert done.returncode == 0
    assert {json.loads(line)["id"] for line in done.stdout.splitlines()} == expected
    assert f"would lock {CULPRIT}" in done.stderr
    assert " unparsed" in done.stderr
    # Three places with one line of just over 1 MB and three that are longer; the line of just under 1 MB is read, and is no log line.
    assert "12 too long" in done.stderr


def test_junk_in_a_log_that_is_followed(tmp_path: Path, attack: list[bytes]) -> None:
    log = tmp_path / "mail.log"
    log.touch()
    data = spread(attack, *JUNK.values())
    with running(tmp_path) as daemon:
        for at in range(0, len(data), 777_777):
            write(log, data[at : at + 777_777])
        until(lambda: len(daemon.detections()) >= 4, "detections")
        daemon.wait_lines()
        lines = daemon.lines()
        assert lines["event"] >= len(attack)
        assert lines["unparsed"] > 600
        assert {one["id"] for one in daemon.detections()} == {one["id"] for one in replayed(log)}
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.messages
        assert "victim" not in daemon.messages


def test_the_last_line_without_its_end(tmp_path: Path, attack: list[bytes]) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes(b"".join(attack)[:-1])
    assert len(good_rows(log)) == len(attack)


# files


@pytest.mark.parametrize("command", ["replay", "parse"])
def test_an_empty_file(tmp_path: Path, attack: list[bytes], command: str) -> None:
    empty, good = tmp_path / "empty.log", tmp_path / "good.log"
    empty.touch()
    good.write_bytes(b"".join(attack))
    done = sentinel(command, empty)
    assert (done.returncode, done.stdout) == (0, "")
    assert sentinel(command, empty, good, empty).stdout == sentinel(command, good).stdout != ""


@pytest.mark.parametrize("command", ["replay", "parse"])
def test_files_that_are_not_there_or_no_files(tmp_path: Path, command: str) -> None:
    one_sentence(sentinel(command, tmp_path / "no.log"), tmp_path / "no.log", "no file")
    one_sentence(sentinel(command, tmp_path), tmp_path, "is a directory")


@pytest.mark.parametrize("other", ["missing", "directory"])
def test_a_good_log_beside_a_bad_path(tmp_path: Path, attack: list[bytes], other: str) -> None:
    """Either nothing is said of the good log, or everything that is in it; never that it holds nothing."""
    good, bad = tmp_path / "good.log", tmp_path / "other"
    good.write_bytes(b"".join(attack))
    if other == "directory":
        bad.mkdir()
    for files in ((good, bad), (bad, good)):
        done = sentinel("replay", "--format", "jsonl", *files)
        assert done.returncode == 2
        assert str(bad) in done.stderr
        said = "nobody reaches" in done.stderr or "would lock" in done.stderr
        assert not said or (f"would lock {CULPRIT}" in done.stderr and len(done.stdout.splitlines()) >= 4)


def test_a_cut_archive_gives_what_it_has(tmp_path: Path, attack: list[bytes]) -> None:
    path = tmp_path / "mail.log.gz"
    noise = random.Random(1)
    extra = b"".join(b"Nov 22 04:00:00 mx postfix/smtpd[1]: connect from a%d[192.0.2.1]\n" % noise.randrange(10**12) for _ in range(2000))
    path.write_bytes(gzip.compress(b"".join(attack) + extra)[:-5000])
    done = sentinel("replay", "--format", "jsonl", path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) >= 4
    assert done.stderr.splitlines()[-1].startswith(f"sentinel: {path} is damaged or cut short")
    assert "Traceback" not in done.stderr


def without_privileges(command: list[str]) -> list[str]:
    """The same user, for whom permissions count: root without the capabilities to pass over them."""
    if os.geteuid() != 0:
        return command
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may read everything, and there is no setpriv to take that away")
    drop = "-dac_override,-dac_read_search"
    probe = subprocess.run([setpriv, f"--bounding-set={drop}", f"--inh-caps={drop}", "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"setpriv cannot take capabilities away here: {probe.stderr.strip()}")
    return [setpriv, f"--bounding-set={drop}", f"--inh-caps={drop}", *command]


@pytest.mark.parametrize("command", ["replay", "parse", "run"])
def test_a_log_without_permission(tmp_path: Path, attack: list[bytes], command: str) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes(b"".join(attack))
    log.chmod(0)
    start = Daemon(tmp_path).command() if command == "run" else [sys.executable, "-m", "sentinel", command, str(log)]
    done = subprocess.run(without_privileges(start), capture_output=True, text=True, timeout=30)
    one_sentence(done, log, "ermission")


def test_a_state_directory_without_permission(tmp_path: Path) -> None:
    (tmp_path / "mail.log").touch()
    daemon = Daemon(tmp_path)
    daemon.state.mkdir(mode=0o500)
    done = subprocess.run(without_privileges(daemon.command()), capture_output=True, text=True, timeout=30)
    one_sentence(done, daemon.state, "not writable")


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mail.log").touch()
    daemon = Daemon(tmp_path)
    daemon.state.touch()
    one_sentence(subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30), daemon.state, "is not a directory")


# rules

RULE = """rules:
- name: few
  description: A few failures.
  advice: Look at them.
  severity: info
  score: 1
  on: auth_failed
  by: client_ip
  measure: count
  window: 1h
  threshold: 3
"""
MISTAKES = {
    "an unknown key": ("window: 1h", "windw: 1h", 10, '"windw"; did you mean "window"?'),
    "a negative window": ("window: 1h", "window: -10m", 10, '"-10m"'),
    "no window at all": ("window: 1h", "window: 0s", 10, '"0s"'),
    "an unknown event": ("auth_failed", "auth_faild", 7, 'did you mean "auth_failed"?'),
    "an unknown field": ("client_ip", "client_pi", 8, 'did you mean "client_ip"?'),
    "a threshold in words": ("threshold: 3", "threshold: three", 11, "three"),
    "no YAML": ("by: client_ip", "by: [client_ip", None, "YAML"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_rules_with_a_mistake(tmp_path: Path, attack: list[bytes], what: str) -> None:
    right, wrong, line, words = MISTAKES[what]
    rules, log = tmp_path / "rules.yaml", tmp_path / "mail.log"
    log.write_bytes(b"".join(attack))
    assert right in RULE
    rules.write_text(RULE.replace(right, wrong))
    where = f"{rules}:{line}: " if line else f"{rules}:"
    done = sentinel("rules", "check", rules)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (1, "", 1)
    assert done.stdout.startswith(where)
    assert words in done.stdout
    one_sentence(sentinel("replay", "--rules", rules, log), where, words)
    if what in ("an unknown key", "a negative window"):
        one_sentence(sentinel(*Daemon(tmp_path, "--rules", str(rules)).command()[3:]), where, words)


def test_the_rule_without_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULE)
    assert sentinel("rules", "check", tmp_path / "rules.yaml").returncode == 0


# a database that is down, and settings that are wrong


def test_a_lock_by_hand_while_the_database_is_down(tmp_path: Path) -> None:
    pytest.importorskip("pymysql")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        for url, where in (
            (f"mysql://sentinel:s3cret-word@127.0.0.1:{port}/mail", "mysql mail on 127.0.0.1"),
            (f"sqlite:///{tmp_path}/no/mail.sqlite", f"sqlite {tmp_path}/no/mail.sqlite"),
        ):
            state = tmp_path / where[:5]
            done = sentinel("locks", "lock", CULPRIT, "--state", state, "--database", url)
            assert (done.returncode, done.stderr) == (1, "")
            assert f"  lock  pending  {CULPRIT}  " in done.stdout
            assert f"cannot connect to {where}" in done.stdout
            listed = sentinel("locks", "list", "--state", state).stdout
            assert f"  lock  pending  {CULPRIT}  " in listed
            assert "s3cret-word" not in done.stdout + listed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["locks", "lock", "a@example.com", "--state", "S", "--database", "mysql:s3cret-word"], "--database: must look like"),
        (["locks", "lock", "a@example.com", "--state", "S", "--database", "sqlite:///x", "--preset", "extmial"], 'did you mean "extmail"?'),
        (["locks", "lock", "a@example.com", "--state", "S"], "give --database"),
        (["locks", "list", "--state", "S/nowhere"], "there is no sentinel state in"),
        (["run", "--log", "L", "--state", "S", "--enforce"], "--enforce: locking needs --database URL"),
        (["run", "--log", "L", "--log", "L", "--state", "S"], "is named twice"),
        (["run", "--log", "-", "--state", "S"], "use replay -"),
        (["run"], "nothing to follow"),
        (["run", "--log", "L", "--state", "S", "--listen", "nonsense"], "is not HOST:PORT"),
        (["run", "--config", "S/none.yaml"], "there is no such file"),
        (["replay"], "FILE"),
        (["replay", "L", "--year", "soon"], "a year is a number like 2026"),
        (["replay", "L", "--timezone", "Nowhere/X"], "is not a time zone"),
        (["replay", "L", "--rules", "S/none.yaml"], "none.yaml"),
        (["parse", "L", "--out", "/nowhere/x"], "can't be written"),
        (["parse", "L", "--dialect", "zmailer"], "zmailer"),
        (["reply", "L"], "invalid choice: 'reply'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_are_wrong(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "log").touch()
    (tmp_path / "state").mkdir()
    places = {"L": str(tmp_path / "log"), "S": str(tmp_path / "state")}
    given = [places.get(one, one.replace("S/", f"{tmp_path}/state/")) for one in arguments]
    done = sentinel(*given)
    one_sentence(done, words)
    assert "s3cret-word" not in done.stderr


# where output goes


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("command", ["replay", "parse"])
def test_a_full_disk(tmp_path: Path, attack: list[bytes], command: str) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes(b"".join(attack))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sentinel", command, str(log)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30
        )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "No space left on device" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("command", ["replay", "parse"])
def test_a_reader_that_goes_away(tmp_path: Path, attack: list[bytes], command: str) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes(b"".join(attack) * 200)
    with subprocess.Popen([sys.executable, "-m", "sentinel", command, str(log)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        messages = process.stderr.read()
        process.wait(30)
    assert b"Traceback" not in messages
    assert b"Exception ignored" not in messages


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_accounts_that_the_terminal_cannot_show(tmp_path: Path, encoding: str) -> None:
    log = tmp_path / os.fsdecode(b"no-utf8-\xff.log")
    log.write_bytes(Traffic().attack("ïnfo-中文@example.com"))
    for arguments in (["parse"], ["replay", "--format", "jsonl"], ["replay"]):
        done = sentinel(*arguments, log, env={"PYTHONIOENCODING": encoding})
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        if arguments[-1] != "replay":
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            accounts = {row.get("sasl_username", row.get("subject", {}).get("sasl_username")) for row in rows}
            assert "ïnfo-中文@example.com" in accounts
