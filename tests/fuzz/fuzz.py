"""Fuzzes the compiled parts: ``make fuzz SECONDS=60``.

Builds them once more, in ``build/fuzz``, with clang's AddressSanitizer, UndefinedBehaviorSanitizer and coverage counters, and runs the
targets of ``checks.py`` there under atheris (libFuzzer), each for its third of the time. The inputs that led somewhere new stay in
``build/fuzz/corpus`` and are where the next run begins; what broke something is in ``build/fuzz/findings``. Ends with 1 if anything did.

Needs clang; atheris comes from PyPI into ``build/fuzz``.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "build" / "fuzz"
CHECKOUT = HERE / "checkout"
SITE = HERE / "site"
SANITIZE = "-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=pointer-overflow -fno-sanitize-recover=all -fno-wrapv -fno-omit-frame-pointer -g"
MAX_LENGTH = 100_000
SECONDS_AN_INPUT = 5
TARGETS = ("scan", "engine", "oracle")
MAX_RESTARTS = 50


def build() -> None:
    """The checkout and atheris in ``build/fuzz``; what has not changed is not built again."""
    if shutil.which("clang") is None:
        raise SystemExit("fuzzing needs clang; on Debian and Ubuntu: apt install clang")
    if not (SITE / "atheris").exists():
        install = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
        if subprocess.run([*install, "--target", SITE, "atheris"], check=False).returncode:
            raise SystemExit(
                f"there is no atheris for Python {sys.version_info.major}.{sys.version_info.minor} here; 3.11 to 3.13 on x86_64 have one"
            )
    for name in ("sentinel", "rules"):
        for path in (ROOT / name).rglob("*"):
            to = CHECKOUT / path.relative_to(ROOT)
            if path.suffix in (".so", ".c", ".pyc") or not path.is_file():
                continue
            if not to.exists() or to.stat().st_mtime != path.stat().st_mtime:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)
    shutil.copy2(ROOT / "setup.py", CHECKOUT)
    # The sanitizers themselves are in the library that is loaded before the interpreter.
    environment = {**os.environ, "CC": "clang", "LDSHARED": "clang -shared", "CFLAGS": SANITIZE, "LDFLAGS": ""}
    with open(HERE / "build.log", "wb") as log:
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        if subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"the sanitized build failed: {log.name}")


def fuzz(target: str, seconds: int, seed: int) -> None:
    """Inside the sanitized interpreter: libFuzzer, with our own changes beside its own."""
    import atheris  # type: ignore[import-not-found]
    import checks
    from mutations import mutate, seed_lines

    holds = checks.TARGETS[target]
    shared = Path(os.environ.get("SENTINEL_SHARED", ROOT.parent / "shared"))
    lines = seed_lines((shared / "lab" / "recordings").glob("*.log.xz"))
    corpus = HERE / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for line in lines:
        (corpus / hashlib.blake2b(line, digest_size=10).hexdigest()).write_bytes(line + b"\n")
    findings = HERE / "findings"

    def test_one(data: bytes) -> None:
        try:
            holds(data)
        except Exception as error:
            # One of each kind is enough, and is no reason to stop.
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{target}-{type(error).__name__}-{Path(where.filename).name}-{where.lineno}"
            if not (findings / kind).exists():
                (findings / kind).write_bytes(data)
                (findings / f"{kind}.txt").write_text(traceback.format_exc(), encoding="utf-8")

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return atheris.Mutate(data, max_size) if rng.random() < 0.25 else mutate(rng, data, lines, max_size)

    arguments = (f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", f"-timeout={SECONDS_AN_INPUT}", "-len_control=0", f"-seed={seed}")
    options = ("-rss_limit_mb=4096", "-print_final_stats=1", f"-artifact_prefix={findings}/{target}-", "-close_fd_mask=0", "-verbosity=1")
    atheris.Setup([sys.argv[0], *arguments, *options, str(corpus)], test_one, custom_mutator=change)
    atheris.Fuzz()


def sanitized(target: str, seconds: int, seed: int, log: Path) -> int:
    """Runs ``fuzz`` in an interpreter with the sanitizers; its exit code."""
    environment = {
        **os.environ,
        "LD_PRELOAD": str(SITE / "asan_with_fuzzer.so"),
        "PYTHONPATH": os.pathsep.join(map(str, (CHECKOUT, ROOT / "tests", SITE))),
        "PYTHONMALLOC": "malloc",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "SENTINEL_SHARED": os.environ.get("SENTINEL_SHARED", str(ROOT.parent / "shared")),
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--inside", target, "--seconds", str(seconds), "--seed", str(seed)]
    with open(log, "ab") as file:
        return subprocess.run(command, env=environment, cwd=HERE, stdout=file, stderr=file, check=False).returncode


def campaign(target: str, seconds: int, seed: int) -> None:
    """One target for its time, begun again after each crash; prints what it came to."""
    log = HERE / f"{target}.log"
    log.write_bytes(b"")
    began = time.monotonic()
    for attempt in range(MAX_RESTARTS):
        left = seconds - (time.monotonic() - began)
        if left < 1 or sanitized(target, int(left), seed + attempt, log) == 0:
            break
    text = log.read_text(encoding="utf-8", errors="replace")
    executions = sum(map(int, re.findall(r"stat::number_of_executed_units:\s+(\d+)", text)))
    edges = max(map(int, re.findall(r"cov: (\d+)", text)), default=0)
    print(
        f"{target}: {time.monotonic() - began:.0f} s, {executions} executions, {edges} edges covered, log {log.relative_to(ROOT)}",
        flush=True,
    )
    if not executions:
        raise SystemExit(f"nothing was executed: see {log}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0, help="0: a different run each time")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        fuzz(arguments.inside, arguments.seconds, arguments.seed)
        return 0
    build()
    findings = HERE / "findings"
    findings.mkdir(exist_ok=True)
    seed = arguments.seed or random.randrange(1, 1 << 30)
    print(f"fuzzing for {arguments.seconds} s, seed {seed}", flush=True)
    for target in TARGETS:
        campaign(target, max(1, arguments.seconds // len(TARGETS)), seed)
    found = sorted(path.name for path in findings.iterdir() if path.suffix != ".txt")
    print(f"findings: {len(found)}", *found, sep="\n  " if found else " ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
