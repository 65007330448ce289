"""Private MariaDB and PostgreSQL, each with its own data, socket and loopback port. They read no configuration of the machine's.

Both can be stopped, paused (:meth:`Process.pause`: open connections get no answer) and started again with the same data.
Nothing is forced to disk: the data need to outlive the process, not the machine.
"""

import shutil
import signal
import time
from abc import ABC, abstractmethod
from contextlib import closing
from pathlib import Path
from typing import Any

from servers.dovecot import Sql
from servers.process import LOOPBACK, Process, check_alone, check_free, folder_of, free_port, run, write


class Server(ABC):
    """What the two have in common."""

    kind: str
    """As SQLAlchemy calls it."""
    admin: str
    """Who may do everything, from this machine and without a password."""
    driver: str
    """As Dovecot calls it."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder = folder_of(folder, user)
        self.port = free_port()
        self.data = folder / "data"
        self.process = self._process()

    @abstractmethod
    def _process(self) -> Process: ...

    @abstractmethod
    def _initialise(self) -> None:
        """Makes the data directory."""

    @abstractmethod
    def _connect(self, database: str) -> Any:
        """A DB-API connection as the administrator, which commits by itself."""

    @abstractmethod
    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        """For SQLAlchemy, over TCP."""

    def start(self) -> None:
        """Returns when it answers; the data directory is made the first time."""
        check_free(LOOPBACK, self.port, self.kind)
        if not self.data.exists():
            self._initialise()
        self.process.start(self._answers)

    def stop(self) -> None:
        self.process.stop()

    def run(self, sql: str, database: str = "", parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """One statement or, without parameters, several; the rows of the last one that has any."""
        with closing(self._connect(database)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(sql, parameters or None)
            rows: list[tuple[Any, ...]] = []
            while True:
                if cursor.description is not None:
                    rows = list(cursor.fetchall())
                if not cursor.nextset():
                    return rows

    def sql(self, database: str, user: str, password: str, password_query: str) -> Sql:
        """How Dovecot asks for passwords here."""
        connect = f"host={LOOPBACK} port={self.port} dbname={database} user={user} password={password}"
        return Sql(self.driver, connect, password_query)

    def _answers(self) -> bool:
        if not check_alone(LOOPBACK, self.port, self.kind):
            return False
        try:
            return bool(self.run("SELECT 1"))
        except Exception:
            # Each driver has its own words for "not yet"; whoever waits has a deadline, and then shows the server's log.
            time.sleep(0.01)
            return False


class MariaDb(Server):
    kind = "mysql"
    admin = "root"
    driver = "mysql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "mysql")

    @property
    def socket(self) -> Path:
        return self.folder / "m.sock"

    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        return f"mysql+pymysql://{_login(user or self.admin, password)}@{LOOPBACK}:{self.port}/{database}"

    def _process(self) -> Process:
        options = {
            "user": "mysql",
            "datadir": self.data,
            "socket": self.socket,
            "port": self.port,
            "bind-address": LOOPBACK,
            "pid-file": self.folder / "m.pid",
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-log-file-size": "4M",
            "innodb-buffer-pool-size": "16M",
            "performance-schema": "OFF",
        }
        command = ["mariadbd", "--no-defaults", "--skip-log-bin", "--skip-name-resolve"]
        return Process(command + [f"--{name}={value}" for name, value in options.items()], self.folder / "mariadbd.log")

    def _initialise(self) -> None:
        run(
            "mariadb-install-db",
            "--no-defaults",
            f"--datadir={self.data}",
            "--user=mysql",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=4M",
        )

    def _connect(self, database: str) -> Any:
        import pymysql
        from pymysql.constants import CLIENT

        return pymysql.connect(
            unix_socket=str(self.socket),
            user=self.admin,
            database=database or None,
            autocommit=True,
            connect_timeout=5,
            client_flag=CLIENT.MULTI_STATEMENTS,
        )


class PostgreSql(Server):
    kind = "postgresql"
    admin = "postgres"
    driver = "pgsql"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "postgres")

    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        return f"postgresql+psycopg://{_login(user or self.admin, password)}@{LOOPBACK}:{self.port}/{database}"

    def _process(self) -> Process:
        settings = {
            "listen_addresses": LOOPBACK,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": 50,
        }
        command: list[str | Path] = [_postgresql_program("postgres"), "-D", self.data, "-p", str(self.port), "-k", self.folder]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        # SIGINT is its fast shutdown; at SIGTERM it would wait for its clients.
        return Process(
            command,
            self.folder / "postgresql.log",
            stop_signal=signal.SIGINT,
            user="postgres",
            environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )

    def _initialise(self) -> None:
        program = _postgresql_program("initdb")
        run(program, "-D", self.data, "-U", self.admin, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", user="postgres")
        rules = ["local all postgres trust", "host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256"]
        write(self.data / "pg_hba.conf", "\n".join(rules) + "\n", mode=0o600, owner="postgres:postgres")

    def _connect(self, database: str) -> Any:
        import psycopg

        return psycopg.connect(
            host=str(self.folder), port=self.port, user=self.admin, dbname=database or "postgres", autocommit=True, connect_timeout=5
        )


def _login(user: str, password: str | None) -> str:
    return user if password is None else f"{user}:{password}"


def _postgresql_program(name: str) -> Path:
    """Debian keeps the server's programs by version, outside of PATH."""
    versions = [path for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}") if path.parts[4].isdigit()]
    found = max(versions, key=lambda path: int(path.parts[4]), default=None)
    on_path = shutil.which(name)
    if found is None and on_path is None:
        raise FileNotFoundError(f"no {name}: PostgreSQL's server is not installed")
    return found or Path(str(on_path))


def mariadb_installed() -> bool:
    return bool(shutil.which("mariadbd") and shutil.which("mariadb-install-db"))


def postgresql_installed() -> bool:
    try:
        return bool(_postgresql_program("postgres") and _postgresql_program("initdb"))
    except FileNotFoundError:
        return False
