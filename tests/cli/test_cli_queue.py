"""``sentinel queue``, on a real Postfix."""

import datetime
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Done, Run, environment
from queued import Queued, queued_postfix

from sentinel.detect.engine import Engine
from sentinel.respond import chain
from sentinel.state import State

CULPRIT, THIEF = "wang@corp.example", "203.0.113.66"
ANNA, HOME = "anna@corp.example", "198.51.100.7"


@pytest.fixture(scope="module")
def server() -> Iterator[Queued]:
    with queued_postfix() as started:
        yield started


@pytest.fixture
def postfix(server: Queued) -> Queued:
    """Seven messages of the culprit's, four of anna's."""
    server.empty()
    server.put(CULPRIT, THIEF, 7, sender="noreply{}@bank.example", recipients=["a@one.example", "b@one.example", "c@two.example"])
    server.put(ANNA, HOME, 4)
    server.wait_deferred(11)
    return server


@pytest.fixture
def queue(postfix: Queued, sentinel: Run) -> Run:
    return lambda *arguments: sentinel("queue", *arguments, "--postfix-config", postfix.etc)


def held(postfix: Queued) -> int:
    return list(postfix.by_queue().values()).count("hold")


def line(done: Done) -> dict[str, Any]:
    (only,) = done.out.splitlines()
    value: dict[str, Any] = json.loads(only)
    return value


NO_STATE = "there is no state of a daemon, so only envelopes were asked: mail that came back from a content filter is not found"


def test_list_numbers_first(queue: Run) -> None:
    done = queue("list", "--account", CULPRIT)
    assert (done.code, done.sentences) == (0, [NO_STATE])
    head, queues, times, senders, domains, *messages = done.out.splitlines()
    assert re.fullmatch(r"wang@corp\.example: 7 of 11 messages in the queue, 21 recipients, [\d,]+ bytes", head)
    assert queues == "  queues             deferred 7"
    assert re.fullmatch(r"  oldest, newest     (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ), (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)", times)
    assert senders == "  senders            " + ", ".join(f"noreply{n}@bank.example 1" for n in range(5))
    assert domains == "  recipient domains  one.example 14, two.example 7"
    assert len(messages) == 7
    assert all(re.fullmatch(r"\S+Z  [0-9A-F]+ +deferred +\d+ bytes +3 recipients  noreply\d@bank\.example", each) for each in messages)


def test_list_jsonl_is_the_messages_alone(queue: Run, postfix: Queued) -> None:
    done = queue("list", "--client-ip", f"::ffff:{THIEF}", "--format", "jsonl")
    messages = [json.loads(each) for each in done.out.splitlines()]
    assert {each["queue_id"] for each in messages} == {each["queue_id"] for each in postfix.queue() if "bank" in each["sender"]}
    first = messages[0]
    assert (first["queue_name"], first["nrcpt"], first["recipient_domains"]) == ("deferred", 3, {"one.example": 2, "two.example": 1})
    assert (first["found_by"], first["sasl_username"], first["client_ip"]) == ("envelope", CULPRIT, THIEF)
    assert f"{THIEF}: 7 of 11 messages" in done.err


def test_hold_then_release(queue: Run, postfix: Queued) -> None:
    done = queue("hold", "--account", CULPRIT)
    assert (done.code, done.out.splitlines()[-1]) == (0, "7 messages put on hold")
    assert held(postfix) == 7
    assert queue("hold", "--account", CULPRIT).out.splitlines()[-1] == "7 messages put on hold (7 of them on hold already)"
    assert "  queues             hold 7" in queue("list", "--account", CULPRIT).out
    released = line(queue("release", "--account", CULPRIT, "--format", "jsonl"))
    assert [released[name] for name in ("action", "sasl_username", "messages", "recipients", "asked", "done", "already", "gone")] == [
        "release", CULPRIT, 7, 21, 7, 7, 0, 0,
    ]  # fmt: skip
    assert released["statement"] == ["postsuper", "-c", str(postfix.etc), "-H", "-"]
    assert held(postfix) == 0


@pytest.mark.parametrize("command", ["hold", "release", "delete"])
def test_dry_run_does_nothing(queue: Run, postfix: Queued, command: str) -> None:
    before = postfix.by_queue()
    done = queue(command, "--account", CULPRIT, "--dry-run")
    assert done.code == 0
    word = {"hold": "put on hold", "release": "released", "delete": "deleted"}[command]
    assert done.out.splitlines()[-1] == f"dry run: 7 messages would be {word}; nothing was done"
    shown = line(queue(command, "--account", CULPRIT, "--dry-run", "--format", "jsonl"))
    assert (shown["dry_run"], shown["messages"], "done" in shown) == (True, 7, False)
    assert postfix.by_queue() == before


