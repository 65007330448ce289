"""What a remote server's refusal is about: class, sub-reason, whose reply it is, which address is blocked on which list.

The knowledge is data: ``rules/replies/*.yaml`` (``README.md`` has the reference of their keys), ``rules/providers.yaml`` and
``rules/dnsbls.yaml``. A reply is classified from its *shape*, in which an IP address has become ``#``, a mail address ``@`` and an
identifier ``~``, while short numbers, which decide (``OFR006_102``, ``AUP#I-1310``, ``IB106``, ``BL000001``), stay: three hundred thousand
deferrals of one kind are classified once. What a reply means depends on its shape and on the IP addresses printed in it, on nothing else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sentinel.detect._windows import shape_of
from sentinel.detect.dnsbls import BlockLists, load_blocklists
from sentinel.detect.patterns import Patterns, pattern_of
from sentinel.detect.providers import GENERIC, SELF, Providers, load_providers
from sentinel.errors import ContentError
from sentinel.marked import Marked, files, read
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
OTHER = CLASS_NAMES.index("other")
STAGES = ("greeting", "helo", "mail", "rcpt", "data", "end")
"""What was being said when the reply came; ``end`` is the end of the message's text."""

SAID = b" said: "
REFUSED = b" refused to talk to me: "
SUSPENDED = "delivery temporarily suspended: "
_CODE = re.compile(rb'[\s"]*([245]\d\d)(?:[- ]\s*(?:#?([245]\.\d{1,3}\.\d{1,3})(?![.\d]))?|$)')
_ENHANCED = re.compile(rb"\s*([245])\.\d{1,3}\.\d{1,3}\b")
_CONTINUED = re.compile(rb"(?<=\s)([245]\d\d)[- ](?:\s*([245]\.\d{1,3}\.\d{1,3})(?=\s))?\s*|(?<=\s)([245]\.\d{1,3}\.\d{1,3})\s+")
_IN_REPLY = re.compile(rb" ?\(in reply to ([^()]{1,60}?)(?: command)?\)+$")
_EXIM = re.compile(rb"SMTP error from remote mail server after [^:]{1,300}(?::<[^>]*>)?: (?:host \S+ \[[^\]\s]*\]: )?")
"""What exim puts before a remote server's words."""
_STAGE_OF = {
    b"HELO": "helo",
    b"EHLO": "helo",
    b"LHLO": "helo",
    b"MAIL FROM": "mail",
    b"RCPT TO": "rcpt",
    b"DATA": "data",
    b"end of DATA": "end",
}
_HOST = re.compile(
    r"^(?:delivery temporarily suspended: )?(?:host |SASL (?:\[CACHED\] )?authentication failed; server )"
    r"([^\s\[\]]{0,255})\[([^\s\[\]]{1,60})\](?::\d{1,5})?((?: said: | refused to talk to me: ).*)",
    re.DOTALL,
)
_YOURS = re.compile(rb"\b(?:your|client|sending|connecting|originating|ip)\b[^#]{0,24}$", re.IGNORECASE)
"""What stands before an address that is the client's."""
_FROM = re.compile(rb"\bfrom\b[^#]{0,24}$", re.IGNORECASE)
"""What stands before the client's, or that of somebody before it."""
_LEADING_HOST = re.compile(rb"[\s\"]*\d{3}[- ](?:\d\.\d\.\d )?([~a-z0-9-]+(?:\.[a-z0-9-]+)+)", re.IGNORECASE)
_URL = re.compile(rb"https?://[^\s<>\"'`|\\]+", re.IGNORECASE)
_BRACKETS = {b")": b"(", b"]": b"["}
_ABOUT_OUR_ADDRESS = (CLASS_NAMES.index("ip_blocked"), CLASS_NAMES.index("rate_limited"))
_NAMES_A_LIST = tuple(CLASS_NAMES.index(name) for name in ("ip_blocked", "sender_blocked", "content_spam"))
_ABOUT_A_DOMAIN = (CLASS_NAMES.index("sender_blocked"), CLASS_NAMES.index("content_spam"))
_MISUSE = "dnsbl_misuse"
_HERE = ("127.0.0.1", "::1")
_NOT_ABOUT_US = ("recipient_rate", "domain_rate", "url_rate")
_MAX_SHAPES = 20_000
_MAX_BYTES = 4096
"""Postfix cuts its log lines at 2,000 bytes; what lies behind decides nothing."""
_HEAD, _TAIL = 700, 300
"""Bytes of a longer reply that are looked at: honest ones are shorter, and codes stand at the beginning or at the end."""
_GROUP = 12
"""Patterns of one automaton. Each has few states, so that a text made to visit many of them costs little; and the first rules are asked
first."""


