"""Notices in words: what happened, what was done, what to do next and how to undo it, for somebody who was asleep.

The functions take plain values, and detections as :meth:`sentinel.detect.detection.Detection.to_dict` gives them; they read no clock and no
database. The same incident and kind give the same notice id. Texts hold what the log wrote: targets clean them.
"""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sentinel.config import NoticeKind, Severity
from sentinel.detect.detection import account_key, format_time, parse_time
from sentinel.respond.notify import Notice

Found = Mapping[str, Any]
"""A detection as a dictionary."""

_MOST_IPS = 10
_MOST_LINES = 10
_US = 1_000_000
_SAFE_IN_SHELL = re.compile(r"[\w@+=:.][\w@%+=:,./-]{0,319}")
"""An account that no shell and no program takes for anything but a name."""

_SEVERITY: dict[str, Severity] = {
    "locked": "critical",
    "would-lock": "critical",
    "refused": "critical",
    "failed": "critical",
    "unlocked": "info",
    "lock-ineffective": "critical",
}
_AFTER_LOCK = (
    "Change the password of {who} before you unlock it, and ask its owner where it was last typed in.",
    "Look at what is still in the queue: sentinel queue list --account {account}",
    "If many providers have refused mail meanwhile, see who blocks us: sentinel doctor --blocks /var/log/mail.log",
)


def notice_id(incident: str, kind: str) -> str:
    """The id of the notice of a kind about an incident."""
    return hashlib.blake2b(f"{incident}\0{kind}".encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def undo_command(account: str, config: str | None = None) -> str | None:
    """What unlocks an account, for a shell; None for an account with characters that a shell could obey. It will be pasted."""
    where = f" --config {shlex.quote(config)}" if config else ""
    return f"sentinel locks unlock{where} -- {account}" if _SAFE_IN_SHELL.fullmatch(account) else None


def about_account(
    kind: NoticeKind,
    account: str,
    *,
    incident: str,
    why: str,
    detections: Sequence[Found] = (),
    time: int | None = None,
    points: float | None = None,
    lock_at: float | None = None,
    problem: str | None = None,
    config: str | None = None,
) -> Notice:
    """A notice of what became of an account: ``locked``, ``would-lock``, ``refused``, ``failed``, ``unlocked`` or ``lock-ineffective``.

    ``why`` is the decision's sentence. ``problem`` is why a lock was refused or failed, or what passed in spite of it. ``time`` is event
    time in microseconds; none: of the newest detection. ``config`` is the path of the configuration, for the command to undo.
    ValueError for another kind.
    """
    if kind not in _ACCOUNT_WORDS:
        raise ValueError(f"{kind} is no kind of notice about an account")
    title, done, steps = _ACCOUNT_WORDS[kind]
    words = {
        "who": account,
        "account": account if _SAFE_IN_SHELL.fullmatch(account) else "ACCOUNT",
        "problem": (problem or "no reason is known").rstrip("."),
        "why": why.rstrip("."),
    }
    score = f" ({points:g} points, locked at {lock_at:g})" if points is not None and lock_at is not None else ""
    return Notice(
        id=notice_id(incident, kind),
        incident=incident,
        kind=kind,
        severity=_SEVERITY[kind],
        time=_newest(detections) if time is None else time,
        title=title.format_map(words),
        text=f"{words['why']}{score}. {done.format_map(words)}" + _counted(detections),
        account=account,
        client_ips=_related(detections, "client_ips"),
        senders=_related(detections, "senders"),
        evidence=_evidence(detections),
        next_steps=tuple(step.format_map(words) for step in steps),
        undo=undo_command(account, config) if kind in ("locked", "lock-ineffective") else None,
        resolved=kind == "unlocked",
    )


_ACCOUNT_WORDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "locked": ("Locked {who}", "The account is locked: it can send no new mail until you unlock it.", _AFTER_LOCK),
    "would-lock": (
        "Would lock {who}",
        "Nothing was done, because sentinel only observes: the account goes on sending.",
        (
            "Decide now: to lock it by hand, use sentinel locks lock {account}",
            "If it is a newsletter or a shop, protect it: sentinel locks protect {account}",
            "To have it locked next time, set policy.mode to enforce.",
        ),
    ),
    "refused": (
        "Not locked: {who}",
        "The account was not locked: {problem}. It goes on sending.",
        (
            "Look at the evidence and decide: sentinel locks lock {account} locks it by hand, whatever policy says.",
            "If its mail is wanted, nothing is to be done.",
        ),
    ),
    "failed": (
        "Lock FAILED for {who}",
        "The account could not be locked: {problem}. It goes on sending.",
        (
            "Stop it by hand now: change its password, or block its addresses at the firewall.",
            "Mend what the reason says, then lock it: sentinel locks lock {account}",
            "See whether sentinel can reach the mail system's database: the page /readyz says it.",
        ),
    ),
    "unlocked": (
        "Unlocked {who}",
        "The lock is undone, and the account's row is as it was. Only what happens from now on counts against it.",
        ("Make sure that its password was changed; if not, it will be used again within minutes.",),
    ),
    "lock-ineffective": (
        "{who} still sends although it is locked",
        "The account is locked in the database, and mail of it was accepted all the same: {problem}.",
        (
            "End its open sessions: doveadm kick {account}, and stop the smtpd processes that serve its addresses.",
            "Flush the authentication cache: doveadm auth cache flush {account}",
            "See that the query by which logins are checked tests the locked column.",
            "Hold what is queued: sentinel queue hold --account {account}",
        ),
    ),
}