def test_delete_up_to_the_number_that_was_allowed(queue: Run, postfix: Queued) -> None:
    done = queue("delete", "--account", CULPRIT, "--max", "7")
    assert (done.code, done.out.splitlines()[-1]) == (0, "7 messages deleted")
    assert {each["sender"] for each in postfix.queue()} == {"someone@example.net"}
    assert len(postfix.queue()) == 4


@pytest.mark.parametrize("command", ["hold", "release", "delete"])
@pytest.mark.parametrize("maximum", ["6", "0"])
def test_refusal_to_do_more_than_asked(queue: Run, postfix: Queued, command: str, maximum: str) -> None:
    before = postfix.by_queue()
    done = queue(command, "--account", CULPRIT, "--max", maximum)
    assert (done.code, done.out) == (2, "")
    assert done.sentences[-1] == f"refusal to {command} more than asked: 7 messages of {CULPRIT} match, and --max is {maximum}"
    assert postfix.by_queue() == before


def test_delete_without_a_terminal_needs_a_number(queue: Run, postfix: Queued) -> None:
    done = queue("delete", "--account", CULPRIT)
    assert done.code == 2
    assert done.sentences[-1] == "delete can't be undone, and there is no terminal to ask at: 7 messages match; allow so many with --max N"
    assert len(postfix.queue()) == 11


def test_nobody_s_mail(queue: Run, postfix: Queued) -> None:
    for command in ("list", "hold", "release", "delete"):
        done = queue(command, "--account", "nobody@corp.example")
        assert (done.code, done.out) == (0, "nobody@corp.example: no message among 11 in the queue\n")
    assert held(postfix) == 0


@pytest.mark.parametrize(
    "account", ["-d ALL", "ALL", "*", "../../x", f"{CULPRIT}\nALL", "x" * 10_000, "gr\u00fc\u00dfe@x", "\x1b[2J", "\u202e", "\udcff"]
)
def test_hostile_accounts(queue: Run, postfix: Queued, account: str) -> None:
    before = postfix.by_queue()
    for command in ("list", "hold", "release", "delete"):
        done = queue(command, f"--account={account}", *(("--max", "100") if command == "delete" else ()))
        assert done.code == 0
        assert re.fullmatch(r"[^\n]*: no message among 11 in the queue\n", done.out)
        assert done.out[:-1].isprintable()
        assert len(done.out) < 300
    assert postfix.by_queue() == before


