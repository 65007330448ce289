"""The core as one object: chunks of log in, detections out.

No I/O, no clock, no threads. All state that changes is here and in what it holds: for each source a scanner and the bytes of an unfinished
line; the texts; the open messages; the known clients; the windows. ``snapshot`` is all of it, and ``restore`` on an engine of the same
rules goes on as if nothing had been.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

from sentinel.detect._windows import TOLD_BY, Core, Windows
from sentinel.detect.blocks import attribution, earned, refusal
from sentinel.detect.detection import OWN_NETWORKS, Detection, account_key, format_time
from sentinel.detect.providers import SELF, Providers, load_providers
from sentinel.detect.replies import CLASS_NAMES, ReplyClassifier, Said, load_replies
from sentinel.detect.rules import Rule, RuleSet, load_rules
from sentinel.detect.senders import Logins
from sentinel.maillog._scan import EventBatch, Scanner
from sentinel.maillog._symbols import Symbols
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.maillog.fields import DIALECTS, KINDS, SERVICES
from sentinel.track._join import Networks, Tracker

_MAGIC = b"sentinel-state-2"
_MAX_EVIDENCE = 10
_MAX_RELATED = 10
_MAX_UNFINISHED = 1 << 17
"""Bytes without a newline that are kept waiting for one. What goes beyond belongs to a line that is too long in any case."""


REPLY_COLUMNS = ("reply_class", "reply_sub", "reply_confidence", "provider", "dnsbl", "blocked_ip", "delist_url", "reply_rule")
"""What :meth:`Engine.explain` tells of a refusal."""
_MAX_EXPLAINED = 10_000


class Step(NamedTuple):
    """What one chunk brought."""

    detections: list[Detection]
    lines: int
    """Log lines read."""
    events: EventBatch | None = None
    """The attributed rows; to be read before the engine is fed again."""
    accepted: Sequence[Accepted] = ()
    """What was taken of the accounts under :meth:`Engine.watch`."""


class Accepted(NamedTuple):
    """A message that smtpd took of a login."""

    time: int
    """Microseconds since the epoch."""
    account: str
    """As logged."""
    queue_id: str
    client_ip: str
    service: str
    pid: int
    """Of the process that has the session; 0 where the line has none."""
    evidence: dict[str, Any]
    """The line, its source and offset."""


class OpenMessages(NamedTuple):
    """Queue IDs of the messages under way that the log told of."""

    mine: dict[str, int]
    """Queue ID → when it was accepted, microseconds since the epoch."""
    others: frozenset[str] | set[str]
    """Known to be somebody else's."""


class _Stream:
    """One source: its scanner, and for raw bytes the unfinished line and the offset."""

    __slots__ = ("clock", "dropped", "offset", "scanner", "unfinished")

    def __init__(self, clock: LogClock, keep_all: bool, dialect: str) -> None:
        self.clock = clock
        self.scanner = Scanner(clock, keep_all=keep_all, dialect=dialect)
        self.unfinished = b""
        self.dropped = 0
        """Bytes of the unfinished line beyond those kept."""
        self.offset = 0


