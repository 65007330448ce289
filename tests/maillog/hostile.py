"""Text that lies: what an attacker can write into a line of the log, and what must come out of it all the same.

``CASES`` is the table by hand. In each the attacker's text names the victim (``VICTIM``); a carrier is a field that may hold that text,
because the attacker wrote it there. In every other field the victim must not appear. ``TEMPLATES`` are the same places for generated text.

Run as a script it prints the table with its results: ``python tests/maillog/hostile.py``.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 2)]

from helpers import STAMP, rows

LOGIN, IP, QUEUE_ID, NAME = "victim@corp.example", "203.0.113.66", "4A0000BAD1", "victim.example"
VICTIM = (LOGIN, IP, QUEUE_ID, NAME)

ABSENT = None


class Case(NamedTuple):
    name: str
    tag: str
    """``postfix/smtpd[1]``; empty where ``text`` is the whole line."""
    text: str
    must: dict[str, Any]
    """Fields that must come out; None: must be absent."""
    carriers: tuple[str, ...]
    """The fields in which the attacker's text may stand."""

    @property
    def line(self) -> bytes:
        return self.text.encode() if not self.tag else STAMP + f"{self.tag}: {self.text}".encode()


SMTPD, CLEANUP, QMGR, SMTP, PICKUP, LOCAL, ERROR, POSTSCREEN, BOUNCE = (
    f"postfix/{daemon}[4202]" for daemon in ("smtpd", "cleanup", "qmgr", "smtp", "pickup", "local", "error", "postscreen", "bounce")
)
BAD = {"client_name": "unknown", "client_ip": "198.51.100.7"}
CLIENT = "unknown[198.51.100.7]"
TAIL = "; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<pc>"
TAKEN = {"sender": "a@example.net", "recipient": "b@example.com", "helo": "pc"}
FAKE_CLIENT = f"client={NAME}[{IP}], sasl_method=PLAIN, sasl_username={LOGIN}"
FAKE_LINE = f"Oct 24 06:18:01 mx postfix/smtpd[1]: {QUEUE_ID}: {FAKE_CLIENT}"
FAKE_DELIVERY = (
    f"{QUEUE_ID}: to=<{LOGIN}>, relay={NAME}[{IP}]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {QUEUE_ID})"
)

_failed = f"warning: {CLIENT}: SASL LOGIN authentication failed: "


def _auth() -> list[Case]:
    def tried(name: str, text: str, reason: str = "(reason unavailable)", must: dict[str, Any] | None = None) -> Case:
        return Case(
            f"failed login: {name}",
            SMTPD,
            f"{_failed}{reason}, sasl_username={text}",
            {"kind": "auth_failed", **BAD, "sasl_method": "LOGIN", "sasl_username": text, **(must or {})},
            ("sasl_username",),
        )

    return [
        tried("a second sasl_username", f"x, sasl_username={LOGIN}"),
        tried("the text of a second failure", f"a@b[{IP}]: SASL LOGIN authentication failed: z, sasl_username={LOGIN}"),
        tried("client= of an accepted message", f"x {QUEUE_ID}: {FAKE_CLIENT}"),
        tried("a whole log line", FAKE_LINE),
        tried("a whole log line after U+2028", f"x\u2028{FAKE_LINE}"),
        tried("a whole log line after U+0085", f"x\u0085{FAKE_LINE}"),
        tried("a whole log line after a vertical tab and a form feed", f"x\x0b\x0c{FAKE_LINE}"),
        tried("a carriage return inside", f"x\r{FAKE_LINE}"),
        tried("NUL bytes inside", f"x\0\0{FAKE_LINE}"),
        tried("a repeated message", f"x message repeated 999 times: [ {_failed}x, sasl_username={LOGIN}]"),
        tried("brackets", f"[[[{IP}]]]"),
        tried("an address in brackets at the end", f"x[{IP}]"),
        tried("a queue ID in front", f"{QUEUE_ID}: {LOGIN}"),
        tried("angle brackets", f"<{LOGIN}>"),
        tried("empty", ""),
        tried("blanks", "  "),
        tried("the prompt as a name", "UGFzc3dvcmQ6"),
        tried("Postfix's word for none", "(unavailable)", must={"sasl_username": ABSENT}),
        tried("very long", f"{LOGIN}, " * 1500),
        Case(
            "failed login: the method holds brackets",
            SMTPD,
            f"warning: {CLIENT}: SASL X[{IP}]: authentication failed: nonsense",
            {"kind": "auth_failed", **BAD, "sasl_method": f"X[{IP}]:"},
            ("sasl_method",),
        ),
        Case(
            "failed login: the method holds a login",
            SMTPD,
            f"warning: {CLIENT}: SASL ,sasl_username={LOGIN} authentication failed: nonsense",
            {"kind": "auth_failed", **BAD, "sasl_username": ABSENT},
            ("sasl_method",),
        ),
        Case(
            "failed login: the client's name looks like an address",
            SMTPD,
            f"warning: {IP}.dynamic.example[198.51.100.7]: SASL LOGIN authentication failed: x",
            {"kind": "auth_failed", "client_ip": "198.51.100.7", "client_name": f"{IP}.dynamic.example"},
            ("client_name",),
        ),
        Case(
            "failed login: a server's fault that a client imitates in its login",
            SMTPD,
            f"{_failed}(reason unavailable), sasl_username=Connection lost to authentication server",
            {"kind": "auth_failed", **BAD, "action": ABSENT},
            (),
        ),
    ]


