"""A client of the submission service that looks, in the log, as if it came from anywhere: it says its address in the PROXY protocol.

Every method returns the server's decisive reply, so that a refusal is a value to compare and not an exception to catch.
"""

import base64
import smtplib
import socket
from collections.abc import Sequence
from typing import NamedTuple

SECONDS = 30.0


class Reply(NamedTuple):
    """What the server said; code 0 when it closed the connection instead."""

    code: int
    text: str

    @property
    def accepted(self) -> bool:
        return 200 <= self.code < 400

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.code else self.text


CLOSED = Reply(0, "connection closed")


class _Proxied(smtplib.SMTP):
    def __init__(self, address: str, port: int, client_ip: str | None, seconds: float) -> None:
        self._client_ip = client_ip
        super().__init__(address, port, local_hostname="client.example", timeout=seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = socket.create_connection((host, port), timeout)
        if self._client_ip is not None:
            connection.sendall(f"PROXY TCP4 {self._client_ip} 127.0.0.1 {connection.getsockname()[1]} {port}\r\n".encode())
        return connection


class Client:
    """One SMTP session; it stays open until :meth:`close`."""

    def __init__(self, port: int, *, address: str = "127.0.0.1", client_ip: str | None = "198.51.100.7", seconds: float = SECONDS) -> None:
        """``client_ip`` is what it says in the PROXY protocol; None where the listener wants none. Raises what smtplib does when
        nobody answers within ``seconds``.
        """
        self._smtp = _Proxied(address, port, client_ip, seconds)
        self._smtp.ehlo()

    def login(self, account: str, password: str) -> Reply:
        """AUTH PLAIN, once: smtplib's own login would try again in another way and count as two failures."""
        return self._say("AUTH PLAIN " + base64.b64encode(f"\0{account}\0{password}".encode()).decode())

    def send(self, sender: str, recipients: Sequence[str], text: str = "Subject: hello\n\nhello\n") -> Reply:
        """One message to all recipients that the server takes. The first refusal when it takes none, or refuses at another stage."""
        mail = self._say(f"MAIL FROM:<{sender}>")
        if not mail.accepted:
            return mail
        replies = [self._say(f"RCPT TO:<{recipient}>") for recipient in recipients]
        if not any(reply.accepted for reply in replies):
            self._say("RSET")
            return replies[0]
        try:
            return self._reply(self._smtp.data(text.replace("\n", "\r\n")))
        except smtplib.SMTPDataError as error:
            return self._reply((error.smtp_code, error.smtp_error))
        except (smtplib.SMTPServerDisconnected, OSError):
            return CLOSED

    def noop(self) -> Reply:
        return self._say("NOOP")

    def close(self) -> None:
        self._say("QUIT")
        self._smtp.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, command: str) -> Reply:
        try:
            return self._reply(self._smtp.docmd(command))
        except (smtplib.SMTPServerDisconnected, OSError):
            return CLOSED

    @staticmethod
    def _reply(answer: tuple[int, bytes | str]) -> Reply:
        code, said = answer
        return Reply(code, said.decode("utf-8", "replace") if isinstance(said, bytes) else said) if code > 0 else CLOSED
