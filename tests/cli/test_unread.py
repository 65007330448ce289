"""What ``sentinel parse --all`` tells of lines that it could not read."""

import random
import string
from pathlib import Path

import pytest
from commands import UTC_2026, Run, write
from hypothesis import given
from hypothesis import strategies as st

from sentinel.cli.unread import Unread, redacted, shape, split

HEAD = "Oct 24 06:18:01 mx postfix/smtpd[4202]: "
PRIVATE = ("bob", "alice", "secret", "192.0.2.7", "198.51.100.8", "2001:db8::7", "handmade", "4A00000001", "4PbC4x469Jz3tBr")


def report(*lines: str | bytes) -> list[str]:
    unread = Unread()
    for line in lines:
        unread.add(line.encode() if isinstance(line, str) else line)
    return list(unread.report())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("something from mail.handmade.example[192.0.2.7]:25 to <bob@handmade.example>", "something from <host> to <…>"),
        ("4A00000001: unheard of", "<id>: unheard of"),
        ("4PbC4x469Jz3tBr: unheard of", "<id>: unheard of"),
        ("NOQUEUE: unheard of", "NOQUEUE: unheard of"),
        ("NOQUEUE: frob: header Subject: secret plans of bob from local", "NOQUEUE: frob: header <text>"),
        ("unknown thing \"bob\" and 'alice'", 'unknown thing "…" and "…"'),
        ("mail of bob@handmade.example is late", "mail of <address> is late"),
        ("peer 2001:db8::7 and 192.0.2.7 and mail.handmade.example", "peer <ip> and <n> and <name>"),
        ("user=bob smith, method=PLAIN, rip=192.0.2.7", "user=…, method=…, rip=…"),
        ("statistics: hits=0 miss=3 success=0%", "statistics: hits=… miss=… success=…"),
        ("open /home/bob/Maildir: no", "open <path>: no"),
        ("login for bob", "login for <word>"),
        ("reply to user bob", "reply to user <word>"),
        ("for 12.5% of 3/4", "for <n> of <n>"),
        ("a\x1b[31mred\r\u2028", "a\\x1b[<id>\\x0d<text>"),
        ('never closed "bob alice', 'never closed "…"'),
        ("", ""),
    ],
)
def test_shapes(text: str, expected: str) -> None:
    assert shape(text) == expected
    hidden = redacted(text)
    for secret in PRIVATE:
        assert secret not in hidden
    assert hidden.isprintable()


@pytest.mark.parametrize(
    ("line", "who", "text"),
    [
        (HEAD + "hello", "postfix/smtpd", "hello"),
        ("<22>Oct  3 06:18:01 mx postfix-10.20.30.40/smtp[1]: hello", "postfix-9.9.9.9/smtp", "hello"),
        ("<22>1 2026-10-24T06:18:01.5Z mx postfix/smtpd 1 - - hello", "postfix/smtpd", "hello"),
        ("2026-10-24T06:18:01+02:00 mx sshd[1]: hello", "sshd", "hello"),
        ("2026-10-24 06:18:01 hello bob", "no tag", "hello bob"),
        ('{"MESSAGE": "hello", "_PID": "1"}', "JSON", "hello"),
        ('{"MESSAGE": [104, 105]}', "JSON", ""),
        ("{no JSON", "no time", "{no JSON"),
        ("hello", "no time", "hello"),
        ("", "no time", ""),
    ],
)
def test_who_wrote_it(line: str, who: str, text: str) -> None:
    found = split(line)
    assert (found[0], found[2]) == (who, text)


def test_lines_of_one_shape_are_counted_together_and_the_most_frequent_comes_first() -> None:
    lines = [HEAD + f'4A000000{n:02X}: frob from mail{n}.example.net[192.0.2.{n}]: "secret {n}"' for n in range(12)]
    out = report(HEAD + "rare thing", *lines, HEAD + "rare thing")
    assert out[0].startswith("14 lines could not be read, 2 shapes;")
    assert [line.split()[0] for line in out[1:]] == ["12", "like", "2", "like"]
    assert out[1].endswith('12  postfix/smtpd: <id>: frob from <host>: "…"')
    assert out[2].endswith('like  Oct 99 99:99:99 xx postfix/smtpd[9999]: 9X99999999: frob from xxxx9.xxxxxxx.xxx[999.9.9.9]: "xxxxxx 9"')


