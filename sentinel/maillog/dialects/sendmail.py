r"""sendmail (8.9 to 8.18): ``sendmail``, ``sm-mta`` and ``sm-msp-queue`` in syslog.

What is believed (sendmail/headers.c logsender(), deliver.c logdelivery(), srvrsmtp.c, srvrsmtp.c and milter ruleset lines):

- ``from=``: the sender, at the left, is the client's, as is ``msgid=`` behind the numbers. The sender closes
  with its bracket, quoted strings and comments honoured; size and nrcpts follow it at once; ``relay=`` is the last of the line.
- ``to=``: recipients are the client's, ``stat=`` and ``reply=`` the remote server's. Each is taken from the left, so that no text before
  a field can be a stranger's except in quotes. The status is that of ``dsn=``, which stands before the remote server's words.
- ``relay=``: a name with "(may be forged)" is not taken; sendmail lets no blank, bracket or comma into an ident answer (cleanstrcpy()).
- A login is written once, ``AUTH=server``, without queue ID; the join finds its messages by process ID and address (``track/_join.pyx``).
"""

import re

from sentinel.maillog.dialects.event import (
    BOUNCED,
    DEFERRED,
    IP,
    MAILBOX,
    QUOTED,
    SENT,
    TEXT,
    Event,
    Span,
    code,
    event,
    numbers,
    texts,
)

_CLIENT = (
    rb"(?:(?:[^ \[\],@]*@)?(?P<client_name>[^ \[\],@]+) )?\[(?:IPv6:)?(?P<client_ip>"
    + IP
    + rb")\](?P<forged> \(may be (?:forged|F)[^)]*\))?"
)
_ID = re.compile(rb"(?=[A-Za-z]*\d)([A-Za-z0-9]{8,24}): ")
_FROM = re.compile(
    rb"from=(?:<(?P<sender>"
    + MAILBOX
    + rb")>|(?P<bare>[^<, ][^, ]*)), size=(?P<size>\d+), class=-?\d+, (?:pri=\d+, )?nrcpts=(?P<nrcpt>\d+)"
    rb"(?:, msgid=(?P<message_id>[^ ]*)(?=, |\Z))?",
    re.DOTALL,
)
_FROM_CUT = re.compile(rb"from=.*?, size=(?P<size>\d+), class=-?\d+, (?:pri=\d+, )?nrcpts=(?P<nrcpt>\d+)", re.DOTALL)
_RELAY = re.compile(_CLIENT, re.DOTALL)
_RECIPIENT = re.compile(rb"(?:[^\"<,]|" + QUOTED + rb"|<" + MAILBOX + rb">)*", re.DOTALL)
_AFTER_TO = (b", ctladdr=", b", delay=")
_DELIVERY = re.compile(
    rb"(?:, ctladdr=(?:<" + MAILBOX + rb">|[^,<]*)(?: \(\d+/\d+\))?)?"
    rb", delay=(?:(?P<days>\d+)\+)?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)"
    rb"(?:, xdelay=[0-9:+]*)?(?:, mailer=[^ ,]*)?(?:, pri=-?\d+)?"
    rb"(?:, relay=(?P<relay>(?:(?!, (?:dsn|reply|stat)=).)*))?(?:, dsn=(?P<dsn>\d\.\d{1,3}\.\d{1,3}))?"
    rb"(?:, quarantine=(?:(?!, (?:reply|stat)=).)*)?"
    rb"(?:, reply=(?P<said>.*))?, stat=(?P<reply>.*)",
    re.DOTALL,
)
_REMOTE = re.compile(rb"(?P<relay_host>[^ \[\]]+?)?\.?(?:(?:\A| |(?<=\.) )\[(?:IPv6:)?(?P<relay_ip>" + IP + rb")\])?\Z")
_AUTH = re.compile(
    rb"AUTH=server, relay="
    + _CLIENT
    + rb"(?:, mech=(?P<mech>[^ ,]+))?, authid=(?P<sasl_username>.*?)(?:, mech=(?P<sasl_method>[^ ,]+))?, bits=\d+\Z",
    re.DOTALL,
)
_AUTH_FAILED = re.compile(rb"AUTH failure \((?P<sasl_method>[^ )]*)\): (?P<reply>.*?)(?:, user=(?P<sasl_username>.*))?\Z", re.DOTALL)
_FAULT = re.compile(rb"generic failure|temporary failure|out of memory")
_RULESET = re.compile(
    rb"ruleset=(?P<stage>\w+), arg1=(?:<(?P<address>"
    + MAILBOX
    + rb")>|[^,<]*)(?:, arg2=[^,]*)?, relay="
    + _CLIENT
    + rb", (?P<action>reject|quarantine|discard)"
    rb"(?:=(?P<reply>.*))?\Z",
    re.DOTALL,
)
_RULESET_CUT = re.compile(rb"ruleset=(?P<stage>\w+), ")
_NULL = re.compile(_CLIENT + rb" did not issue MAIL/EXPN/VRFY/ETRN during connection to [^ ]+\Z", re.DOTALL)
_LOST = re.compile(rb"(?:lost input channel|timeout waiting for input) from " + _CLIENT + rb"(?: |\Z)", re.DOTALL)
_CONNECT = re.compile(rb"NOQUEUE: connect from " + _CLIENT + rb"\Z", re.DOTALL)
_ATTACK = re.compile(_CLIENT + rb": (?P<reply>possible SMTP attack: command=.*)", re.DOTALL)
_NOTICE = re.compile(
    rb"(?P<linked_queue_id>(?=[A-Za-z]*\d)[A-Za-z0-9]{8,24}): (?P<action>DSN|return to sender|sender notify|postmaster notify): "
)


