"""What goes out: no secret, nothing that obeys, in the form that the receiver reads, whatever a stranger wrote."""

import email
import email.policy
import html.parser
import json
import re
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.config import NoticeKind
from sentinel.detect.detection import parse_time
from sentinel.respond.compose import (
    about_account,
    about_block,
    about_breaker,
    about_detection,
    lasting_incident,
    notice_id,
    trial_notice,
    undo_command,
)
from sentinel.respond.messages import (
    MAIL_BYTES,
    MATRIX_BYTES,
    TEAMS_BYTES,
    as_alert,
    as_json,
    as_mail,
    as_matrix,
    as_slack,
    as_teams,
    cleaned,
)
from sentinel.respond.notify import Notice
from sentinel.respond.redact import Redactor

SECRET = "s3cr3t/T0ken+value"
NOW = 1_351_059_600.0
KINDS: tuple[NoticeKind, ...] = NoticeKind.__args__

HOSTILE = [
    "<!channel>", "<!here>", "<@U123>", "<https://evil.example|click>", "@channel", "@here", "@room", "@everyone", "[x](https://evil.example)",
    "![x](https://evil.example/i.png)", "<script>alert(1)</script>", "<img src=x onerror=y>", "<a href='https://evil.example'>", "&lt;", "&",
    "\r\nBcc: victim@example.org", "\nBcc: victim@example.org\n\nbody", "=?utf-8?q?=0D=0ABcc:_victim@example.org?=", "=?utf-8?b?DQpCY2M6?=",
    "```", "`", "\x00", "\x1b[31m", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\x85", "\ud800", "\U0001f600", "'; rm -rf /; '",
    "password='; rm -rf ~; '", "$(reboot)", "%s", "{}", "{who}", "-d", "--", "\\", '"', "\r\n.\r\n", "From ", f"token={SECRET}", SECRET, "*b*",
]  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=30), st.just("x" * 3000), st.just("é€" * 700)), max_size=4).map(
    "".join
)
lists = st.one_of(st.lists(texts, max_size=3), st.lists(texts, min_size=1, max_size=1).map(lambda one: one * 15)).map(tuple)
notices = st.builds(
    Notice,
    id=texts, incident=texts, kind=st.sampled_from(KINDS), severity=st.sampled_from(["info", "warning", "critical"]),
    time=st.integers(0, 4_000_000_000_000_000), title=texts, text=texts, account=st.none() | texts, client_ips=lists, senders=lists, evidence=lists, next_steps=lists,
    undo=st.none() | texts, resolved=st.booleans(), provider=st.none() | texts,
)  # fmt: skip


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in (*strings(key), *strings(inner))]
    return [text for inner in value for text in strings(inner)] if isinstance(value, (list, tuple)) else []


def harmless(text: str) -> None:
    """What must hold of every text, in any form."""
    assert all(char.isprintable() or char == "\n" for char in text), text
    assert SECRET not in text
    assert not re.search(r"(?i)(?<![a-z0-9_])@(channel|here|everyone|room)\b", text), text


