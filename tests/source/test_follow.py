"""Following real files: growth, rotation, truncation, restarts. Nothing sleeps; what takes time has a deadline."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import UserError
from sentinel.maillog.chunk import Chunk
from sentinel.source.follow import Follower, Position
from sentinel.source.limits import MAX_LINE_BYTES
from sentinel.source.position import NOWHERE

DEADLINE_SECONDS = 20.0
LOGROTATE = "/usr/sbin/logrotate"
needs_logrotate = pytest.mark.skipif(not os.access(LOGROTATE, os.X_OK), reason=f"{LOGROTATE} is not installed")


def line(number: int) -> bytes:
    return b"Nov 22 03:34:43 mx1 postfix/qmgr[%d]: 4F2A1%06X: from=<info@example.com>, nrcpt=50 (active)\n" % (
        number % 9999,
        number,
    )


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def rotate(path: Path) -> None:
    """What logrotate does with ``create``: every generation moves up by one."""
    for number in range(20, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}.{number}", f"{path}.{number + 1}")
    path.rename(f"{path}.1")
    path.touch()


def copytruncate(path: Path) -> None:
    for number in range(20, 0, -1):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}.{number}", f"{path}.{number + 1}")
    shutil.copyfile(path, f"{path}.1")
    os.truncate(path, 0)


def read_out(follower: Follower) -> bytes:
    """Everything that is there now."""
    out = b""
    while chunks := follower.read(0):
        out += b"".join(chunk.data for chunk in chunks)
    return out


def read_until(follower: Follower, done: Callable[[list[Chunk]], bool]) -> list[Chunk]:
    chunks: list[Chunk] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not done(chunks):
        assert time.monotonic() < deadline, f"only {sum(len(chunk.data) for chunk in chunks)} bytes came"
        chunks += follower.read(0.1)
    return chunks


def joined(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def stored(positions: dict[str, Position]) -> dict[str, Position]:
    """As a checkpoint keeps them."""
    text = json.dumps({path: position.to_dict() for path, position in positions.items()})
    return {path: Position.from_dict(data) for path, data in json.loads(text).items()}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "mail.log"
    path.touch()
    return path


@pytest.fixture
def follow() -> Iterator[Callable[..., Follower]]:
    opened: list[Follower] = []

    def make(*paths: Path, from_start: bool = True, **options: object) -> Follower:
        follower = Follower([str(path) for path in paths], from_start=from_start, **options)  # type: ignore[arg-type]
        opened.append(follower)
        return follower

    yield make
    for follower in opened:
        follower.close()


Follow = Callable[..., Follower]


# Growth


def test_lines_written_in_odd_pieces_come_out_whole_and_untouched(log: Path, follow: Follow) -> None:
    rng = random.Random(7)
    text = b"".join(rng.randbytes(rng.randrange(300)).replace(b"\n", b"\0\xff\xc3") + b"\n" for _ in range(400))
    follower = follow(log)
    got: list[Chunk] = []
    at = 0
    while at < len(text):
        size = rng.choice((1, 2, 7, 100, 5000))
        append(log, text[at : at + size])
        at += size
        new = follower.read(0)
        assert all(chunk.data.endswith(b"\n") for chunk in new)
        assert len(joined(got + new)) == text.rfind(b"\n", 0, at) + 1
        got += new
    assert joined(got) == text
    status = log.stat()
    for chunk in got:
        assert text[chunk.start : chunk.end] == chunk.data
        assert (chunk.source, chunk.file_id) == (str(log), f"{status.st_dev}:{status.st_ino}")


def test_a_line_is_seen_by_event_long_before_the_periodic_check(log: Path, follow: Follow) -> None:
    follower = follow(log, poll_seconds=3600.0)
    for number in range(20):
        threading.Timer(0.01, append, (log, line(number))).start()
        assert joined(follower.read(DEADLINE_SECONDS)) == line(number)


def test_the_target_of_a_symlink_is_watched_too(tmp_path: Path, follow: Follow) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.log").touch()
    log = tmp_path / "mail.log"
    log.symlink_to(tmp_path / "data" / "real.log")
    follower = follow(log, poll_seconds=3600.0)
    threading.Timer(0.01, append, (tmp_path / "data" / "real.log", line(1))).start()
    assert joined(follower.read(DEADLINE_SECONDS)) == line(1)


def test_a_directory_that_was_replaced_is_found_and_watched_again(tmp_path: Path, follow: Follow) -> None:
    (tmp_path / "log").mkdir()
    log = tmp_path / "log" / "mail.log"
    append(log, line(1))
    follower = follow(log, poll_seconds=0.05)
    assert read_out(follower) == line(1)
    (tmp_path / "log").rename(tmp_path / "gone")
    (tmp_path / "log").mkdir()
    append(log, line(2))
    read_until(follower, lambda chunks: joined(chunks) == line(2))


def test_without_inotify_it_polls_and_says_so(log: Path) -> None:
    """The real thing: a process that has no descriptor left for inotify."""
    script = """
