"""Hands addresses that guess passwords to a firewall: an nftables set, fail2ban, CrowdSec or a program. Off unless ``ban`` is configured.

A detection of one of the configured rules whose subject is a ``client_ip`` makes one row, in the transaction that commits the
detection; its id is the detection's, so a detection is acted upon once. Rows change only like this, and only here::

    (new) -> refused
    (new) -> pending -> done | failed | refused

A thread of its own does what is pending, and tries again with growing pauses what did not work, for as long as the ban would have
lasted. A process killed at any point leaves a pending row, and the ban is made again at the next start: that changes nothing, or it
lasts a little longer.

The address is read by :mod:`ipaddress` and written by it, so no other text of the log reaches a program; an IPv4 address in IPv6
clothing is IPv4. Refused, with the reason in the row: what is no address, loopback, link-local, multicast and unspecified addresses, own
networks and those that are never to be banned, old evidence, and more than ``max_per_hour``.

Limits: one address a ban, also of IPv6, where an attacker may have a whole /64. How long fail2ban bans is its jail's business.
"""

import ipaddress
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sentinel.config import BanSettings, Config
from sentinel.detect.detection import parse_time
from sentinel.errors import UserError
from sentinel.marked import nearest
from sentinel.respond.journal import Journal
from sentinel.respond.programs import ProgramError, run
from sentinel.respond.redact import capped, visible
from sentinel.state import State

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_log = logging.getLogger(__name__)

_US = 1_000_000
_HOUR_SECONDS = 3600.0
_MAX_AGE_SECONDS = 3600.0
_POLL_SECONDS = 1.0
_STOP_SECONDS = 5.0
_PROGRAM_SECONDS = 10.0
_ROUND = 20
_PAUSES = (1.0, 60.0)
_ERROR_CHARACTERS = 200
_COLUMNS = "seq, id, ip, why, state, refused, error, attempts, created, changed, until"


class BanRefused(Exception):
    """Why an address is not banned; a sentence that begins with the kind: ``address: …``, ``never: …``."""


class BanFailed(Exception):
    """Why a ban did not work this time."""


class Ban(NamedTuple):
    """One row. Times are wall clock, seconds."""

    seq: int
    id: str
    ip: str
    why: str
    state: str
    refused: str | None
    error: str | None
    attempts: int
    created: float
    changed: float
    until: float | None


