"""The configuration file ``sentinel.yaml``: read, validated, and every mistake in it named with file, line and the
nearest right word.

:class:`Config` says what may be written; :func:`load_config` reads it from a file, :meth:`Config.from_arguments` builds
it from the command line.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sentinel.detect.detection import LOCK_AT, MEMORY_SECONDS, OWN_NETWORKS
from sentinel.errors import UserError
from sentinel.marked import duration, nearest, read
from sentinel.zones import parse_zone

DEFAULT_LISTEN = "127.0.0.1:9154"
DEFAULT_STATE = "/var/lib/sentinel"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_M = TypeVar("_M", bound=BaseModel)
Place = tuple[str | int, ...]
"""Where a value stands in a document: ``("policy", "protected", 0)``."""


# values


def parse_duration(value: object) -> float:
    """Seconds of ``90``, ``90s``, ``10m``, ``1h``, ``7d``, ``1.5h``; ValueError with the reason.

    >>> parse_duration("10m"), parse_duration(90)
    (600.0, 90.0)
    """
    seconds = duration(value)
    if seconds is None:
        raise ValueError(f"{value!r} is not a duration; write a number of seconds or 90s, 10m, 1h, 7d")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"{value!r} is not a duration; it must be longer than 0 seconds")
    return seconds


def _span(value: object) -> float:
    """As :func:`parse_duration`, and 0 for "not at all"."""
    return 0.0 if value in (0, "0") and not isinstance(value, bool) else parse_duration(value)


def _no(value: object) -> object:
    """YAML reads a bare no as false."""
    return "no" if value is False else value


def _timezone(value: object) -> object:
    if isinstance(value, str):
        parse_zone(value)
    return value


def _listen(value: object) -> object:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not bare or not (port.isascii() and port.isdigit() and int(port) < 65536) or (":" in bare and bare is host):
            raise ValueError(f'"{value}" is not HOST:PORT; write it as {DEFAULT_LISTEN} or [::1]:9154')
    elif isinstance(value, int):
        raise ValueError(f"{_show(value)} is not HOST:PORT; write it as {DEFAULT_LISTEN} or [::1]:9154")
    return value


def _network(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return str(ipaddress.ip_network(value))
    except ValueError:
        try:
            meant = f'; did you mean "{ipaddress.ip_network(value, strict=False)}"?'
        except ValueError:
            meant = "; write it as 192.0.2.0/24 or 2001:db8::/32"
        raise ValueError(f'"{value}" is not a network{meant}') from None


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _pattern(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise ValueError("an empty pattern protects nobody; name an account or a pattern such as *@example.com")
    return value


def _command(value: object) -> object:
    """A program alone may stand as a text; what has a blank in it was meant for a shell."""
    if isinstance(value, str) and len(value.split()) > 1:
        raise ValueError(f'"{value}" is no program; write program and arguments as a list: [{", ".join(value.split())}]')
    words = (value,) if isinstance(value, str) else value
    if isinstance(words, tuple) and any(isinstance(word, str) and not word.isprintable() for word in words):
        raise ValueError("there are control characters in it; write the program and its arguments, like [sudo, -n, /usr/sbin/postsuper]")
    return words


def _option(value: object) -> str | bool | int | tuple[str, ...]:
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError(f"must be a text, a whole number, true or false, or a list of texts, not {_show(value)}")


Duration = Annotated[float, BeforeValidator(parse_duration)]
Span = Annotated[float, BeforeValidator(_span)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_one_or_many)]
Network = Annotated[str, BeforeValidator(_network)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_one_or_many)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Command = Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_command)]
Option = Annotated[str | bool | int | tuple[str, ...], BeforeValidator(_option)]
Mode = Literal["observe", "notify", "enforce"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)


class BreakerSettings(_Section):
    """When all locking stops, because so many culprits at once are somebody's mistake or another kind of attack."""

    accounts: Annotated[int, Field(ge=1)] = Field(default=10, description="more accounts than this that reach lock_at within the span")
    share: Annotated[float, Field(gt=0, le=1)] = Field(default=0.2, description="or more than this share of the accounts that send mail")
    at_least: Annotated[int, Field(ge=1)] = Field(default=5, description="the share counts from so many accounts on")
    span: Duration = 600.0


