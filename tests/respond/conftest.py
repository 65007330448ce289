"""Real databases for the lock tests: SQLite always, MariaDB and PostgreSQL where a server answers."""

import contextlib
import os
import select
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from sentinel.detect.detection import Detection
from sentinel.state import State

MYSQL = os.environ.get("SENTINEL_TEST_MYSQL_URL", "mysql+pymysql://root@127.0.0.1:3306/test")
POSTGRESQL = os.environ.get("SENTINEL_TEST_POSTGRESQL_URL", "postgresql+psycopg://root@127.0.0.1:5432/test")

GENERIC = "CREATE TABLE mailbox (username VARCHAR(255) PRIMARY KEY, active {type})"
EXTMAIL = """CREATE TABLE mailbox (username varchar(200) NOT NULL PRIMARY KEY,
    password varchar(255) NOT NULL DEFAULT '',
    active smallint NOT NULL DEFAULT 1, disablesmtpd smallint, disablesmtp smallint){engine}"""


class Database:
    """A database of the test's own on a real server."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.kind = url.get_backend_name()
        self._engine: Engine = create_engine(url)

    @property
    def address(self) -> str:
        """The URL as the configuration would have it."""
        return self.url.render_as_string(hide_password=False)

    def run(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """One statement, committed."""
        with self._engine.begin() as db:
            result = db.execute(text(sql), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []

    def create_generic(self, *accounts: str, active: Any = 1, column: str = "INTEGER") -> None:
        """The table of the generic preset."""
        self.run(GENERIC.format(type=column))
        for account in accounts:
            self.run("INSERT INTO mailbox VALUES (:account, :active)", account=account, active=active)

    def create_extmail(self, *accounts: str, prior: int | None = None) -> None:
        """ExtMail's table, without transactions where it has none in real life."""
        self.run(EXTMAIL.format(engine=" ENGINE=MyISAM" if self.kind == "mysql" else ""))
        for account in accounts:
            self.run("INSERT INTO mailbox (username, disablesmtpd) VALUES (:account, :prior)", account=account, prior=prior)

    def rows(self) -> dict[str, Any]:
        """Account to the column that the lock changes."""
        column = "disablesmtpd" if "disablesmtpd" in self._columns() else "active"
        return {str(name): value for name, value in self.run(f"SELECT username, {column} FROM mailbox")}

    def _columns(self) -> list[str]:
        with self._engine.connect() as db:
            return list(db.execute(text("SELECT * FROM mailbox")).keys())

    def close(self) -> None:
        self._engine.dispose()


@contextlib.contextmanager
def _on_server(given: str) -> Iterator[Database]:
    server = make_url(given)
    name = f"sentinel_test_{uuid.uuid4().hex[:12]}"
    admin = create_engine(server, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    try:
        with admin.connect() as db:
            db.execute(text(f"CREATE DATABASE {name}"))
    except SQLAlchemyError as error:
        admin.dispose()
        pytest.skip(f"no {server.get_backend_name()} server answers at {server.host}:{server.port} ({type(error).__name__})")
    database = Database(server.set(database=name))
    try:
        yield database
    finally:
        database.close()
        with admin.connect() as db:
            force = " WITH (FORCE)" if server.get_backend_name() == "postgresql" else ""
            db.execute(text(f"DROP DATABASE {name}{force}"))
        admin.dispose()


def _open_database(kind: str, directory: Path) -> contextlib.AbstractContextManager[Database]:
    if kind == "sqlite":
        return contextlib.closing(Database(make_url(f"sqlite:///{directory / 'mail box?.db'}")))
    return _on_server(MYSQL if kind == "mysql" else POSTGRESQL)


@pytest.fixture(params=["sqlite", "mysql", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Each kind of database in turn."""
    with _open_database(request.param, tmp_path) as opened:
        yield opened


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with _open_database("sqlite", tmp_path) as opened:
        yield opened


@pytest.fixture
def mysql(tmp_path: Path) -> Iterator[Database]:
    with _open_database("mysql", tmp_path) as opened:
        yield opened


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[Database]:
    with _open_database("postgresql", tmp_path) as opened:
        yield opened


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / "state") as opened:
        yield opened


class Gate:
    """A TCP port that leads to a server when it is open, refuses when shut, and accepts without a word when stalled."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener: socket.socket | None = None
        self._sockets: list[socket.socket] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    def open(self, *, stalled: bool = False) -> None:
        listener = self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(listener, stalled), daemon=True).start()

    def shut(self) -> None:
        for each in [self._listener, *self._sockets]:
            if each is not None:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._listener, self._sockets = None, []

    def _accept(self, listener: socket.socket, stalled: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._sockets.append(client)
                if not stalled:
                    server = socket.create_connection(self._target)
                    self._sockets.append(server)
                    threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), one, other:
            while True:
                for ready in select.select([one, other], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (other if ready is one else one).sendall(data)


@pytest.fixture
def gate() -> Iterator[Callable[[Database], Gate]]:
    made: list[Gate] = []

    def make(database: Database) -> Gate:
        made.append(Gate(str(database.url.host), int(database.url.port or 0)))
        return made[-1]

    yield make
    for each in made:
        each.shut()


@dataclass
class Clock:
    """The wall clock of a test."""

    seconds: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


class MakeDetection:
    """Detections with the parts that policy looks at; ids count up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0

    def __call__(self, account: str | None, score: float = 10.0, rule: str = "outbound-burst-account", *, age: float = 0.0) -> Detection:
        self._count += 1
        return Detection(
            id=f"d{self._count:04}",
            rule=rule,
            severity="critical",
            score=score,
            time=int((self._clock() - age) * 1e6),
            subject={"sasl_username": account} if account is not None else {"client_ip": "203.0.113.66"},
            window=60.0,
            measure="sum(nrcpt)",
            value=500.0,
            threshold=100.0,
        )


@pytest.fixture
def detect(clock: Clock) -> MakeDetection:
    return MakeDetection(clock)