def test_text_of_the_attacker_s_is_shown_and_not_obeyed(sentinel: Run, tmp_path: Path) -> None:
    """Postfix makes most of it harmless itself; a later one may not."""
    evil = "\x1b[2J\u202e\n\u009b@x\u2028"
    message = {
        "queue_name": evil,
        "queue_id": "603C620E32A",
        "arrival_time": 1795313146,
        "message_size": 1,
        "sender": evil,
        "recipients": [{"address": evil}],
    }
    place = "deferred/6/603C620E32A ***"
    envelope = f"*** ENVELOPE RECORDS {place}\nnamed_attribute: sasl_username={CULPRIT}\nsender: {evil}\n*** MESSAGE FILE END {place}\n"
    lines = ["log: x", f"state: {tmp_path}/state", "postfix:"]
    for name, output in (("postqueue", json.dumps(message) + "\n"), ("postcat", envelope)):
        (tmp_path / f"{name}.out").write_text(output, encoding="utf-8")
        (tmp_path / name).write_text(f"#!/bin/sh\ncat {tmp_path}/{name}.out\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
        lines.append(f"  {name}: {tmp_path}/{name}")
    (tmp_path / "sentinel.yaml").write_text("\n".join(lines), encoding="utf-8")
    for command in (("list",), ("hold", "--dry-run")):
        for form in ("table", "jsonl"):
            done = sentinel("queue", *command, "--account", CULPRIT, "--config", tmp_path / "sentinel.yaml", "--format", form)
            assert (done.code, "603C620E32A" in done.out or "dry" in done.out) == (0, True)
            assert all(each.isprintable() for each in (done.out + done.err).split("\n"))


def test_unread_messages_are_told_and_are_exit_1(queue: Run, postfix: Queued) -> None:
    done = queue("hold", "--client-ip", HOME, "--max-envelopes", "0")
    assert done.code == 1
    assert done.sentences[-1].startswith("11 older messages were not looked at, they may be the culprit's too; --max-envelopes")
    assert held(postfix) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--client-ip", "10.0.0"), ("--client-ip", '"10.0.0" is not an IP address', "192.0.2.1")),
        (("--client-ip", "10.0.0.0/8"), ("is not an IP address",)),
        (("--client-ip", "x\x1b" * 5000), ("is not an IP address",)),
        (("--account", " "), ("--account", "is empty")),
        ((), ("--account", "--client-ip", "required")),
        (("--account", "a", "--client-ip", "10.0.0.1"), ("not allowed with",)),
        (("--account", "a", "--max-envelopes", "-1"), ("a number of messages",)),
        (("--account", "a", "--config", "c", "--state", "s"), ("c: ",)),
        (("--account", "a", "--state", "/nonexistent"), ("no sentinel state in /nonexistent",)),
        (("--account", "a", "--postfix-config", ""), ("--postfix-config",)),
    ],
)
def test_bad_arguments_are_a_sentence(sentinel: Run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    for command in ("list", "delete"):
        sentinel("queue", command, *arguments).refused(*words)


def test_programs_that_are_not_there_or_not_allowed(sentinel: Run, tmp_path: Path) -> None:
    config = tmp_path / "sentinel.yaml"
    config.write_text(f"log: x\nstate: {tmp_path}/state\npostfix:\n  postqueue: {tmp_path}/postqueue\n", encoding="utf-8")
    sentinel("queue", "list", "--account", "a", "--config", config).refused(f"there is no program {tmp_path}/postqueue here")
    sentinel("queue", "list", "--account", "a", "--config", config, "--state", tmp_path).refused("--state", "--config")
    config.write_text("log: x\npostfix:\n  postsuper: sudo -n postsuper\n", encoding="utf-8")
    sentinel("queue", "list", "--account", "a", "--config", config).refused("postfix.postsuper", "[sudo, -n, postsuper]")


# what the daemon knows, and the journal


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state of a daemon that has read a log to here."""
    with State(tmp_path / "state") as opened:
        opened.save({}, Engine().snapshot(), [])
    return tmp_path / "state"


def test_mail_that_came_back_from_a_content_filter_is_found_by_the_join(queue: Run, postfix: Queued, tmp_path: Path) -> None:
    """No login is in their envelopes; the log tells whose they are. An ID that the log gives to another message is not taken."""
    filtered = postfix.put(None, "127.0.0.1", 2)
    arrivals = {each["queue_id"]: each["arrival_time"] for each in postfix.queue()}
    other = next(one for one in arrivals if one not in filtered)
    lines = []
    for number, queue_id in enumerate([*filtered, other]):
        then = datetime.datetime.fromtimestamp(arrivals[queue_id] - (3600 if queue_id == other else 0), datetime.UTC)
        head = f"{then:%Y-%m-%dT%H:%M:%S.000000+00:00} mx postfix"
        login = f"client=unknown[{THIEF}], sasl_method=PLAIN, sasl_username={CULPRIT.title()}"
        lines.append(f"{head}/submission/smtpd[1]: 4Z{number}0000AAA: {login}".replace("4Z", "4A"))
        lines.append(
            f"{head}/smtpd[2]: {queue_id}: client=localhost[127.0.0.1], orig_queue_id=4A{number}0000AAA, orig_client=unknown[{THIEF}]"
        )
    engine = Engine()
    engine.feed("".join(f"{line}\n" for line in lines).encode())
    with State(tmp_path / "state") as opened:
        opened.save({}, engine.snapshot(), [])
    done = queue("list", "--account", CULPRIT, "--state", tmp_path / "state", "--format", "jsonl")
    found = [json.loads(each) for each in done.out.splitlines()]
    assert {each["queue_id"] for each in found if each["found_by"] == "join"} == set(filtered)
    assert len(found) == 9
    assert "only envelopes" not in done.err
    config = tmp_path / "sentinel.yaml"
    config.write_text(f"log: x\nstate: {tmp_path / 'state'}\n", encoding="utf-8")
    assert line(queue("hold", "--client-ip", f"::ffff:{THIEF}", "--config", config, "--format", "jsonl"))["by_join"] == 2
    assert held(postfix) == 9


def test_a_state_without_a_checkpoint_or_with_a_damaged_one(queue: Run, state: Path, tmp_path: Path) -> None:
    with State(tmp_path / "new"):
        pass
    done = queue("list", "--account", CULPRIT, "--state", tmp_path / "new")
    assert (done.code, len(done.sentences)) == (0, 1)
    assert done.sentences[0].startswith("the daemon has not saved its state yet, so only envelopes were asked")
    with State(state) as opened:
        opened.save({}, b"nonsense", [])
    done = queue("list", "--account", CULPRIT, "--state", state)
    assert done.code == 0
    assert done.sentences[0].startswith("the daemon's last checkpoint can't be read (not a snapshot of this version of sentinel), so only")


def journalled(state: Path) -> list[dict[str, Any]]:
    with State(state, create=False) as opened:
        return [entry for entry in chain.export(opened) if entry["event"].startswith("queue-")]


def test_what_was_done_by_hand_goes_to_the_journal_once(queue: Run, postfix: Queued, state: Path) -> None:
    where = ("--account", CULPRIT, "--state", state)
    for arguments in (("list",), ("hold", "--dry-run"), ("delete", "--max", "1"), ("hold", "--why", "spam wave")):
        queue(*arguments, *where)
    queue("hold", "--account", "nobody@corp.example", "--state", state)
    (entry,) = journalled(state)
    assert (entry["event"], entry["account"], entry["why"]) == ("queue-hold", CULPRIT, "spam wave")
    assert entry["who"].startswith("hand:")
    assert (entry["rows"], entry["result"]) == (7, "done")
    assert entry["numbers"].items() >= {"asked": 7, "done": 7, "already": 0, "gone": 0, "messages": 7}.items()
    assert entry["statement"] == f"postsuper -c {postfix.etc} -h -"


def test_a_postsuper_that_fails_is_exit_1_and_in_the_journal(sentinel: Run, postfix: Queued, state: Path, tmp_path: Path) -> None:
    config = tmp_path / "sentinel.yaml"
    config.write_text(
        f"log: x\nstate: {state}\npostfix:\n  config_directory: {postfix.etc}\n"
        "  postsuper: [setpriv, --reuid=65534, --regid=65534, --clear-groups, postsuper]\n",
        encoding="utf-8",
    )
    done = sentinel("queue", "delete", "--account", CULPRIT, "--config", config, "--max", "7")
    assert (done.code, done.out.splitlines()[-1]) == (1, "0 messages deleted")
    (sentence,) = done.sentences
    assert "use of this command is reserved for the superuser; 7 messages may not be deleted" in sentence
    (entry,) = journalled(state)
    assert entry["result"] == "failed"
    assert "superuser" in entry["error"]
    assert len(postfix.queue()) == 11


# at a terminal


def at_a_terminal(postfix: Queued, *arguments: str, answer: str | None) -> tuple[int, str]:
    """The command as a process at a pseudo-terminal; ``answer`` is typed when it asks."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "sentinel", "queue", *arguments, "--postfix-config", str(postfix.etc)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment(), start_new_session=True)
    os.close(slave)
    text, until = b"", time.monotonic() + 60
    try:
        while time.monotonic() < until:
            if not select.select([master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(master, 1 << 16)
            except OSError:
                break  # the other side is closed
            text += piece
            if answer is not None and text.rstrip().endswith(b"to do it:"):
                os.write(master, answer.encode() + b"\n")
                answer = None
        return process.wait(30), text.decode()
    finally:
        process.kill()
        os.close(master)


@pytest.mark.parametrize("answer", ["6", "", "y", "-1", "7 8", "\x04"])
def test_delete_asks_for_the_number_at_a_terminal(postfix: Queued, answer: str) -> None:
    code, text = at_a_terminal(postfix, "delete", "--account", CULPRIT, answer=answer)
    assert (code, len(postfix.queue())) == (2, 11)
    assert "wang@corp.example: 7 of 11 messages" in text.partition("Delete 7 messages for good?")[0]
    assert "nothing was deleted: " in text


def test_delete_with_the_right_number_at_a_terminal(postfix: Queued) -> None:
    code, text = at_a_terminal(postfix, "delete", "--account", CULPRIT, answer="7")
    assert (code, len(postfix.queue())) == (0, 4)
    assert text.rstrip().endswith("7 messages deleted")


def test_max_at_a_terminal_refuses_without_asking(postfix: Queued) -> None:
    code, text = at_a_terminal(postfix, "delete", "--account", CULPRIT, "--max", "6", answer="7")
    assert (code, len(postfix.queue())) == (2, 11)
    assert "refusal to delete more than asked" in text
    assert "Delete 7" not in text


def test_list_at_a_terminal_is_capped_and_shows_how_far_it_is(postfix: Queued) -> None:
    postfix.put(CULPRIT, THIEF, 193)
    code, text = at_a_terminal(postfix, "list", "--account", CULPRIT, answer=None)
    assert code == 0
    assert text.count(" recipients  ") == 40
    assert "… and 160 older ones; --format jsonl shows all" in text
    bare = subprocess.run(
        [sys.executable, "-m", "sentinel", "queue", "list", "--account", CULPRIT, "--postfix-config", str(postfix.etc)],
        capture_output=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert bare.stdout.count(b" recipients  ") == 200
    assert b"\r" not in bare.stdout + bare.stderr
