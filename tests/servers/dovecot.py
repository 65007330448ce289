"""A private Dovecot: it answers Postfix's AUTH, from a passwd-file or from a database, and IMAP where a session must be there to kick.

The configuration is that of Dovecot 2.3.
"""

import os
import re
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servers.process import LOOPBACK, Process, check_alone, check_free, folder_of, free_port, run, write

_CACHE = """
auth_cache_size = 10M
auth_cache_ttl = 1 hour
auth_cache_negative_ttl = 1 hour
"""
_IMAP = """
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""
_CONFIGURATION = """
base_dir = {folder}/run
state_dir = {folder}/run
listen = 127.0.0.1
protocols = {protocols}
log_path = {folder}/dovecot.log
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_verbose = yes
# A refusal still takes half a second: Dovecot answers refused logins in ticks of 500 ms. What goes is its longer delay, and the
# penalty for an address with many of them.
auth_failure_delay = 0
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
mail_location = maildir:~/Maildir
first_valid_uid = 1
passdb {{
  {passdb}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={folder}/mail/%u
}}
service auth {{
  {listener}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""
_LISTENER = """unix_listener {path} {{
    mode = 0660
    user = postfix
    group = postfix
  }}"""


@dataclass(frozen=True, slots=True)
class Sql:
    """Accounts in a database."""

    driver: str
    """``mysql``, ``pgsql`` or ``sqlite``"""
    connect: str
    """``host=127.0.0.1 port=… dbname=… user=… password=…``, or the path of an SQLite file."""
    password_query: str
    """Dovecot's own; a row means that the login is right when the password is."""


class Dovecot:
    """One instance; accounts in its passwd-file (:meth:`set_users`) unless a database is given.

    The authentication for Postfix needs ``auth_socket``; an IMAP listener is there when asked for, at ``imap_port``.
    """

    def __init__(
        self,
        folder: Path,
        auth_socket: Path | None = None,
        *,
        sql: Sql | None = None,
        users: Mapping[str, str] | None = None,
        auth_cache: bool = False,
        imap: bool = False,
        extra: str = "",
    ) -> None:
        self.folder = folder
        self.configuration = folder / "dovecot.conf"
        self.passwd_file = folder / "users"
        self.imap_port = free_port() if imap else 0
        self._auth_socket = auth_socket
        for each in (folder, folder / "run"):
            each.mkdir(parents=True, exist_ok=True)
        folder_of(folder / "mail", "mail", 0o700)
        if sql is None:
            self.set_users(users or {})
        write(self.configuration, self._configuration(sql) + (_CACHE if auth_cache else "") + extra, mode=0o600)
        self._process = Process(["dovecot", "-F", "-c", self.configuration], folder / "dovecot.out")

    def set_users(self, users: Mapping[str, str]) -> None:
        """Account to password, as the whole passwd-file; Dovecot sees it within a second or two."""
        lines = "".join(f"{account}:{{PLAIN}}{password}::::::\n" for account, password in users.items())
        before = self.passwd_file.stat().st_mtime if self.passwd_file.exists() else 0.0
        write(self.passwd_file, lines, mode=0o640, owner="root:dovecot")
        # Dovecot looks once a second whether the file's time, in whole seconds, or its size is another.
        changed = max(time.time(), before + 1)
        os.utime(self.passwd_file, (changed, changed))

    def start(self) -> None:
        """Returns when logins are answered."""
        if self.imap_port:
            check_free(LOOPBACK, self.imap_port, "dovecot (imap)")
        self._process.start(self._answers)

    def stop(self) -> None:
        # Asked to end, it takes a second; it has nothing that must be saved.
        self._process.kill()

    def doveadm(self, *arguments: str) -> list[str]:
        """``doveadm`` for this instance, as an argument vector."""
        return ["doveadm", "-c", str(self.configuration), *arguments]

    def flush_auth_cache(self, *accounts: str) -> str:
        return run(*self.doveadm("auth", "cache", "flush", *accounts))

    def kick(self, account: str) -> str:
        return run(*self.doveadm("kick", account))

    def sessions(self, account: str) -> int:
        """Open IMAP sessions."""
        lines = run(*self.doveadm("who", "-1", account)).splitlines()
        return sum(line.split()[0] == account for line in lines if line.strip())

    def log(self) -> str:
        path = self.folder / "dovecot.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def _configuration(self, sql: Sql | None) -> str:
        if sql is None:
            passdb = f"driver = passwd-file\n  args = username_format=%u {self.passwd_file}"
        else:
            query = f"driver = {sql.driver}\nconnect = {sql.connect}\ndefault_pass_scheme = PLAIN\npassword_query = {sql.password_query}\n"
            passdb = f"driver = sql\n  args = {write(self.folder / 'sql.conf', query, mode=0o600)}"
        text = _CONFIGURATION.format(
            folder=self.folder,
            protocols="imap" if self.imap_port else "none",
            passdb=passdb,
            listener=_LISTENER.format(path=self._auth_socket) if self._auth_socket else "",
        )
        return text + (_IMAP.format(port=self.imap_port) if self.imap_port else "")

    def _answers(self) -> bool:
        if self._auth_socket is not None and not _accepts(self._auth_socket):
            return False
        return not self.imap_port or check_alone(LOOPBACK, self.imap_port, "dovecot (imap)")


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def installed() -> bool:
    return bool(shutil.which("dovecot") and shutil.which("doveadm"))


def imap_installed() -> bool:
    return installed() and any(Path(folder, "imap").exists() for folder in ("/usr/lib/dovecot", "/usr/libexec/dovecot"))


def sqlite_installed() -> bool:
    return Path("/usr/lib/dovecot/modules/auth/libdriver_sqlite.so").exists()


def version() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", run("dovecot", "--version"))
    return (int(found[1]), int(found[2])) if found else (0, 0)
