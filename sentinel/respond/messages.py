"""A notice in the forms that targets understand: JSON, Slack, Matrix, Teams, a mail, alerts.

:func:`cleaned` comes first and is the same for all: no secrets, nothing that obeys or hides, no text longer than it may be. What is left
is still written by strangers in part. So each form puts it only where the receiver reads plain text, or escapes it for the place: text of a
log can't make a link, mention a channel, load an image or begin a header.

Limits: chat programs make links of bare addresses and host names on their own, and no sender can keep them from it.
"""

import html
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sentinel.detect.detection import format_time
from sentinel.respond.notify import Notice, as_dict
from sentinel.respond.redact import Redactor, capped

if TYPE_CHECKING:
    from email.message import EmailMessage

_T = TypeVar("_T")

CHAT_LINES = 3
"""Evidence in a chat."""
MAIL_LINES = 10
SLACK_BLOCK_CHARACTERS = 3000
SLACK_HEADER_CHARACTERS = 150
TEAMS_BYTES = 28_000
MATRIX_BYTES = 48_000
"""Of the 65,536 of a whole event."""
MAIL_BYTES = 100_000
_LABEL_CHARACTERS = 200
_WIDTH = 76
_MAX_LIST = 10
_MAX_STEPS = 6
_CHAT_SENDERS = 3
_US = 1_000_000

_MENTION = re.compile(r"(?i)(?<![a-z0-9_])@(?=(?:channel|here|everyone|all|room|group)\b)")
_PASTABLE = re.compile(r"[\w@%+=:,./ -]+")
"""What no shell takes for anything but itself."""
_ALERT_NAMES = {
    "locked": "SentinelAccountLocked",
    "would-lock": "SentinelAccountWouldBeLocked",
    "refused": "SentinelLockRefused",
    "failed": "SentinelLockNotDone",
    "unlocked": "SentinelAccountUnlocked",
    "lock-ineffective": "SentinelLockIneffective",
    "breaker-open": "SentinelBreakerOpen",
    "blocked": "SentinelProviderBlocks",
    "block-ended": "SentinelBlockEnded",
    "detection": "SentinelDetection",
}


def cleaned(notice: Notice, redactor: Redactor) -> Notice:
    """The notice as it may leave this machine: each text one line, without secrets, of bounded length.

    A command to undo stays only if cleaning changes nothing in it and no shell could read it otherwise than it looks: it will be pasted.
    """
    line = redactor.line
    undo = notice.undo
    steps = notice.next_steps
    if undo is not None and not (len(undo) <= 500 and _PASTABLE.fullmatch(undo) and line(undo, 500) == undo):
        undo = None
        steps = (*steps[: _MAX_STEPS - 1], "To undo it look up the account's exact name with: sentinel locks list")
    return notice._replace(
        id=line(notice.id, 100),
        incident=line(notice.incident, 100),
        title=line(notice.title, 200),
        text=line(notice.text, 2000),
        account=line(notice.account, 320) if notice.account is not None else None,
        provider=line(notice.provider, 100) if notice.provider is not None else None,
        client_ips=tuple(line(ip, 50) for ip in notice.client_ips[:_MAX_LIST]),
        senders=tuple(line(sender, 320) for sender in notice.senders[:_MAX_LIST]),
        evidence=tuple(line(text, 500) for text in notice.evidence[:MAIL_LINES]),
        next_steps=tuple(line(step, 300) for step in steps[:_MAX_STEPS]),
        undo=undo,
    )


# JSON


def as_json(notice: Notice, host: str) -> bytes:
    """For programs. ASCII."""
    return json.dumps(as_dict(notice, host)).encode("ascii")


# chats


def as_slack(notice: Notice, host: str) -> bytes:
    """For Slack's incoming webhooks: blocks, and a ``text`` with the whole for what takes Slack's form but knows no blocks.

    Everything is escaped, so that ``<…>`` is no link and no mention; ``verbatim`` keeps Slack from making some of its own.
    """
    head = f"[{notice.severity}] sentinel on {host}"
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _slack_text(notice.title, SLACK_HEADER_CHARACTERS), "emoji": False}},
        _slack_section(f"*{head}, {_moment(notice)}*\n" + _slack_text(notice.text, SLACK_BLOCK_CHARACTERS - 250)),
    ]
    facts = _facts(notice)
    blocks += [_slack_section(_slack_text("\n".join(facts), SLACK_BLOCK_CHARACTERS))] if facts else []
    blocks += [_slack_section("*Evidence*\n" + _fence("\n".join(notice.evidence[:CHAT_LINES])))] if notice.evidence else []
    if notice.next_steps:
        blocks.append(_slack_section("*What to do next*\n" + _slack_text(_numbered(notice.next_steps), SLACK_BLOCK_CHARACTERS - 50)))
    blocks += [_slack_section("*To undo*\n" + _fence(notice.undo))] if notice.undo else []
    text = f"*{head}*\n" + _fence("\n".join(_lines(notice, CHAT_LINES)))
    return json.dumps({"text": text, "blocks": blocks, "mrkdwn": True, "unfurl_links": False, "unfurl_media": False}).encode("ascii")