def _accepted() -> list[Case]:
    login = {"kind": "accepted", **BAD, "queue_id": "4A00000001", "sasl_username": "bob@example.com"}
    head = f"4A00000001: client={CLIENT}, sasl_method=PLAIN, sasl_username=bob@example.com"
    return [
        Case(
            "accepted: AUTH= of MAIL FROM holds another login",
            SMTPD,
            f"{head}, sasl_sender=x, sasl_username={LOGIN}",
            login,
            (),
        ),
        Case(
            "accepted: AUTH= of MAIL FROM holds the queue ID of another message",
            SMTPD,
            f"{head}, sasl_sender=x, orig_queue_id={QUEUE_ID}",
            {**login, "linked_queue_id": ABSENT},
            (),
        ),
        Case(
            "accepted: AUTH= of MAIL FROM holds a client",
            SMTPD,
            f"{head}, sasl_sender=x client={NAME}[{IP}], orig_queue_id={QUEUE_ID}, orig_client={NAME}[{IP}]",
            {**login, "linked_queue_id": ABSENT},
            (),
        ),
        Case(
            "accepted: a name that looks like an address",
            SMTPD,
            f"4A00000001: client={IP}.dynamic.example[198.51.100.7], sasl_method=LOGIN, sasl_username=bob@example.com",
            {**login, "client_name": f"{IP}.dynamic.example"},
            ("client_name",),
        ),
    ]