class PolicySettings(_Section):
    """When scores become a lock."""

    mode: Mode = Field(default="observe", description="observe: journal what would be done; notify: tell; enforce: lock")
    rules: dict[Text, Mode] = Field(default_factory=dict, description="another mode for the points of a rule")
    accounts: dict[Pattern, Mode] = Field(default_factory=dict, description="another mode for accounts or patterns; the first that fits")
    lock_at: Annotated[float, Field(gt=0)] = Field(default=LOCK_AT, description="total score at which an account is locked")
    memory: Duration = Field(default=MEMORY_SECONDS, description="for how long a detection counts, in event time")
    protected: Annotated[tuple[Pattern, ...], BeforeValidator(_one_or_many)] = Field(
        default=(), description="accounts or patterns that are never locked, whatever they do"
    )
    protected_networks: Networks = Field(default=(), description="an account whose mail came from nowhere else is not locked")
    max_locks_per_hour: Annotated[int, Field(ge=0)] = 10
    max_locks_per_day: Annotated[int, Field(ge=0)] = 30
    breaker: BreakerSettings = BreakerSettings()
    max_evidence_age: Duration = Field(default=3600.0, description="older evidence is reported and never locks")
    respect_unlock: Span = Field(default=3600.0, description="for how long an account that was unlocked by hand is left alone")
    unlock_after: Duration | None = Field(default=None, description="policy's locks are undone after this; none: only by hand")

    @property
    def may_enforce(self) -> bool:
        """Whether anything at all may be locked."""
        return "enforce" in (self.mode, *self.rules.values(), *self.accounts.values())


class DatabaseSettings(_Section):
    """Where accounts are locked."""

    preset: Text = Field(default="generic", description="name of a lock preset, or the path of one")
    url: SecretStr | None = Field(
        default=None,
        validate_default=True,
        description="SQLAlchemy URL, or file:///path for presets that change a file; ${NAME} is taken from the environment",
    )
    password_file: Text | None = Field(default=None, description="file whose first line is the password")
    options: dict[str, Option] = Field(default_factory=dict, description="the preset's options, such as table names")

    @field_validator("url")
    @classmethod
    def _looks_like_a_url(cls, url: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url is None:
            # Other presets say for themselves whether they need one.
            if info.data.get("preset") == "generic":
                raise ValueError("is missing; say where the accounts are")
            return None
        text = url.get_secret_value()
        if "://" not in text and not re.fullmatch(r"\$\{\w+\}", text):
            raise ValueError("must look like mysql://user@host/database, postgresql://…, sqlite:////path or file:///path")
        return url


class AccessMapSettings(_Section):
    """A lookup table that smtpd asks by ``check_sasl_access`` for each recipient, so that it reaches sessions that are open."""

    path: Text = Field(description="the source file; sentinel writes it and runs postmap")
    type: Literal["lmdb", "hash"] = "lmdb"
    postmap: Command = ("postmap",)


class ResponseSettings(_Section):
    """What follows a lock, so that the spam really stops. Each part is off until it is asked for, but the last look at the log."""

    flush_auth_cache: bool = Field(default=False, description="doveadm auth cache flush, after a lock and after an unlock")
    kick: bool = Field(default=False, description="doveadm kick: ends the account's IMAP, POP3 and submission sessions in Dovecot")
    access_map: AccessMapSettings | None = Field(default=None, description="put the account into this map while it is locked")
    end_smtp: Annotated[Literal["no", "cut", "kill"], BeforeValidator(_no)] = Field(
        default="no",
        description="open SMTP sessions of the account; cut: close their connections (ss -K); kill: SIGTERM to their smtpd, "
        "after which Postfix may let nobody in for a minute",
    )
    ss: Command = ("ss",)
    hold: bool = Field(default=False, description="put the account's queued mail on hold")
    max_envelopes: Annotated[int, Field(ge=0)] = Field(
        default=2000, description="queued messages of unknown origin that are looked into, the newest first"
    )
    doveadm: Command = Field(default=("doveadm",), description="the command and its first arguments")
    verify: bool = Field(default=True, description="report lock-ineffective when mail of a locked account is still accepted")
    grace: Duration = Field(default=60.0, description="mail accepted later than this after the lock makes it ineffective")
    watch: Duration = Field(default=600.0, description="for how long after that its silence is waited for, to call the lock effective")


class LoginSettings(_Section):
    """Which envelope senders belong to which login."""

    file: Text | None = Field(default=None, description="a Postfix login map: sender, then its logins")
    database: SecretStr | None = Field(default=None, description="SQLAlchemy URL; ${NAME} is taken from the environment")
    query: Text | None = Field(default=None, description="SELECT of two columns: sender, login")
    refresh: Duration = 600.0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.database is None):
            raise ValueError("give either file, or database and query")
        if (self.database is None) != (self.query is None):
            raise ValueError("database and query belong together")
        return self


