r"""exim (4.x): its main log, written by itself (no host, no tag) or through syslog.

What is believed (receive.c, deliver.c, smtp_in.c, host.c):

- ``H=name (helo) [ip]:port``: the name is verified, the helo name is the client's. exim refuses a helo name of other characters than
  those of host names (``check_helo()``), so the first "[ip]" after it is the client's. With ``helo_accept_junk_hosts`` a name may
  hold blanks and brackets: then the address is believed only where there is but one place for it.
- ``<=``: the sender is at the left, quoted where it holds a blank. ``P=`` and ``S=`` are exim's; a client certificate (``DN=``), a server
  name (``SNI=``) and an ident answer (``U=``) stand before the login ``A=``, which is dropped where they leave a doubt. ``id=`` and ``T=``
  follow it. Only what follows these is taken for the list of recipients.
- ``=>`` and its kin: the recipient is at the left; ``C="..."`` and the text after ``: `` are the remote server's and close the line.
- ``set_id=`` closes the line of a failed login.
"""

import re

from sentinel.maillog.dialects.event import (
    BOUNCED,
    DEFERRED,
    IP,
    MAILBOX,
    NUMBER,
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

_PREFIX = re.compile(
    rb"(?:\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?: [+-]\d\d:?\d\d)? )?(?:\[(?P<pid>\d{1,10})\] )?"
    rb"(?:(?P<queue_id>[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{2}|[0-9A-Za-z]{11}-[0-9A-Za-z]{4})) )?"
)
_WORD = rb"(?:[^ \"\\]|\\.|" + QUOTED + rb")"
_HOST_END = rb"\[(?P<client_ip>" + IP + rb")\](?::(?P<client_port>\d{1,5}))?(?= |:|\Z)"
_HOST = re.compile(rb"(?:(?P<client_name>[^ ()\[\]=]+) )?(?:\((?P<helo>[^ ()]*)\) )?" + _HOST_END)
_JUNK_HELO = re.compile(rb"(?:(?P<client_name>[^ ()\[\]=]+) )?\((?P<helo>.*)\) " + _HOST_END, re.DOTALL)
_INTERFACE = re.compile(rb"(?: I=\[[^\] ]*\](?::\d+)?)?")
_ARRIVAL = re.compile(rb"<= (?:<>|(?P<sender>" + _WORD + rb"+))(?: R=[^ ]+)?(?: E=[^ ]+)?", re.DOTALL)
_PROTOCOL = re.compile(rb"(?: U=(?P<ident>(?:(?! P=).)*))? P=[^ ]+", re.DOTALL)
_SIZE = re.compile(rb" S=(?P<size>\d+)(?= |\Z)")
_LOGIN = re.compile(rb" A=(?P<sasl_method>[^ :]+)(?::(?P<sasl_username>(?:(?! (?:PRX=|PRDR|K|L|TFO|C=|RT=)).)+))?", re.DOTALL)
_ID = re.compile(rb"(?: (?:M8S|RT|DKIM|CV|L)=[^ ]*)* id=(?P<message_id>[^ ]+)")
_SUBJECT = re.compile(rb" T=" + QUOTED, re.DOTALL)
_FOR = re.compile(rb"(?: from <" + MAILBOX + rb">)? for (?=[^ ])", re.DOTALL)
_RECIPIENT = re.compile(_WORD + rb"+(?: |\Z)", re.DOTALL)
_DELIVERY = re.compile(
    rb"(?P<sign>=>|->|>>|\*>|\*\*|==) (?:(?P<recipient>[^|/ \"\\](?:"
    + _WORD
    + rb")*|"
    + QUOTED
    + rb"(?:"
    + _WORD
    + rb")*)|(?P<path>[|/](?:(?! <| R=).)*))"
    rb"(?: \([^)<]*\))?(?: <(?P<parent>"
    + MAILBOX
    + rb")>(?=[ :]|\Z))?:?(?: F=<"
    + MAILBOX
    + rb">)?(?: P=<"
    + MAILBOX
    + rb">)?(?: R=[^ :]+)?(?: ST=[^ :]+)?"
    rb"(?: T=[^ :]+)?(?: S=\d+)?(?: H=(?P<relay_host>[^ \[\]]+) \[(?P<relay_ip>" + IP + rb")\](?::(?P<relay_port>\d{1,5}))?)?",
    re.DOTALL,
)
_PEER = re.compile(rb" defer \(-?\d+\) H=(?P<relay_host>[^ \[\]]+) \[(?P<relay_ip>" + IP + rb")\](?::(?P<relay_port>\d{1,5}))?")
_CONFIRMED = re.compile(rb" C=\"(?P<reply>.*?)\"(?= (?:QT|DT)=|\Z)", re.DOTALL)
_REMOTE_ERROR = b"SMTP error from remote mail server after "
_REMOTE = re.compile(
    re.escape(_REMOTE_ERROR)
    + rb"(?:(?!: (?:host |[2-5]\d\d[ -])).)*: (?:host (?P<relay_host>[^ \[\]]+) \[(?P<relay_ip>"
    + IP
    + rb")\](?::(?P<relay_port>\d{1,5}))?: )?(?P<reply>[2-5]\d\d[ -].*)",
    re.DOTALL,
)
_QUEUE_TIME = re.compile(rb" QT=(?:(\d{1,4})w)?(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,9}(?:\.\d{1,6})?)s)?(?: DT=[^ ]*)?\Z")
_SECONDS = (604800, 86400, 3600, 60, 1)
_OUTGOING = re.compile(
    rb"H=(?P<relay_host>[^ \[\]()]+) \[(?P<relay_ip>" + IP + rb")\](?::(?P<relay_port>\d{1,5}))?:? "
    rb"(?P<reply>(?:SMTP error from remote mail server|SMTP timeout|Connection |Remote host closed|Network is|No route|a TLS session|TLS )"
    rb".*)",
    re.DOTALL,
)
_REJECTED = re.compile(
    rb"(?: U=[^ ]*)?(?: X=[^ ]*)?(?: CV=[^ ]*)?(?P<named>(?: DN=\"[^\"]*\")?(?: SNI=[^ ]*)?)(?: F=<(?P<sender>" + MAILBOX + rb")>)?"
    rb"(?: A=(?P<sasl_method>[^ :]+)(?::(?P<sasl_username>[^ ]+))?)? (?:temporarily )?(?P<action>reject)ed (?:after )?"
    rb"(?P<stage>[A-Z][A-Z-]*|connection)(?: or HELO| in \"[^\"]*\" ACL)?(?: <(?P<recipient>"
    + MAILBOX
    + rb")>)?(?:(?: from [^:]*)?: (?P<reply>.*))?",
    re.DOTALL,
)
_UNVERIFIED = re.compile(
    rb"(?: U=[^ ]*)?(?: X=[^ ]*)?(?: CV=[^ ]*)? (?P<action>sender verify (?:fail|defer)) for <(?P<sender>"
    + MAILBOX
    + rb")>(?:: (?P<reply>.*))?",
    re.DOTALL,
)
_AUTH_FAILED = re.compile(rb"(?P<sasl_method>[^ ]+) authenticator failed for (?:H=)?")
_AUTH_REPLY = re.compile(
    rb"(?: U=[^ ]*)?: (?P<reply_code>\d{3}) (?P<reply>(?:(?! \(set_id=).)*)(?: \(set_id=(?P<sasl_username>.*)\))?\Z", re.DOTALL
)
_SESSION = re.compile(rb"SMTP connection from ")
_BROKEN = re.compile(rb"(?:no MAIL in SMTP connection|unexpected disconnection while reading SMTP command) from ")
_OTHER = re.compile(
    rb"(?:Start|End) queue run: |exim \d|cwd=|TLS error on |no (?:host name|IP address) found |SMTP |rejected |refused |Warning: |"
    rb"daemon |pid \d|SIGHUP |temporarily |unqualified "
)
_MOST_RECIPIENTS = 50_000


def _host(line: bytes, at: int) -> "re.Match[bytes] | None":
    match = _HOST.match(line, at)
    if match is None and line.count(b") [", at) == 1:
        match = _JUNK_HELO.match(line, at)
    return match


def _client(match: "re.Match[bytes]") -> tuple[list[Span], list[tuple[int, int]]]:
    return texts(match, "client_name", "client_ip", "helo"), numbers(match, "client_port")


def read(line: bytes, at: int) -> list[Event] | None:
    prefix = _PREFIX.match(line, at)
    assert prefix is not None
    own, mine = texts(prefix, "queue_id"), numbers(prefix, "pid")
    at = prefix.end()
    if own:
        sign = line[at : at + 3]
        if sign == b"<= ":
            return _arrival(line, at, own, mine)
        if sign in (b"=> ", b"-> ", b">> ", b"*> ", b"** ", b"== "):
            return _delivery(line, at, own, mine)
        if line.startswith(b"Completed", at):
            return [event("removed", own, mine)]
    if line.startswith(b"H=", at):
        return _incoming(line, at, own, mine) or _outgoing(line, at, own, mine)
    match = _AUTH_FAILED.match(line, at)
    if match is not None:
        return _auth_failed(line, match, mine)
    match = _SESSION.match(line, at)
    if match is not None:
        host = _host(line, match.end())
        if host is None:
            return []
        spans, counted = _client(host)
        return [event("connect" if b"(TCP/IP connection count = " in line else "disconnect", spans, mine + counted)]
    match = _BROKEN.match(line, at)
    if match is not None:
        host = _host(line, match.end())
        return [] if host is None else [event("disconnect", _client(host)[0], mine + _client(host)[1])]
    # Anything else is exim's where the line has its message ID or came through its syslog tag.
    if own or mine or not (line[:1].isdigit() and line[10:11] == b" ") or _OTHER.match(line, at):
        return []
    return None


def _arrival(line: bytes, at: int, own: list[Span], mine: list[tuple[int, int]]) -> list[Event]:
    match = _ARRIVAL.match(line, at)
    if match is None:
        return []
    sender = match.span("sender") if match["sender"] is not None else (at + 4, at + 4)
    accepted, queued, counted = list(own), [*own, (TEXT["sender"], *sender)], list(mine)
    at = match.end()
    host = None
    remote = line.startswith(b" H=", at)
    if remote:
        host = _host(line, at + 3)
        if host is None:
            # The helo name is junk and there is no telling where it ends.
            return [event("accepted", accepted, mine), event("queued", queued, mine)]
        spans, more = _client(host)
        accepted += spans
        counted += more
        at = _end(_INTERFACE, line, host.end())
    protocol = _PROTOCOL.match(line, at)
    if protocol is None:
        return [event("accepted", accepted, counted), event("queued", queued, mine)]
    size = _SIZE.search(line, protocol.end())
    numbered = list(mine)
    stop = len(line)
    if size is not None:
        numbered += numbers(size, "size")
        stop = size.start()
    if remote:
        accepted += _login(line, protocol, stop)
    numbered += _tail(line, stop if size is None else size.end(), queued)
    if not remote:
        return [event("picked_up", [*own, (TEXT["sender"], *sender)], mine), event("queued", queued, numbered)]
    return [event("accepted", accepted, counted), event("queued", queued, numbered)]


def _end(pattern: "re.Pattern[bytes]", line: bytes, at: int) -> int:
    match = pattern.match(line, at)
    return at if match is None else match.end()


def _login(line: bytes, protocol: "re.Match[bytes]", stop: int) -> list[Span]:
    at = protocol.end()
    quote = line.rfind(b'"', at, stop)
    if protocol["ident"] is not None and line.find(b" P=", at) >= 0:
        return []
    if quote >= 0:
        if _SIZE.search(line, stop + 1):
            return []
        at = quote + 1
    at = line.find(b" A=", at, stop)
    match = _LOGIN.match(line, at, stop) if at >= 0 else None
    if match is None:
        return []
    spans = texts(match, "sasl_method")
    if match["sasl_username"]:
        start, end = match.span("sasl_username")
        # With +smtp_mailauth the sender that AUTH= of MAIL FROM names comes after it.
        colon = line.find(b":", start, end)
        spans.append((TEXT["sasl_username"], start, end if colon < 0 else colon))
    return spans


def _tail(line: bytes, at: int, queued: list[Span]) -> list[tuple[int, int]]:
    """What follows the size: message ID and recipients; the number of recipients where it is told."""
    match = _ID.match(line, at)
    if match is not None:
        queued += texts(match, "message_id")
        at = match.end()
    start = line.find(b' T="', at)
    subject = _SUBJECT.match(line, start) if start >= 0 else None
    if subject is not None:
        at = subject.end()
    named = _FOR.match(line, at)
    at = named.end() if named is not None else line.rfind(b" for ", at) + 5
    if at < 5:
        return []
    first = at
    count = 0
    if line.find(b'"', at) < 0 and line.find(b"\\", at) < 0:
        names = line[at:].split(b" ")
        if not all(b"@" in name for name in names):
            return []
        if len(names) == 1:
            queued.append((TEXT["recipient"], at, len(line)))
        return [(NUMBER["nrcpt"], len(names))]
    while at < len(line) and count < _MOST_RECIPIENTS:
        recipient = _RECIPIENT.match(line, at)
        if recipient is None or b"@" not in recipient[0]:
            return []
        if count == 0:
            end = recipient.end()
        count += 1
        at = recipient.end()
    if count == 1:
        queued.append((TEXT["recipient"], first, end))
    return [(NUMBER["nrcpt"], count)] if count else []


def _delivery(line: bytes, at: int, own: list[Span], mine: list[tuple[int, int]]) -> list[Event]:
    match = _DELIVERY.match(line, at)
    if match is None:
        return []
    sign = match["sign"]
    said = BOUNCED if sign == b"**" else DEFERRED if sign == b"==" else SENT
    spans, counted = own + texts(match, "relay_host", "relay_ip"), mine + numbers(match, "relay_port")
    start, end = match.span("recipient") if match["recipient"] is not None else match.span("path")
    if line[end - 1 : end] == b":":
        end -= 1
    parent = match.span("parent") if match.start("parent") >= 0 else None
    if parent is not None and line.find(b"@", start, end) < 0:
        # "marv <marv@example.com>": a local delivery, by its local part.
        spans.append((TEXT["recipient"], *parent))
    else:
        spans.append((TEXT["recipient"], start, end))
        if parent is not None:
            spans.append((TEXT["orig_to"], *parent))
    if said == SENT:
        reply = _CONFIRMED.search(line, match.end())
        if reply is not None:
            spans += texts(reply, "reply")
            code(line, *reply.span("reply"), spans, counted)
    else:
        at = match.end()
        if match["relay_ip"] is None:
            peer = _PEER.match(line, at)
            if peer is not None:
                spans += texts(peer, "relay_host", "relay_ip")
                counted += numbers(peer, "relay_port")
        colon = line.find(b": ", at - 1)
        if colon >= 0:
            _reply(line, colon + 2, spans, counted)
    return [event("delivery", spans, counted, said, _queue_time(line))]


def _reply(line: bytes, at: int, spans: list[Span], counted: list[tuple[int, int]]) -> None:
    """The remote server's words, else exim's."""
    start = line.find(_REMOTE_ERROR, at)
    remote = _REMOTE.match(line, start) if start >= 0 else None
    if remote is None:
        spans.append((TEXT["reply"], at, len(line)))
        return
    spans += texts(remote, "reply")
    code(line, *remote.span("reply"), spans, counted)
    if all(span[0] != TEXT["relay_ip"] for span in spans):
        spans += texts(remote, "relay_host", "relay_ip")
        counted += numbers(remote, "relay_port")


def _queue_time(line: bytes) -> float:
    at = line.rfind(b" QT=")
    match = _QUEUE_TIME.match(line, at) if at >= 0 else None
    if match is None:
        return -1.0
    return sum(float(value) * unit for value, unit in zip(match.groups(), _SECONDS, strict=True) if value)


def _incoming(line: bytes, at: int, own: list[Span], mine: list[tuple[int, int]]) -> list[Event]:
    host = _host(line, at + 2)
    if host is None:
        return []
    at = _end(_INTERFACE, line, host.end())
    match = _REJECTED.match(line, at)
    if match is None:
        match = _UNVERIFIED.match(line, at)
        if match is None:
            return []
        spans, counted = _client(host)
        return [event("warning", spans + own + texts(match, "action", "sender", "reply"), counted + mine)]
    spans, counted = _client(host)
    spans += own + texts(match, "sender", "action", "stage", "recipient", "reply")
    if not match["named"]:
        spans += texts(match, "sasl_method", "sasl_username")
    counted += mine
    if match["reply"]:
        code(line, *match.span("reply"), spans, counted)
    return [event("rejected", spans, counted)]


def _outgoing(line: bytes, at: int, own: list[Span], mine: list[tuple[int, int]]) -> list[Event]:
    match = _OUTGOING.match(line, at)
    if match is None:
        return []
    spans, counted = own + texts(match, "relay_host", "relay_ip"), mine + numbers(match, "relay_port")
    _reply(line, match.start("reply"), spans, counted)
    return [event("connect_failed", spans, counted)]


def _auth_failed(line: bytes, match: "re.Match[bytes]", mine: list[tuple[int, int]]) -> list[Event]:
    host = _host(line, match.end())
    reply = _AUTH_REPLY.match(line, _end(_INTERFACE, line, host.end())) if host is not None else None
    if host is None or reply is None:
        return [event("auth_failed", texts(match, "sasl_method"), mine)]
    spans, counted = _client(host)
    counted += mine + numbers(reply, "reply_code")
    if reply["reply_code"][:1] == b"4":
        # 435 Internal error: the server's own fault, not an attack.
        return [event("warning", spans + texts(reply, "reply"), counted)]
    return [event("auth_failed", spans + texts(match, "sasl_method") + texts(reply, "reply", "sasl_username"), counted)]
