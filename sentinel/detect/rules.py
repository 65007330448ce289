"""Detection rules: YAML as a mail admin writes it, checked, and compiled to the numbers that the windows run on.

A rule reads: *on* which events, *where* what holds, grouped *by* which key, *measure* what, over which *window*, against which
*threshold*. See ``rules/default.yaml`` for every key in use and ``README.md`` for the reference.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from sentinel.detect._windows import CONDITIONS, FIELD_NUMBERS, MEASURES
from sentinel.detect.replies import CLASS_NAMES, is_reply_file
from sentinel.errors import ContentError
from sentinel.maillog.fields import KINDS, SERVICES, TEXT_FIELDS
from sentinel.marked import Marked, files, nearest, read
from sentinel.resources import resource

SEVERITIES = ("info", "warning", "critical")
ORIGINS = ("unknown", "login", "client", "local", "internal")
"""Where a message came from: a login, a client without one, pickup on this host, Postfix itself (bounces)."""

LOGIN_RESULTS = ("", "succeeded", "failed", "failed_known", "server_fault")
"""How a login went: a failure is the server's fault, or of a client that the account is known at, or may be a guess."""

_TEXTS = tuple(name for name in TEXT_FIELDS if not name.startswith("peer_"))
_DERIVED_TEXTS = ("provider", "sender_domain", "recipient_domain")
_SAID_TEXTS = ("dnsbl", "blocked_ip", "reply_sub")
_NUMBERS = ("nrcpt", "size", "recipients", "uid", "reply_code")
_FLAGS = ("sender_owned", "forwarded", "suspended", "known_client")
_WORDS = {"origin": ORIGINS, "service": SERVICES[1:-1], "reply_class": CLASS_NAMES[1:], "login_result": LOGIN_RESULTS[1:]}
_NUMBERED = {"origin": ORIGINS, "service": SERVICES, "reply_class": CLASS_NAMES, "login_result": LOGIN_RESULTS}
_ADDRESSES = {"client_ip": "inside", "relay_ip": "relay_inside"}
CONDITION_FIELDS = (*_TEXTS, *_DERIVED_TEXTS, *_SAID_TEXTS, *_NUMBERS, *_FLAGS, *_WORDS, "reply_confidence")
KEY_FIELDS = (*_TEXTS, *_DERIVED_TEXTS, *_SAID_TEXTS, "uid", "login")
SUM_FIELDS = ("recipients", "size")
_RULE_KEYS = (
    "name",
    "description",
    "advice",
    "severity",
    "score",
    "on",
    "where",
    "by",
    "measure",
    "of",
    "at_least",
    "hits",
    "window",
    "threshold",
    "release",
    "cooldown",
    "then",
    "until",
    "attribution",
    "subject",
    "tests",
)
_UNTIL_KEYS = ("name", "description", "severity", "on", "where", "quiet")
_ATTRIBUTION_KEYS = ("by", "on", "where", "of", "window")
_MAX_RULES = 64
_MAX_KEYS = 200_000
_MAX_ENTRIES = 65_536
_MAX_KEY_FIELDS = 4


class RuleTest(NamedTuple):
    """Log lines, the subjects for which the rule must fire on them, and those whose episode must end."""

    name: str
    log: str
    fires: tuple[dict[str, str], ...]
    ends: tuple[dict[str, str], ...]
    file: str
    line: int


class Ending(NamedTuple):
    """What is said when an episode of a rule with "until" is over."""

    name: str
    description: str
    severity: str


class Rule(NamedTuple):
    """A checked rule. Times in seconds."""

    name: str
    description: str
    advice: str
    severity: str
    score: float
    on: tuple[str, ...]
    by: tuple[str, ...]
    subject: tuple[str, ...]
    measure: str
    window: float
    threshold: float
    release: float
    cooldown: float
    tests: tuple[RuleTest, ...]
    file: str
    line: int
    compiled: dict[str, Any]
    ending: Ending | None = None
    attribution: dict[str, Any] | None = None
    """A silent window (compiled like a rule) of who may have earned it: events and hits by one field."""


