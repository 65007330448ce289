"""Whole-process speed and peak memory of `sentinel replay` beside the tools that people use on mail logs today.

Every tool reads the same generated log from the page cache, pinned to one core (CrowdSec, which waits busily, has
all of them), in turn (A B C A B C …); the medians are printed with the ratio of sentinel's speed to each. Tools that
need long run once, and only on the head of the log if all of it would take longer than `--limit`. A tool that is
missing or fails gets a line that says why. Nothing is installed, nothing is asserted, and the exit code is 0.
"""

import argparse
import compileall
import gzip
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build" / "bench"

PROBE_LINES = 20_000
READ_BYTES = 1 << 20
OUR_NAME = "sentinel replay"

CROWDSEC_HUBS = ("/var/lib/crowdsec/hub", "/etc/crowdsec/hub", "/usr/share/crowdsec/hub")
CROWDSEC_ETC = Path("/etc/crowdsec")
CROWDSEC_ITEMS = (
    "parsers/s00-raw/crowdsecurity/syslog-logs.yaml",
    "parsers/s01-parse/crowdsecurity/postfix-logs.yaml",
    "parsers/s01-parse/crowdsecurity/postscreen-logs.yaml",
    "parsers/s02-enrich/crowdsecurity/dateparse-enrich.yaml",
    "scenarios/crowdsecurity/postfix-spam.yaml",
)
MTAIL_PROGRAMS = (
    "/usr/share/doc/mtail/examples/postfix.mtail",
    "/usr/share/doc/mtail/examples/postfix.mtail.gz",
    "/etc/mtail/postfix.mtail",
)


class Missing(Exception):
    """Why a tool cannot be run here, for the table."""


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    command: Callable[[Path], list[str]]  # raises Missing
    good_exits: tuple[int, ...] = (0,)
    slow: bool = False
    all_cores: bool = False
    found: Callable[[Path], str] | None = None  # what its output says it found, for the notes


@dataclass(slots=True)
class Run:
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    exit_code: int  # negative: the signal that ended it
    timed_out: bool


@dataclass(slots=True)
class Result:
    name: str
    lines: int = 0
    runs: list[Run] = field(default_factory=list)
    why_not: str = ""
    note: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def speed(self) -> float:
        return self.lines / self.seconds if self.runs else 0.0

    @property
    def peak_bytes(self) -> int:
        return round(statistics.median(run.peak_bytes for run in self.runs))


# ---- one process --------------------------------------------------------------------------------------------------


def run_pinned(command: Sequence[str], cores: set[int], out: Path, err: Path, timeout: float) -> Run:
    """Run a command on these cores; wall time, processor time and peak memory, from wait4 of that very child."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.sched_setaffinity(0, cores)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
            os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 2)
            os.execv(command[0], list(command))
        finally:
            os._exit(127)
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        os.killpg(pid, signal.SIGKILL)

    timer = threading.Timer(timeout, stop)
    timer.start()
    try:
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - began
    except KeyboardInterrupt:
        os.killpg(pid, signal.SIGKILL)
        os.wait4(pid, 0)
        raise
    finally:
        timer.cancel()
        timer.join()
    return Run(
        seconds,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        os.waitstatus_to_exitcode(status),
        expired.is_set(),
    )


def program(name: str, package: str) -> str:
    """The path of a program, also where an ordinary user's PATH does not look (pflogsumm is in /usr/sbin)."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    if path is None:
        raise Missing(f"not installed: apt-get install {package}")
    return path


# ---- the tools ----------------------------------------------------------------------------------------------------


def sentinel_command(log: Path) -> list[str]:
    path = Path(sys.executable).parent / "sentinel"
    if not path.is_file():
        raise Missing(f"no sentinel beside {sys.executable}: pip install .")
    # As an installation does: a checkout's modules may not have been compiled yet, or not be allowed to be.
    compileall.compile_dir(HERE.parent.parent / "sentinel", quiet=2)
    return [str(path), "replay", str(log), "--format", "jsonl"]


def grep_command(log: Path) -> list[str]:
    return [program("grep", "grep"), "-c", "postfix", str(log)]


def pflogsumm_command(log: Path) -> list[str]:
    return [program("pflogsumm", "pflogsumm"), str(log)]


def fail2ban_command(log: Path) -> list[str]:
    path = program("fail2ban-regex", "fail2ban")
    if not Path("/etc/fail2ban/filter.d/postfix.conf").is_file():
        raise Missing("no filter /etc/fail2ban/filter.d/postfix.conf: apt-get install fail2ban")
    # Without name lookups and without lists of missed lines: only the matching counts.
    quiet = ["--usedns=no", "--print-no-missed", "--print-no-ignored"]
    return [path, *quiet, str(log), "postfix[mode=aggressive]"]