import os, resource, sys
from sentinel.source.follow import Follower
path, notices = sys.argv[1], []
fds = [os.dup(0) for _ in range(3)]
resource.setrlimit(resource.RLIMIT_NOFILE, (max(fds) + 1, max(fds) + 1))
for fd in fds:
    os.close(fd)
follower = Follower([path], from_start=True, poll_seconds=0.02, on_notice=notices.append)
os.write(1, repr(notices).encode() + b"\\n")
os.write(1, follower.read(20)[0].data)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(log)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    notices = process.stdout.readline()
    append(log, line(1))
    assert process.stdout.read() == line(1)
    assert process.wait(DEADLINE_SECONDS) == 0
    assert b"the kernel offers no file watches" in notices


def test_a_busy_log_does_not_starve_a_quiet_one(tmp_path: Path, follow: Follow) -> None:
    busy, quiet = tmp_path / "busy.log", tmp_path / "quiet.log"
    append(busy, line(1) * 100_000)
    append(quiet, line(2))
    follower = follow(busy, quiet)
    first = follower.read(0)
    assert [chunk.source for chunk in first] == [str(busy), str(quiet)]
    assert len(first[0].data) <= MAX_LINE_BYTES
    assert follower.lag() == {str(busy): busy.stat().st_size - len(first[0].data), str(quiet): 0}
    assert read_out(follower).count(b"\n") == 100_000 - first[0].data.count(b"\n")
    assert follower.lag() == {str(busy): 0, str(quiet): 0}


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_beginning_at_the_end_leaves_no_half_line(log: Path, follow: Follow, cut: int) -> None:
    append(log, line(1) + line(2) + line(3)[:cut])
    follower = follow(log, from_start=False)
    assert follower.read(0) == []
    append(log, line(3)[cut:])
    assert read_out(follower) == line(3)


# Overlong lines


@pytest.mark.parametrize(("length", "skipped"), [(MAX_LINE_BYTES - 1, 0), (MAX_LINE_BYTES, 1), (5 * MAX_LINE_BYTES + 17, 1)])
def test_a_line_too_long_is_skipped_to_its_newline(log: Path, follow: Follow, length: int, skipped: int) -> None:
    long = b"x" * length + b"\n"
    append(log, line(1) + long + line(2))
    follower = follow(log)
    chunks = read_until(follower, lambda chunks: joined(chunks).endswith(line(2)))
    assert joined(chunks) == line(1) + (b"" if skipped else long) + line(2)
    assert chunks[-1].end == log.stat().st_size
    assert all(chunk.end - chunk.start == len(chunk.data) for chunk in chunks)
    assert follower.overlong == {str(log): skipped}


def test_a_restart_inside_a_line_too_long_skips_the_same_line(log: Path, follow: Follow) -> None:
    append(log, line(1) + b"x" * (2 * MAX_LINE_BYTES))
    first = follow(log)
    assert read_out(first) == line(1)
    append(log, b"sasl_username=victim\n" + line(2))
    second = follow(log, positions=stored(first.positions()))
    assert read_out(second) == line(2)
    assert read_out(first) == line(2)
    assert (first.overlong, second.overlong) == ({str(log): 1}, {str(log): 1})