def _slack_section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _fence(text: str) -> str:
    return "```\n" + _slack_text(text, SLACK_BLOCK_CHARACTERS - 100) + "\n```"


def _slack_text(text: str, most: int) -> str:
    """Escaped, and cut so that no escape is torn."""
    out: list[str] = []
    length = 0
    text = text or "-"  # a block without text is refused
    for char in _no_mention(text).replace("`", "'"):
        piece = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(char, char)
        length += len(piece)
        if length > most - 1:
            return "".join(out) + "…"
        out.append(piece)
    return "".join(out)


def as_matrix(notice: Notice, host: str) -> tuple[str, str]:
    """Plain text and HTML, for a room or for a bridge's webhook."""

    def build(some: Notice) -> tuple[str, str]:
        head = f"[{some.severity}] sentinel on {host}"
        plain = _no_mention("\n".join([head, *_lines(some, CHAT_LINES)]))
        parts = [f"<p><strong>{_html(head)}: {_html(some.title)}</strong><br>{_html(_moment(some))}</p>", f"<p>{_html(some.text)}</p>"]
        facts = _facts(some)
        parts += ["<p>" + "<br>".join(map(_html, facts)) + "</p>"] if facts else []
        parts += [_html_block("Evidence", "\n".join(some.evidence[:CHAT_LINES]))] if some.evidence else []
        if some.next_steps:
            parts.append("<p>What to do next:</p><ol>" + "".join(f"<li>{_html(step)}</li>" for step in some.next_steps) + "</ol>")
        parts += [_html_block("To undo", some.undo)] if some.undo else []
        return plain, "".join(parts)

    return _shrunk(notice, build, lambda texts: sum(len(json.dumps(text)) for text in texts) <= MATRIX_BYTES)


def _html_block(title: str, text: str) -> str:
    return f"<p>{title}:</p><pre><code>{_html(text)}</code></pre>"


def _html(text: str) -> str:
    return html.escape(_no_mention(text), quote=True)


def as_teams(notice: Notice, host: str) -> bytes:
    """An Adaptive Card for Teams' Workflows ("when a Teams webhook request is received").

    Text runs, not text blocks: those would read Markdown, and with it links and images.
    """

    def run(text: str, **style: Any) -> dict[str, Any]:
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": _no_mention(text) or " ", **style}]}

    def build(some: Notice) -> bytes:
        colour = {"critical": "Attention", "warning": "Warning"}.get(some.severity, "Default")
        body = [
            run(some.title, weight="Bolder", size="Large", color="Good" if some.resolved else colour),
            run(f"{some.severity}, sentinel on {host}, {_moment(some)}", isSubtle=True),
            run(some.text),
        ]
        body += [run(fact) for fact in _facts(some)]
        if some.evidence:
            body += [run("Evidence", weight="Bolder"), *(run(line, fontType="Monospace") for line in some.evidence[:CHAT_LINES])]
        if some.next_steps:
            body += [run("What to do next", weight="Bolder"), *(run(line) for line in _numbered(some.next_steps).split("\n"))]
        if some.undo:
            body += [run("To undo", weight="Bolder"), run(some.undo, fontType="Monospace")]
        card = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "msteams": {"width": "Full"},
            "body": body,
        }
        attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        return json.dumps({"type": "message", "attachments": [attachment]}, ensure_ascii=False).encode("utf-8")

    # Teams counts in UTF-16, what carries the request in UTF-8.
    return _shrunk(notice, build, lambda data: max(len(data), len(data.decode("utf-8").encode("utf-16-le"))) <= TEAMS_BYTES)


# mail


def as_mail(notice: Notice, host: str, sender: str, recipients: Sequence[str], now: float) -> "EmailMessage":
    """A mail with its own Message-ID, the same each time. All mails of an incident refer to one that never was, so they are one thread."""
    import datetime
    import hashlib
    from email.message import EmailMessage
    from email.policy import SMTP
    from email.utils import format_datetime

    domain = sender.rpartition("@")[2]

    def name(what: str) -> str:
        return f"<{hashlib.blake2b(what.encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}.sentinel@{domain}>"

    def build(some: Notice) -> EmailMessage:
        mail = EmailMessage(policy=SMTP.clone(cte_type="7bit"))  # not every relay offers 8BITMIME
        # "=?" would begin an encoded word, and what it holds would be decoded into the header.
        mail["Subject"] = capped(f"[{some.severity}] {some.title} ({host})", _LABEL_CHARACTERS).replace("=?", "= ?")
        mail["From"] = sender
        mail["To"] = ", ".join(recipients)
        mail["Date"] = format_datetime(datetime.datetime.fromtimestamp(int(now), datetime.UTC))
        mail["Message-ID"] = name(f"notice\0{some.id}")
        mail["In-Reply-To"] = mail["References"] = name(f"incident\0{some.incident}")
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Auto-Response-Suppress"] = "All"
        mail.set_content("\n".join([*_mail_lines(some), "", "-- ", f"sentinel on {host}", ""]))
        return mail

    return _shrunk(notice, build, lambda mail: len(bytes(mail)) <= MAIL_BYTES)


