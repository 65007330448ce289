"""Postfix's queue: first on lines written by hand, then with a real Postfix."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queued import Queued, queued_postfix

from sentinel.config import PostfixSettings
from sentinel.errors import UserError
from sentinel.respond.programs import ProgramError
from sentinel.respond.queue import (
    Envelope,
    Listing,
    PostfixQueue,
    QueueEntry,
    is_queue_id,
    parse_address,
    parse_entry,
    parse_envelopes,
)

CULPRIT, THIEF = "wang@corp.example", "203.0.113.66"
ANNA, HOME = "anna@corp.example", "198.51.100.7"
HOSTILE_ACCOUNTS = [
    "-d ALL",
    "ALL",
    "*",
    "../../x",
    "wang@corp.example\nALL",
    "x" * 10_000,
    "grüße@köln.example",
    "%s",
    "{}",
    "'; DROP TABLE",
]


def listed(**more: Any) -> bytes:
    message = {
        "queue_name": "deferred",
        "queue_id": "4jXC8p1j1DzKr8M",
        "arrival_time": 1795313146,
        "message_size": 697,
        "forced_expire": False,
        "sender": "a@example.net",
        "recipients": [{"address": "b@Example.org", "delay_reason": "x"}, {"address": "c@example.org"}],
    }
    return json.dumps({name: value for name, value in {**message, **more}.items() if value is not ...}).encode()


# queue IDs and addresses


@pytest.mark.parametrize("text", ["4B3A1C", "603C620E32A", "F33EE20C234", "4jXC8p1j1DzKr8M", "3Pt2mN2VXxznjll"])
def test_queue_ids(text: str) -> None:
    assert is_queue_id(text)


@pytest.mark.parametrize(
    "text",
    ["ALL", "-", "", "-d", "all", "603c620e32a", "603C6", "A" * 25, "603C620E32A\n", "603C620E32A ALL", "../603C620E32A", "603C620E32A*",
     "６０３Ｃ６２", "4jXC8p1j1DKr8M", "4jXC8p1j1Dz", "4jXC8p1z1DzKr8M" * 2, "NOQUEUE"],
)  # fmt: skip
def test_no_queue_ids(text: str) -> None:
    assert not is_queue_id(text)


@given(st.text(max_size=30))
def test_what_is_taken_for_a_queue_id_can_be_nothing_else(text: str) -> None:
    if is_queue_id(text):
        assert text.isascii() and text.isalnum() and 6 <= len(text) <= 24 and text != "ALL"


def test_addresses_by_their_meaning() -> None:
    assert parse_address("::ffff:192.0.2.1") == parse_address("192.0.2.1") == parse_address("::FFFF:C000:201") is not None
    assert parse_address("2001:db8::1") == parse_address("2001:0DB8:0:0::0001") == parse_address("IPv6:2001:db8::1") is not None
    assert [parse_address(text) for text in ("", "unknown", "192.0.2", "192.0.2.1/32", "-d", "192.0.2.1\n", "1" * 5000)] == [None] * 7


# postqueue -j


def test_an_entry() -> None:
    entry = parse_entry(listed())
    assert entry == QueueEntry("4jXC8p1j1DzKr8M", "deferred", 1795313146, 697, "a@example.net", 2, (("example.org", 2),))


def test_the_null_sender_and_text_that_is_not_utf_8() -> None:
    null, strange = parse_entry(listed(sender="MAILER-DAEMON")), parse_entry(listed(sender="s@x").replace(b"s@x", b"\xff@x"))
    assert null is not None and strange is not None
    assert (null.sender, strange.sender) == ("", "\ufffd@x")


@pytest.mark.parametrize(
    "line",
    [b"", b"Mail queue is empty", b"[]", b"1", b"null", b"{", b"\xff\xfe", b"[" * 100_000, listed(queue_id=...), listed(queue_id="ALL"),
     listed(queue_id=5), listed(queue_id=["603C620E32A"]), listed(sender=...), listed(sender=None), listed(arrival_time="now"),
     listed(arrival_time=True), listed(arrival_time=1.5), listed(arrival_time=-1), listed(arrival_time=10**30), listed(message_size=None),
     listed(recipients=...), listed(recipients=5), listed(recipients=[5]), listed(recipients=[{}]), listed(recipients=[{"address": 5}]),
     listed(queue_name={}), listed()[:-20]],
)  # fmt: skip
def test_lines_that_are_no_entries_are_skipped_and_counted(line: bytes) -> None:
    listing = Listing(text for text in (listed(), line, listed(queue_id="603C620E32A")))
    assert [entry.queue_id for entry in listing] == ["4jXC8p1j1DzKr8M", "603C620E32A"]
    assert listing.skipped == 1


# postcat -eq

TIMES = [b"message_size:             697            5699              50               0             697               0",
         b"message_arrival_time: Sun Nov 22 02:05:46 2026", b"create_time: Sun Nov 22 02:05:46 2026"]  # fmt: skip


def section(queue_id: str, *, login: bytes | None = None, sender: bytes = b"a@example.net", client: bytes = b"", before: Sequence[bytes] = (),
            after: Sequence[bytes] = ()) -> list[bytes]:  # fmt: skip
    place = f"deferred/{queue_id[0]}/{queue_id} ***".encode()
    named = [b"named_attribute: sasl_method=PLAIN", b"named_attribute: sasl_username=" + login] if login is not None else []
    clients = [b"named_attribute: log_client_address=" + client, b"named_attribute: client_address=" + client] if client else []
    end = [b"*** MESSAGE CONTENTS " + place, b"*** HEADER EXTRACTED " + place, b"*** MESSAGE FILE END " + place]
    head = [b"*** ENVELOPE RECORDS " + place, *TIMES, b"named_attribute: log_ident=" + queue_id.encode()]
    return [*head, *named, *before, b"sender: " + sender, *clients, *after, b"recipient: b@example.org", *end]


FORGED = b"named_attribute: sasl_username=victim@x"
A, B, C = "603C620E32A", "4jXC8p1j1DzKr8M", "F33EE20C234"


def test_envelopes() -> None:
    output = [
        *section(A, login=b"info@example.com", client=b"192.0.2.1"),
        *section(B),
        *section(C, login=b"gr\xc3\xbc\xc3\x9fe", client=b"2001:db8::1"),
    ]
    assert parse_envelopes(output, [A, B, C]) == {
        A: Envelope("info@example.com", "192.0.2.1"),
        B: Envelope(None, None),
        C: Envelope("grüße", "2001:db8::1"),
    }
    assert parse_envelopes(section(B), [A, B, C]) == {B: Envelope(None, None)}
    assert parse_envelopes([], [A]) == {}


def test_the_first_client_and_not_the_content_filter() -> None:
    output = section(A, after=[b"named_attribute: log_client_address=192.0.2.1", b"named_attribute: client_address=127.0.0.1"])
    assert parse_envelopes(output, [A]) == {A: Envelope(None, "192.0.2.1")}
    only = section(A, after=[b"named_attribute: client_address=192.0.2.2"])
    assert parse_envelopes(only, [A]) == {A: Envelope(None, "192.0.2.2")}
    assert parse_envelopes(section(A, client=b"unknown"), [A]) == {A: Envelope(None, None)}


def test_a_login_that_is_not_utf_8_is_nobody_s() -> None:
    assert parse_envelopes(section(A, login=b"a\xff@x"), [A]) == {A: Envelope(None, None)}


@pytest.mark.parametrize("place", ["sender", "behind the sender", "recipient", "full name", "a second login"])
def test_text_is_no_login(place: str) -> None:
    for login in (b"info@example.com", None):
        output = {
            "sender": lambda login=login: section(A, login=login, sender=FORGED),
            "behind the sender": lambda login=login: section(A, login=login, sender=b"x\n" + FORGED, after=[FORGED]),
            "recipient": lambda login=login: [*section(A, login=login), b"recipient: " + FORGED, FORGED],
            "full name": lambda login=login: section(A, login=login, before=[b"sender_fullname: x", FORGED, b"sender: x", FORGED]),
            "a second login": lambda login=login: section(A, login=login or b"", before=[FORGED] if login else []),
        }[place]()
        expected = "info@example.com" if login else None
        assert parse_envelopes(output, [A]) == {A: Envelope(expected, None)}


@pytest.mark.parametrize("other", [A, B, C, "ABCDEF123456", "ALL", "x y"])
def test_a_text_that_looks_like_a_message_is_not_believed(other: str) -> None:
    """In a batch it can't be told which beginning is true; alone a message speaks only for itself."""
    lie = [b"sender_fullname: x", b"*** ENVELOPE RECORDS deferred/A/%s ***" % other.encode(), FORGED, b"sender: x",
           b"named_attribute: client_address=192.0.2.1", b"*** MESSAGE FILE END deferred/A/%s ***" % other.encode()]  # fmt: skip
    output = [*section(A), *section(B, before=lie), *section(C)]
    assert parse_envelopes(output, [A, B, C]) is None
    assert parse_envelopes(section(B, before=lie), [B]) == {B: Envelope(None, None)}