def test_nothing_to_tell() -> None:
    assert report() == []


def test_at_most_twenty_shapes_are_shown_and_the_rest_counted() -> None:
    words = ["".join(letters) for letters in zip(string.ascii_lowercase, string.ascii_lowercase[1:], strict=False)]
    out = report(*(f"{HEAD}about {word}" for word in words))
    assert len(out) == 1 + 2 * 20 + 1
    assert out[-1].split() == ["5", "of", "other", "shapes"]


def test_memory_is_bounded_and_what_is_frequent_survives() -> None:
    unread = Unread()
    draw = random.Random(1)
    for n in range(20_000):
        word = "".join(draw.choices(string.ascii_lowercase, k=9))
        unread.add(f"{HEAD}{word} {'x ' * 5000}".encode())
        if n % 4 == 0:
            unread.add(f"{HEAD}the frequent one".encode())
        assert len(unread) <= 2000
    out = list(unread.report())
    assert unread.number == 25_000
    assert out[0].startswith("25,000 lines could not be read")
    assert out[1].split()[0] == "5,000"
    assert all(len(line) < 600 for line in out)
    assert sum(int(line.split()[0].replace(",", "")) for line in out[1:] if not line.startswith("     like")) == 25_000


@given(st.binary(max_size=700))
def test_any_bytes(junk: bytes) -> None:
    for line in report(junk):
        assert line.isprintable()


@pytest.mark.parametrize("piece", ["a", "a.", "a@", "[", "<", '"', "=a ", "=", "1", "1:", ":", "é", "a-", "/", "for ", "x="])
def test_time_is_linear_in_what_is_read(piece: str) -> None:
    # The text is cut first: the longest line costs what 400 characters cost.
    unread = Unread()
    for _ in range(100):
        unread.add((HEAD + piece * 60_000).encode()[:65_000])
    assert len(unread) == 1


LINES = [
    HEAD + "connect from unknown[192.0.2.7]",
    HEAD + "an unheard-of event from bob@handmade.example",
    "Oct 24 06:18:01 mx postfix/scache[1]: statistics of something new",
    "Oct 24 06:18:01 mx postfix/policyd-spf[1]: a daemon that is not Postfix's",
    "Oct 24 06:18:01 mx postfix/smtpd[1]: warning: anything at all",
    "Oct 24 06:18:01 mx postfix/postsuper[1]: 4A00000001: requeued",
    "Oct 24 06:18:01 mx sshd[1]: Accepted publickey for bob from 192.0.2.7 port 22",
    "no header at all",
]


def test_parse_tells_it_on_standard_error(tmp_path: Path, sentinel: Run) -> None:
    log = write(tmp_path / "mail.log", LINES)
    done = sentinel("parse", "--all", *UTC_2026, log)
    told = done.sentences
    assert told[0] == "8 lines read"
    assert told[1].startswith("4 lines could not be read, 4 shapes")
    shapes = [line.split("  ", 1)[1].strip() for line in told[2:] if not line.strip().startswith("like")]
    assert sorted(line.split("  ")[-1] for line in shapes) == [
        "no time: no header at all",
        "postfix/scache: statistics of something new",
        "postfix/smtpd: an unheard-of event from <address>",
        "sshd: Accepted publickey for <word> from <n> port <n>",
    ]
    assert "bob" not in done.err
    assert "192.0.2.7" not in done.err


def test_without_all_nothing_is_told(tmp_path: Path, sentinel: Run) -> None:
    log = write(tmp_path / "mail.log", LINES)
    assert sentinel("parse", *UTC_2026, log).sentences == ["8 lines read"]


def test_all_was_read(tmp_path: Path, sentinel: Run) -> None:
    log = write(tmp_path / "mail.log", LINES[:1])
    assert sentinel("parse", "--all", *UTC_2026, log).sentences == ["1 lines read"]
