"""Who answered: mail providers by the names of their hosts and, where that says nothing, by marks in what they write.

Both are data: ``rules/providers.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from sentinel.detect.patterns import Patterns, pattern_of
from sentinel.marked import read
from sentinel.resources import resource

SELF = "self"
"""Ourselves: what Postfix wrote, and what a program on this host answered (a content filter, Dovecot)."""
GENERIC = "generic"
"""Nobody that could be told by a text alone."""


_REGISTRY_LABELS = frozenset(["ac", "co", "com", "ed", "edu", "go", "gob", "gov", "mil", "ne", "net", "nom", "or", "org"])
"""Before a country's label these are the registry's, and no name of anybody."""


class Providers:
    """Mail providers by the suffixes of their hosts' names, and by patterns in their texts."""

    def __init__(self, suffixes: Mapping[str, str], texts: Iterable[tuple[str, str]] = (), gateways: Iterable[str] = ()) -> None:
        """``suffixes``: domain → provider. ``texts``: (pattern, provider), the first that matches tells. ``gateways``: providers whose
        hosts answer for others, so that the text tells more than the host.
        """
        self._suffixes = dict(suffixes)
        texts = list(texts)
        self._owners = [name for _, name in texts]
        self._texts = Patterns(pattern for pattern, _ in texts)
        self.gateways = frozenset(gateways)
        self.names = tuple(dict.fromkeys((SELF, *self._suffixes.values(), *self._owners)))

    def of(self, host: str) -> str:
        """The provider of a host; one that is not known is called by its domain, an address by itself, this host ``self``."""
        host = host.lower().rstrip(".")
        labels = host.split(".")
        found = self.known(labels)
        if found:
            return found
        if host in ("localhost", "127.0.0.1", "::1") or "/" in host:
            return SELF
        if labels[-1].isdigit() or len(labels) < 2:
            return host
        # example.co.uk, example.com.hk
        registry = len(labels[-1]) == 2 and labels[-2] in _REGISTRY_LABELS
        return ".".join(labels[-3:] if registry else labels[-2:])

    def known(self, labels: list[str]) -> str:
        """The provider in the table that a host's labels belong to, or an empty text."""
        for i in range(len(labels)):
            found = self._suffixes.get(".".join(labels[i:]))
            if found:
                return found
        return ""

    def written_by(self, text: bytes) -> str:
        """The provider whose mark a reply bears, or an empty text. A mark can be forged: a host's name goes before it."""
        found = self._texts.found(text)
        return self._owners[min(found)] if found else ""


def load_providers(path: str | Path | None = None) -> Providers:
    """The table of a file; UserError for what is not right in it."""
    top = read(path or resource("rules", "providers.yaml")).mapping("a providers file", ("providers",), ("providers",))
    suffixes: dict[str, str] = {}
    texts: list[tuple[str, str]] = []
    gateways: list[str] = []
    for name, value in top["providers"].mapping('"providers"').items():
        keys = value.mapping("a provider", ("hosts", "texts", "gateway"))
        if "gateway" in keys and keys["gateway"].value is True:
            gateways.append(name)
        for item in keys["hosts"].items('"hosts"') if "hosts" in keys else []:
            suffix = item.text("a suffix").lower()
            if suffix in suffixes:
                raise item.error(f'"{suffix}" stands already under "{suffixes[suffix]}"')
            suffixes[suffix] = name
        for item in keys["texts"].items('"texts"') if "texts" in keys else []:
            texts.append((pattern_of(item, proven=not path), name))
    return Providers(suffixes, texts, gateways)