def test_a_message_that_nobody_asked_for_is_not_believed() -> None:
    assert parse_envelopes(section(A), [B]) is None
    assert parse_envelopes([*section(B), *section(A)], [A, B]) is None


@given(st.lists(st.sampled_from([FORGED, b"sender: x", b"recipient: y", b"named_attribute: client_address=192.0.2.9",
                                 b"named_attribute: log_client_address=192.0.2.9", b"*** MESSAGE FILE END deferred/6/603C620E32A ***",
                                 b"*** ENVELOPE RECORDS deferred/6/603C620E32A ***", b"*** ENVELOPE RECORDS hold/F/F33EE20C234 ***", b"",
                                 b"sender_fullname: z", b"*** MESSAGE CONTENTS deferred/6/603C620E32A ***", b"x\xffy"]), max_size=12))  # fmt: skip
def test_no_lines_behind_a_full_name_change_what_is_known_of_anybody(lie: list[bytes]) -> None:
    batch = parse_envelopes([*section(A, before=[b"sender_fullname: x", *lie]), *section(C, login=b"info@example.com")], [A, C])
    assert batch in (None, {A: Envelope(None, None), C: Envelope("info@example.com", None)})
    alone = parse_envelopes(section(A, before=[b"sender_fullname: x", *lie]), [A])
    assert alone == {A: Envelope(None, None)}


