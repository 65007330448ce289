"""Where notices go: webhooks and chats, mail, Alertmanager, a program.

HTTP: ``https`` is verified against the system's certificates (``SSL_CERT_FILE`` names others); proxies are taken from the environment
(``https_proxy``, ``no_proxy``) as other programs take them, but never for this machine itself; no redirect is followed, because it could
lead the token elsewhere. An attempt has a time limit as a whole, however slowly the answer drips. A status of 2xx is taken for delivered.

Mail goes to a relay that must not be the way out that is blocked, with STARTTLS that must succeed, TLS from the beginning, or neither.

Alertmanager forgets an alert that is not sent again, and all of them when it is started anew. So an alert says that it ends ``lasts``
after it began, and is sent again every five minutes until a notice ends it or that time is over: it survives a restart of either side.
Its end has the labels of its beginning and is in the past.

Errors name the host of a target and the status or the reason, never a path, a token or what the other side wrote.
"""

import io
import ipaddress
import logging
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from sentinel.config import (
    AlertmanagerSettings,
    CommandSettings,
    Config,
    EmailSettings,
    NoticeKind,
    Severity,
    WebhookSettings,
    expand_environment,
)
from sentinel.errors import UserError
from sentinel.respond.messages import as_alert, as_json, as_mail, as_matrix, as_slack, as_teams, cleaned
from sentinel.respond.notify import Notice, Target, TargetError
from sentinel.respond.redact import Redactor, visible

if TYPE_CHECKING:
    import http.client
    import smtplib
    import urllib.request

_log = logging.getLogger(__name__)

AGAIN_SECONDS = 300.0
"""How often Alertmanager is told again what lasts."""
_FOR_GOOD = {400, 405, 406, 413, 414, 415, 422, 431}
"""Statuses that are about this message: others will be taken. All else an admin can mend, or it passes."""
_LONGEST_WISH_SECONDS = 3600.0
_SECRET_BYTES = 16_384
_ERROR_CHARACTERS = 300
_TOKEN_CHARACTERS = 12
"""Shorter pieces of a URL are words such as ``services``."""
_CLOCK_SECONDS = 60.0
"""An end that is in Alertmanager's future is overruled by the later one from before, so clocks may differ by this much."""
_US = 1_000_000

HttpSettings = WebhookSettings | AlertmanagerSettings
AnySettings = WebhookSettings | AlertmanagerSettings | EmailSettings | CommandSettings


def targets_of(config: Config, *, host: str | None = None, now: Callable[[], float] = time.time) -> list[Target]:
    """The targets of a configuration. UserError for what can't be used: a file that can't be read, a URL that is none."""
    host = visible(host or socket.gethostname())
    built = [(settings, _build(settings, f"notify[{number}]", host, now)) for number, settings in enumerate(config.notify, 1)]
    # Each target hides the secrets of all.
    redactor = Redactor([*secrets_of(config), *(secret for _, target in built for secret in target.secrets)])
    for _, target in built:
        target.redactor = redactor
    return [target for _, target in built]


def secrets_of(config: Config) -> list[str]:
    """The passwords of the configuration's databases, as far as they can be read."""
    found: list[str] = []
    given = [config.database.url if config.database else None, config.logins.database if config.logins else None]
    for url in given:
        if url is not None:
            found += _passwords(url.get_secret_value())
    if config.database is not None and config.database.password_file is not None:
        found.append(_first_line(config.database.password_file, "database.password_file"))
    return found


def _passwords(url: str) -> list[str]:
    """Of a database URL: its password as written, and as the environment has it."""
    from urllib.parse import unquote

    text = expand_environment(url, "database.url") if re.fullmatch(r"\$\{\w+\}", url.strip()) else url
    match = re.search(r"://[^:@/]*:(.*)@", text)
    if match is None:
        return []
    return [match[1], unquote(match[1]), expand_environment(match[1], "database.url")]


def _build(settings: AnySettings, where: str, host: str, now: Callable[[], float]) -> "_Target":
    match settings:
        case WebhookSettings():
            return _Webhook(settings, where, host)
        case AlertmanagerSettings():
            return _Alertmanager(settings, where, host, now)
        case EmailSettings():
            return _Email(settings, where, host, now)
        case CommandSettings():
            return _Command(settings, host)


