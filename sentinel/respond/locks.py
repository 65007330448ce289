"""Locks an account by changing its row in the mail system's own database.

What to change is knowledge and stands in a preset (``rules/presets/*.yaml``): a few statements with bind parameters.
The account's name comes from a log that attackers write into, so it is only ever a bind parameter, and a row is touched
only when it is the one row the statement finds and is the same account: equal but for letter case. A database that
holds ``é`` for ``e``, or ignores trailing spaces, finds rows that are somebody else's; those are refused. The update
binds the name exactly as the row has it.

Lock and verification are one transaction; when they disagree, it is rolled back, and on tables without transactions the
prior values are put back by statement.

No password appears in a ``repr`` or an error: errors name the database by host and name, and texts from drivers are
searched for it. SQLAlchemy is imported only when a locker is made.
"""

import contextlib
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinel.config import DatabaseSettings, expand_environment, is_identifier
from sentinel.detect.detection import account_key
from sentinel.errors import UserError
from sentinel.marked import Marked, nearest, read
from sentinel.resources import resource
from sentinel.respond.policy import printable

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 10
MAX_ACCOUNT_CHARACTERS = 320
"""64 for the local part, ``@``, 255 for the domain."""

_STATEMENTS = ("read", "lock", "unlock", "verify")
_TEXTS = ("name", "description", "grants", "notes")
_OPTION_KEYS = ("kind", "default", "like", "description")
_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_BIND = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
_DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
_EXTRAS = {"mysql": "mysql", "mariadb": "mysql", "postgresql": "postgresql"}


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


# presets


@dataclass(frozen=True, slots=True)
class PresetOption:
    """Something that a preset lets the configuration choose."""

    kind: str
    """``identifier``: a name in the SQL text; ``value``: a bind parameter."""
    default: str | int | bool
    like: str | None = None
    """Of a value: the column whose type it follows."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Preset:
    """How one kind of mail system locks an account."""

    name: str
    description: str
    read: str
    lock: str
    unlock: str
    verify: str
    options: dict[str, PresetOption] = field(default_factory=dict)
    grants: str = ""
    notes: str = ""


def preset_names() -> list[str]:
    """Names that :func:`load_preset` knows."""
    return sorted(path.stem for path in resource("rules", "presets").glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """A preset by name, or by path when it has a slash or ends in ``.yaml``. UserError names every mistake with file
    and line.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return _read_preset(Path(name))
    if is_identifier(name.replace("-", "_")):
        path = resource("rules", "presets", f"{name}.yaml")
        if path.is_file():
            return _read_preset(path)
    raise UserError(f'there is no lock preset "{printable(name)}"{nearest(name, preset_names())}')


def _read_preset(path: Path) -> Preset:
    problems: list[str] = []
    top = read(path, problems)
    keys = top.mapping("a preset")
    options = _read_options(keys["options"], problems) if "options" in keys else {}
    texts: dict[str, str] = {}
    for key, item in keys.items():
        if key == "options":
            continue
        if key not in (*_TEXTS, *_STATEMENTS):
            problems.append(f"{item.where}: {key}: unknown key{nearest(key, (*_TEXTS, 'options', *_STATEMENTS))}")
        elif not isinstance(item.value, str):
            problems.append(f"{item.where}: {key}: must be a text")
        else:
            texts[key] = item.value.strip()
    problems += [f"{top.where}: {key}: is missing" for key in ("name", *_STATEMENTS) if key not in keys]
    for key in _STATEMENTS:
        if key in texts:
            problems += [f"{keys[key].where}: {key}: {problem}" for problem in _statement_problems(key, texts[key], options)]
    if problems:
        raise UserError("\n".join(problems))
    return Preset(options=options, **{"description": "", **texts})


def _read_options(given: Marked, problems: list[str]) -> dict[str, PresetOption]:
    out: dict[str, PresetOption] = {}
    if given.value is None:
        return out
    if not isinstance(given.value, dict):
        problems.append(f"{given.where}: options: must hold keys and values")
        return out
    for name, item in given.value.items():
        where = f"{item.where}: options.{name}"
        if not isinstance(item.value, dict):
            problems.append(f"{where}: must hold keys and values")
            continue
        option = item.plain()
        problems += [f"{where}.{key}: unknown key{nearest(key, _OPTION_KEYS)}" for key in option if key not in _OPTION_KEYS]
        kind, default = option.get("kind"), option.get("default")
        if kind not in ("identifier", "value"):
            problems.append(f"{where}.kind: must be identifier or value")
        elif not isinstance(default, (str, int, bool)) or (kind == "identifier" and not is_identifier(str(default))):
            problems.append(f"{where}.default: {_default_rule(kind)}")
        else:
            out[name] = PresetOption(kind, default, option.get("like"), str(option.get("description", "")))
    return out