# with programs that behave badly


def programs(folder: Path, *, queue: Sequence[bytes] = (), postcat: str = "exit 1", postsuper: str = "exit 1") -> PostfixQueue:
    """A queue of shell scripts: what a program does that is not Postfix's own, or that breaks."""
    (folder / "queue").write_bytes(b"".join(line + b"\n" for line in queue))
    paths = {}
    for name, script in {"postqueue": f"cat {folder}/queue", "postcat": postcat, "postsuper": postsuper}.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "$0 $*" >> {folder}/calls\n{script}\n')
        path.chmod(0o755)
        paths[name] = (str(path),)
    return PostfixQueue(PostfixSettings(**paths))


def test_without_postfix(tmp_path: Path) -> None:
    queue = PostfixQueue(PostfixSettings(postqueue=(str(tmp_path / "postqueue"),)))
    with pytest.raises(ProgramError, match=r"there is no program .*postqueue"):
        queue.find(account=CULPRIT)


def test_prefixed_programs_get_our_arguments_behind_theirs(tmp_path: Path) -> None:
    queue = programs(tmp_path, queue=[listed()], postsuper="cat >/dev/null; echo 'postsuper: Placed on hold: 1 message' >&2")
    settings = queue._settings.model_copy(
        update={"postsuper": ("/usr/bin/env", "X=1", *queue._settings.postsuper), "config_directory": "/etc/mx"}
    )
    outcome = PostfixQueue(settings).hold(list(queue.entries()))
    assert (outcome.done, outcome.statement) == (1, ("/usr/bin/env", "X=1", str(tmp_path / "postsuper"), "-c", "/etc/mx", "-h", "-"))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[1:] for call in calls] == [["-j"], ["-c", "/etc/mx", "-j"], ["-c", "/etc/mx", "-h", "-"]]


def test_nothing_to_do_asks_nobody(tmp_path: Path) -> None:
    queue = programs(tmp_path)
    outcome = queue.delete([])
    assert (outcome.asked, outcome.done, outcome.gone, outcome.error) == (0, 0, 0, None)
    assert not (tmp_path / "calls").exists()


