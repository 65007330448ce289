"""The journal: entries are only added, and what was changed afterwards shows."""

import json
import random
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import UserError
from sentinel.respond import chain
from sentinel.respond.journal import Journal
from sentinel.state import State

NOW = 1_700_000_000.0


def filled(state: State, count: int = 5) -> list[chain.Head]:
    return [chain.append(state, {"event": "test", "number": n, "why": "é\udc80\0", "nothing": None}, NOW + n) for n in range(count)]


def tamper(state: State, sql: str, *parameters: object) -> None:
    """What somebody with the file and another program can do."""
    with sqlite3.connect(state.path) as db:
        db.execute("DROP TRIGGER journal_is_not_changed")
        db.execute("DROP TRIGGER journal_is_not_shortened")
        db.execute("DROP TRIGGER journal_grows_at_its_end")
        db.execute(sql, parameters)


def test_entries_follow_each_other(state: State) -> None:
    heads = filled(state)
    assert [head.seq for head in heads] == [1, 2, 3, 4, 5]
    assert chain.verify(state) == (heads[-1], [])
    first, *_, last = chain.export(state)
    assert first["prev"] == chain.GENESIS
    assert last["hash"] == heads[-1].hash
    assert "nothing" not in first
    assert first["at"] == "2023-11-14T22:13:20.000Z"


def test_an_empty_journal_holds(state: State) -> None:
    assert chain.verify(state) == ((0, chain.GENESIS), [])


@pytest.mark.parametrize("sql", ["UPDATE journal SET entry = '{}'", "DELETE FROM journal", "REPLACE INTO journal VALUES (1, '{}', '')"])
def test_the_database_refuses_to_change_it(state: State, sql: str) -> None:
    filled(state)
    with pytest.raises(sqlite3.IntegrityError), state.transaction() as db:
        db.execute(sql)
    assert chain.verify(state).problems == []


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("UPDATE journal SET entry = replace(entry, '\"number\":2', '\"number\":7') WHERE seq = 3", "entry 3 has been changed"),
        ("UPDATE journal SET entry = 'no JSON' WHERE seq = 3", "entry 3 has been changed"),
        ("UPDATE journal SET hash = replace(hash, 'a', 'b') WHERE seq = 2", "entry 2 has been changed"),
        ("DELETE FROM journal WHERE seq = 2", "entry 2 is missing"),
        ("DELETE FROM journal WHERE seq BETWEEN 2 AND 3", "entries 2 to 3 are missing"),
        ("DELETE FROM journal WHERE seq > 3", "its end has been cut off"),
        ("INSERT INTO journal (seq, entry, hash) VALUES (6, '{}', 'x')", "entry 6 has been changed"),
    ],
)
def test_what_was_done_to_it_shows(state: State, sql: str, problem: str) -> None:
    filled(state)
    tamper(state, sql)
    assert problem in " ".join(chain.verify(state).problems)


def test_what_was_cut_off_still_shows_when_more_has_been_written(state: State) -> None:
    filled(state)
    tamper(state, "DELETE FROM journal WHERE seq > 3")
    filled(state, 1)
    assert chain.verify(state).problems == ["entries 4 to 5 are missing"]


def test_a_chain_made_anew_differs_from_what_was_noted_elsewhere(state: State, tmp_path: Path) -> None:
    noted = filled(state)[3]
    with State(tmp_path / "forged") as forged:
        filled(forged, 3)
        for n in (9, 4):
            chain.append(forged, {"event": "test", "number": n}, NOW + n)
        assert chain.verify(forged).problems == []
        assert chain.verify(forged, [noted]).problems == ["entry 4 is not the one that was noted elsewhere"]
        assert chain.verify(forged, [chain.Head(9, noted.hash)]).problems == ["entry 9, which was noted elsewhere, is not there"]
    assert chain.verify(state, [noted]).problems == []


def test_an_export_can_be_checked_by_itself(state: State) -> None:
    heads = filled(state)
    lines = [json.dumps(entry) for entry in chain.export(state)]
    assert chain.verify_export(lines, "f") == (heads[-1], [])
    assert chain.verify_export(lines[:2], "f", heads).problems[0] == "entry 3, which was noted elsewhere, is not there"
    lines[1] = lines[1].replace('"number": 1', '"number": 8')
    assert chain.verify_export(lines, "f").problems == ["entry 2 has been changed, or what came before it"]
    with pytest.raises(UserError, match="f:1: is no line of a journal export"):
        chain.verify_export(["nonsense"], "f")


def test_actions_that_say_something_else_than_the_journal(state: State) -> None:
    journal = Journal(state)
    action = journal.by_hand("lock", "a@x", "", NOW)
    assert action is not None
    journal.finish(action, "failed", NOW + 1, error="no")
    assert chain.verify(state).problems == []
    with state.transaction() as db:
        db.execute("UPDATE actions SET state = 'done'")
    assert chain.verify(state).problems == [f"action {action.id} is done, but the journal's last word about it is failed"]
    with state.transaction() as db:
        db.execute("UPDATE actions SET id = 'other', state = 'failed'")
    assert chain.verify(state).problems == [
        f"action {action.id} is in the journal, but not among the actions",
        "action other is not in the journal",
    ]


def test_two_processes_write_one_chain(state: State) -> None:
    with State(state.directory) as other:
        for n in range(20):
            chain.append(other if n % 2 else state, {"event": "test"}, NOW)
    assert chain.verify(state).head.seq == 20
    assert chain.verify(state).problems == []


@pytest.mark.parametrize("text", ["", "1", "1:", "x:" + "0" * 64, "1:" + "0" * 63, "1:" + "G" * 64, "-1:" + "0" * 64])
def test_a_witness_must_be_a_number_and_a_hash(text: str) -> None:
    with pytest.raises(UserError, match="NUMBER:HASH"):
        chain.parse_head(text)


def test_a_witness_is_read_as_it_is_shown(state: State) -> None:
    (head,) = filled(state, 1)
    assert chain.parse_head(str(head)) == head


@given(st.integers(0, 2**32))
def test_any_change_of_an_export_shows(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    with State(tmp_path_factory.mktemp("chain")) as state:
        filled(state, 4)
        entries = list(chain.export(state))
    head = chain.Head(4, entries[-1]["hash"])
    match chance.randrange(4):
        case 0:
            entries[chance.randrange(4)]["number"] = -1
        case 1:
            del entries[chance.randrange(4)]
        case 2:
            entries.insert(chance.randrange(4), dict(chance.choice(entries)))
        case 3:
            one, other = chance.sample(range(4), 2)
            entries[one], entries[other] = entries[other], entries[one]
    assert chain.verify_export(map(json.dumps, entries), "f", [head]).problems
