"""Text that leaves this machine: without secrets, without what obeys or hides, and no longer than it may be.

Log lines, addresses and remote replies are written by strangers, and now and then a password stands in them. So before any target puts a
notice into its own form, each text of it goes through :class:`Redactor`: our own secrets go by their value, the secrets of others by where
they stand (``user:password@`` in a URL, ``password=…``, ``Authorization: …``, the argument of ``AUTH PLAIN``), control and invisible
characters and marks of direction become ``?``, line breaks become blanks.

Limits: a secret of somebody else that stands in a text without any sign of what it is can't be told from other words.
"""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

HIDDEN = "[redacted]"
_MAX_CHARACTERS = 20_000
"""More of a text is not even looked at."""
_SHORTEST_SECRET = 4
"""Replacing shorter ones by value would tear up ordinary words."""

_IN_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,30}://)[^\s/?#@\"'<>]*(?:@[^\s/?#@\"'<>]*)*@")
_GIVEN_PASSWORD = re.compile(r"(?i)(given password: ).*\)")
"""As Dovecot's auth_verbose_passwords writes it; blanks and brackets may be in it."""
_AUTHORIZATION = re.compile(
    r"(?i)\b((?:proxy-)?authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?)(?:(?:basic|bearer|digest|negotiate|token)\s+)?[^\s\"']+"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[a-z0-9._~+/=-]{8,}")
_SMTP_AUTH = re.compile(r"(?i)\b(AUTH\s+(?:PLAIN|LOGIN|XOAUTH2|OAUTHBEARER|CRAM-MD5)\s+)[a-z0-9+/=]{4,}")
_NAMED = re.compile(
    r"(?i)((?:password|passwd|passphrase|passwort|pwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|token|credentials?)"
    r"[\"']?\s{0,3}[:=]\s{0,3})(?:\"[^\"]*\"?|'[^']*'?|[^\s,;&)\"'<>]+)"
)
_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")


class Redactor:
    """Knows our own secrets. Its ``repr`` does not tell them."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets if len(secret) >= _SHORTEST_SECRET for form in _written(secret)}
        # The longest first: one may lie within another.
        self._own = sorted(forms, key=lambda form: (-len(form), form))

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._own)} texts>"

    def line(self, text: str, most: int) -> str:
        """One line of at most ``most`` characters."""
        return capped(visible(self.without_secrets(text[:_MAX_CHARACTERS])), most)

    def without_secrets(self, text: str) -> str:
        """The same text with :data:`HIDDEN` in place of each secret."""
        for secret in self._own:
            text = text.replace(secret, HIDDEN)
        text = _IN_URL.sub(rf"\1{HIDDEN}@", text)
        for pattern in (_GIVEN_PASSWORD, _AUTHORIZATION, _BEARER, _SMTP_AUTH, _NAMED):
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return text


def visible(text: str) -> str:
    """One line in which nothing is hidden and nothing is obeyed: controls, marks of direction and the like are ``?``."""
    joined = _BREAKS.sub(" ", text).strip()
    return joined if joined.isascii() and joined.isprintable() else "".join(char if char.isprintable() else "?" for char in joined)


def capped(text: str, most: int) -> str:
    """At most ``most`` characters; an ellipsis says that there was more."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _written(secret: str) -> set[str]:
    """The ways in which a secret may stand in a text."""
    plain = secret.encode("utf-8", "surrogatepass")
    coded = {base64.b64encode(plain).decode("ascii"), base64.urlsafe_b64encode(plain).decode("ascii")}
    return {secret, quote(plain, safe=""), quote_plus(plain), repr(secret)[1:-1], *(code.rstrip("=") for code in coded)}
