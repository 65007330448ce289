"""Locks an account by changing its row in the mail system's own database.

A preset of kind ``sql`` is a few statements with bind parameters. The account's name is only ever such a parameter, and
a row is touched only when it is the one row the statement finds and is the same account: equal but for letter case. A
database that holds ``é`` for ``e``, or ignores trailing spaces, finds rows that are somebody else's; those are refused.
The update binds the name exactly as the row has it.

Lock and verification are one transaction; when they disagree, it is rolled back, and on tables without transactions the
prior values are put back by statement. Of several sentinels on one database one locks at a time, so that the others find it done; that
somebody else (an admin's panel) locked the account at the same moment is seen after the rollback, and left as it is.

No password appears in a ``repr`` or an error: errors name the database by host and name, and texts from drivers are
searched for it. SQLAlchemy is imported only when a locker is made.
"""

import contextlib
import re
import secrets
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentinel.config import DatabaseSettings, expand_environment
from sentinel.detect.detection import account_key
from sentinel.errors import UserError
from sentinel.respond import locks
from sentinel.respond.locks import (
    CONNECT_SECONDS,
    MAX_LISTED,
    SCRAMBLED_PREFIX,
    LockError,
    LockFailed,
    LockRefused,
    LockResult,
    LockTrouble,
    LockUnavailable,
    Record,
    UnlockResult,
    check_account,
)
from sentinel.respond.policy import printable
from sentinel.respond.presets import BIND, PLACEHOLDER, STATEMENTS, Preset, Value, load_preset, option_values

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, CursorResult, Engine

_DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
_EXTRAS = {"mysql": "mysql", "mariadb": "mysql", "postgresql": "postgresql"}
_MYSQL_NOT_ALLOWED = (1044, 1142, 1143, 1227)
"""Access to the database, the table or the column denied (MariaDB's ``mysqld_error.h``)."""
_POSTGRESQL_NOT_ALLOWED = "42501"
_TYPES: dict[str, dict[int, bool | str]] = {
    "postgresql": {16: False, 18: "", 25: "", 1042: "", 1043: ""},
    "mysql": {15: "", 253: "", 254: ""},
}
"""Type numbers to a value of that type: bool, "char", text, bpchar and varchar of ``pg_type.dat``; varchar, var_string and
string, which is also an enum, of MySQL's ``field_types.h``. Other columns take a number as it is.
"""

_ALONE = {
    "mysql": "SELECT GET_LOCK('sentinel.locks', :seconds)",
    "postgresql": "SELECT 1 FROM pg_advisory_xact_lock(1397638220)",
    "sqlite": "BEGIN IMMEDIATE",
}
"""How to be the only sentinel that locks in a database; PostgreSQL and SQLite give it up with the transaction."""