class _Target:
    """What all targets have; see :class:`sentinel.respond.notify.Target`."""

    again_seconds = 0.0
    lasts_seconds = 0.0

    def __init__(self, settings: AnySettings, host: str) -> None:
        self.name = settings.called
        self.min_severity: Severity = settings.min_severity
        self.kinds: tuple[NoticeKind, ...] = settings.kinds
        self.seconds = settings.timeout
        self.host = host
        self.redactor = Redactor()
        self.secrets: list[str] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        """As the protocol has it."""
        self._send(cleaned(notice, self.redactor), [cleaned(other, self.redactor) for other in earlier])

    def _send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        raise NotImplementedError


# HTTP


class _Http(_Target):
    def __init__(self, settings: HttpSettings, where: str, host: str) -> None:
        super().__init__(settings, host)
        self._base, self._place, login = _split(_given_url(settings, where), where)
        self._headers = {"User-Agent": "sentinel", **_headers(settings, where)}
        if login is not None:
            self._headers.setdefault("Authorization", login)
        self.secrets += [value for name, value in self._headers.items() if name not in ("User-Agent", "Authorization")]
        self.secrets += [value.rpartition(" ")[2] for name, value in self._headers.items() if name == "Authorization"]

    def _request(self, method: str, url: str, data: bytes, headers: Mapping[str, str]) -> None:
        import http.client
        import urllib.error
        import urllib.request

        every = {**self._headers, "Content-Type": "application/json", **headers}
        request = urllib.request.Request(url, data, every, method=method)  # noqa: S310 - _split lets http and https pass
        try:
            with _opener(self.seconds, self._base).open(request, timeout=self.seconds):
                return
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except urllib.error.URLError as error:
            raise TargetError(f"{self._place}: {_reason(error.reason)}") from None
        except (OSError, http.client.HTTPException) as error:
            raise TargetError(f"{self._place}: {_reason(error)}") from None

    def _refused(self, error: "urllib.error.HTTPError") -> TargetError:
        from http import HTTPStatus

        status = error.code
        error.close()
        if 300 <= status < 400:
            return TargetError(f"{self._place} sends us on to another address ({status}), which is not followed; write the final URL")
        words = f" {HTTPStatus(status).phrase}" if status in set(HTTPStatus) else ""
        wish = error.headers.get("Retry-After", "") if error.headers else ""
        after = min(float(wish), _LONGEST_WISH_SECONDS) if wish.isascii() and wish.isdigit() else 0.0
        return TargetError(f"{self._place} answered {status}{words}", for_good=status in _FOR_GOOD, after_seconds=after)


class _Webhook(_Http):
    def __init__(self, settings: WebhookSettings, where: str, host: str) -> None:
        super().__init__(settings, where, host)
        self._format = settings.format
        self._room = settings.room
        if self._room is None:
            # The path and the query of a webhook are its password.
            parts = urlsplit(self._base)
            pieces = [parts.path.strip("/"), parts.query, *parts.path.split("/"), *re.split("[&=]", parts.query)]
            self.secrets += [piece for piece in pieces if len(piece) >= _TOKEN_CHARACTERS]
        if settings.token_file is not None:
            token = _first_line(settings.token_file, f"{where}.token_file")
            self.secrets.append(token)
            self._headers["Authorization"] = f"Bearer {_header_value(token, f'{where}.token_file')}"

    def _send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        import json

        match self._format:
            case "slack":
                self._request("POST", self._base, as_slack(notice, self.host), {})
            case "teams":
                self._request("POST", self._base, as_teams(notice, self.host), {})
            case "matrix" if self._room is not None:
                text, html = as_matrix(notice, self.host)
                event = {"msgtype": "m.text", "body": text, "format": "org.matrix.custom.html", "formatted_body": html, "m.mentions": {}}
                # The homeserver takes a transaction once, so what is sent twice appears once.
                path = f"/_matrix/client/v3/rooms/{quote(self._room, safe='')}/send/m.room.message/{quote(notice.id, safe='')}"
                self._request("PUT", self._base.rstrip("/") + path, json.dumps(event).encode("ascii"), {})
            case "matrix":
                text, html = as_matrix(notice, self.host)
                self._request("POST", self._base, json.dumps({"text": text, "html": html}).encode("ascii"), {})
            case _:
                self._request("POST", self._base, as_json(notice, self.host), {"X-Sentinel-Notice": quote(notice.id, safe="")})