def mtail_command(log: Path) -> list[str]:
    path = program("mtail", "mtail")
    source = next((Path(name) for name in MTAIL_PROGRAMS if Path(name).is_file()), None)
    if source is None:
        raise Missing("installed, but its Postfix program (examples/postfix.mtail) is not")
    programs = BUILD / "mtail"
    programs.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".gz":
        (programs / "postfix.mtail").write_bytes(gzip.decompress(source.read_bytes()))
    else:
        shutil.copyfile(source, programs / "postfix.mtail")
    listen = ["-logtostderr", "-address", "127.0.0.1", "-port", "0"]
    return [path, "-one_shot", *listen, "-progs", str(programs), "-logs", str(log)]


def crowdsec_command(log: Path) -> list[str]:
    path = program("crowdsec", "crowdsec")
    cscli = program("cscli", "crowdsec")
    hub = next((Path(name) for name in CROWDSEC_HUBS if (Path(name) / CROWDSEC_ITEMS[1]).is_file()), None)
    if hub is None or not (hub / ".index.json").is_file():
        raise Missing("installed, but without its Postfix parser: cscli collections install crowdsecurity/postfix")
    config = crowdsec_instance(hub, cscli)
    return [path, "-c", str(config), "-dsn", f"file://{log}", "-type", "syslog", "-no-capi"]


def crowdsec_instance(hub: Path, cscli: str) -> Path:
    """A private CrowdSec with its Postfix collection and nothing else, its database empty. The path of its config."""
    base = BUILD / "crowdsec"
    shutil.rmtree(base, ignore_errors=True)
    etc = base / "etc"
    (base / "data").mkdir(parents=True)
    (etc / "postoverflows").mkdir(parents=True)
    for item in CROWDSEC_ITEMS:
        kind, *middle, _author, name = item.split("/")
        link = etc.joinpath(kind, *middle, name)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(hub / item)
    shutil.copytree(CROWDSEC_ETC / "patterns", etc / "patterns")
    for name in ("profiles.yaml", "simulation.yaml"):
        shutil.copyfile(CROWDSEC_ETC / name, etc / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "common": {"daemonize": False, "log_media": "stdout", "log_level": "warning", "working_dir": str(base)},
        "config_paths": {
            "config_dir": f"{etc}/",
            "data_dir": f"{base}/data/",
            "simulation_path": f"{etc}/simulation.yaml",
            "hub_dir": f"{hub}/",
            "index_path": f"{hub}/.index.json",
            "notification_dir": f"{etc}/notifications/",
            "plugin_dir": f"{base}/plugins/",
        },
        "crowdsec_service": {"parser_routines": 1},
        "db_config": {
            "type": "sqlite",
            "use_wal": True,
            "log_level": "warning",
            "db_path": f"{base}/data/crowdsec.db",
            "flush": {"max_items": 5000, "max_age": "7d"},
        },
        "api": {
            "client": {"insecure_skip_verify": False, "credentials_path": f"{etc}/credentials.yaml"},
            "server": {"log_level": "warning", "listen_uri": listen, "profiles_path": f"{etc}/profiles.yaml"},
        },
        "prometheus": {"enabled": False},
    }
    config = base / "config.yaml"
    config.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    machine = ["machines", "add", "bench", "--auto", "--force", "--url", f"http://{listen}"]
    credentials = str(etc / "credentials.yaml")
    added = subprocess.run([cscli, "-c", str(config), *machine, "--file", credentials], check=False, capture_output=True, text=True)
    if added.returncode != 0:
        raise Missing(f"its private instance could not be set up: {last_words(added.stderr)}")
    return config


# ---- what they found, to see that they really worked ----------------------------------------------------------------


def found_by_sentinel(out: Path) -> str:
    with out.open("rb") as lines:
        return f"{sum(1 for line in lines if line.strip()):,} detections"


def found_by_grep(out: Path) -> str:
    return f"{int(out.read_text()):,} lines match"


def found_by_pflogsumm(out: Path) -> str:
    figures = {}
    for line in out.read_text(errors="replace").splitlines()[:20]:
        words = line.split()
        if len(words) >= 2 and words[0].isdigit():
            figures[words[1]] = int(words[0])
    return f"{figures.get('received', 0):,} received, {figures.get('rejected', 0):,} rejected"