class Said(NamedTuple):
    """What a reply means; ``number`` is of the class in ``CLASS_NAMES``. Texts are empty where nothing is known."""

    number: int
    confidence: float
    """0 to 1."""
    sub: str
    temporary: bool
    provider: str
    """By the text alone."""
    dnsbl: str
    blocked_ip: str
    rule: str
    known_url: str = ""
    """Where the provider documents the reply or takes requests; not from the text."""


class Verdict(NamedTuple):
    """All that can be told of one reply."""

    reply_class: str
    sub: str
    confidence: float
    temporary: bool
    provider: str
    dnsbl: str
    blocked_ip: str
    delist_url: str
    """In the text: leads to the listing, the look-up or the removal."""
    rule: str
    reply: str
    known_url: str
    """Where one gets off when the text does not say it: the list's page, or the provider's."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON carries it."""
        out = self._asdict()
        del out["known_url"]
        return {"class": out.pop("reply_class"), **out}


class ReplyTest(NamedTuple):
    """A reply that a rule must decide, and what else must come out."""

    reply: str
    host: str
    expected: dict[str, Any]
    file: str
    line: int


class ReplyRule(NamedTuple):
    name: str
    number: int
    sub: str
    confidence: float
    provider: str
    dnsbl: str
    known_url: str
    temporary: bool | None
    """None: as the code says."""
    codes: tuple[int, int]
    stages: tuple[str, ...]
    own: bool
    """Of our own Postfix's texts, not of what a remote server said."""
    patterns: tuple[str, ...]
    also: tuple[str, ...]
    unless: tuple[str, ...]
    source: str
    tests: tuple[ReplyTest, ...]
    file: str
    line: int

    def fits(self, code: int, stage: str, remote: bool) -> bool:
        return (
            (code == 0 or self.codes[0] <= code <= self.codes[1])
            and (not self.stages or stage in self.stages)
            and not (self.own and remote)
        )


UNKNOWN = Said(OTHER, 0.2, "", False, "", "", "", "")
OURS = Said(OTHER, 1.0, "", False, SELF, "", "", "own-text")
"""What our own host wrote, or a program on it."""


