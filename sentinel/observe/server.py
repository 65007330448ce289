"""The HTTP endpoints: metrics, health, detections, locks and the status page. Read-only, GET and HEAD.

One thread accepts; each connection is one request in a thread of its own, and then closed. Everything is bounded: the
connections at a time, the seconds and bytes until a request is complete, the seconds until its answer is taken. When
all connections are in use, the one that has been silent longest makes room once it has had its time to speak, so
clients that connect and say nothing keep nobody out, and many at once only wait for each other. Handlers read the
latest snapshot and the state database, never the engine.

On a loopback address only requests that ask for this host by address or as localhost are answered: otherwise any web
page that an admin visits could read the endpoints through a host name that resolves to 127.0.0.1.
"""

import errno
import gzip
import io
import ipaddress
import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from sentinel.errors import UserError
from sentinel.observe.metrics import Metrics
from sentinel.observe.page import CONTENT_SECURITY_POLICY, render
from sentinel.observe.status import Status

__all__ = ["DEFAULT_HOST", "DEFAULT_PORT", "Server"]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9154
MAX_CONNECTIONS = 32
REQUEST_SECONDS = 5.0
"""Until a request must have come in completely."""
ANSWER_SECONDS = 10.0
"""Until its answer must have been taken."""
PATIENCE_SECONDS = 0.3
"""That a connection may be silent even when others wait for its place."""
MAX_REQUEST_BYTES = 16 << 10
MAX_REQUEST_LINE_BYTES = 4 << 10
DEFAULT_DETECTIONS = 100
MAX_DETECTIONS = 1000

_BACKLOG = 128
_ACCEPT_SECONDS = 1.0
_STOP_SECONDS = 5.0
_GZIP_FROM_BYTES = 1024
_TEXT = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    type: str = _TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


class _Headers(Protocol):
    def get(self, name: str, /) -> str | None: ...


def _say(status: HTTPStatus, sentence: str, **headers: str) -> _Answer:
    return _Answer(status, f"{sentence}\n".encode("utf-8", "replace"), headers=headers)


