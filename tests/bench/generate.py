"""One day in the log of a busy Postfix server, made up and seeded: the same arguments give the same bytes.

Sessions begin along a working day's curve. Each one schedules all its future lines (a deferred message's retries lie
hours ahead) into one bucket a minute; a minute is sorted and written once no later session can add to it. So lines of
concurrent processes interleave as they do in a real log, and memory holds open messages only. The line formats are
those of Postfix 3.7 (src/smtpd, src/cleanup, src/global/log_adhoc.c, src/bounce, src/anvil).

Names are in `.example`; addresses come from the documentation ranges and 198.18.0.0/15. What was written is counted
as it is written; `--truth` saves these counts as JSON.
"""

import argparse
import heapq
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY_MINUTES = 24 * 60

MIN_BACKOFF_SECONDS = 300
MAX_BACKOFF_SECONDS = 4000

HOST = "mx1"
OUR_IP = "192.0.2.25"
OUR_DOMAINS = (
    "corp.example",
    "shop-online.example",
    "university-press.example",
    "hospital.example",
    "law-partners.example",
    "logistics-group.example",
    "school-district7.example",
    "handmade.example",
)
LMTP_RELAY = "mx1.corp.example[private/dovecot-lmtp]"

# Weight of each hour of the day; new sessions follow a line through these points.
HOURLY = (35, 30, 28, 27, 30, 40, 60, 90, 130, 150, 155, 150, 135, 145, 150, 145, 135, 115, 95, 85, 75, 65, 55, 45)

# How many sessions of each sort make up ordinary traffic.
SESSION_MIX = (
    ("inbound", 44.0),
    ("submission", 22.0),
    ("rejected", 24.0),
    ("brute_force", 13.5),
    ("scanner", 4.0),
    ("imap", 6.0),
    ("web_script", 0.25),
)
# Lines that one session brings, on average; only a first guess, the loop measures as it goes.
LINES_PER_SESSION = 8.0
CRACKED_SHARE_OF_LINES = 0.010
CRACKED_BEGINS = 10 * HOUR + 40 * MINUTE
QUEUE_CLEANED_AFTER = 100 * MINUTE


