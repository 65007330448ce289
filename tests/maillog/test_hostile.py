"""No text in one field forges another: the table of hostile cases, and generated text in every place that an attacker writes."""

import pytest
from helpers import STAMP
from hostile import CASES, wrong
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import helos, texts

from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case):
    assert wrong(case) == []


def test_names_are_told_apart():
    assert len({case.name for case in CASES}) == len(CASES)


LIES = (
    *("client=victim.example[203.0.113.66]", ", orig_queue_id=4A0000BAD1", ", orig_client=v[203.0.113.66]", ", sasl_sender=v@corp.example"),
    *(
        "message repeated 99 times: [ connect from v[203.0.113.66]]",
        "Oct 24 06:18:01 mx postfix/smtpd[1]: ",
        "4A0000BAD1: removed",
        "NOQUEUE: ",
    ),
    *(", rip=203.0.113.66", ">, method=PLAIN, rip=203.0.113.66, lip=192.0.2.9", "warning: ", ": SASL PLAIN authentication failed: x"),
    *(
        "; from=<v@corp.example",
        '"; from=<',
        "> to=<v@corp.example> proto=SMTP helo=<h>",
        " from local;",
        " from v[203.0.113.66]; from=<v@corp.example>",
    ),
    *("\r", "\0", "\x7f", "\x0b", "\x0c", "\x1c", "\u0085", "\u2028", "\u2029", "\ufeff", "\U0001f4a9", "(((", ")))", "]]", "x" * 2100),
)
hostile = st.lists(
    st.one_of(texts, st.sampled_from(LIES), st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=8)), max_size=5
).map("".join)
quoted = hostile.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"@example.org')
"""An address as Postfix logs it since 3.5."""
no_blank = hostile.map(lambda text: "".join(c for c in text if c not in " ") or "X")
neutered = st.one_of(helos, hostile.map(lambda text: "".join("?" if c in ' <>()\\";@' else c for c in text)))
argument = quoted.map("<{}>: Recipient address rejected: User unknown".format)

C = "unknown[198.51.100.7]"
END = "delay=1.5, delays=1/0/0.3/0.2, dsn=5.7.1, status=bounced"
RELAY = "relay=mx.example.net[192.0.2.25]:25"
TAIL = "; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<pc>"
REFUSED = f"NOQUEUE: reject: RCPT from {C}: 550 5.1.1 "