class Tags(html.parser.HTMLParser):
    """Which tags stand in a text, and that none has an attribute."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[Any] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[Any]) -> None:
        self.tags.add(tag)
        self.attributes += attributes


@given(notices)
def test_cleaned_is_clean_and_short(notice: Notice) -> None:
    clean = cleaned(notice, Redactor([SECRET]))
    for text in strings(list(clean)):
        assert text.isprintable()
        assert SECRET not in text
        assert len(text) <= 2000
    assert clean.undo is None or shlex.split(clean.undo) == clean.undo.split()


@given(notices)
def test_json_is_ascii_and_harmless(notice: Notice) -> None:
    data = as_json(cleaned(notice, Redactor([SECRET])), "mx")
    assert data.isascii()
    assert not re.search(rb"[\x00-\x1f]", data)
    assert SECRET not in data.decode()
    assert json.loads(data)["kind"] == notice.kind


@given(notices)
def test_slack_has_no_link_no_mention_and_keeps_its_limits(notice: Notice) -> None:
    data = as_slack(cleaned(notice, Redactor([SECRET])), "mx")
    assert not re.search(rb"[\x00-\x1f]", data)
    message = json.loads(data)
    for text in strings(message):
        harmless(text)
        assert "<" not in text and ">" not in text
        assert not re.search(r"&(?!amp;|lt;|gt;)", text)
        assert text.count("```") in (0, 2) and text.replace("```", "").count("`") == 0
    for block in message["blocks"]:
        assert 1 <= len(block["text"]["text"]) <= (150 if block["type"] == "header" else 3000)
        assert block["text"].get("verbatim", True)
    assert len(message["text"]) <= 3000
    assert len(message["blocks"]) <= 50


@given(notices)
def test_matrix_has_no_tags_but_ours(notice: Notice) -> None:
    text, page = as_matrix(cleaned(notice, Redactor([SECRET])), "mx")
    found = Tags(page)
    assert found.tags <= {"p", "strong", "br", "pre", "code", "ol", "li"}
    assert not found.attributes
    harmless(text)
    harmless(page)
    assert len(json.dumps([text, page])) <= MATRIX_BYTES + 100


@given(notices)
def test_teams_reads_no_markdown_and_keeps_its_limit(notice: Notice) -> None:
    data = as_teams(cleaned(notice, Redactor([SECRET])), "mx")
    assert not re.search(rb"[\x00-\x1f]", data)
    assert len(data) <= TEAMS_BYTES and len(data.decode().encode("utf-16-le")) <= TEAMS_BYTES
    card = json.loads(data)["attachments"][0]["content"]
    for text in strings(card):
        harmless(text)
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    assert "entities" not in card["msteams"]


@given(notices)
def test_mail_has_our_headers_and_no_other(notice: Notice) -> None:
    data = bytes(as_mail(cleaned(notice, Redactor([SECRET])), "mx", "sentinel@example.com", ["a@example.org", "b@example.org"], NOW))
    assert len(data) <= MAIL_BYTES
    assert data.isascii()
    head, _, _ = data.partition(b"\r\n\r\n")
    assert head.isascii() and not re.search(rb"[^\x20-\x7e\r\n]", head)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert sorted(mail.keys()) == sorted(
        ["Subject", "From", "To", "Date", "Message-ID", "In-Reply-To", "References", "Auto-Submitted", "X-Auto-Response-Suppress",
         "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
    )  # fmt: skip
    assert mail["To"] == "a@example.org, b@example.org"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert str(mail["Subject"]).isprintable() and SECRET not in str(mail["Subject"])
    body = mail.get_content().replace("\r\n", "\n")
    assert all(char.isprintable() or char == "\n" for char in body) and SECRET not in body


@given(notices)
def test_alert_has_labels_that_say_what_it_is_about(notice: Notice) -> None:
    alert = as_alert(cleaned(notice, Redactor([SECRET])), "mx", NOW, NOW + 600)
    assert set(alert["labels"]) <= {"alertname", "severity", "instance", "sasl_username", "provider", "client_ip"}
    assert {"alertname", "severity", "instance"} <= set(alert["labels"])
    for text in strings(alert):
        assert all(char.isprintable() or char == "\n" for char in text)
        assert SECRET not in text
    assert alert["startsAt"] <= alert["endsAt"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mysql://mail:hunter2@db/x failed", "mysql://[redacted]@db/x failed"),
        ("https://u:p@ss@host/path", "https://[redacted]@host/path"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ('"authorization": "Basic dTpw"', '"authorization": "[redacted]"'),
        ("AUTH PLAIN AGluZm8AaHVudGVyMg==", "AUTH PLAIN [redacted]"),
        ("password=hunter2, next=1", "password=[redacted], next=1"),
        ('{"api_key": "abc def", "x": 1}', '{"api_key": [redacted], "x": 1}'),
        ("pam(info,192.0.2.1): unknown user (given password: my (old) pass)", "pam(info,192.0.2.1): unknown user (given password: [redacted]"),
        ("DB_PASSWORD=x", "DB_PASSWORD=[redacted]"),
        ("the key is s3cr3t%2FT0ken%2Bvalue.", "the key is [redacted]."),
        ("basic czNjcjN0L1Qwa2VuK3ZhbHVl", "basic [redacted]"),
        ("postfix/smtpd[1]: 4A01: client=h[192.0.2.7], sasl_method=LOGIN, sasl_username=info@example.com",
         "postfix/smtpd[1]: 4A01: client=h[192.0.2.7], sasl_method=LOGIN, sasl_username=info@example.com"),
        ("Change the password of info@example.com", "Change the password of info@example.com"),
        ("see https://www.example.net/query/ip/192.0.2.1", "see https://www.example.net/query/ip/192.0.2.1"),
        ("a\r\nb\tc\u202ed\x1be", "a b c?d?e"),
    ],
)  # fmt: skip
def test_redaction(text: str, expected: str) -> None:
    assert Redactor([SECRET]).line(text, 500) == expected


def test_redaction_takes_time_in_proportion_to_the_text() -> None:
    import time

    began = time.monotonic()
    for text in (
        "a" * 20_000,
        "://" * 7_000,
        "password" * 2_500,
        "a://@@" * 3_000,
        "authorization:   " * 1_000,
        "bearer " * 2_500,
        "=" * 20_000,
    ):
        Redactor([SECRET]).line(text, 500)
    assert time.monotonic() - began < 2


def test_redactor_does_not_tell_what_it_knows() -> None:
    assert SECRET not in repr(Redactor([SECRET]))


# words

DETECTION = {
    "id": "d1", "rule": "sender-login-mismatch", "severity": "critical", "score": 6.0, "time": "2026-11-18T10:40:19Z",
    "subject": {"sasl_username": "orders@handmade.example"}, "window": 3600.0, "measure": "distinct(sender)", "value": 4.0, "threshold": 4.0,
    "evidence": [{"line": f"line {n}", "source": "mail.log", "offset": n} for n in range(10)],
    "related": {"client_ips": ["203.0.113.177", "203.0.113.193"], "senders": ["a@b.example", ""]}, "description": "An account forges.", "advice": "Lock it.",
}  # fmt: skip
BURST = {**DETECTION, "id": "d2", "rule": "outbound-burst-account", "time": "2026-11-18T10:41:03Z", "measure": "sum(recipients)", "value": 211.0,
         "window": 600.0, "evidence": [{"line": f"burst {n}"} for n in range(3)], "related": {"client_ips": ["203.0.113.193", "203.0.113.7"]}}  # fmt: skip
WHY = "orders@handmade.example has 11 of 10 points: sender-login-mismatch (6), outbound-burst-account (5)"


def locked(account: str = "orders@handmade.example", kind: NoticeKind = "locked", **more: Any) -> Notice:
    return about_account(kind, account, incident="i1", why=WHY, detections=[DETECTION, BURST], **more)


def test_a_lock_says_what_happened_what_to_do_and_how_to_undo_it() -> None:
    notice = locked(config="/etc/sentinel/sentinel.yaml")
    assert notice.title == "Locked orders@handmade.example"
    assert notice.text.startswith(f"{WHY}. The account is locked: it can send no new mail until you unlock it.")
    assert "outbound-burst-account at 10:41:03 UTC (sum(recipients) 211 in 10m)" in notice.text
    assert notice.undo == "sentinel locks unlock --config /etc/sentinel/sentinel.yaml -- orders@handmade.example"
    assert notice.evidence[:4] == ("line 0", "burst 0", "line 1", "burst 1")
    assert notice.client_ips == ("203.0.113.177", "203.0.113.193", "203.0.113.7")
    assert notice.time == parse_time(BURST["time"])
    mail = as_mail(cleaned(notice, Redactor()), "mx1", "sentinel@example.com", ["admin@example.org"], NOW).get_content()
    for part in (WHY[:40], "203.0.113.7", "Evidence:", "line 0", "What to do next:", "Change the password", "To undo:", notice.undo):
        assert part in mail
    assert mail.count("\n  line ") + mail.count("\n  burst ") == 10
    assert sum(line in as_matrix(notice, "mx1")[0] for line in notice.evidence) == 3


def test_same_incident_and_kind_are_the_same_notice() -> None:
    assert locked().id == locked(points=11, lock_at=10).id
    assert locked().id != locked(kind="unlocked").id
    assert locked(kind="unlocked").resolved and not locked().resolved
    assert notice_id("a", "b") != notice_id("b", "a")


@pytest.mark.parametrize("kind", ["locked", "would-lock", "refused", "failed", "unlocked", "lock-ineffective"])
def test_every_kind_about_an_account_is_whole(kind: NoticeKind) -> None:
    notice = locked(kind=kind, problem="the database does not answer.")
    assert notice.next_steps
    assert "{" not in " ".join([notice.title, notice.text, *notice.next_steps])
    assert "orders@handmade.example" in notice.title
    if kind in ("refused", "failed", "lock-ineffective"):
        assert "the database does not answer." in notice.text
    assert (notice.undo is not None) == (kind in ("locked", "lock-ineffective"))


@pytest.mark.parametrize(
    "account",
    [
        "'; DROP TABLE mailbox; --",
        "-d ALL",
        "--config=/tmp/x",
        "a b",
        "$(reboot)",
        "x`id`",
        "a\nb",
        "{who}",
        "%s",
        "*",
        "x;y",
        "a'b",
        "~root",
        "",
        "a" * 400,
    ],
)
def test_no_command_holds_what_a_shell_obeys(account: str) -> None:
    notice = locked(account)
    assert undo_command(account) is None and notice.undo is None
    for step in cleaned(notice, Redactor()).next_steps:
        for command in re.findall(r"(?:sentinel|doveadm) [a-z ]+(?:--account )?.*", step):
            assert account == "" or account not in command
    assert any("sentinel locks list" in step or "--account ACCOUNT" in step for step in notice.next_steps)


def test_undo_that_cleaning_would_change_is_left_out() -> None:
    notice = cleaned(locked("token=abc@example.com"), Redactor())
    assert notice.undo is None
    assert "sentinel locks list" in notice.next_steps[-1]


def test_block_and_its_end_are_one_incident() -> None:
    subject = {"host": "mx1", "provider": "yahoo", "dnsbl": "", "blocked_ip": "192.0.2.1"}
    block = {**DETECTION, "rule": "remote-block", "subject": subject, "description": "A provider refuses our mail.",
             "related": {"replies": ["421 4.7.1 [TS03] deferred"], "delist_urls": ["https://postmaster.example/off"], "accounts": ["wang@corp.example"]}}  # fmt: skip
    end = {**block, "rule": "block-ended", "related": {}, "description": "Over."}
    assert lasting_incident("block", block) == lasting_incident("block", end)
    began, ended = about_block(block, incident="b"), about_block(end, incident="b", ended=True)
    assert (began.title, ended.title) == ("yahoo blocks 192.0.2.1", "yahoo takes our mail again from 192.0.2.1")
    assert "421 4.7.1 [TS03] deferred" in began.text
    assert "wang@corp.example" in began.next_steps[0] and "https://postmaster.example/off" in began.next_steps[1]
    assert (began.kind, began.resolved, ended.kind, ended.resolved) == ("blocked", False, "block-ended", True)


def test_breaker_and_plain_detection() -> None:
    opened = about_breaker("12 accounts within 5 minutes, more than 10", [f"u{n}@x.example" for n in range(12)], incident="k", time=1)
    assert "12 accounts at once" in opened.title and "and 7 more" in opened.next_steps[0]
    assert about_breaker("quiet for an hour", [], incident="k", time=2, closed=True).resolved
    plain = about_detection({**DETECTION, "subject": {"client_ip": "203.0.113.5"}})
    assert plain.client_ips == ("203.0.113.5",) and plain.account is None
    assert "at most 4 is usual" in plain.text and plain.next_steps == ("Lock it.",)
    assert trial_notice(1.0).id != trial_notice(2.0).id


def test_alert_of_the_end_has_the_labels_of_the_beginning() -> None:
    begin, later = as_alert(locked(), "mx1", NOW * 2, NOW * 2 + 60), as_alert(locked(), "mx1", NOW * 3, NOW * 3)
    assert begin["labels"] == later["labels"] == {
        "alertname": "SentinelAccountLocked", "severity": "critical", "instance": "mx1", "sasl_username": "orders@handmade.example",
    }  # fmt: skip
    assert begin["startsAt"] == later["startsAt"]
