"""The state database: whole commits, one holder, readable refusals."""

import json
import multiprocessing
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.errors import UserError
from sentinel.respond.journal import Journal
from sentinel.state import SCHEMA_VERSION, State, account_key

DAY = 86_400.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / "state") as opened:
        yield opened


def detection(id_: str, time: str = "2012-10-24T06:18:07Z", account: str | None = "info@example.com") -> dict[str, Any]:
    subject = {"sasl_username": account} if account else {"client_ip": "68.167.29.196"}
    return {
        "id": id_,
        "rule": "burst",
        "time": time,
        "score": 5.0,
        "subject": subject,
        "evidence": [{"line": "\udcff…"}],
    }


def ids(detections: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in detections]


def test_nothing_before_the_first_checkpoint(state: State) -> None:
    assert state.load() is None
    assert state.recent_detections(10) == []


def test_checkpoint_comes_back_after_reopening(tmp_path: Path) -> None:
    positions = {"/var/log/mail.log": {"file_id": "1:2", "offset": 1 << 40, "head": "ab"}}
    with State(tmp_path) as state:
        state.save({}, b"first", [])
        assert state.save(positions, b"\0\xffsnapshot", [detection("a"), detection("b")]) == ["a", "b"]
    with State(tmp_path) as state:
        checkpoint = state.load()
        assert checkpoint is not None
        assert (checkpoint.positions, checkpoint.snapshot) == (positions, b"\0\xffsnapshot")
        assert checkpoint.saved_at > 1.6e9
        assert state.recent_detections(10) == [detection("a"), detection("b")]


def test_detections_are_stored_once(state: State) -> None:
    assert state.add_detections([detection("a"), detection("b"), detection("a")]) == ["a", "b"]
    assert state.save({}, b"", [detection("b"), detection("c")]) == ["c"]
    assert ids(state.recent_detections(10)) == ["a", "b", "c"]


def test_newest_last_by_event_time(state: State) -> None:
    state.add_detections([detection(f"d{hour}", f"2012-10-24T0{hour}:00:00.5Z") for hour in (3, 1, 2)])
    assert ids(state.recent_detections(2)) == ["d2", "d3"]
    assert state.recent_detections(0) == []
    since = 1351047600500000  # 2012-10-24T03:00:00.5Z
    assert ids(state.detections_for("INFO@example.com", since)) == ["d3"]
    assert ids(state.detections_for("info@example.com", since + 1)) == []


def test_save_is_all_or_nothing(state: State) -> None:
    state.save({"a": {"offset": 1}}, b"1", [detection("a")])
    with pytest.raises(KeyError):
        state.save({"a": {"offset": 2}}, b"2", [detection("b"), {"id": "broken"}])
    checkpoint = state.load()
    assert checkpoint is not None
    assert (checkpoint.positions, checkpoint.snapshot) == ({"a": {"offset": 1}}, b"1")
    assert ids(state.recent_detections(10)) == ["a"]


def test_killed_while_saving_keeps_the_last_whole_checkpoint(tmp_path: Path) -> None:
    child = (
        "import sys, json\nfrom sentinel.state import State\nstate = State(sys.argv[1])\n"
        "for n in range(10**9):\n"
        "    d = {'id': f'd{n}', 'time': '2012-10-24T06:18:07Z', 'subject': {}}\n"
        "    state.save({'log': {'offset': n}}, str(n).encode(), [d])\n"
        "    print(n, flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", str(Path(__file__).parents[1]), *sys.path[1:]])}
    process = subprocess.Popen([sys.executable, "-c", child, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    confirmed = -1
    for line in process.stdout:
        confirmed = int(line)
        if confirmed == 40:
            process.kill()
    process.wait()
    process.stdout.close()
    with State(tmp_path) as state:
        checkpoint = state.load()
        assert checkpoint is not None
        offset = checkpoint.positions["log"]["offset"]
        assert offset in (confirmed, confirmed + 1)
        assert checkpoint.snapshot == str(offset).encode()
        assert len(state.recent_detections(10**6)) == offset + 1


def test_files_are_for_their_owner_only(state: State) -> None:
    state.save({}, b"", [])
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700
    for path in state.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_second_daemon_is_refused_and_the_command_line_is_not(state: State) -> None:
    state.hold()
    with State(state.directory) as second:
        with pytest.raises(UserError, match=rf"another sentinel \(process {os.getpid()}\) is running on state directory"):
            second.hold()
        assert second.recent_detections(1) == []
    state.close()
    with State(state.directory) as third:
        third.hold()


def test_claim_ends_with_the_process(tmp_path: Path) -> None:
    def claim_and_die() -> None:
        State(tmp_path).hold()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=claim_and_die)
    process.start()
    process.join()
    assert (tmp_path / "sentinel.lock").read_text().strip() == str(process.pid)
    with State(tmp_path) as state:
        state.hold()


def test_newer_version_is_refused(tmp_path: Path) -> None:
    State(tmp_path).close()
    with sqlite3.connect(tmp_path / "sentinel.db") as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(UserError, match=rf"newer sentinel \(state version {SCHEMA_VERSION + 1}, not {SCHEMA_VERSION}\)"):
        State(tmp_path)


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "sentinel.db") as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(UserError, match="a database of another program"):
        State(tmp_path)