def _access() -> list[Case]:
    head = f"NOQUEUE: reject: RCPT from {CLIENT}: 550 5.1.1 "
    common = {"kind": "rejected", "action": "reject", "stage": "RCPT", "reply_code": 550, "dsn": "5.1.1", "queue_id": ABSENT}
    refused = {**common, **BAD}
    unknown = "<b@example.com>: Recipient address rejected: User unknown"
    fake_tail = f"; from=<{LOGIN}> to=<{LOGIN}> proto=ESMTP helo=<{NAME}> sasl_method=PLAIN sasl_username={LOGIN}"
    cases = []

    def add(name: str, text: str, must: dict[str, Any], *carriers: str) -> None:
        cases.append(Case(f"refused: {name}", SMTPD, text, {**refused, **must}, carriers))

    for name, helo in (
        ("a login", f"x?sasl_username={LOGIN}"),
        ("an address literal", f"[{IP}]"),
        ("from= and to=", f"x?from=?{LOGIN}??to=?{LOGIN}?"),
        ("very long", NAME * 2000),
        ("U+2028 and a whole line", f"x\u2028{FAKE_LINE}".replace(" ", "?").replace("@", "?")),
        ("client=", f"client={NAME}[{IP}]"),
    ):
        add(
            f"the HELO holds {name}",
            f"{head}{unknown}; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<{helo}>",
            {**TAKEN, "helo": helo, "sasl_username": ABSENT},
            "helo",
        )
    for name, sender in (
        ("a recipient and a HELO", f'"> to=<{LOGIN}> proto=ESMTP helo=<{NAME}"@example.net'),
        ("a login", f'"> sasl_username=<{LOGIN}>"@example.net'),
        ("a login as 3.10 writes it", f'" sasl_method=PLAIN sasl_username={LOGIN}"@example.net'),
        ("a client", f'" from x[{IP}]: "@example.net'),
        ("escaped quotes", f'"\\"> to=<{LOGIN}> proto=ESMTP helo=<{NAME}\\""@example.net'),
        ("a whole tail", f'"{fake_tail}"@example.net'),
        ("the end of the reply", f'"; from=<{LOGIN}"@example.net'),
    ):
        add(
            f"the sender holds {name}",
            f"{head}{unknown}; from=<{sender}> to=<b@example.com> proto=ESMTP helo=<pc>",
            {**TAKEN, "sender": sender, "sasl_username": ABSENT},
            "sender",
        )
    for name, recipient in (
        ("a sender", f'"; from=<{LOGIN}> to=<x"@example.com'),
        ("a HELO", f'"> proto=SMTP helo=<{NAME}"@example.com'),
        ("a login", f'"> proto=ESMTP helo=<x> sasl_username=<{LOGIN}>"@example.com'),
    ):
        add(
            f"the recipient holds {name}",
            f"{head}<{recipient}>: Recipient address rejected: User unknown; from=<a@example.net> to=<{recipient}> proto=ESMTP helo=<pc>",
            {**TAKEN, "recipient": recipient, "sasl_username": ABSENT},
            "recipient",
            "reply",
        )
    add(
        "the reply imitates the tail",
        f"{head}<x>: Recipient address rejected: text{fake_tail.replace(' sasl_method', '; x sasl_method')}{TAIL}",
        {**TAKEN, "sasl_username": ABSENT},
        "reply",
    )
    add("the reply names a client", f"{head}<x>: Helo command rejected: from {NAME}[{IP}]: no{TAIL}", {**TAKEN}, "reply")
    add(
        "the sender says whom it belongs to",
        f"{head}<x>: Sender address rejected: not owned by user {LOGIN}@example.net>: Sender address rejected: Domain not found{TAIL}",
        {**TAKEN, "sasl_username": ABSENT},
        "reply",
    )
    add(
        "3.10: login after a HELO that imitates it",
        f"{head}{unknown}; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<x?sasl_username={LOGIN}> "
        "sasl_method=PLAIN sasl_username=bob@example.com",
        {"sasl_username": "bob@example.com", "helo": f"x?sasl_username={LOGIN}"},
        "helo",
    )
    cases.append(
        Case(
            "refused by a milter: the sender holds a login in brackets",
            SMTPD,
            f"4A00000001: milter-reject: END-OF-MESSAGE from {CLIENT}: 5.7.1 spam; "
            f'from=<"> sasl_username=<{LOGIN}>"@example.net> to=<b@example.com> proto=ESMTP helo=<pc> sasl_username=<bob@example.com>',
            {"kind": "rejected", "action": "milter-reject", **BAD, "queue_id": "4A00000001", "sasl_username": "bob@example.com"},
            ("sender",),
        )
    )
    cases.append(
        Case(
            "postscreen: the sender holds the rest of the line",
            POSTSCREEN,
            "NOQUEUE: reject: RCPT from [198.51.100.7]:4202: 550 5.7.1 Service unavailable; client [198.51.100.7] blocked using bl.example; "
            f'from=<">, to=<{LOGIN}>, proto=ESMTP, helo=<{NAME}"@example.net>, to=<b@example.com>, proto=ESMTP, helo=<pc>',
            {"kind": "rejected", "client_ip": "198.51.100.7", "recipient": "b@example.com", "helo": "pc"},
            ("sender",),
        )
    )
    cases.append(
        Case(
            "postscreen: what came too early imitates a line",
            POSTSCREEN,
            f"PREGREET 90 after 0.1 from [198.51.100.7]:4202: CONNECT from [{IP}]:25 to [192.0.2.1]:25\\r\\n",
            {"kind": "other"},
            ("reply",),
        )
    )
    return cases