def words(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = words(
    "alice bob carol dave erin frank grace heidi ivan judy karl laura mallory nina oscar peggy quentin rosa "
    "sybil trent ursula victor walter xenia yvonne zoe"
)
LAST_NAMES = words(
    "baker carter dietrich ellis fischer garcia huber ivanov jansen keller lopez meier novak olsen petrov "
    "quinn rossi schmidt tanaka ulrich vogel weber young zimmer"
)
ROLE_NAMES = words("info sales office support billing orders press hr admin contact noreply newsletter")
GUESSED_NAMES = words("admin test info root postmaster user scanner web backup office mail sales guest nagios oracle")

TLS13 = (
    "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits)"
    " server-digest SHA256"
)
TLS12 = "TLSv1.2 with cipher ECDHE-RSA-AES256-GCM-SHA384 (256/256 bits)"

BASE52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Client:
    """A host that connects to us, as Postfix prints it: `name[ip]`."""

    shown: str
    ip: str
    helo: str
    pointer: str  # the name that does not resolve back, "" where all is well
    domain: str


@dataclass(frozen=True, slots=True)
class Account:
    login: str
    homes: tuple[str, ...]  # client addresses it is used from
    helo: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """A remote mail system: where its domain's mail goes, and in which dialect its server speaks."""

    domain: str
    relays: tuple[str, ...]  # "host[ip]"
    dialect: str
    secure: bool


@dataclass(frozen=True, slots=True)
class Recipient:
    address: str
    site: Site | None  # None: one of our own mailboxes
    plan: str
    orig_to: str = ""


@dataclass(slots=True)
class Connection:
    """An open connection to a remote server during one round of delivery attempts."""

    tag: str
    relay: str
    free_at: int
    reply: str


@dataclass(slots=True)
class Truth:
    """What the log says, counted as it was written. `pflogsumm` holds the figures of its "Grand Totals"."""

    lines: int = 0
    bytes: int = 0
    seed: int = 0
    date: str = ""
    iso: bool = False
    long_queue_ids: bool = False
    kinds: dict[str, int] = field(default_factory=dict)
    delivery_status: dict[str, int] = field(default_factory=dict)
    pflogsumm: dict[str, int] = field(default_factory=dict)
    accounts: int = 0
    clients: int = 0
    reused_queue_ids: int = 0
    cracked: dict[str, object] = field(default_factory=dict)
    brute_force: dict[str, object] = field(default_factory=dict)


def short_delay(seconds: float) -> str:
    """Postfix's delay format: two significant digits, at most two after the point."""
    if seconds < 0.995:
        return f"{round(seconds, 2):g}"
    if seconds < 9.95:
        return f"{seconds:.2g}"
    return str(round(seconds))


def zipf_weights(count: int, exponent: float) -> list[float]:
    total = 0.0
    cumulative = []
    for rank in range(1, count + 1):
        total += rank**-exponent
        cumulative.append(total)
    return cumulative


class QueueIds:
    """Queue IDs as mail_queue.h makes them. A short one carries its file's inode, and inodes come back."""

    def __init__(self, rng: random.Random, long_ids: bool, day_start: int) -> None:
        self._rng = rng
        self._long = long_ids
        self._day_start = day_start  # seconds since the epoch
        self._free: list[tuple[int, int, str]] = []  # (when it was removed, inode, its last queue ID)
        self._next_inode = 0x2404A1
        self.reused_at: list[int] = []

    def new(self, when: int) -> tuple[str, int]:
        """(queue ID, inode) of a queue file created at `when`."""
        last_id = ""
        if self._free and self._free[0][0] < when:
            _, inode, last_id = heapq.heappop(self._free)
        else:
            inode = self._next_inode
            self._next_inode += self._rng.randrange(1, 9)
        if self._long:
            return self._long_id(when, inode), inode
        if last_id and self._rng.random() < 0.003:
            self.reused_at.append(when)
            return last_id, inode
        return f"{when % SECOND:05X}{inode:X}", inode

    def free(self, when: int, inode: int, queue_id: str) -> None:
        heapq.heappush(self._free, (when, inode, queue_id))

    def _long_id(self, when: int, inode: int) -> str:
        return _digits(self._day_start + when // SECOND, 52, 6) + _digits(when % SECOND, 52, 4) + "z" + _digits(inode, 51)


def _digits(number: int, base: int, width: int = 1) -> str:
    out = ""
    while number or len(out) < width:
        number, digit = divmod(number, base)
        out = BASE52[digit] + out
    return out


class Day:
    """All processes of one mail server for a day. Times are microseconds since midnight."""

    def __init__(self, lines: int, seed: int, day: date, *, iso: bool, long_ids: bool) -> None:
        self.lines = lines
        self.day = day
        self.iso = iso
        rng = self.rng = random.Random(seed)
        self.random = rng.random
        self.end = DAY_MINUTES * MINUTE
        self.midnight = datetime(day.year, day.month, day.day)
        self.epoch = int((self.midnight - datetime(1970, 1, 1)).total_seconds())
        self.ids = QueueIds(rng, long_ids, self.epoch)
        self.buckets: list[list[tuple[int, str, str]]] = [[] for _ in range(DAY_MINUTES)]
        self.scheduled = 0
        self.written = 0
        self.kinds: Counter[str] = Counter()
        self.deferred_messages: list[int] = []  # time of each message's first deferral
        self.truth = Truth(seed=seed, date=day.isoformat(), iso=iso, long_queue_ids=long_ids)
        self._free_pids: dict[str, list[tuple[int, int, str]]] = {}
        self._next_pid = 2210
        self._tags: dict[tuple[str, int], list[str]] = {}
        self._anvil_peaks: Counter[tuple[str, str]] = Counter()
        self.qmgr = f"{HOST} postfix/qmgr[{self._new_pid()}]: "
        self.pickup = f"{HOST} postfix/pickup[{self._new_pid()}]: "
        self.anvil = f"{HOST} postfix/anvil[{self._new_pid()}]: "
        self.postsuper = f"{HOST} postfix/postsuper[{self._new_pid()}]: "
        self.deleted = 0
        self.master = f"{HOST} postfix/master[{self._new_pid()}]: "
        self._populate()

    # ---- who there is -------------------------------------------------------------------------------------------

    def _populate(self) -> None:
        rng = self.rng
        logins = {f"{role}@{domain}": None for domain in OUR_DOMAINS for role in ROLE_NAMES}
        while len(logins) < 640:
            logins[f"{rng.choice(FIRST_NAMES)}.{rng.choice(LAST_NAMES)}@{rng.choice(OUR_DOMAINS)}"] = None
        names = list(logins)
        rng.shuffle(names)
        self.accounts = [self._account(login) for login in names]
        self.account_weights = zipf_weights(len(self.accounts), 0.5)
        self.mailboxes = names + [f"{first}@{domain}" for first in FIRST_NAMES for domain in OUR_DOMAINS]
        self.full_mailboxes = set(rng.sample(self.mailboxes, 4))
        self.clients = [self._client(number) for number in range(4000)]
        self.client_weights = zipf_weights(len(self.clients), 0.8)
        self.spammers = [self._stray(number, 64, 30_000) for number in range(2500)]
        self.bots = [self._stray(number, 128, 50_000) for number in range(900)]
        self.bot_weights = zipf_weights(len(self.bots), 0.9)
        self.scanners = [self._stray(number, 192, 9_000) for number in range(120)]
        self.sites = self._sites()
        self.site_weights = zipf_weights(len(self.sites), 1.0)
        self.dead_sites = [
            Site(f"{word}-gone{n}.example", (f"mail.{word}-gone{n}.example[198.19.9.{n + 1}]",), reason, False)
            for n, (word, reason) in enumerate(
                zip(
                    ("fabrik", "atelier", "clinic", "agency", "studio", "depot"),
                    ("timeout", "refused", "noname") * 2,
                    strict=True,
                )
            )
        ]
        self.cracked = rng.choice([account for account in self.accounts if account.login.startswith("orders@")])
        self.truth.accounts = len(self.accounts)
        self.truth.clients = len(self.clients)

    def _account(self, login: str) -> Account:
        rng = self.rng
        local, _, domain = login.partition("@")
        homes = [f"198.19.{rng.randrange(128, 256)}.{rng.randrange(1, 255)}" for _ in range(rng.choice((1, 1, 2, 3)))]
        if rng.random() < 0.3:
            homes.append(f"2001:db8:{rng.getrandbits(16):x}:{rng.getrandbits(16):x}::{rng.getrandbits(16):x}")
        helo = rng.choice(
            (
                f"[192.168.{rng.randrange(256)}.{rng.randrange(2, 254)}]",
                f"[IPv6:2001:db8:{rng.getrandbits(16):x}::{rng.getrandbits(16):x}]",
                f"DESKTOP-{rng.getrandbits(28):07X}",
                "smtpclient.apple.example",
            )
        )
        aliases = (f"{local}+lists@{domain}",) if rng.random() < 0.15 else ()
        return Account(login, tuple(homes), helo, aliases)

    def _client(self, number: int) -> Client:
        rng = self.rng
        a, b = rng.randrange(64), rng.randrange(1, 255)
        if rng.random() < 0.15:
            ip = f"2001:db8:{rng.getrandbits(16):x}:{rng.getrandbits(16):x}::{rng.getrandbits(12):x}"
        else:
            ip = f"198.18.{a}.{b}"
        domain = f"company{number}.example"
        name = rng.choice(
            (
                f"mail-{rng.choice('yqwlp')}{rng.choice('wkjt')}1-f{b}.bigmail.example",
                f"a{rng.randrange(64)}-{b}.smtp-out.eu-west-1.cloudses.example",
                f"o{rng.randrange(1, 9)}.ptr{rng.randrange(1000, 9999)}.sendgate.example",
                f"mail-am6eur05on2{rng.randrange(100):03}.outbound.protection.officemail.example",
                f"mta-{a}-{b}.campaigns.newsletterpilot.example",
                f"mail.{domain}",
                f"mx{rng.randrange(1, 5)}.{domain}",
            )
        )
        if rng.random() < 0.08:
            return Client(f"unknown[{ip}]", ip, f"mail.{domain}", f"mail.{domain}", domain)
        if rng.random() < 0.03:
            return Client(f"unknown[{ip}]", ip, f"mail.{domain}", "", domain)
        return Client(f"{name}[{ip}]", ip, name, "", domain)

    def _stray(self, number: int, block: int, spread: int) -> Client:
        rng = self.rng
        place = rng.randrange(spread)
        ip = f"198.18.{block + place // 1000}.{place % 250 + 1}"
        if number < 40:
            ip = f"203.0.113.{number * 6 + 1}" if block == 128 else f"198.51.100.{number * 6 + 3}"
        pointer = f"{ip.replace('.', '-')}.dynamic.dsl{number % 90}.example"
        draw = rng.random()
        if draw < 0.35:
            return Client(f"{pointer}[{ip}]", ip, pointer, "", f"offer{number}.example")
        helo = rng.choice(("localhost", "ylmf-pc", f"[{ip}]", f"mail{number}.offer{number}.example", "User"))
        return Client(f"unknown[{ip}]", ip, helo, pointer if draw < 0.65 else "", f"offer{number}.example")

    def _sites(self) -> list[Site]:
        rng = self.rng
        sites = []
        for domain, hosts, dialect in (
            ("gmail.example", ("gmail-smtp-in.l.google.example", "alt1.gmail-smtp-in.l.google.example"), "gsmtp"),
            ("outlook.example", ("outlook-com.olc.protection.outlook.example",), "exchange"),
            ("yahoo.example", ("mta5.am0.yahoodns.example", "mta7.am0.yahoodns.example"), "yahoo"),
            ("icloud.example", ("mx01.mail.icloud.example", "mx02.mail.icloud.example"), "postfix"),
            ("gmx.example", ("mx00.emig.gmx.example", "mx01.emig.gmx.example"), "kundenserver"),
            ("web.example", ("mx-ha02.web.example",), "kundenserver"),
            ("hotmail.example", ("hotmail-com.olc.protection.outlook.example",), "exchange"),
            ("163.example", ("163mx01.mxmail.netease.example",), "netease"),
            ("qq.example", ("mx3.qq.example",), "qq"),
            ("comcast.example", ("mx1.comcast.example",), "sendmail"),
        ):
            relays = tuple(f"{host}[203.0.113.{rng.randrange(1, 255)}]" for host in hosts for _ in range(3))
            relays += tuple(f"{host}[2001:db8:4860:{rng.getrandbits(16):x}::1a]" for host in hosts)
            sites.append(Site(domain, relays, dialect, True))
        for number in range(900):
            domain = f"{rng.choice(LAST_NAMES)}-{rng.choice(('group', 'consulting', 'labs', 'media'))}{number}.example"
            ip = f"198.19.{10 + number // 250}.{number % 250 + 1}"
            dialect = rng.choice(("postfix", "postfix", "exim", "sendmail", "gsmtp", "exchange"))
            host = rng.choice((f"mx.{domain}", f"mail.{domain}", f"{domain.split('.')[0]}.mail.protection.example"))
            sites.append(Site(domain, (f"{host}[{ip}]",), dialect, rng.random() < 0.8))
        return sites

    # ---- lines and processes ------------------------------------------------------------------------------------

    def put(self, when: int, kind: str, text: str) -> None:
        if when < self.end:
            self.scheduled += 1
            self.buckets[when // MINUTE].append((when, kind, text))

    def _new_pid(self) -> int:
        self._next_pid += 1 + int(self.random() * 5)
        if self._next_pid > 4_100_000:
            self._next_pid = 2210
        return self._next_pid

    def smtpd(self, service: str, when: int, until: int) -> str:
        """The tag of a server process that is free at `when`, taken until `until`; a new one where all are busy."""
        free = self._free_pids.setdefault(service, [])
        if free and free[0][0] <= when and free[0][1] < 100:
            tag = free[0][2]
            heapq.heapreplace(free, (until, free[0][1] + 1, tag))
            return tag
        if free and free[0][1] >= 100:
            heapq.heappop(free)
        tag = f"{HOST} postfix/{service}[{self._new_pid()}]: "
        heapq.heappush(free, (until, 1, tag))
        return tag

    def tag(self, service: str, when: int) -> str:
        """One of the processes of a service that live in this quarter of an hour."""
        key = (service, when // (15 * MINUTE))
        tags = self._tags.get(key)
        if tags is None:
            count = {"error": 2, "bounce": 2, "virtual": 3, "lmtp": 6, "cleanup": 10}.get(service, 14)
            tags = self._tags[key] = [f"{HOST} postfix/{service}[{self._new_pid()}]: " for _ in range(count)]
        return tags[int(self.random() * len(tags))]

    def token(self, length: int) -> str:
        return "".join(self.rng.choices(BASE62, k=length))

    # ---- a message in the queue ---------------------------------------------------------------------------------

    def message_id(self, domain: str) -> str:
        bits = self.rng.getrandbits
        draw = self.random()
        if draw < 0.3:
            return f"<CA{self.token(50)}@mail.{domain}>"
        if draw < 0.55:
            return f"<{bits(64):016x}-{bits(32):08x}-{bits(16):04x}-{bits(48):012x}-000000@eu-west-1.{domain}>"
        if draw < 0.7:
            return f"<{bits(32):08X}{bits(32):08X}@AM6PR0{bits(4)}MB{bits(13)}.eurprd0{bits(3)}.prod.{domain}>"
        if draw < 0.9:
            return f"<{bits(32):08x}-{bits(16):04x}-{bits(16):04x}-{bits(16):04x}-{bits(48):012x}@{domain}>"
        return f"<{1_795_000_000 + bits(22)}.{bits(30)}@{domain}>"

    def queue(
        self,
        when: int,
        queue_id: str,
        inode: int,
        sender: str,
        recipients: Sequence[Recipient],
        message_id: str,
        size: int,
        deleted_at: int = 0,
    ) -> int:
        """cleanup's and qmgr's lines and all delivery attempts of a message that arrived at `when`. When it left."""
        self.put(when + 900, "message_id", f"{self.tag('cleanup', when)}{queue_id}: message-id={message_id}")
        return self.deliver(when + 2_000 + int(self.random() * 90_000), when, queue_id, inode, sender, recipients, size, 0, deleted_at)

    def deliver(
        self,
        at: int,
        arrived: int,
        queue_id: str,
        inode: int,
        sender: str,
        recipients: Sequence[Recipient],
        size: int,
        attempt: int,
        deleted_at: int = 0,
        expires_at: int = 0,
    ) -> int:
        pending = list(recipients)
        was_deferred = False
        while at < self.end:
            if expires_at and at >= expires_at:
                return self._expire(at, queue_id, inode, sender)
            if deleted_at and at >= deleted_at:
                self.put(deleted_at, "removed", f"{self.postsuper}{queue_id}: removed")
                self.deleted += 1
                self.ids.free(deleted_at + 1, inode, queue_id)
                return deleted_at
            self.put(
                at,
                "queued",
                f"{self.qmgr}{queue_id}: from=<{sender}>, size={size}, nrcpt={len(pending)} (queue active)",
            )
            later: list[Recipient] = []
            refused: list[Recipient] = []
            last = at
            used: dict[str, Connection] = {}
            for recipient in pending:
                status, last_line = self._attempt(at, arrived, queue_id, recipient, attempt, used, size)
                last = max(last, last_line)
                if status == "deferred":
                    later.append(recipient)
                    if not was_deferred:
                        was_deferred = True
                        self.deferred_messages.append(last_line)
                elif status == "bounced":
                    refused.append(recipient)
            if refused and sender:
                last = self.bounce(last + 1_500, queue_id, sender, "non-delivery")
            if not later:
                last += 300 + int(self.random() * 2_000)
                self.put(last, "removed", f"{self.qmgr}{queue_id}: removed")
                self.ids.free(last + 1, inode, queue_id)
                return last
            pending = later
            backoff = min(MAX_BACKOFF_SECONDS, MIN_BACKOFF_SECONDS * 2**attempt) * (0.95 + 0.4 * self.random())
            at = last + int(backoff * SECOND)
            attempt += 1
        return at

    def bounce(self, when: int, queue_id: str, sender: str, what: str) -> int:
        """A notification to the sender: a message of its own."""
        notice, inode = self.ids.new(when)
        made = self.midnight + timedelta(microseconds=when)
        self.put(
            when,
            "message_id",
            f"{self.tag('cleanup', when)}{notice}: message-id=<{made:%Y%m%d%H%M%S}.{notice}@mx1.corp.example>",
        )
        self.put(when + 700, "bounce_notice", f"{self.tag('bounce', when)}{queue_id}: sender {what} notification: {notice}")
        _, _, domain = sender.partition("@")
        if domain in OUR_DOMAINS:
            to = Recipient(sender, None, "ok")
        else:
            site = self.rng.choices(self.sites, cum_weights=self.site_weights)[0]
            to = Recipient(f"{sender.partition('@')[0]}@{site.domain}", site, "unknown" if self.random() < 0.3 else "ok")
        self.deliver(when + 900, when, notice, inode, "", [to], 3000 + int(self.random() * 9000), 0)
        return when + 1_200

    def _attempt(
        self,
        at: int,
        arrived: int,
        queue_id: str,
        recipient: Recipient,
        attempt: int,
        used: dict[str, Connection],
        size: int,
    ) -> tuple[str, int]:
        """One delivery line, with what goes before it. Its status and when it was written."""
        if recipient.site is None:
            return self._deliver_here(at, arrived, queue_id, recipient)
        site = recipient.site
        plan = recipient.plan
        waited = (at - arrived) / SECOND
        to = f"{queue_id}: to=<{recipient.address}>, "
        if plan == "dead":
            return self._deliver_dead(at, waited, to, site, attempt)
        connection = used.get(site.domain)
        if connection is None:
            connection = used[site.domain] = self._connect_to(at, recipient, size)
        else:
            connection.free_at += 150 + int(self.random() * 300)
        tag, relay, done = connection.tag, connection.relay, connection.free_at
        status, dsn, text = self._outcome(plan, attempt, site, connection, recipient.address, at)
        transmit = (done - at) / SECOND
        reuse = "conn_use=2, " if self.random() < 0.04 else ""
        self.put(
            done,
            status,
            f"{tag}{to}relay={relay}:25, {reuse}delay={short_delay(waited + transmit)}, "
            f"delays={short_delay(waited)}/{'0' if self.random() < 0.7 else '0.01'}/{short_delay(transmit * 0.4)}"
            f"/{short_delay(transmit * 0.6)}, dsn={dsn}, status={status} ({text})",
        )
        return status, done

    def _connect_to(self, at: int, recipient: Recipient, size: int) -> Connection:
        site = recipient.site
        assert site is not None
        relay = site.relays[int(self.random() * len(site.relays))]
        tag = self.tag("smtp", at)
        greeted = at + int((0.02 + 0.3 * self.random() ** 2) * SECOND)
        if site.secure and recipient.plan != "blocked_banner":
            trust = "Verified" if self.random() < 0.2 else "Trusted"
            cipher = TLS13 if self.random() < 0.8 else TLS12
            self.put(greeted, "other", f"{tag}{trust} TLS connection established to {relay}:25: {cipher}")
        taken = greeted + int((0.05 + 1.2 * self.random() ** 3) * SECOND)
        return Connection(tag, relay, taken, self._accepted(site.dialect, at, recipient.address, size))

    def _deliver_here(self, at: int, arrived: int, queue_id: str, recipient: Recipient) -> tuple[str, int]:
        took = 0.01 + 0.15 * self.random() ** 2
        done = at + int(took * SECOND)
        waited = (at - arrived) / SECOND
        delay = f"delay={short_delay(waited + took)}, delays={short_delay(waited)}/0/0.01/{short_delay(took)}"
        orig = f"orig_to=<{recipient.orig_to}>, " if recipient.orig_to else ""
        address = recipient.address
        if address in self.full_mailboxes:
            self.put(
                done,
                "deferred",
                f"{self.tag('lmtp', at)}{queue_id}: to=<{address}>, {orig}relay={LMTP_RELAY}, {delay}, dsn=4.2.2, "
                f"status=deferred (host {LMTP_RELAY} said: 452 4.2.2 <{address}> Quota exceeded (mailbox for user is "
                "full) (in reply to end of DATA command))",
            )
            return "deferred", done
        if address.endswith("handmade.example"):
            self.put(
                done,
                "sent",
                f"{self.tag('virtual', at)}{queue_id}: to=<{address}>, {orig}relay=virtual, {delay}, dsn=2.0.0, "
                "status=sent (delivered to maildir)",
            )
        else:
            self.put(
                done,
                "sent",
                f"{self.tag('lmtp', at)}{queue_id}: to=<{address}>, {orig}relay={LMTP_RELAY}, {delay}, dsn=2.0.0, "
                f"status=sent (250 2.0.0 <{address}> {self.token(22)} Saved)",
            )
        return "sent", done

    def _deliver_dead(self, at: int, waited: float, to: str, site: Site, attempt: int) -> tuple[str, int]:
        relay = site.relays[0]
        if site.dialect == "noname":
            dsn = "4.4.3"
            why = f"Host or domain name not found. Name service error for name={site.domain} type=MX: Host not found, try again"
        else:
            dsn = "4.4.1"
            why = f"connect to {relay}:25: " + ("Connection refused" if site.dialect == "refused" else "Connection timed out")
        # qmgr marks the destination dead for a while; in that time error(8) answers in smtp(8)'s place.
        if self.random() < (0.35 if attempt == 0 else 0.6):
            done = at + 3_000 + int(self.random() * 30_000)
            took = (done - at) / SECOND
            line = f"{self.tag('error', at)}{to}relay=none, delay={short_delay(waited + took)}, "
            line += f"delays={short_delay(waited)}/{short_delay(took)}/0/0, "
            self.put(done, "deferred", f"{line}dsn={dsn}, status=deferred (delivery temporarily suspended: {why})")
            return "deferred", done
        took = 30.0 + self.random() if site.dialect == "timeout" else 0.03
        done = at + int(took * SECOND)
        tag = self.tag("smtp", at)
        if site.dialect != "noname":
            self.put(done - 200, "connect_failed", tag + why)
        line = f"{tag}{to}relay=none, delay={short_delay(waited + took)}, delays={short_delay(waited)}/0.01/"
        self.put(done, "deferred", f"{line}{short_delay(took)}/0, dsn={dsn}, status=deferred ({why})")
        return "deferred", done

    def _outcome(self, plan: str, attempt: int, site: Site, connection: Connection, address: str, at: int) -> tuple[str, str, str]:
        """(status, dsn, text in the parentheses) of an attempt at a site that answers."""
        relay = connection.relay
        if plan == "ok" or (plan == "greylisted" and attempt > 0) or (plan == "throttled" and attempt > 1):
            return "sent", "2.6.0" if site.dialect == "exchange" else "2.0.0", connection.reply
        if plan == "greylisted":
            text = f"450 4.2.0 <{address}>: Recipient address rejected: Greylisted, see http://postgrey.example/help/{site.domain}.html"
            return "deferred", "4.2.0", f"host {relay} said: {text} (in reply to RCPT TO command)"
        if plan == "full":
            text = f"452 4.2.2 <{address}>: Mailbox over quota"
            return "deferred", "4.2.2", f"host {relay} said: {text} (in reply to RCPT TO command)"
        if plan == "throttled":
            text = (
                f"421 4.7.0 [TSS04] Messages from {OUR_IP} temporarily deferred due to unexpected volume or user "
                f"complaints - 4.16.55.1; see https://postmaster.{site.domain}/error-codes"
            )
            return "deferred", "4.7.0", f"host {relay} said: {text} (in reply to MAIL FROM command)"
        if plan == "blocked_banner":
            text = "554 IP address temporarily blocked, ESMTP not accepting connections. Error Code: IPBL0100"
            return "deferred", "4.0.0", f"host {relay} refused to talk to me: {text}"
        if plan == "blocked_mail":
            text = (
                f"550 5.7.1 Unfortunately, messages from [{OUR_IP}] weren't sent. Please contact your Internet "
                "service provider since part of their network is on our block list (S3140). You can also refer "
                "your provider to http://mail.live.example/mail/troubleshooting.aspx#errors."
            )
            return "bounced", "5.7.1", f"host {relay} said: {text} (in reply to MAIL FROM command)"
        if plan == "blocked_data":
            text = (
                f"550-5.7.1 [{OUR_IP}      12] Our system has detected that this message is 550-5.7.1 likely "
                "unsolicited mail. To reduce the amount of spam sent to Gmail, 550-5.7.1 this message has been "
                "blocked. Please visit 550-5.7.1  https://support.google.example/mail/?p=UnsolicitedMessageError "
                "550 5.7.1  for more information. "
                f"{self.token(8).lower()}-{self.token(20).lower()}si{at % 10_000_000}.{at % 997} - gsmtp"
            )
            return "bounced", "5.7.1", f"host {relay} said: {text} (in reply to end of DATA command)"
        if plan == "spam":
            text = f"554 5.7.1 Message rejected as spam by content filtering, ref {self.token(12)}"
            return "bounced", "5.7.1", f"host {relay} said: {text} (in reply to end of DATA command)"
        if site.dialect == "gsmtp":
            text = (
                "550-5.1.1 The email account that you tried to reach does not exist. Please try 550-5.1.1 "
                "double-checking the recipient's email address for typos or 550-5.1.1 unnecessary spaces. Learn "
                "more at 550 5.1.1  https://support.google.example/mail/?p=NoSuchUser "
                f"{self.token(20).lower()}si{at % 10_000_000}.{at % 997} - gsmtp"
            )
        elif site.dialect == "exchange":
            text = (
                f"550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302). [{self.token(24)}.eurprd05.prod.outlook.example]"
            )
            return "bounced", "5.5.0", f"host {relay} said: {text} (in reply to RCPT TO command)"
        else:
            text = f"550 5.1.1 <{address}>: Recipient address rejected: User unknown in virtual mailbox table"
        return "bounced", "5.1.1", f"host {relay} said: {text} (in reply to RCPT TO command)"

    def _accepted(self, dialect: str, at: int, address: str, size: int) -> str:
        """What a remote server says to a message that it takes."""
        bits = self.rng.getrandbits
        if dialect == "gsmtp":
            return (
                f"250 2.0.0 OK  {self.epoch + at // SECOND} {bits(48):012x}-{bits(64):016x}{bits(40):010x}si{bits(22)}.{bits(10)} - gsmtp"
            )
        if dialect == "exchange":
            return (
                f"250 2.6.0 <{bits(64):016x}@{address.partition('@')[2]}> [InternalId={bits(46)}, "
                f"Hostname=AS8P{bits(10):04}MB{bits(13):04}.eurprd02.prod.outlook.example] {size + 7000} bytes in "
                f"0.{bits(9):03}, {bits(8)}.{bits(9):03} KB/sec Queued mail for delivery -> 250 2.1.5"
            )
        if dialect == "yahoo":
            return "250 ok dirdel"
        if dialect == "kundenserver":
            return f"250 Requested mail action okay, completed: id=1M{self.token(5)}-1{self.token(5)}{bits(16):x}-00{self.token(4)}"
        if dialect == "netease":
            return f"250 Mail OK queued as mx8,{self.token(22)}--.{bits(14)}S3 {self.epoch + at // SECOND}"
        if dialect == "qq":
            return "250 OK: queued as."
        if dialect == "exim":
            return f"250 OK id=1t{self.token(4)}-0000000{self.token(4)}-{self.token(4)}"
        if dialect == "sendmail":
            return f"250 2.0.0 4AB{self.token(5)}{bits(19):06} Message accepted for delivery"
        return f"250 2.0.0 Ok: queued as 4X{self.token(7)}z{self.token(4)}"

    # ---- sessions -----------------------------------------------------------------------------------------------

    def _connect(self, tag: str, when: int, client: Client) -> None:
        if client.pointer:
            trouble = f"{tag}warning: hostname {client.pointer} does not resolve to address {client.ip}"
            if client.ip[-1] in "13579":
                trouble += ": Name or service not known"
            self.put(when - 300, "warning", trouble)
        self.put(when, "connect", f"{tag}connect from {client.shown}")
        self._anvil_peaks["smtp", client.ip] += 1

    def _secured(self, tag: str, when: int, shown: str) -> None:
        cipher = TLS13 if self.random() < 0.85 else TLS12
        self.put(when, "other", f"{tag}Anonymous TLS connection established from {shown}: {cipher}")

    def inbound(self, when: int) -> None:
        client = self.rng.choices(self.clients, cum_weights=self.client_weights)[0]
        count = 1 if self.random() < 0.9 else 2 + int(self.random() * 3)
        step = 150_000 + int(self.random() ** 3 * 2_500_000)
        done = when + (count + 1) * step
        tag = self.smtpd("smtpd", when, done + 5_000)
        self._connect(tag, when, client)
        tls = self.random() < 0.82
        if tls:
            self._secured(tag, when + step // 2, client.shown)
        rejected = 0
        accepted = 0
        for number in range(count):
            begin = when + (number + 1) * step - int(step * 0.4)
            sender, recipients = self._foreign_mail(client)
            queue_id, inode = self.ids.new(begin)
            self.put(begin, "accepted", f"{tag}{queue_id}: client={client.shown}")
            if self.random() < 0.01:
                rejected += 1
                self.put(begin + 400, "rejected", self._reject(tag, queue_id, client, "unknown_user", sender))
            size = int(self.rng.lognormvariate(9.6, 1.1)) + 800
            self.queue(begin + 30_000, queue_id, inode, sender, recipients, self.message_id(client.domain), size)
            accepted += len(recipients)
        helo = "ehlo=2 starttls=1" if tls else "ehlo=1"
        total = (3 if tls else 1) + count * 2 + accepted + 1
        rcpt = f"{accepted}/{accepted + rejected}" if rejected else f"{accepted}"
        commands = f"{total}/{total + rejected}" if rejected else f"{total}"
        data = "bdat" if ".officemail." in client.shown else "data"
        self.put(
            done,
            "disconnect",
            f"{tag}disconnect from {client.shown} {helo} mail={count} rcpt={rcpt} {data}={count} quit=1 commands={commands}",
        )

    def _foreign_mail(self, client: Client) -> tuple[str, list[Recipient]]:
        rng = self.rng
        count = 1 if self.random() < 0.88 else 2 + int(self.random() * 4)
        recipients = []
        for _ in range(count):
            address = rng.choice(self.mailboxes)
            orig = ""
            if self.random() < 0.06:
                orig = f"{rng.choice(ROLE_NAMES)}-team@{address.partition('@')[2]}"
            recipients.append(Recipient(address, None, "ok", orig))
        draw = self.random()
        if draw < 0.3:
            address = recipients[0].address.replace("@", "=")
            return (
                f"bounces+{rng.getrandbits(24)}-{rng.getrandbits(16):04x}-{address}@em{rng.getrandbits(10)}.{client.domain}",
                recipients,
            )
        if draw < 0.5:
            return f"{rng.getrandbits(64):016x}-{rng.getrandbits(48):012x}-000000@eu-west-1.{client.domain}", recipients
        if draw < 0.53:
            return "", recipients
        return f"{rng.choice(FIRST_NAMES)}.{rng.choice(LAST_NAMES)}@{client.domain}", recipients

    def submission(self, when: int) -> None:
        rng = self.rng
        account = rng.choices(self.accounts, cum_weights=self.account_weights)[0]
        service = "submission/smtpd" if self.random() < 0.85 else "smtps/smtpd"
        ip = account.homes[int(self.random() ** 2 * len(account.homes))]
        shown = f"unknown[{ip}]" if self.random() < 0.5 else f"{ip.replace('.', '-').replace(':', '-')}.access.isp.example[{ip}]"
        if account is not self.cracked and self.random() < 0.004:
            # A typing error in the password, and the right one a little later.
            self._failed_login(service, when, Client(shown, ip, account.helo, "", ""), [account.login], "PLAIN")
            when += 20 * SECOND
        sender = account.login
        if account.aliases and self.random() < 0.2:
            sender = account.aliases[0]
        count = 1
        draw = self.random()
        if draw > 0.8:
            count = 2 + int(self.random() * 5)
        if draw > 0.992:
            count = 12 + int(self.random() * 14)
        recipients = [self._correspondent(account) for _ in range(count)]
        method = "LOGIN" if len(account.login) % 5 == 0 else "PLAIN"
        self._submit(when, service, shown, account.login, method, sender, recipients, 0)

    def _submit(
        self,
        when: int,
        service: str,
        shown: str,
        login: str,
        method: str,
        sender: str,
        recipients: Sequence[Recipient],
        deleted_at: int,
    ) -> None:
        step = 200_000 + int(self.random() * 400_000)
        tag = self.smtpd(service, when, when + 2 * step + 5_000)
        self.put(when, "connect", f"{tag}connect from {shown}")
        self._secured(tag, when + step // 2, shown)
        begin = when + step
        queue_id, inode = self.ids.new(begin)
        self.put(begin, "accepted", f"{tag}{queue_id}: client={shown}, sasl_method={method}, sasl_username={login}")
        size = int(self.rng.lognormvariate(9.2, 1.3)) + 600
        domain = sender.partition("@")[2]
        self.queue(begin + 40_000, queue_id, inode, sender, recipients, self.message_id(domain), size, deleted_at)
        hello, starttls = ("ehlo=1", "") if service == "smtps/smtpd" else ("ehlo=2", " starttls=1")
        total = (2 if not starttls else 4) + 2 + len(recipients) + 1
        self.put(
            when + 2 * step,
            "disconnect",
            f"{tag}disconnect from {shown} {hello}{starttls} auth=1 mail=1 rcpt={len(recipients)} data=1 quit=1 commands={total}",
        )

    def _correspondent(self, account: Account) -> Recipient:
        rng = self.rng
        draw = self.random()
        if draw < 0.22:
            return Recipient(rng.choice(self.mailboxes), None, "ok")
        local = f"{rng.choice(FIRST_NAMES)}.{rng.choice(LAST_NAMES)}"
        if draw < 0.245:
            site = rng.choice(self.dead_sites)
            return Recipient(f"{local}@{site.domain}", site, "dead")
        site = rng.choices(self.sites, cum_weights=self.site_weights)[0]
        luck = self.random()
        if luck < 0.91:
            plan = "ok"
        elif luck < 0.935:
            plan = "unknown"
        elif luck < 0.98:
            plan = "greylisted"
        elif luck < 0.989:
            plan = "full"
        elif luck < 0.995:
            plan = "spam"
        else:
            plan = "throttled"
        return Recipient(f"{local}@{site.domain}", site, plan)

    def _reject(self, tag: str, queue_id: str, client: Client, why: str, sender: str) -> str:
        rng = self.rng
        to = rng.choice(self.mailboxes)
        if why == "relay":
            site = self.sites[int(self.random() * 40)]
            to = f"{rng.choice(FIRST_NAMES)}{rng.getrandbits(10)}@{site.domain}"
            text = f"554 5.7.1 <{to}>: Relay access denied"
        elif why == "unknown_user":
            to = f"{rng.choice(FIRST_NAMES)}{rng.getrandbits(7)}@{rng.choice(OUR_DOMAINS)}"
            text = f"550 5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table"
        elif why == "rbl":
            text = (
                f"554 5.7.1 Service unavailable; Client host [{client.ip}] blocked using zen.dnsbl.example; "
                f"https://check.dnsbl.example/query/ip/{client.ip}"
            )
        elif why == "sender_domain":
            text = f"450 4.1.8 <{sender}>: Sender address rejected: Domain not found"
        elif why == "helo":
            text = f"504 5.5.2 <{client.helo}>: Helo command rejected: need fully-qualified hostname"
        elif why == "no_name":
            text = f"450 4.7.25 Client host rejected: cannot find your hostname, [{client.ip}]"
        else:
            text = f"450 4.2.0 <{to}>: Recipient address rejected: Greylisted, see http://postgrey.example/help/{to.partition('@')[2]}.html"
        return f"{tag}{queue_id}: reject: RCPT from {client.shown}: {text}; from=<{sender}> to=<{to}> proto=ESMTP helo=<{client.helo}>"

    def rejected(self, when: int) -> None:
        rng = self.rng
        client = self.spammers[int(self.random() ** 2 * len(self.spammers))]
        draw = self.random()
        if draw < 0.5:
            why = "rbl"
        elif draw < 0.66:
            why = "unknown_user"
        elif draw < 0.74:
            why = "relay"
        elif draw < 0.82:
            why = "sender_domain"
        elif draw < 0.92:
            why = "greylisted"
            client = rng.choices(self.clients, cum_weights=self.client_weights)[0]
        else:
            why = "no_name" if client.shown.startswith("unknown") else "rbl"
            if client.helo in ("localhost", "ylmf-pc", "User"):
                why = "helo"
        count = 1 if self.random() < 0.7 else 2 + int(self.random() * 4)
        done = when + SECOND + int(self.random() * 4 * SECOND)
        tag = self.smtpd("smtpd", when, done + 5_000)
        self._connect(tag, when, client)
        tls = self.random() < 0.4
        if tls:
            self._secured(tag, when + 300_000, client.shown)
        sender = f"{rng.choice(FIRST_NAMES)}-{rng.getrandbits(20):x}@{client.domain}"
        for number in range(count):
            self.put(when + 500_000 + number * 90_000, "rejected", self._reject(tag, "NOQUEUE", client, why, sender))
        hello = "ehlo=2 starttls=1" if tls else "ehlo=1"
        total = (3 if tls else 1) + 1
        if self.random() < 0.4:
            self.put(done - 200, "other", f"{tag}lost connection after RCPT from {client.shown}")
            tail = f"mail=1 rcpt=0/{count} commands={total}/{total + count}"
        else:
            tail = f"mail=1 rcpt=0/{count} quit=1 commands={total + 1}/{total + 1 + count}"
        self.put(done, "disconnect", f"{tag}disconnect from {client.shown} {hello} {tail}")

    def _failed_login(self, service: str, when: int, client: Client, users: Sequence[str], method: str) -> None:
        done = when + SECOND + int((len(users) + self.random()) * SECOND)
        tag = self.smtpd(service, when, done + 5_000)
        self._connect(tag, when, client)
        if service.startswith("submission") and self.random() < 0.25:
            self._secured(tag, when + 200_000, client.shown)
        reason = "UGFzc3dvcmQ6" if method == "LOGIN" else "(reason unavailable)"
        for number, user in enumerate(users):
            self.put(
                when + 400_000 + number * 900_000,
                "auth_failed",
                f"{tag}warning: {client.shown}: SASL {method} authentication failed: {reason}, sasl_username={user}",
            )
        count = len(users)
        if self.random() < 0.5:
            self.put(done - 200, "other", f"{tag}lost connection after AUTH from {client.shown}")
            tail = f"ehlo=1 auth=0/{count} commands=1/{count + 1}"
        else:
            tail = f"ehlo=1 auth=0/{count} quit=1 commands=2/{count + 2}"
        self.put(done, "disconnect", f"{tag}disconnect from {client.shown} {tail}")

    def brute_force(self, when: int) -> None:
        rng = self.rng
        client = rng.choices(self.bots, cum_weights=self.bot_weights)[0]
        count = 1 if self.random() < 0.75 else 2 + int(self.random() * 4)
        if self.random() < 0.6:
            users = [self.accounts[int(self.random() * len(self.accounts))].login] * count
        else:
            users = [f"{rng.choice(GUESSED_NAMES)}@{rng.choice(OUR_DOMAINS)}" for _ in range(count)]
        service = "submission/smtpd" if self.random() < 0.6 else "smtpd"
        self._failed_login(service, when, client, users, "LOGIN" if self.random() < 0.7 else "PLAIN")

    def scanner(self, when: int) -> None:
        client = self.rng.choice(self.scanners)
        done = when + 100_000 + int(self.random() * 3 * SECOND)
        tag = self.smtpd("smtpd", when, done + 5_000)
        self._connect(tag, when, client)
        stage = self.rng.choice(("CONNECT", "EHLO", "UNKNOWN", "STARTTLS"))
        if stage == "STARTTLS":
            self.put(done - 600, "other", f"{tag}SSL_accept error from {client.shown}: lost connection")
        elif stage == "UNKNOWN":
            self.put(done - 700, "warning", f"{tag}warning: non-SMTP command from {client.shown}: GET / HTTP/1.1")
        self.put(done - 200, "other", f"{tag}lost connection after {stage} from {client.shown}")
        tail = {
            "CONNECT": "commands=0/0",
            "EHLO": "ehlo=1 commands=1",
            "UNKNOWN": "unknown=0/1 commands=0/1",
            "STARTTLS": "ehlo=1 starttls=0/1 commands=1/2",
        }[stage]
        self.put(done, "disconnect", f"{tag}disconnect from {client.shown} {tail}")

    def imap(self, when: int) -> None:
        account = self.rng.choice(self.accounts)
        ip = account.homes[0]
        pid = self._new_pid()
        session = self.token(16)
        self.put(
            when,
            "dovecot",
            f"{HOST} dovecot: imap-login: Login: user=<{account.login}>, method=PLAIN, rip={ip}, lip={OUR_IP}, "
            f"mpid={pid}, TLS, session=<{session}>",
        )
        self.put(
            when + int(self.random() * 20 * MINUTE) + SECOND,
            "dovecot",
            f"{HOST} dovecot: imap({account.login})<{pid}><{session}>: Disconnected: Logged out "
            f"in={self.rng.getrandbits(11)} out={self.rng.getrandbits(17)} deleted=0 expunged=0 trashed=0 "
            "hdr_count=0 hdr_bytes=0 body_count=0 body_bytes=0",
        )

    def web_script(self, when: int) -> None:
        """A web shop's confirmation, submitted by the sendmail command."""
        queue_id, inode = self.ids.new(when)
        self.put(when, "picked_up", f"{self.pickup}{queue_id}: uid=33 from=<www-data>")
        site = self.rng.choices(self.sites, cum_weights=self.site_weights)[0]
        to = Recipient(f"{self.rng.choice(FIRST_NAMES)}{self.rng.getrandbits(8)}@{site.domain}", site, "ok")
        message_id = f"<{self.rng.getrandbits(64):016x}@shop-online.example>"
        self.queue(when + 1_000, queue_id, inode, "www-data@mx1.corp.example", [to], message_id, 2900)

    def cron(self, when: int) -> None:
        queue_id, inode = self.ids.new(when)
        self.put(when, "picked_up", f"{self.pickup}{queue_id}: uid=0 from=<root>")
        to = Recipient("admin@corp.example", None, "ok", "root")
        made = self.midnight + timedelta(microseconds=when)
        message_id = f"<{made:%Y%m%d%H%M%S}.{queue_id}@mx1.corp.example>"
        self.queue(when + 1_000, queue_id, inode, "root@mx1.corp.example", [to], message_id, 812)

    # ---- the day as a whole -------------------------------------------------------------------------------------

    def _left_from_yesterday(self, count: int) -> None:
        """Messages whose first lines are in an older log: retries, and some that expire."""
        for number in range(count):
            at = int(self.random() * HOUR) + SECOND
            queue_id, inode = self.ids.new(at)
            site = self.dead_sites[number % len(self.dead_sites)]
            sender = self.accounts[int(self.random() * len(self.accounts))].login
            to = Recipient(f"{self.rng.choice(FIRST_NAMES)}@{site.domain}", site, "dead")
            size = 1000 + int(self.random() * 50_000)
            arrived = at - int((2 + 100 * self.random()) * HOUR)
            expires = int(self.random() * self.end) if number % 2 else 0
            self.deliver(at, arrived, queue_id, inode, sender, [to], size, 4, expires_at=expires)

    def _expire(self, when: int, queue_id: str, inode: int, sender: str) -> int:
        self.put(when, "expired", f"{self.qmgr}{queue_id}: from=<{sender}>, status=expired, returned to sender")
        last = self.bounce(when + 900, queue_id, sender, "non-delivery") + 300
        self.put(last, "removed", f"{self.qmgr}{queue_id}: removed")
        self.ids.free(last + 1, inode, queue_id)
        return last

    def _cracked_account(self, budget: int) -> None:
        """Bots guess a password, wait an hour, then pour out spam; providers block us, and the queue is cleaned."""
        rng = self.rng
        login = self.cracked.login
        bots = [f"203.0.113.{rng.randrange(3, 250)}" for _ in range(4)]
        guess = CRACKED_BEGINS - 70 * MINUTE
        for number in range(5 if budget > 500 else 1):
            stray = Client(f"unknown[{bots[0]}]", bots[0], "User", "", "")
            self._failed_login("submission/smtpd", guess + number * 20 * SECOND, stray, [login], "LOGIN")
        before = self.scheduled
        at = CRACKED_BEGINS
        messages = 0
        recipients_total = 0
        while not messages or self.scheduled - before < budget:
            ip = bots[messages % len(bots)]
            sender = f"{rng.choice(FIRST_NAMES)}{rng.getrandbits(14)}@{rng.choice(self.sites).domain}"
            victims = [self._victim(messages) for _ in range(10 + int(self.random() * 16))]
            if budget < 200:
                victims = victims[:4]
            cleaned = CRACKED_BEGINS + QUEUE_CLEANED_AFTER + messages * 150
            self._submit(at, "submission/smtpd", f"unknown[{ip}]", login, "LOGIN", sender, victims, cleaned)
            messages += 1
            recipients_total += len(victims)
            at += int((3 + 9 * self.random()) * SECOND)
        if self.deleted:
            noun = "message" if self.deleted == 1 else "messages"
            end = CRACKED_BEGINS + QUEUE_CLEANED_AFTER + messages * 150
            self.put(end, "other", f"{self.postsuper}Deleted: {self.deleted} {noun}")
        self.truth.cracked = {
            "sasl_username": login,
            "client_ips": sorted(set(bots)),
            "first_spam": (self.midnight + timedelta(microseconds=CRACKED_BEGINS)).isoformat(),
            "last_spam_before": (self.midnight + timedelta(microseconds=at)).isoformat(),
            "messages": messages,
            "recipients": recipients_total,
            "lines": self.scheduled - before,
        }

    def _victim(self, messages: int) -> Recipient:
        rng = self.rng
        site = self.sites[int(self.random() ** 2 * 12)] if self.random() < 0.75 else rng.choice(self.sites)
        plan = "unknown" if self.random() < 0.18 else "ok"
        if messages > 40 and self.random() < 0.8:
            plan = {
                "yahoo": "throttled",
                "exchange": "blocked_mail",
                "gsmtp": "blocked_data",
                "kundenserver": "blocked_banner",
                "netease": "spam",
            }.get(site.dialect, plan)
        return Recipient(f"{rng.choice(FIRST_NAMES)}{rng.getrandbits(12)}@{site.domain}", site, plan)

    def _ten_minutes(self, when: int) -> None:
        """What comes by the clock: anvil's statistics and a cron job's mail."""
        stamp = self.midnight + timedelta(microseconds=when - 37 * SECOND)
        if self._anvil_peaks:
            (service, ip), peak = max(self._anvil_peaks.items(), key=lambda item: (item[1], item[0]))
            shown = f"({service}:{ip}) at {stamp:%b} {stamp.day:2} {stamp:%H:%M:%S}"
            self.put(when, "other", f"{self.anvil}statistics: max connection rate {min(peak, 60)}/60s for {shown}")
            self.put(when + 20, "other", f"{self.anvil}statistics: max connection count {1 + peak % 9} for {shown}")
            size = len(self._anvil_peaks)
            at = f"at {stamp:%b} {stamp.day:2} {stamp:%H:%M:%S}"
            self.put(when + 40, "other", f"{self.anvil}statistics: max cache size {size} {at}")
            self._anvil_peaks.clear()
        self.cron(when + 3 * SECOND + int(self.random() * SECOND))

    def write(self, out: BinaryIO) -> Truth:
        rng = self.rng
        self._left_from_yesterday(self.lines // 10_000)
        self._cracked_account(int(self.lines * CRACKED_SHARE_OF_LINES))
        self.put(6 * HOUR + 25 * MINUTE, "other", f"{self.master}reload -- version 3.7.11, configuration /etc/postfix")
        sessions = {
            "inbound": self.inbound,
            "submission": self.submission,
            "rejected": self.rejected,
            "brute_force": self.brute_force,
            "scanner": self.scanner,
            "imap": self.imap,
            "web_script": self.web_script,
        }
        kinds = [sessions[name] for name, _ in SESSION_MIX]
        weights = [weight for _, weight in SESSION_MIX]
        curve = self._curve()
        begun, lines_begun = 1, LINES_PER_SESSION
        fixed = self.lines >= 20_000
        for minute in range(DAY_MINUTES):
            start = minute * MINUTE
            if fixed and minute % 10 == 9:
                self._ten_minutes(start + 20 * SECOND)
            missing = self.lines * curve[minute] - self.written - len(self.buckets[minute])
            if minute == DAY_MINUTES - 1:
                missing *= 0.9  # the rest is filled up to the exact number below
            count = max(0, round(missing / (lines_begun / begun)))
            before = self.scheduled
            for when in sorted(start + 1000 + int(self.random() * (MINUTE - 2000)) for _ in range(count)):
                rng.choices(kinds, weights)[0](when)
            begun += count
            lines_begun += self.scheduled - before
            if minute == DAY_MINUTES - 1:
                self._fill(start)
            self._flush(minute, out)
        return self._finish()

    def _curve(self) -> list[float]:
        """The share of the day's lines that is written by the end of each minute."""
        weights = []
        for minute in range(DAY_MINUTES):
            hour, part = divmod(minute, 60)
            weights.append(HOURLY[hour] + (HOURLY[(hour + 1) % 24] - HOURLY[hour]) * part / 60)
        total = sum(weights)
        running = 0.0
        shares = []
        for weight in weights:
            running += weight
            shares.append(running / total)
        return shares

    def _fill(self, start: int) -> None:
        bucket = self.buckets[-1]
        while self.written + len(bucket) < self.lines:
            self.put(
                start + int(self.random() * MINUTE),
                "dovecot",
                f"{HOST} dovecot: imap-login: Disconnected: Connection closed (no auth attempts in 1 secs): "
                f"user=<>, rip={self.rng.choice(self.scanners).ip}, lip={OUR_IP}, TLS, session=<{self.token(16)}>",
            )

    def _flush(self, minute: int, out: BinaryIO) -> None:
        entries = self.buckets[minute]
        self.buckets[minute] = []
        entries.sort(key=itemgetter(0))
        if self.written + len(entries) > self.lines:
            del entries[self.lines - self.written :]
        self.written += len(entries)
        self.kinds.update(map(itemgetter(1), entries))
        data = "".join(self._stamped(entries)).encode()
        self.truth.bytes += len(data)
        out.write(data)

    def _stamped(self, entries: Iterable[tuple[int, str, str]]) -> Iterable[str]:
        second = -1
        stamp = ""
        for when, _, text in entries:
            if when // SECOND != second:
                second = when // SECOND
                moment = self.midnight + timedelta(seconds=second)
                stamp = moment.isoformat() if self.iso else f"{moment:%b} {moment.day:2} {moment:%H:%M:%S} "
            if self.iso:
                yield f"{stamp}.{when % SECOND:06}+00:00 {text}\n"
            else:
                yield f"{stamp}{text}\n"

    def _finish(self) -> Truth:
        truth = self.truth
        kinds = self.kinds
        truth.lines = self.written
        truth.delivery_status = {name: kinds[name] for name in ("sent", "deferred", "bounced", "expired")}
        truth.kinds = {name: n for name, n in sorted(kinds.items()) if name not in truth.delivery_status}
        truth.kinds["delivery"] = sum(truth.delivery_status.values())
        truth.reused_queue_ids = sum(when < self.end for when in self.ids.reused_at)
        truth.pflogsumm = {
            "received": kinds["accepted"] + kinds["picked_up"],
            "delivered": kinds["sent"],
            "deferred": sum(when < self.end for when in self.deferred_messages),
            "deferrals": kinds["deferred"],
            "bounced": kinds["bounced"],
            "rejected": kinds["rejected"],
        }
        truth.brute_force = {"failures": kinds["auth_failed"], "bots": len(self.bots)}
        return truth


def generate(path: Path, lines: int, seed: int = 1, *, day: date = date(2026, 11, 18), iso: bool = False, long_ids: bool = False) -> Truth:
    """Write the log to `path` and return what is in it."""
    with path.open("wb", buffering=8 << 20) as out:
        return Day(lines, seed, day, iso=iso, long_ids=long_ids).write(out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Write one seeded, realistic Postfix log of one day.")
    parser.add_argument("out", type=Path, help="the log file to write")
    parser.add_argument("--lines", type=int, default=1_000_000, help="how many lines (default: 1,000,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--date", type=date.fromisoformat, default=date(2026, 11, 18), help="the day (YYYY-MM-DD)")
    parser.add_argument("--iso", action="store_true", help="ISO 8601 stamps with microseconds, not classic syslog's")
    parser.add_argument("--long-ids", action="store_true", help="long queue IDs (enable_long_queue_ids = yes)")
    parser.add_argument("--truth", type=Path, help="write the counts of what the log holds here, as JSON")
    options = parser.parse_args()
    if options.lines < 1:
        parser.error("--lines must be 1 or more")
    began = time.perf_counter()
    truth = generate(options.out, options.lines, options.seed, day=options.date, iso=options.iso, long_ids=options.long_ids)
    if options.truth:
        options.truth.write_text(json.dumps(asdict(truth), indent=2) + "\n")
    seconds = time.perf_counter() - began
    print(
        f"{options.out}: {truth.lines:,} lines, {truth.bytes:,} bytes ({truth.bytes / truth.lines:.0f} a line), written in {seconds:.1f} s",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
