"""Real requests over real sockets."""

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from served import LOG, Site

from sentinel.errors import UserError
from sentinel.observe.metrics import Metrics
from sentinel.observe.server import Server
from sentinel.observe.status import HEARTBEAT_SECONDS, Status


def detection(number: int) -> dict[str, Any]:
    return {
        "id": f"{number:020x}",
        "rule": "many-senders",
        "severity": "warning",
        "subject": {"client_ip": "192.0.2.1"},
    }


# pages


def test_metrics_are_served_and_parse(site: Site) -> None:
    site.publish(scores={"info@example.com": 7.5}, lag={LOG: 3})
    reply = site.ask("/metrics")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in parse(reply.text)}
    assert [s.value for s in families["sentinel_account_score"].samples] == [7.5]
    assert [s.value for s in families["sentinel_source_lag_bytes"].samples] == [3]


def test_metrics_in_the_format_that_prometheus_asks_for(site: Site) -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain"
    reply = site.ask("/metrics", headers={"Accept": accept, "Accept-Encoding": "gzip"})
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert reply.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(reply.body).endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("asked", "zipped"),
    [("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("gzip; q=0.0", False), ("br", False)],
)
def test_compression_only_where_it_is_wanted(site: Site, asked: str, zipped: bool) -> None:
    reply = site.ask("/metrics", headers={"Accept-Encoding": asked})
    assert (reply.headers["Content-Encoding"] == "gzip") is zipped
    assert b"sentinel_build_info" in (gzip.decompress(reply.body) if zipped else reply.body)


def test_readiness_transitions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (site.ask("/readyz").status, site.ask("/readyz").text) == (
        503,
        "starting: the logs have not been opened yet\n",
    )
    assert (site.ask("/healthz").status, site.ask("/healthz").text) == (200, "ok\n")
    site.publish(ready=True, reason="")
    assert (site.ask("/readyz").status, site.ask("/readyz").text) == (200, "ready\n")
    site.publish(ready=False, reason="the state database cannot be written: disk full\non /var \udcff")
    assert site.ask("/readyz").status == 503
    assert site.ask("/readyz").text == "the state database cannot be written: disk full\non /var ?\n"
    site.publish(ready=True)
    monkeypatch.setattr(site.status, "silent_seconds", lambda: HEARTBEAT_SECONDS + 5)
    for page in ("/healthz", "/readyz"):
        reply = site.ask(page)
        assert reply.status == 503
        assert "has not moved for 65 seconds" in reply.text
    monkeypatch.undo()
    assert (site.ask("/healthz").status, site.ask("/readyz").status) == (200, 200)


def test_detections_newest_last(site: Site) -> None:
    site.detections.extend(map(detection, range(1200)))
    reply = site.ask("/api/detections")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(reply.body) == site.detections[-100:]
    assert json.loads(site.ask("/api/detections?limit=1").body) == site.detections[-1:]
    assert json.loads(site.ask("/api/detections?limit=1000&x=y").body) == site.detections[-1000:]


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "ten", "", "1.5", "%D9%A3", "1&limit=2", "9" * 2000, "%00", "+5"])
def test_a_bad_limit_is_told_what_is_right(site: Site, limit: str) -> None:
    reply = site.ask(f"/api/detections?limit={limit}")
    assert (reply.status, reply.text) == (400, "limit is a number from 1 to 1000, such as /api/detections?limit=100\n")


def test_locks(site: Site) -> None:
    assert json.loads(site.ask("/api/locks").body) == []
    site.locks.append({"account": "info@example.com", "state": "done", "why": "score 12 \udcff é"})
    assert json.loads(site.ask("/api/locks").body) == site.locks


def test_a_state_database_in_trouble(site: Site) -> None:
    site.trouble = UserError("state database /x: disk I/O error; check the disk")
    for page in ("/api/detections", "/api/locks"):
        assert (site.ask(page).status, site.ask(page).text) == (503, f"{site.trouble}\n")
    reply = site.ask("/")
    assert reply.status == 200
    assert reply.text.count("disk I/O error") == 2
    assert site.ask("/metrics").status == 200


def test_a_bug_of_ours_is_not_shown_to_the_client(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.trouble = RuntimeError("secret detail")
    reply = site.ask("/api/locks")
    assert (reply.status, reply.text) == (500, "internal error; the daemon's log says more\n")
    assert "secret detail" in caplog.text
    assert site.ask("/healthz").status == 200


# the protocol


def test_unknown_pages(site: Site) -> None:
    for target in ("/nothing", "/metrics/", "/api", "//metrics/x", "/../etc/passwd", "/%6detrics"):
        reply = site.ask(target)
        assert reply.status == 404, target
        assert "/metrics" in reply.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_other_methods(site: Site, method: str) -> None:
    reply = site.ask("/metrics", method, body=b"x" * 30_000 if method == "POST" else None)
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("page", ["/", "/metrics", "/healthz", "/readyz", "/api/detections", "/nothing"])
def test_head_is_get_without_the_body(site: Site, page: str) -> None:
    site.publish(checkpoint_at=0.0)
    head, get = site.ask(page, "HEAD"), site.ask(page)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    # The page and the metrics hold times, whose digits may become more.
    assert abs(int(head.headers["Content-Length"]) - len(get.body)) < 20
    assert len(get.body) == int(get.headers["Content-Length"])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"A%d: %s\r\n" % (n, b"x" * 1000) for n in range(40)) + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not TLS here\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"GET / HTTP/1.1 and more\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: [::1\r\n\r\n", 421),
        (b"GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"GET /healthz\r\n\r\n", 200),
    ],
    ids=[
        "long line",
        "long head",
        "many headers",
        "tls",
        "version",
        "words",
        "target",
        "host",
        "absolute",
        "1.0",
        "0.9",
    ],
)
def test_odd_requests_get_a_proper_answer(site: Site, request_bytes: bytes, status: int) -> None:
    answer = site.send(request_bytes)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: text/plain; charset=utf-8" in head
    assert body.endswith(b"\n")
    assert site.ask("/healthz").status == 200


