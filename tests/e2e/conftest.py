"""Real servers for the tests in this folder, made once for a module.

Where one cannot run, its tests are skipped with the reason; with SENTINEL_TESTS_NEED_SERVERS=1 they fail instead.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need
from servers import MariaDb, PostgreSql, Sink, databases, dovecot, postfix, workspace


@pytest.fixture(scope="session")
def root() -> None:
    need(os.geteuid() == 0, "private mail servers can be started by root only")


@pytest.fixture(scope="session")
def mail_servers(root: None) -> None:
    """Postfix and Dovecot can run here."""
    need(postfix.installed(), "Postfix is not installed (apt install postfix postfix-lmdb)")
    need(dovecot.installed(), "Dovecot is not installed (apt install dovecot-core)")
    need(dovecot.version() < (2, 4), "Dovecot is 2.4 or newer, and these tests write the configuration of 2.3")


@pytest.fixture(scope="session")
def imap_server(mail_servers: None) -> None:
    need(dovecot.imap_installed(), "Dovecot has no IMAP (apt install dovecot-imapd)")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """For everything that a module starts; whatever is still running in it at the end is a failure."""
    with workspace() as made:
        yield made


@pytest.fixture(scope="module")
def sink(folder: Path) -> Iterator[Sink]:
    """The remote server that mail is delivered to."""
    with Sink() as started:
        yield started


@pytest.fixture(scope="module")
def mariadb(root: None, folder: Path) -> Iterator[MariaDb]:
    need(databases.mariadb_installed(), "MariaDB is not installed (apt install mariadb-server)")
    server = MariaDb(folder / "mariadb")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def postgresql(root: None, folder: Path) -> Iterator[PostgreSql]:
    need(databases.postgresql_installed(), "PostgreSQL is not installed (apt install postgresql)")
    server = PostgreSql(folder / "postgresql")
    try:
        server.start()
        yield server
    finally:
        server.stop()
