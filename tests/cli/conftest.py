"""The command as a user meets it: in this process, or as one of its own where pipes and streams matter."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Done, Run, environment, spam, write

from sentinel.cli import main


@pytest.fixture
def sentinel(capsys: pytest.CaptureFixture[str]) -> Run:
    """``sentinel("replay", path, ...)`` in this process."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def process() -> Run:
    """The same as a process of its own; ``stdin`` is what it reads, ``env`` goes on top of the environment."""

    def run(*arguments: object, stdin: bytes = b"", env: dict[str, str] | None = None, stdout: int = subprocess.PIPE) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "sentinel", *map(str, arguments)],
            input=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment(**(env or {})),
            timeout=60,
        )
        return Done(done.returncode, (done.stdout or b"").decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    return run


@pytest.fixture
def spam_log(tmp_path: Path) -> Path:
    return write(tmp_path / "mail.log", spam())


@pytest.fixture
def quiet_log(tmp_path: Path) -> Path:
    return write(tmp_path / "quiet.log", spam(messages=1))