class RuleSet(tuple[Rule, ...]):
    """Rules in the order of their files."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        """Changes when the rules mean something else; a snapshot of windows belongs to one fingerprint."""
        meaning = [[rule.name, {**rule.compiled, "patterns": None}, rule.attribution] for rule in self]
        return hashlib.blake2b(json.dumps(meaning, default=repr).encode(), digest_size=16).hexdigest()


def default_rules_path() -> Path:
    return resource("rules", "default.yaml")


def load_rules(paths: str | Path | Iterable[str | Path] | None = None) -> RuleSet:
    """Rules from files and folders; without an argument the product's own.

    Raises UserError, naming file and line, for anything that is not right.
    """
    if paths is None:
        paths = [default_rules_path()]
    elif isinstance(paths, str | Path):
        paths = [paths]
    rules: dict[str, Rule] = {}
    for path in files(paths):
        for rule in _read_file(path):
            if rule.name in rules:
                first = rules[rule.name]
                raise ContentError(f'{rule.file}:{rule.line}: a rule "{rule.name}" stands already at {first.file}:{first.line}')
            rules[rule.name] = rule
    endings = {rule.ending.name: rule for rule in rules.values() if rule.ending}
    for name, rule in endings.items():
        if name in rules:
            raise ContentError(f'{rule.file}:{rule.line}: "until" has the name of a rule, "{name}"; give it one of its own')
    number = len(rules) + sum(rule.attribution is not None for rule in rules.values())
    if number > _MAX_RULES:
        raise ContentError(f'{number} rules (with each "attribution") are too many: at most {_MAX_RULES} run at once')
    return RuleSet(rules.values())


def _read_file(path: Path) -> list[Rule]:
    read_top = read(path)
    if is_reply_file(read_top):
        # A folder may hold both; these are for the reply classifier.
        return []
    top = read_top.mapping("a rules file", ("rules",), ("rules",))
    if top["rules"].value is None:
        return []
    return [_rule(item) for item in top["rules"].items('"rules"')]


def _rule(item: Marked) -> Rule:
    keys = item.mapping("a rule", _RULE_KEYS, ("name", "description", "severity", "score", "on", "by", "measure", "window", "threshold"))
    name = _name(keys["name"], "a rule's name")
    on = _kinds(keys["on"])
    by = _fields(keys["by"], '"by"')
    measure, measured = _measure(keys["measure"])
    ratio = measure in ("ratio", "share")
    if ratio != ("of" in keys):
        raise item.error('"of" (what counts as a hit) goes with "measure: ratio" or "share(FIELD)", and only with them')
    for key, what in (("at_least", "the smallest number a ratio is formed of"), ("hits", "the smallest number of hits")):
        if key in keys and not ratio:
            raise keys[key].error(f'"{key}" ({what}) goes with "measure: ratio" or "share(FIELD)"')
    threshold = keys["threshold"].number('"threshold"', above=0)
    if ratio and threshold > 1:
        raise keys["threshold"].error(f"a ratio is at most 1, so a threshold of {threshold:g} is never reached")
    release = keys["release"].number('"release"', above=0) if "release" in keys else threshold / 2
    if release > threshold:
        raise keys["release"].error(f'"release" ({release:g}) must not be above "threshold" ({threshold:g})')
    window = keys["window"].seconds('"window"')
    cooldown = keys["cooldown"].seconds('"cooldown"') if "cooldown" in keys else 3600.0
    at_least = int(keys["at_least"].number('"at_least"', 1)) if "at_least" in keys else 1
    then = keys["then"].mapping('"then"', ("on", "where"), ("on",)) if "then" in keys else {}
    then_on = _kinds(then["on"]) if then else ()
    until = keys["until"].mapping('"until"', _UNTIL_KEYS, ("name", "on")) if "until" in keys else {}
    if then and until:
        raise keys["until"].error('"until" and "then" do not go together in one rule')
    until_on = _kinds(until["on"]) if until else ()
    if until and "delivery" in (*on, *until_on) and (set(on), set(until_on)) != ({"delivery"}, {"delivery"}):
        raise keys["until"].error(
            '"until" of a rule on deliveries waits for a delivery, and no other does: "on: delivery" in both, or in neither'
        )
    if "quiet" in until and until_on != ("delivery",):
        raise until["quiet"].error('"quiet" goes with "until" of a rule on deliveries')
    subject = _fields(keys["subject"], '"subject"') if "subject" in keys else by
    compiled = {
        **_window(on, keys.get("where"), by, window),
        "then": _mask(KINDS, then_on),
        "then_where": _conditions(then.get("where")),
        "until": _mask(KINDS, until_on),
        "until_where": _conditions(until.get("where")),
        "quiet": round(until["quiet"].seconds('"quiet"') * 1e6) if "quiet" in until else 0,
        "of": _conditions(keys.get("of")),
        "subject": [_field_number(name) for name in subject],
        "measure": MEASURES[measure],
        "item": measured,
        "cooldown": round(cooldown * 1e6),
        "threshold": threshold,
        "release": release,
        # From this value on the lines are kept as evidence. Few keys ever get so far, so that the rest cost nothing.
        "warm": threshold / 2 if threshold > 4 else 0.0,
        "at_least": at_least,
        "hits": int(keys["hits"].number('"hits"', 1)) if "hits" in keys else 0,
    }
    return Rule(
        name=name,
        description=" ".join(keys["description"].text('"description"').split()),
        advice=" ".join(keys["advice"].text('"advice"').split()) if "advice" in keys else "",
        severity=keys["severity"].word('"severity"', SEVERITIES),
        score=keys["score"].number('"score"', 0),
        on=on,
        by=by,
        subject=subject,
        measure=keys["measure"].text('"measure"'),
        window=window,
        threshold=threshold,
        release=release,
        cooldown=cooldown,
        tests=tuple(_test(test, subject) for test in keys["tests"].items('"tests"')) if "tests" in keys else (),
        file=item.file,
        line=item.line,
        compiled=compiled,
        ending=_ending(until) if until else None,
        attribution=_attribution(keys["attribution"]) if "attribution" in keys else None,
    )


def _window(on: tuple[str, ...], where: Marked | None, by: tuple[str, ...], window: float) -> dict[str, Any]:
    """A window in which nothing is measured yet, and that never fires."""
    return {
        "kinds": _mask(KINDS, on),
        "then": 0,
        "until": 0,
        "where": _conditions(where),
        "then_where": [],
        "until_where": [],
        "quiet": 0,
        "of": [],
        "by": [_field_number(name) for name in by],
        "subject": [],
        "measure": MEASURES["count"],
        "item": -1,
        "window": round(window * 1e6),
        "cooldown": 0,
        "threshold": float("inf"),
        "release": float("inf"),
        "warm": float("inf"),
        "at_least": 1,
        "hits": 0,
        "max_keys": _MAX_KEYS,
        "max_entries": _MAX_ENTRIES,
    }


def _ending(until: dict[str, Marked]) -> Ending:
    return Ending(
        name=_name(until["name"], 'the name under "until"'),
        description=" ".join(until["description"].text('"description"').split()) if "description" in until else "",
        severity=until["severity"].word('"severity"', SEVERITIES) if "severity" in until else "info",
    )


def _attribution(item: Marked) -> dict[str, Any]:
    keys = item.mapping('"attribution"', _ATTRIBUTION_KEYS, ("by", "on", "of", "window"))
    by = _fields(keys["by"], '"by"')
    if len(by) != 1:
        raise keys["by"].error('"by" of an attribution is one field, like sasl_username')
    return {
        **_window(_kinds(keys["on"]), keys.get("where"), by, keys["window"].seconds('"window"')),
        "measure": MEASURES["ratio"],
        "of": _conditions(keys["of"]),
        # Nothing is kept as evidence: a ratio of so many events is never formed.
        "at_least": 1 << 60,
    }


def _name(value: Marked, what: str) -> str:
    name = value.text(what)
    if not name or not all(c.isascii() and (c.isalnum() or c == "-") for c in name):
        raise value.error(f'{what} is made of letters, digits and "-", unlike "{name}"')
    return name


def _kinds(value: Marked) -> tuple[str, ...]:
    kinds = tuple(kind.word('"on"', KINDS[2:]) for kind in value.items('"on"'))
    if not kinds:
        raise value.error('"on" names no kind of event')
    return kinds


def _mask(names: tuple[str, ...], chosen: Iterable[str]) -> int:
    return sum({1 << names.index(name) for name in chosen})


def _fields(value: Marked, what: str) -> tuple[str, ...]:
    fields = tuple(item.word(what, KEY_FIELDS) for item in value.items(what))
    if not 1 <= len(fields) <= _MAX_KEY_FIELDS:
        raise value.error(f"{what} takes one to {_MAX_KEY_FIELDS} fields")
    return fields


def _field_number(name: str) -> int:
    return FIELD_NUMBERS[name] if name in FIELD_NUMBERS else TEXT_FIELDS.index(name)


def _measure(value: Marked) -> tuple[str, int]:
    text = value.text('"measure"').replace(" ", "")
    name, bracket, rest = text.partition("(")
    inner = rest.removesuffix(")")
    if name not in MEASURES or bool(bracket) != rest.endswith(")") or (bracket and not inner):
        raise value.error(f'"measure" is count, sum(recipients), distinct(FIELD), ratio or share(FIELD), not "{text}"')
    allowed = {"sum": SUM_FIELDS, "distinct": KEY_FIELDS, "share": KEY_FIELDS}.get(name)
    if allowed is None:
        if inner:
            raise value.error(f'"measure: {name}" takes no field')
        return name, -1
    if inner not in allowed:
        raise value.error(f'"{name}" of an unknown field "{inner}"{nearest(inner, allowed)}')
    return name, _field_number(inner)


def _condition(code: str, field_number: int, **more: Any) -> dict[str, Any]:
    return {"code": CONDITIONS[code], "field": field_number, "negate": False, "mask": 0, "low": 0, "high": 0, "patterns": [], **more}


def _conditions(value: Marked | None) -> list[dict[str, Any]]:
    if value is None:
        return []
    out: list[dict[str, Any]] = []
    for name, wanted in value.mapping("a condition", CONDITION_FIELDS).items():
        out.extend(_one_condition(name, wanted))
    # All must hold: those that cost least are asked first.
    return sorted(out, key=_cost)


def _cost(condition: dict[str, Any]) -> int:
    dear = {FIELD_NUMBERS["reply_class"]: 4, FIELD_NUMBERS["sender_owned"]: 4, FIELD_NUMBERS["inside"]: 2, FIELD_NUMBERS["relay_inside"]: 2}
    if condition["code"] == CONDITIONS["like"]:
        return 3 if any(b"*" in pattern for pattern in condition["patterns"]) else 2
    return dear.get(condition["field"], 1 if condition["code"] == CONDITIONS["present"] else 0)


def _one_condition(name: str, wanted: Marked) -> list[dict[str, Any]]:
    if isinstance(wanted.value, dict):
        inner = wanted.mapping(f'"{name}"', ("not",), ("not",))["not"]
        compiled = _one_condition(name, inner)
        if len(compiled) != 1 or compiled[0]["negate"]:
            raise inner.error(f'"not" can\'t be used with {inner.shown()}; write the opposite')
        return [{**compiled[0], "negate": True}]
    if name in _FLAGS:
        if not isinstance(wanted.value, bool):
            raise wanted.error(f'"{name}" is true or false')
        return [_condition("mask", FIELD_NUMBERS[name], mask=1 << int(wanted.value))]
    if name in _WORDS:
        words = _WORDS[name]
        chosen = [word.word(f'"{name}"', words) for word in wanted.items(f'"{name}"')]
        return [_condition("mask", FIELD_NUMBERS[name], mask=_mask(_NUMBERED[name], chosen))]
    if name == "reply_confidence":
        return [_condition("range", FIELD_NUMBERS[name], low=_hundredths(wanted), high=100)]
    if name in _NUMBERS:
        return [_condition("range", FIELD_NUMBERS[name], **_range(name, wanted))]
    number = _field_number(name)
    if wanted.value in ("present", "absent"):
        return [_condition("present", number, negate=wanted.value == "absent")]
    if name in _ADDRESSES and wanted.value in ("inside", "outside"):
        inside = wanted.value == "inside"
        return [_condition("present", number), _condition("mask", FIELD_NUMBERS[_ADDRESSES[name]], mask=1 << int(inside))]
    patterns = [item.text(f'"{name}"').encode() for item in wanted.items(f'"{name}"')]
    return [_condition("like", number, patterns=patterns)]


def _hundredths(wanted: Marked) -> int:
    """``">= 0.8"``: from this confidence on."""
    text = str(wanted.value).replace(" ", "").removeprefix(">=")
    try:
        confidence = float(text)
    except ValueError:
        confidence = -1.0
    if not 0 <= confidence <= 1 or not str(wanted.value).lstrip().startswith(">="):
        raise wanted.error(f'"reply_confidence" is a bound between 0 and 1, like ">= 0.8", not {wanted.shown()}')
    return round(confidence * 100)


def _range(name: str, wanted: Marked) -> dict[str, int]:
    everything = 1 << 60
    digits = "".join(c for c in str(wanted.value) if c.isdigit() or c == "-")
    if any(len(part) > 15 for part in digits.split("-")):
        raise wanted.error(f'"{name}" has a number that is too large')
    if isinstance(wanted.value, int) and not isinstance(wanted.value, bool):
        exact = int(wanted.number(f'"{name}"', 0))
        return {"low": exact, "high": exact}
    text = str(wanted.value).replace(" ", "")
    low, dash, high = text.partition("-")
    if dash and low.isdigit() and high.isdigit() and int(low) <= int(high):
        return {"low": int(low), "high": int(high)}
    for sign, bounds in ((">=", (0, everything)), ("<=", (0, 0)), (">", (1, everything)), ("<", (0, -1))):
        rest = text.removeprefix(sign)
        if rest != text and rest.isdigit():
            at_least = sign.startswith(">")
            return {"low": int(rest) + bounds[0], "high": everything} if at_least else {"low": 0, "high": int(rest) + bounds[1]}
    raise wanted.error(f'"{name}" is compared with a number (50), a range (400-499) or a bound (">= 50"), not with "{wanted.value}"')


def _test(item: Marked, subject: tuple[str, ...]) -> RuleTest:
    keys = item.mapping("a test", ("name", "log", "fires", "ends"), ("name", "log", "fires"))

    def subjects(key: str) -> tuple[dict[str, str], ...]:
        if key not in keys or keys[key].value is None:
            return ()
        required = [name for name in subject if name not in _SAID_TEXTS]
        each = [expected.mapping("an expected subject", subject, required) for expected in keys[key].items(f'"{key}"')]
        return tuple({name: value.text(name) for name, value in fields.items()} for fields in each)

    return RuleTest(
        name=keys["name"].text('"name"'),
        log=_expand(keys["log"]),
        fires=subjects("fires"),
        ends=subjects("ends"),
        file=item.file,
        line=item.line,
    )


def _expand(log: Marked) -> str:
    """A test's log: text, or a list of texts and of ``{repeat: 20, lines: ...}`` in which ``{n}`` is 0001, 0002 …"""
    if isinstance(log.value, str):
        return log.value
    out = []
    for item in log.items('"log"'):
        if isinstance(item.value, str):
            out.append(item.value.rstrip("\n") + "\n")
            continue
        keys = item.mapping('an item of "log"', ("repeat", "lines"), ("repeat", "lines"))
        text = keys["lines"].text('"lines"').rstrip("\n") + "\n"
        for n in range(1, int(keys["repeat"].number('"repeat"', 1)) + 1):
            out.append(text.replace("{n}", f"{n:04d}"))
    return "".join(out)