class PostfixSettings(_Section):
    """Postfix's own programs, to look at the mail queue and change it."""

    config_directory: Text | None = Field(default=None, description="directory of main.cf (postfix -c); none: Postfix's own")
    postqueue: Command = Field(default=("postqueue",), description="program and arguments, like [sudo, -n, /usr/sbin/postqueue]")
    postsuper: Command = ("postsuper",)
    postcat: Command = ("postcat",)


NoticeKind = Literal[
    "locked", "would-lock", "refused", "failed", "unlocked", "lock-ineffective", "breaker-open", "blocked", "block-ended", "detection"
]
"""What a notice can be about."""
Severity = Literal["info", "warning", "critical"]


def _mail_address(value: object) -> object:
    if isinstance(value, str) and not _MAIL_ADDRESS.fullmatch(value):
        raise ValueError(f"{_show(value)} is not a bare mail address; write it as admin@example.com")
    return value


def _host_and_port(value: object) -> object:
    if not isinstance(value, str) or not _HOST_AND_PORT.fullmatch(value) or not 0 < int(value.rpartition(":")[2]) < 65536:
        raise ValueError(f"{_show(value)} is not HOST:PORT; write it as mail.example.net:587 or [::1]:25")
    return value


def _header_name(value: object) -> object:
    if isinstance(value, str) and not _HEADER_NAME.fullmatch(value):
        raise ValueError(f"{_show(value)} is not the name of a header; write it as X-Token")
    return value


def _plain_name(value: object) -> object:
    if isinstance(value, str) and not _PLAIN_NAME.fullmatch(value):
        raise ValueError(f"{_show(value)} is not a plain name; letters, digits, dots, _ and - may stand in it, first a letter or _")
    return value


_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*")
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")

