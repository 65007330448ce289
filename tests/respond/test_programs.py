"""Running programs of the outside: real ones, /bin/sh most of all."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sentinel.errors import UserError
from sentinel.respond.programs import ProgramError, lines, one_line, run

Poll = Callable[..., object]


def sh(script: str, *arguments: str) -> list[str]:
    return ["/bin/sh", "-c", script, "sh", *arguments]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def written(path: Path) -> int:
    return int(path.read_text()) if path.exists() and path.read_text().endswith("\n") else 0


def test_output_error_and_code_come_back() -> None:
    ran = run(sh("cat; echo oops >&2; exit 3"), input=b"in\n", check=False)
    assert (ran.code, ran.out, ran.err, ran.cut) == (3, b"in\n", b"oops\n", False)
    assert 0 < ran.seconds < 10


def test_arguments_are_words_and_no_shell_sees_them() -> None:
    words = ["$(id)", "; id", "-rf", "two words", "*", "new\nline", "ü"]
    assert run(sh('printf "%s|" "$@"', *words)).out.decode() == "".join(f"{word}|" for word in words)


def test_without_input_standard_input_is_closed() -> None:
    assert run(["cat"], seconds=5).out == b""


def test_much_input_and_output_at_the_same_time() -> None:
    data = os.urandom(1 << 16) * 64
    assert run(["cat"], input=data, limit=1 << 23).out == data


def test_a_program_that_reads_no_input_is_no_error() -> None:
    assert run(["true"], input=b"x" * (1 << 20)).code == 0


def test_output_is_kept_up_to_the_limit_and_the_program_goes_on() -> None:
    ran = run(sh("head -c 300000 /dev/zero; echo end >&2"), limit=1000)
    assert (len(ran.out), ran.err, ran.cut, ran.code) == (1000, b"end\n", True, 0)


def test_it_sees_little_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_PASSWORD", "geheim")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("PATH", "/nowhere")
    seen = dict(line.split("=", 1) for line in run(["env"], environment={"MORE": "1"}).out.decode().splitlines())
    assert "SENTINEL_PASSWORD" not in seen
    assert seen["LC_ALL"] == "C"
    assert seen["MORE"] == "1"
    assert seen["PATH"].startswith("/nowhere:")
    assert "/usr/sbin" in seen["PATH"].split(":")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ProgramError, match="there is no program /nowhere/postqueue here; install it") as caught:
        run(["/nowhere/postqueue"])
    assert (caught.value.kind, caught.value.code) == ("unavailable", None)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("content", ["#!/bin/sh\n", None], ids=["not executable", "a folder"])
def test_a_program_that_may_not_be_started(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "program"
    path.mkdir() if content is None else path.write_text(content)
    with pytest.raises(ProgramError, match="may not be started by user id") as caught:
        run([str(path)])
    assert caught.value.kind == "unavailable"


@pytest.mark.parametrize("argument", ["zero\0byte", "x" * (1 << 22)], ids=["zero byte", "too long"])
def test_arguments_that_no_program_can_have(argument: str) -> None:
    with pytest.raises(ProgramError, match="can't be started") as caught:
        run(["true", argument])
    assert caught.value.kind == "unavailable"
    assert len(str(caught.value)) < 200


def test_an_exit_code_is_an_error_with_its_last_line_and_without_the_arguments() -> None:
    with pytest.raises(ProgramError) as caught:
        run(sh("echo first >&2; printf 'fatal: \\033[2J no\\tsuch \\302\\205thing\\r\\n\\n' >&2; exit 69", "geheim"))
    assert (caught.value.kind, caught.value.code) == ("failed", 69)
    assert str(caught.value) == "sh failed with exit code 69: fatal: ?[2J no such thing"


def test_a_long_complaint_is_cut() -> None:
    with pytest.raises(ProgramError) as caught:
        run(sh("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1"))
    assert len(str(caught.value)) < 400


def test_a_signal_is_an_error() -> None:
    with pytest.raises(ProgramError, match="sh failed with signal 9"):
        run(sh("kill -9 $$"))


@pytest.mark.parametrize("trap", ["", "trap '' TERM;"], ids=["asked", "killed"])
def test_the_time_limit_ends_the_program_and_its_children(tmp_path: Path, poll: Poll, trap: str) -> None:
    script = f"{trap} sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait; sleep 1000"
    began = time.monotonic()
    with pytest.raises(ProgramError, match=r"sh took longer than 0\.5 s and was ended") as caught:
        run(sh(script), seconds=0.5)
    assert caught.value.kind == "time-out"
    assert time.monotonic() - began < 5
    for name in ("child", "self"):
        pid = written(tmp_path / name)
        poll(lambda pid=pid: not alive(pid))


def test_a_program_that_writes_without_end_has_the_same_time_limit() -> None:
    with pytest.raises(ProgramError, match="took longer"):
        run(["yes"], seconds=0.3)


def test_a_child_left_behind_with_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    ran = run(sh(f"sleep 30 & echo $! > {tmp_path}/child; echo done"), seconds=20)
    assert ran.out == b"done\n"
    assert time.monotonic() - began < 10
    os.kill(written(tmp_path / "child"), 9)


def test_lines_come_one_by_one_and_long_ones_are_cut() -> None:
    script = "printf 'a\\n\\nlonger than ten\\r\\nlast'"
    assert list(lines(sh(script), limit=10)) == [b"a", b"", b"longer tha", b"last"]


def test_lines_come_before_the_program_has_ended() -> None:
    with closing(lines(sh("echo first; exec sleep 100"), seconds=60)) as output:
        assert next(output) == b"first"


def test_closing_ends_the_program(tmp_path: Path, poll: Poll) -> None:
    with closing(lines(sh(f"echo $$ > {tmp_path}/self; echo first; exec sleep 1000"))) as output:
        next(output)
    poll(lambda: not alive(written(tmp_path / "self")))


def test_lines_of_a_program_that_fails_come_before_the_error() -> None:
    got = []
    with pytest.raises(ProgramError, match="sh failed with exit code 2: no more"):
        for line in lines(sh("echo one; echo no more >&2; exit 2")):
            got.append(line)
    assert got == [b"one"]


def test_the_last_word_is_not_waited_for() -> None:
    """As postcat does: an error, then a second of sleep."""
    got = []
    began = time.monotonic()
    with pytest.raises(ProgramError, match="p: fatal: gone") as caught:
        for line in lines(sh("echo one; echo 'p: fatal: gone' >&2; sleep 30; exit 1"), last_word=b": fatal: ", seconds=60):
            got.append(line)
    assert (got, caught.value.kind) == ([b"one"], "failed")
    assert time.monotonic() - began < 10


def test_many_lines_use_little_memory() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in lines(sh("yes 0123456789012345678901234567890123456789 | head -n 2000000"), seconds=60)) == 2_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kilobytes


def test_one_line_shows_and_does_nothing() -> None:
    assert one_line("a\x00b\x1b[0m\u202ec\n d") == "a?b?[0m?c d"
    assert len(one_line("x" * 10_000, 50)) == 50
