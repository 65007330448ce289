"""Starts a program of the admin's: an argument vector, never a shell, with a time limit and a limit on its output.

The program gets a clean environment, so no password in sentinel's own reaches it, and a session of its own, so that it
ends with its children when its time is over. What it reads is given whole, or nothing.
"""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sentinel.respond.locks import LockTrouble
from sentinel.respond.policy import printable

MAX_OUTPUT_BYTES = 65_536
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOOK_SECONDS = 0.1


class Finished(NamedTuple):
    """How a program ended."""

    code: int
    output: bytes
    """Of standard output, up to the limit."""
    whole: bool
    """Whether that is all of it."""
    said: str
    """Its last line on standard error, fit for a terminal."""


def run(
    arguments: Sequence[str],
    *,
    given: bytes | None = None,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    max_output: int = MAX_OUTPUT_BYTES,
) -> Finished:
    """Runs a program to its end. Raises LockTrouble when it cannot be started or takes longer than ``seconds``."""
    import subprocess
    import tempfile

    with tempfile.TemporaryFile() as text:
        if given is not None:
            text.write(given)
            text.seek(0)
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL if given is None else text,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_environment(environment or {}),
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise LockTrouble(f"{printable(arguments[0])} cannot be started: {reason}") from None
    with process:
        try:
            return _read(process, seconds, max_output)
        except TimeoutError:
            raise LockTrouble(f"{printable(arguments[0])} did not end within {seconds:g} seconds, and was stopped") from None
        finally:
            _end(process)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return {"PATH": _DEFAULT_PATH, **kept, **more}


def _read(process: "subprocess.Popen[bytes]", seconds: float, max_output: int) -> Finished:  # type: ignore[name-defined]  # noqa: F821
    import selectors
    import time

    deadline = time.monotonic() + seconds
    kept: dict[int, bytearray] = {}
    dropped = False
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            kept[stream.fileno()] = bytearray()
            selector.register(stream, selectors.EVENT_READ)
        out, error = kept.values()
        while selector.get_map():
            ready = selector.select(min(_LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            for key, _ in ready:
                data = os.read(key.fd, 65_536)
                if not data:
                    selector.unregister(key.fileobj)
                buffer = kept[key.fd]
                if buffer is out:
                    dropped = dropped or len(buffer) + len(data) > max_output
                    buffer += data[: max_output - len(buffer)]
                else:
                    # Only how it ends is of interest.
                    buffer[:] = (buffer + data)[-max_output:]
            if not ready and process.poll() is not None:
                break  # a child of its own may hold the streams open for ever
            if time.monotonic() >= deadline:
                raise TimeoutError
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except Exception as late:
        raise TimeoutError from late
    lines = error.decode("utf-8", "replace").split("\n")
    return Finished(code, bytes(out), not dropped, printable(next((line.strip() for line in reversed(lines) if line.strip()), "")))


def _end(process: "subprocess.Popen[bytes]") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Stops what still runs: the program with its children."""
    import signal

    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()
        process.wait()