class ReplyClassifier:
    """Decides by the first rule that fits.

    The patterns of a dozen rules at a time are one automaton (RE2), built when it is first needed: one pass of each over the reply, linear
    in its length whatever the remote server writes, until a rule fits.
    """

    def __init__(self, rules: Iterable[ReplyRule], providers: Providers | None = None, lists: BlockLists | None = None) -> None:
        self.rules = tuple(rules)
        self.providers = providers or load_providers()
        self.lists = lists or load_blocklists()
        self.provider_names = tuple(dict.fromkeys((*self.providers.names, *(rule.provider for rule in self.rules if rule.provider))))
        """Of the table and of the rules."""
        self._groups = _grouped(self.rules)
        self._decided: dict[bytes, Said] = {}

    # --- what the windows ask --------------------------------------------------------------------------------------------------------

    def said(self, shape: bytes, ips: Sequence[tuple[int, bytes]]) -> Said:
        """What a reply means, from its shape and the addresses in it: (place in the shape, text).

        The shape may begin with `` said: `` or `` refused to talk to me: ``, as Postfix's line has it after the remote host.
        """
        said = self._decided.get(shape)
        if said is None:
            if len(self._decided) >= _MAX_SHAPES:
                self._decided.clear()
            said = self._decided[shape] = self._decide(shape)
        if not ips or said.number not in _ABOUT_OUR_ADDRESS or said.sub in _NOT_ABOUT_US:
            return said
        return said._replace(blocked_ip=_our_ip(shape, ips))

    def _decide(self, shape: bytes) -> Said:
        refused = shape.startswith(REFUSED)
        remote = refused or shape.startswith(SAID)
        text, stage = _plain(shape[len(REFUSED) if refused else len(SAID) if remote else 0 :])
        if refused:
            stage = "greeting"
        code = _code(text)
        if len(text) > _HEAD + _TAIL:
            text = text[:_HEAD] + b" ... " + text[-_TAIL:]
        for group in self._groups:
            for rule, hit in group.found(text):
                if hit & 1 and (hit & 2 or not rule.also) and not hit & 4 and rule.fits(code, stage, remote):
                    return self._said(rule, text, code)
        return UNKNOWN._replace(temporary=400 <= code < 500, provider=self._writer(text))

    def _said(self, rule: ReplyRule, text: bytes, code: int) -> Said:
        dnsbl = ""
        if rule.number in _NAMES_A_LIST or rule.sub == _MISUSE:
            dnsbl = rule.dnsbl or self.lists.in_text(text)
            if dnsbl and rule.number in _ABOUT_A_DOMAIN:
                known = self.lists.get(dnsbl)
                dnsbl = dnsbl if known and known.domains else ""
        temporary = rule.temporary
        if temporary is None:
            temporary = 400 <= code < 500 if code else CLASS_NAMES[rule.number] in ("rate_limited", "greylisted")
        provider = rule.provider or self._writer(text)
        return Said(rule.number, rule.confidence, rule.sub, temporary, provider, dnsbl, "", rule.name, rule.known_url)

    def _writer(self, text: bytes) -> str:
        """Who wrote a text: a mark in it, or the name with which its server begins."""
        found = self.providers.written_by(text)
        if not found:
            leading = _LEADING_HOST.match(text)
            found = self.providers.known(leading[1].decode("ascii").lower().split(".")) if leading else ""
        return found

    # --- what people ask -------------------------------------------------------------------------------------------------------------

    def classify(self, reply: str, host: str = "", *, logged: bool = False) -> Verdict:
        """All that can be told of a reply: bare, or as Postfix logs it (``host mx.example.net[192.0.2.1] said: 550 …``).

        ``host``: who answered, where the text does not say it. ``logged``: from Postfix's log, where a text that names no host is our
        own; elsewhere it is taken for a remote server's unless it begins as our own do.
        """
        named = _HOST.match(reply)
        raw = reply.encode("utf-8", "replace")[:_MAX_BYTES]
        if named:
            host = SELF if host == SELF or named[2] in _HERE or not _is_address(named[2]) else named[1] or host or named[2]
            raw = named[3].encode("utf-8", "replace")[:_MAX_BYTES]
        elif host and not raw.startswith((SAID, REFUSED)):
            raw = SAID + raw
        said = self.said(*shape_of(raw))
        by_host = SELF if host == SELF or (logged and not named and not host) else self.providers.of(host) if host else ""
        if by_host == SELF and said.provider != SELF:
            said = OURS._replace(temporary=said.temporary)
        return self._verdict(said, raw, reply, self.provider(said, by_host) or GENERIC)

    def provider(self, said: Said, by_host: str) -> str:
        """The provider by the answering host; by the text where the host is none that is known, or answers for others."""
        if by_host in self.providers.names and by_host not in self.providers.gateways:
            return by_host
        return said.provider or by_host

    def _verdict(self, said: Said, raw: bytes, reply: str, provider: str) -> Verdict:
        url = self._delist_url(said, raw)
        return Verdict(
            CLASS_NAMES[said.number],
            said.sub,
            said.confidence,
            said.temporary,
            provider,
            said.dnsbl,
            said.blocked_ip,
            url,
            said.rule,
            reply,
            "" if url else self.lists.delisting(said.dnsbl, said.blocked_ip) or said.known_url,
        )

    def _delist_url(self, said: Said, raw: bytes) -> str:
        if said.number not in _NAMES_A_LIST:
            return ""
        text, _ = _plain(raw)
        urls = [_trimmed(url) for url in _URL.findall(text)]
        if said.number != CLASS_NAMES.index("ip_blocked"):
            urls = [url for url in urls if self.lists.by_url(url)]
        elif len(urls) > 1 and said.blocked_ip:
            urls.sort(key=lambda url: said.blocked_ip.encode() not in url)
        return urls[0].decode("utf-8", "replace") if urls else ""


class _Group:
    """Some rules that follow each other, and the automaton of their patterns."""

    __slots__ = ("_owners", "_patterns", "_rules")

    def __init__(self, rules: list[ReplyRule]) -> None:
        self._rules = rules
        each = [(pattern, i, role) for i, rule in enumerate(rules) for role, group in _roles(rule) for pattern in group]
        self._owners = [(i, role) for _, i, role in each]
        self._patterns = Patterns(pattern for pattern, _, _ in each)

    def found(self, text: bytes) -> list[tuple[ReplyRule, int]]:
        """The rules of which something matches, in order, and what: 1 a pattern, 2 one under "and", 4 one under "unless"."""
        roles: dict[int, int] = {}
        for n in self._patterns.found(text):
            i, role = self._owners[n]
            roles[i] = roles.get(i, 0) | role
        return [(self._rules[i], roles[i]) for i in sorted(roles)]


