r"""qmail (1.03, netqmail): what qmail-send writes through multilog (``@4000...``) or splogger.

It knows no client and no login. A message's number is its queue ID; it comes back. A delivery names neither message nor recipient, only
its own number, so deliveries belong to nobody; the remote server's words have underscores for blanks, as qmail writes them.
"""

import re

from sentinel.maillog.dialects.event import BOUNCED, DEFERRED, SENT, Event, event, numbers, texts

_SPLOGGER = re.compile(rb"(?:\d{9,11}\.\d{6} )?")
_INFO = re.compile(rb"info msg (?P<queue_id>\d{1,20}): bytes (?P<size>\d+) from <(?P<sender>.*)> qp \d+ uid (?P<uid>\d+)\s*\Z", re.DOTALL)
_STARTING = re.compile(rb"starting delivery \d+: msg (?P<queue_id>\d{1,20}) to (?:local|remote) (?P<recipient>.*)", re.DOTALL)
_DELIVERY = re.compile(rb"delivery \d+: (?P<how>success|failure|deferral): (?P<reply>.*)", re.DOTALL)
_PEER = re.compile(rb"(?:Connected_to_)?(?P<relay_ip>\d{1,3}(?:\.\d{1,3}){3})_")
_END = re.compile(rb"end msg (?P<queue_id>\d{1,20})\s*\Z")
_OTHER = re.compile(rb"new msg \d|status: |bounce msg \d|triple bounce: |double bounce: |running\b|exiting\b|warning: |alert: ")
_STATUS = {b"success": SENT, b"failure": BOUNCED, b"deferral": DEFERRED}
_SAID = re.compile(rb"Remote_host_said:_(?P<reply>(?P<reply_code>[2-5]\d\d)[_-].*)", re.DOTALL)


def read(line: bytes, at: int) -> list[Event] | None:
    start = _SPLOGGER.match(line, at)
    at = start.end() if start is not None else at
    match = _DELIVERY.match(line, at)
    if match is not None:
        peer = _PEER.match(line, match.start("reply"))
        said = _SAID.search(line, match.start("reply"))
        spans = texts(match, "reply") if said is None else texts(said, "reply")
        if peer is not None:
            spans += texts(peer, "relay_ip")
        return [event("delivery", spans, numbers(said, "reply_code") if said is not None else (), _STATUS[match["how"]])]
    match = _STARTING.match(line, at)
    if match is not None:
        return [event("other", texts(match, "queue_id", "recipient"))]
    match = _INFO.match(line, at)
    if match is not None:
        who = texts(match, "queue_id", "sender")
        return [event("picked_up", who, numbers(match, "uid")), event("queued", who, numbers(match, "size"))]
    match = _END.match(line, at)
    if match is not None:
        return [event("removed", texts(match, "queue_id"))]
    return [] if _OTHER.match(line, at) else None