class _Alertmanager(_Http):
    again_seconds = AGAIN_SECONDS

    def __init__(self, settings: AlertmanagerSettings, where: str, host: str, now: Callable[[], float]) -> None:
        super().__init__(settings, where, host)
        self.lasts_seconds = settings.lasts
        self._now = now

    def _send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        import json

        now = self._now()
        if notice.resolved:
            alerts = [as_alert(each, self.host, now, now - _CLOCK_SECONDS) for each in earlier]
        else:
            # An old notice still has to be an alert for a while, or nobody would hear of it.
            alerts = [as_alert(notice, self.host, now, max(notice.time / _US + self.lasts_seconds, now + 2 * AGAIN_SECONDS))]
        if alerts:
            self._request("POST", self._base.rstrip("/") + "/api/v2/alerts", json.dumps(alerts).encode("ascii"), {})


def _given_url(settings: HttpSettings, where: str) -> str:
    if settings.url_file is not None:
        return _first_line(settings.url_file, f"{where}.url_file")
    assert settings.url is not None
    return expand_environment(settings.url.get_secret_value().strip(), f"{where}.url")


def _split(url: str, where: str) -> tuple[str, str, str | None]:
    """The URL without a login, its host and port, and the login as a header."""
    import base64
    from urllib.parse import unquote

    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise UserError(f"{where}: the URL is none that can be used; write it as https://host/path, in ASCII and without blanks")
    bare = f"[{host}]" if ":" in host else host
    place = f"{bare}:{port}" if port else bare
    login = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = "Basic " + base64.b64encode(pair.encode("utf-8")).decode("ascii")
    return parts._replace(netloc=place, fragment="").geturl(), place, login


def _headers(settings: HttpSettings, where: str) -> dict[str, str]:
    out = {}
    for name, value in settings.headers.items():
        out[name] = _header_value(expand_environment(value.get_secret_value(), f"{where}.headers.{name}"), f"{where}.headers.{name}")
    for name, path in settings.header_files.items():
        out[name] = _header_value(_first_line(path, f"{where}.header_files.{name}"), f"{where}.header_files.{name}")
    return out


