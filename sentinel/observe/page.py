"""The status page: one HTML text without script, pictures or anything from elsewhere.

Almost every text on it was written by somebody who may be attacking: names that were tried at login, HELO names, remote
replies. All of it goes through :func:`_text`, and the page is served with :data:`CONTENT_SECURITY_POLICY`, under which
nothing that slips through could run or load.
"""

import base64
import hashlib
import heapq
import html
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sentinel.detect.detection import format_time
from sentinel.errors import UserError
from sentinel.observe.status import Snapshot, Status

__all__ = ["CONTENT_SECURITY_POLICY", "render"]

_DETECTIONS = 50
_ACCOUNTS = 20
_LOCKS = 100
_MAX_TEXT_CHARACTERS = 300
_MAX_LINE_CHARACTERS = 2000

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --good: #2a7d3f; --bad: #c0392b; --warn: #b9770e }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
table { border-collapse: collapse; width: 100% } .wide { overflow-x: auto }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: normal } .n { text-align: right; font-variant-numeric: tabular-nums }
td, summary, code { overflow-wrap: anywhere }
details { border-bottom: 1px solid var(--line); padding: .3rem 0 } summary { cursor: pointer }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; margin: .4rem 0 }
.soft { color: var(--soft) } .good { color: var(--good) } .bad, .critical { color: var(--bad) }
.warning { color: var(--warn) }
meter { width: 8rem }
"""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows the page's own style sheet and nothing else."""

# Control characters would be dropped or act on a terminal that the text is pasted into.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029) if code != 0x09}


def render(status: Status, version: str, now: float) -> str:
    """The page as of the latest snapshot; ``now`` is the wall clock in seconds."""
    snapshot = status.current
    ready, why = status.readiness()
    state = '<b class="good">ready</b>' if ready else f'<b class="bad">not ready:</b> {_text(why)}'
    mode = "enforce: accounts are locked" if status.mode == "enforce" else f"{status.mode}: nothing is locked"
    saved = "not yet" if snapshot.checkpoint_at is None else f"{_ago(now - snapshot.checkpoint_at)} ago"
    head = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>sentinel</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        f'<h1>sentinel</h1>\n<p>{state}. <span class="soft">Mode {_text(mode)}. Version {_text(version)}, running '
        f"for {_ago(now - status.started)}, state saved {saved}. As of {_time(now)}.</span></p>\n"
    )
    sections = (
        _sources(status, snapshot, now),
        _accounts(status, snapshot),
        _asked("Recent detections", lambda: _detections(status.detections(_DETECTIONS))),
        _asked("Locks", lambda: _locks(status.locks())),
        _engine(status, snapshot),
    )
    return f"{head}{''.join(sections)}</body></html>\n"


def _asked(title: str, section: Callable[[], str]) -> str:
    """A section out of the state database; where that does not answer, its sentence instead."""
    try:
        content = section()
    except UserError as error:
        content = f'<p class="bad">{_text(str(error))}</p>'
    return f"<h2>{title}</h2>\n{content}\n"


def _sources(status: Status, snapshot: Snapshot, now: float) -> str:
    lines = status.totals("lines", snapshot)
    rows = []
    for source in dict.fromkeys((*status.sources, *snapshot.lag)):
        read = lines.get(source, {})
        last = snapshot.last_event.get(source)
        rows.append(
            (
                _text(source),
                _number(snapshot.lag.get(source, 0)),
                "none yet" if last is None else f"{_time(last)} ({_ago(now - last)} ago)",
                _number(sum(read.values())),
                _number(read.get("unparsed", 0)),
                _number(snapshot.overlong.get(source, 0)),
                _number(snapshot.rotations.get(source, 0)),
            )
        )
    heads = ("log", "#bytes behind", "newest event", "#lines read", "#unparsed", "#too long", "#rotations")
    return f"<h2>Logs</h2>\n{_table(heads, rows)}\n"


def _accounts(status: Status, snapshot: Snapshot) -> str:
    top = heapq.nlargest(_ACCOUNTS, snapshot.scores.items(), key=lambda item: (item[1], item[0]))
    total = status.lock_total
    locked = set(snapshot.locked)
    rows = [
        (
            _text(name),
            _number(score),
            f'<meter min="0" max="{total:g}" value="{min(score, total):g}"></meter>',
            "locked" if name in locked else "",
        )
        for name, score in top
    ]
    more = len(snapshot.scores) - len(rows)
    table = _table(("account", "#score", f"policy acts at {total:g}", ""), rows) if rows else _none("No account has points.")
    rest = f'<p class="soft">and {more} with lower scores</p>' if more > 0 else ""
    return f"<h2>Account scores</h2>\n{table}{rest}\n"