def found_by_fail2ban(out: Path) -> str:
    for line in out.read_text(errors="replace").splitlines():
        if line.startswith("Lines: "):
            return f"{int(line.split(' matched')[0].rsplit(' ', 1)[1]):,} lines match"
    return "no summary"


def found_by_mtail(out: Path) -> str:
    text = out.read_text(errors="replace")
    metrics = json.loads(text[text.index("{") :] if text.lstrip()[:1] == "{" else text[text.index("[") :])
    count = sum(len(stores) for stores in metrics.values()) if isinstance(metrics, dict) else len(metrics)
    return f"{count} metrics"


def found_by_crowdsec(_out: Path) -> str:
    with sqlite3.connect(BUILD / "crowdsec" / "data" / "crowdsec.db") as database:
        (alerts,) = database.execute("SELECT count(*) FROM alerts").fetchone()
    return f"{alerts:,} alerts"


TOOLS = (
    Tool(OUR_NAME, sentinel_command, found=found_by_sentinel),
    Tool("grep -c", grep_command, found=found_by_grep),
    Tool("pflogsumm", pflogsumm_command, found=found_by_pflogsumm),
    Tool("fail2ban-regex", fail2ban_command, good_exits=(0, 1), slow=True, found=found_by_fail2ban),
    Tool("mtail", mtail_command, slow=True, found=found_by_mtail),
    # CrowdSec waits in busy loops: held to one core it would take four times as long, most of it for nothing.
    Tool("crowdsec", crowdsec_command, slow=True, all_cores=True, found=found_by_crowdsec),
)


# ---- the measurement ----------------------------------------------------------------------------------------------


def last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "no message"


class Bench:
    def __init__(self, core: int, limit: float, rounds: int, work: Path) -> None:
        self.core = core
        self.limit = limit
        self.rounds = rounds
        self.work = work

    def once(self, tool: Tool, log: Path, result: Result) -> Run | None:
        """One run; None, with the reason in `result`, where it did not work."""
        out, err = self.work / "out", self.work / "err"
        try:
            command = tool.command(log)
        except Missing as missing:
            result.why_not = str(missing)
            return None
        except OSError as error:
            result.why_not = f"could not be prepared: {error}"
            return None
        cores = os.sched_getaffinity(0) if tool.all_cores else {self.core}
        run = run_pinned(command, cores, out, err, timeout=10 * self.limit)
        if run.timed_out:
            result.why_not = f"stopped after {10 * self.limit:.0f} s"
        elif run.exit_code not in tool.good_exits:
            result.why_not = f"exit code {run.exit_code}: {last_words(err.read_text(errors='replace'))}"
        else:
            if tool.found is not None:
                try:
                    result.note = tool.found(out)
                except (ValueError, OSError, AttributeError, sqlite3.Error) as error:
                    result.note = f"its output was not understood ({error})"
            return run
        return None

    def measure(self, tools: Sequence[Tool], log: Path, lines: int) -> list[Result]:
        results = {tool.name: Result(tool.name) for tool in tools}
        logs = {tool.name: log for tool in tools}
        probe = self.head(log, PROBE_LINES)
        for tool in tools:
            # The warm-up: programs and libraries come into the page cache, and we learn who is slow.
            result = results[tool.name]
            say(f"warm-up: {tool.name}")
            run = self.once(tool, probe, result)
            result.lines = lines
            if run is not None and tool.slow and run.seconds * lines / PROBE_LINES > self.limit:
                result.lines = min(lines, max(PROBE_LINES, int(self.limit * PROBE_LINES / run.seconds)))
                if result.lines < lines:
                    logs[tool.name] = self.head(log, result.lines)
        for number in range(self.rounds):
            for tool in tools:
                result = results[tool.name]
                if result.why_not or (tool.slow and number > 0):
                    continue
                say(f"round {number + 1} of {self.rounds}: {tool.name}" + (" (once)" if tool.slow else ""))
                run = self.once(tool, logs[tool.name], result)
                if run is not None:
                    result.runs.append(run)
        for tool in tools:
            result = results[tool.name]
            if result.runs and tool.all_cores:
                result.note += "; on all cores"
            if result.runs and result.lines < lines:
                scaled = result.seconds * lines / result.lines
                result.note += f"; on the first {result.lines:,} lines, the whole log would take {scaled:.0f} s"
        return list(results.values())

    def head(self, log: Path, lines: int) -> Path:
        path = self.work / f"head-{lines}.log"
        with log.open("rb") as source, path.open("wb") as target:
            for _ in range(lines):
                target.write(source.readline())
        return path

    def floor(self) -> int:
        """Peak memory that even /bin/true would show: the kernel counts what the child was before exec, too."""
        true = shutil.which("true") or "/bin/true"
        return run_pinned([true], {self.core}, self.work / "out", self.work / "err", timeout=10).peak_bytes


