"""Locks by programs: argument vectors, exit codes, limits, and nothing that an account could turn into an option."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sentinel.errors import UserError
from sentinel.respond.locks import CommandLocker, LockFailed, LockRefused, LockTrouble

WANG = "wang@corp.example"
PROGRAM = """
import json, os, sys
state, what, *rest = sys.argv[1:]
with open(state) as file:
    accounts = json.load(file)
with open(state + ".calls", "a") as file:
    file.write(json.dumps([what, rest, dict(os.environ)]) + "\\n")
account = rest[1] if rest else None
assert rest[:1] in ([], ["--"])
if account is not None and account not in accounts:
    sys.stderr.write("who is that?\\n")
    sys.exit(67)
if what == "read":
    sys.stdout.write(json.dumps(accounts[account]) + " \\n\\n")
elif what == "verify":
    sys.exit(0 if accounts[account] == "locked" else 1)
elif what == "lock":
    accounts[account] = "locked"
elif what == "unlock":
    accounts[account] = json.loads(sys.stdin.read())
elif what == "list":
    print("\\n".join(name for name, value in accounts.items() if value == "locked"))
with open(state, "w") as file:
    json.dump(accounts, file)
"""


def nothing(login: str, prior: dict[str, Any], locked_already: bool) -> None:
    """A record that nobody needs."""


class Accounts:
    """A file of accounts, and the programs that change it."""

    def __init__(self, folder: Path, **accounts: str) -> None:
        self.path = folder / "accounts.json"
        self.write({"wang@corp.example": "free", "liu@corp.example": "free"} | accounts)
        program = folder / "program.py"
        program.write_text(PROGRAM)
        vector = (sys.executable, "-I", "-S", str(program), str(self.path))
        one = {key: (*vector, key, "--", "{account}") for key in ("read", "lock", "unlock", "verify")}
        self.options: dict[str, tuple[str, ...]] = {**one, "list": (*vector, "list")}

    def write(self, accounts: dict[str, str]) -> None:
        self.path.write_text(json.dumps(accounts))

    def read(self) -> dict[str, str]:
        return dict(json.loads(self.path.read_text()))

    def calls(self) -> list[Any]:
        return [json.loads(line) for line in Path(f"{self.path}.calls").read_text().splitlines()]


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    return Accounts(tmp_path)


def script(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_lock_verify_list_unlock(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTINEL_DB_PASSWORD", "geheim")
    before = accounts.read()
    locker = CommandLocker(options=accounts.options)
    locker.check()
    told: list[Any] = []
    result = locker.lock(WANG, lambda *each: told.append(each))
    assert told == [(WANG, {"output": b'"free" \n\n', "locked": False}, False)]
    assert (result.locked_already, result.rows) == (False, 1)
    assert result.statement.endswith("accounts.json lock -- {account}")
    assert accounts.read() == before | {WANG: "locked"}
    assert locker.is_locked(WANG)
    assert not locker.is_locked("liu@corp.example")
    assert locker.list_locked() == [WANG]
    assert locker.lock(WANG, nothing).locked_already
    assert locker.unlock(WANG, result.prior).rows == 1
    assert accounts.read() == before
    for what, rest, environment in accounts.calls():
        if what != "list":
            assert rest == ["--", environment["SENTINEL_ACCOUNT"]]
        assert set(environment) <= {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SENTINEL_ACCOUNT"}


def test_what_was_locked_before_stays_locked(accounts: Accounts) -> None:
    accounts.write({WANG: "locked"})
    locker = CommandLocker(options=accounts.options)
    result = locker.lock(WANG, nothing)
    assert result.locked_already
    assert locker.unlock(WANG, result.prior).rows == 0
    assert accounts.read() == {WANG: "locked"}


def test_read_and_list_may_be_left_out(accounts: Accounts, tmp_path: Path) -> None:
    unlock = script(tmp_path, "unlock", f'echo \'{{"{WANG}": "free"}}\' > {accounts.path}')
    options = {"lock": accounts.options["lock"], "verify": accounts.options["verify"], "unlock": (unlock,)}
    locker = CommandLocker(options=options)
    result = locker.lock(WANG, nothing)
    assert result.prior == {"locked": False}
    locker.unlock(WANG, result.prior)
    assert accounts.read() == {WANG: "free"}
    with pytest.raises(LockFailed, match="no list command"):
        locker.list_locked()


def test_account_that_is_not_there(accounts: Accounts) -> None:
    with pytest.raises(LockRefused, match=r"no such account, says .*: eva@corp\.example"):
        CommandLocker(options=accounts.options).lock("eva@corp.example", nothing)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"verify": "exit 3"}, LockTrouble, r"verify -- \{account\} ended with exit code 3$"),
        ({"verify": "echo first >&2; echo 'no route\ato host' >&2; exit 111"}, LockTrouble, r"exit code 111: no route\?to host"),
        ({"verify": "kill -9 $$"}, LockTrouble, "ended by signal 9"),
        ({"verify": "exit 1", "lock": "exit 5"}, LockTrouble, r"lock -- \{account\} ended with exit code 5"),
        ({"verify": "exit 1", "lock": ":", "unlock": ":"}, LockFailed, "as locked after the lock; it was undone"),
        ({"verify": "exit 1", "lock": ":", "unlock": "exit 9"}, LockFailed, "undoing it failed too: .*exit code 9"),
        ({"verify": "exit 1", "read": "exit 1"}, LockTrouble, r"read -- \{account\} ended with exit code 1"),
        ({"verify": "exit 1", "read": "head -c 70000 /dev/zero"}, LockFailed, "printed more than can be kept"),
    ],
)
def test_exit_codes(accounts: Accounts, tmp_path: Path, change: dict[str, str], kind: type[Exception], says: str) -> None:
    options = accounts.options | {key: (script(tmp_path, key, text), "--", "{account}") for key, text in change.items()}
    with pytest.raises(kind, match=says) as caught:
        CommandLocker(options=options).lock(WANG, nothing)
    assert str(caught.value).isprintable()


def test_time_limit_ends_the_children_too(accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel.respond.locks.STATEMENT_SECONDS", 1)
    pid = tmp_path / "pid"
    options = accounts.options | {"verify": (script(tmp_path, "slow", f"sleep 60 &\necho $! > {pid}\nwait"),)}
    began = time.monotonic()
    with pytest.raises(LockTrouble, match=r"slow took longer than 1 s and was ended"):
        CommandLocker(options=options).is_locked(WANG)
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 10
    while alive(int(pid.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_endless_output_and_children_that_stay_do_not_hold_it_up(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sentinel.respond.locks.STATEMENT_SECONDS", 2)
    options = accounts.options | {"verify": (script(tmp_path, "yes", "exec yes"),)}
    with pytest.raises(LockTrouble, match="took longer"):
        CommandLocker(options=options).is_locked(WANG)
    pid = tmp_path / "pid"
    options = accounts.options | {"verify": (script(tmp_path, "daemon", f"sleep 30 &\necho $! > {pid}\nexit 0"),)}
    began = time.monotonic()
    try:
        assert CommandLocker(options=options).is_locked(WANG)
        assert time.monotonic() - began < 2
    finally:
        os.kill(int(pid.read_text()), 9)


def test_standard_input_is_closed_where_nothing_is_given(accounts: Accounts, tmp_path: Path) -> None:
    options = accounts.options | {"verify": (script(tmp_path, "reads", 'test -z "$(cat)"'),)}
    assert CommandLocker(options=options).is_locked(WANG)


def test_program_that_is_not_there(accounts: Accounts) -> None:
    locker = CommandLocker(options=accounts.options | {"unlock": ("/none/at-all", "--", "{account}")})
    with pytest.raises(LockTrouble, match="unlock: there is no program /none/at-all"):
        locker.check()


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        (("{account}",), "the account can't be the program"),
        (("/bin/lock", "{account}"), 'may be taken for an option when the account begins with "-"; put -- before it'),
        (("/bin/lock", "{account}@x", "--"), "put -- before it"),
    ],
)
def test_account_that_could_be_an_option_is_a_mistake_of_the_preset(
    accounts: Accounts, tmp_path: Path, vector: tuple[str, ...], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        CommandLocker(options=accounts.options | {"lock": vector})
    path = tmp_path / "own.yaml"
    rest = "".join(f"{key}: [x]\n" for key in ("unlock", "verify"))
    path.write_text(f"name: own\nkind: command\n{rest}lock: {json.dumps(vector)}\n")
    with pytest.raises(UserError, match=rf"own\.yaml:5: lock: .*{says}"):
        CommandLocker(str(path))


def test_account_in_a_path_stays_in_its_folder(accounts: Accounts, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    touch, rm = ("touch", "--", f"{tmp_path}/locked/{{account}}"), ("rm", "-f", "--", f"{tmp_path}/locked/{{account}}")
    verify = (script(tmp_path, "there", 'test -e "$1"'), f"{tmp_path}/locked/{{account}}")
    locker = CommandLocker(options={"lock": touch, "unlock": rm, "verify": verify})
    for account in ("../../x", "/etc/passwd", "..", "."):
        with pytest.raises(LockRefused, match="cannot be part of a path"):
            locker.lock(account, nothing)
    locker.lock("-rf", nothing)
    assert os.listdir(tmp_path / "locked") == ["-rf"]


def test_own_preset_with_options_in_its_vectors(accounts: Accounts, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    vector = {key: list(accounts.options[key]) for key in ("read", "lock", "unlock", "verify", "list")}
    for each in vector.values():
        each[4] = "{file}"
    path.write_text(
        "name: own\nkind: command\noptions:\n  file: {kind: path, description: the accounts}\n"
        + "".join(f"{key}: {json.dumps(each)}\n" for key, each in vector.items())
    )
    locker = CommandLocker(str(path), {"file": str(accounts.path)})
    locker.lock(WANG, nothing)
    assert accounts.read()[WANG] == "locked"
    with pytest.raises(UserError, match=r"options\.file: is missing; the preset own needs it: the accounts"):
        CommandLocker(str(path))