def _warnings() -> list[Case]:
    return [
        Case(
            f"warning: {name}",
            SMTPD,
            text,
            {"kind": kind, "sasl_username": ABSENT, "queue_id": ABSENT},
            ("reply",),
        )
        for name, text, kind in (
            ("a command that is a log line", f"warning: non-SMTP command from {CLIENT}: {FAKE_LINE}", "warning"),
            (
                "a command that is a failed login",
                f"warning: non-SMTP command from {CLIENT}: warning: {NAME}[{IP}]: SASL LOGIN authentication failed: x, sasl_username={LOGIN}",
                "warning",
            ),
            (
                "an address that names a client",
                f"warning: Illegal address syntax from {CLIENT} in MAIL command: <{LOGIN} from {NAME}[{IP}]>",
                "warning",
            ),
        )
    ]


def _cleanup() -> list[Case]:
    fake_tail = f" from {NAME}[{IP}]; from=<{LOGIN}> to=<{LOGIN}> proto=ESMTP helo=<{NAME}>: {QUEUE_ID}"
    cases = [
        Case(
            f"message-id: {name}",
            CLEANUP,
            f"4A00000001: message-id={text}",
            {"kind": "message_id", "queue_id": "4A00000001", "message_id": text},
            ("message_id",),
        )
        for name, text in (
            ("a client", f"<x@example.net> {FAKE_CLIENT}"),
            ("a delivery", f"<x>, {FAKE_DELIVERY}"),
            ("a whole log line", FAKE_LINE),
            ("a refusal", f"<x> reject: header x{fake_tail}"),
            ("another message-id", f"message-id={LOGIN}"),
            ("U+2028", f"<x\u2028{FAKE_LINE}>"),
            ("a repeated message", f"message repeated 9 times: [ {FAKE_DELIVERY}]"),
            ("very long", f"<{LOGIN}>" * 3000),
            ("blanks", " "),
        )
    ]
    cases.extend(
        Case(
            f"header check: {name}",
            CLEANUP,
            f"4A00000001: {action}: {where} {text} from {CLIENT}{TAIL}{end}",
            {
                "kind": "rejected",
                "action": action,
                "stage": where.split()[0],
                "queue_id": "4A00000001",
                **BAD,
                **TAKEN,
                "sasl_username": ABSENT,
            },
            ("reply",),
        )
        for name, action, where, text, end in (
            ("the subject imitates the end of the line", "reject", "header Subject:", f"x{fake_tail}", ": no spam"),
            ("the subject imitates it, no text follows", "reject", "header Subject:", f"x{fake_tail}", ""),
            ("only a client", "warning", "header Subject:", f"x from {NAME}[{IP}]", ""),
            ("a body line with a client and a sender", "warning", "body", f"x from {NAME}[{IP}]; from=<{LOGIN}>", ""),
            ("a local client", "hold", "header From:", f"{LOGIN} from local; from=<{LOGIN}>", ": held"),
            ("folded", "discard", "header Received:", f"from x??by y; from=<{LOGIN}> from {NAME}[{IP}]", ""),
            ("a queue ID", "reject", "header X-ID:", f"{QUEUE_ID}: removed", ""),
            ("a delivery", "reject", "header X:", FAKE_DELIVERY, ""),
            ("a login of 3.10", "reject", "header X:", f"x sasl_method=PLAIN sasl_username={LOGIN}", ""),
        )
    )
    return cases


