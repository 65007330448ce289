"""``sentinel classify``."""

import gzip
import json
from pathlib import Path

import pytest
from commands import Run, write

KEYS = ["class", "sub", "confidence", "temporary", "provider", "dnsbl", "blocked_ip", "delist_url", "rule", "reply"]
"""CONTRACT: reply classification."""

TS03 = "421 4.7.1 [TS03] All messages from 192.0.2.9 will be permanently deferred; Retrying will NOT succeed. See http://x.example/ts03"
REPLIES = [
    TS03,
    "",
    "550 5.1.1 <a@b.example>: Recipient address rejected: User unknown",
    f"host mx1.att.net[192.0.2.1] refused to talk to me: {TS03}",
    "  554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org \r",
]


def test_one_object_a_reply_in_their_order(tmp_path: Path, sentinel: Run) -> None:
    done = sentinel("classify", write(tmp_path / "replies", REPLIES))
    told = [json.loads(line) for line in done.out.splitlines()]
    assert (done.code, done.err) == (0, "")
    assert [list(one) for one in told] == [KEYS] * 4
    assert [one["reply"] for one in told] == [reply.strip() for reply in REPLIES if reply]
    assert [(one["class"], one["provider"], one["dnsbl"], one["blocked_ip"]) for one in told] == [
        ("ip_blocked", "yahoo", "", "192.0.2.9"),
        ("recipient_invalid", "generic", "", ""),
        ("ip_blocked", "att", "", "192.0.2.9"),
        ("ip_blocked", "generic", "zen.spamhaus.org", "192.0.2.9"),
    ]
    assert told[0] == {
        "class": "ip_blocked",
        "sub": "",
        "confidence": 0.97,
        "temporary": False,
        "provider": "yahoo",
        "dnsbl": "",
        "blocked_ip": "192.0.2.9",
        "delist_url": "http://x.example/ts03",
        "rule": "yahoo-permanent",
        "reply": TS03,
    }


def test_standard_input_and_what_is_compressed(tmp_path: Path, process: Run) -> None:
    text = "".join(f"{reply}\n" for reply in REPLIES).encode()
    (tmp_path / "replies.gz").write_bytes(gzip.compress(text))
    piped = process("classify", "-", stdin=text)
    assert (piped.code, len(piped.out.splitlines())) == (0, 4)
    assert process("classify", tmp_path / "replies.gz").out == piped.out


def test_who_answered_can_be_said(tmp_path: Path, sentinel: Run) -> None:
    path = write(tmp_path / "replies", ["550 no"])
    assert json.loads(sentinel("classify", "--host", "aspmx.l.google.com", path).out)["provider"] == "gmail"
    assert json.loads(sentinel("classify", path).out)["provider"] == "generic"


def test_own_rules_go_first(tmp_path: Path, sentinel: Run) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("replies:\n  - {name: ours, class: greylisted, patterns: ['TS03']}\n", encoding="utf-8")
    told = json.loads(sentinel("classify", "--replies", own, write(tmp_path / "replies", [TS03])).out)
    assert (told["class"], told["rule"]) == ("greylisted", "ours")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00\n", b"\x1b[2J\x07 550\n", b"\xe2\x80\xa8 550 x\n", b"(" * 5000 + b"\n"], ids=repr)
def test_nonsense_is_some_other_refusal(data: bytes, tmp_path: Path, process: Run) -> None:
    (tmp_path / "replies").write_bytes(data)
    done = process("classify", tmp_path / "replies")
    assert done.code == 0
    (line,) = done.out.splitlines()
    assert json.loads(line)["class"] == "other"
    assert "\x1b" not in line


def test_wrong_arguments(tmp_path: Path, sentinel: Run) -> None:
    sentinel("classify", tmp_path / "none").refused("none", "there is no file")
    path = write(tmp_path / "replies", ["550 x"])
    (tmp_path / "own.yaml").write_text("replies:\n  - {name: a, class: spam, patterns: [x]}\n", encoding="utf-8")
    sentinel("classify", "--replies", tmp_path / "own.yaml", path).refused("own.yaml:2: ", '"spam"')


def test_long_line_that_is_no_reply(tmp_path: Path, sentinel: Run) -> None:
    (tmp_path / "replies").write_bytes(b"550 " + b"x" * (5 << 20) + b"\n550 5.1.1 user unknown\n")
    done = sentinel("classify", tmp_path / "replies")
    assert [json.loads(line)["class"] for line in done.out.splitlines()] == ["recipient_invalid"]
    assert done.sentences == ["1 lines are too long to be replies and were passed over"]


def test_no_byte_of_a_reply_drives_the_terminal(tmp_path: Path, sentinel: Run) -> None:
    hostile = "550 \x1b[2J\x7f\x85\x9b31m \u202e \u2028 \u2066 \ufeff é 中 no"
    path = tmp_path / "replies"
    path.write_text(hostile + "\n", encoding="utf-8")
    out = sentinel("classify", path).out
    assert json.loads(out)["reply"] == hostile
    assert all(c.isprintable() for c in out.rstrip("\n"))
    assert "é 中" in out
