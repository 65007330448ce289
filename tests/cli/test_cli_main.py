"""The command as a whole: version, help, wrong words, streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import UTC_2026, Run, environment, spam, write

import sentinel as package


def test_version(sentinel: Run) -> None:
    done = sentinel("--version")
    assert (done.code, done.out, done.err) == (0, f"sentinel {package.__version__}\n", "")


def test_no_command_shows_the_commands(sentinel: Run) -> None:
    done = sentinel()
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: sentinel ")
    for command in ("run", "replay", "parse", "rules", "locks", "config"):
        assert f"\n    {command} " in done.err


@pytest.mark.parametrize("command", [(), ("run",), ("replay",), ("parse",), ("rules", "test"), ("locks", "lock"), ("config", "check")])
def test_help_is_output(command: tuple[str, ...], sentinel: Run) -> None:
    done = sentinel(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"usage: {' '.join(('sentinel', *command))} ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reply", "x"), ("'reply'", "replay")),
        (("replay", "--frmat", "jsonl", "x"), ("--frmat", "--help")),
        (("replay",), ("FILE",)),
        (("replay", "x", "--format", "csv"), ("--format", "'csv'", "jsonl")),
        (("replay", "x", "--fail-on", "bad"), ("--fail-on", "critical")),
        (("replay", "x", "--year", "26"), ("--year", "'26'")),
        (("parse", "x", "--year", "soon"), ("--year", "'soon'")),
        (("rules",), ("check|test",)),
        (("locks", "lock"), ("ACCOUNT",)),
        (("run",), ("nothing to follow", "--log")),
        (("run", "--log", "x", "--enforce"), ("--enforce", "--database")),
        (("run", "--log", "x", "--preset", "generic"), ("--preset", "--database")),
        (("run", "--log", "x", "--listen", "9154"), ("--listen", "HOST:PORT")),
        (("run", "--log", "-"), ("replay -",)),
        (("run", "--config", "a.yaml", "--log", "x"), ("--log", "a.yaml")),
        (("run", "--config", "/nonexistent/a.yaml"), ("/nonexistent/a.yaml", "no such file")),
    ],
    ids=lambda value: "_".join(value) if value and not isinstance(value[0], tuple) else None,
)
def test_what_can_not_be_understood_is_one_sentence(arguments: tuple[str, ...], words: tuple[str, ...], sentinel: Run) -> None:
    sentinel(*arguments).refused(*words)


def test_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    log = write(tmp_path / "mail.log", spam(messages=4000))
    command = [sys.executable, "-m", "sentinel", "parse", *UTC_2026, str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert json.loads(child.stdout.readline())["kind"] == "accepted"
        child.stdout.close()
        assert child.stderr.read() == b""
    assert child.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("command", [("replay", *UTC_2026, "LOG"), ("parse", *UTC_2026, "LOG"), ("--version",), ("rules", "check")])
def test_output_that_can_not_be_written_is_one_sentence(command: tuple[str, ...], spam_log: Path, process: Run) -> None:
    with open("/dev/full", "wb") as full:
        done = process(*(str(spam_log) if word == "LOG" else word for word in command), stdout=full.fileno())
    assert done.code == 2
    assert "No space left" in done.sentences[-1]


def test_output_is_utf_8_whatever_the_terminal_is(tmp_path: Path, process: Run) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes("Oct 24 06:18:01 mx postfix/smtpd[1]: connect from fü".encode() + b"\xff[192.0.2.1]\n")
    expected = process("parse", *UTC_2026, log)
    assert json.loads(expected.out)["client_name"] == "fü\ufffd"
    for encoding in ("latin-1", "ascii"):
        assert process("parse", *UTC_2026, log, env={"PYTHONIOENCODING": encoding}).out == expected.out


def test_machine_output_is_alone_on_standard_output(spam_log: Path, process: Run) -> None:
    for command in (("parse",), ("replay", "--format", "jsonl")):
        done = process(*command, *UTC_2026, spam_log)
        assert done.code == 0
        assert [json.loads(line) for line in done.out.splitlines()]
        assert any("lines" in sentence for sentence in done.sentences)


def test_nothing_in_colour_when_it_is_no_terminal(spam_log: Path, process: Run) -> None:
    done = process("replay", *UTC_2026, spam_log, env={"TERM": "xterm-256color", "COLORTERM": "truecolor"})
    assert "\x1b" not in done.out + done.err


def test_control_characters_of_a_log_do_not_reach_the_terminal(tmp_path: Path, sentinel: Run) -> None:
    log = write(tmp_path / "mail.log", spam("in\x1b[31mfo@example.com"))
    done = sentinel("replay", *UTC_2026, log)
    assert "\\x1b[31mfo@example.com" in done.out
    assert "\x1b" not in done.out + done.err
