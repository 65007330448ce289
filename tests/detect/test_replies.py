"""Whose refusal it is and what it is about."""

import pytest
from helpers import STAMP, make_engine

from sentinel.detect.replies import CLASS_NAMES, load_providers, load_replies
from sentinel.errors import UserError

CLASSIFIER = load_replies()
PROVIDERS = load_providers()

REPLIES = {
    " said: 421 4.7.1 [TS03] All messages from # will be permanently deferred; Retrying will NOT succeed.": "ip_blocked",
    " refused to talk to me: 571 Email from # is currently blocked by Verizon Online's anti-spam system.": "ip_blocked",
    " refused to talk to me: 550-# blocked by ldap:ou=rblmx,dc=att,dc=net 550 Error - Blocked for abuse.": "ip_blocked",
    " refused to talk to me: 554 mail2.example.org": "ip_blocked",
    " said: 554 5.7.1 Service unavailable; Client host [#] blocked using zen.spamhaus.org": "ip_blocked",
    " said: 550 5.1.1 <>: Recipient address rejected: User unknown in virtual table (in reply to RCPT TO command)": "recipient_invalid",
    " said: 452 4.2.2 <>: Mailbox full (in reply to RCPT TO command)": "recipient_invalid",
    " said: 450 4.2.0 <>: Recipient address rejected: Greylisted, see http://postgrey.example (in reply to RCPT TO command)": "greylisted",
    " said: 421 4.7.0 Too many messages from this address, slow down": "rate_limited",
    " said: 550 5.7.26 This mail is unauthenticated: SPF [x] with ip # = did not pass": "auth_policy",
    " said: 554 5.7.1 message rejected as spam (in reply to end of DATA command)": "content_spam",
    " said: 550 Mail content denied. (in reply to end of DATA command)": "content_spam",
    " said: 500 5.5.2 Error: bad syntax": "other",
    "": "other",
}


@pytest.mark.parametrize("reply", REPLIES)
def test_class(reply):
    assert CLASS_NAMES[CLASSIFIER.classify(reply.encode())] == REPLIES[reply]


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "spam ",
        "(",
        "<<",
        "550 ",
        "user ",
        "blocked by ",
        "\xff",
        "é\u2028",
        " x[192.0.2.1] said: 550 ",
        "not found.",
    ],
)
def test_hostile_reply_of_two_kilobytes_gets_one_class_whatever_surrounds_it(unit):
    reply = (" said: 550 5.1.1 " + unit * (2048 // len(unit))).encode()
    assert CLASS_NAMES[CLASSIFIER.classify(reply)] in CLASS_NAMES[1:]
    # Words that decide are found behind all of it.
    assert CLASS_NAMES[CLASSIFIER.classify(reply.replace(b"\xff", b"a") + b" greylisted")] in (
        "greylisted",
        CLASS_NAMES[CLASSIFIER.classify(reply)],
    )


def deliver(reply: str, relay: str = "mx.example.net[192.0.2.25]:25", status: str = "bounced") -> dict:
    engine = make_engine((), year=2026)
    text = f"to=<u@example.net>, relay={relay}, delay=1, delays=0/0/1/0, dsn=5.0.0, status={status} ({reply})\n"
    engine.feed(STAMP + b"postfix/smtp[1]: 4A00000001: " + text.encode())
    return engine.counters()["replies"]


def test_only_refusals_are_classified():
    assert deliver("250 2.0.0 Ok: spam blocked", status="sent") == {}
    assert deliver("connect to mx[192.0.2.25]:25: Connection refused") == {}
    assert deliver("host mx.example.net[192.0.2.25] said: 554 5.7.1 rejected as spam") == {("content_spam", ""): 1}


def test_the_provider_is_who_answered():
    repeated = (
        "delivery temporarily suspended: host mta5.am0.yahoodns.net[192.0.2.139] refused to talk to me: 421 4.7.1 [TS03] All messages"
    )
    assert deliver(repeated, "none", "deferred") == {("ip_blocked", "yahoo"): 1}


def test_addresses_in_a_reply_do_not_decide():
    for name in ("spamhaus@example.net", "blocked", "greylist@quota.example"):
        found = deliver(f"host mx.example.net[192.0.2.25] said: 550 5.1.1 <{name}>: Recipient address rejected: User unknown")
        assert found == {("recipient_invalid", ""): 1}


HOSTS = {
    "mta5.am0.yahoodns.net": "yahoo",
    "GMAIL-SMTP-IN.L.GOOGLE.COM.": "gmail",
    "gateway-f1.isp.att.net": "att",
    "relay.verizon.net": "verizon",
    "mx3.qq.com": "qq",
    "notyahoodns.net": "notyahoodns.net",
    "yahoodns.net.evil.example": "evil.example",
    "mx1.mail.example.co.uk": "example.co.uk",
    "mx.example.com.hk": "example.com.hk",
    "mx.example.de": "example.de",
    "192.0.2.25": "192.0.2.25",
    "localhost": "localhost",
}


@pytest.mark.parametrize("host", HOSTS)
def test_provider(host):
    assert PROVIDERS.of(host) == HOSTS[host]


def test_wrong_replies_file(tmp_path):
    path = tmp_path / "replies.yaml"
    for text, words in (
        ("replies:\n  - class: ip_blockd\n    patterns: [x]\n", [":2:", '"ip_blockd"', '"ip_blocked"']),
        ("replies:\n  - class: other\n    patterns: ['(?=x)']\n", [":3:", "(?=x)"]),
        ("replies:\n  - class: other\n    patterns: ['(']\n", [":3:"]),
        ("replies:\n  - class: other\n    codes: 400\n    patterns: [x]\n", [":3:", '"codes"']),
        ("replies:\n  - class: other\n    pattern: [x]\n", [":3:", '"pattern"', '"patterns"']),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            load_replies(path)
        assert [word for word in [str(path), *words] if word not in str(caught.value)] == [], str(caught.value)


def test_wrong_providers_file(tmp_path):
    path = tmp_path / "providers.yaml"
    path.write_text("providers:\n  a: [x.example]\n  b: [X.example]\n")
    with pytest.raises(UserError, match=r':3:.*"x\.example".*"a"'):
        load_providers(path)
