"""How long `sentinel run` takes until /readyz answers 200, and how much memory it holds when it has nothing to do.

Each round starts the real daemon with a fresh state directory on a small log, polls /readyz, waits until its resident
memory stands still, reads it from /proc, and ends the daemon with SIGTERM. The medians are printed.
"""

import argparse
import http.client
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOG_LINES = 2_000
READY_SECONDS = 30.0
POLL_SECONDS = 0.005
STILL_SECONDS = 1.0  # memory counts as idle when it has not changed for this long
IDLE_SECONDS = 10.0
STOP_SECONDS = 10.0


class Failed(Exception):
    """Why a round gave no figures."""


@dataclass(frozen=True, slots=True)
class Round:
    ready_seconds: float
    idle_bytes: int
    stop_seconds: float


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Failed("it ended while its memory was read")


def idle_bytes(pid: int) -> int:
    """Resident memory once it has stood still."""
    deadline = time.monotonic() + IDLE_SECONDS
    last, since = resident_bytes(pid), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < STILL_SECONDS:
        time.sleep(0.05)
        now = resident_bytes(pid)
        if now != last:
            last, since = now, time.monotonic()
    return last


def one_round(sentinel: Path, log: Path, directory: Path) -> Round:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    state = directory / f"state-{port}"
    state.mkdir()
    messages = directory / f"stderr-{port}"
    command = [str(sentinel), "run", "--log", str(log), "--state", str(state), "--listen", f"127.0.0.1:{port}"]
    began = time.perf_counter()
    with messages.open("wb") as err, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=err) as daemon:
        try:
            while not ready(port):
                if daemon.poll() is not None:
                    words = messages.read_text(errors="replace").strip().splitlines()
                    raise Failed(f"exit code {daemon.returncode}: {words[-1] if words else 'no message'}")
                if time.perf_counter() - began > READY_SECONDS:
                    raise Failed(f"/readyz was not 200 within {READY_SECONDS:.0f} s")
                time.sleep(POLL_SECONDS)
            ready_seconds = time.perf_counter() - began
            memory = idle_bytes(daemon.pid)
            stopping = time.perf_counter()
            daemon.send_signal(signal.SIGTERM)
            try:
                code = daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired as late:
                raise Failed(f"still running {STOP_SECONDS:.0f} s after SIGTERM") from late
            if code != 0:
                raise Failed(f"exit code {code} after SIGTERM")
            return Round(ready_seconds, memory, time.perf_counter() - stopping)
        finally:
            if daemon.poll() is None:
                daemon.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description="Time from start to /readyz, and idle memory, of sentinel run.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    sentinel = Path(sys.executable).parent / "sentinel"
    if not sentinel.is_file():
        print(f"sentinel run: not measured, no sentinel beside {sys.executable}: pip install .")
        return 0
    rounds = []
    with tempfile.TemporaryDirectory(prefix="sentinel-startup-") as name:
        directory = Path(name)
        log = directory / "mail.log"
        generate = [sys.executable, str(HERE / "generate.py"), str(log), "--lines", str(LOG_LINES)]
        subprocess.run(generate, check=True, capture_output=True)
        for _ in range(options.rounds):
            try:
                rounds.append(one_round(sentinel, log, directory))
            except Failed as failed:
                print(f"sentinel run: a round failed: {failed}")
    if rounds:
        seconds = statistics.median(one.ready_seconds for one in rounds)
        slowest = max(one.ready_seconds for one in rounds)
        memory = statistics.median(one.idle_bytes for one in rounds)
        stop = statistics.median(one.stop_seconds for one in rounds)
        print(
            f"sentinel run, median of {len(rounds)}: ready after {seconds:.2f} s (slowest {slowest:.2f} s), "
            f"{memory / 1e6:.0f} MB resident when idle, ended {stop:.2f} s after SIGTERM"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
