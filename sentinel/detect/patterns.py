"""Regular expressions that a hostile text can't make slow: RE2, matched all at once, in time linear in the text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import re2

from sentinel.marked import Marked

_MEMORY = 4 << 20
"""Bytes that a set of patterns may use while it matches. A hostile text can fill them; RE2 then begins anew and stays linear."""


@cache
def _options() -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY
    return options


class Patterns:
    """Patterns as one automaton, which is built when it is first asked."""

    __slots__ = ("_patterns", "_set")

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = tuple(patterns)
        self._set: Any = None

    def found(self, text: bytes) -> list[int]:
        """The numbers of those that match anywhere in a text, without regard to case; in no order."""
        if self._set is None:
            if not self._patterns:
                return []
            self._set = re2.Set.SearchSet(_options())
            for pattern in self._patterns:
                self._set.Add(pattern)
            self._set.Compile()
        return self._set.Match(text) or []


def pattern_of(item: Marked, proven: bool = False) -> str:
    """A pattern in a YAML file; ContentError where RE2 does not take it. ``proven``: one of the product's, whose tests compile them."""
    pattern = item.text("a pattern")
    if proven:
        return pattern
    try:
        re2.Set.SearchSet(_options()).Add(pattern)
    except re2.error:
        raise item.error(f'"{pattern}" is not a regular expression that RE2 takes (no look-around, no back-references)') from None
    return pattern
