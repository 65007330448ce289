"""Starts programs of the machine, such as Postfix's, so that neither a hostile word nor a program that hangs can do harm.

A program is an argument vector and never goes through a shell. Its standard input is closed or given whole, it has a time limit, and what
it writes is kept up to a limit. It runs in a session of its own, so that its children end with it when the time is up. It sees little of
our environment: a database's password may stand there.

Who passes on a word that somebody else chose must see to it that the program can't take it for an option; standard input is the best place.

Limits: a program that runs under sudo as another user can be asked to end, but not killed. One that ends and leaves a child behind which
still holds its output is not waited for, and the child is left alone.
"""

import contextlib
import os
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sentinel.errors import UserError

SECONDS = 10.0
LIMIT_BYTES = 1 << 20

_SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_KEPT = ("HOME", "USER", "LOGNAME", "TZ", "TMPDIR", "DOCKER_HOST", "XDG_RUNTIME_DIR")
_COMPLAINT_BYTES = 1 << 16
_COMPLAINT_CHARACTERS = 300
_QUIET_SECONDS = 0.2
"""For how long nothing more comes before the output of a program that has ended is taken as whole."""
_END_SECONDS = 0.5
_KILL_SECONDS = 2.0

Kind = Literal["unavailable", "time-out", "failed"]


class ProgramError(UserError):
    """Why a program did not do its work: one printable line. The arguments are not in it, they may be secret.

    ``kind``: ``unavailable`` (it is not there, or may not be started), ``time-out``, or ``failed`` with its exit ``code``.
    """

    def __init__(self, kind: Kind, text: str, code: int | None = None) -> None:
        super().__init__(one_line(text))
        self.kind: Kind = kind
        self.code = code


class Ran(NamedTuple):
    """What a program did."""

    code: int
    """Its exit code; negative: the signal that ended it."""
    out: bytes
    err: bytes
    seconds: float
    cut: bool
    """It wrote more than the limit; the rest is lost."""


def one_line(text: str, characters: int = 2 * _COMPLAINT_CHARACTERS) -> str:
    """Text of strangers as one line that a terminal shows and does not obey.

    >>> one_line("no such\\n  file\\x1b[2J")
    'no such file?[2J'
    """
    line = "".join(char if char.isprintable() else "?" for char in " ".join(text[: 4 * characters].split()))
    return line if len(line) <= characters else line[: characters - 1] + "…"


def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    seconds: float = SECONDS,
    limit: int = LIMIT_BYTES,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Ran:
    """Runs a program to its end. ``limit``: bytes that are kept of each of its outputs. ``environment`` is added to the little it gets.

    Raises ProgramError; for an exit code other than 0 only with ``check``.
    """
    kept: tuple[bytearray, bytearray] = (bytearray(), bytearray())
    cut = False
    with _Child(argv, input, seconds, environment) as child:
        for number, data in child.output():
            room = limit - len(kept[number])
            cut = cut or len(data) > room
            kept[number].extend(data[:room])
        code = child.wait()
        if check and code:
            raise child.failed(code, bytes(kept[1]))
        return Ran(code, bytes(kept[0]), bytes(kept[1]), child.age(), cut)


def lines(
    argv: Sequence[str],
    *,
    input: bytes | None = None,
    seconds: float = SECONDS,
    limit: int = LIMIT_BYTES,
    last_word: bytes | None = None,
    environment: Mapping[str, str] | None = None,
) -> Generator[bytes, None, None]:
    """What a program writes, line by line as it comes, without the newline; of a line longer than ``limit`` bytes only so many.

    Raises ProgramError, also for an exit code other than 0, behind the last line. With ``last_word`` in what it says on standard error it
    has failed at once: Postfix's programs sleep a second between their word and their end. Closing the generator ends the program.
    """
    line = bytearray()
    complaint = bytearray()
    with _Child(argv, input, seconds, environment) as child:
        for number, data in child.output():
            if number:
                complaint.extend(data[: _COMPLAINT_BYTES - len(complaint)])
                if last_word is not None and last_word in complaint and complaint.endswith(b"\n"):
                    child.hurry()
                continue
            *whole, rest = data.split(b"\n")
            for piece in whole:
                line.extend(piece[: max(0, limit - len(line))])
                yield bytes(line)
                line.clear()
            line.extend(rest[: max(0, limit - len(line))])
        if line:
            yield bytes(line)
        code = child.wait()
        if code:
            raise child.failed(code, bytes(complaint))


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    path = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    path += [each for each in _SEARCHED if each not in path]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # What programs say is read by us: in English.
    return {**kept, "PATH": os.pathsep.join(path), "LC_ALL": "C", **(more or {})}