def _queue() -> list[Case]:
    cases = []
    for name, sender in (
        ("a size and a number of recipients", '">, size=1, nrcpt=9999 (queue active)"@example.net'),
        ("a status", '">, status=expired, returned to sender"@example.net'),
        ("unquoted, as before 3.5", ">, size=1, nrcpt=9999 (queue active)@example.net"),
        ("a login", f'", sasl_username={LOGIN}"@example.net'),
        ("a whole log line", f'"{FAKE_LINE}"@example.net'),
        ("U+0085", f'"\u0085{FAKE_LINE}"@example.net'),
        ("very long", "a" * 30_000 + "@example.net"),
    ):
        cases.append(
            Case(
                f"queued: the sender holds {name}",
                QMGR,
                f"4A00000001: from=<{sender}>, size=900, nrcpt=2 (queue active)",
                {"kind": "queued", "queue_id": "4A00000001", "sender": sender, "size": 900, "nrcpt": 2},
                ("sender",),
            )
        )
        cases.append(
            Case(
                f"picked up: the sender holds {name}",
                PICKUP,
                f"4A00000001: uid=33 from=<{sender}>",
                {"kind": "picked_up", "queue_id": "4A00000001", "sender": sender, "uid": 33, "linked_queue_id": ABSENT},
                ("sender",),
            )
        )
    cases.append(
        Case(
            "picked up: the sender holds another queue ID",
            PICKUP,
            f'4A00000001: uid=33 from=<"> orig_id={QUEUE_ID}"@example.net>',
            {"kind": "picked_up", "uid": 33, "linked_queue_id": ABSENT},
            ("sender",),
        )
    )
    cases.append(
        Case(
            "expired: the sender says it was queued",
            QMGR,
            '4A00000001: from=<">, size=1, nrcpt=9 (queue active)"@example.net>, status=expired, returned to sender',
            {"kind": "delivery", "status": "expired", "nrcpt": ABSENT},
            ("sender",),
        )
    )
    return cases


