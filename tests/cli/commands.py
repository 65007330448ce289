"""What tests of the command line share: what a command gave, and logs to give it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """What it said on standard error; each line is ours, none is a traceback."""
        lines = self.err.splitlines()
        assert all(line.startswith("sentinel: ") for line in lines), self.err
        return [line.removeprefix("sentinel: ") for line in lines]

    def refused(self, *words: str) -> None:
        """Bad input: exit 2, one sentence with these words, nothing on standard output."""
        assert (self.code, self.out) == (2, ""), self
        (sentence,) = self.sentences
        for word in words:
            assert word in sentence


Run = Callable[..., Done]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}
    return {**clean, **more}


def spam(account: str = "info@example.com", *, minute: str = "06:18", messages: int = 4, day: str = "Oct 24", begin: int = 1) -> list[str]:
    """Lines of an account that sends messages of fifty recipients, each under another sender; four of them fire two rules."""
    out = []
    for n in range(begin, begin + messages):
        head = f"{day} {minute}:{n % 60:02d} mx postfix"
        out.append(f"{head}/smtpd[1]: 4A{n:06X}: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username={account}")
        out.append(f"{head}/qmgr[2]: 4A{n:06X}: from=<linda{n}@example.net>, size=900, nrcpt=50 (queue active)")
    return out


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


UTC_2026 = ("--year", "2026", "--timezone", "UTC")