def test_an_error_in_the_middle_is_told_with_what_was_done(tmp_path: Path) -> None:
    """The second batch fails."""
    ids = [f"{n:06X}" for n in range(0x100000, 0x100000 + 750)]
    script = (
        "n=$(wc -l); if [ $n = 500 ]; then echo 'postsuper: Deleted: 498 messages' >&2; else echo 'postsuper: fatal: disk' >&2; exit 1; fi"
    )
    queue = programs(tmp_path, queue=[listed(queue_id=one) for one in ids], postsuper=script)
    outcome = queue.delete(list(queue.entries()))
    assert (outcome.asked, outcome.done, outcome.gone) == (750, 498, 2)
    assert outcome.error is not None and outcome.error.kind == "failed"
    assert str(outcome.error) == "postsuper failed with exit code 1: postsuper: fatal: disk"


def test_a_postsuper_that_does_not_count_is_none(tmp_path: Path) -> None:
    queue = programs(tmp_path, queue=[listed()], postsuper="cat >/dev/null")
    outcome = queue.hold(list(queue.entries()))
    assert (outcome.done, outcome.gone) == (0, 0)
    assert "did not say how many messages" in str(outcome.error)


def test_what_is_not_a_queue_id_never_reaches_postsuper(tmp_path: Path) -> None:
    """The fresh listing drops it already."""
    queue = programs(tmp_path, queue=[listed(queue_id="ALL")])
    entry = QueueEntry("ALL", "deferred", 1795313146, 697, "a@example.net", 2, ())
    assert queue.delete([entry])[:5] == ("delete", 1, 0, 0, 1)
    with pytest.raises(ValueError, match="not a queue ID"):
        queue._super("delete", ["cat"], ["ALL"])
    assert "postsuper" not in (tmp_path / "calls").read_text()


def test_a_reused_queue_id_is_left_alone(tmp_path: Path) -> None:
    queue = programs(tmp_path, queue=[listed(queue_id=A, arrival_time=1795313200), listed(queue_id=C, sender="b@example.net")])
    before = [QueueEntry(one, "deferred", 1795313146, 697, "a@example.net", 2, ()) for one in (A, C)]
    outcome = queue.delete(before)
    assert (outcome.asked, outcome.done, outcome.gone) == (2, 0, 2)
    assert "postsuper" not in (tmp_path / "calls").read_text()


def test_a_message_that_moves_while_the_queue_is_listed_is_looked_for_once_more(tmp_path: Path) -> None:
    """showq lists one queue after the other; what goes to a queue that it has done already is not shown."""
    queue = programs(
        tmp_path, queue=[listed(queue_id=A), listed(queue_id=C)], postsuper='n=$(wc -l); echo "x: Placed on hold: $n messages" >&2'
    )
    entries = list(queue.entries())
    postqueue = tmp_path / "postqueue"
    postqueue.write_text(
        f"#!/bin/sh\nif [ -e {tmp_path}/again ]; then exec cat {tmp_path}/queue; fi\ntouch {tmp_path}/again; head -n 1 {tmp_path}/queue\n"
    )
    assert queue.hold(entries)[:5] == ("hold", 2, 2, 0, 0)


@pytest.mark.parametrize(("seconds", "taken"), [(0, True), (3, True), (-3, True), (5, False), (-5, False), (None, False)])
def test_the_join_s_queue_id_counts_only_when_the_times_fit(tmp_path: Path, seconds: int | None, taken: bool) -> None:
    """Short queue IDs come back."""
    lines = "\n".join(line.decode() for line in section(A, login=b"anna@corp.example"))
    (tmp_path / "envelope").write_text(lines + "\n")
    queue = programs(tmp_path, queue=[listed(queue_id=A)], postcat=f"cat {tmp_path}/envelope")
    time = None if seconds is None else (1795313146 + seconds) * 1_000_000
    found = queue.find(account=CULPRIT, known={A: time})
    assert (len(found.matches), found.read) == ((1, 0) if taken else (0, 1))