class _Refused(Exception):
    """The answer to a request that cannot be served."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.answer = _say(status, sentence)


class Server:
    """Binds at once, serves between :meth:`start` and :meth:`stop`. Port 0 takes a free one; ``port`` says which.

    Raises UserError when it cannot listen there.
    """

    def __init__(
        self,
        status: Status,
        metrics: Metrics,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        version: str,
        max_connections: int = MAX_CONNECTIONS,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self.request_seconds = request_seconds
        self._status = status
        self._metrics = metrics
        self._version = version
        self._socket = _listen(host, port)
        address = self._socket.getsockname()
        self.host: str = address[0]
        self.port: int = address[1]
        self._names = {host.lower()}
        self._loopback = _is_loopback(self.host)
        self._free = threading.Semaphore(max_connections)
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, float] = {}
        """Connections whose request has not come in completely, oldest first, and when (monotonic) they may be sent away."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._routes: dict[str, Callable[[_Headers, str], _Answer]] = {
            "/": self._page,
            "/metrics": self._exposition,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/api/detections": self._detections,
            "/api/locks": self._locks,
        }

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where to look, such as ``http://127.0.0.1:9154/``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def start(self) -> None:
        """Begins to answer. What connected since the socket was bound has been waiting and is served too."""
        self._thread = threading.Thread(target=self._accept, name="sentinel-http", daemon=True)
        self._thread.start()
        # So that the first scrape does not pay for the import, and neither does the start.
        threading.Thread(target=lambda: self._metrics.registry, name="sentinel-metrics", daemon=True).start()

    def stop(self) -> None:
        """Gives the port free. Requests that have come in are still answered if they take no long time."""
        self._stopping.set()
        _shut(self._socket)
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            self._thread = None
        self._socket.close()
        with self._lock:
            for connection in self._waiting:
                _shut(connection)

    # connections

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, address = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopping.is_set():
                    _log.warning("cannot accept an HTTP connection: %s; trying again", error.strerror or error)
                    self._stopping.wait(_ACCEPT_SECONDS)
                continue
            self._admit(connection, address)

    def _admit(self, connection: socket.socket, address: Any) -> None:
        if not self._free.acquire(blocking=False):
            # Bounded, because every connection is.
            while not self._free.acquire(timeout=self._make_room()):
                pass
        with self._lock:
            self._waiting[connection] = time.monotonic() + PATIENCE_SECONDS
        try:
            threading.Thread(target=self._converse, args=(connection, address), name="sentinel-http-request", daemon=True).start()
        except RuntimeError as error:
            _log.warning("cannot answer an HTTP request: %s", error)
            self._leave(connection)

    def _make_room(self) -> float:
        """Sends away the connection that has been silent longest, if there is one; the seconds until it is worth another try."""
        now = time.monotonic()
        with self._lock:
            for connection, patience_ends in self._waiting.items():
                if patience_ends > now:
                    return patience_ends - now
                if not _has_spoken(connection):
                    del self._waiting[connection]
                    _shut(connection)
                    break
        return PATIENCE_SECONDS

    def _converse(self, connection: socket.socket, address: Any) -> None:
        try:
            _Handler(connection, address, self)  # type: ignore[arg-type]
        except (OSError, ValueError) as error:
            _log.debug("HTTP connection lost: %s", error)
        except Exception:
            _log.exception("unexpected error in an HTTP connection")
        finally:
            self._leave(connection)

    def _leave(self, connection: socket.socket) -> None:
        self.arrived(connection)
        _shut(connection, socket.SHUT_WR)
        connection.close()
        self._free.release()

    def arrived(self, connection: socket.socket) -> None:
        """The request is complete; from now on the connection makes room for nobody."""
        with self._lock:
            self._waiting.pop(connection, None)

    # answers

    def answer(self, method: str, target: str, headers: _Headers) -> _Answer:
        """The answer to a request; never raises."""
        try:
            if method not in ("GET", "HEAD"):
                return _say(HTTPStatus.METHOD_NOT_ALLOWED, "this is read-only: only GET and HEAD", Allow="GET, HEAD")
            self._check_host(headers.get("Host"))
            try:
                path, query = urlsplit(target)[2:4]
            except ValueError:
                raise _Refused(HTTPStatus.BAD_REQUEST, "the request's address cannot be understood") from None
            route = self._routes.get(path)
            if route is None:
                known = ", ".join(self._routes)
                return _say(HTTPStatus.NOT_FOUND, f"there is no such page; there are {known}")
            return route(headers, query)
        except _Refused as refused:
            return refused.answer
        except UserError as error:
            return _say(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except Exception:
            _log.exception("unexpected error while answering an HTTP request")
            return _say(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the daemon's log says more")

    def _check_host(self, host: str | None) -> None:
        if not self._loopback or not host:
            return
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        name = name.rstrip(".")
        if name in self._names or name == "localhost" or name.endswith(".localhost"):
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise _Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                "sentinel listens on this host alone and was asked for under another name; ask for localhost "
                "(a reverse proxy: let it send Host: localhost)",
            ) from None

    def _page(self, headers: _Headers, query: str) -> _Answer:
        body = render(self._status, self._version, time.time()).encode("utf-8", "replace")
        return _Answer(HTTPStatus.OK, body, "text/html; charset=utf-8")

    def _exposition(self, headers: _Headers, query: str) -> _Answer:
        body, content_type = self._metrics.render(headers.get("Accept") or "")
        return _Answer(HTTPStatus.OK, body, content_type)

    def _health(self, headers: _Headers, query: str) -> _Answer:
        return _verdict(*self._status.alive())

    def _readiness(self, headers: _Headers, query: str) -> _Answer:
        return _verdict(*self._status.readiness())

    def _detections(self, headers: _Headers, query: str) -> _Answer:
        return _json(list(self._status.detections(_limit(query))))

    def _locks(self, headers: _Headers, query: str) -> _Answer:
        return _json(list(self._status.locks()))


class _Handler(BaseHTTPRequestHandler):
    """One request on one connection: read within the limits, answered by the server, closed."""

    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"
    """Of a request line that names none, or cannot be read: its answer has a head nevertheless."""

    def setup(self) -> None:
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        deadline = time.monotonic() + self.server.request_seconds
        self.rfile = io.BufferedReader(_Limited(self.connection, deadline))
        self.wfile = _Sender(self.connection)  # type: ignore[assignment]

    def handle(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(MAX_REQUEST_LINE_BYTES + 1)
            if not self.raw_requestline:
                return
            if len(self.raw_requestline) > MAX_REQUEST_LINE_BYTES:
                self._before_parsing()
                self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            elif self.parse_request():
                self.server.arrived(self.connection)
                self._send(self.server.answer(self.command, self.path, self.headers))
                if not ("Content-Length" in self.headers or "Transfer-Encoding" in self.headers):
                    return
        except _TooLong:
            self._before_parsing()
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except TimeoutError:
            _log.debug("an HTTP client took too long")
            return
        self._drain()

    def finish(self) -> None:
        self.rfile.close()

    def _before_parsing(self) -> None:
        self.requestline, self.request_version, self.command = "", "HTTP/1.1", ""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Errors of the protocol, found by the base class or here, as a sentence and not as its HTML page."""
        self.server.arrived(self.connection)
        status = HTTPStatus(code)
        self._send(_say(status, message or status.phrase))

    def _send(self, answer: _Answer) -> None:
        body = answer.body
        self.send_response_only(answer.status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", answer.type)
        self.send_header("Vary", "Accept, Accept-Encoding")
        if len(body) >= _GZIP_FROM_BYTES and _wants_gzip(getattr(self, "headers", {}).get("Accept-Encoding", "")):
            body = gzip.compress(body, 6, mtime=0)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drain(self) -> None:
        """Lets the client read the answer before the connection is closed.

        Closing with bytes of the request unread resets the connection, and what was sent is lost on its way.
        """
        _shut(self.connection, socket.SHUT_WR)
        self.connection.settimeout(0.5)
        left = 4 * MAX_REQUEST_BYTES
        deadline = time.monotonic() + 1.0
        while left > 0 and time.monotonic() < deadline:
            try:
                got = len(self.connection.recv(left))
            except OSError:
                return
            if not got:
                return
            left -= got

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: whoever asks for a page is not news, and the text would be theirs."""


class _TooLong(Exception):
    """More bytes than a request may have."""


class _Limited(io.RawIOBase):
    """A connection's bytes, until a deadline and up to a number."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._left = MAX_REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise _TooLong
        self._connection.settimeout(seconds)
        got = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= got
        return got


class _Sender(io.RawIOBase):
    """Writes all or raises, within the time for an answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._connection.settimeout(ANSWER_SECONDS)
        self._connection.sendall(data)
        return len(data)


def _listen(host: str, port: int) -> socket.socket:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise UserError(f"cannot listen on {where}: a port is a number from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(
            f'cannot listen on {where}: there is no host "{host}"; use an address of this machine, such as {DEFAULT_HOST}:{DEFAULT_PORT}'
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address[0] == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.settimeout(_ACCEPT_SECONDS)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {where}: {_reason(error)}") from None
    return listener


def _reason(error: OSError) -> str:
    remedies = {
        errno.EADDRINUSE: "the port is in use, perhaps by another sentinel; stop that, or choose another with --listen",
        errno.EACCES: "not permitted to this user; choose a port above 1023 with --listen",
        errno.EADDRNOTAVAIL: f"this machine has no such address; use one that it has, such as {DEFAULT_HOST}",
    }
    return remedies.get(error.errno or 0, str(error.strerror or error))


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _has_spoken(connection: socket.socket) -> bool:
    """Whether bytes wait to be read: the connection's own thread has yet to get its turn."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _shut(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    try:
        connection.shutdown(how)
    except OSError as error:
        _log.debug("a connection was gone already: %s", error)


def _verdict(good: bool, sentence: str) -> _Answer:
    return _say(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, sentence)


def _json(value: object) -> _Answer:
    return _Answer(HTTPStatus.OK, json.dumps(value, indent=1).encode("ascii") + b"\n", "application/json")


def _limit(query: str) -> int:
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=20).get("limit", [str(DEFAULT_DETECTIONS)])
    except ValueError:
        raise _Refused(HTTPStatus.BAD_REQUEST, "too many parameters; there is only limit") from None
    text = given[0]
    if len(given) == 1 and text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= MAX_DETECTIONS:
        return int(text)
    raise _Refused(
        HTTPStatus.BAD_REQUEST,
        f"limit is a number from 1 to {MAX_DETECTIONS}, such as /api/detections?limit={DEFAULT_DETECTIONS}",
    )


def _wants_gzip(accept_encoding: str) -> bool:
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            weight = parameters.replace(" ", "")
            return not (weight.startswith("q=0") and not weight.removeprefix("q=0").strip(".0"))
    return False
