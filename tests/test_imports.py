"""Imports run one way, and nobody pays for what he does not use. Read from the code's own imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sentinel

PACKAGE = Path(sentinel.__file__).parent
STEPS = (
    {"errors"},
    {"marked", "resources", "zones"},
    {"maillog"},
    {"track"},
    {"detect"},
    {"state", "config"},
    {"source", "respond", "observe"},
    {"wiring", "replaying"},
    {"daemon"},
    {"cli"},
    {"__init__", "__main__"},
)
"""Lowest first. A room imports from lower steps and from itself, never from its neighbours."""
LEVEL = {room: level for level, rooms in enumerate(STEPS) for room in rooms}
CORE = ("maillog", "track", "detect")
NOT_IN_THE_CORE = {
    "asyncio", "http", "logging", "pandas", "prometheus_client", "requests", "socket", "sqlalchemy", "sqlite3", "subprocess", "threading",
    "time", "urllib", "watchdog",
}  # fmt: skip
CLOCKS = {"time", "monotonic", "perf_counter", "time_ns", "now", "utcnow", "today"}

_CYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]+)|c?import[ \t]+([\w.]+(?:[ \t]*,[ \t]*[\w.]+)*))", re.MULTILINE
)


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*") if path.suffix in suffixes)


def of_python(text: str) -> Iterator[str]:
    """Full names of what Python code imports, wherever in it: also within functions and for type checking."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports say the whole name"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_cython(text: str) -> Iterator[str]:
    for module, names, plain in _CYTHON.findall(re.sub(r"#.*", "", text)):
        if module:
            yield module
            yield from (f"{module}.{name.split()[0]}" for name in names.strip("()").replace("\n", " ").split(",") if name.strip())
        else:
            yield from re.split(r"\s*,\s*", plain)


def imports(path: Path) -> set[str]:
    read = of_python if path.suffix in (".py", ".pyi") else of_cython
    return set(read(path.read_text(encoding="utf-8")))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def rooms(names: set[str]) -> set[str]:
    """The rooms that imported names lie in."""
    return {name.split(".")[1] for name in names if name.startswith("sentinel.") and name.split(".")[1] in LEVEL}


def test_reading_imports() -> None:
    assert set(of_python("def f():\n    from a.b import c, d\nimport e.f")) == {"a.b", "a.b.c", "a.b.d", "e.f"}
    text = "from a.b cimport (C, D,\n    E as F)\ncimport g\n    import h.i, j\nfrom k import l as m  # from n import o\n"
    assert set(of_cython(text)) == {"a.b", "a.b.C", "a.b.D", "a.b.E", "g", "h.i", "j", "k", "k.l"}


def test_every_room_has_its_step() -> None:
    assert {room(path) for path in sources(".py", ".pyx", ".pxd")} == set(LEVEL)


@pytest.mark.parametrize("path", sources(".py", ".pyi", ".pyx", ".pxd"), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    wrong = {other for other in rooms(imports(path)) if other != own and LEVEL[other] >= LEVEL[own]}
    assert not wrong, f"{own} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", [p for p in sources(".py", ".pyx", ".pxd") if room(p) in CORE], ids=lambda path: path.name)
def test_core_has_no_clock_no_threads_and_no_libraries_of_the_outside(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & NOT_IN_THE_CORE
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        calls = {
            node.func.attr
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in ("time", "datetime", "date")
        }
        assert not calls & CLOCKS
    else:
        assert not re.search(r"\b(?:time|datetime|date)\.(?:" + "|".join(CLOCKS) + r")\(", text)
        assert not re.search(r"\b(?:gettimeofday|clock_gettime|clock)\(", text)


def loaded(code: str) -> set[str]:
    """The modules that a fresh process has after some code."""
    program = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


DAEMON = """
import sys, threading, urllib.request
from sentinel.cli import main
from sentinel.daemon import Daemon
begin = Daemon._loop
def loop(daemon, *things):
    # One look at the metrics from outside, as Prometheus takes it, and then the end.
    def look():
        urllib.request.urlopen(URL, timeout=20).read()
        daemon.stop()
    global URL
    URL = next(t for t in threading.enumerate() if t.name == "sentinel-http")._target.__self__.url + "metrics"
    threading.Thread(target=look).start()
    begin(daemon, *things)
Daemon._loop = loop
assert main(["run", "--log", {log!r}, "--state", {state!r}, "--listen", "127.0.0.1:0", "--from-start"]) == 0
"""


def test_observing_daemon_loads_neither_pandas_nor_sqlalchemy(tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    log.write_text("Oct 24 06:18:01 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n", encoding="utf-8")
    modules = loaded(DAEMON.replace("{log!r}", repr(str(log))).replace("{state!r}", repr(str(tmp_path / "state"))))
    assert {"sentinel.daemon", "sentinel.detect.engine", "prometheus_client"} <= modules
    assert not {"pandas", "sqlalchemy", "numpy", "pyarrow", "rich"} & modules


def test_command_line_loads_a_command_when_it_is_run(tmp_path: Path) -> None:
    bare = loaded("from sentinel.cli import build_parser\nbuild_parser()")
    assert {name for name in bare if name.startswith("sentinel")} == {"sentinel", "sentinel.cli", "sentinel.errors"}
    replay = loaded(f"from sentinel.cli import main\nmain(['replay', {str(tmp_path / 'none')!r}])")
    assert "sentinel.detect.engine" in replay
    assert not {"pandas", "sqlalchemy", "pydantic", "prometheus_client", "watchdog", "http.server", "rich"} & replay
