"""What all ways to lock an account have in common: errors, results, and what a locker is.

What to change is knowledge and stands in a preset (``rules/presets/*.yaml``); :func:`locker_of_settings` makes the
locker that its kind asks for: SQL in :mod:`sentinel.respond.lock_sql`, files in :mod:`sentinel.respond.lock_files`,
programs in :mod:`sentinel.respond.lock_command`.

The account's name comes from a log that attackers write into. Every locker touches only the one account that is the
same: equal but for letter case. It tells what was there before to ``record`` before it changes anything, and looks
afterwards whether the change is there.
"""

import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sentinel.config import DatabaseSettings, expand_environment
from sentinel.errors import UserError
from sentinel.respond.policy import printable
from sentinel.respond.presets import Preset, PresetOption, Value, load_preset, preset_names
from sentinel.respond.programs import ProgramError, run

if TYPE_CHECKING:
    from sentinel.respond.lock_command import CommandLocker
    from sentinel.respond.lock_files import AccessMapLocker, PasswdFileLocker
    from sentinel.respond.lock_sql import AccountLocker, resolve_url

__all__ = [
    "AccessMapLocker",
    "AccountLocker",
    "CommandLocker",
    "Finished",
    "LockError",
    "LockFailed",
    "LockRefused",
    "LockResult",
    "LockTrouble",
    "LockUnavailable",
    "Locker",
    "PasswdFileLocker",
    "Preset",
    "PresetOption",
    "Record",
    "UnlockResult",
    "check_account",
    "load_preset",
    "locker_of_settings",
    "preset_names",
    "resolve_url",
    "run_program",
]

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
"""Longest time for one statement, one program, or waiting for another process that holds the file."""
MAX_ACCOUNT_CHARACTERS = 320
"""64 for the local part, ``@``, 255 for the domain."""
MAX_LISTED = 10_000
SCRAMBLED_PREFIX = "!sentinel-locked!"
"""How a password begins that nobody has. No hash begins with ``!``; presets and their verify statements know it."""


class LockError(Exception):
    """Why an account could not be locked or unlocked; a sentence without secrets."""


class LockRefused(LockError):
    """There is nothing to lock: trying again changes nothing."""


class LockUnavailable(LockError):
    """The database cannot be reached; try again for as long as it takes."""


class LockTrouble(LockError):
    """The database answered with an error: grants, a deadlock, a missing table. Worth some more attempts."""


class LockFailed(LockError):
    """The statement ran and did not do what it should."""


@dataclass(frozen=True, slots=True)
class LockResult:
    """What a lock found and did."""

    login: str
    """The account exactly as the table has it."""
    prior: dict[str, Any] = field(repr=False)
    locked_already: bool
    statement: str = ""
    """What was carried out, with placeholders in the place of all values; empty when it was locked already."""
    rows: int = 0
    """Rows, lines or entries that were changed."""


@dataclass(frozen=True, slots=True)
class UnlockResult:
    """What an unlock did."""

    statement: str = ""
    rows: int = 0
    """0: others have changed meanwhile what the lock had set, and it stays as they want it."""


Record = Callable[[str, dict[str, Any], bool], None]
"""Called with login, prior values and whether the row is locked already, before anything is changed; what it raises
stops the lock.
"""


class Locker(Protocol):
    """What carries out a lock. Any thread may use it."""

    @property
    def place(self) -> str:
        """Where accounts are locked, for a reader; without secrets."""

    def lock(self, account: str, record: Record) -> LockResult:
        """Locks, telling ``record`` what was there before; raises LockError, and what ``record`` raises."""

    def unlock(self, login: str, prior: Mapping[str, Any]) -> UnlockResult:
        """Puts back what was there before; ``login`` is the account as :meth:`lock` found it. Raises LockError."""

    def is_locked(self, account: str) -> bool:
        """How it is now, whoever did it. Raises LockError."""

    def list_locked(self) -> list[str]:
        """Accounts that are locked now, whoever did it, the first 10,000. Raises LockError."""

    def check(self) -> None:
        """Raises a LockError unless locking would work as far as can be seen without locking."""

    def close(self) -> None:
        """Ends connections."""


def locker_of_settings(settings: DatabaseSettings) -> Locker:
    """The locker of a configuration's ``database`` section. UserError for what is wrong with it."""
    preset = load_preset(settings.preset)
    url = settings.url.get_secret_value() if settings.url is not None else None
    if preset.kind == "sql":
        from sentinel.respond.lock_sql import AccountLocker

        if url is None:
            raise UserError(
                f"database.url: is missing; say where the accounts are, such as mysql://user@host/database: the preset {preset.name} "
                "locks them in an SQL database"
            )
        if url.startswith("file:"):
            raise UserError(
                f"database.url: a file is for presets such as dovecot-passwd-file and access-map; the preset {preset.name} locks in an "
                "SQL database, such as mysql://user@host/database"
            )
        return AccountLocker(url, preset, password_file=settings.password_file, options=settings.options)
    if settings.password_file is not None:
        raise UserError(f"database.password_file: the preset {preset.name} uses no password; leave it out")
    if preset.kind == "command":
        from sentinel.respond.lock_command import CommandLocker

        if url is not None:
            raise UserError(f"database.url: the preset {preset.name} runs programs, which find their database themselves; leave it out")
        return CommandLocker(preset, settings.options)
    from sentinel.respond.lock_files import AccessMapLocker, PasswdFileLocker

    made = PasswdFileLocker if preset.kind == "passwd-file" else AccessMapLocker
    return made(preset, _with_path(preset, settings.options, url))


def _with_path(preset: Preset, options: Mapping[str, Value], url: str | None) -> Mapping[str, Value]:
    """The options with the path of a ``file:///`` URL in them."""
    if url is None:
        return options
    if url.startswith("${"):
        url = expand_environment(url, "database.url")
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise UserError(f"database.url: the preset {preset.name} changes a file; write file:///path/of/the/file")
    if "path" in options:
        raise UserError("database: the path is in url and in options.path; keep one of them")
    return {**options, "path": urllib.parse.unquote(parts.path)}


def check_account(account: str) -> None:
    """Raises LockRefused for what can be no account anywhere."""
    if not account or len(account) > MAX_ACCOUNT_CHARACTERS:
        raise LockRefused(f"this cannot be an account: {len(account)} characters")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in account):
        raise LockRefused(f"this cannot be an account, it has control characters: {printable(account)}")


_ELSEWHERE = {
    "AccountLocker": "lock_sql",
    "resolve_url": "lock_sql",
    "PasswdFileLocker": "lock_files",
    "AccessMapLocker": "lock_files",
    "CommandLocker": "lock_command",
}


def __getattr__(name: str) -> Any:
    """The lockers themselves, loaded when somebody names them: they need what stands above."""
    if name in _ELSEWHERE:
        from importlib import import_module

        return getattr(import_module(f"sentinel.respond.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Finished(NamedTuple):
    """How a program ended that locks or looks."""

    code: int
    output: bytes
    """Of standard output, up to the limit."""
    whole: bool
    """Whether that is all of it."""
    said: str
    """Its last line on standard error, fit for a terminal."""


def run_program(
    argv: Sequence[str],
    *,
    given: bytes | None = None,
    limit: int = 65_536,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Runs a program to its end. Raises LockTrouble when it can't be started or takes too long."""
    try:
        ran = run(argv, input=given, seconds=STATEMENT_SECONDS, limit=limit, check=False, environment=environment)
    except ProgramError as error:
        raise LockTrouble(str(error)) from None
    lines = ran.err.decode("utf-8", "replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Finished(ran.code, ran.out, not ran.cut, printable(said))
