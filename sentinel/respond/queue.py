"""One culprit's mail in Postfix's queue: found, put on hold, released, deleted. Through Postfix's own programs, as an admin does it.

``postqueue -j`` lists the queue. Whose a message is, two sources know. The join of the log knows it also of mail that came back from a
content filter (``known``: queue ID and time of acceptance; short queue IDs come back, so the time must fit the queue's). Of all others
``postcat -e`` shows the envelope, in which smtpd(8) wrote the login and the client's address. ``postsuper`` then takes queue IDs on
standard input, never as arguments, and never the word ``ALL``. Right before it the queue is listed once more, and what is not the same
message any more is left alone.

Text in an envelope may be an attacker's. A login counts only where smtpd(8) writes it, before the sender, and nothing counts behind a
sender's full name, in which sendmail(1) lets newlines pass: so somebody with a shell can write lines that look like an attribute, or like
the next message's beginning. The latter shows, because a message then begins twice or out of turn. Such a batch is halved until the message
stands alone, where it can lie about nobody but itself.

Limits: a delivery under way when a message is put on hold goes on to its end. Mail on hold for another reason is released with the rest.
A login that is not UTF-8 belongs to nobody, since it could not be told from another one.
"""

import contextlib
import heapq
import ipaddress
import json
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from sentinel.detect.detection import account_key
from sentinel.errors import UserError
from sentinel.respond.programs import ProgramError, lines, one_line, run

if TYPE_CHECKING:
    from sentinel.config import PostfixSettings

LISTING_SECONDS = 600.0
"""For a queue of hundreds of thousands of messages on a slow disk."""
READING_SECONDS = 60.0
"""For a batch of envelopes."""
ACTING_SECONDS = 120.0
"""For a batch of messages to hold, release or delete."""
MAX_ENVELOPES = 100_000
TOLERANCE_SECONDS = 3
"""Between a message's acceptance in the log and its arrival in the queue."""

_TELL_EVERY = 1000
_READ_AT_ONCE = 100
_ACT_AT_ONCE = 500
_MAX_LINE_BYTES = 64 << 20
"""A message of a hundred thousand recipients, each with a reason."""
_MAX_ENVELOPE_LINE_BYTES = 1 << 14
_US = 1_000_000

_SHORT = r"[0-9A-F]{6,24}"
_LONG = r"(?=.{12,24}\Z)[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,}z[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-y]+"
_QUEUE_ID = re.compile(f"(?:{_SHORT}|{_LONG})")

Action = Literal["hold", "release", "delete"]
Progress = Callable[[str, int, int], None]
"""Called with ``listing``, ``reading`` or the action, how many messages are done, and of how many (0: not known)."""

_OPTIONS: dict[Action, str] = {"hold": "-h", "release": "-H", "delete": "-d"}
_COUNTS: dict[Action, re.Pattern[bytes]] = {
    # postsuper.c, main()
    "hold": re.compile(rb"^[^\n]*: Placed on hold: (\d+) messages?\r?$", re.MULTILINE),
    "release": re.compile(rb"^[^\n]*: Released from hold: (\d+) messages?\r?$", re.MULTILINE),
    "delete": re.compile(rb"^[^\n]*: Deleted: (\d+) messages?\r?$", re.MULTILINE),
}


def is_queue_id(text: str) -> bool:
    """Whether this can be one of Postfix's queue IDs, short (hexadecimal) or long (base 52, a ``z``, base 51; global/mail_queue.h).

    >>> is_queue_id("603C620E32A"), is_queue_id("4jXC8p1j1DzKr8M"), is_queue_id("ALL"), is_queue_id("-d")
    (True, True, False, False)
    """
    return _QUEUE_ID.fullmatch(text) is not None


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address by its meaning, whatever its spelling; None when it is none.

    >>> parse_address("::ffff:192.0.2.1") == parse_address("192.0.2.1"), parse_address("2001:DB8:0::1")
    (True, IPv6Address('2001:db8::1'))
    """
    try:
        address = ipaddress.ip_address(text[5:] if text[:5].lower() == "ipv6:" else text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


class QueueEntry(NamedTuple):
    """One message as ``postqueue -j`` lists it."""

    queue_id: str
    queue_name: str
    """active, deferred, hold or incoming."""
    arrival_time: int
    """Seconds since the epoch."""
    size: int
    """Bytes."""
    sender: str
    """The null sender is empty."""
    nrcpt: int
    """Recipients that are still to be served."""
    domains: tuple[tuple[str, int], ...]
    """Their domains in lower case, and how many recipients each has."""


class Envelope(NamedTuple):
    """What a queue file's envelope says about where the message came from."""

    account: str | None
    """sasl_username."""
    client_ip: str | None
    """As the log had it: with XFORWARD that of the first client, not of a content filter."""


