"""The page shows hostile text as text."""

import time
from html.parser import HTMLParser

import pytest
from served import LOG, Site

from sentinel.detect.engine import Engine

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;</pre></bdi><style>*{}</style>\u202e\x00"


class Reader(HTMLParser):
    """Tags, attributes and text of a page; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.content = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= set(attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.content += data


def read(site: Site) -> Reader:
    reply = site.ask("/")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    reader = Reader()
    reader.feed(reply.text)
    reader.close()
    assert reader.open == []
    return reader


def test_an_empty_daemon(site: Site) -> None:
    page = read(site)
    for words in (
        "not ready:",
        "starting",
        LOG,
        "No account has points.",
        "No account is locked.",
        "none yet",
        "1.2.3",
    ):
        assert words in page.content, words


def test_hostile_text_in_every_place_is_text(site: Site) -> None:
    site.publish(
        ready=False,
        reason=f"reason {EVIL}",
        scores={f"account {EVIL}": 3.0},
        lag={f"source {EVIL}": 1},
        locked=[f"account {EVIL}"],
    )
    site.detections.append(
        {
            "id": EVIL,
            "rule": f"rule {EVIL}",
            "severity": f"severity {EVIL}",
            "time": f"time {EVIL}",
            "subject": {f"field {EVIL}": f"subject {EVIL}"},
            "window": 60.0,
            "measure": f"measure {EVIL}",
            "value": 5,
            "threshold": 2.5,
            "evidence": [{"line": f"line {EVIL}", "source": EVIL, "offset": 0}],
            "related": {f"related {EVIL}": [f"value {EVIL}"]},
            "description": f"description {EVIL}",
            "advice": f"advice {EVIL}",
        }
    )
    site.locks.append({"account": f"lock {EVIL}", "state": f"state {EVIL}", "why": f"why {EVIL}", "created": EVIL})
    page = read(site)
    assert not page.tags & {"script", "img", "a", "iframe", "link", "object", "form", "base"}
    assert not any(name.startswith("on") or name in ("src", "href", "style") for name, _ in page.attributes)
    assert {value for name, value in page.attributes if name == "class"} <= {
        "n",
        "wide",
        "soft",
        "bad",
        "good",
        "critical",
    }
    shown = EVIL.replace("\x00", "\ufffd")
    places = "reason account source rule severity time field subject measure line related value description advice lock"
    for place in (*places.split(), "state", "why"):
        assert f"{place} {shown}" in page.content, place


def test_the_page_names_account_evidence_and_the_command_to_undo(site: Site) -> None:
    engine = Engine()
    found = engine.feed(
        b"".join(
            b"Nov 22 10:00:%02d mx postfix/smtpd[1]: %05dAAA: client=unknown[198.51.100.7], sasl_method=LOGIN, "
            b"sasl_username=info@example.com\n"
            b"Nov 22 10:00:%02d mx postfix/qmgr[2]: %05dAAA: from=<info@example.com>, size=900, nrcpt=50 "
            b"(queue active)\n" % (n, n, n, n)
            for n in range(10, 40)
        )
    ).detections
    site.detections.extend(item.to_dict() for item in found)
    site.locks.append({"account": "info@example.com", "state": "done", "why": "score 12", "created": "2026-11-22"})
    site.publish(
        ready=True,
        counters=engine.counters(),
        scores={"info@example.com": 12.0, "b@example.com": 1.5},
        locked=["info@example.com"],
        last_event={LOG: time.time() - 5},
        checkpoint_at=time.time(),
    )
    page = read(site)
    for words in (
        "ready.",
        "outbound-burst-account",
        "sasl_username info@example.com",
        "from=<info@example.com>, size=900, nrcpt=50",
        "sentinel locks unlock info@example.com",
        "locked",
        "5 s ago",
    ):
        assert words in page.content, words
    assert page.content.index("12") < page.content.index("b@example.com")
    assert "details" in page.tags
    assert ("open", None) not in page.attributes


@pytest.mark.parametrize(
    ("account", "command"),
    [
        ("a b@example.com", "sentinel locks unlock 'a b@example.com'"),
        ("$(reboot)", "sentinel locks unlock '$(reboot)'"),
        ("it's", "sentinel locks unlock 'it'\"'\"'s'"),
        ("--all", "sentinel locks unlock -- --all"),
        ("two\nlines", "sentinel locks list"),
        ("x" * 5000, "sentinel locks list"),
    ],
)
def test_the_command_to_undo_is_safe_to_paste(site: Site, account: str, command: str) -> None:
    site.locks.append({"account": account, "state": "done"})
    assert f"to undo\n{account if len(account) < 300 else account[:300] + '…'}" in read(site).content.replace("\ufffd", "\n")
    assert f"done{command}\n" in read(site).content


def test_a_long_page_stays_short(site: Site) -> None:
    site.detections.extend(
        {"rule": "r", "subject": {"helo": "h" * 100_000}, "evidence": [{"line": "l" * 1_000_000}] * 10} for _ in range(50)
    )
    site.locks.extend({"account": f"u{n}@example.com"} for n in range(2000))
    site.publish(scores={f"u{n}@example.com": 1.0 for n in range(5000)})
    reply = site.ask("/")
    assert len(reply.body) < 2_000_000
    assert "and 4980 with lower scores" in reply.text
    assert "and 1900 older ones" in reply.text