def _roles(rule: ReplyRule) -> tuple[tuple[int, tuple[str, ...]], ...]:
    return (1, rule.patterns), (2, rule.also), (4, rule.unless)


def _grouped(rules: Iterable[ReplyRule]) -> list[_Group]:
    groups: list[list[ReplyRule]] = [[]]
    size = 0
    for rule in rules:
        own = sum(len(patterns) for _, patterns in _roles(rule))
        if size and size + own > _GROUP:
            groups.append([])
            size = 0
        groups[-1].append(rule)
        size += own
    return [_Group(group) for group in groups if group]


def _plain(text: bytes) -> tuple[bytes, str]:
    """A reply's text without what Postfix put behind it, and the lines of a long one joined: (text, stage or empty)."""
    stage = ""
    found = _EXIM.match(text)
    if found:
        text = text[found.end() :]
    found = _IN_REPLY.search(text)
    if found:
        stage = _STAGE_OF.get(found[1], "")
        text = text[: found.start()]
    code = _CODE.match(text)
    if code is None:
        return text, stage

    def joint(match: re.Match[bytes]) -> bytes:
        again = match[1] == code[1] if match[1] else match[3] == code[2]
        return b"" if again and match.start() >= code.end() else match[0]

    return _CONTINUED.sub(joint, text), stage


def _code(text: bytes) -> int:
    found = _CODE.match(text)
    if found:
        return int(found[1])
    found = _ENHANCED.match(text)
    return int(found[1]) * 100 if found else 0


def _our_ip(shape: bytes, ips: Sequence[tuple[int, bytes]]) -> str:
    """The address that a reply means by "your": the first behind such a word, else behind "from", else outside a URL, else the first."""
    source = first = in_url = ""
    for place, text in ips:
        word = shape[: place + 1].split()[-1]
        try:
            ip = str(ipaddress.ip_address(text.decode("ascii")))
        except ValueError:
            continue
        if b"://" in word:
            in_url = in_url or ip
        elif _YOURS.search(shape, max(0, place - 40), place):
            return ip
        elif _FROM.search(shape, max(0, place - 40), place):
            source = source or ip
        else:
            first = first or ip
    return source or first or in_url


