"""Real servers that take notices, each on a port of its own: HTTP with programmable answers, SMTP with or without TLS."""

import contextlib
import http.server
import re
import socket
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Answer = Callable[["Web", http.server.BaseHTTPRequestHandler], None]


@dataclass
class Web:
    """An HTTP server; ``answers`` are used up one after the other, then it is 200."""

    requests: list[Request] = field(default_factory=list)
    answers: list[int | Answer] = field(default_factory=list)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    web: Web

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.web.requests.append(Request(self.command, self.path, dict(self.headers.items()), body))
        answer = self.web.answers.pop(0) if self.web.answers else 200
        if callable(answer):
            answer(self.web, self)
            return
        self.send_response(answer)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_PUT = do_GET = _any  # noqa: N815 - so http.server calls them

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextlib.contextmanager
def web(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    """An HTTP server as long as the block lasts."""
    received = Web()
    handler = type("Handler", (_Handler,), {"web": received})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are what is tested
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        received.scheme = "https"
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        received.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def hang(received: Web, _: http.server.BaseHTTPRequestHandler) -> None:
    """Never answers, as long as the server lives."""
    received.closing.wait(30)


def drip(received: Web, handler: http.server.BaseHTTPRequestHandler) -> None:
    """An answer of which a byte comes every tenth of a second: no single wait is long."""
    for byte in b"HTTP/1.0 200 OK\r\nX-Long: " + b"x" * 10_000:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if received.closing.wait(0.1):
            return


def hang_up(_: Web, handler: http.server.BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def nonsense(_: Web, handler: http.server.BaseHTTPRequestHandler) -> None:
    """No HTTP."""
    handler.wfile.write(b"SSH-2.0-secret-in-answer\r\n")


def answering(status: int, **headers: str) -> Answer:
    """An answer with headers; ``_`` in their names is ``-``."""

    def answer(_: Web, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@dataclass
class Mail:
    """A message as a relay took it."""

    sender: str
    recipients: list[str]
    data: bytes
    login: str | None
    secure: bool


@dataclass
class Relay:
    """An SMTP server. ``replies``: command in capitals to the reply that it gives instead of its own."""

    mails: list[Mail] = field(default_factory=list)
    replies: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    port: int = 0


class _Smtp(socketserver.StreamRequestHandler):
    relay: Relay
    tls: ssl.SSLContext | None
    implicit: bool

    def handle(self) -> None:
        self.secure, self.login = False, None
        if self.implicit and self.tls is not None:
            self._wrap()
        self.sender, self.recipients = "", []
        self._say("220 relay.example ESMTP")
        while line := self.rfile.readline(4096):
            if not self._command(line.decode("ascii").rstrip("\r\n")):
                return

    def _wrap(self) -> None:
        assert self.tls is not None
        self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.secure = True

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")

    def _command(self, line: str) -> bool:
        verb = line.split(" ")[0].upper()
        if verb in self.relay.replies:
            self._say(self.relay.replies[verb])
            return True
        match verb:
            case "EHLO":
                offers = [
                    "250-relay.example",
                    *(["250-STARTTLS"] if self.tls and not self.secure else []),
                    "250-AUTH PLAIN",
                    "250 8BITMIME",
                ]
                self._say("\r\n".join(offers))
            case "STARTTLS":
                self._say("220 go")
                self._wrap()
            case "AUTH":
                self.login = line.split(" ")[-1]
                self._say("235 ok")
            case "MAIL" | "RCPT":
                address = re.search(r"<(.*)>", line)[1]  # type: ignore[index]
                if verb == "MAIL":
                    self.sender, self.recipients = address, []
                elif address in self.relay.refused:
                    self._say("550 5.1.1 no such user")
                    return True
                else:
                    self.recipients.append(address)
                self._say("250 ok")
            case "DATA":
                self._say("354 go")
                data = b""
                while (piece := self.rfile.readline()) not in (b".\r\n", b""):
                    data += piece.removeprefix(b".") if piece.startswith(b"..") else piece
                if "." in self.relay.replies:
                    self._say(self.relay.replies["."])
                    return True
                self.relay.mails.append(Mail(self.sender, self.recipients, data, self.login, self.secure))
                self._say("250 queued")
            case "QUIT":
                self._say("221 bye")
                return False
            case _:
                self._say("250 ok")
        return True


@contextlib.contextmanager
def relay(tls: ssl.SSLContext | None = None, *, implicit: bool = False) -> Iterator[Relay]:
    """An SMTP server as long as the block lasts."""
    received = Relay()
    handler = type("Handler", (_Smtp,), {"relay": received, "tls": tls, "implicit": implicit})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        received.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that nobody has signed but itself, and a server's context with it. OSError without openssl."""
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=test",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context


def free_port() -> int:
    """A port on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