class _Child:
    """A program that runs; leaving the context ends it if it still does."""

    def __init__(self, argv: Sequence[str], input: bytes | None, seconds: float, environment: Mapping[str, str] | None) -> None:
        import subprocess

        self.name = os.path.basename(argv[0])
        self._seconds = seconds
        self._began = time.monotonic()
        self._input = memoryview(input or b"")
        self._hurried = False
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE if input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=_environment(environment),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ProgramError("unavailable", f"there is no program {argv[0]} here; install it, or configure where it is") from None
        except PermissionError:
            raise ProgramError("unavailable", f"{argv[0]} may not be started by user id {os.geteuid()}") from None
        except OSError as error:
            raise ProgramError("unavailable", f"{argv[0]} can't be started: {error.strerror}") from None
        except ValueError:
            raise ProgramError("unavailable", f"{argv[0]} can't be started: there is a zero byte in its arguments") from None

    def __enter__(self) -> "_Child":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process.poll() is None:
                self._end()
        finally:
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()

    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def hurry(self) -> None:
        """It has failed and only has to end: what it has written until now is read, and no more is waited for."""
        self._hurried = True

    def output(self) -> Iterator[tuple[int, bytes]]:
        """(0 standard output or 1 standard error, what came there), while standard input is given to it."""
        import selectors

        with selectors.DefaultSelector() as selector:
            for number, pipe in enumerate((self._process.stdout, self._process.stderr)):
                assert pipe is not None
                selector.register(pipe, selectors.EVENT_READ, number)
            if self._process.stdin is not None:
                os.set_blocking(self._process.stdin.fileno(), False)
                selector.register(self._process.stdin, selectors.EVENT_WRITE)
            while any(key.data is not None for key in selector.get_map().values()):
                ready = selector.select(0 if self._hurried else min(self._left(), _QUIET_SECONDS))
                if not any(key.data is not None for key, _ in ready) and (self._hurried or self._process.poll() is not None):
                    return
                for key, _ in ready:
                    if key.data is None:
                        self._give(selector)
                        continue
                    data = os.read(key.fd, 1 << 16)
                    if data:
                        yield key.data, data
                    else:
                        selector.unregister(key.fileobj)

    def _give(self, selector: Any) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input[: 1 << 16]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # It does not want more; whether that is a failure its exit code says.
            self._input = self._input[:0]
        if not self._input:
            selector.unregister(pipe)
            pipe.close()

    def wait(self) -> int:
        """Its exit code; a hurried program is ended and has failed."""
        import subprocess

        if self._hurried:
            self._end()
            return 1
        try:
            return self._process.wait(self._left())
        except subprocess.TimeoutExpired:
            raise self._late() from None

    def failed(self, code: int, complaint: bytes) -> ProgramError:
        """The error for an exit code, with the last line that it said."""
        said = [line for line in complaint.decode("utf-8", "replace").split("\n") if line.strip()]
        words = f": {one_line(said[-1], _COMPLAINT_CHARACTERS)}" if said else ""
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        return ProgramError("failed", f"{self.name} failed with {how}{words}", code)

    def _left(self) -> float:
        left = self._seconds - self.age()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> ProgramError:
        return ProgramError("time-out", f"{self.name} took longer than {self._seconds:g} s and was ended")

    def _end(self) -> None:
        """Asks it and its children to end, then kills them. Its number stays taken until it is waited for, so nobody else is hit."""
        import subprocess

        pid = self._process.pid
        # Not permitted: it is another user's, and does what it likes.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGTERM)
            until = time.monotonic() + _END_SECONDS
            while time.monotonic() < until and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                time.sleep(0.005)
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_SECONDS)
