"""Real mail servers of a test's own: Postfix, Dovecot, MariaDB and PostgreSQL as private instances, a remote server to deliver to, and a client.

All of it listens on free high ports of 127.0.0.x and lives in one folder (:func:`workspace`). Nothing of the machine's own
servers is read or touched. What starts a process has ``start()`` and ``stop()``, or is a context manager that does both.

Limits: the servers want root (Postfix's master and Dovecot run in no other way), and Dovecot 2.3, whose
configuration 2.4 no longer reads.
"""

from servers.client import Client, Reply
from servers.databases import MariaDb, PostgreSql, Server
from servers.dovecot import Dovecot, Sql
from servers.postfix import Postfix
from servers.process import PortTaken, Process, ServerFailed, free_port, processes_in, workspace
from servers.sink import Sink

__all__ = [
    "Client",
    "Dovecot",
    "MariaDb",
    "PortTaken",
    "Postfix",
    "PostgreSql",
    "Process",
    "Reply",
    "Server",
    "ServerFailed",
    "Sink",
    "Sql",
    "free_port",
    "processes_in",
    "workspace",
]
