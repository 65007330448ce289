"""Locks an account by running programs of the admin's: a preset of kind ``command``.

Each statement is an argument vector in which ``{account}`` is the account; no shell sees it. The account is also in the
environment, as ``SENTINEL_ACCOUNT``. What the programs have to keep to:

- ``lock``, ``unlock``: exit code 0 when it is done. Done twice must be the same as done once.
- ``verify``: exit code 0 when the account is locked, 1 when it is not.
- ``read``, which may be left out: what it prints is kept, and given to ``unlock`` on standard input, byte for byte.
- ``list``, which may be left out: prints the locked accounts, one a line.
- Any of them: exit code 67 (``EX_NOUSER``) when there is no such account. Another code is trouble, and is tried again;
  the last line on standard error says why.

Exit codes of sysexits.h. An argument that begins with the account has to come after ``--`` (the preset is checked for
that), and where the account follows a slash, one with a slash of its own is refused.
"""

import os
import shutil
from collections.abc import Mapping
from typing import Any

from sentinel.errors import UserError
from sentinel.respond.locks import (
    MAX_LISTED,
    Finished,
    LockError,
    LockFailed,
    LockRefused,
    LockResult,
    LockTrouble,
    Record,
    UnlockResult,
    check_account,
    run_program,
)
from sentinel.respond.policy import printable
from sentinel.respond.presets import STATEMENTS, Preset, Value, arguments_of, load_preset, option_values, shown

NO_SUCH_ACCOUNT = os.EX_NOUSER
_MAX_LIST_BYTES = 4 << 20


class CommandLocker:
    """Runs the commands of one preset. Any thread may use it."""

    def __init__(self, preset: Preset | str = "command", options: Mapping[str, Value] | None = None) -> None:
        """Starts nothing. Raises UserError for what is wrong with the settings."""
        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        if self.preset.kind != "command":
            raise UserError(f"the preset {self.preset.name} runs no commands")
        values = option_values(self.preset, options or {})
        self._arguments = {key: arguments_of(self.preset, key, values) for key in STATEMENTS}
        self.place = f"the program {self._arguments['lock'][0]}"

    def __repr__(self) -> str:
        return f"CommandLocker({self.place!r}, preset={self.preset.name!r})"

    def close(self) -> None:
        """Nothing is open."""

    def lock(self, account: str, record: Record) -> LockResult:
        """Locks an account, or finds that it is locked. Raises a :class:`LockError`, and what ``record`` raises."""
        check_account(account)
        prior = self._read(account)
        prior["locked"] = self._verify(account)
        record(account, prior, prior["locked"])
        if prior["locked"]:
            return LockResult(account, prior, True)
        self._done("lock", account)
        if not self._verify(account):
            raise LockFailed(
                f"{self._shown('verify')} does not show {printable(account)} as locked after the lock; {self._undo(account, prior)}"
            )
        return LockResult(account, prior, False, self._shown("lock"), 1)

    def unlock(self, login: str, prior: Mapping[str, Any]) -> UnlockResult:
        """Undoes a lock. What was locked before ours stays so."""
        check_account(login)
        if prior.get("locked"):
            return UnlockResult()
        self._done("unlock", login, prior.get("output", b""))
        if self._verify(login):
            raise LockFailed(f"{self._shown('verify')} still shows {printable(login)} as locked after the unlock")
        return UnlockResult(self._shown("unlock"), 1)

    def is_locked(self, account: str) -> bool:
        """What ``verify`` says now."""
        check_account(account)
        return self._verify(account)

    def list_locked(self) -> list[str]:
        """What ``list`` prints, one account a line; the first 10,000."""
        if not self._arguments["list"]:
            raise LockFailed(f"the preset {self.preset.name} has no list command, so it cannot tell who is locked")
        done = run_program(self._arguments["list"], limit=_MAX_LIST_BYTES)
        if done.code != 0:
            raise self._trouble("list", done)
        return [line for line in done.output.decode("utf-8", "replace").split("\n") if line][:MAX_LISTED]

    def check(self) -> None:
        """Raises a :class:`LockError` unless every program is there and may be run."""
        for key, arguments in self._arguments.items():
            if arguments and shutil.which(arguments[0]) is None:
                raise LockTrouble(f"{key}: there is no program {arguments[0]} that could be run")

    # one program each

    def _read(self, account: str) -> dict[str, Any]:
        if not self._arguments["read"]:
            return {}
        done = self._run("read", account)
        if done.code != 0:
            raise self._trouble("read", done)
        if not done.whole:
            raise LockFailed(f"{self._shown('read')} printed more than can be kept for the unlock")
        return {"output": done.output}

    def _verify(self, account: str) -> bool:
        done = self._run("verify", account)
        if done.code not in (0, 1):
            raise self._trouble("verify", done)
        return done.code == 0

    def _done(self, key: str, account: str, given: bytes | None = None) -> None:
        done = self._run(key, account, given)
        if done.code != 0:
            raise self._trouble(key, done)

    def _undo(self, account: str, prior: Mapping[str, Any]) -> str:
        try:
            self._done("unlock", account, prior.get("output", b""))
        except LockError as error:
            return f"and undoing it failed too: {error}"
        return "it was undone"

    def _run(self, key: str, account: str, given: bytes | None = None) -> Finished:
        arguments = self._arguments[key]
        if any("/{account}" in argument for argument in arguments) and ("/" in account or account in (".", "..")):
            raise LockRefused(f"{printable(account)} cannot be part of a path, as {self._shown(key)} would have it")
        filled = [argument.replace("{account}", account) for argument in arguments]
        done = run_program(filled, given=given, environment={"SENTINEL_ACCOUNT": account})
        if done.code == NO_SUCH_ACCOUNT:
            raise LockRefused(f"no such account, says {arguments[0]}: {printable(account)}")
        return done

    def _shown(self, key: str) -> str:
        """A command with ``{account}`` in the place of the account."""
        return shown(self._arguments[key])

    def _trouble(self, key: str, done: Finished) -> LockTrouble:
        how = f"was ended by signal {-done.code}" if done.code < 0 else f"ended with exit code {done.code}"
        return LockTrouble(f"{self._shown(key)} {how}" + (f": {done.said}" if done.said else ""))
