"""What a remote server's refusal is about, and who runs the server.

Both are data: ``rules/replies.yaml`` and ``rules/providers.yaml``. A reply is classified from its shape, in which addresses and long
numbers have become ``#``, so that three hundred thousand deferrals of one kind are classified once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import re2

from sentinel.marked import Marked, read
from sentinel.resources import resource

CLASS_NAMES = (
    "",
    "ip_blocked",
    "rate_limited",
    "content_spam",
    "auth_policy",
    "sender_blocked",
    "recipient_invalid",
    "greylisted",
    "other",
)
"""Number 0 is no refusal."""

_GREETING = b" refused to talk to me: "
_CODE = re.compile(rb"\b([245]\d\d)(?=[ -]|$)")


class ReplyRule(NamedTuple):
    number: int
    """Of the class, in ``CLASS_NAMES``."""
    confidence: float
    refused: bool
    codes: tuple[int, int]
    patterns: tuple[str, ...]

    def fits(self, code: int, refused: bool) -> bool:
        return (refused or not self.refused) and (code == 0 or self.codes[0] <= code <= self.codes[1])


class ReplyClassifier:
    """Classes of replies, by the first rule that matches.

    All patterns are one automaton (RE2): one pass over the reply, linear in its length whatever the remote server writes.
    """

    def __init__(self, rules: Iterable[ReplyRule]) -> None:
        self._rules = tuple(rules)
        self._owner: list[int] = []
        self._set: Any = re2.Set.SearchSet(_options())
        for number, rule in enumerate(self._rules):
            for pattern in rule.patterns:
                self._set.Add(pattern)
                self._owner.append(number)
        if self._owner:
            self._set.Compile()

    def classify(self, reply: bytes) -> int:
        """The number of a refusal's class. ``reply`` may still begin with `` said: `` or `` refused to talk to me: ``."""
        refused = reply.startswith(_GREETING)
        found = _CODE.search(reply)
        code = int(found[1]) if found else 0
        matched: list[int] = self._set.Match(reply) if self._owner else []
        for number in sorted({self._owner[i] for i in matched}):
            if self._rules[number].fits(code, refused):
                return self._rules[number].number
        return CLASS_NAMES.index("other")


def _options() -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    return options


def load_replies(path: str | Path | None = None) -> ReplyClassifier:
    """The rules of a file; UserError for what is not right in it."""
    top = read(path or resource("rules", "replies.yaml")).mapping("a replies file", ("replies",), ("replies",))
    return ReplyClassifier(_reply_rule(item) for item in top["replies"].items('"replies"'))


def _reply_rule(item: Marked) -> ReplyRule:
    keys = item.mapping("a reply rule", ("class", "patterns", "codes", "said", "confidence"), ("class", "patterns"))
    patterns = []
    for entry in keys["patterns"].items('"patterns"'):
        patterns.append(entry.text("a pattern"))
        try:
            re2.Set.SearchSet(_options()).Add(patterns[-1])
        except re2.error:
            raise entry.error(f'"{patterns[-1]}" is not a regular expression that RE2 takes (no look-around, no back-references)') from None
    low, high = 0, 999
    if "codes" in keys:
        ends = keys["codes"].text('"codes"').split("-")
        if len(ends) != 2 or not all(end.isdigit() for end in ends):
            raise keys["codes"].error('"codes" is a range like 400-499')
        low, high = map(int, ends)
    if "said" in keys:
        keys["said"].word('"said"', ("refused",))
    return ReplyRule(
        number=CLASS_NAMES.index(keys["class"].word('"class"', CLASS_NAMES[1:])),
        confidence=keys["confidence"].number('"confidence"', 0) if "confidence" in keys else 0.9,
        refused="said" in keys,
        codes=(low, high),
        patterns=tuple(patterns),
    )


class Providers:
    """Mail providers by the suffixes of their hosts' names."""

    def __init__(self, suffixes: dict[str, str]) -> None:
        """``suffixes``: domain → provider."""
        self._suffixes = suffixes
        self.names = tuple(dict.fromkeys(suffixes.values()))

    def of(self, host: str) -> str:
        """The provider of a host; one that is not known is called by its domain, an address by itself."""
        host = host.lower().rstrip(".")
        labels = host.split(".")
        for i in range(len(labels)):
            found = self._suffixes.get(".".join(labels[i:]))
            if found:
                return found
        if labels[-1].isdigit() or len(labels) < 2:
            return host
        # example.co.uk, example.com.hk: a short label before a country's is a registry's, not a name.
        short = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
        return ".".join(labels[-3:] if short else labels[-2:])


def load_providers(path: str | Path | None = None) -> Providers:
    """The suffix table of a file; UserError for what is not right in it."""
    top = read(path or resource("rules", "providers.yaml")).mapping("a providers file", ("providers",), ("providers",))
    suffixes: dict[str, str] = {}
    for name, value in top["providers"].mapping('"providers"').items():
        for item in value.items("a provider"):
            suffix = item.text("a suffix").lower()
            if suffix in suffixes:
                raise item.error(f'"{suffix}" stands already under "{suffixes[suffix]}"')
            suffixes[suffix] = name
    return Providers(suffixes)
