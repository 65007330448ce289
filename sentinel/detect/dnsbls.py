"""DNS block lists: what they are called in replies, whose they are, where one gets off.

The names are data: ``rules/dnsbls.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sentinel.detect.patterns import Patterns, pattern_of
from sentinel.marked import read
from sentinel.resources import resource

_HOST = rb"(?:[a-z0-9_~][a-z0-9_~-]*\.)+[a-z]{2,}"
_AFTER = re.compile(
    # Postfix's "blocked using ZONE", and what others say before or after a zone's name.
    rb"(?:block(?:ed)?|reject(?:ed|s)?|(?:black ?)?listed|blacklisted|found|refused|banned|denied|lookup site|dnsbl|rbl|blocklist"
    rb"|black ?list)(?: (?:using|by|at|in|on|from|of|the|our|list|server|provider|site|realtime|dns|rbl|block|black|listed|database"
    rb"|response|due|to)){0,6}[ :,;('\"=]{1,3}(" + _HOST + rb")(?![\w@])",
    re.IGNORECASE,
)
_NAMED_LIKE_A_LIST = re.compile(
    rb"(?:^|[.-])(?:dns|ip|u|d|r|s|x|p|z|e|rhs)?[a-z]?bl\d?[.-]|black|block|(?:^|\.)rbl|dnsbl|drbl", re.IGNORECASE
)
_ANY_HOST = re.compile(rb"(?<![\w@./~-])(" + _HOST + rb")(?![\w@-])", re.IGNORECASE)
_URL_HOST = re.compile(rb"https?://(?:www\.)?([a-z0-9.-]+)([^\s<>\"']*)", re.IGNORECASE)


class BlockList(NamedTuple):
    """One list. ``delist`` is a page with ``{ip}`` where the address goes, or without; ``domains`` lists
    domains and not addresses.
    """

    name: str
    delist: str
    domains: bool


class BlockLists:
    """The lists that are known, by zone, by name and by the URLs that lead to them."""

    def __init__(
        self,
        lists: Iterable[BlockList],
        zones: dict[str, str],
        names: Iterable[tuple[str, str]],
        urls: Iterable[tuple[str, str]],
    ) -> None:
        """``zones``: suffix of a zone → list. ``names`` and ``urls``: (pattern, list), the first that matches tells."""
        self.lists = {item.name: item for item in lists}
        self._zones = zones
        names, urls = list(names), list(urls)
        self._name_owners = [name for _, name in names]
        self._names = Patterns(pattern for pattern, _ in names)
        self._url_owners = [name for _, name in urls]
        self._urls = Patterns(pattern for pattern, _ in urls)

    def in_text(self, text: bytes) -> str:
        """The list that a refusal names: its zone as written, else the short name; empty if none is named."""
        for found in _AFTER.finditer(text):
            zone = found[1].lower()
            if b"~" not in zone and (self.by_zone(zone) or (_NAMED_LIKE_A_LIST.search(zone) and not _is_file(zone))):
                return zone.decode("ascii")
        for found in _ANY_HOST.finditer(text):
            zone = found[1].lower()
            # The operator's own domain is a web site's, not a zone's.
            if b"~" not in zone and zone.count(b".") > 1 and not zone.startswith((b"www.", b"check.")) and self.by_zone(zone):
                return zone.decode("ascii")
        known = self.by_name(text) or self.by_url(text)
        if known:
            return known
        sites = (found[1].lower() for found in _URL_HOST.finditer(text))
        return next((site.decode("ascii") for site in sites if site.count(b".") > 1 and _NAMED_LIKE_A_LIST.search(site)), "")

    def by_zone(self, zone: bytes) -> str:
        """The list that a zone or one of its sub-zones or mirrors belongs to."""
        labels = zone.decode("ascii", "replace").lower().rstrip(".").split(".")
        for i in range(len(labels)):
            found = self._zones.get(".".join(labels[i:]))
            if found:
                return found
        return ""

    def by_name(self, text: bytes) -> str:
        found = self._names.found(text)
        return self._name_owners[min(found)] if found else ""

    def by_url(self, text: bytes) -> str:
        """The list whose site a URL in the text belongs to."""
        for found in _URL_HOST.finditer(text):
            matched = self._urls.found(found[1] + found[2])
            if matched:
                return self._url_owners[min(matched)]
        return ""

    def get(self, name: str) -> BlockList | None:
        """What is known of a list, by its short name or a zone."""
        return self.lists.get(name) or self.lists.get(self.by_zone(name.encode("ascii", "replace")))

    def delisting(self, name: str, ip: str) -> str:
        """The page where an address is looked up and taken off; empty if none is known."""
        known = self.get(name)
        return known.delist.replace("{ip}", ip) if known else ""


def _is_file(zone: bytes) -> bool:
    return zone.endswith((b".html", b".htm", b".php", b".aspx", b".cgi"))


def load_blocklists(path: str | Path | None = None) -> BlockLists:
    """The table of a file; UserError for what is not right in it."""
    top = read(path or resource("rules", "dnsbls.yaml")).mapping("a block list file", ("lists",), ("lists",))
    lists: list[BlockList] = []
    zones: dict[str, str] = {}
    names: list[tuple[str, str]] = []
    urls: list[tuple[str, str]] = []
    for name, value in top["lists"].mapping('"lists"').items():
        keys = value.mapping("a list", ("zones", "names", "urls", "delist", "domains", "note"))
        for item in keys["zones"].items('"zones"') if "zones" in keys else []:
            zone = item.text("a zone").lower()
            if zone in zones:
                raise item.error(f'"{zone}" stands already under "{zones[zone]}"')
            zones[zone] = name
        names += [(pattern_of(item, proven=not path), name) for item in (keys["names"].items('"names"') if "names" in keys else [])]
        urls += [(pattern_of(item, proven=not path), name) for item in (keys["urls"].items('"urls"') if "urls" in keys else [])]
        lists.append(
            BlockList(
                name=name,
                delist=keys["delist"].text('"delist"') if "delist" in keys else "",
                domains="domains" in keys and keys["domains"].value is True,
            )
        )
    return BlockLists(lists, zones, names, urls)