def test_memory_stays_bounded_in_an_endless_line(log: Path, follow: Follow) -> None:
    with log.open("wb") as file:
        for _ in range(40):
            file.write(b"x" * MAX_LINE_BYTES)
    follower = follow(log)
    tracemalloc.start()
    try:
        assert read_out(follower) == b""
        assert tracemalloc.get_traced_memory()[1] < 6 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


# Rotation and truncation


def test_an_unfinished_last_line_is_handed_out_when_its_file_is_over(log: Path, follow: Follow) -> None:
    append(log, line(1) + b"no newline")
    follower = follow(log, grace_seconds=0.2)
    assert read_out(follower) == line(1)
    rotate(log)
    assert read_out(follower) == b""
    append(log, line(2))
    chunks = read_until(follower, lambda chunks: joined(chunks) == line(2) + b"no newline")
    assert chunks[-1].start == len(line(1))
    assert follower.rotations == {str(log): 1}


def test_late_writers_are_heard_during_the_grace_period_and_after_a_restart(log: Path, follow: Follow) -> None:
    append(log, line(1))
    first = follow(log, grace_seconds=3600.0)
    assert read_out(first) == line(1)
    with log.open("ab", buffering=0) as late:
        rotate(log)
        late.write(line(2))
        assert read_out(first) == line(2)
        append(log, line(3))
        assert read_out(first) == line(3)
        checkpoint = stored(first.positions())
        late.write(line(4))
        assert read_out(first) == line(4)
    second = follow(log, positions=checkpoint)
    assert read_out(second) == line(4)


def test_after_the_grace_period_the_old_file_is_let_go(log: Path, follow: Follow) -> None:
    append(log, line(1))
    follower = follow(log, grace_seconds=0.0)
    assert read_out(follower) == line(1)
    rotate(log)
    append(log, line(2))
    assert read_out(follower) == line(2)
    assert follower.positions()[str(log)].previous is None


def test_truncation_starts_again(log: Path, follow: Follow) -> None:
    append(log, line(1) + line(2))
    follower = follow(log)
    assert read_out(follower) == line(1) + line(2)
    os.truncate(log, 0)
    append(log, line(3))
    assert read_out(follower) == line(3)
    assert follower.rotations == {str(log): 1}


def test_truncation_is_seen_even_if_the_file_has_grown_beyond_again(log: Path, follow: Follow) -> None:
    append(log, line(1))
    follower = follow(log)
    assert read_out(follower) == line(1)
    os.truncate(log, 0)
    append(log, line(2) + line(3))
    assert read_out(follower) == line(2) + line(3)


def test_lines_that_only_the_copy_of_a_truncated_log_has_are_read_there(log: Path, follow: Follow) -> None:
    append(log, line(1))
    notices: list[str] = []
    follower = follow(log, on_notice=notices.append)
    assert read_out(follower) == line(1)
    append(log, line(2))
    copytruncate(log)
    append(log, line(3))
    assert read_out(follower) == line(2) + line(3)
    assert len(notices) == 1
    assert "use create instead" in notices[0]


@pytest.mark.parametrize("restart", [False, True])
def test_a_log_truncated_before_anything_of_it_was_read(log: Path, follow: Follow, restart: bool) -> None:
    """It is as empty as before: only the generations' names tell that there were lines."""
    follower = follow(log)
    append(log, line(1))
    assert read_out(follower) == line(1)
    copytruncate(log)
    assert read_out(follower) == b""
    append(log, line(2))
    copytruncate(log)
    append(log, line(3))
    copytruncate(log)
    append(log, line(4))
    if restart:
        follower = follow(log, positions=stored(follower.positions()))
    assert read_out(follower) == line(2) + line(3) + line(4)
    assert read_out(follower) == b""


def test_a_copy_that_is_about_to_be_followed_by_truncation_is_not_read_twice(log: Path, follow: Follow) -> None:
    follower = follow(log)
    append(log, line(1))
    assert read_out(follower) == line(1)
    copytruncate(log)
    assert read_out(follower) == b""
    append(log, line(2))
    log.with_name("mail.log.1").rename(log.with_name("mail.log.2"))
    shutil.copyfile(log, log.with_name("mail.log.1"))
    assert read_out(follower) == line(2)
    os.truncate(log, 0)
    append(log, line(3))
    assert read_out(follower) == line(3)