def _detections(detections: Sequence[Mapping[str, Any]]) -> str:
    if not detections:
        return _none("None.")
    return "".join(_detection(item) for item in reversed(detections))


def _detection(item: Mapping[str, Any]) -> str:
    severity = item.get("severity", "")
    color = severity if severity in ("warning", "critical") else "soft"
    subject = ", ".join(f"{_text(name)} <b>{_text(value)}</b>" for name, value in item.get("subject", {}).items())
    parts = [f"<p>{_text(item.get('description', ''))} {_text(item.get('advice', ''))}</p>"]
    related = item.get("related", {})
    if related:
        rows = [(_text(name.replace("_", " ")), ", ".join(map(_text, values))) for name, values in related.items()]
        parts.append(_table(("related", ""), rows))
    lines = [_text(evidence.get("line", ""), _MAX_LINE_CHARACTERS) for evidence in item.get("evidence", ())]
    if lines:
        parts.append("<pre>" + "\n".join(lines) + "</pre>")
    return (
        f'<details><summary><span class="{color}">{_text(severity)}</span> {_text(item.get("rule", ""))}: {subject} '
        f'<span class="soft">{_text(item.get("time", ""))}, {_text(item.get("measure", ""))} '
        f"{_number(item.get('value', 0))} (threshold {_number(item.get('threshold', 0))}) in "
        f"{_ago(float(item.get('window', 0)))}</span></summary>{''.join(parts)}</details>\n"
    )


def _locks(locks: Sequence[Mapping[str, Any]]) -> str:
    if not locks:
        return _none("No account is locked.")
    newest = list(reversed(locks))
    rows = [
        (
            _text(lock.get("account", "")),
            _text(lock.get("state", "")),
            _text(lock.get("created", "")),
            _text(lock.get("why", "")),
            f"<code>{_text(_undo(str(lock.get('account', ''))), _MAX_LINE_CHARACTERS)}</code>",
        )
        for lock in newest[:_LOCKS]
    ]
    rest = f'<p class="soft">and {len(newest) - len(rows)} older ones</p>' if len(newest) > len(rows) else ""
    return _table(("account", "state", "since", "why", "to undo"), rows) + rest


def _undo(account: str) -> str:
    """The command, safe to paste into a shell whatever the account is called."""
    if len(account) > _MAX_TEXT_CHARACTERS or account.translate(_CONTROLS) != account:
        return "sentinel locks list"  # the name could not be shown as it is
    return f"sentinel locks unlock {'-- ' if account.startswith('-') else ''}{shlex.quote(account)}"


def _engine(status: Status, snapshot: Snapshot) -> str:
    counters = snapshot.counters
    keys = sum(counters.get("window_keys", {}).values())
    forgotten = sum(status.totals("evictions", snapshot).values())
    facts = (
        ("open messages", counters.get("open_messages", 0)),
        ("subjects in windows", keys),
        ("deliveries whose origin was before the log", status.number("unattributed", snapshot)),
        ("events too late to count", status.number("late", snapshot)),
        ("forgotten because of a limit", forgotten),
        ("times the log's clock was set back", status.number("clock_set_back", snapshot)),
    )
    return f"<h2>Inside</h2>\n{_table(('', '#'), [(name, _number(value)) for name, value in facts])}\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a head that begins with # is a column of numbers. Cells are HTML already."""
    classes = [' class="n"' if head.startswith("#") else "" for head in heads]
    top = "".join(f"<th{css}>{head.lstrip('#')}</th>" for head, css in zip(heads, classes, strict=True))
    body = "".join("<tr>" + "".join(f"<td{css}>{cell}</td>" for cell, css in zip(row, classes, strict=True)) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def _none(sentence: str) -> str:
    return f'<p class="soft">{sentence}</p>'


def _text(value: object, limit: int = _MAX_TEXT_CHARACTERS) -> str:
    """Any text as HTML that shows it and does nothing else; isolated, so that it cannot turn the line around either."""
    text = str(value)
    if len(text) > limit:
        text = text[:limit] + "…"
    return f"<bdi>{html.escape(text.translate(_CONTROLS))}</bdi>" if text else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _time(seconds: float) -> str:
    return format_time(int(seconds) * 1_000_000)


def _ago(seconds: float) -> str:
    """A length of time to one unit: ``45 s``, ``12 min``, ``3 h``, ``5 d``."""
    seconds = max(0.0, seconds)
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
