"""A real Postfix whose mail stays in the queue: messages of any login and any client address are put there within a millisecond or two.

XCLIENT gives a session the login and the address that a test wants; the transport is deferred, so nothing is ever tried.
"""

import os
import smtplib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from servers import Postfix, workspace
from servers import postfix as servers_postfix

_MAIN = {
    "default_transport": "smtp:[127.0.0.1]:1",
    "relay_transport": "smtp:[127.0.0.1]:1",
    "defer_transports": "smtp",
    "inet_protocols": "all",
    "mynetworks": "0.0.0.0/0, [::]/0",
    "smtpd_authorized_xclient_hosts": "0.0.0.0/0, [::]/0",
    "smtpd_authorized_xforward_hosts": "0.0.0.0/0, [::]/0",
    "smtpd_relay_restrictions": "permit_mynetworks, reject",
    "smtpd_client_connection_count_limit": "0",
    # No look at the deferred queue while a test counts.
    "queue_run_delay": "1000s",
    "minimal_backoff_time": "1000s",
    "maximal_backoff_time": "1000s",
}


def xtext(text: str) -> str:
    """RFC 3461, section 4."""
    return "".join(chr(byte) if 33 <= byte <= 126 and byte not in b"+=" else f"+{byte:02X}" for byte in text.encode())


class Queued(Postfix):
    """A Postfix that accepts everything and delivers nothing."""

    def __init__(self, folder: Path, **main: str) -> None:
        super().__init__(folder, **{**_MAIN, **main})
        self.listen("smtp", proxy=False, smtpd_sasl_auth_enable="no", smtpd_relay_restrictions=_MAIN["smtpd_relay_restrictions"])

    def put(
        self,
        login: str | None,
        client_ip: str,
        count: int = 1,
        *,
        sender: str = "someone@example.net",
        recipients: Sequence[str] = ("friend@example.org",),
        helo: str = "client.example",
        text: str = "Subject: hello\r\n\r\nhello\r\n",
        xforward: str | None = None,
    ) -> list[str]:
        """Messages of one session; their queue IDs. In the sender, ``{}`` becomes the message's number."""
        ids = []
        with smtplib.SMTP("127.0.0.1", self.ports["smtp"], timeout=30) as session:
            session.ehlo("test")
            address = f"IPV6:{client_ip}" if ":" in client_ip else client_ip
            login = "[UNAVAILABLE]" if login is None else xtext(login)
            _accepted(session.docmd("XCLIENT", f"NAME=[UNAVAILABLE] ADDR={address} LOGIN={login}"))
            _accepted(session.docmd("EHLO", helo))
            for number in range(count):
                if xforward is not None:
                    _accepted(session.docmd("XFORWARD", f"ADDR={xforward}"))
                _accepted(session.docmd("MAIL", f"FROM:<{sender.replace('{}', str(number))}>"))
                for recipient in recipients:
                    _accepted(session.docmd("RCPT", f"TO:<{recipient}>"))
                ids.append(_accepted(session.data(text)).split()[-1])
        return ids

    def wait_deferred(self, count: int) -> None:
        """Until so many messages have come to rest: those that are being delivered change their queue by themselves."""
        from running import until

        until(lambda: [each["queue_name"] for each in self.queue()].count("deferred") >= count, f"{count} messages are deferred")

    def by_queue(self) -> dict[str, str]:
        """Queue ID → the queue that it is in."""
        return {each["queue_id"]: each["queue_name"] for each in self.queue()}

    def change(self, **main: str) -> None:
        """Other parameters, from the next session on."""
        self._main.update(main)
        self._write_configuration()
        self.reload()


def _accepted(answer: tuple[int, bytes]) -> str:
    code, said = answer
    assert 200 <= code < 400, answer
    return said.decode("utf-8", "replace")


@contextmanager
def queued_postfix(**main: str) -> Iterator[Queued]:
    """A running one; the test is skipped where it can't be."""
    missing = None
    if os.geteuid() != 0:
        missing = "a private Postfix can be started by root only"
    elif not servers_postfix.installed():
        missing = "Postfix is not installed (apt install postfix postfix-lmdb)"
    if missing is not None:
        if os.environ.get("SENTINEL_TESTS_NEED_SERVERS") == "1":
            pytest.fail(f"SENTINEL_TESTS_NEED_SERVERS=1, and {missing}")
        pytest.skip(missing)
    with workspace() as folder:
        postfix = Queued(folder / "postfix", **main)
        try:
            postfix.start()
            yield postfix
        finally:
            with suppress(AssertionError):
                postfix.stop()