def test_a_log_removed_and_created_again_is_read_on(log: Path, follow: Follow) -> None:
    append(log, line(1))
    follower = follow(log)
    assert read_out(follower) == line(1)
    append(log, line(2))
    log.unlink()
    assert read_out(follower) == line(2)
    append(log, line(3))
    assert read_out(follower) == line(3)


def test_generations_that_came_and_went_unseen_are_read_in_order(log: Path, follow: Follow) -> None:
    follower = follow(log)
    append(log, line(1))
    assert read_out(follower) == line(1)
    for number in range(2, 6):
        append(log, line(number))
        rotate(log)
    append(log, line(6))
    assert read_out(follower) == b"".join(map(line, range(2, 7)))
    assert follower.rotations == {str(log): 4}


def test_no_line_is_lost_or_repeated_while_a_writer_writes_and_the_log_rotates(log: Path, follow: Follow) -> None:
    total, per_file = 20_000, 1_700

    def write() -> None:
        file = log.open("ab", buffering=0)
        for number in range(total):
            if number % per_file == per_file - 1:
                rotate(log)
            if number % per_file == 100:
                # As after the HUP: the writer goes on in the old file for a while.
                file.close()
                file = log.open("ab", buffering=0)
            file.write(line(number))
        file.close()

    follower = follow(log)
    writer = threading.Thread(target=write)
    writer.start()
    want = b"".join(map(line, range(total)))
    chunks = read_until(follower, lambda chunks: sum(len(chunk.data) for chunk in chunks) >= len(want))
    writer.join()
    assert joined(chunks) + read_out(follower) == want
    assert follower.rotations == {str(log): total // per_file}


@needs_logrotate
@pytest.mark.parametrize("way", ["create", "copytruncate"])
def test_logrotate(log: Path, follow: Follow, tmp_path: Path, way: str) -> None:
    tmp_path.chmod(0o755)
    config = tmp_path / "logrotate.conf"
    reopen = tmp_path / "reopen"
    script = f"postrotate\ntouch {reopen}\nendscript\n" if way == "create" else ""
    config.write_text(f"{log} {{\nrotate 9\nnocompress\n{way}\n{script}}}\n")
    config.chmod(0o644)
    written = 0
    stop = threading.Event()
    # copytruncate loses what is written between copying and truncating; that is not what is tested here.
    quiet = threading.Lock()

    def write() -> None:
        nonlocal written
        file = log.open("ab", buffering=0)
        while not stop.is_set():
            if reopen.exists():
                reopen.unlink()
                file.close()
                file = log.open("ab", buffering=0)
            with quiet:
                file.write(line(written))
                written += 1
        file.close()

    def run_logrotate() -> None:
        for _ in range(4):
            target = written + 200
            deadline = time.monotonic() + DEADLINE_SECONDS
            while written < target and time.monotonic() < deadline:
                os.sched_yield()
            with quiet if way == "copytruncate" else contextlib.nullcontext():
                subprocess.run([LOGROTATE, "-f", "-s", str(tmp_path / "state"), str(config)], check=True)
        stop.set()

    follower = follow(log)
    threads = [threading.Thread(target=write), threading.Thread(target=run_logrotate)]
    for thread in threads:
        thread.start()
    chunks = read_until(follower, lambda chunks: stop.is_set())
    for thread in threads:
        thread.join()
    assert (joined(chunks) + read_out(follower)).splitlines() == [line(number)[:-1] for number in range(written)]
    assert follower.rotations == {str(log): 4}


# Restarts

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 400)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("copytruncate"), st.integers(0, 3)),
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("checkpoint"), st.just(0)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_restarts_at_any_moment_lose_nothing_and_repeat_nothing(operations: list[tuple[str, int]]) -> None:
    """A crash throws away what was read since the last checkpoint, as the daemon does, and another process goes on."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "mail.log"
        log.touch()
        stream = b"".join(map(line, range(400)))
        written = 0
        got = b""
        follower = Follower([str(log)], from_start=True)
        checkpoint = stored(follower.positions()), len(got)

        def write(size: int) -> None:
            nonlocal written
            append(log, stream[written : written + size])
            written += size

        def finish_line() -> None:
            write(stream.find(b"\n", max(0, written - 1)) + 1 - written)

        for operation, argument in [*operations, ("crash", 0)]:
            if operation == "append":
                write(argument)
            elif operation == "rotate":
                finish_line()
                rotate(log)
            elif operation == "copytruncate":
                # A copy can be known only by its first bytes, so these must have been seen.
                write(100)
                got += read_out(follower)
                checkpoint = stored(follower.positions()), len(got)
                write(argument * 100)
                finish_line()
                copytruncate(log)
            elif operation == "read":
                got += b"".join(chunk.data for chunk in follower.read(0))
            elif operation == "checkpoint":
                checkpoint = stored(follower.positions()), len(got)
            else:
                follower.close()
                positions, length = checkpoint
                got = got[:length]
                follower = Follower([str(log)], positions=positions, from_start=False)
        finish_line()
        got += read_out(follower)
        follower.close()
        assert got == stream[:written]


@pytest.mark.parametrize(
    "names",
    [
        ("mail.log.2", "mail.log.1"),
        ("mail.log-20261120", "mail.log-20261121"),
        ("mail-20261120.log", "mail-20261121.log"),
        ("mail.1.log", "mail.0.log"),
    ],
)
def test_rotations_while_down_are_caught_up_with(log: Path, follow: Follow, names: tuple[str, str]) -> None:
    append(log, line(1))
    first = follow(log)
    assert read_out(first) == line(1)
    positions = stored(first.positions())
    append(log, line(2))
    log.rename(log.with_name(names[0]))
    append(log.with_name(names[1]), line(3))
    append(log, line(4))
    # Neither a copy that somebody made nor another log is mistaken for a part of this one.
    shutil.copyfile(log.with_name(names[0]), log.with_name("mail.log.bak"))
    append(log.with_name("mail.err.1"), line(99))
    second = follow(log, positions=positions)
    assert read_out(second) == line(2) + line(3) + line(4)


def test_while_the_old_file_is_read_the_position_is_in_it(log: Path, follow: Follow) -> None:
    old = b"".join(map(line, range(40_000)))
    append(log, old)
    first = follow(log)
    rotate(log)
    append(log, line(7))
    (chunk,) = first.read(0)
    position = first.positions()[str(log)]
    assert (position.file_id, position.offset) == (chunk.file_id, chunk.end)
    second = follow(log, positions=stored(first.positions()))
    assert chunk.data + read_out(second) == old + line(7)


def test_a_log_that_cannot_be_found_again_is_read_from_its_start_and_that_is_said(log: Path, follow: Follow) -> None:
    append(log, line(1))
    first = follow(log)
    assert read_out(first) == line(1)
    positions = stored(first.positions())
    first.close()
    log.write_bytes(line(2) + line(3))
    notices: list[str] = []
    second = follow(log, positions=positions, from_start=False, on_notice=notices.append)
    assert read_out(second) == line(2) + line(3)
    assert len(notices) == 1
    assert "lines written in between may be missing" in notices[0]


def test_a_log_replaced_by_a_longer_state_of_itself_is_read_on(log: Path, follow: Follow) -> None:
    """As rsync does it; and other device numbers after a reboot look the same."""
    append(log, line(1) + line(2)[:30])
    first = follow(log)
    assert read_out(first) == line(1)
    positions = stored(first.positions())
    longer = log.with_name(".mail.log.Xq3k")
    longer.write_bytes(line(1) + line(2) + line(3))
    longer.rename(log)
    assert read_out(first) == line(2) + line(3)
    assert first.rotations == {str(log): 0}
    second = follow(log, positions=positions)
    assert read_out(second) == line(2) + line(3)


def test_a_position_outlives_a_start_without_the_log(log: Path, follow: Follow) -> None:
    append(log, line(1))
    first = follow(log)
    assert read_out(first) == line(1)
    positions = stored(first.positions())
    append(log, line(2))
    log.rename(log.with_name("elsewhere"))
    second = follow(log, positions=positions)
    assert second.read(0) == []
    assert second.positions() == positions
    log.with_name("elsewhere").rename(log)
    assert read_out(second) == line(2)


# Starting


def test_a_missing_log_is_waited_for(tmp_path: Path, follow: Follow) -> None:
    log = tmp_path / "postfix" / "mail.log"
    notices: list[str] = []
    follower = follow(log, from_start=False, poll_seconds=0.05, on_notice=notices.append)
    assert follower.read(0) == []
    assert follower.positions() == {str(log): NOWHERE}
    assert notices == [f"{log} does not exist yet; waiting for it"]
    log.parent.mkdir()
    append(log, line(1))
    read_until(follower, lambda chunks: joined(chunks) == line(1))


def test_an_empty_log_gives_nothing(log: Path, follow: Follow) -> None:
    assert follow(log).read(0) == []


def test_what_is_no_log_is_refused_in_one_sentence(log: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^cannot read {tmp_path}: it is a directory, name the log file in it$"):
        Follower([str(tmp_path)], from_start=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: not a file$"):
        Follower([str(tmp_path / "pipe")], from_start=True)
    with pytest.raises(UserError, match=r"mail\.log is named twice"):
        Follower([str(log), str(log)], from_start=True)
    (tmp_path / "maillog").symlink_to(log)
    with pytest.raises(UserError, match="are the same file"):
        Follower([str(log), str(tmp_path / "maillog")], from_start=True)


@pytest.fixture
def public_log() -> Iterator[Path]:
    """A log in a directory that everybody may enter, as the user nobody if the tests run as root."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        log = Path(directory) / "mail.log"
        log.touch()
        log.chmod(0o644)
        yield log


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_no_permission_at_the_start_is_an_error(public_log: Path) -> None:
    public_log.chmod(0)
    with unprivileged(), pytest.raises(UserError, match=r"^cannot read .*mail\.log: no permission"):
        Follower([str(public_log)], from_start=True)