def test_permission_denied_is_an_error_and_not_an_absent_message(tmp_path: Path) -> None:
    queue = programs(
        tmp_path, queue=[listed()], postcat="echo 'postcat: fatal: open queue file 4jXC8p1j1DzKr8M: Permission denied' >&2; exit 1"
    )
    with pytest.raises(ProgramError, match="Permission denied"):
        queue.find(account=CULPRIT)


def test_a_message_that_breaks_postcat_costs_only_itself(tmp_path: Path) -> None:
    """Asked for three it writes the first and breaks at the second; asked for what is left it goes on."""
    for name, queue_id in (("a", A), ("c", C)):
        (tmp_path / name).write_bytes(b"".join(line + b"\n" for line in section(queue_id, login=CULPRIT.encode())))
    script = f'case "$*" in *{A}*) cat {tmp_path}/a; echo "*** ENVELOPE RECORDS deferred/4/{B} ***"; echo "postcat: fatal: corrupt" >&2; exit 1;;'
    queue = programs(tmp_path, queue=[listed(queue_id=one) for one in (A, B, C)], postcat=f"{script} *) cat {tmp_path}/c;; esac")
    assert sorted(entry.queue_id for entry in queue.find(account=CULPRIT).entries) == [A, C]


def test_find_wants_one_culprit(tmp_path: Path) -> None:
    queue = programs(tmp_path)
    with pytest.raises(ValueError, match="either an account or an address"):
        queue.find()
    with pytest.raises(UserError, match=r'"10\.0\.0" is not an IP address; write it as'):
        queue.find(client_ip="10.0.0")
    with pytest.raises(UserError, match="the account is empty"):
        queue.find(account=" ")


# with a real Postfix


@pytest.fixture(scope="module")
def server() -> Iterator[Queued]:
    with queued_postfix() as started:
        yield started


@pytest.fixture
def postfix(server: Queued) -> Queued:
    server.empty()
    return server


@pytest.fixture
def queue(postfix: Queued) -> PostfixQueue:
    return PostfixQueue(PostfixSettings(config_directory=str(postfix.etc)))


def ids_of(entries: Sequence[QueueEntry]) -> set[str]:
    return {entry.queue_id for entry in entries}


def test_only_the_culprit_s_mail_is_held_released_and_deleted(postfix: Queued, queue: PostfixQueue) -> None:
    recipients = [f"r{n}@{domain}" for n, domain in enumerate(["one.example", "one.example", "two.example"])]
    spam = set(postfix.put(CULPRIT, THIEF, 230, sender="noreply{}@bank.example", recipients=recipients))
    good = set(postfix.put(ANNA, HOME, 120))
    bystanders = set(postfix.put(None, "192.0.2.55", 20)) | set(postfix.put("not-wang@corp.example", THIEF, 5))
    postfix.wait_deferred(375)
    steps: list[tuple[str, int, int]] = []

    found = queue.find(account="Wang@CORP.example", progress=lambda *step: steps.append(step))
    assert ids_of(found.entries) == spam
    assert (found.queued, found.read, found.unread, found.skipped) == (375, 375, 0, 0)
    assert {(entry.nrcpt, entry.domains) for entry in found.entries} == {(3, (("one.example", 2), ("two.example", 1)))}
    assert steps == [("reading", n, 375) for n in (100, 200, 300)]
    arrivals = [entry.arrival_time for entry in found.entries]
    assert arrivals == sorted(arrivals, reverse=True) and abs(arrivals[0] - time.time()) < 60

    held = queue.hold(found.entries)
    assert (held.asked, held.done, held.already, held.gone, held.error) == (230, 230, 0, 0, None)
    assert held.statement == ("postsuper", "-c", str(postfix.etc), "-h", "-")
    places = postfix.by_queue()
    assert {one for one, place in places.items() if place == "hold"} == spam
    assert good | bystanders <= places.keys()

    again = queue.hold(queue.find(account=CULPRIT).entries)
    assert (again.asked, again.done, again.already) == (230, 230, 230)

    some = found.entries[:30]
    released = queue.release(some)
    assert (released.asked, released.done, released.already, released.gone) == (30, 30, 0, 0)
    assert {one for one, place in postfix.by_queue().items() if place == "hold"} == spam - ids_of(some)
    assert queue.release(some).already == 30

    deleted = queue.delete(found.entries)
    assert (deleted.asked, deleted.done, deleted.gone) == (230, 230, 0)
    assert postfix.by_queue().keys() == good | bystanders
    assert queue.delete(found.entries)[:5] == ("delete", 230, 0, 0, 230)