def _deliveries() -> list[Case]:
    cases = []
    end = "relay=mx.example.net[192.0.2.25]:25, delay=1.5, delays=1/0/0.3/0.2, dsn={}, status={} ({})"
    relay = {"relay_host": "mx.example.net", "relay_ip": "192.0.2.25", "relay_port": 25}
    taken = {"kind": "delivery", "queue_id": "4A00000001", **relay, "delay": 1.5}

    def answer(name: str, status: str, dsn: str, reply: str, code: int | None, **more: Any) -> None:
        cases.append(
            Case(
                f"reply: {name}",
                SMTP,
                "4A00000001: to=<b@example.com>, " + end.format(dsn, status, reply),
                {**taken, "recipient": "b@example.com", "status": status, "dsn": dsn, "reply": reply, "reply_code": code, **more},
                ("reply", "linked_queue_id"),
            )
        )

    answer("imitates status=", "sent", "2.0.0", "250 ok, dsn=5.7.1, status=bounced (blocked)", 250)
    answer(
        "imitates the status of a failure",
        "bounced",
        "5.7.1",
        "host mx.example.net[192.0.2.25] said: 550 x), dsn=2.0.0, status=sent (250 ok",
        550,
    )
    answer("imitates a second delivery", "bounced", "5.7.1", f"host mx.example.net[192.0.2.25] said: 550 {FAKE_DELIVERY}", 550)
    answer("says said: again", "deferred", "4.7.1", f"host mx.example.net[192.0.2.25] said: 450 host {NAME}[{IP}] said: 550 5.7.1 no", 450)
    answer(
        "refuses to talk in words of ours",
        "deferred",
        "4.7.1",
        f"host mx.example.net[192.0.2.25] refused to talk to me: 421 {NAME}[{IP}] said: 554 x",
        421,
    )
    answer(
        "imitates from=",
        "bounced",
        "5.1.1",
        f"host mx.example.net[192.0.2.25] said: 550 from=<{LOGIN}>, size=1, nrcpt=99 (queue active)",
        550,
    )
    answer("imitates orig_queue_id", "sent", "2.0.0", f"250 ok, orig_queue_id={QUEUE_ID}, sasl_username={LOGIN}", 250)
    answer("unbalanced brackets", "bounced", "5.1.1", "host mx.example.net[192.0.2.25] said: 550 ((((]]>>", 550)
    answer("U+2028 and a line", "bounced", "5.1.1", f"host mx.example.net[192.0.2.25] said: 550 \u2028{FAKE_LINE}", 550)
    answer(
        "a repeated message", "bounced", "5.1.1", f"host mx.example.net[192.0.2.25] said: 550 message repeated 9 times: [ {FAKE_LINE}]", 550
    )
    answer("very long", "bounced", "5.1.1", "host mx.example.net[192.0.2.25] said: 550 " + f"status=sent ({IP}) " * 1500, 550)
    for name, recipient in (
        ("a relay and a status", f'">, relay={NAME}[{IP}]:25, delay=1, dsn=2.0.0, status=sent (x"@example.com'),
        ("another recipient", f'">, orig_to=<{LOGIN}"@example.com'),
        ("a queue ID", f'"queued as {QUEUE_ID}"@example.com'),
        ("escapes", f'"\\">, relay={NAME}[{IP}]:25, delay=1\\\\"@example.com'),
    ):
        cases.append(
            Case(
                f"delivery: the recipient holds {name}",
                SMTP,
                f"4A00000001: to=<{recipient}>, " + end.format("2.0.0", "sent", "250 ok"),
                {**taken, "recipient": recipient, "status": "sent", "orig_to": ABSENT},
                ("recipient",),
            )
        )
        cases.append(
            Case(
                f"delivery: the recipient before rewriting holds {name}",
                SMTP,
                f"4A00000001: to=<b@example.com>, orig_to=<{recipient}>, " + end.format("2.0.0", "sent", "250 ok"),
                {**taken, "recipient": "b@example.com", "orig_to": recipient, "status": "sent"},
                ("orig_to",),
            )
        )
    cases.append(
        Case(
            "local: the user is a status",
            LOCAL,
            "4A00000001: to=<b@example.com>, relay=local, delay=1, delays=1/0/0/0, dsn=5.1.1, status=bounced "
            f'(unknown user: "x), dsn=2.0.0, status=sent (forwarded as {QUEUE_ID}")',
            {"kind": "delivery", "status": "bounced", "dsn": "5.1.1", "relay_host": "local"},
            ("reply",),
        )
    )
    cases.append(
        Case(
            "pipe: what the command said imitates another host",
            "postfix/pipe[4202]",
            "4A00000001: to=<b@example.com>, relay=dovecot, delay=1, delays=1/0/0/0, dsn=5.3.0, status=bounced "
            f"(Command died. Command output: host {NAME}[{IP}] said: 550 x)",
            {"kind": "delivery", "relay_host": "dovecot", "relay_ip": ABSENT, "reply_code": ABSENT},
            ("reply",),
        )
    )
    cases.append(
        Case(
            "connect: the error imitates a reply",
            SMTP,
            f"connect to mx.example.net[192.0.2.25]:25: host {NAME}[{IP}] said: 550 x",
            {"kind": "connect_failed", "relay_ip": "192.0.2.25", "relay_host": "mx.example.net", "relay_port": 25},
            ("reply",),
        )
    )
    cases.append(
        Case(
            "a reply alone imitates a delivery",
            SMTP,
            f"4A00000001: host mx.example.net[192.0.2.25] said: 450 to=<{LOGIN}>, relay={NAME}[{IP}]:25, delay=1, dsn=2.0.0, status=sent (ok)",
            {"kind": "connect_failed", "queue_id": "4A00000001", "status": ABSENT, "recipient": ABSENT, "relay_ip": "192.0.2.25"},
            ("reply",),
        )
    )
    return cases