def say(text: str) -> None:
    """Progress, for a person who is looking."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def prepared_log(lines: int, seed: int) -> Path:
    """The generated log, from the last run if generator and arguments are the same."""
    generator = HERE / "generate.py"
    mark = hashlib.blake2b(generator.read_bytes(), digest_size=4).hexdigest()
    path = BUILD / f"mail-{lines}-{seed}-{mark}.log"
    if not path.is_file():
        BUILD.mkdir(parents=True, exist_ok=True)
        for old in BUILD.glob(f"mail-{lines}-{seed}-*"):
            old.unlink()
        part = path.with_suffix(".part")
        arguments = [str(part), "--lines", str(lines), "--seed", str(seed), "--truth", str(path.with_suffix(".json"))]
        subprocess.run([sys.executable, str(generator), *arguments], check=True)
        part.rename(path)
    return path


def into_page_cache(log: Path) -> int:
    """Read the whole log once; how many lines it has."""
    lines = 0
    with log.open("rb") as source:
        while block := source.read(READ_BYTES):
            lines += block.count(b"\n")
    return lines


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.machine()
    return platform.machine()


def rows(results: Sequence[Result], floor: int) -> list[list[str]]:
    ours = next((result.speed for result in results if result.name == OUR_NAME), 0.0)
    table = []
    for result in results:
        if not result.runs:
            table.append([result.name, "–", "–", "–", "–", result.why_not or "not measured"])
            continue
        peak = result.peak_bytes / 1e6
        shown_peak = f"< {floor / 1e6:.0f}" if result.peak_bytes <= floor * 1.05 else f"{peak:.0f}"
        ratio = f"{ours / result.speed:.2f}" if ours else "–"
        note = result.note
        if result.why_not:
            note = f"only {len(result.runs)} of the runs worked: {result.why_not}"
        table.append([result.name, f"{result.speed:,.0f}", f"{result.seconds:.2f}", shown_peak, ratio, note])
    return table


HEADINGS = ("tool", "lines/s", "seconds", "peak MB", "sentinel/tool", "found, or why not")


def print_plain(table: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (HEADINGS, *table)) for column in range(len(HEADINGS))]
    for row in (HEADINGS, *table):
        numbers = [cell.rjust(width) for cell, width in zip(row[1:5], widths[1:5], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *numbers, row[5]]))


def print_markdown(table: Sequence[Sequence[str]]) -> None:
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---|---:|---:|---:|---:|---|")
    for row in table:
        print("| " + " | ".join(row) + " |")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare sentinel replay with other log tools on one generated log.")
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines of the generated log (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="measure on this log and generate none")
    parser.add_argument("--rounds", type=int, default=3, help="how often the fast tools run (default: 3)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a slow tool may take (default: 60)")
    parser.add_argument("--tools", help="only these, separated by commas")
    parser.add_argument("--core", type=int, help="the processor core to pin to (default: the last)")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown, too")
    options = parser.parse_args()
    names = options.tools.split(",") if options.tools else [tool.name for tool in TOOLS]
    tools = [tool for tool in TOOLS if tool.name in names or tool.name.split()[0] in names]
    if not tools:
        parser.error(f"--tools: none of {options.tools} is known; there are {', '.join(tool.name for tool in TOOLS)}")
    if options.rounds < 1 or options.lines < 1 or options.limit <= 0:
        parser.error("--rounds, --lines and --limit must be 1 or more")
    if options.log is not None and not options.log.is_file():
        parser.error(f"--log {options.log}: no such file")
    cores = os.sched_getaffinity(0)
    core = max(cores) if options.core is None else options.core
    if core not in cores:
        parser.error(f"--core {core}: this process may use {sorted(cores)}")

    log = (options.log or prepared_log(options.lines, options.seed)).resolve()
    lines = into_page_cache(log)
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=BUILD) as work:
        bench = Bench(core, options.limit, options.rounds, Path(work))
        results = bench.measure(tools, log, lines)
        floor = bench.floor()
    say("")
    size = log.stat().st_size
    print(
        f"{lines:,} lines, {size / 1e6:.0f} MB, {size / max(lines, 1):.0f} bytes a line; "
        f"whole processes on core {core} of {processor()}; Python {platform.python_version()}; "
        f"median of {options.rounds}, slow tools once\n"
    )
    table = rows(results, floor)
    print_plain(table)
    if options.markdown:
        print()
        print_markdown(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
