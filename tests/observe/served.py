"""A real server on a free port, and what a daemon would have published."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from sentinel.observe.metrics import Metrics
from sentinel.observe.server import Server
from sentinel.observe.status import Snapshot, Status

LOG = "/var/log/mail.log"
RULES = (("outbound-burst-account", "critical"), ("auth-bruteforce-ip", "warning"))


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Site:
    """A running server and what it shows."""

    detections: list[dict[str, Any]] = field(default_factory=list)
    locks: list[dict[str, Any]] = field(default_factory=list)
    trouble: Exception | None = None
    """What the state database raises."""

    def __post_init__(self) -> None:
        self.status = Status(
            sources=[LOG],
            rules=RULES,
            detections=lambda limit: self._stored(self.detections[-limit:]),
            locks=lambda: self._stored(self.locks),
        )
        self.metrics = Metrics(self.status, version="1.2.3")
        self.server = Server(self.status, self.metrics, port=0, version="1.2.3", max_connections=8, request_seconds=2.0)

    def _stored(self, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        if self.trouble is not None:
            raise self.trouble
        return rows

    def ask(self, target: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: Any = None) -> Reply:
        connection = HTTPConnection(self.server.host, self.server.port, timeout=10)
        try:
            connection.request(method, target, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def send(self, data: bytes) -> bytes:
        """Raw bytes, and all that comes back until the server closes."""
        with self.connect() as connection:
            connection.sendall(data)
            got = b""
            while part := connection.recv(65536):
                got += part
            return got

    def connect(self) -> socket.socket:
        return socket.create_connection((self.server.host, self.server.port), timeout=10)

    def publish(self, **values: Any) -> None:
        self.status.publish(Snapshot(**values))