class Match(NamedTuple):
    """A message that is the culprit's."""

    entry: QueueEntry
    envelope: Envelope | None
    """None: the join knew it, and its envelope was not read."""


class Found(NamedTuple):
    """What is the culprit's in the queue."""

    matches: list[Match]
    """Newest first."""
    queued: int
    """Messages in the whole queue."""
    read: int
    """Envelopes read."""
    unread: int
    """Messages that may be the culprit's and whose envelopes were not read: there were more than ``max_envelopes``."""
    skipped: int
    """Lines of ``postqueue`` that could not be understood."""

    @property
    def entries(self) -> list[QueueEntry]:
        return [match.entry for match in self.matches]


class Outcome(NamedTuple):
    """What became of messages that were to be held, released or deleted: asked = done + gone + what an error kept from being done."""

    action: Action
    asked: int
    done: int
    """By postsuper's own count, and those that were so ``already``. After an error there may be more."""
    already: int
    """Of those done: on hold before, or not on hold when they were to be released."""
    gone: int
    """Not in the queue any more, or no longer the same message."""
    statement: tuple[str, ...]
    """The command; queue IDs went to its standard input."""
    error: ProgramError | None = None


class Listing:
    """The queue, one :class:`QueueEntry` at a time. ``skipped`` counts lines that are none."""

    def __init__(self, texts: Generator[bytes, None, None]) -> None:
        self.skipped = 0
        self._texts = texts

    def __iter__(self) -> Iterator[QueueEntry]:
        with contextlib.closing(self._texts) as texts:
            for text in texts:
                entry = parse_entry(text)
                if entry is None:
                    self.skipped += 1
                else:
                    yield entry


def parse_entry(line: bytes) -> QueueEntry | None:
    """A line of ``postqueue -j``; None when it is not one."""
    try:
        given = json.loads(line.decode("utf-8", "replace"))
        queue_id, queue_name, sender = given["queue_id"], given["queue_name"], given["sender"]
        arrival, size = given["arrival_time"], given["message_size"]
        domains: dict[str, int] = {}
        for recipient in given["recipients"]:
            domain = recipient["address"].rpartition("@")[2].lower()
            domains[domain] = domains.get(domain, 0) + 1
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not all(isinstance(text, str) for text in (queue_id, queue_name, sender)) or not is_queue_id(queue_id):
        return None
    if not (type(arrival) is int and type(size) is int and 0 <= arrival < 1 << 40 and size >= 0):
        return None
    # showq(8) writes it for the null sender.
    sender = "" if sender == "MAILER-DAEMON" else sender
    return QueueEntry(queue_id, queue_name, arrival, size, sender, sum(domains.values()), tuple(domains.items()))


# envelopes


class _Forged(Exception):
    """A text among the envelopes pretends to be the beginning of a message."""


_BEGIN = b"*** ENVELOPE RECORDS "
_BEGINNING = re.compile(rb"\*\*\* ENVELOPE RECORDS (?:[a-z]+/)?(?:[0-9A-Za-z]/)*([0-9A-Za-z]+) \*\*\*")
_END = b"*** MESSAGE FILE END "
_FULL_NAME = b"sender_fullname: "
_SENDER = b"sender: "
_ACCOUNT = b"named_attribute: sasl_username="
_LOGGED_CLIENT = b"named_attribute: log_client_address="
_CLIENT = b"named_attribute: client_address="
_RECIPIENTS = (b"recipient: ", b"original_recipient: ", b"done_recipient: ", b"named_attribute: dsn_orig_rcpt=")