def test_the_next_look_reads_only_what_is_new(postfix: Queued, queue: PostfixQueue) -> None:
    postfix.put(ANNA, HOME, 5)
    assert queue.find(account=CULPRIT).read == 5
    spam = postfix.put(CULPRIT, THIEF, 2)
    found = queue.find(account=CULPRIT)
    assert (found.read, ids_of(found.entries)) == (2, set(spam))
    queue.delete(found.entries)
    assert (queue.find(account=CULPRIT).matches, len(queue._seen)) == ([], 5)


def test_by_address_however_it_is_written(postfix: Queued, queue: PostfixQueue) -> None:
    four, six = postfix.put(CULPRIT, THIEF, 2), postfix.put(CULPRIT, "2001:db8::66", 3)
    postfix.put(ANNA, HOME, 2)
    assert ids_of(queue.find(client_ip=f"::ffff:{THIEF}").entries) == set(four)
    assert ids_of(queue.find(client_ip="2001:0DB8:0::0066").entries) == set(six)
    assert queue.find(client_ip="2001:db8::67").matches == []


def test_the_client_that_a_content_filter_forwards(postfix: Queued, queue: PostfixQueue) -> None:
    (spam,) = postfix.put(None, "127.0.0.1", xforward=THIEF)
    (found,) = queue.find(client_ip=THIEF).matches
    assert (found.entry.queue_id, found.envelope) == (spam, Envelope(None, THIEF))
    assert queue.find(client_ip="127.0.0.1").matches == []


def test_mail_from_the_join_needs_no_login_in_its_envelope(postfix: Queued, queue: PostfixQueue) -> None:
    filtered = postfix.put(None, "127.0.0.1", 3)
    direct = postfix.put(CULPRIT, THIEF, 2)
    others = postfix.put(ANNA, HOME, 4)
    arrivals = {entry.queue_id: entry.arrival_time * 1_000_000 for entry in queue.entries()}
    known = {one: arrivals[one] + 400_000 for one in filtered} | {others[0]: arrivals[others[0]] - 60_000_000, "ABCDEF123456": 5}
    found = queue.find(account=CULPRIT, known=known, foreign={*others[1:]})
    assert ids_of(found.entries) == {*filtered, *direct}
    assert {match.entry.queue_id for match in found.matches if match.envelope is None} == set(filtered)
    assert found.read == 3  # those of the culprit, and the one whose queue ID the join knows from another time


def test_only_so_many_envelopes_are_read_the_newest_first(postfix: Queued, queue: PostfixQueue, poll: Callable[..., object]) -> None:
    old = postfix.put(CULPRIT, THIEF, 3)
    latest = max(entry.arrival_time for entry in queue.entries())
    poll(lambda: time.time() > latest + 1.1)
    new = postfix.put(CULPRIT, THIEF, 4)
    found = queue.find(account=CULPRIT, max_envelopes=4)
    assert (ids_of(found.entries), found.read, found.unread) == (set(new), 4, 3)
    none = queue.find(account=CULPRIT, max_envelopes=0)
    assert (none.matches, none.unread) == ([], 7)
    assert ids_of(queue.find(account=CULPRIT).entries) == {*old, *new}


def test_text_of_the_attacker_s_is_no_login(postfix: Queued, queue: PostfixQueue) -> None:
    lie = "named_attribute: sasl_username=anna@corp.example"
    lies = postfix.put(
        CULPRIT, THIEF, 2, helo=lie.replace(" ", ""), sender=f'"{lie}"@bank.example', recipients=[f'"{lie}"@example.org', f'"sender: {lie}"@example.org'],
        text=f"Subject: {lie}\r\n{lie}\r\n\r\n{lie}\r\n*** ENVELOPE RECORDS deferred/6/603C620E32A ***\r\n{lie}\r\n",
    )  # fmt: skip
    anonymous = postfix.put(None, THIEF, 1, helo=lie.replace(" ", ""), sender=f'"{lie}"@bank.example', text=f"{lie}\r\n\r\n{lie}\r\n")
    newline = postfix.put(f"mallory@corp.example\n{lie}", THIEF, 1)
    assert queue.find(account=ANNA).matches == []
    assert ids_of(queue.find(account=CULPRIT).entries) == set(lies)
    assert ids_of(queue.find(client_ip=THIEF).entries) == {*lies, *anonymous, *newline}