def _header_value(value: str, where: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise UserError(f"{where}: a header's value must be one line of ASCII")
    return value


def _opener(seconds: float, base: str) -> "urllib.request.OpenerDirector":
    """What opens one request: with the environment's proxies, but not to this machine; no redirects; one time limit for all of it."""
    import http.client
    import urllib.request

    until = time.monotonic() + seconds

    class Answer(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp = io.BufferedReader(_Timed(sock, until))

    class Plain(http.client.HTTPConnection):
        response_class = Answer

    class Secure(http.client.HTTPSConnection):
        response_class = Answer

    class Http(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> "http.client.HTTPResponse":
            return self.do_open(Plain, request)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> "http.client.HTTPResponse":
            return self.do_open(Secure, request, context=ssl.create_default_context())

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    proxies = urllib.request.ProxyHandler({} if _is_here(urlsplit(base).hostname or "") else None)
    return urllib.request.build_opener(proxies, Http, Https, Stay)


class _Timed(io.RawIOBase):
    """Reads from a socket until a moment, however the bytes are spread before it."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: object) -> str:
    """Why the other side could not be reached, in words that hold nothing of the address."""
    match error:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or type(error).__name__})"
        case socket.gaierror():
            return f"its name is not found ({error.strerror})"
        case ConnectionResetError() | BrokenPipeError():
            return "the connection was closed before an answer"
        case OSError() if error.strerror:
            return error.strerror
        case _ if type(error).__name__ in ("RemoteDisconnected", "IncompleteRead"):
            return "the connection was closed before an answer"
        case _:
            return f"its answer is not HTTP ({type(error).__name__})"


# mail


class _Email(_Target):
    def __init__(self, settings: EmailSettings, where: str, host: str, now: Callable[[], float]) -> None:
        super().__init__(settings, host)
        self._from, self._to = settings.from_, settings.to
        relay, _, port = settings.relay.rpartition(":")
        self._relay, self._port = relay.strip("[]"), int(port)
        self._place = settings.relay
        self._tls = settings.tls
        self._user = settings.user
        self._password = None
        if settings.password_file is not None:
            self._password = _first_line(settings.password_file, f"{where}.password_file")
            self.secrets.append(self._password)
        self._now = now

    def _send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        import smtplib

        mail = as_mail(notice, self.host, self._from, self._to, self._now())
        try:
            with self._connect() as relay:
                refused = relay.sendmail(self._from, list(self._to), bytes(mail))
            if refused:
                _log.warning("%s: %s takes no mail for %d of the %d recipients", self.name, self._place, len(refused), len(self._to))
        except smtplib.SMTPRecipientsRefused as error:
            codes = [code for code, _ in error.recipients.values()]
            raise TargetError(
                f"{self._place} takes mail for none of the recipients ({max(codes)})", for_good=all(code >= 500 for code in codes)
            ) from None
        except smtplib.SMTPDataError as error:
            raise TargetError(f"{self._place} does not take the mail ({error.smtp_code})", for_good=error.smtp_code >= 500) from None
        except smtplib.SMTPResponseException as error:
            raise TargetError(f"{self._place}: {_smtp_words(error)} ({error.smtp_code})") from None
        except smtplib.SMTPServerDisconnected:
            raise TargetError(f"{self._place}: the connection was closed before the mail was taken") from None
        except smtplib.SMTPNotSupportedError:
            raise TargetError(f"{self._place} does not offer what is configured: STARTTLS or a login") from None
        except smtplib.SMTPException as error:
            raise TargetError(f"{self._place}: {type(error).__name__}") from None
        except OSError as error:
            raise TargetError(f"{self._place}: {_reason(error)}") from None

    def _connect(self) -> "smtplib.SMTP":
        import smtplib

        relay: smtplib.SMTP
        if self._tls == "implicit":
            context = ssl.create_default_context()
            relay = smtplib.SMTP_SSL(self._relay, self._port, local_hostname=_helo(), timeout=self.seconds, context=context)
        else:
            relay = smtplib.SMTP(self._relay, self._port, local_hostname=_helo(), timeout=self.seconds)
        try:
            if self._tls == "starttls":
                relay.starttls(context=ssl.create_default_context())
            if self._user is not None and self._password is not None:
                relay.login(self._user, self._password)
        except BaseException:
            relay.close()
            raise
        return relay


def _smtp_words(error: "smtplib.SMTPResponseException") -> str:
    import smtplib

    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "it does not accept user and password"
    return "it does not accept the sender" if isinstance(error, smtplib.SMTPSenderRefused) else "it does not talk to us"


def _helo() -> str:
    name = socket.gethostname()
    return name if re.fullmatch(r"[A-Za-z0-9.-]+", name) else "localhost"


# programs


class _Command(_Target):
    def __init__(self, settings: CommandSettings, host: str) -> None:
        super().__init__(settings, host)
        self._argv = settings.argv

    def _send(self, notice: Notice, earlier: Sequence[Notice]) -> None:
        from sentinel.respond.programs import ProgramError, run

        try:
            run(self._argv, input=as_json(notice, self.host) + b"\n", seconds=self.seconds)
        except ProgramError as error:
            # It may have said what it was given.
            raise TargetError(self.redactor.line(str(error), _ERROR_CHARACTERS)) from None


# files


def _first_line(path: str, where: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            line = file.readline(_SECRET_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{where} {path} cannot be read: {reason}") from None
    if not line.strip():
        raise UserError(f"{where} {path}: its first line must be the value, and is empty")
    return line.strip()