def test_permission_lost_later_is_said_once_and_tried_again(public_log: Path, follow: Follow) -> None:
    notices: list[str] = []
    follower = follow(public_log, poll_seconds=0.05, on_notice=notices.append)
    append(public_log, line(1))
    assert read_out(follower) == line(1)
    rotate(public_log)
    append(public_log, line(2))
    append(public_log.with_name("mail.log.1"), line(3))
    public_log.chmod(0)
    with unprivileged():
        assert read_out(follower) == line(3)
        assert follower.read(0.2) == []
    assert len(notices) == 1
    assert "cannot be opened: no permission" in notices[0]
    public_log.chmod(0o644)
    assert read_out(follower) == line(2)


# Waking


def test_wake_from_another_thread(log: Path, follow: Follow) -> None:
    follower = follow(log, poll_seconds=3600.0)
    began = time.monotonic()
    threading.Timer(0.05, follower.wake).start()
    assert follower.read(3600.0) == []
    assert time.monotonic() - began < DEADLINE_SECONDS


def test_wake_from_a_signal_handler(log: Path, follow: Follow) -> None:
    follower = follow(log, poll_seconds=3600.0)
    before = signal.signal(signal.SIGUSR1, lambda *_: follower.wake())
    try:
        for delay in (0.0, 0.01, 0.05):
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            assert follower.read(3600.0) == []
            timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_wake_before_the_read_is_not_forgotten(log: Path, follow: Follow) -> None:
    follower = follow(log, poll_seconds=3600.0)
    follower.wake()
    assert follower.read(3600.0) == []
    append(log, line(1))
    follower.wake()
    assert joined(follower.read(3600.0)) == line(1)


def test_close_gives_everything_back(log: Path) -> None:
    append(log, line(1))
    threads = threading.active_count()
    used = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        follower = Follower([str(log)], from_start=True)
        follower.read(0)
        follower.close()
        follower.close()
        follower.wake()
    assert threading.active_count() == threads
    assert used == (len(os.listdir("/proc/self/fd")) if used else 0)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > used
