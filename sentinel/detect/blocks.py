"""What is said about a block: who refuses us with which words, where one gets off, and which accounts earned it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentinel.detect.replies import Verdict

_HONEST = 0.02
"""Of an honest account's deliveries this share is refused: old addresses, a newsletter that somebody's filter dislikes."""
_EARNED = 0.2
"""Who has less than this share of what is beyond that did not earn the block."""
_MOST = 0.5
"""Where nothing was refused before the block, it is put down to who sent at least this share of the mail."""
_MAX_ACCOUNTS = 10

Earner = tuple[str, int, int]
"""An account, its deliveries, those that were refused."""


def earned(ranking: Iterable[tuple[bytes, int, int]]) -> list[Earner]:
    """The accounts that earned a block, the worst first, from (account, deliveries, refused) of the hours before.

    An account counts with its refusals beyond the two in a hundred that an honest one has. If nobody has any, the block comes from a
    list that saw the mail itself, and counts go by deliveries.
    """
    accounts = [(account.decode("utf-8", "replace"), total, hits) for account, total, hits in ranking]
    weights = {account: max(0.0, hits - _HONEST * total) for account, total, hits in accounts}
    share = _EARNED
    if not any(weights.values()):
        weights = {account: float(total) for account, total, _ in accounts}
        share = _MOST
    whole = sum(weights.values())
    out = [earner for earner in accounts if weights[earner[0]] >= share * whole > 0]
    return sorted(out, key=lambda earner: (-weights[earner[0]], -earner[1], earner[0]))[:_MAX_ACCOUNTS]


def attribution(earners: list[Earner], known: bool, seconds: float) -> str:
    """One sentence on who earned it; ``known``: whether deliveries could be put down to anybody at all."""
    if not known:
        return "The log before it does not tell whose mail earned it."
    if not earners:
        return "No account stands out: look also at what was sent without a login."
    told = [f"{account} ({refused:,} of its {deliveries:,} deliveries refused)" for account, deliveries, refused in earners[:3]]
    return f"In the {seconds / 3600:g} hours before, it was earned by {', '.join(told)}."


def words(reply: str) -> str:
    """A reply as Postfix logs it, in one line and without the note that it is repeated."""
    return " ".join(reply.removeprefix("delivery temporarily suspended: ").split())


def refusal(provider: str, verdict: Verdict) -> str:
    """One sentence on a reply that says that we are blocked."""
    where = verdict.delist_url or verdict.known_url
    ip = verdict.blocked_ip or "our address (it does not say which)"
    on = f" on the list {verdict.dnsbl}" if verdict.dnsbl else ""
    off = f" Get off at {where}" if where else " It names no page for getting off: write to its postmaster."
    return f'{provider or "It"} blocks {ip}{on}: "{words(verdict.reply)}".{off}' + ("." if where else "")
