"""A private Postfix: its own configuration, queue, data and log, with submission listeners as a test wants them.

A test makes it, says what it listens to, where mail goes and which maps there are, and then starts it::

    postfix = Postfix(folder)
    locked = postfix.write_map("locked", {}, "lmdb")
    postfix.listen("submission", smtpd_recipient_restrictions=f"check_sasl_access {locked}")
    postfix.route("remote.example", sink)

What was found the hard way, and is seen to here: a main.cf that is younger than two seconds makes every Postfix process wait,
so files are dated back; a parameter that is given twice makes postlogd warn into its own socket, and the whole instance
hangs, so parameters are a dict; Postfix listens with SO_REUSEPORT, so another instance on the port would not be an error,
and listeners are counted.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from running import until

from servers.process import LOOPBACK, Process, check_alone, check_free, folder_of, free_port, run, write
from servers.sink import Sink

RETRY_SECONDS = 3
"""How often the queue manager looks at deferred mail."""
DAEMONS = Path("/usr/lib/postfix/sbin")

_SERVICES = """
pickup     unix        n - n 60    1 pickup
cleanup    unix        n - n -     0 cleanup
qmgr       unix        n - n 300   1 qmgr
rewrite    unix        - - n -     - trivial-rewrite
bounce     unix        - - n -     0 bounce
defer      unix        - - n -     0 bounce
trace      unix        - - n -     0 bounce
verify     unix        - - n -     1 verify
flush      unix        n - n 1000? 0 flush
proxymap   unix        - - n -     - proxymap
proxywrite unix        - - n -     1 proxymap
smtp       unix        - - n -     - smtp
relay      unix        - - n -     - smtp
showq      unix        n - n -     - showq
error      unix        - - n -     - error
retry      unix        - - n -     - error
discard    unix        - - n -     - discard
anvil      unix        - - n -     1 anvil
scache     unix        - - n -     1 scache
postlog    unix-dgram  n - n -     1 postlogd
"""
_SUBMISSION = {
    "syslog_name": "postfix/submission",
    "smtpd_sasl_auth_enable": "yes",
    "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
}


class Postfix:
    """One instance in a folder that every user can enter. Parameters of main.cf may be given by name."""

    def __init__(self, folder: Path, hostname: str = "mx1.corp.example", **main: str) -> None:
        self.folder = folder
        self.etc = folder / "etc"
        self.spool = folder / "spool"
        self.maillog = folder / "maillog"
        self.ports: dict[str, int] = {}
        self._data = folder / "data"
        self._listeners: dict[str, dict[str, str]] = {}
        self._routes: dict[str, str] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for each in (self.etc, self.spool):
            each.mkdir()
        folder_of(self._data, "postfix")
        # Dovecot makes its socket here, and is started before Postfix.
        folder_of(self.spool / "private", "postfix", 0o700)
        self._main = {**self._defaults(hostname), **main}
        self._process = Process([DAEMONS / "master", "-s", "-c", self.etc], folder / "master.out")

    @property
    def auth_socket(self) -> Path:
        """Where Dovecot should answer."""
        return self.spool / "private" / "auth"

    # before the start

    def listen(self, name: str, *, proxy: bool = True, port: int | None = None, **options: str) -> int:
        """A submission service on a port of its own; the port. With ``proxy``, clients must say their address first."""
        self.ports[name] = free_port() if port is None else port
        proxied = {"smtpd_upstream_proxy_protocol": "haproxy"} if proxy else {}
        self._listeners[name] = {**_SUBMISSION, **proxied, **options}
        return self.ports[name]

    def route(self, domain: str, sink: Sink) -> None:
        """Mail to the domain goes to the sink."""
        self._routes[domain] = f"smtp:[{sink.address}]:{sink.port}"

    def write_map(self, name: str, entries: Mapping[str, str], kind: str = "lmdb") -> str:
        """A lookup table, now or while Postfix runs; what a restriction calls it (``lmdb:/…/locked``)."""
        path = write(self.etc / name, "".join(f"{key} {value}\n" for key, value in entries.items()))
        _date_back(path)
        if kind != "texthash":
            run("postmap", "-c", self._config(), f"{kind}:{path}")
        return f"{kind}:{path}"

    # life

    def start(self) -> None:
        """Returns when it listens everywhere. PortTaken when somebody else does."""
        for name, port in self.ports.items():
            check_free(LOOPBACK, port, f"postfix ({name})")
        self._write_configuration()
        run(*self.command("postfix", "check"))
        self._process.start(self._listening)

    def stop(self) -> None:
        self._process.stop()

    def reload(self) -> None:
        run(*self.command("postfix", "reload"))

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        """``postsuper -h -`` and the like for this instance, as an argument vector."""
        return [program, "-c", str(self.etc), *map(str, arguments)]

    # what it did

    def log(self) -> str:
        return self.maillog.read_text("utf-8", "replace") if self.maillog.exists() else ""

    def wait_log(self, pattern: str, after: int = 0) -> re.Match[str]:
        """Until the pattern stands in the log, behind so many characters."""
        expression = re.compile(pattern)

        def found() -> re.Match[str] | None:
            return expression.search(self.log(), after)

        match = until(found, f"{pattern} in {self.maillog}")
        assert match is not None
        return match

    def queue(self, sender: str | None = None) -> list[dict[str, Any]]:
        """What ``postqueue -j`` says, of one sender or of all."""
        messages = [json.loads(line) for line in run(*self.command("postqueue", "-j")).splitlines()]
        return [message for message in messages if sender is None or message["sender"] == sender]

    def queues(self, sender: str) -> set[str]:
        """Names of the queues in which mail of the sender is."""
        return {message["queue_name"] for message in self.queue(sender)}

    def hold(self, queue_ids: Iterable[str]) -> None:
        run(*self.command("postsuper", "-h", "-"), input="".join(f"{one}\n" for one in queue_ids))

    def release(self, queue_ids: Iterable[str]) -> None:
        run(*self.command("postsuper", "-H", "-"), input="".join(f"{one}\n" for one in queue_ids))

    def flush(self) -> None:
        """Tries all deferred mail again now."""
        run(*self.command("postqueue", "-f"))

    def empty(self) -> None:
        run(*self.command("postsuper", "-d", "ALL"))

    # configuration

    def _defaults(self, hostname: str) -> dict[str, str]:
        retry = f"{RETRY_SECONDS}s"
        return {
            "compatibility_level": "3.6",
            "queue_directory": str(self.spool),
            "data_directory": str(self._data),
            "command_directory": "/usr/sbin",
            "daemon_directory": str(DAEMONS),
            "meta_directory": "/etc/postfix",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": str(self.maillog),
            "maillog_file_prefixes": str(self.folder),
            "myhostname": hostname,
            "mydestination": "",
            "mynetworks": "",
            "local_recipient_maps": "",
            "alias_maps": "",
            "alias_database": "",
            "inet_protocols": "ipv4",
            "inet_interfaces": "all",
            "biff": "no",
            # Nothing leaves the machine, and nobody asks a name server.
            "default_transport": "error:5.4.4 no route to this domain in the test",
            "relay_transport": "error:5.4.4 no route to this domain in the test",
            "smtp_bind_address": LOOPBACK,
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "smtpd_peername_lookup": "no",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": "private/auth",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_error_sleep_time": "0s",
            "smtpd_client_event_limit_exceptions": "0.0.0.0/0",
            "in_flow_delay": "0s",
            "queue_run_delay": retry,
            "minimal_backoff_time": retry,
            "maximal_backoff_time": retry,
            "transport_retry_time": retry,
            "smtp_connect_timeout": "5s",
        }

    def _write_configuration(self) -> None:
        if self._routes:
            self._main["transport_maps"] = self.write_map("transport", self._routes, "texthash")
        services = [_SERVICES]
        for name, options in self._listeners.items():
            services.append(f"{LOOPBACK}:{self.ports[name]} inet n - n - - smtpd")
            services += [f"  -o {{ {key} = {value} }}" for key, value in options.items()]
        main = "".join(f"{key} = {value}\n" for key, value in self._main.items())
        _date_back(write(self.etc / "master.cf", "\n".join(services) + "\n"))
        _date_back(write(self.etc / "main.cf", main))

    def _config(self) -> Path:
        """The configuration for programs that run before it is written."""
        if not (self.etc / "main.cf").exists():
            self._write_configuration()
        return self.etc

    def _listening(self) -> bool:
        return all(check_alone(LOOPBACK, port, f"postfix ({name})") for name, port in self.ports.items())


def _date_back(path: Path) -> None:
    minute_ago = time.time() - 60
    os.utime(path, (minute_ago, minute_ago))


def installed() -> bool:
    return all(shutil.which(program) for program in ("postfix", "postmap", "postqueue", "postsuper")) and (DAEMONS / "master").exists()