class AccountLocker:
    """Locks and unlocks accounts in one database by one preset. Any thread may use it; each call is one transaction."""

    def __init__(
        self,
        url: str,
        preset: Preset | str = "generic",
        *,
        password_file: str | None = None,
        options: Mapping[str, Value] | None = None,
    ) -> None:
        """Connects only when it is used. Raises UserError for what is wrong with the settings."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        if self.preset.kind != "sql":
            raise UserError(f"database.url: the preset {self.preset.name} does not lock in an SQL database")
        resolved = resolve_url(url, password_file)
        self._secrets = _secrets(resolved)
        backend = resolved.get_backend_name()
        self.place = f"{backend} {resolved.database or ''}" + (f" on {resolved.host}" if resolved.host else "")
        values = option_values(self.preset, options or {})
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
            return PLACEHOLDER.sub(lambda match: names[match[1]], sql)

        self._texts = {key: fill(getattr(self.preset, key)) for key in STATEMENTS if getattr(self.preset, key)}
        self._sql = {key: text(sql) for key, sql in self._texts.items()}
        self._binds = {key: set(BIND.findall(sql)) for key, sql in self._texts.items()}
        self._types: dict[str, bool | str] = {}
        self.table = str(values.get("table", "the table"))

    @classmethod
    def from_settings(cls, settings: DatabaseSettings) -> "AccountLocker":
        """The locker of a configuration file's ``database`` section."""
        url = settings.url.get_secret_value() if settings.url is not None else ""
        return cls(url, settings.preset, password_file=settings.password_file, options=settings.options)

    def __repr__(self) -> str:
        return f"AccountLocker({self.place!r}, preset={self.preset.name!r})"

    def close(self) -> None:
        """Ends the connections."""
        self._engine.dispose()

    def lock(self, account: str, record: Record) -> LockResult:
        """Locks an account, or finds that it is locked. Raises a :class:`LockError`, and what ``record`` raises."""
        check_account(account)
        with self._connection() as db, self._alone(db):
            login, prior = self._row(db, account)
            if login != account:
                # The update will look for this spelling: it too must find one row.
                login, prior = self._row(db, login)
            locked_already = self._verify(db, login, prior)
            record(login, prior, locked_already)
            rows = 0
            if not locked_already:
                try:
                    rows = self._change(db, "lock", login, prior)
                    if not self._verify(db, login, prior):
                        # InnoDB shows a transaction the row as it was at its beginning: somebody else may have locked it since.
                        db.rollback()
                        if not self._verify(db, login, prior):
                            raise LockFailed(f"{self.table} does not show {printable(login)} as locked after the lock statement")
                        locked_already, rows = True, 0
                except LockFailed as error:
                    db.rollback()
                    raise LockFailed(f"{error}; {self._put_back(db, login, prior)}") from None
            db.commit()
        return LockResult(login, prior, locked_already, "" if locked_already else self._texts["lock"], rows)

    def unlock(self, login: str, prior: Mapping[str, Any]) -> UnlockResult:
        """Puts the prior values back. ``login`` must be the account as the table has it."""
        check_account(login)
        with self._connection() as db:
            found, _ = self._row(db, login)
            if found != login:
                raise LockRefused(f"no such account in {self.table}: {printable(login)}")
            rows = self._restore(db, login, prior)
            db.commit()
        return UnlockResult(self._texts["unlock"], rows)

    def is_locked(self, account: str) -> bool:
        """What the table says now."""
        check_account(account)
        with self._connection() as db:
            login, prior = self._row(db, account)
            return self._verify(db, login, prior)

    def list_locked(self) -> list[str]:
        """Accounts that the table shows as locked, whoever did it; the first 10,000."""
        if "list" not in self._sql:
            raise LockFailed(f"the preset {self.preset.name} has no list statement, so it cannot tell who is locked")
        with self._connection() as db, self._translated():
            if self._binds["list"]:
                self._learn_types(db.execute(self._sql["read"], {"account": ""}))
            rows = db.execute(self._sql["list"], self._parameters("list", "", {})).fetchmany(MAX_LISTED)
        return [_text(row[0]) for row in rows if row[0] is not None]

    def check(self) -> None:
        """Raises a :class:`LockError` unless the database can be reached and read as the preset needs it."""
        with self._connection() as db, self._translated():
            db.execute(self._sql["read"], {"account": ""}).fetchmany(1)

    # one step each, inside a transaction

    def _row(self, db: "Connection", account: str) -> tuple[str, dict[str, Any]]:
        with self._translated():
            result = db.execute(self._sql["read"], {"account": account})
            self._learn_types(result)
            rows = result.mappings().fetchmany(2)
            if not rows and account != account_key(account):
                # As the client wrote it there is none; most systems store logins in lower case.
                rows = db.execute(self._sql["read"], {"account": account_key(account)}).mappings().fetchmany(2)
        if len(rows) > 1:
            raise LockRefused(f"more than one row in {self.table} matches {printable(account)}")
        columns = dict(rows[0]) if rows else {}
        login = columns.pop("account", None)
        if isinstance(login, (bytes, bytearray)):
            login = _text(login)
        if not isinstance(login, str) or account_key(login) != account_key(account):
            near = f" (the database compares it equal to {printable(login)})" if isinstance(login, str) else ""
            raise LockRefused(f"no such account in {self.table}: {printable(account)}{near}")
        return login, columns

    def _verify(self, db: "Connection", login: str, prior: Mapping[str, Any]) -> bool:
        with self._translated():
            rows = db.execute(self._sql["verify"], self._parameters("verify", login, prior)).fetchmany(2)
        return len(rows) == 1 and bool(rows[0][0])

    def _learn_types(self, result: "CursorResult[Any]") -> None:
        """PostgreSQL compares no boolean with a number, and for MySQL the number 0 is no ``'0'`` of an enum. A column may
        hold NULL, so its type is asked for.
        """
        types = _TYPES.get(self._engine.dialect.name, {})
        for column in (result.cursor.description or ()) if result.cursor is not None else ():
            if column[1] in types:
                self._types[column[0]] = types[column[1]]

    def _change(self, db: "Connection", key: str, login: str, prior: Mapping[str, Any]) -> int:
        with self._translated():
            changed = db.execute(self._sql[key], self._parameters(key, login, prior)).rowcount
        if changed != 1:
            raise LockFailed(f"the {key} statement matched {changed} rows of {self.table} for {printable(login)}, not one")
        return int(changed)

    def _restore(self, db: "Connection", login: str, prior: Mapping[str, Any]) -> int:
        rows = self._change(db, "unlock", login, prior)
        _, now = self._row(db, login)
        differ = [name for name, value in prior.items() if name in now and now[name] != value]
        wrong = [name for name in differ if name not in self.preset.may_change]
        if wrong:
            db.rollback()
            raise LockFailed(f"{', '.join(wrong)} of {printable(login)} in {self.table} did not take the prior value back")
        if differ and self._verify(db, login, prior):
            db.rollback()
            raise LockFailed(f"{self.table} still shows {printable(login)} as locked after the unlock statement")
        return rows

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
            like = self.preset.options[name].like or ""
            every[name] = _as_type_of(self._types.get(like, prior.get(like)), value)
        if "scrambled" in self._binds[key]:
            every["scrambled"] = SCRAMBLED_PREFIX + secrets.token_urlsafe(32)
        return {name: value for name, value in every.items() if name in self._binds[key]}

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
                        db.exec_driver_sql(f"SET LOCAL statement_timeout = '{locks.STATEMENT_SECONDS}s'")
                yield db
            except SQLAlchemyError as error:
                raise self._lock_error(error) from None

    @contextlib.contextmanager
    def _alone(self, db: "Connection") -> Iterator[None]:
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        kind = self._engine.dialect.name
        if kind not in _ALONE:
            yield
            return
        if kind == "mysql":
            # Before the driver's own time is over: it would hang up, and the server go on to wait for a row that nobody wants any more.
            # A server without InnoDB has no such setting, and no such locks.
            with contextlib.suppress(DBAPIError):
                db.exec_driver_sql(f"SET SESSION innodb_lock_wait_timeout = {locks.STATEMENT_SECONDS // 2}")
        with self._translated():
            statement = text(_ALONE[kind])
            given = db.execute(statement, {"seconds": locks.STATEMENT_SECONDS // 2} if kind == "mysql" else {})
            alone = given.scalar() if given.returns_rows else 1
        if not alone:
            raise LockTrouble(f"{self.place}: another sentinel, or an attempt before, is still locking there")
        try:
            yield
        finally:
            if kind == "mysql":
                try:
                    db.execute(text("SELECT RELEASE_LOCK('sentinel.locks')"))
                except SQLAlchemyError:
                    # The server gives it free when the connection ends.
                    db.invalidate()

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
            if error.connection_invalidated or _passes(error.orig):
                return LockUnavailable(text)
            if _not_allowed(error.orig):
                text += f"; grant what is missing: sentinel locks presets {self.preset.name}"
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
            arguments |= {"read_timeout": locks.STATEMENT_SECONDS, "write_timeout": locks.STATEMENT_SECONDS}
        case "sqlite":
            arguments = {"timeout": CONNECT_SECONDS}
        case "postgresql":
            # Of a host that has vanished; what a living server takes its time for is limited by statement_timeout.
            arguments |= {"tcp_user_timeout": 1000 * (CONNECT_SECONDS + locks.STATEMENT_SECONDS)}
        case _:
            arguments = {}
    return {name: value for name, value in arguments.items() if name not in url.query}


_PASSING_MYSQL = (1040, 1205, 1213, 1290, 1836)
"""Too many connections, lock wait time-out, deadlock, read-only (mysqld_error.h)."""
_PASSING_POSTGRESQL = ("25006", "40001", "40P01", "53300", "55P03", "57014", "57P01", "57P03")
"""Read-only, serialization, deadlock, too many connections, lock not available, cancelled, shutting down, starting (errcodes.txt)."""


def _passes(error: BaseException | None) -> bool:
    """Whether the database says that it is a matter of time: others hold the row, or it takes no writes at present."""
    code = error.args[0] if error is not None and error.args else None
    return (
        code in _PASSING_MYSQL
        or getattr(error, "sqlstate", None) in _PASSING_POSTGRESQL
        or str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_READONLY"))
    )


def _not_allowed(error: BaseException | None) -> bool:
    """Whether a driver's error is about missing rights."""
    number = error.args[0] if error is not None and error.args else None
    state = getattr(error, "sqlstate", None)
    return number in _MYSQL_NOT_ALLOWED or state == _POSTGRESQL_NOT_ALLOWED or "readonly database" in str(number)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, (bytes, bytearray)) else str(value)


def _as_type_of(sample: Any, value: Value) -> Value:
    """``0`` for a column of booleans is false, for a column of texts is "0"; PostgreSQL converts neither by itself."""
    if isinstance(sample, bool) and value in (0, 1):
        return bool(value)
    if isinstance(sample, str) and isinstance(value, int):
        return str(int(value))
    return int(value) if isinstance(sample, int) and isinstance(value, bool) and not isinstance(sample, bool) else value