class Engine:
    """Reads chunks, says what they mean.

    ``rules``: from :func:`load_rules`; None for the product's own. ``networks``: our own, as CIDR. ``logins``: who may write as whom.
    ``replies``: what remote servers' refusals mean; None for the product's own knowledge, read when the first refusal comes.
    ``timezone`` and ``year``: for stamps without them; ``newest``: seconds since the epoch beyond which (by more than a day) no log
    begins, to infer the year of a first line without one. ``max_open_messages``: the limit of the queue-ID join. ``keep_all``: rows
    also for lines that mean nothing. ``dialect``: the one mail server whose lines are read, or ``auto``.
    """

    def __init__(
        self,
        rules: RuleSet | Iterable[Rule] | None = None,
        *,
        networks: Iterable[str] = OWN_NETWORKS,
        logins: Logins | None = None,
        replies: ReplyClassifier | None = None,
        timezone: tzinfo = UTC,
        year: int | None = None,
        newest: int | None = None,
        max_open_messages: int = 1_000_000,
        keep_all: bool = False,
        dialect: str = "auto",
    ) -> None:
        self.rules = load_rules() if rules is None else RuleSet(rules)
        self._logins = logins or Logins()
        self._replies = replies
        self._providers = replies.providers if replies else load_providers()
        self._timezone, self._year, self._newest = timezone, year, newest
        self._limit: int | None = None
        self._keep_all = keep_all
        self._dialect = dialect
        self._streams: dict[str, _Stream] = {}
        self._networks = Networks(list(networks))
        self._max_open_messages = max_open_messages
        self._found: list[Detection] = []
        self._explained: dict[tuple[str, str, bool], dict[str, Any]] = {}
        self._watched: frozenset[bytes] = frozenset()
        self._core = self._fresh_core()

    def _fresh_core(self) -> Core:
        symbols = Symbols()
        silent = [rule.attribution for rule in self.rules if rule.attribution is not None]
        windows = Windows(symbols, self._networks, self._knowledge(), [*(rule.compiled for rule in self.rules), *silent], CLASS_NAMES)
        return Core(symbols, Tracker(symbols, self._networks, self._max_open_messages), windows)

    def _knowledge(self) -> _Knowledge:
        names = self._replies.provider_names if self._replies else self._providers.names
        return _Knowledge(self._said, self._providers, names, self._logins, self._fire, self._ended)

    def use_logins(self, logins: Logins) -> None:
        """Another map of who may write as whom, from the next row on."""
        self._logins = logins
        self._core.windows.use_logins(logins)

    @property
    def replies(self) -> ReplyClassifier:
        """What tells what a remote server's refusal means."""
        if self._replies is None:
            self._replies = load_replies(providers=self._providers)
        return self._replies

    def explain(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the refusal in a row of an :class:`EventBatch` means, as REPLY_COLUMNS; what is not known is left out."""
        if row.get("kind") != "delivery" or row.get("reply_code", 0) < 400:
            return {}
        ip = row.get("relay_ip", "")
        # Postfix's text names the host; other mail servers log its words alone, and qmail a blank as "_".
        foreign = row.get("service") in DIALECTS
        host = row.get("relay_host") or ip if foreign else ""
        reply = row["reply"].replace("_", " ") if row.get("service") == "qmail" else row["reply"]
        key = reply, SELF if ip in ("127.0.0.1", "::1") or "/" in ip else host, foreign
        told = self._explained.get(key)
        if told is None:
            verdict = self.replies.classify(reply, key[1], logged=not foreign)
            values = (
                verdict.reply_class,
                verdict.sub,
                verdict.confidence,
                verdict.provider,
                verdict.dnsbl,
                verdict.blocked_ip,
                verdict.delist_url,
                verdict.rule,
            )
            if len(self._explained) >= _MAX_EXPLAINED:
                self._explained.clear()
            told = self._explained[key] = {name: value for name, value in zip(REPLY_COLUMNS, values, strict=True) if value != ""}
        return told

    def use_replies(self, replies: ReplyClassifier) -> None:
        """Other knowledge of refusals, from the next row on."""
        self._replies, self._providers = replies, replies.providers
        self._explained.clear()
        knowledge = self._knowledge()
        self._core.windows.use_providers(knowledge.provider, knowledge.providers, knowledge.gateways)
        self._core.windows.use_replies(self._said)

    def _said(self, shape: bytes, ips: Sequence[tuple[int, bytes]]) -> Said:
        return self.replies.said(shape, ips)

    # --- feeding ---------------------------------------------------------------------------------------------------------------------

    def feed(self, chunk: Chunk | bytes | bytearray | memoryview) -> Step:
        """Reads on. A :class:`Chunk` holds whole lines; bytes may be cut anywhere and are one stream named ``""``."""
        if isinstance(chunk, Chunk):
            self._core.collect()
            batch = self.scan(chunk)
            return self.process(batch, 0, len(batch), batch.lines)
        step = Step([], 0)
        for whole in self._assemble(bytes(chunk)):
            following = self.feed(whole)
            accepted = [*step.accepted, *following.accepted]
            step = Step(step.detections + following.detections, step.lines + following.lines, following.events, accepted)
        return step

    def finish(self) -> Step:
        """Takes the bytes that still wait for a newline as the last line."""
        stream = self._streams.get("")
        if stream is None or not stream.unfinished:
            return Step([], 0)
        return self.feed(b"\n")

    def scan(self, chunk: Chunk) -> EventBatch:
        """The rows of a chunk, not yet attributed: for callers that put several sources in order of time."""
        return self._stream(chunk.source).scanner.scan(chunk)

    def process(self, batch: EventBatch, start: int, stop: int, lines: int = 0) -> Step:
        """Attributes rows [start, stop) of a batch and runs the rules over them."""
        self._core.process(batch, start, stop)
        found, self._found = self._found, []
        return Step(found, lines, batch, self._accepted(batch, start, stop) if self._watched else ())

    def watch(self, accounts: Iterable[str]) -> None:
        """From the next row on, :attr:`Step.accepted` tells what is taken of these accounts, and of no others. No part of the state."""
        self._watched = frozenset(account.encode("utf-8", "surrogatepass").lower() for account in accounts)

    def _accepted(self, batch: EventBatch, start: int, stop: int) -> list[Accepted]:
        out = []
        for i in batch.accepted_of(self._watched, start, stop):
            text = batch.text
            line = batch.line(i).decode("utf-8", "replace")
            out.append(
                Accepted(
                    time=batch.time(i) or 0,
                    account=text(i, "sasl_username") or "",
                    queue_id=text(i, "queue_id") or "",
                    client_ip=text(i, "client_ip") or "",
                    service=batch.service(i) or "",
                    pid=int(batch.number(i, "pid") or 0),
                    evidence={"line": line, "source": batch.chunk.source, "offset": batch.offset(i)},
                )
            )
        return out

    def open_messages(self, *, account: str | None = None, client_ip: str | None = None) -> OpenMessages:
        """Messages under way of an account (letter case aside) or that came from an address, also behind a content filter."""
        if (account is None) == (client_ip is None):
            raise ValueError("either an account or a client_ip")
        if account is not None:
            key = account_key(account)
            mine, others = self._core.tracker.open_ids(
                lambda name, _: name is not None and account_key(name.decode("utf-8", "replace")) == key
            )
        else:
            address = ipaddress.ip_address(client_ip or "")
            wanted = getattr(address, "ipv4_mapped", None) or address
            mine, others = self._core.tracker.open_ids(lambda _, ip: ip is not None and _address(ip) == wanted)
        return OpenMessages(mine, others)

    def active_accounts(self) -> int | None:
        """How many accounts have sent mail lately, by the rule that looks back longest at what each one sends; None without one."""
        keys = self._core.windows.keys()
        sending = [
            (rule.window, keys[number])
            for number, rule in enumerate(self.rules)
            if tuple(rule.by) == ("sasl_username",) and not {"auth_failed", "rejected"} & set(rule.on)
        ]
        return max(sending)[1] if sending else None

    def collect(self, batches: Iterable[EventBatch]) -> None:
        """Lets go of texts that are needed no more, except for those of these batches. ``feed`` does it by itself."""
        self._core.collect(tuple(batches))

    def begin(self, source: str, newest: int | None = None, *, year: int | None = None, limit: int | None = None) -> None:
        """Names a source before its first chunk, with a ``newest`` and ``year`` of its own: archives of many years each have theirs.

        ``limit``: seconds since the epoch beyond which (by more than a day) no line of it lies.
        """
        if source not in self._streams:
            newest = self._newest if newest is None else newest
            clock = LogClock(self._timezone, year or self._year, newest, self._limit if limit is None else limit)
            self._streams[source] = _Stream(clock, self._keep_all, self._dialect)

    def written_until(self, now: int) -> None:
        """For who follows live logs: no line fed from here on lies more than a day after ``now``, in seconds since the epoch.

        It only helps with stamps that have no year.
        """
        self._newest = self._limit = now
        for stream in self._streams.values():
            stream.clock.newest = stream.clock.limit = now

    def forget_years(self) -> None:
        """The next stamp without a year is read as if it were the first: after a stop of many months the line before tells nothing."""
        for stream in self._streams.values():
            stream.clock.year = None
            stream.scanner.forget_time()

    def _stream(self, source: str) -> _Stream:
        if source not in self._streams:
            self.begin(source)
        return self._streams[source]

    def _assemble(self, data: bytes) -> list[Chunk]:
        """Whole lines out of bytes cut anywhere."""
        stream = self._stream("")
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            stream.unfinished += data
            stream.dropped += max(0, len(stream.unfinished) - _MAX_UNFINISHED)
            stream.unfinished = stream.unfinished[:_MAX_UNFINISHED]
            return []
        chunks = []
        start = 0
        if stream.dropped:
            # The line that was too long, as much as is kept of it, by itself: what follows keeps its place.
            start = data.index(b"\n") + 1
            chunks.append(Chunk(stream.unfinished + b"\n", "", "", stream.offset, stream.offset + len(stream.unfinished) + 1))
            stream.offset += len(stream.unfinished) + stream.dropped + start
            stream.unfinished, stream.dropped = b"", 0
        if cut > start:
            whole = stream.unfinished + data[start:cut]
            chunks.append(Chunk(whole, "", "", stream.offset, stream.offset + len(whole)))
            stream.offset += len(whole)
        stream.unfinished = data[cut:][:_MAX_UNFINISHED]
        stream.dropped = max(0, len(data) - cut - _MAX_UNFINISHED)
        return chunks

    # --- firing ----------------------------------------------------------------------------------------------------------------------

    def _fire(
        self, number: int, time: int, value: float, subject: list[bytes | None], lines: list[list[Any]], key: bytes, reply: bytes | None
    ) -> None:
        rule = self.rules[number]
        who = {name: text.decode("utf-8", "replace") for name, text in zip(rule.subject, subject, strict=True) if text is not None}
        related = _related(lines)
        description = rule.description
        if reply is not None:
            verdict = self.replies.classify(reply.decode("utf-8", "replace"))
            related["replies"] = [verdict.reply]
            related["delist_urls"] = [url for url in (verdict.delist_url or verdict.known_url,) if url]
            description = f"{description} {refusal(who.get('provider', ''), verdict, _who(rule, key)[1])}"
        if rule.attribution is not None:
            silent = len(self.rules) + sum(other.attribution is not None for other in self.rules[:number])
            ranking = self._core.windows.ranking(silent)
            earners = earned(ranking)
            related["accounts"] = [account for account, _, _ in earners]
            description = f"{description} {attribution(earners, bool(ranking), rule.attribution['window'] / 1e6)}"
        self._found.append(
            Detection(
                id=detection_id(rule.name, key, time),
                rule=rule.name,
                severity=rule.severity,
                score=rule.score,
                time=time,
                subject=who,
                window=rule.window,
                measure=rule.measure,
                value=round(value, 6),
                threshold=rule.threshold,
                evidence=_evidence(lines),
                related=related,
                description=description,
                advice=rule.advice,
            )
        )

    def _ended(self, number: int, time: int, fired: int, lines: list[list[Any]], key: bytes) -> None:
        rule = self.rules[number]
        ending = rule.ending
        assert ending is not None
        who = {name: text for name, text in _who(rule, key)[0].items() if text}
        self._found.append(
            Detection(
                id=detection_id(ending.name, key + b"\0%d" % fired, time),
                rule=ending.name,
                severity=ending.severity,
                score=0.0,
                time=time,
                subject=who,
                window=rule.window,
                measure="episode",
                value=round((time - fired) / 1e6, 6),
                threshold=0.0,
                evidence=_evidence(lines),
                related=_related(lines),
                description=f"{ending.description} It began at {format_time(fired)}.".lstrip(),
            )
        )

    def lasting(self) -> list[Episode]:
        """Episodes under way of rules with "until", in order of time."""
        out = []
        for number, rule in enumerate(self.rules):
            for key, fired, last in self._core.windows.episodes(number) if rule.ending else ():
                who, told_by = _who(rule, key)
                out.append(Episode(rule.name, who, fired, last, told_by, detection_id(rule.name, key, fired)))
        return sorted(out, key=lambda episode: (episode.since, episode.rule, sorted(episode.subject.items())))

    # --- looking in ------------------------------------------------------------------------------------------------------------------

    @property
    def timezone(self) -> tzinfo:
        """Of stamps without one."""
        return self._timezone

    @property
    def year(self) -> int | None:
        """Of first stamps without one, as given."""
        return self._year

    @property
    def watermark(self) -> int | None:
        """The latest event time seen, in microseconds since the epoch."""
        now: int = self._core.windows.now
        return now if self._streams and now > -(1 << 61) else None

    def last_events(self) -> dict[str, float]:
        """Source → time of its latest line, seconds since the epoch."""
        out = {}
        for source, stream in self._streams.items():
            last = stream.scanner.snapshot()[0]
            if last is not None:
                out[source] = float(last)
        return out

    def counters(self) -> dict[str, Any]:
        """Running totals and levels, for the metrics."""
        windows, tracker = self._core.windows, self._core.tracker
        names = [rule.name for rule in self.rules]
        return {
            "lines": {source: stream.scanner.lines for source, stream in self._streams.items()},
            "events": {(KINDS[k], "other" if s == len(SERVICES) - 1 else SERVICES[s]): n for (k, s), n in windows.event_counts().items()},
            "deliveries": windows.delivery_counts(),
            "replies": windows.reply_counts(),
            "repeats": windows.repeat_counts(),
            # Behind the rules' windows come the silent ones.
            "active": dict(zip(names, windows.active(), strict=False)),
            "window_keys": dict(zip(names, windows.keys(), strict=False)),
            "open_messages": tracker.open,
            "unattributed": tracker.unattributed,
            "known_clients": tracker.clients.size,
            "evictions": {"messages": tracker.evicted, "known_clients": tracker.clients.evicted, **windows.evicted()},
            "late": windows.late,
            "clock_set_back": windows.set_back,
        }

    # --- state -----------------------------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """All state between two chunks, versioned and with a checksum."""
        windows_head, windows, evidence = self._core.windows.snapshot()
        tracker_head, tracker = self._core.tracker.snapshot()
        clients_head, clients = self._core.tracker.clients.snapshot()
        symbols = self._core.symbols.snapshot()
        head = {
            "rules": self.rules.fingerprint,
            "streams": {
                name: [stream.scanner.snapshot(), stream.unfinished.decode("latin-1"), stream.dropped, stream.offset]
                for name, stream in self._streams.items()
            },
            "tracker": tracker_head,
            "clients": clients_head,
            "windows": windows_head,
            "evidence": evidence,
            "sizes": [len(symbols), len(tracker), len(windows), len(clients)],
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        body = b"".join((struct.pack("<Q", len(text)), text, symbols, tracker, windows, clients))
        return _MAGIC + struct.pack("<I", zlib.crc32(body)) + body

    def restore(self, data: bytes) -> bool:
        """Goes on from a snapshot. ValueError if it is damaged or of another version.

        False if it was made with other rules: then messages and known clients are taken over and the windows begin anew.
        """
        prefix = len(_MAGIC) + 4
        if data[: len(_MAGIC)] != _MAGIC or len(data) < prefix + 8:
            raise ValueError("not a snapshot of this version of sentinel")
        body = memoryview(data)[prefix:]
        if zlib.crc32(body) != struct.unpack("<I", data[prefix - 4 : prefix])[0]:
            raise ValueError("the snapshot is damaged")
        length = struct.unpack("<Q", body[:8])[0]
        head = json.loads(bytes(body[8 : 8 + length]))
        parts = []
        at = 8 + length
        for size in head["sizes"]:
            parts.append(bytes(body[at : at + size]))
            at += size
        core = self._fresh_core()
        core.symbols.restore(parts[0])
        core.tracker.restore(head["tracker"], parts[1])
        if "clients" in head:
            core.tracker.clients.restore(head["clients"], parts[3])
        same_rules: bool = head["rules"] == self.rules.fingerprint
        if same_rules:
            core.windows.restore(head["windows"], parts[2], head["evidence"])
        streams = {}
        for name, (scanner, unfinished, dropped, offset) in head["streams"].items():
            stream = streams[name] = _Stream(LogClock(self._timezone, self._year, self._newest, self._limit), self._keep_all, self._dialect)
            stream.scanner.restore(scanner)
            stream.unfinished = unfinished.encode("latin-1")
            stream.dropped = dropped
            stream.offset = offset
        self._core, self._streams = core, streams
        return same_rules


class Episode(NamedTuple):
    """An episode that lasts until something ends it."""

    rule: str
    subject: dict[str, str]
    """Its key's fields, in lower case."""
    since: int
    """When it fired, as ``last`` in microseconds since the epoch."""
    last: int
    """When its key was last seen."""
    told_by: str
    """Whose host wrote the reply, where its text alone names the provider."""
    detection: str
    """The id of the detection with which it began."""


class _Knowledge:
    """What the compiled windows ask."""

    __slots__ = ("ended", "fire", "gateways", "logins", "provider", "providers", "said")

    def __init__(self, said: Any, providers: Providers, names: tuple[str, ...], logins: Logins, fire: Any, ended: Any) -> None:
        self.said = said
        self.logins = logins
        self.fire = fire
        self.ended = ended
        self.providers = names
        self.gateways = providers.gateways
        # In keys NUL and TOLD_BY separate.
        self.provider = lambda host: providers.of(host.decode("utf-8", "replace")).encode().replace(b"\0", b"?").replace(TOLD_BY, b"?")


def _who(rule: Rule, key: bytes) -> tuple[dict[str, str], str]:
    """A window's key by fields, and where a text alone names the provider whose host wrote it."""
    texts = key.decode("utf-8", "replace").split("\0") if len(rule.by) > 1 else [key.decode("utf-8", "replace")]
    who = dict(zip(rule.by, texts, strict=False))
    told_by = ""
    if "provider" in who:
        who["provider"], _, told_by = who["provider"].partition(TOLD_BY.decode())
    return who, told_by


def _address(text: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.decode("ascii", "replace"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def detection_id(rule: str, key: bytes, time: int) -> str:
    """The same crossing has the same id in every run: a hash of rule, window key and event time."""
    text = json.dumps([rule, key.decode("latin-1"), format_time(time)], ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def _evidence(lines: list[list[Any]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"line": line.decode("utf-8", "replace"), "source": source, "offset": offset}
        for _, source, offset, line, *_ in lines[-_MAX_EVIDENCE:]
    )


_RELATED = ("client_ips", "senders", "recipient_domains", "queue_ids", "providers")


def _related(lines: list[list[Any]]) -> dict[str, list[str]]:
    """The most frequent of each, from the lines kept; the most frequent first, then by name."""
    out = {}
    for i, name in enumerate(_RELATED, 4):
        counts: dict[bytes, int] = {}
        for line in lines:
            if (text := line[i]) is not None:
                counts[text] = counts.get(text, 0) + 1
        top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MAX_RELATED]
        if top:
            out[name] = [text.decode("utf-8", "replace") for text, _ in top]
    return out
