"""What gets installed: an ordinary build in isolation, and the product's knowledge inside the wheel."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def copy_of_the_checkout(to: Path) -> Path:
    """Only what belongs to the source: nothing that was built in place may help."""
    kept = ("LICENSE", "MANIFEST.in", "README.md", "CHANGELOG.md", "ARCHITECTURE.md", "pyproject.toml", "setup.py")
    for name in kept:
        shutil.copy(ROOT / name, to / name)
    built = shutil.ignore_patterns("*.so", "_*.c", "__pycache__")
    for name in ("sentinel", "rules", "dashboards"):
        shutil.copytree(ROOT / name, to / name, ignore=built)
    return to


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(list(map(str, command)), cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = copy_of_the_checkout(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, ".", cwd=source)
    assert done.returncode == 0, done.stderr
    (made,) = out.glob("*.whl")
    return made


def test_the_wheel_holds_rules_and_alerts_and_no_sources_of_c(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        "sentinel/_rules/default.yaml",
        "sentinel/_rules/replies/50-general.yaml",
        "sentinel/_rules/providers.yaml",
        "sentinel/_rules/dnsbls.yaml",
    } <= set(names)
    assert {"sentinel/_rules/presets/generic.yaml", "sentinel/_rules/presets/extmail.yaml"} <= set(names)
    assert {"sentinel/_dashboards/prometheus/alerts.yaml", "sentinel/py.typed"} <= set(names)
    assert sum(name.endswith(".so") for name in names) == 5
    assert [name for name in names if name.endswith((".c", ".pyx")) or name.startswith("tests/")] == []


def test_an_installed_sentinel_finds_its_rules_far_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The dependencies come from the environment of the tests, sentinel itself from the wheel.
    where = run(sys.executable, "-c", "import sentinel.cli; print(sentinel.cli.__file__)", cwd=tmp_path, PYTHONPATH=str(site))
    assert where.stdout.startswith(str(site))
    tested = run(sys.executable, "-m", "sentinel", "rules", "test", cwd=tmp_path, PYTHONPATH=str(site))
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert tested.stdout.splitlines()[-1].endswith(" passed, 0 failed")
    version = run(sys.executable, "-m", "sentinel", "--version", cwd=tmp_path, PYTHONPATH=str(site))
    assert version.stdout == "sentinel 0.1.0\n"


def test_without_a_compiler_the_build_says_in_one_sentence_what_to_install(tmp_path: Path) -> None:
    source = copy_of_the_checkout(tmp_path)
    nothing = tmp_path / "no-programs"
    nothing.mkdir()
    done = run(sys.executable, "setup.py", "--quiet", "build_ext", cwd=source, PATH=str(nothing), CC="")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("maillog-sentinel is built with a C compiler and none was found: install one (Debian")