class _Section:
    """The envelope of one message, line by line."""

    def __init__(self) -> None:
        self.ended = False
        self._account: bytes | None = None
        self._client: bytes | None = None
        self._logged_client: bytes | None = None
        self._before_sender = True
        self._shut = False

    def take(self, line: bytes) -> None:
        if line.startswith(_END):
            self.ended = True
        elif self._shut:
            return
        elif line.startswith(_RECIPIENTS) or line.startswith(_FULL_NAME):
            self._shut = True
        elif line.startswith(_SENDER):
            self._before_sender = False
        elif self._before_sender:
            if self._account is None and line.startswith(_ACCOUNT):
                self._account = line[len(_ACCOUNT) :]
        elif self._logged_client is None and line.startswith(_LOGGED_CLIENT):
            self._logged_client = line[len(_LOGGED_CLIENT) :]
        elif self._client is None and line.startswith(_CLIENT):
            self._client = line[len(_CLIENT) :]

    def envelope(self) -> Envelope:
        account = None
        if self._account:
            with contextlib.suppress(UnicodeDecodeError):
                account = self._account.decode("utf-8")
        client = (self._logged_client or self._client or b"").decode("utf-8", "replace")
        return Envelope(account, client if parse_address(client) is not None else None)


class _Sections:
    """The output of ``postcat -eq`` for these IDs, line by line; see the module's text for what is believed."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.found: dict[str, _Section] = {}
        self._turn = {queue_id: number for number, queue_id in enumerate(ids)}
        self._last = -1
        self._section: _Section | None = None

    def take(self, line: bytes) -> None:
        if line.startswith(_BEGIN):
            self._begin(line)
        elif self._section is not None:
            self._section.take(line)

    def _begin(self, line: bytes) -> None:
        if self._section is not None and len(self._turn) == 1:
            return  # within the one message that was asked for: its own text
        match = _BEGINNING.fullmatch(line)
        queue_id = match[1].decode("ascii") if match else ""
        turn = self._turn.get(queue_id, -1)
        if turn <= self._last:
            raise _Forged
        self._last = turn
        self._section = self.found[queue_id] = _Section()

    def envelopes(self, whole: bool = True) -> dict[str, Envelope]:
        """By queue ID; unless the output is ``whole``, without a section that was cut off."""
        return {queue_id: section.envelope() for queue_id, section in self.found.items() if whole or section.ended}


def parse_envelopes(texts: Iterable[bytes], ids: Sequence[str]) -> dict[str, Envelope] | None:
    """The envelopes in the output of ``postcat -eq`` for these IDs; None when the output can't be trusted for more than one."""
    sections = _Sections(ids)
    try:
        for text in texts:
            sections.take(text)
    except _Forged:
        return None
    return sections.envelopes()


_NOT_THERE = re.compile(r"open queue file ([0-9A-Za-z]+): No such file or directory")