def submit(postfix: Queued, *options: str) -> None:
    subprocess.run(
        ["sendmail", "-C", str(postfix.etc / "main.cf"), *options, "x@example.org"],
        input=b"Subject: x\n\nx\n", check=True, timeout=30, cwd="/",
    )  # fmt: skip


def test_a_full_name_with_newlines_forges_nothing(postfix: Queued, queue: PostfixQueue, poll: Callable[..., object]) -> None:
    """sendmail -F lets them pass, so a web form may write lines into postcat's output. They even begin anna's message anew."""
    anna = postfix.put(ANNA, HOME, 40)
    login = f"named_attribute: sasl_username={CULPRIT}"
    beginnings = [f"\n*** ENVELOPE RECORDS deferred/{one[0]}/{one} ***\n{login}\nsender: x" for one in anna]
    submit(postfix, "-f", "web@example.net", "-F", f"x\n{login}\nsender: y\nnamed_attribute: client_address={THIEF}")
    for n in range(0, 40, 10):
        submit(postfix, "-f", "web2@example.net", "-F", "x" + "".join(beginnings[n : n + 10]))
    submit(postfix, "-f", "web3@example.net", "-F", "x\n*** ENVELOPE RECORDS\n*** MESSAGE FILE END x ***")
    poll(lambda: len(postfix.queue()) == 46)
    raw = b"".join(
        subprocess.run(["postcat", "-c", postfix.etc, "-eq", one], capture_output=True, check=True).stdout for one in postfix.by_queue()
    )
    assert raw.count(f"\n{login}\n".encode()) == 41, "this Postfix lets no newline pass: the test shows nothing"
    assert queue.find(account=CULPRIT).matches == []
    assert queue.find(client_ip=THIEF).matches == []
    assert ids_of(queue.find(account=ANNA).entries) == set(anna)


@pytest.mark.parametrize("account", HOSTILE_ACCOUNTS, ids=lambda text: repr(text[:20]))
def test_hostile_accounts_are_texts(postfix: Queued, queue: PostfixQueue, account: str) -> None:
    postfix.put(ANNA, HOME, 3)
    postfix.put(CULPRIT, THIEF, 3)
    assert queue.find(account=account).matches == []
    if "\n" in account or "ü" in account or len(account) > 1000:
        return  # Postfix would write another name, which the test of text shows
    own = postfix.put(account, THIEF, 2)
    found = queue.find(account=account)
    assert ids_of(found.entries) == set(own)
    assert queue.delete(found.entries).done == 2
    assert len(postfix.queue()) == 6


def test_mail_that_goes_and_comes_between_looking_and_acting(postfix: Queued, queue: PostfixQueue) -> None:
    spam = postfix.put(CULPRIT, THIEF, 250)
    found = queue.find(account=CULPRIT)
    postfix.hold(spam[100:110])
    subprocess.run(postfix.command("postsuper", "-d", "-"), input="\n".join(spam[::2]).encode(), check=True, capture_output=True)
    later = postfix.put(CULPRIT, THIEF, 2)
    held = queue.hold(found.entries)
    assert (held.asked, held.done, held.already, held.gone, held.error) == (250, 125, 5, 125, None)
    places = postfix.by_queue()
    assert {one for one, place in places.items() if place == "hold"} == set(spam[1::2])
    assert places.keys() == {*spam[1::2], *later}


def test_envelopes_of_mail_that_is_gone_are_absent_and_cost_no_second(postfix: Queued, queue: PostfixQueue) -> None:
    ids = postfix.put(CULPRIT, THIEF, 20)
    subprocess.run(postfix.command("postsuper", "-d", "-"), input="\n".join(ids[::2]).encode(), check=True, capture_output=True)
    began = time.monotonic()
    read = dict(queue.envelopes([*ids, "ABCDEF123456", "ALL", "-d", "../x"]))
    assert read == {one: Envelope(CULPRIT, THIEF) for one in ids[1::2]}
    assert time.monotonic() - began < 10, "postcat sleeps a second after each of eleven errors, which is not to be waited for"


