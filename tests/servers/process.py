"""Processes of a test's own: started, asked until they are ready, and ended by their number together with all their children.

Who belongs to a process is read from /proc: its descendants, and whoever is in its session. A number is only used together
with the time that its process began, so that nobody is hit who got the number later.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from running import until

START_SECONDS = 30.0
STOP_SECONDS = 15.0
LOOPBACK = "127.0.0.1"

_FIRST_PORT, _LAST_PORT = 20_000, 32_000
"""Below the ports that Linux gives to outgoing connections."""
_given: set[int] = set()


class ServerFailed(RuntimeError):
    """A server ended, or did not get ready; with the end of its log."""


class PortTaken(ServerFailed):
    """Somebody else listens where a server of the test should."""


class Member(NamedTuple):
    """One process, also when its number is given away again."""

    pid: int
    began: int
    """In the kernel's ticks since boot."""


class Place(NamedTuple):
    """Where a process belongs; both change when its parent ends or it makes a session."""

    parent: int
    session: int


def running() -> dict[Member, Place]:
    """All processes of the machine that have not ended."""
    found = {}
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The command stands in parentheses and may hold anything, so fields are counted from the last one.
            fields = Path("/proc", str(int(name)), "stat").read_text("latin-1").rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[Member(int(name), int(fields[19]))] = Place(int(fields[1]), int(fields[3]))
    return found


def family_of(pid: int) -> set[Member]:
    """A process, what it started, what those started, and everybody in its session."""
    now = running()
    members = {one for one, place in now.items() if pid in (one.pid, place.session)}
    while True:
        numbers = {one.pid for one in members}
        more = {one for one, place in now.items() if place.parent in numbers} - members
        if not more:
            return members
        members |= more


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that work in the folder or were started with a path in it."""
    found = []
    for one in running():
        proc = Path("/proc", str(one.pid))
        with contextlib.suppress(OSError):
            command = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
            if one.pid != os.getpid() and (str(folder) in command or Path(os.readlink(proc / "cwd")).is_relative_to(folder)):
                found.append(f"{one.pid} {command}")
    return found


def _end(members: set[Member]) -> None:
    """Waits for them, and kills who stays."""

    def gone() -> bool:
        return not members & running().keys()

    with contextlib.suppress(AssertionError):
        until(gone, "the children end by themselves", 2.0)
    _signal(members & running().keys(), signal.SIGKILL)
    until(gone, f"killed processes {sorted(one.pid for one in members)} are gone", STOP_SECONDS)


def _signal(members: set[Member], number: signal.Signals) -> None:
    for one in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, number)


class Process:
    """A child in a session of its own, whose output goes to a file. It may be started, stopped and started again."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._stop_signal = stop_signal
        self._user = user
        self._environment = dict(os.environ if environment is None else environment)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return Path(self.command[0]).name

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.name} was not started"
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self, ready: Callable[[], bool]) -> None:
        """Returns when ``ready`` is true; ServerFailed when the child ends before, or the time does."""
        assert not self.alive, f"{self.name} runs already"
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=self._environment,
                start_new_session=True,
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
            )
        try:
            until(lambda: self._lives() and ready(), f"{self.name} is ready", START_SECONDS)
        except AssertionError as late:
            self.stop()
            raise ServerFailed(f"{late}: {self.last_words()}") from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the child as its kind likes it, then whoever it left behind. Harmless when it has ended already."""
        if self._child is None:
            return
        members = family_of(self._child.pid)
        if self.alive:
            self._child.send_signal(self._stop_signal)
            _signal(members, signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_SECONDS)
        self._finish(members)

    def kill(self) -> None:
        """Ends the child and all of its family at once, as a machine that loses power does. Harmless when it has ended already."""
        if self._child is None:
            return
        if self.alive:
            # Stopped first, it cannot start another child in the place of one that is killed before it.
            self._child.send_signal(signal.SIGSTOP)
        members = family_of(self._child.pid)
        _signal(members, signal.SIGKILL)
        self._finish(members)

    def _finish(self, members: set[Member]) -> None:
        assert self._child is not None
        if self.alive:
            self._child.kill()
        self._child.wait()
        # Whoever was started since is still in the session, and as long as somebody is, nobody else gets its number.
        _end(members | {one for one, place in running().items() if place.session == self._child.pid != one.pid})
        self._child = None

    def pause(self) -> None:
        """Stops the process and its children where they are: connections stay open, and nobody answers."""
        _signal(family_of(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        _signal(family_of(self.pid), signal.SIGCONT)

    def last_words(self, characters: int = 2000) -> str:
        return self.log.read_text("utf-8", "replace")[-characters:].strip() if self.log.exists() else ""

    def _lives(self) -> bool:
        assert self._child is not None
        code = self._child.poll()
        if code is not None:
            raise ServerFailed(f"{self.name} ended with {code} before it was ready: {self.last_words()}")
        return True


def run(*command: str | Path, input: str | None = None, user: str | None = None, seconds: float = 60.0) -> str:
    """Standard output of a command that must succeed; ServerFailed with what it said otherwise."""
    done = subprocess.run(
        [str(part) for part in command],
        input="" if input is None else input,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        cwd="/",
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )
    if done.returncode != 0:
        raise ServerFailed(f"{Path(command[0]).name} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:].strip()}")
    return done.stdout


# ports


def free_port(address: str = LOOPBACK) -> int:
    """A port that nobody listens on, and that this process has not given out before."""
    for port in random.sample(range(_FIRST_PORT, _LAST_PORT), 200):
        if port not in _given and is_free(address, port):
            _given.add(port)
            return port
    raise PortTaken(f"no free port between {_FIRST_PORT} and {_LAST_PORT} on {address}")


def is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        # Only a listener is in the way: connections that ended a moment ago are not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def check_free(address: str, port: int, what: str) -> None:
    if not is_free(address, port):
        raise PortTaken(f"{what} cannot listen on {address}:{port}: somebody else does")


def listeners(address: str, port: int) -> int:
    """How many sockets listen there. More than one is possible: Postfix sets SO_REUSEPORT, and then each gets a part of the connections."""
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1] == wanted and row[3] == "0A" for row in rows)


def check_alone(address: str, port: int, what: str) -> bool:
    """Whether it listens; PortTaken when somebody else does too."""
    count = listeners(address, port)
    if count > 1:
        raise PortTaken(f"{what} shares {address}:{port} with {count - 1} other server: it would get only a part of the connections")
    return count == 1


# folders


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A folder that the servers' own users can reach, unlike pytest's. A process that is still in it at the end is a failure."""
    folder = Path(tempfile.mkdtemp(prefix="sentinel-", dir=_reachable_folder())).resolve()
    folder.chmod(0o755)
    try:
        yield folder
        left = processes_in(folder)
        assert not left, f"processes were left behind: {left}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable_folder() -> Path:
    """Short, too: the path of a socket has 107 bytes."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(candidate).resolve()
        if len(str(path)) < 40 and all(one.stat().st_mode & 0o001 for one in (path, *path.parents)):
            return path
    raise ServerFailed("neither the folder for temporary files nor /var/tmp can be entered by every user")


def write(path: Path, text: str, *, mode: int = 0o644, owner: str | None = None) -> Path:
    """A file put in place at once, for a server that may be reading the old one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(mode)
    if owner is not None:
        shutil.chown(new, *owner.split(":"))
    new.replace(path)
    return path


def folder_of(path: Path, owner: str, mode: int = 0o755) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, owner)
    path.chmod(mode)
    return path
