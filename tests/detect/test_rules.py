"""Rules that are wrong get their sentence: file, line, and the nearest right word. Rules that are right do what their own tests say."""

import pytest
from helpers import detections, make_engine, rules_from

from sentinel.detect.rules import default_rules_path, load_rules
from sentinel.errors import UserError

GOOD = """rules:
  - name: one
    description: d
    severity: info
    score: 1
    on: delivery
    by: sasl_username
    measure: ratio
    of: {status: bounced}
    at_least: 5
    window: 10m
    threshold: 0.5
    release: 0.2
    cooldown: 1h
    subject: [sasl_username, client_ip]
    where: {origin: login, status: [sent, bounced]}
    advice: a
"""

# what is wrong: text, its replacement, the line, words of the sentence
WRONG = {
    "unknown key": ("    severity: info", "    severty: info", 4, ['"severty"', '"severity"']),
    "unknown key at the top": ("rules:\n  - name", "rulse:\n  - name", 1, ['"rulse"', '"rules"']),
    "a key is missing": ("    score: 1\n", "", 2, ['"score"']),
    "a key stands twice": ("    score: 1", "    score: 1\n    score: 2", 6, ['"score"', "twice"]),
    "negative window": ("window: 10m", "window: -10m", 11, ['"window"', '"-10m"', '"10m"']),
    "negative window in seconds": ("window: 10m", "window: -600", 11, ['"window"', "-600"]),
    "no window": ("window: 10m", "window: 0", 11, ['"window"']),
    "endless window": ("window: 10m", "window: .inf", 11, ['"window"']),
    "a window that is no number": ("window: 10m", "window: .nan", 11, ['"window"']),
    "a window of ages": ("window: 10m", "window: 1000000000000000000000000", 11, ['"window"']),
    "a window of words": ("window: 10m", "window: ten minutes", 11, ['"window"', '"10m"']),
    "unknown kind": ("on: delivery", "on: delivry", 6, ['"delivry"', '"delivery"']),
    "no kind": ("on: delivery", "on: []", 6, ['"on"']),
    "unknown field of the key": ("by: sasl_username", "by: sasl_user", 7, ['"sasl_user"', '"sasl_username"']),
    "too many fields of the key": ("by: sasl_username", "by: [host, sender, status, dsn, helo]", 7, ['"by"', "4"]),
    "unknown measure": ("measure: ratio", "measure: average", 8, ['"average"', "count"]),
    "unknown field of the measure": (
        "measure: ratio\n    of: {status: bounced}\n    at_least: 5",
        "measure: distinct(sendr)",
        8,
        ['"sendr"', '"sender"'],
    ),
    "sum of a text": (
        "measure: ratio\n    of: {status: bounced}\n    at_least: 5",
        "measure: sum(sender)",
        8,
        ['"sender"', "recipients"],
    ),
    "bracket that is not closed": (
        "measure: ratio\n    of: {status: bounced}\n    at_least: 5",
        "measure: distinct(sender",
        8,
        ['"distinct(sender"'],
    ),
    "unknown severity": ("severity: info", "severity: informational", 4, ['"informational"', "info"]),
    "ratio without of": ("    of: {status: bounced}\n", "", 2, ['"of"', "ratio"]),
    "of without ratio": ("measure: ratio", "measure: count", 2, ['"of"', "ratio"]),
    "at_least without ratio": (
        "measure: ratio\n    of: {status: bounced}",
        "measure: count",
        9,
        ['"at_least"', "ratio"],
    ),
    "hits without ratio": (
        "measure: ratio\n    of: {status: bounced}\n    at_least: 5",
        "measure: count\n    hits: 5",
        9,
        ['"hits"', "share"],
    ),
    "hits that are none": ("at_least: 5", "hits: 0", 10, ['"hits"']),
    "share of nothing": ("measure: ratio", "measure: share()", 8, ['"share()"']),
    "share of an unknown field": ("measure: ratio", "measure: share(logn)", 8, ['"logn"', '"login"']),
    "share without of": ("measure: ratio\n    of: {status: bounced}\n", "measure: share(sender)\n", 2, ['"of"', "share"]),
    "ratio above one": ("threshold: 0.5", "threshold: 50", 12, ["ratio", "50"]),
    "threshold of zero": ("threshold: 0.5", "threshold: 0", 12, ['"threshold"']),
    "threshold that is no number": ("threshold: 0.5", "threshold: .nan", 12, ['"threshold"']),
    "endless threshold": ("threshold: 0.5", "threshold: .inf", 12, ['"threshold"']),
    "threshold in words": ("threshold: 0.5", "threshold: half", 12, ['"threshold"', '"half"']),
    "threshold yes": ("threshold: 0.5", "threshold: yes", 12, ['"threshold"']),
    "release above threshold": ("release: 0.2", "release: 0.6", 13, ['"release"', "0.6", "0.5"]),
    "release of zero": ("release: 0.2", "release: 0", 13, ['"release"']),
    "score below zero": ("score: 1", "score: -1", 5, ['"score"', "-1"]),
    "name with a blank": ("name: one", "name: one two", 2, ['"one two"']),
    "name that is a number": ("name: one", "name: 1", 2, ['"1"']),
    "unknown field of a condition": ("where: {origin: login", "where: {orign: login", 16, ['"orign"', '"origin"']),
    "unknown word of a condition": ("origin: login", "origin: logins", 16, ['"logins"', '"login"']),
    "condition that is a list": (
        "where: {origin: login, status: [sent, bounced]}",
        "where: [origin]",
        16,
        ["condition", "mapping"],
    ),
    "not of not": ("origin: login", "dsn: {not: {not: 4.7.1}}", 16, ['"not"']),
    "flag that is no flag": ("origin: login", "sender_owned: maybe", 16, ['"sender_owned"', "true or false"]),
    "bound that is none": ("origin: login", "nrcpt: many", 16, ['"nrcpt"', '"many"']),
    "number beyond all": ("origin: login", "uid: 99999999999999999999", 16, ['"uid"']),
    "number beyond all, as a bound": ("origin: login", 'uid: ">= 99999999999999999999"', 16, ['"uid"']),
    "then without on": ("    advice: a", "    then: {where: {sasl_username: present}}", 17, ['"on"', '"then"']),
    "until something that is no delivery": ("    advice: a", "    until: {name: over, on: connect}", 17, ['"until"', "on: delivery"]),
    "until, of what is no delivery": ("    on: delivery", "    until: {name: over, on: delivery}\n    on: connect", 6, ['"until"']),
    "until, of deliveries and more": ("    advice: a", "    until: {name: over, on: [delivery, connect]}", 17, ['"until"', "on: delivery"]),
    "quiet, of what is no delivery": (
        "    on: delivery",
        "    until: {name: over, on: accepted, quiet: 5m}\n    on: auth_failed",
        6,
        ['"quiet"', "deliveries"],
    ),
    "known client that is no flag": ("origin: login", "known_client: alice", 16, ['"known_client"', "true or false"]),
    "result of a login that is none": ("origin: login", "login_result: known", 16, ['"known"', "failed_known"]),
    "test without log": ("    advice: a", "    tests: [{name: t, fires: []}]", 17, ['"log"']),
    "test that expects another subject": (
        "    advice: a",
        "    tests: [{name: t, log: x, fires: [{host: mx}]}]",
        17,
        ['"host"'],
    ),
    "a description that is a list": ("description: d", "description: [d]", 3, ["rule", "text"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(tmp_path, name):
    old, new, line, words = WRONG[name]
    assert GOOD.count(old) == 1
    with pytest.raises(UserError) as caught:
        make_engine(rules_from(tmp_path, GOOD.replace(old, new)))
    sentence = str(caught.value)
    assert sentence.startswith(f"{tmp_path / 'rules.yaml'}:{line}: "), sentence
    assert [word for word in words if word not in sentence] == [], sentence
    assert "\n" not in sentence
    assert "object at 0x" not in sentence


def test_good(tmp_path):
    (rule,) = rules_from(tmp_path, GOOD)
    assert (rule.name, rule.window, rule.cooldown, rule.threshold, rule.release) == ("one", 600.0, 3600.0, 0.5, 0.2)
    assert rule.subject == ("sasl_username", "client_ip")


# Files that are no rules files: content, words of the sentence
FILES = {
    "not YAML": (b"rules:\n  - name: [x\n", ["not valid YAML"]),
    "a tab": (b"rules:\n\t- name: x\n", [":2:", "not valid YAML"]),
    "not UTF-8": (b"rules:\n  - name: caf\xe9\n", ["UTF-8"]),
    "binary": (b"\x00\x01\x02\xff\xfe", ["YAML"]),
    "empty": (b"", ["mapping"]),
    "a list": (b"- name: x\n", [":1:", "mapping"]),
    "a word": (b"hello\n", [":1:", "mapping"]),
    "two documents": (b"rules: []\n---\nrules: []\n", ["YAML"]),
    "an alias that holds itself": (b"rules: &a [*a]\n", [":1:"]),
    "an alias": (b"rules:\n- &a {name: x}\n- *a\n", ["alias"]),
    "a day that does not exist": (b"rules: 2026-99-99\n", [":1:"]),
    "a tag that does not fit": (b"rules: !!int abc\n", [":1:"]),
    "an object": (b"rules: !!python/object/apply:os.system [x]\n", [":1:"]),
    "very deep": (b"rules: " + b"[" * 3000 + b"]" * 3000, ["deep"]),
    "a key that is a list": (b"rules:\n- {[a, b]: c}\n", [":2:"]),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_none(tmp_path, name):
    content, words = FILES[name]
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_rules(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)), sentence
    assert [word for word in words if word not in sentence] == [], sentence


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml.*there is no such file"):
        load_rules(tmp_path / "nowhere.yaml")


def test_folder_of_rules(tmp_path):
    assert load_rules(tmp_path) == ()
    (tmp_path / "b.yaml").write_text(GOOD)
    (tmp_path / "a.yaml").write_text(GOOD.replace("name: one", "name: two"))
    (tmp_path / "c.txt").write_text("no rules")
    assert [rule.name for rule in load_rules(tmp_path)] == ["two", "one"]


def test_folder_where_a_file_is_meant(tmp_path):
    (tmp_path / "rules.yaml").mkdir()
    with pytest.raises(UserError, match=r"rules\.yaml.*directory"):
        load_rules(tmp_path)


def test_the_same_name_twice(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text("# a line\n" + GOOD)
    with pytest.raises(UserError) as caught:
        load_rules([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert str(caught.value).startswith(f"{tmp_path / 'b.yaml'}:3: ")
    assert f"{tmp_path / 'a.yaml'}:2" in str(caught.value)


def test_too_many_rules(tmp_path):
    rules = GOOD + "".join(GOOD.removeprefix("rules:\n").replace("name: one", f"name: n{n}") for n in range(64))
    with pytest.raises(UserError, match="65 rules"):
        rules_from(tmp_path, rules)


def test_no_rules(tmp_path):
    assert rules_from(tmp_path, "rules:\n") == ()


def test_durations(tmp_path):
    for text, seconds in (("90", 90), ("90s", 90), ("1.5h", 5400), ("7d", 604800), ("500ms", 0.5), ('"10 m"', 600)):
        (rule,) = rules_from(tmp_path, GOOD.replace("window: 10m", f"window: {text}"))
        assert rule.window == seconds, text


def test_fingerprint_changes_with_the_meaning_only(tmp_path):
    fingerprint = rules_from(tmp_path, GOOD).fingerprint
    for same in (
        GOOD.replace("description: d", "description: other words"),
        "# comment\n" + GOOD,
        GOOD.replace("score: 1", "score: 2"),
    ):
        assert rules_from(tmp_path, same).fingerprint == fingerprint
    for other in (
        ("window: 10m", "window: 11m"),
        ("status: bounced", "status: deferred"),
        ("threshold: 0.5", "threshold: 0.6"),
        ("name: one", "name: uno"),
    ):
        assert rules_from(tmp_path, GOOD.replace(*other)).fingerprint != fingerprint


DEFAULTS = load_rules()
CARRIED = [(rule, test) for rule in DEFAULTS for test in rule.tests]


def test_default_rules_are_those_that_the_product_promises():
    promised = {
        *(
            "outbound-burst-account",
            "outbound-burst-ip",
            "many-senders",
            "sender-login-mismatch",
            "remote-block",
            "auth-bruteforce-ip",
        ),
        *(
            "auth-bruteforce-account",
            "auth-success-after-failures",
            "many-client-ips",
            "bounce-ratio",
            "open-relay",
            "local-script-burst",
        ),
    }
    assert promised <= {rule.name for rule in DEFAULTS}
    assert [rule.name for rule in DEFAULTS if not rule.advice or not rule.tests] == []
    assert default_rules_path().is_file()


@pytest.mark.parametrize(("rule", "test"), CARRIED, ids=[f"{rule.name}: {test.name}" for rule, test in CARRIED])
def test_tests_that_the_default_rules_carry(rule, test):
    found = detections(make_engine(DEFAULTS, year=2026), [test.log.encode()])
    observed = [tuple(sorted(one.subject.items())) for one in found if one.rule == rule.name]
    assert sorted(observed) == sorted(tuple(sorted(subject.items())) for subject in test.fires)


# conditions: a condition, and which of the deliveries below it lets pass
DELIVERIES = {
    "sent": "to=<ann@Example.NET>, relay=mx.yahoodns.net[192.0.2.25]:25, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent (250 ok)",
    "refused": "to=<bob@example.org>, orig_to=<b@example.com>, relay=mx.example.org[10.0.0.9]:25, delay=1, "
    "delays=0/0/1/0, dsn=5.7.1, status=bounced "
    "(host mx.example.org[10.0.0.9] said: 554 5.7.1 blocked using bl.example (in reply to RCPT TO "
    "command))",
    "none": "to=<root>, relay=none, delay=1, delays=0/0/1/0, dsn=4.4.1, status=deferred (connect timed out)",
}
CONDITIONS = {
    "status: sent": {"sent"},
    "status: [sent, bounced]": {"sent", "refused"},
    "status: {not: sent}": {"refused", "none"},
    "relay_ip: present": {"sent", "refused"},
    "relay_ip: absent": {"none"},
    "relay_ip: inside": {"refused"},
    "relay_ip: outside": {"sent"},
    "orig_to: absent": {"sent", "none"},
    "recipient: '*@example.net'": {"sent"},
    "recipient: {not: ['*@example.net', 'root']}": {"refused"},
    "recipient_domain: example.net": {"sent"},
    "recipient_domain: present": {"sent", "refused"},
    "provider: yahoo": {"sent"},
    "provider: example.org": {"refused"},
    "reply_code: 554": {"refused"},
    "reply_code: 200-299": {"sent"},
    "reply_code: '>= 251'": {"refused"},
    "reply_code: '> 250'": {"refused"},
    "reply_code: '< 300'": {"sent"},
    "reply_code: {not: 250}": {"refused", "none"},
    "reply_class: ip_blocked": {"refused"},
    "origin: unknown": {"sent", "refused", "none"},
    "origin: [login, client]": set(),
    "service: smtp": {"sent", "refused", "none"},
    "service: {not: smtp}": set(),
    "dsn: '5.*'": {"refused"},
    "reply: '*timed*out*'": {"none"},
    "sender_owned: true": {"sent", "refused", "none"},
    "forwarded: true": set(),
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_condition(tmp_path, condition):
    text = (
        f"rules: [{{name: r, description: d, severity: info, score: 0, on: delivery, where: {{{condition}}}, "
        f"by: host, measure: count, window: 1h, threshold: 1}}]"
    )
    rules = rules_from(tmp_path, text)
    observed = {
        name
        for name, delivery in DELIVERIES.items()
        if make_engine(rules, year=2026).feed(f"Oct 24 06:18:01 mx postfix/smtp[1]: 4A00000001: {delivery}\n".encode()).detections
    }
    assert observed == CONDITIONS[condition]