def test_a_message_that_is_delivered_between_the_last_look_and_postsuper(postfix: Queued, queue: PostfixQueue, tmp_path: Path) -> None:
    """postsuper itself finds it gone; the count is its own."""
    ids = postfix.put(CULPRIT, THIEF, 4)
    config = str(postfix.etc)
    script = tmp_path / "late"
    script.write_text(f'#!/bin/sh\npostsuper -c {config} -d {ids[0]} 2>/dev/null\nexec postsuper "$@"\n')
    script.chmod(0o755)
    late = PostfixQueue(PostfixSettings(config_directory=config, postsuper=(str(script),)))
    outcome = late.hold(queue.find(account=CULPRIT).entries)
    assert (outcome.asked, outcome.done, outcome.gone, outcome.error) == (4, 3, 1, None)


def test_long_queue_ids(postfix: Queued, queue: PostfixQueue) -> None:
    postfix.change(enable_long_queue_ids="yes")
    try:
        ids = postfix.put(CULPRIT, THIEF, 3)
        assert all("z" in one for one in ids)
        found = queue.find(account=CULPRIT)
        assert ids_of(found.entries) == set(ids)
        assert queue.hold(found.entries).done == 3
        assert queue.delete(found.entries).done == 3
    finally:
        postfix.change(enable_long_queue_ids="no")


def test_without_the_right_to_it(postfix: Queued) -> None:
    """As another user: postsuper says so, and that is the error."""
    postfix.put(CULPRIT, THIEF, 1)
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    settings = PostfixSettings(config_directory=str(postfix.etc), postsuper=(*prefix, "postsuper"), postcat=(*prefix, "postcat"))
    weak, strong = PostfixQueue(settings), PostfixQueue(PostfixSettings(config_directory=str(postfix.etc)))
    with pytest.raises(ProgramError, match="Permission denied"):
        weak.find(account=CULPRIT)
    outcome = weak.hold(strong.find(account=CULPRIT).entries)
    assert (outcome.done, outcome.gone) == (0, 0)
    assert "use of this command is reserved for the superuser" in str(outcome.error)


def test_a_wrong_configuration_directory() -> None:
    if not os.path.exists("/usr/sbin/postqueue"):
        pytest.skip("Postfix is not installed")
    with pytest.raises(ProgramError, match=r"postqueue failed with exit code \d+: .*/nonexistent/main.cf"):
        PostfixQueue(PostfixSettings(config_directory="/nonexistent")).find(account=CULPRIT)


def test_a_thousand_messages(postfix: Queued, queue: PostfixQueue) -> None:
    """Times are printed, not asserted: pytest -s shows them."""
    clock = time.monotonic()
    recipients = [f"r{n}@example.org" for n in range(5)]
    with ThreadPoolExecutor(8) as pool:
        parts = [pool.submit(postfix.put, CULPRIT, THIEF, 125, recipients=recipients) for _ in range(4)]
        parts += [pool.submit(postfix.put, ANNA, HOME, 125) for _ in range(4)]
        spam = [one for part in parts[:4] for one in part.result()]
    # One that goes from a queue to another while it is listed may be there twice, or not.
    postfix.wait_deferred(1000)
    marks = [("put", clock)]

    def mark(what: str) -> None:
        marks.append((what, time.monotonic()))

    mark("list")
    assert sum(1 for _ in queue.entries()) == 1000
    mark("find, reading 1,000 envelopes")
    found = queue.find(account=CULPRIT)
    mark("find again")
    again = queue.find(account=CULPRIT)
    mark("hold 500")
    held = queue.hold(found.entries)
    mark("hold again")
    queue.hold(found.entries)
    mark("delete 500")
    deleted = queue.delete(found.entries)
    mark("")
    assert ids_of(found.entries) == set(spam) == ids_of(again.entries)
    assert (found.read, again.read, held.done, deleted.done) == (1000, 0, 500, 500)
    for (what, begin), (_, end) in itertools.pairwise(marks):
        print(f"{what}: {end - begin:.3f} s")