def _client(match: "re.Match[bytes]") -> list[Span]:
    return texts(match, "client_ip") if match["forged"] else texts(match, "client_name", "client_ip")


def read(line: bytes, at: int) -> list[Event] | None:
    queue_id = _ID.match(line, at)
    own: list[Span] = []
    if queue_id is not None:
        own.append((TEXT["queue_id"], *queue_id.span(1)))
        at = queue_id.end()
    word = line[at : at + 5]
    if queue_id is not None and word.startswith(b"from="):
        return _from(line, at, own)
    if queue_id is not None and word.startswith(b"to="):
        return _to(line, at, own)
    if word == b"AUTH=":
        match = _AUTH.match(line, at)
        if match is None:
            return []
        method = [(TEXT["sasl_method"], *match.span("mech"))] if match["mech"] else texts(match, "sasl_method")
        return [event("auth_success", _client(match) + method + texts(match, "sasl_username"))]
    if word == b"AUTH ":
        return _auth_failed(line, at)
    if word == b"rules":
        return _ruleset(line, at, own)
    if queue_id is not None and line.startswith(b"done; delay=", at):
        return [event("removed", own)]
    match = _NOTICE.match(line, at)
    if match is not None and queue_id is not None:
        return [event("bounce_notice", own + texts(match, "linked_queue_id", "action"))]
    for pattern, kind in ((_NULL, "disconnect"), (_CONNECT, "connect"), (_LOST, "disconnect")):
        match = pattern.match(line, at)
        if match is not None:
            return [event(kind, _client(match))]
    match = _ATTACK.match(line, at)
    return [] if match is None else [event("warning", _client(match) + texts(match, "reply"))]


def _from(line: bytes, at: int, own: list[Span]) -> list[Event]:
    match = _FROM.match(line, at)
    queued = list(own)
    if match is not None:
        sender = match.span("sender") if match.start("sender") >= 0 else match.span("bare")
        queued.append((TEXT["sender"], *sender))
        queued += texts(match, "message_id")
    else:
        # The sender was shortened within its quotes: then nobody can tell where it ends.
        match = _FROM_CUT.match(line, at)
        if match is None:
            return []
    counted = numbers(match, "size", "nrcpt")
    relay = line.rfind(b", relay=", match.end())
    client = _RELAY.fullmatch(line, relay + 8) if relay >= 0 else None
    if client is not None:
        first = event("accepted", own + _client(client))
    elif relay >= 0 and b"@localhost" in line[relay:]:
        first = event("picked_up", own + [span for span in queued if span[0] == TEXT["sender"]])
    else:
        return [event("queued", queued, counted)]
    return [first, event("queued", queued, counted)]