def about_breaker(
    why: str, accounts: Sequence[str], *, incident: str, time: int, detections: Sequence[Found] = (), closed: bool = False
) -> Notice:
    """Locking was stopped altogether; with ``closed`` it goes on again."""
    if closed:
        text = f"{why.rstrip('.')}. Accounts are locked again as before."
        steps: tuple[str, ...] = ("Look through what was not locked meanwhile: sentinel locks list --every",)
    else:
        text = (
            f"{why.rstrip('.')}. No account is locked any more until this is over: "
            "either a rule is wrong here, or the attack is of another kind."
        )
        shown = ", ".join(accounts[:5]) + (f" and {len(accounts) - 5} more" if len(accounts) > 5 else "")
        steps = (
            f"Look at whose accounts these are: {shown}" if accounts else "Look at which accounts these are: sentinel locks list --every",
            "If their mail is wanted, undo the locks with sentinel locks unlock, and protect the accounts or change the rule.",
            "If it is an attack, look for what the accounts have in common (a webmail, a shared password, one address) and stop that.",
        )
    return Notice(
        id=notice_id(incident, "breaker-closed" if closed else "breaker-open"),
        incident=incident,
        kind="breaker-open",
        severity="info" if closed else "critical",
        time=time,
        title="Locking goes on again" if closed else f"Locking has stopped: {len(accounts)} accounts at once",
        text=text,
        client_ips=_related(detections, "client_ips"),
        evidence=_evidence(detections),
        next_steps=steps,
        resolved=closed,
    )


def about_block(detection: Found, *, incident: str, ended: bool = False) -> Notice:
    """A provider blocks our address, by a detection of ``remote-block``; with ``ended`` by one of ``block-ended``.

    ``incident`` must be the same for a block and its end: the subject's values make it.
    """
    subject = detection["subject"]
    related = detection.get("related", {})
    provider, ip, dnsbl = subject.get("provider", ""), subject.get("blocked_ip", ""), subject.get("dnsbl", "")
    what = f"{provider} {'takes our mail again' if ended else 'blocks'}" + (f"{' from' if ended else ''} {ip}" if ip else "")
    kind: NoticeKind = "block-ended" if ended else "blocked"
    page = next(iter(related.get("delist_urls", [])), None)
    accounts = list(related.get("accounts", []))
    steps: tuple[str, ...] = ()
    if not ended:
        earned = (
            f"Stop what earned it first, most likely {', '.join(accounts[:3])}."
            if accounts
            else "Stop what earned it first: see /api/detections."
        )
        ask = f"Then ask to be taken off: {page}" if page else f"The reply names no page: then write to the postmaster of {provider}."
        steps = (earned, ask, "Until then send through another address if you can; each further attempt makes it last longer.")
    said = next(iter(related.get("replies", [])), "")
    return Notice(
        id=notice_id(incident, kind),
        incident=incident,
        kind=kind,
        severity="info" if ended else "critical",
        time=parse_time(detection["time"]),
        title=what + (f" (list: {dnsbl})" if dnsbl else ""),
        text=f"{detection.get('description', '')} " + (f'It said: "{said}"' if said and not ended else ""),
        provider=provider or None,
        evidence=_evidence([detection]),
        next_steps=steps,
        resolved=ended,
    )