MailAddress = Annotated[str, BeforeValidator(_mail_address)]
HostAndPort = Annotated[str, BeforeValidator(_host_and_port)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
PlainName = Annotated[str, BeforeValidator(_plain_name)]


class _TargetSettings(_Section):
    """What all targets of notices have."""

    name: Annotated[str, Field(max_length=60)] = Field(default="", description="what it is called in logs; none: its kind or format")
    min_severity: Severity = Field(default="info", description="milder notices are not sent there")
    kinds: Annotated[tuple[NoticeKind, ...], BeforeValidator(_one_or_many)] = Field(default=(), description="none: all kinds")
    timeout: Annotated[float, BeforeValidator(parse_duration), Field(le=60)] = Field(default=10.0, description="of one attempt")

    @property
    def called(self) -> str:
        """Its name; without one its kind or format."""
        return self.name or str(getattr(self, "format", None) or getattr(self, "kind", ""))


class _HttpSettings(_TargetSettings):
    url: SecretStr | None = Field(default=None, description="http:// or https://; ${NAME} is taken from the environment")
    url_file: Text | None = Field(default=None, description="file whose first line is the URL")
    headers: dict[HeaderName, SecretStr] = Field(default_factory=dict, description="more headers; ${NAME} is taken from the environment")
    header_files: dict[HeaderName, Text] = Field(default_factory=dict, description="more headers, each from the first line of a file")

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("give either url or url_file")
        return self


class WebhookSettings(_HttpSettings):
    """Notices by HTTP: as JSON, or in the form of a chat."""

    kind: Literal["webhook"]
    format: Literal["json", "slack", "matrix", "teams"] = "json"
    room: Text | None = Field(default=None, description="matrix: the room's id, like !abc:example.org; url is then the homeserver")
    token_file: Text | None = Field(default=None, description="matrix: file whose first line is the access token")

    @model_validator(mode="after")
    def _matrix_room(self) -> Self:
        if (self.room is None) != (self.token_file is None):
            raise ValueError("room and token_file belong together; without both, url is the webhook of a Matrix bridge")
        if self.room is not None and self.format != "matrix":
            raise ValueError("room and token_file are for format: matrix")
        if self.room is not None and not self.room.startswith("!"):
            raise ValueError("room must be the room's id, which begins with !, and not its alias")
        return self


class AlertmanagerSettings(_HttpSettings):
    """Notices as alerts of Prometheus's Alertmanager."""

    kind: Literal["alertmanager"]
    lasts: Duration = Field(default=86_400.0, description="an alert that nothing ends is over after this time")


class EmailSettings(_TargetSettings):
    """Notices by mail, through a relay that is not the watched server."""

    kind: Literal["email"]
    to: Annotated[tuple[MailAddress, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
    from_: MailAddress = Field(alias="from")
    relay: HostAndPort = Field(description="HOST:PORT; another way out than the one that is blocked")
    tls: Literal["starttls", "implicit", "none"] = "starttls"
    user: Text | None = None
    password_file: Text | None = Field(default=None, description="file whose first line is the password")

    @model_validator(mode="after")
    def _safe_login(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file belong together")
        if self.user is not None and self.tls == "none":
            raise ValueError("with tls: none the password would be sent in the clear; use starttls or implicit")
        return self


class CommandSettings(_TargetSettings):
    """Notices to a program, as JSON on its standard input."""

    kind: Literal["command"]
    argv: Texts = Field(min_length=1, description="program and arguments; no shell reads them")


TargetSettings = Annotated[WebhookSettings | EmailSettings | AlertmanagerSettings | CommandSettings, Field(discriminator="kind")]
TARGET_KINDS: dict[str, type[_TargetSettings]] = {
    "webhook": WebhookSettings,
    "email": EmailSettings,
    "alertmanager": AlertmanagerSettings,
    "command": CommandSettings,
}


def _names_differ(targets: tuple[_TargetSettings, ...]) -> tuple[_TargetSettings, ...]:
    names = [target.called for target in targets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'{names.count(name)} targets are called "{name}"; give each a name of its own')
    return targets


class BanSettings(_Section):
    """Which addresses are handed to a firewall."""

    by: Literal["nftables", "fail2ban", "crowdsec", "command"]
    rules: Texts = Field(default=("auth-bruteforce-ip",), min_length=1, description="rules whose addresses are banned")
    duration: Annotated[float, BeforeValidator(parse_duration), Field(ge=1)] = Field(default=3600.0, description="fail2ban: its jail's own")
    never: Annotated[tuple[Network, ...], BeforeValidator(_one_or_many)] = Field(default=(), description="networks that are never banned")
    max_per_hour: Annotated[int, Field(ge=1)] = 100
    program: Texts = Field(default=(), description="instead of nft, fail2ban-client or cscli: another path, sudo before it, its options")
    family: Literal["inet", "ip", "ip6", "netdev", "bridge"] = "inet"
    table: PlainName = "sentinel"
    set4: PlainName = Field(default="banned4", description="nftables: the set of IPv4 addresses")
    set6: PlainName = Field(default="banned6", description="nftables: the set of IPv6 addresses")
    jail: PlainName = "sentinel"
    argv: Texts = Field(default=(), description="command: program and arguments; {ip} and {seconds} are put in")

    @model_validator(mode="after")
    def _argv_for_command(self) -> Self:
        if (self.by == "command") != bool(self.argv):
            raise ValueError("by: command and argv belong together")
        if self.by == "command" and self.program:
            raise ValueError("program is for nftables, fail2ban and crowdsec; a command stands in argv")
        return self


class Config(_Section):
    """All of ``sentinel.yaml``."""

    log: Texts = Field(min_length=1, description="the mail logs to follow")
    state: Text = Field(default=DEFAULT_STATE, description="directory of the state database")
    listen: Annotated[str, BeforeValidator(_listen)] = Field(default=DEFAULT_LISTEN, description="HOST:PORT of metrics and status")
    rules: Texts = Field(default=(), description="rule files or directories; none: the default rules")
    replies: Texts = Field(default=(), description="reply rules (files or directories) that go before the product's own")
    timezone: Annotated[str, BeforeValidator(_timezone)] | None = Field(default=None, description="zone of a log that writes none")
    year: Annotated[int, Field(ge=1970, le=9998)] | None = Field(default=None, description="year of a log that writes none")
    networks: Networks = Field(default=OWN_NETWORKS, description="own networks: mail from there is not from outside")
    logins: LoginSettings | None = None
    policy: PolicySettings = PolicySettings()
    response: ResponseSettings = ResponseSettings()
    database: DatabaseSettings | None = None
    postfix: PostfixSettings = PostfixSettings()

    notify: Annotated[tuple[TargetSettings, ...], AfterValidator(_names_differ)] = Field(
        default=(), description="who is told what was done, and what is to be done"
    )
    ban: BanSettings | None = None

    @model_validator(mode="after")
    def _can_enforce(self) -> Self:
        if self.policy.may_enforce and self.database is None:
            raise ValueError("enforce needs a database to lock accounts in")
        return self

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host without brackets, and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @classmethod
    def from_arguments(
        cls,
        *,
        log: Sequence[str],
        state: str | None = None,
        database: str | None = None,
        preset: str | None = None,
        enforce: bool = False,
        listen: str | None = None,
        rules: Sequence[str] = (),
        replies: Sequence[str] = (),
        timezone: str | None = None,
        year: int | None = None,
    ) -> Self:
        """The configuration of a run without a file. Raises UserError in the words of the command line."""
        if database is None and preset is not None:
            raise UserError("--preset: says how to lock in a database, so --database is needed with it")
        if database is None and enforce:
            raise UserError("--enforce: locking needs --database URL (and --preset NAME)")
        given: dict[str, Any] = {"log": list(log), "policy": {"mode": "enforce" if enforce else "observe"}}
        optional: dict[str, Any] = {"state": state, "listen": listen, "timezone": timezone, "year": year}
        optional |= {"rules": list(rules) or None, "replies": list(replies) or None}
        given |= {key: value for key, value in optional.items() if value is not None}
        if database is not None:
            given["database"] = {"url": database, "preset": preset or "generic"}
        problems: list[str] = []

        def option(place: Place) -> str:
            return f"--{'preset' if 'preset' in place else place[0]}" if place else ""

        config = _validate(cls, given, problems, option)
        if config is None:
            raise UserError("\n".join(problems))
        return config


def load_config(path: str | Path) -> Config:
    """Reads and validates a configuration file; one UserError with a line for each mistake."""
    problems: list[str] = []
    top = read(path, problems)

    def where(place: Place) -> str:
        key = _spell(place)
        return f"{top.at(place).where}: {key}" if key else top.where

    config = None
    if isinstance(top.value, dict):
        config = _validate(Config, _drop_empty(top.plain()), problems, where)
    elif not problems:
        kind = "is empty" if top.value is None else "holds no keys and values"
        problems.append(f"{top.where}: the file {kind}; it must at least say which log to follow: log: /var/log/mail.log")
    if problems or config is None:
        raise UserError("\n".join(sorted(problems, key=_line_of)))
    return config


def _drop_empty(value: dict[str, Any]) -> dict[str, Any]:
    """A section whose members are all commented out (``database:`` and nothing more) is a section left out."""
    return {key: child for key, child in value.items() if child is not None}


def _line_of(problem: str) -> int:
    match = re.search(r":([0-9]+): ", problem)
    return int(match[1]) if match else 0


def _spell(place: Place) -> str:
    out = ""
    for part in place:
        out += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def _validate(model: type[_M], value: dict[str, Any], problems: list[str], where: Callable[[Place], str]) -> _M | None:
    try:
        # Strict: a number never silently becomes a text. The one leniency is that a YAML list is a tuple here.
        return model.model_validate(_tuples(value))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            place = item["loc"]
            # Which kind of target it was read as is no place in the document.
            written = (*place[:2], *place[3:]) if place[:1] == ("notify",) else place
            problems.append(f"{where(written)}: {_sentence(model, place, dict(item))}".removeprefix(": "))
        return None


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(child) for key, child in value.items()}
    return tuple(_tuples(child) for child in value) if isinstance(value, list) else value


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    """The section that holds the last part of a place."""
    if place[:1] == ("notify",) and len(place) > 3:
        return TARGET_KINDS[str(place[2])]
    for part in place[:-1]:
        info = model.model_fields.get(str(part))
        inner = info.annotation if info else None
        options = [inner, *getattr(inner, "__args__", ())]
        model = next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), model)
    return model


def _sentence(model: type[BaseModel], place: Place, item: dict[str, Any]) -> str:
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if place == ("notify",) and kind == "tuple_type":
        return "must be a list of targets; begin each with - kind: webhook (or email, alertmanager, command)"
    if kind == "union_tag_not_found":
        return f"kind is missing; it is one of {', '.join(TARGET_KINDS)}"
    if kind == "union_tag_invalid":
        tag = str(context.get("tag", ""))
        return f"kind: {_show(tag)} is not one of {', '.join(TARGET_KINDS)}" + nearest(tag, TARGET_KINDS)
    if kind == "extra_forbidden":
        return "unknown key" + nearest(str(place[-1]), _model_at(model, place).model_fields)
    if kind == "missing":
        example = {"log": "; name the mail log, such as log: /var/log/mail.log"}
        return "is missing" + example.get(str(place[-1]), "")
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return f"{_show(given)} is not one of {', '.join(words)}" + (nearest(str(given), words) if isinstance(given, str) else "")
    if kind == "value_error":
        return str(context.get("error", item["msg"]))
    if kind in ("string_type", "secret_type"):
        if isinstance(given, bool):
            return "must be a text, but YAML reads this word as true or false; put it in quotes"
        return f"must be a text, not {_show(given)}" + ("" if isinstance(given, (dict, tuple)) else "; put it in quotes")
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"must hold keys and values, not {_show(given)}"
    if kind == "tuple_type":
        return f"must be a text or a list of texts, not {_show(given)}"
    if kind == "too_short" or kind == "string_too_short":
        return "must not be empty"
    if kind in ("int_type", "int_from_float", "int_parsing"):
        return f"must be a whole number, not {_show(given)}"
    if kind in ("float_type", "float_parsing"):
        return f"must be a number, not {_show(given)}"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        bound = next(iter(context.values()))
        words_for = {"greater_than": "more than", "greater_than_equal": "at least", "less_than": "less than"}
        return f"must be {words_for.get(kind, 'at most')} {bound:g}, not {_show(given)}"
    return str(item["msg"])


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "keys and values"
    if isinstance(value, (tuple, list)):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 60 else text[:57] + "…"


# secrets


def expand_environment(text: str, what: str) -> str:
    """``${NAME}`` replaced from the environment; UserError, without any value, for a name that is not set."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise UserError(f"{what}: the environment variable {name} is not set")
        return os.environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", value, text)


def is_identifier(text: str) -> bool:
    """Whether a text is a plain SQL identifier: letters, digits, underscore, no digit first."""
    return _IDENTIFIER.fullmatch(text) is not None