def _recipients(line: bytes, at: int) -> tuple[list[tuple[int, int]], int]:
    """Where each of ``<a>,<b>,c`` stands, and where the list ends; -1 where that can't be told."""
    found = []
    while True:
        match = _RECIPIENT.match(line, at)
        end = match.end() if match is not None else at
        if end > at and line[at:end] != b" [more]":
            found.append((at + 1, end - 1) if line[at] == 60 and line[end - 1] == 62 else (at, end))
        if line.startswith(_AFTER_TO, end):
            return found, end
        if line[end : end + 1] != b",":
            return [], -1
        at = end + 1


def _to(line: bytes, at: int, own: list[Span]) -> list[Event]:
    recipients, end = _recipients(line, at + 3)
    match = _DELIVERY.match(line, end) if end >= 0 else None
    if match is None:
        return []
    start, stop = match.span("reply")
    stat = line[start : start + 10]
    if stat[:6] == b"queued":
        return []
    dsn = match["dsn"]
    if dsn:
        said = {50: SENT, 52: DEFERRED}.get(dsn[0], BOUNCED)
    else:
        said = SENT if stat[:4] == b"Sent" else DEFERRED if stat[:8] == b"Deferred" else BOUNCED
    for opening in (b"Sent (", b"Deferred (", b"Deferred: "):
        if line.startswith(opening, start):
            start += len(opening)
            if opening.endswith(b"(") and line.endswith(b")"):
                stop -= 1
            break
    if match["said"]:
        start, stop = match.span("said")
    common = [*own, *texts(match, "dsn"), (TEXT["reply"], start, stop)]
    counted: list[tuple[int, int]] = []
    code(line, start, stop, common, counted, dsn=not dsn)
    remote = _REMOTE.match(line[slice(*match.span("relay"))]) if match["relay"] else None
    if remote is not None:
        base = match.start("relay")
        common += [(field, base + first, base + last) for field, first, last in texts(remote, "relay_host", "relay_ip")]
    days, hours, minutes, seconds = (int((match[name] or b"0")[:9]) for name in ("days", "hours", "minutes", "seconds"))
    delay = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    return [event("delivery", [*common, (TEXT["recipient"], *span)], counted, said, delay) for span in recipients] or [
        event("delivery", common, counted, said, delay)
    ]


def _auth_failed(line: bytes, at: int) -> list[Event]:
    relay = line.rfind(b", relay=")
    client = _RELAY.fullmatch(line, relay + 8) if relay > at else None
    match = _AUTH_FAILED.match(line, at, relay if client is not None else len(line))
    if match is None:
        return []
    spans = _client(client) if client is not None else []
    if _FAULT.search(line, *match.span("reply")):
        # The server's own fault, not an attack.
        return [event("warning", spans + texts(match, "reply"))]
    return [event("auth_failed", spans + texts(match, "sasl_method", "reply", "sasl_username"))]


def _ruleset(line: bytes, at: int, own: list[Span]) -> list[Event]:
    match = _RULESET.match(line, at)
    if match is None:
        cut = _RULESET_CUT.match(line, at)
        return [] if cut is None else [event("rejected", own + texts(cut, "stage"))]
    spans = own + _client(match) + texts(match, "stage", "action", "reply")
    counted: list[tuple[int, int]] = []
    if match["reply"]:
        code(line, *match.span("reply"), spans, counted)
        if counted:
            # The code stands in a field of its own.
            start, end = match.span("reply")
            start += 4
            if spans[-1][0] == TEXT["dsn"]:
                start = min(end, spans[-1][2] + 1)
            spans = [(field, first, last) if field != TEXT["reply"] else (field, min(start, end), end) for field, first, last in spans]
    if match.start("address") >= 0:
        field = {b"check_mail": "sender", b"check_rcpt": "recipient"}.get(match["stage"])
        if field is not None:
            spans.append((TEXT[field], *match.span("address")))
    return [event("rejected", spans, counted)]