def about_detection(detection: Found, *, incident: str | None = None) -> Notice:
    """A detection as it is, for who wants to hear of each. Its id is the incident unless one is given."""
    subject = detection["subject"]
    who = ", ".join(str(value) for value in subject.values() if value) or "this server"
    severity: Severity = detection["severity"]
    unit = f"{detection['measure']} {detection['value']:g} in {_span(detection['window'])}, at most {detection['threshold']:g} is usual"
    incident = incident or detection["id"]
    address = subject.get("client_ip")
    return Notice(
        id=notice_id(incident, "detection"),
        incident=incident,
        kind="detection",
        severity=severity,
        time=parse_time(detection["time"]),
        title=f"{detection['rule']}: {who}",
        text=f"{detection.get('description', '')} Measured: {unit}. Nothing was done.",
        account=subject.get("sasl_username"),
        client_ips=(address,) if address else _related([detection], "client_ips"),
        senders=_related([detection], "senders"),
        evidence=_evidence([detection]),
        next_steps=(detection["advice"],) if detection.get("advice") else (),
        provider=subject.get("provider") or None,
    )


def trial_notice(now: float) -> Notice:
    """What ``sentinel notify test`` sends; a new one at each moment."""
    return Notice(
        id=notice_id(f"test\0{now!r}", "detection"),
        incident="test",
        kind="detection",
        severity="info",
        time=int(now * _US),
        title="Test: notices from sentinel arrive here",
        text="Somebody has run sentinel notify test. Nothing has happened, and nothing is to be done.",
        account="test@example.com",
        client_ips=("192.0.2.1",),
        evidence=("Oct 24 06:18:01 mx postfix/smtpd[4202]: this is no line of a log",),
        next_steps=("Go back to sleep.",),
    )


def account_incident(account: str, decision: str) -> str:
    """One name for all notices about a decision on an account, however the account is written."""
    return f"{account_key(account)}\0{decision}"


def lasting_incident(what: str, detection: Found) -> str:
    """The same for what lasts and its end: the subject's values."""
    return f"{what}\0" + "\0".join(f"{name}={value}" for name, value in sorted(detection["subject"].items()))


def _newest(detections: Sequence[Found]) -> int:
    if not detections:
        raise ValueError("a notice without detections needs a time")
    return max(parse_time(detection["time"]) for detection in detections)


def _related(detections: Iterable[Found], name: str) -> tuple[str, ...]:
    """The values of all detections, each once, in their order."""
    values = (str(value) for detection in detections for value in detection.get("related", {}).get(name, ()))
    return tuple(dict.fromkeys(values))[:_MOST_IPS]


def _evidence(detections: Sequence[Found]) -> tuple[str, ...]:
    """Lines of all detections, each once: the first of each, then the second of each, so that a few show every reason."""
    columns = [[str(item["line"]) for item in detection.get("evidence", ())] for detection in detections]
    rows = (column[i] for i in range(max(map(len, columns), default=0)) for column in columns if i < len(column))
    return tuple(dict.fromkeys(rows))[:_MOST_LINES]


def _counted(detections: Sequence[Found]) -> str:
    """The detections behind a decision in words, the newest last."""
    parts = []
    for found in sorted(detections, key=lambda found: str(found["time"])):
        moment = format_time(parse_time(found["time"]) // _US * _US)[11:19]
        parts.append(f"{found['rule']} at {moment} UTC ({found['measure']} {found['value']:g} in {_span(found['window'])})")
    return f" Seen: {'; '.join(parts[-5:])}." if parts else ""


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
