"""What is said about a block: who refuses us with which words, where one gets off, and which accounts earned it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sentinel.detect.replies import Verdict

_HONEST = 2
"""Per cent of an honest account's deliveries that are refused: old addresses, a newsletter that somebody's filter dislikes."""
_FEW, _ENOUGH = 5, 10
"""Fewer refusals of an account, or fewer beyond that of all, are chance: anybody has written to a full mailbox."""
_EARNED = 20
"""Who has less than these per cent of what is beyond that did not earn the block."""
_MOST = 50
"""Where too little was refused before the block, it is put down to who sent at least these per cent of the mail."""
_MAX_ACCOUNTS = 10

Earner = tuple[str, int, int]
"""An account, its deliveries, those that were refused."""


def earned(ranking: Iterable[tuple[bytes, int, int]]) -> list[Earner]:
    """The accounts that earned a block, the worst first, from (account, deliveries, refused) of the hours before.

    An account counts with its refusals beyond the two in a hundred that an honest one has. If there are too few to tell, the block comes
    from a list that saw the mail itself, and counts go by deliveries.
    """
    accounts = [(account.decode("utf-8", "replace"), total, hits) for account, total, hits in ranking]
    # In hundredths of a refusal, so that no order of adding makes a difference.
    weights = [max(0, 100 * hits - _HONEST * total) if hits >= _FEW else 0 for _, total, hits in accounts]
    share = _EARNED
    if sum(weights) < 100 * _ENOUGH:
        weights = [total for _, total, _ in accounts]
        share = _MOST
    whole = sum(weights)
    out = [(weight, earner) for weight, earner in zip(weights, accounts, strict=True) if 100 * weight >= share * whole > 0]
    return [earner for _, earner in sorted(out, key=lambda one: (-one[0], -one[1][1], one[1][0]))][:_MAX_ACCOUNTS]


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


def refusal(provider: str, verdict: Verdict, told_by: str = "") -> str:
    """One sentence on a reply that says that we are blocked; ``told_by``: whose host said it, if only its words name the provider."""
    where = verdict.delist_url or verdict.known_url
    ip = verdict.blocked_ip or "our address (it does not say which)"
    on = f" on the list {verdict.dnsbl}" if verdict.dnsbl else ""
    off = f" Get off at {where}" if where else " It names no page for getting off: write to its postmaster."
    only = f" Only its words name {provider}: a host of {told_by} wrote them." if told_by else ""
    return f'{provider or "It"} blocks {ip}{on}: "{words(verdict.reply)}".{off}' + ("." if where else "") + only