class Banner:
    """See the module's text. ``results`` counts what became of bans: done, failed, refused."""

    def __init__(
        self,
        state: State,
        settings: BanSettings,
        *,
        never: Iterable[str] = (),
        max_age_seconds: float = _MAX_AGE_SECONDS,
        now: Callable[[], float] = time.time,
        pauses: tuple[float, float] = _PAUSES,
    ) -> None:
        """``never``: networks besides those of the settings."""
        self.state = state
        self.settings = settings
        self.results: Counter[str] = Counter(dict.fromkeys(("done", "failed", "refused"), 0))
        self._never = [ipaddress.ip_network(network) for network in (*settings.never, *never)]
        self._max_age = max_age_seconds
        self._now = now
        self._pauses = pauses
        self._due: dict[int, float] = {}  # seq -> monotonic
        self._awake = threading.Event()
        self._settled = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    # the daemon's side

    def offer(self, detection: Mapping[str, Any]) -> str | None:
        """Keeps what is to be done about a detection, in the caller's transaction if there is one: ``pending`` or ``refused``.

        None when it is of no such rule, has no address, or was offered before.
        """
        given = detection["subject"].get("client_ip")
        if detection["rule"] not in self.settings.rules or not given:
            return None
        now = self._now()
        with self.state.transaction() as db:
            refused = None
            try:
                ip = str(self.address(given))
                refused = self._stale(parse_time(detection["time"]) / _US, now) or self._capped(now)
            except BanRefused as error:
                ip, refused = capped(visible(given), 60), str(error)
            state = "refused" if refused else "pending"
            why = f"{detection['rule']}: {detection['measure']} {detection['value']:g}"
            new = db.execute(
                "INSERT OR IGNORE INTO bans (id, ip, why, state, refused, created, changed) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (detection["id"], ip, why, state, refused, now, now),
            ).rowcount
        if not new:
            return None
        if refused:
            self.results["refused"] += 1
            _log.info("ban %s: refused: %s", ip, refused)
        return state

    def address(self, text: str) -> Address:
        """The address that a text is; raises :class:`BanRefused` for one that is never banned."""
        ip = bannable(text)
        inside = next((network for network in self._never if ip.version == network.version and ip in network), None)
        if inside is not None:
            raise BanRefused(f"never: lies in {inside}")
        return ip

    def ban(self, ip: str, why: str) -> float | None:
        """Bans an address now; until when (wall clock), None where that is not ours to say. Raises :class:`BanRefused`, :class:`BanFailed`.

        Doing it again makes it last anew.
        """
        address = self.address(ip)
        seconds = max(1, round(self.settings.duration))
        argv, given = ban_command(self.settings, address, seconds, why)
        try:
            ran = run(argv, input=given, seconds=_PROGRAM_SECONDS, check=False)
        except ProgramError as error:
            raise BanFailed(str(error)) from None
        if ran.code:
            said = next((line for line in ran.err.decode("utf-8", "replace").splitlines() if line.strip()), "")
            name = argv[0].rpartition("/")[2]
            words = f": {capped(visible(said), _ERROR_CHARACTERS)}" if said else ""
            raise BanFailed(f"{name} ended with exit code {ran.code}{words}")
        return None if self.settings.by == "fail2ban" else self._now() + seconds

    def bans(self, limit: int = 1000) -> list[Ban]:
        """The newest rows, newest last."""
        return list(reversed(self._select("1 ORDER BY seq DESC LIMIT ?", (limit,))))

    def start(self) -> None:
        """Starts the thread; what an earlier process left pending is done first."""
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="sentinel-ban", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something was offered and committed: no need to wait for the next look."""
        self._awake.set()

    def stop(self) -> None:
        """Ends the thread after the attempt that it is at; what is pending goes on at the next start."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            self._thread = None

    def drain(self, timeout: float) -> bool:
        """Waits until nothing is pending, at most ``timeout`` seconds; whether that is so. Without the thread it does one round itself."""
        until = time.monotonic() + timeout
        if self._thread is None:
            self._round()
            return not self._pending()
        self.wake()
        while self._pending():
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._settled.wait(min(left, 0.1))
            self._settled.clear()
        return True

    # what stops a ban

    def _stale(self, evidence: float, now: float) -> str | None:
        if now - evidence > self._max_age:
            return f"stale: the evidence is {now - evidence:.0f} s old, more than {self._max_age:.0f} s"
        if evidence - now > self._max_age:
            return f"stale: the evidence is dated {evidence - now:.0f} s in the future; check the time zone and year of the log"
        return None

    def _capped(self, now: float) -> str | None:
        ((count,),) = self.state.query("SELECT count(*) FROM bans WHERE state != 'refused' AND created > ?", (now - _HOUR_SECONDS,))
        most = self.settings.max_per_hour
        return f"cap: {count} bans within an hour, at most {most} allowed" if count >= most else None

    # the thread

    def _work(self) -> None:
        while not self._stopping:
            self._awake.clear()
            more = False
            try:
                more = self._round()
            except UserError as error:
                _log.error("%s", error)
            except Exception:
                # A bug must not end banning for good while the daemon looks healthy. Stopped, the state database may be closed.
                if not self._stopping:
                    _log.exception("unexpected error while banning addresses")
            if not more:
                self._awake.wait(_POLL_SECONDS)

    def _round(self) -> bool:
        """Does what is due, at most :data:`_ROUND`; whether there may be more at once."""
        rows = self._pending()
        self._due = {row.seq: self._due[row.seq] for row in rows if row.seq in self._due}
        due = [row for row in rows if self._due.get(row.seq, 0.0) <= time.monotonic()]
        for row in due[:_ROUND]:
            if self._stopping:
                return False
            self._carry_out(row)
        return len(due) > _ROUND

    def _carry_out(self, row: Ban) -> None:
        try:
            until = self.ban(row.ip, row.why)
        except BanRefused as error:
            self._settle(row, "refused", refused=str(error))
        except BanFailed as error:
            if self._now() - row.created > self.settings.duration:
                self._settle(row, "failed", error=str(error))
                return
            if str(error) != row.error:
                _log.warning("ban %s: %s; trying again", row.ip, error)
            first, longest = self._pauses
            self._due[row.seq] = time.monotonic() + min(longest, first * 2 ** min(row.attempts, 30))
            self._change(row, "pending", error=str(error))
        else:
            self._settle(row, "done", until=until)

    def _settle(self, row: Ban, state: str, *, refused: str | None = None, error: str | None = None, until: float | None = None) -> None:
        if self._change(row, state, refused=refused, error=error, until=until):
            self.results[state] += 1
            (_log.error if state == "failed" else _log.info)("ban %s: %s: %s", row.ip, state, refused or error or row.why)
        self._settled.set()

    def _change(self, row: Ban, state: str, *, refused: str | None = None, error: str | None = None, until: float | None = None) -> bool:
        now = self._now()
        with self.state.transaction() as db:
            changed = db.execute(
                "UPDATE bans SET state = ?, refused = ?, error = ?, until = ?, changed = ?, attempts = attempts + 1 "
                "WHERE seq = ? AND state = 'pending'",
                (state, refused, error, until, now, row.seq),
            ).rowcount
            if changed and state != "pending":
                Journal(self.state).note(
                    "ban", now, by="policy", client_ip=row.ip, why=row.why, by_means_of=self.settings.by, result=state,
                    refused=refused, error=error, detection=row.id,
                )  # fmt: skip
            return bool(changed)

    def _pending(self) -> list[Ban]:
        return self._select("state = 'pending' ORDER BY seq", ())

    def _select(self, where: str, parameters: Sequence[object]) -> list[Ban]:
        return [Ban._make(row) for row in self.state.query(f"SELECT {_COLUMNS} FROM bans WHERE {where}", parameters)]