def _frames() -> list[Case]:
    good = f"{_failed}x, sasl_username=bob"
    must = {"kind": "auth_failed", **BAD, "sasl_username": "bob"}
    return [
        Case(
            "header: a tag in front of the real one",
            "",
            f"Oct 24 06:18:01 mx sshd[1]: postfix/smtpd[1]: {FAKE_CLIENT}",
            {"kind": "unparsed"},
            (),
        ),
        Case("header: a program's text is a log line", "", f"Oct 24 06:18:01 mx cron[1]: {FAKE_LINE}", {"kind": "unparsed"}, ()),
        Case(
            "header: a daemon that is not Postfix's",
            "postfix/policyd[1]",
            f"{QUEUE_ID}: {FAKE_CLIENT}",
            {"kind": "other", "client_ip": ABSENT},
            ("queue_id",),
        ),
        Case(
            "header: a daemon that can't say this",
            "postfix/anvil[1]",
            f"{QUEUE_ID}: {FAKE_CLIENT}",
            {"kind": "other", "client_ip": ABSENT},
            ("queue_id",),
        ),
        Case("header: another daemon's form", QMGR, f"{QUEUE_ID}: {FAKE_CLIENT}", {"kind": "other", "client_ip": ABSENT}, ("queue_id",)),
        Case("header: NULs before the line", "", "\0\0\0" + (STAMP + f"{SMTPD}: {good}".encode()).decode(), must, ()),
        Case("header: a carriage return at the end", SMTPD, good + "\r", must, ()),
        Case(
            "cut at 2,000 bytes in the sender",
            SMTPD,
            f'NOQUEUE: reject: RCPT from {CLIENT}: 550 5.1.1 x; from=<"> to=<{LOGIN}',
            {**BAD},
            ("sender", "reply", "recipient"),
        ),
        Case(
            "cut in the status",
            SMTP,
            "4A00000001: to=<b@example.com>, relay=none, delay=1, delays=1/0/0/0, dsn=4.",
            {"kind": "other", "status": ABSENT},
            (),
        ),
        Case("no queue ID: a word in small letters", CLEANUP, f"deadbeef: message-id={LOGIN}", {"queue_id": ABSENT}, ()),
    ]


CASES: list[Case] = [*_auth(), *_accepted(), *_access(), *_warnings(), *_cleanup(), *_queue(), *_deliveries(), *_frames()]


def wrong(case: Case) -> list[str]:
    """What came out of a case that must not, in words; empty if all is right."""
    found = rows(case.line)
    if len(found) != 1:
        return [f"{len(found)} rows instead of one"]
    (row,) = found
    out = [f"{name} is {row.get(name)!r}, not {value!r}" for name, value in case.must.items() if row.get(name) != value]
    for name, value in row.items():
        if name not in case.carriers and name not in case.must:
            out.extend(f"{name} holds {word}" for word in VICTIM if word in str(value))
    for name, value in case.must.items():
        # What a case demands is not the victim's unless the attacker's text is meant to stand there.
        assert name in case.carriers or not any(word in str(value) for word in VICTIM), case.name
    return out


def main() -> int:
    """Prints the table; 1 if a case is wrong."""
    bad = 0
    width = max(len(case.name) for case in CASES)
    for case in CASES:
        problems = wrong(case)
        bad += bool(problems)
        carriers = ", ".join(case.carriers) or "nothing"
        print(f"{case.name:<{width}}  {'WRONG' if problems else 'right'}  attacker's text in: {carriers}")
        for problem in problems:
            print(f"{'':<{width}}         {problem[:200]}")
    print(f"{len(CASES)} cases, {len(CASES) - bad} right, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