def _is_address(text: str) -> bool:
    """Not the path of a socket, nor "unknown"."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _trimmed(url: bytes) -> bytes:
    """Without the punctuation of the sentence around it."""
    beyond = {close: url.count(close) - url.count(opening) for close, opening in _BRACKETS.items()}
    end = len(url)
    while end:
        last = url[end - 1 : end]
        if beyond.get(last, 0) > 0:
            beyond[last] -= 1
        elif last not in b".,;:!":
            break
        end -= 1
    return url[:end]


# --- from YAML -----------------------------------------------------------------------------------------------------------------------

_FILE_KEYS = ("provider", "source", "known_url", "replies")
_RULE_KEYS = (
    "name",
    "class",
    "sub",
    "confidence",
    "provider",
    "list",
    "known_url",
    "temporary",
    "codes",
    "stage",
    "own",
    "patterns",
    "and",
    "unless",
    "source",
    "tests",
)
_EXPECTABLE = ("class", "sub", "temporary", "provider", "dnsbl", "blocked_ip", "delist_url", "rule")


def default_replies_path() -> Path:
    return resource("rules", "replies")


def is_reply_file(top: Marked) -> bool:
    """Whether a file holds rules for replies and not for events."""
    return isinstance(top.value, dict) and "replies" in top.value


def load_replies(
    paths: Iterable[str | Path] = (), *, providers: Providers | None = None, lists: BlockLists | None = None
) -> ReplyClassifier:
    """The classifier with an admin's own files, which go first, and the product's. UserError for what is not right in them.

    A rule of one's own may bear the name of one of the product's.
    """
    return ReplyClassifier((*load_reply_rules(paths), *load_reply_rules([default_replies_path()], proven=True)), providers, lists)


def load_reply_rules(paths: Iterable[str | Path], *, proven: bool = False) -> tuple[ReplyRule, ...]:
    """The rules of files and folders, in this order; UserError, naming file and line, for what is not right.

    ``proven``: the patterns are known to be right, as those are that the product brings (its tests compile them all).
    """
    rules: dict[str, ReplyRule] = {}
    for path in files(paths):
        for rule in reply_rules(read(path), proven):
            if rule.name in rules:
                first = rules[rule.name]
                raise ContentError(f'{rule.file}:{rule.line}: a reply rule "{rule.name}" stands already at {first.file}:{first.line}')
            rules[rule.name] = rule
    return tuple(rules.values())


def reply_rules(top: Marked, proven: bool = False) -> list[ReplyRule]:
    """The rules of one file."""
    keys = top.mapping("a replies file", _FILE_KEYS, ("replies",))
    return [_reply_rule(item, keys, proven) for item in keys["replies"].items('"replies"')] if keys["replies"].value is not None else []


def _reply_rule(item: Marked, common: dict[str, Marked], proven: bool) -> ReplyRule:
    keys = item.mapping("a reply rule", _RULE_KEYS, ("name", "class", "patterns"))

    def text(key: str) -> str:
        given = keys.get(key) or (common.get(key) if key in _FILE_KEYS else None)
        return given.text(f'"{key}"') if given else ""

    def patterns(key: str) -> tuple[str, ...]:
        if key not in keys:
            return ()
        return tuple(pattern_of(entry, proven) for entry in keys[key].items(f'"{key}"'))

    def flag(key: str) -> bool | None:
        if key not in keys:
            return None
        if not isinstance(keys[key].value, bool):
            raise keys[key].error(f'"{key}" is true or false')
        return bool(keys[key].value)

    name = keys["name"].text("a reply rule's name")
    if not name or not all(c.isascii() and (c.isalnum() or c in "-.") for c in name):
        raise keys["name"].error(f'a reply rule\'s name is made of letters, digits, "." and "-", unlike "{name}"')
    confidence = keys["confidence"].number('"confidence"', 0) if "confidence" in keys else 0.9
    if confidence > 1:
        raise keys["confidence"].error(f"a confidence is at most 1, not {confidence:g}")
    tests = keys["tests"].items('"tests"') if "tests" in keys else []
    return ReplyRule(
        name=name,
        number=CLASS_NAMES.index(keys["class"].word('"class"', CLASS_NAMES[1:])),
        sub=text("sub"),
        confidence=confidence,
        provider=text("provider"),
        dnsbl=text("list"),
        known_url=text("known_url"),
        temporary=flag("temporary"),
        codes=_codes(keys["codes"]) if "codes" in keys else (0, 999),
        stages=tuple(stage.word('"stage"', STAGES) for stage in keys["stage"].items('"stage"')) if "stage" in keys else (),
        own=flag("own") or False,
        patterns=patterns("patterns"),
        also=patterns("and"),
        unless=patterns("unless"),
        source=text("source"),
        tests=tuple(_reply_test(test) for test in tests),
        file=item.file,
        line=item.line,
    )


def _codes(value: Marked) -> tuple[int, int]:
    """``421``, ``400-499``."""
    low, dash, high = str(value.value).replace(" ", "").partition("-")
    high = high if dash else low
    if not (low.isdigit() and high.isdigit() and len(low) == len(high) == 3 and low <= high):
        raise value.error(f'"codes" is a reply code like 421 or a range like 400-499, not {value.shown()}')
    return int(low), int(high)


def _reply_test(item: Marked) -> ReplyTest:
    if isinstance(item.value, str):
        return ReplyTest(item.value, "", {}, item.file, item.line)
    keys = item.mapping("a test", ("reply", "host", *_EXPECTABLE), ("reply",))
    expected = {name: keys[name].value if name == "temporary" else keys[name].text(f'"{name}"') for name in _EXPECTABLE if name in keys}
    host = keys["host"].text('"host"') if "host" in keys else ""
    return ReplyTest(keys["reply"].text('"reply"'), host, expected, item.file, item.line)


def failure(classifier: ReplyClassifier, rule: ReplyRule, test: ReplyTest) -> str:
    """What is wrong when a rule's test is run; empty if the rule decides it and all that is expected comes out."""
    verdict = classifier.classify(test.reply, test.host).to_dict()
    expected = {"class": CLASS_NAMES[rule.number], "rule": rule.name, **test.expected}
    wrong = [f"{name} is {str(verdict[name])!r}, not {str(value)!r}" for name, value in expected.items() if verdict[name] != value]
    return "; ".join(wrong)