def banner_of(config: Config, state: State, *, rules: Iterable[str] | None = None, now: Callable[[], float] = time.time) -> Banner | None:
    """What a configuration wants, None where it wants nothing. UserError for a rule that is none of ``rules``."""
    settings = config.ban
    if settings is None:
        return None
    if rules is not None:
        check_rules(settings, rules)
    never = (*config.networks, *config.policy.protected_networks)
    return Banner(state, settings, never=never, max_age_seconds=config.policy.max_evidence_age, now=now)


def check_rules(settings: BanSettings, rules: Iterable[str]) -> None:
    """UserError for a rule of the settings that is none of ``rules``: nobody would ever be banned for it."""
    known = list(rules)
    for name in settings.rules:
        if name not in known:
            raise UserError(f"ban.rules: there is no rule {name}{nearest(name, known)}")


def bannable(text: str) -> Address:
    """The address that a text is, IPv4 as IPv4 however it is clothed; raises :class:`BanRefused` for what no firewall should be told.

    >>> str(bannable("::ffff:192.0.2.1"))
    '192.0.2.1'
    """
    try:
        ip: Address = ipaddress.ip_address(text)
    except ValueError:
        raise BanRefused("address: the log names none") from None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            raise BanRefused("address: one with a zone is of this network")
        ip = ip.ipv4_mapped or ip
    for kind in ("loopback", "link_local", "multicast", "unspecified"):
        if getattr(ip, f"is_{kind}"):
            raise BanRefused(f"address: it is {kind.replace('_', '-')}")
    return ip


def ban_command(settings: BanSettings, ip: Address, seconds: int, why: str) -> tuple[list[str], bytes | None]:
    """The arguments that ban an address, and what is given on standard input."""
    match settings.by:
        case "nftables":
            into = f"element {settings.family} {settings.table} {settings.set4 if ip.version == 4 else settings.set6}"
            # Kernels before 6.12 keep the old end of an element that is there. The three are one transaction: it is never out of the set.
            add = f"add {into} {{ {ip} timeout {seconds}s }}"
            return [*(settings.program or ("nft",)), f"{add}; delete {into} {{ {ip} }}; {add}"], None
        case "fail2ban":
            return [*(settings.program or ("fail2ban-client",)), "set", settings.jail, "banip", str(ip)], None
        case "crowdsec":
            told = f"--reason=sentinel: {visible(why)}"
            duration = f"--duration={seconds}s"
            return [*(settings.program or ("cscli",)), "decisions", "add", f"--ip={ip}", duration, told], None
        case _:
            argv = [word.replace("{ip}", str(ip)).replace("{seconds}", str(seconds)) for word in settings.argv]
            return argv, json.dumps({"ip": str(ip), "seconds": seconds, "why": why}).encode("ascii") + b"\n"