class PostfixQueue:
    """The queue of one Postfix; see the module's text. Any thread may use it.

    Envelopes that :meth:`find` has read are remembered as long as their messages are in the queue, so that the next look is cheap.

    All methods raise ProgramError when a program can't be started, takes too long or fails.
    """

    def __init__(self, settings: "PostfixSettings") -> None:
        self._settings = settings
        self._seen: dict[tuple[str, int], Envelope] = {}

    def _argv(self, program: Sequence[str], *arguments: str) -> tuple[str, ...]:
        directory = self._settings.config_directory
        return (*program, *(("-c", directory) if directory else ()), *arguments)

    # looking

    def entries(self) -> Listing:
        """The whole queue, read while it comes."""
        argv = self._argv(self._settings.postqueue, "-j")
        return Listing(lines(argv, seconds=LISTING_SECONDS, limit=_MAX_LINE_BYTES))

    def envelopes(self, ids: Iterable[str]) -> Iterator[tuple[str, Envelope]]:
        """Queue ID and envelope, in batches. Of a message that has left the queue meanwhile there is none."""
        for batch in _batches((queue_id for queue_id in dict.fromkeys(ids) if is_queue_id(queue_id)), _READ_AT_ONCE):
            yield from self._read(batch)

    def _read(self, ids: Sequence[str]) -> Iterator[tuple[str, Envelope]]:
        """One batch. postcat ends at the first message that is gone, so it is asked again for those that it had not come to."""
        while ids:
            argv = self._argv(self._settings.postcat, "-eq", *ids)
            sections = _Sections(ids)
            error = None
            try:
                texts = lines(argv, seconds=READING_SECONDS, limit=_MAX_ENVELOPE_LINE_BYTES, last_word=b": fatal: ")
                with contextlib.closing(texts):
                    for text in texts:
                        sections.take(text)
            except _Forged:
                if len(ids) == 1:
                    return
                half = len(ids) // 2
                yield from self._read(ids[:half])
                yield from self._read(ids[half:])
                return
            except ProgramError as problem:
                error = problem
            read = sections.envelopes(whole=error is None)
            gone = _not_there(error) if error is not None else None
            yield from ((queue_id, envelope) for queue_id, envelope in read.items() if queue_id != gone)
            if error is None:
                return
            left = [queue_id for queue_id in ids if queue_id not in read and queue_id != gone]
            if gone not in ids and (not read or error.kind == "time-out"):
                raise error
            # What it fell over without saying which: the first that it did not get to the end of.
            ids = left if gone in ids else left[1:]

    def find(
        self,
        *,
        account: str | None = None,
        client_ip: str | None = None,
        known: Mapping[str, int | None] | None = None,
        foreign: Collection[str] = (),
        max_envelopes: int = MAX_ENVELOPES,
        progress: Progress | None = None,
    ) -> Found:
        """The messages of an account, or from an address.

        ``known``: queue ID → event time of acceptance in microseconds, from the join: the culprit's when the queue's arrival time fits;
        else, and with None for a time, the envelope is read. ``foreign``: queue IDs that are known to be others'; not looked at. Of the
        rest at most ``max_envelopes`` envelopes are read, the newest first. Raises UserError for an address that is none.
        """
        is_culprit = _culprit(account, client_ip)
        tell = progress or _tell_nobody
        listing = self.entries()
        sure: dict[str, Match] = {}
        newest: list[tuple[int, int, QueueEntry]] = []
        queued = candidates = 0
        for queued, entry in enumerate(listing, 1):
            if queued % _TELL_EVERY == 0:
                tell("listing", queued, 0)
            if _accepted_then(entry, (known or {}).get(entry.queue_id)):
                sure[entry.queue_id] = Match(entry, None)
            elif entry.queue_id not in foreign:
                candidates += 1
                keep = heapq.heappush if len(newest) < max_envelopes else heapq.heappushpop
                keep(newest, (entry.arrival_time, queued, entry))
        # A message that went from one queue to another meanwhile may be listed twice.
        unsure = {entry.queue_id: entry for _, _, entry in sorted(newest, reverse=True) if entry.queue_id not in sure}
        shown, read = self._shown(unsure, tell)
        matches = [*sure.values(), *(Match(unsure[queue_id], shown[queue_id]) for queue_id in shown if is_culprit(shown[queue_id]))]
        matches.sort(key=lambda match: (-match.entry.arrival_time, match.entry.queue_id))
        return Found(matches, queued, read, candidates - len(newest), listing.skipped)

    def _shown(self, entries: Mapping[str, QueueEntry], tell: Progress) -> tuple[dict[str, Envelope], int]:
        """The envelopes of these messages, and how many of them had to be read now."""
        before = self._seen
        seen = self._seen = {_file(entry): before[_file(entry)] for entry in entries.values() if _file(entry) in before}
        unseen = [queue_id for queue_id, entry in entries.items() if _file(entry) not in seen]
        read = 0
        for read, (queue_id, envelope) in enumerate(self.envelopes(unseen), 1):
            if read % _READ_AT_ONCE == 0:
                tell("reading", read, len(unseen))
            seen[_file(entries[queue_id])] = envelope
        return {queue_id: seen[_file(entry)] for queue_id, entry in entries.items() if _file(entry) in seen}, read

    # acting

    def hold(self, entries: Iterable[QueueEntry], progress: Progress | None = None) -> Outcome:
        """No delivery is begun any more. Messages that are on hold already count as done."""
        return self._act("hold", entries, progress)

    def release(self, entries: Iterable[QueueEntry], progress: Progress | None = None) -> Outcome:
        """Back to the deferred queue, from where they are delivered at Postfix's next look at it."""
        return self._act("release", entries, progress)

    def delete(self, entries: Iterable[QueueEntry], progress: Progress | None = None) -> Outcome:
        """Gone for good; nobody is told."""
        return self._act("delete", entries, progress)

    def _act(self, action: Action, entries: Iterable[QueueEntry], progress: Progress | None) -> Outcome:
        """An error at the listing is raised, nothing was done then; a later one is in the outcome."""
        wanted = {entry.queue_id: entry for entry in entries}
        argv = self._argv(self._settings.postsuper, _OPTIONS[action], "-")
        tell = progress or _tell_nobody
        todo, already = self._still(action, wanted) if wanted else ([], 0)
        done = asked = 0
        error = None
        for batch in _batches(todo, _ACT_AT_ONCE):
            try:
                done += self._super(action, argv, batch)
            except ProgramError as problem:
                error = problem
                break
            asked += len(batch)
            tell(action, asked, len(todo))
        gone = len(wanted) - len(todo) - already + max(0, asked - done)
        return Outcome(action, len(wanted), done + already, already, gone, argv, error)

    def _still(self, action: Action, wanted: Mapping[str, QueueEntry]) -> tuple[list[str], int]:
        """The queue IDs under which there is still the same message, and how many of those are as they should be already.

        A message that goes from a queue not yet listed to one that was is not in the listing, so those that are not are looked for twice.
        """
        todo: list[str] = []
        seen: set[str] = set()
        already = 0
        for _ in range(2):
            for entry in self.entries():
                before = wanted.get(entry.queue_id)
                if before is None or entry.queue_id in seen:
                    continue
                seen.add(entry.queue_id)
                if (entry.arrival_time, entry.sender) != (before.arrival_time, before.sender):
                    continue
                if action != "delete" and (entry.queue_name == "hold") == (action == "hold"):
                    already += 1
                else:
                    todo.append(entry.queue_id)
            if len(seen) == len(wanted):
                break
        return todo, already

    def _super(self, action: Action, argv: Sequence[str], ids: Sequence[str]) -> int:
        wrong = [queue_id for queue_id in ids if not is_queue_id(queue_id)]
        if wrong:
            raise ValueError(f"not a queue ID: {wrong[0]!r}")
        ran = run(argv, input="".join(f"{queue_id}\n" for queue_id in ids).encode("ascii"), seconds=ACTING_SECONDS)
        counted = _COUNTS[action].findall(ran.err)
        if not counted:
            raise ProgramError("failed", f"{argv[0]} did not say how many messages it found; is it Postfix's postsuper?", ran.code)
        return int(counted[-1])