def _mail_lines(notice: Notice) -> list[str]:
    out = [*textwrap.wrap(notice.title, _WIDTH, break_long_words=False), _moment(notice), ""]
    out += textwrap.wrap(notice.text, _WIDTH, break_long_words=False)
    facts = _facts(notice, _MAX_LIST)
    out += ["", *facts] if facts else []
    out += ["", "Evidence:", *(f"  {line}" for line in notice.evidence[:MAIL_LINES])] if notice.evidence else []
    if notice.next_steps:
        out += ["", "What to do next:"]
        for number, step in enumerate(notice.next_steps, 1):
            out += textwrap.wrap(step, _WIDTH, initial_indent=f"  {number}. ", subsequent_indent="     ", break_long_words=False)
    return [*out, "", "To undo:", f"  {notice.undo}"] if notice.undo else out


# Alertmanager


def as_alert(notice: Notice, host: str, now: float, ends: float) -> dict[str, Any]:
    """One alert for ``POST /api/v2/alerts``; ``ends`` is wall clock, in the past of an alert that is over.

    The labels, by which Alertmanager knows an alert again, follow from what the notice is about, so the end has those of the beginning.
    """
    begins = min(notice.time / _US, now)
    subject = {"sasl_username": notice.account} if notice.account else {"provider": notice.provider} if notice.provider else {}
    if not subject and notice.client_ips:
        subject = {"client_ip": notice.client_ips[0]}
    labels = {"alertname": _ALERT_NAMES[notice.kind], "severity": notice.severity, "instance": host, **subject}
    annotations = {
        "summary": notice.title,
        "description": notice.text,
        "next_steps": _numbered(notice.next_steps),
        "evidence": "\n".join(notice.evidence[:CHAT_LINES]),
        "undo": notice.undo or "",
        "incident": notice.incident,
    }
    return {
        "labels": {name: capped(value, _LABEL_CHARACTERS) for name, value in labels.items() if value},
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": format_time(int(begins * _US)),
        # An alert may not end before it begins.
        "endsAt": format_time(int(max(ends, begins) * _US)),
    }


# pieces


def _lines(notice: Notice, evidence: int) -> list[str]:
    """The whole notice as plain lines."""
    out = [notice.title, _moment(notice), "", notice.text, *_facts(notice)]
    out += ["", "Evidence:", *notice.evidence[:evidence]] if notice.evidence else []
    out += ["", "What to do next:", _numbered(notice.next_steps)] if notice.next_steps else []
    return [*out, "", "To undo:", notice.undo] if notice.undo else out


def _facts(notice: Notice, senders: int = _CHAT_SENDERS) -> list[str]:
    facts = [f"Account: {notice.account}"] if notice.account else []
    facts += [f"Provider: {notice.provider}"] if notice.provider else []
    facts += [f"From addresses: {', '.join(notice.client_ips)}"] if notice.client_ips else []
    if notice.senders:
        more = f" and {len(notice.senders) - senders} more" if len(notice.senders) > senders else ""
        facts.append("Wrote as: " + ", ".join(capped(sender, 100) or "<>" for sender in notice.senders[:senders]) + more)
    return facts


def _numbered(steps: Sequence[str]) -> str:
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _moment(notice: Notice) -> str:
    return format_time(notice.time - notice.time % _US).replace("T", " ").replace("Z", " UTC")


def _no_mention(text: str) -> str:
    """A name by which chats call everybody calls nobody."""
    return _MENTION.sub("(at)", text)


def _shrunk(notice: Notice, build: Callable[[Notice], _T], fits: Callable[[_T], bool]) -> _T:
    """What is built of the notice, and of less of it if that is too large."""
    for share in (1, 2, 4, 8, 16):
        built = build(_less(notice, share))
        if fits(built):
            break
    return built


def _less(notice: Notice, share: int) -> Notice:
    if share == 1:
        return notice
    return notice._replace(
        title=capped(notice.title, 200 // share + 20),
        text=capped(notice.text, 2000 // share),
        account=capped(notice.account, 320 // share + 40) if notice.account else None,
        senders=tuple(capped(sender, 320 // share) for sender in notice.senders[:3]),
        evidence=tuple(capped(line, 500 // share) for line in notice.evidence),
        next_steps=tuple(capped(step, 300 // share + 40) for step in notice.next_steps),
    )