def test_a_web_page_cannot_read_it_through_a_name_of_its_own(site: Site) -> None:
    """DNS rebinding: evil.example resolves to 127.0.0.1."""
    for host in ("evil.example", "evil.example:9154", "localhost.evil.example", "127.0.0.1.evil.example"):
        assert site.ask("/api/locks", headers={"Host": host}).status == 421, host
    for host in ("localhost:9154", "127.0.0.1", "[::1]:9154", "LOCALHOST", "localhost."):
        assert site.ask("/api/locks", headers={"Host": host}).status == 200, host


def test_answers_may_not_be_framed_sniffed_or_kept(site: Site) -> None:
    for page in ("/", "/metrics", "/api/detections", "/nothing"):
        headers = site.ask(page).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
        assert headers["Server"] is None
        assert "Access-Control-Allow-Origin" not in headers


# limits


def test_slow_clients_keep_nobody_out(site: Site) -> None:
    """More silent connections than there are places, and some that send a byte now and then."""
    with contextlib.ExitStack() as open_connections:
        silent = [open_connections.enter_context(site.connect()) for _ in range(20)]
        for connection in silent[::2]:
            connection.sendall(b"GET /metr")
        start = time.monotonic()
        for _ in range(5):
            assert site.ask("/metrics").status == 200
        assert time.monotonic() - start < 4


def test_a_request_that_does_not_end_is_given_up(site: Site) -> None:
    with site.connect() as connection:
        start = time.monotonic()
        connection.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\n")
            while time.monotonic() - start < 10:
                connection.sendall(b"X: y\r\n")  # never lets two seconds pass in silence
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        break
        assert 1 < time.monotonic() - start < 5


def test_a_client_that_does_not_read_its_answer_keeps_nobody_out(site: Site) -> None:
    site.detections.extend({**detection(n), "evidence": [{"line": "x" * 5000}]} for n in range(1000))
    with contextlib.ExitStack() as open_connections:
        for _ in range(7):
            connection = open_connections.enter_context(site.connect())
            connection.sendall(b"GET /api/detections?limit=1000 HTTP/1.1\r\n\r\n")
        assert site.ask("/healthz").status == 200


def test_concurrent_scrapes(site: Site) -> None:
    site.publish(scores={f"user{n}@example.com": float(n) for n in range(300)})
    replies: list[int] = []

    def scrape() -> None:
        for _ in range(5):
            reply = site.ask("/metrics")
            names = {family.name for family in parse(reply.text)}
            replies.append(reply.status if "sentinel_evictions" in names else 0)

    threads = [threading.Thread(target=scrape) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert replies == [200] * 60


def test_connections_leave_nothing_behind(site: Site, poll: Callable[..., object]) -> None:
    for _ in range(30):
        with site.connect():
            pass
        assert site.ask("/healthz").status == 200
    poll(lambda: not any(thread.name == "sentinel-http-request" for thread in threading.enumerate()))


# listening


def new_server(host: str, port: int) -> Server:
    status = Status(sources=[], rules=[], detections=lambda limit: [], locks=list)
    return Server(status, Metrics(status, version="1"), host, port, version="1")


def test_an_address_in_use() -> None:
    with new_server("127.0.0.1", 0) as first:
        with pytest.raises(UserError) as error:
            new_server("127.0.0.1", first.port)
        assert str(error.value) == (
            f"cannot listen on 127.0.0.1:{first.port}: the port is in use, perhaps by another sentinel; "
            "stop that, or choose another with --listen"
        )


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("198.51.100.1", 9154, "this machine has no such address"),
        ("no such host.invalid", 9154, "there is no host"),
        ("x" * 300, 9154, "there is no host"),
        ("127.0.0.1", 70_000, "a port is a number from 0 to 65535"),
    ],
)
def test_an_address_that_cannot_be(host: str, port: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        new_server(host, port)
    assert "\n" not in str(error.value)


def test_a_port_that_is_not_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1:80: not permitted to this user"):
        new_server("127.0.0.1", 80)


def test_the_port_is_free_again_and_stopping_is_quick() -> None:
    server = new_server("127.0.0.1", 0)
    server.start()
    waiting = socket.create_connection((server.host, server.port))
    start = time.monotonic()
    server.stop()
    assert time.monotonic() - start < 2
    waiting.close()
    again = new_server("127.0.0.1", server.port)
    again.stop()


def test_it_listens_on_ipv6_too() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        server = new_server("::1", 0)
    except UserError as error:
        pytest.skip(str(error))
    with server, socket.create_connection(("::1", server.port), timeout=5) as connection:
        assert server.url == f"http://[::1]:{server.port}/"
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: [::1]\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_what_connects_before_the_start_is_served_after_it() -> None:
    server = new_server("127.0.0.1", 0)
    with socket.create_connection((server.host, server.port), timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        with server:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