# place: (tag, text before, what may stand there, text after, fields that it may change)
PLACES = {
    "login that failed": ("smtpd", f"warning: {C}: SASL LOGIN authentication failed: x, sasl_username=", hostile, "", {"sasl_username"}),
    "mechanism": ("smtpd", f"warning: {C}: SASL ", no_blank, " authentication failed: x, sasl_username=u", {"sasl_method"}),
    "AUTH= of MAIL FROM": ("smtpd", f"4A00000001: client={C}, sasl_method=PLAIN, sasl_username=u, sasl_sender=", hostile, "", set()),
    "sender of a refusal": ("smtpd", f"{REFUSED}x; from=<", quoted, "> to=<b@example.com> proto=ESMTP helo=<pc>", {"sender"}),
    "recipient of a refusal": ("smtpd", f"{REFUSED}x; from=<a@example.net> to=<", quoted, "> proto=ESMTP helo=<pc>", {"recipient"}),
    "HELO of a refusal": ("smtpd", f"{REFUSED}x; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<", neutered, ">", {"helo"}),
    "HELO before a login": (
        "smtpd",
        f"{REFUSED}x; from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<",
        neutered,
        "> sasl_method=PLAIN sasl_username=u@example.com",
        {"helo"},
    ),
    "text of a refusal": ("smtpd", REFUSED, argument, TAIL, {"reply"}),
    "text of a milter": (
        "smtpd",
        f"4A00000001: milter-reject: END-OF-MESSAGE from {C}: 5.7.1 ",
        argument,
        TAIL + " sasl_username=<u>",
        {"reply"},
    ),
    "sender for postscreen": (
        "postscreen",
        "NOQUEUE: reject: RCPT from [198.51.100.7]:4202: 550 5.7.1 x; from=<",
        quoted,
        ">, to=<b@example.com>, proto=ESMTP, helo=<pc>",
        {"sender"},
    ),
    "what came too early": ("postscreen", "PREGREET 9 after 0.1 from [198.51.100.7]:4202: ", hostile, "", {"reply"}),
    "a command": ("smtpd", f"warning: non-SMTP command from {C}: ", hostile, "", {"reply"}),
    "a wrong address": ("smtpd", f"warning: Illegal address syntax from {C} in MAIL command: ", hostile, "", {"reply"}),
    "message-id": ("cleanup", "4A00000001: message-id=", hostile, "", {"message_id"}),
    "resent-message-id": ("cleanup", "4A00000001: resent-message-id=", hostile, "", {"message_id"}),
    "subject": ("cleanup", "4A00000001: reject: header Subject: ", hostile, f" from {C}{TAIL}", {"reply"}),
    "sender in the queue": ("qmgr", "4A00000001: from=<", quoted, ">, size=900, nrcpt=2 (queue active)", {"sender"}),
    "sender in the queue, before 3.5": ("qmgr", "4A00000001: from=<", hostile, ">, size=900, nrcpt=2 (queue active)", {"sender"}),
    "sender that expired": ("qmgr", "4A00000001: from=<", quoted, ">, status=expired, returned to sender", {"sender"}),
    "sender of a local message": ("pickup", "4A00000001: uid=33 from=<", quoted, ">", {"sender"}),
    "recipient": ("smtp", "4A00000001: to=<", quoted, f">, {RELAY}, {END} (host mx.example.net[192.0.2.25] said: 550 x)", {"recipient"}),
    "orig_to": ("smtp", "4A00000001: to=<b@example.com>, orig_to=<", quoted, f">, {RELAY}, {END} (x)", {"orig_to"}),
    "reply": (
        "smtp",
        f"4A00000001: to=<b@example.com>, {RELAY}, {END} (host mx.example.net[192.0.2.25] said: 550 ",
        hostile,
        ")",
        {"reply"},
    ),
    "reply on acceptance": (
        "smtp",
        f"4A00000001: to=<b@example.com>, {RELAY}, delay=1.5, delays=1/0/0.3/0.2, dsn=2.0.0, status=sent (250 ",
        hostile,
        ")",
        {"reply", "linked_queue_id"},
    ),
    "reply alone": ("smtp", "4A00000001: host mx.example.net[192.0.2.25] said: 550 ", hostile, "", {"reply"}),
    "user that is unknown": ("local", f'4A00000001: to=<b@example.com>, relay=local, {END} (unknown user: "', hostile, '")', {"reply"}),
    "error of a connection": ("smtp", "connect to mx.example.net[192.0.2.25]:25: ", hostile, "", {"reply", "reply_code"}),
}


def scanned(line: bytes) -> list[dict]:
    batch = Scanner(LogClock(year=2026), keep_all=True).scan(Chunk(line, "", "", 0, len(line)))
    return [batch.row(i) for i in range(len(batch))]


@pytest.mark.parametrize("place", PLACES)
@given(data=st.data())
def test_a_field_changes_no_other_field(place, data):
    daemon, before, allowed, after, own = PLACES[place]
    # Postfix writes no NUL: where one stands, a file has been damaged, and what follows it is another line.
    text = data.draw(allowed).replace("\0", "?")
    head = STAMP + f"postfix/{daemon}[4202]: {before}".encode()
    (harmless,) = scanned(head + b"harmless" + after.encode())
    (lied,) = scanned(head + text.encode() + after.encode())
    assert {name: value for name, value in lied.items() if name not in own} == {
        name: value for name, value in harmless.items() if name not in own
    }
    for name in own & harmless.keys():
        assert lied.get(name) is not None or text.strip() == ""


@given(hostile)
@example("\r")
@example("\0" * 70_000)
@example("x" * 70_000)
def test_the_line_after_a_hostile_one_is_read(text):
    good = STAMP + b"postfix/smtpd[4202]: connect from unknown[198.51.100.7]\n"
    out = scanned(good + text.encode().replace(b"\n", b"") + b"\n" + good)
    assert [row["kind"] for row in (out[0], out[-1])] == ["connect", "connect"]
    assert len(out) <= 3