def _default_rule(kind: str) -> str:
    return "must be a plain name" if kind == "identifier" else "must be a text, a whole number, true or false"


def _statement_problems(key: str, sql: str, options: Mapping[str, PresetOption]) -> Iterator[str]:
    identifiers = [name for name, option in options.items() if option.kind == "identifier"]
    for name in _PLACEHOLDER.findall(sql):
        if name not in identifiers:
            yield f"{{{name}}} is no option of kind identifier{nearest(name, identifiers) if identifiers else ''}"
    binds = _BIND.findall(sql)
    if "account" not in binds:
        yield "must bind the account as :account"
    known = {"account", *(name for name, option in options.items() if option.kind == "value")}
    for name in binds:
        if name not in known and not (key == "unlock" and name.startswith("prior_")):
            yield f":{name} is not known here{nearest(name, known)}"


# locking


@dataclass(frozen=True, slots=True)
class LockResult:
    """What a lock found and did."""

    login: str
    """The account exactly as the table has it."""
    prior: dict[str, Any] = field(repr=False)
    locked_already: bool


Record = Callable[[str, dict[str, Any], bool], None]
"""Called with login, prior values and whether the row is locked already, before anything is changed; what it raises
stops the lock.
"""


class AccountLocker:
    """Locks and unlocks accounts in one database by one preset. Any thread may use it; each call is one transaction."""

    def __init__(
        self,
        url: str,
        preset: Preset | str = "generic",
        *,
        password_file: str | None = None,
        options: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        """Connects only when it is used. Raises UserError for what is wrong with the settings."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        resolved = resolve_url(url, password_file)
        self._secrets = _secrets(resolved)
        backend = resolved.get_backend_name()
        self.place = f"{backend} {resolved.database or ''}" + (f" on {resolved.host}" if resolved.host else "")
        values = self._options(options or {})
        try:
            self._engine: Engine = create_engine(
                _sqlite_existing(resolved),
                connect_args=_connect_arguments(resolved),
                pool_pre_ping=True,
                pool_recycle=600,
                pool_size=1,
                max_overflow=2,
                pool_timeout=CONNECT_SECONDS,
                hide_parameters=True,
            )
        except NoSuchModuleError:
            known = ", ".join(("mysql", "postgresql", "sqlite"))
            raise UserError(f"database.url: {printable(resolved.drivername)} is no kind of database known here: {known}") from None
        except ImportError as error:
            extra = _EXTRAS.get(backend)
            hint = f"; install maillog-sentinel[{extra}]" if extra else ""
            raise UserError(f"database.url: the driver for {backend} is not installed ({error.name}){hint}") from None
        except (ArgumentError, TypeError):
            raise UserError(f"database.url: the settings for {backend} are not understood; {_URL_HINT}") from None
        quote = self._engine.dialect.identifier_preparer.quote
        names = {name: quote(str(value)) for name, value in values.items() if self.preset.options[name].kind == "identifier"}
        self._values = {name: value for name, value in values.items() if name not in names}

        def fill(sql: str) -> str:
            return _PLACEHOLDER.sub(lambda match: names[match[1]], sql)

        self._sql = {key: text(fill(getattr(self.preset, key))) for key in _STATEMENTS}
        self._binds = {key: set(_BIND.findall(getattr(self.preset, key))) for key in _STATEMENTS}
        self.table = str(values.get("table", "the table"))

    @classmethod
    def from_settings(cls, settings: DatabaseSettings) -> "AccountLocker":
        """The locker of a configuration file's ``database`` section."""
        url = settings.url.get_secret_value()
        return cls(url, settings.preset, password_file=settings.password_file, options=settings.options)

    def __repr__(self) -> str:
        return f"AccountLocker({self.place!r}, preset={self.preset.name!r})"

    def close(self) -> None:
        """Ends the connections."""
        self._engine.dispose()

    def lock(self, account: str, record: Record) -> LockResult:
        """Locks an account, or finds that it is locked. Raises a :class:`LockError`, and what ``record`` raises."""
        _check_name(account)
        with self._connection() as db:
            login, prior = self._row(db, account)
            if login != account:
                # The update will look for this spelling: it too must find one row.
                login, prior = self._row(db, login)
            locked_already = self._verify(db, login, prior)
            record(login, prior, locked_already)
            if not locked_already:
                try:
                    self._change(db, "lock", login, prior)
                    if not self._verify(db, login, prior):
                        raise LockFailed(f"{self.table} does not show {printable(login)} as locked after the lock statement")
                except LockFailed as error:
                    db.rollback()
                    raise LockFailed(f"{error}; {self._put_back(db, login, prior)}") from None
            db.commit()
        return LockResult(login, prior, locked_already)

    def unlock(self, login: str, prior: Mapping[str, Any]) -> None:
        """Puts the prior values back. ``login`` must be the account as the table has it."""
        _check_name(login)
        with self._connection() as db:
            found, _ = self._row(db, login)
            if found != login:
                raise LockRefused(f"no such account in {self.table}: {printable(login)}")
            self._restore(db, login, prior)
            db.commit()

    def is_locked(self, account: str) -> bool:
        """What the table says now."""
        _check_name(account)
        with self._connection() as db:
            login, prior = self._row(db, account)
            return self._verify(db, login, prior)

    def check(self) -> None:
        """Raises a :class:`LockError` unless the database can be reached and read as the preset needs it."""
        with self._connection() as db, self._translated():
            db.execute(self._sql["read"], {"account": ""}).fetchmany(1)

    # one step each, inside a transaction

    def _row(self, db: "Connection", account: str) -> tuple[str, dict[str, Any]]:
        with self._translated():
            rows = db.execute(self._sql["read"], {"account": account}).mappings().fetchmany(2)
            if not rows and account != account_key(account):
                # As the client wrote it there is none; most systems store logins in lower case.
                rows = db.execute(self._sql["read"], {"account": account_key(account)}).mappings().fetchmany(2)
        if len(rows) > 1:
            raise LockRefused(f"more than one row in {self.table} matches {printable(account)}")
        columns = dict(rows[0]) if rows else {}
        login = columns.pop("account", None)
        if isinstance(login, (bytes, bytearray)):
            login = login.decode("utf-8", "replace")
        if not isinstance(login, str) or account_key(login) != account_key(account):
            near = f" (the database compares it equal to {printable(login)})" if isinstance(login, str) else ""
            raise LockRefused(f"no such account in {self.table}: {printable(account)}{near}")
        return login, columns

    def _verify(self, db: "Connection", login: str, prior: Mapping[str, Any]) -> bool:
        with self._translated():
            rows = db.execute(self._sql["verify"], self._parameters("verify", login, prior)).fetchmany(2)
        return len(rows) == 1 and bool(rows[0][0])

    def _change(self, db: "Connection", key: str, login: str, prior: Mapping[str, Any]) -> None:
        with self._translated():
            changed = db.execute(self._sql[key], self._parameters(key, login, prior)).rowcount
        if changed != 1:
            raise LockFailed(f"the {key} statement matched {changed} rows of {self.table} for {printable(login)}, not one")

    def _restore(self, db: "Connection", login: str, prior: Mapping[str, Any]) -> None:
        self._change(db, "unlock", login, prior)
        _, now = self._row(db, login)
        wrong = [name for name, value in prior.items() if name in now and now[name] != value]
        if wrong:
            db.rollback()
            raise LockFailed(f"{', '.join(wrong)} of {printable(login)} in {self.table} did not take the prior value back")

    def _put_back(self, db: "Connection", login: str, prior: Mapping[str, Any]) -> str:
        """After a rollback: on a table without transactions the change is still there."""
        try:
            _, now = self._row(db, login)
            if now != prior:
                self._restore(db, login, prior)
                db.commit()
        except LockError as error:
            return f"and the prior values could not be put back: {error}"
        return "the row is as it was"

    def _parameters(self, key: str, login: str, prior: Mapping[str, Any]) -> dict[str, Any]:
        every: dict[str, Any] = {"account": login, **{f"prior_{name}": value for name, value in prior.items()}}
        for name, value in self._values.items():
            like = self.preset.options[name].like
            every[name] = _as_type_of(prior.get(like) if like else None, value)
        return {name: value for name, value in every.items() if name in self._binds[key]}

    def _options(self, given: Mapping[str, str | int | bool]) -> dict[str, str | int | bool]:
        values = {name: option.default for name, option in self.preset.options.items()}
        for name, value in given.items():
            option = self.preset.options.get(name)
            if option is None:
                raise UserError(f"database.options.{printable(name)}: unknown in preset {self.preset.name}{nearest(name, values)}")
            if option.kind == "identifier" and not (isinstance(value, str) and is_identifier(value)):
                raise UserError(
                    f"database.options.{name}: {printable(str(value))} is not a plain name; letters, digits and _ only, no digit first"
                )
            values[name] = value
        return values

    # connection and errors

    @contextlib.contextmanager
    def _connection(self) -> Iterator["Connection"]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            db = self._engine.connect()
        except SQLAlchemyError as error:
            raise LockUnavailable(f"cannot connect to {self.place}: {self._text_of(error)}") from None
        with db:
            # Whatever leaves this block without a commit is rolled back.
            try:
                if self._engine.dialect.name == "postgresql":
                    with self._translated():
                        db.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
                yield db
            except SQLAlchemyError as error:
                raise self._lock_error(error) from None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            raise self._lock_error(error) from None

    def _lock_error(self, error: Exception) -> LockError:
        from sqlalchemy.exc import DataError, DBAPIError, StatementError

        text = f"{self.place}: {self._text_of(error)}"
        if isinstance(error, DBAPIError):
            if error.connection_invalidated:
                return LockUnavailable(text)
            return LockFailed(text) if isinstance(error, DataError) else LockTrouble(text)
        return LockFailed(text) if isinstance(error, StatementError) else LockTrouble(text)

    def _text_of(self, error: Exception) -> str:
        """What the driver says, on one line, without secrets."""
        cause = getattr(error, "orig", None) or error
        text = str(cause.args[-1]) if cause.args else type(cause).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return printable(" ".join(text.split()))


_URL_HINT = "write mysql://user@host/database, postgresql://user@host/database or sqlite:////path"


def resolve_url(url: str, password_file: str | None = None, what: str = "database.url") -> "URL":
    """The URL of a database with driver, environment variables and the password file put in. No error shows any part of it."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if re.fullmatch(r"\$\{\w+\}", url.strip()):
        url = expand_environment(url.strip(), what)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError(f"{what} is not a database URL; {_URL_HINT}") from None
    # After parsing, so that a password may hold any character.
    expanded = {
        part: expand_environment(str(getattr(parsed, part)), what)
        for part in ("username", "password", "host", "database")
        if getattr(parsed, part)
    }
    query = {
        key: expand_environment(value, what) if isinstance(value, str) else tuple(expand_environment(item, what) for item in value)
        for key, value in parsed.query.items()
    }
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername), query=query, **expanded)  # type: ignore[arg-type]
    if password_file is not None:
        if parsed.password:
            raise UserError("database: the password is in url and in password_file; keep one of them")
        parsed = parsed.set(password=_read_password(password_file))
    return parsed


def _read_password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            password = file.readline(4096).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"database.password_file {path} cannot be read: {reason}") from None
    if not password:
        raise UserError(f"database.password_file {path}: its first line must be the password, and is empty")
    return password


def _secrets(url: "URL") -> list[str]:
    plain = [str(url.password)] if url.password else []
    for key, value in url.query.items():
        if "pass" in key.lower() or "pwd" in key.lower():
            plain += [value] if isinstance(value, str) else list(value)
    quoted = [
        form for secret in plain for form in (urllib.parse.quote(secret, safe=""), urllib.parse.quote_plus(secret), repr(secret)[1:-1])
    ]
    return sorted({*plain, *quoted} - {""}, key=len, reverse=True)


def _sqlite_existing(url: "URL") -> "URL":
    """SQLite would make a file that is not there; a wrong path must be an error."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:") or url.database == ":memory:":
        return url
    path = urllib.parse.quote(str(Path(url.database).absolute()))
    return url.set(database=f"file:{path}").update_query_dict({"mode": "rw", "uri": "true"})


def _connect_arguments(url: "URL") -> dict[str, Any]:
    arguments: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS}
    match url.get_backend_name():
        case "mysql":
            arguments |= {"read_timeout": STATEMENT_SECONDS, "write_timeout": STATEMENT_SECONDS}
        case "sqlite":
            arguments = {"timeout": CONNECT_SECONDS}
        case "postgresql":
            pass
        case _:
            arguments = {}
    return {name: value for name, value in arguments.items() if name not in url.query}


def _check_name(account: str) -> None:
    if not account or len(account) > MAX_ACCOUNT_CHARACTERS:
        raise LockRefused(f"this cannot be an account: {len(account)} characters")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) < 0xE000 for char in account):
        raise LockRefused(f"this cannot be an account, it has control characters: {printable(account)}")


def _as_type_of(sample: Any, value: str | int | bool) -> str | int | bool:
    """``0`` for a column of booleans is false, for a column of texts is "0"; PostgreSQL converts neither by itself."""
    if isinstance(sample, bool) and value in (0, 1):
        return bool(value)
    if isinstance(sample, str) and not isinstance(value, str):
        return str(int(value))
    return int(value) if isinstance(sample, int) and isinstance(value, bool) and not isinstance(sample, bool) else value