def _culprit(account: str | None, client_ip: str | None) -> Callable[[Envelope], bool]:
    if (account is None) == (client_ip is None):
        raise ValueError("either an account or an address")
    if account is not None:
        if not account.strip():
            raise UserError("the account is empty; name one as it logs in, such as info@example.com")
        key = account_key(account)
        return lambda envelope: envelope.account is not None and account_key(envelope.account) == key
    address = parse_address(client_ip or "")
    if address is None:
        raise UserError(f'"{one_line(client_ip or "", 60)}" is not an IP address; write it as 192.0.2.1 or 2001:db8::1')
    return lambda envelope: envelope.client_ip is not None and parse_address(envelope.client_ip) == address


def _tell_nobody(what: str, done: int, of: int) -> None:
    pass


def _file(entry: QueueEntry) -> tuple[str, int]:
    """What tells a message from a later one with the same queue ID."""
    return entry.queue_id, entry.arrival_time


def _accepted_then(entry: QueueEntry, time: int | None) -> bool:
    return time is not None and abs(entry.arrival_time * _US + _US // 2 - time) <= TOLERANCE_SECONDS * _US + _US // 2


def _not_there(error: ProgramError) -> str | None:
    match = _NOT_THERE.search(str(error))
    return match[1] if match else None


def _batches(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for queue_id in ids:
        batch.append(queue_id)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
