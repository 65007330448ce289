"""Who may write as whom."""

import pytest
from helpers import make_engine, rules_from

from sentinel.detect.senders import Logins

MAP = {
    "Sales@example.com": ["ann@example.com", "bob"],
    "@example.org": ["carl@example.org"],
    "list@example.org": ["ann@example.com"],
}

# login, sender, without a map, with it
CASES = [
    ("ann@example.com", "ann@example.com", True, True),
    ("ann@example.com", "ANN@Example.COM", True, True),
    ("ann@example.com", "other@example.com", True, True),
    ("ann@example.com", "ann@sub.example.com", False, False),
    ("ann@example.com", "ann@example.net", False, False),
    ("ann@example.com", "x@example.net@example.com", True, True),
    ("ann@example.com", "sales@EXAMPLE.com", True, True),
    ("dora@example.com", "sales@example.com", True, False),
    ("BOB", "sales@example.com", True, True),
    ("carl@example.org", "anything@example.org", True, True),
    ("carl@example.org", "list@example.org", True, False),
    ("ann@example.com", "list@example.org", False, True),
    ("ann@example.com", "anything@example.org", False, False),
    ("eve", "eve@anywhere.example", True, True),
    ("eve", "root", True, True),
]


@pytest.mark.parametrize(("login", "sender", "without", "with_map"), CASES)
def test_owns(login, sender, without, with_map):
    assert Logins().owns(login.encode(), sender.encode()) is without
    assert Logins(MAP).owns(login.encode(), sender.encode()) is with_map


def test_login_without_a_domain_where_ours_are_known():
    logins = Logins(domains=["Example.com"])
    assert logins.owns(b"eve", b"anything@example.COM") is True
    assert logins.owns(b"eve", b"eve@example.net") is True
    assert logins.owns(b"eve", b"x@example.net") is False


def test_bytes_that_are_not_utf8():
    assert Logins().owns(b"ann\xff@example.com", b"x\xfe@example.net") is False


def test_a_map_takes_precedence_over_the_domain_in_the_engine(tmp_path):
    rules = rules_from(
        tmp_path,
        "rules: [{name: r, description: d, severity: info, score: 0, on: queued, where: {sender_owned: "
        "false}, by: sasl_username, measure: count, "
        "window: 1h, threshold: 1}]",
    )
    log = (
        "Oct 24 06:18:01 mx postfix/smtpd[1]: 4A00000001: client=unknown[192.0.2.1], sasl_method=PLAIN, sasl_username=dora@example.com\n"
        "Oct 24 06:18:01 mx postfix/qmgr[1]: 4A00000001: from=<{}>, size=1, nrcpt=1 (queue active)\n"
    )

    def fires(sender: str, logins: Logins | None) -> bool:
        return bool(make_engine(rules, year=2026, logins=logins).feed(log.format(sender).encode()).detections)

    assert [fires(sender, None) for sender in ("sales@example.com", "x@example.net", "")] == [False, True, False]
    assert [fires(sender, Logins(MAP)) for sender in ("sales@example.com", "dora@example.com", "x@example.net", "")] == [
        True,
        False,
        True,
        False,
    ]
