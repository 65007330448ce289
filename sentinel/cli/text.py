"""Text that came from a log, as a terminal may show it."""

from __future__ import annotations

import json
import re

_encode = json.JSONEncoder(ensure_ascii=False).encode
_UNSEEN = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""What JSON leaves as it is and a terminal obeys, or does not show: C1 controls, line separators, marks of direction."""


def plain(text: str) -> str:
    """Text for a terminal: control characters, which an attacker may have put there, become visible."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def as_json(value: object) -> str:
    """One line of JSON: letters of any script as they are, and escaped what a terminal would obey or not show."""
    text = _encode(value)
    if text.isascii() and "\x7f" not in text:
        return text
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