def test_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sentinel.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UserError, match=r"sentinel\.db: file is not a database; the file is damaged"):
        State(tmp_path)


def test_directory_mistakes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a directory"):
        State(tmp_path / "file")
    with pytest.raises(UserError, match="is not a directory"):
        State(tmp_path / "file" / "below")
    with pytest.raises(UserError, match="there is no sentinel state in"):
        State(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    (tmp_path / "odd" / "sentinel.db").mkdir(parents=True)
    with pytest.raises(UserError, match="is a directory, but must be"):
        State(tmp_path / "odd")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_permission_is_one_sentence(tmp_path: Path) -> None:
    State(tmp_path).close()
    os.chmod(tmp_path.parent, 0o755)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.setuid(65534)
        try:
            State(tmp_path)
            text = "opened"
        except UserError as error:
            text = str(error)
        except BaseException as error:
            text = f"unreadable {error!r}"
        os.write(writer, text.encode())
        os._exit(0)
    os.waitpid(child, 0)
    text = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert text.startswith(f"state directory {tmp_path} is not writable for user id 65534")


def test_full_disk_is_a_sentence_and_loses_nothing(state: State) -> None:
    state.save({"a": {"offset": 1}}, b"1", [])
    state._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(UserError, match=r"database or disk is full; make room on that file system"):
        state.save({"a": {"offset": 2}}, b"x" * 1_000_000, [])
    state._db.execute("PRAGMA max_page_count = 100000")
    checkpoint = state.load()
    assert checkpoint is not None
    assert checkpoint.positions == {"a": {"offset": 1}}
    state.save({"a": {"offset": 2}}, b"2", [])


def test_many_threads_and_connections(state: State) -> None:
    def work(number: int) -> None:
        with State(state.directory) as mine:
            for count in range(20):
                state.add_detections([detection(f"s{number}-{count}")])
                mine.save({}, b"", [detection(f"m{number}-{count}")])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(state.recent_detections(1000)) == 160


def test_several_open_a_new_directory_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    go = threading.Barrier(8)

    def work() -> None:
        go.wait()
        try:
            State(tmp_path / "new").close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_old_detections_go_except_those_of_an_open_lock(state: State) -> None:
    state.add_detections([detection("a"), detection("b")])
    journal = Journal(state)
    action = journal.by_hand("lock", "info@example.com", "", 1.0)
    assert action is not None
    with state.transaction() as db:
        db.execute("UPDATE actions SET detections = ?", (json.dumps(["a"]),))
        db.execute("UPDATE detections SET added = added - ?", (91 * DAY,))
    state.add_detections([detection("c")])
    state.save({}, b"", [])
    assert ids(state.recent_detections(10)) == ["a", "c"]
    journal.close_lock(action.id, 2.0)
    assert state.prune(4e9) == 2


def test_number_of_detections_is_bounded(tmp_path: Path) -> None:
    with State(tmp_path, max_detections=10) as state:
        state.save({}, b"", [detection(f"d{number:03}") for number in range(50)])
        assert ids(state.recent_detections(100)) == [f"d{number:03}" for number in range(40, 50)]


@given(st.text(), st.text())
def test_account_key_joins_case_and_nothing_else(one: str, other: str) -> None:
    key = account_key(one)
    assert account_key(key) == key
    assert key.upper() == one.upper()
    assert key.lower() == one.lower()
    if account_key(one) == account_key(other):
        assert one.lower() == other.lower()
        assert one.upper() == other.upper()
