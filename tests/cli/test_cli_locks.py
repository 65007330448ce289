"""``sentinel locks``, on SQLite."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from commands import Run

from sentinel.respond.journal import Journal
from sentinel.state import State


@pytest.fixture
def mailboxes(tmp_path: Path) -> Path:
    path = tmp_path / "mail.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE mailbox (username TEXT PRIMARY KEY, active INTEGER NOT NULL)")
        db.executemany(
            "INSERT INTO mailbox VALUES (?, ?)",
            [("info@example.com", 1), ("anna@example.com", 1), ("old@example.com", 0), ("Big@Example.com", 1)],
        )
    return path


@pytest.fixture
def active(mailboxes: Path) -> Callable[[], dict[str, int]]:
    def read() -> dict[str, int]:
        with closing(sqlite3.connect(mailboxes)) as db:
            return dict(db.execute("SELECT username, active FROM mailbox"))

    return read


@pytest.fixture
def locks(tmp_path: Path, mailboxes: Path, sentinel: Run) -> Run:
    state = tmp_path / "state"
    return lambda *arguments: sentinel("locks", *arguments, "--state", state, "--database", f"sqlite:///{mailboxes}")


def journal(locks: Run, *more: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in locks("list", "--format", "jsonl", *more).out.splitlines()]


def test_lock_list_unlock(locks: Run, active: Callable[[], dict[str, int]]) -> None:
    done = locks("lock", "info@example.com", "--why", "called us")
    assert (done.code, done.err) == (0, "")
    assert done.out.split()[1:] == ["lock", "done", "info@example.com", "called", "us"]
    assert active()["info@example.com"] == 0
    (lock,) = journal(locks)
    assert [lock[key] for key in ("account", "login", "state", "by", "why")] == [*["info@example.com"] * 2, "done", "hand", "called us"]
    done = locks("unlock", "Info@Example.com", "--why", "new password")
    assert done.code == 0
    assert active() == {"info@example.com": 1, "anna@example.com": 1, "old@example.com": 0, "Big@Example.com": 1}
    assert locks("list").out == "no locks\n"
    assert [(row["action"], row["state"]) for row in journal(locks, "--every")] == [("lock", "done"), ("unlock", "done")]


def test_other_letters_than_the_table_s_are_another_account(locks: Run, active: Callable[[], dict[str, int]]) -> None:
    """SQLite and PostgreSQL tell them apart; whose row it would be is not for us to guess."""
    done = locks("lock", "big@example.com")
    assert done.code == 1
    assert "no such account" in done.out
    assert locks("lock", "Big@Example.com").code == 0
    assert active()["Big@Example.com"] == 0


def test_unlock_leaves_what_was_off_before_off(locks: Run, active: Callable[[], dict[str, int]]) -> None:
    locks("lock", "old@example.com")
    locks("unlock", "old@example.com")
    assert active()["old@example.com"] == 0


def test_lock_twice_is_one_lock(locks: Run) -> None:
    assert [locks("lock", "anna@example.com").code for _ in range(2)] == [0, 0]
    assert len(journal(locks, "--every")) == 1


def test_account_that_is_not_there(locks: Run, active: Callable[[], dict[str, int]]) -> None:
    before = active()
    done = locks("lock", "nobody@example.com")
    assert done.code == 1
    assert "refused" in done.out
    assert "no such account in mailbox" in done.out + done.err
    assert active() == before


def test_unlock_what_sentinel_has_not_locked(locks: Run) -> None:
    locks("lock", "anna@example.com")
    locks("unlock", "old@example.com").refused("no lock", "old@example.com", "sentinel locks list")


def test_protect_and_unprotect(locks: Run) -> None:
    assert locks("protect", "*@example.com", "--why", "ours").code == 0
    assert locks("unprotect", "*@example.com").code == 0
    locks("unprotect", "*@example.com").refused("*@example.com", "none")
    assert [row["action"] for row in journal(locks, "--every")] == ["protect", "unprotect"]


def test_list_shows_what_is_protected(locks: Run) -> None:
    locks("protect", "*@example.com")
    assert locks("list").out == "no locks\nprotected: *@example.com\n"
    assert locks("list", "--format", "jsonl").out == ""


def test_lock_by_hand_goes_before_protection(locks: Run, active: Callable[[], dict[str, int]]) -> None:
    locks("protect", "anna@*")
    assert locks("lock", "anna@example.com").code == 0
    assert active()["anna@example.com"] == 0


def test_state_and_database_from_a_configuration_file(tmp_path: Path, mailboxes: Path, sentinel: Run) -> None:
    config = tmp_path / "sentinel.yaml"
    config.write_text(f"log: /var/log/mail.log\nstate: {tmp_path / 'state'}\ndatabase:\n  url: sqlite:///{mailboxes}\n", encoding="utf-8")
    assert sentinel("locks", "lock", "anna@example.com", "--config", config).code == 0
    assert "anna@example.com" in sentinel("locks", "list", "--config", config).out
    sentinel("locks", "list", "--config", config, "--state", tmp_path).refused("--config", "--state")


def test_without_a_database(tmp_path: Path, sentinel: Run) -> None:
    sentinel("locks", "lock", "anna@example.com", "--state", tmp_path / "state").refused("--database")


@pytest.mark.parametrize(
    ("database", "preset", "words"),
    [
        ("sqlite:///{tmp}/gone.db", "generic", ("unable to open",)),
        ("nonsense", "generic", ("database",)),
        ("oracle9://x/y", "generic", ("oracle9", "mysql")),
        ("sqlite:///{tmp}/mail.db", "extmial", ('"extmial"', 'did you mean "extmail"')),
    ],
)
def test_database_that_can_not_be_used(
    database: str, preset: str, words: tuple[str, ...], tmp_path: Path, mailboxes: Path, sentinel: Run
) -> None:
    url = database.format(tmp=tmp_path)
    done = sentinel("locks", "lock", "anna@example.com", "--state", tmp_path / "state", "--database", url, "--preset", preset)
    assert done.code in (1, 2)
    for word in words:
        assert word in done.out + done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "gone.db").exists()


def test_no_state_yet(tmp_path: Path, sentinel: Run) -> None:
    sentinel("locks", "list", "--state", tmp_path / "none").refused("none", "sentinel run --state")
    assert not (tmp_path / "none").exists()


def test_account_with_sql_in_it_is_only_a_name(locks: Run, active: Callable[[], dict[str, int]]) -> None:
    before = active()
    assert locks("lock", "x' OR '1'='1").code == 1
    assert active() == before


# presets


def test_presets_are_listed_with_what_they_are_for(sentinel: Run) -> None:
    done = sentinel("locks", "presets")
    assert (done.code, done.err) == (0, "")
    for words in ("extmail-password ", "mailcow-login ", "dovecot-passwd-file ", "access-map ", "command "):
        assert words in done.out
    assert "sentinel locks presets NAME" in done.out


def test_preset_is_shown_with_all_that_an_admin_needs(sentinel: Run) -> None:
    done = sentinel("locks", "presets", "iredmail")
    assert (done.code, done.err) == (0, "")
    for words in (
        "iredmail: iRedMail on MySQL",
        "table  table of the accounts (default: mailbox)",
        "lock:   UPDATE {table} SET enablesmtp = 0, enablesmtpsecured = 0 WHERE username = :account",
        "-- PostgreSQL",
        "GRANT SELECT (username, enablesmtp, enablesmtpsecured)",
        "auth_cache",
    ):
        assert words in done.out
    assert max(map(len, done.out.splitlines())) <= 150
    assert "one of lmdb, hash; default: lmdb" in sentinel("locks", "presets", "access-map").out
    sentinel("locks", "presets", "mailcov").refused('did you mean "mailcow"?')


def test_presets_of_ones_own_are_shown_too(sentinel: Run, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nkind: command\nlock: [/bin/lock, --, '{account}']\nunlock: [u]\nverify: [v, 'a b']\n")
    out = sentinel("locks", "presets", path).out
    assert "lock:   /bin/lock -- {account}" in out
    assert "verify: v 'a b'" in out


def test_passwd_file_by_its_url(sentinel: Run, tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("info@example.com:{PLAIN}p::::::\nanna@example.com:{PLAIN}q::::::\n")
    where = ("--state", tmp_path / "state", "--database", f"file://{users}", "--preset", "dovecot-passwd-file")
    done = sentinel("locks", "lock", "Info@Example.com", *where)
    assert (done.code, done.err) == (0, "")
    assert users.read_text().startswith("info@example.com:!sentinel-locked!")
    assert sentinel("locks", "lock", "eva@example.com", *where).code == 1
    assert sentinel("locks", "unlock", "info@example.com", *where).code == 0
    assert users.read_text() == "info@example.com:{PLAIN}p::::::\nanna@example.com:{PLAIN}q::::::\n"


def test_file_for_a_preset_of_a_database(sentinel: Run, tmp_path: Path) -> None:
    where = ("--state", tmp_path / "state", "--database", "file:///etc/dovecot/users")
    sentinel("locks", "lock", "a@example.com", *where).refused("database.url", "dovecot-passwd-file")


# the journal, the breaker, what the mail system says


def test_the_journal_is_listed_exported_and_verified(locks: Run, sentinel: Run, tmp_path: Path) -> None:
    locks("lock", "info@example.com", "--why", "called us")
    locks("protect", "*@vip.example")
    shown = locks("list", "--journal").out.splitlines()
    assert [line.split()[0] for line in shown] == [str(n) for n in range(1, len(shown) + 1)]
    assert "hand:" in shown[0]
    assert "called us" in shown[0]
    assert any("UPDATE" in line and "1 changed" in line for line in shown)
    done = locks("verify-journal")
    assert (done.code, done.err) == (0, "")
    head = done.out.split()[-1]
    export = tmp_path / "journal.jsonl"
    export.write_text(locks("list", "--journal", "--format", "jsonl").out, encoding="utf-8")
    assert sentinel("locks", "verify-journal", export, "--head", head).out == done.out
    assert locks("verify-journal", "--head", head).code == 0
    export.write_text(export.read_text(encoding="utf-8").replace("called us", "nobody did"), encoding="utf-8")
    done = sentinel("locks", "verify-journal", export)
    assert done.code == 1
    assert done.out.startswith("entry 1 has been changed")
    assert done.sentences == ["the journal does not hold: 2 problems"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify-journal", "--head", "nonsense"], ["nonsense", "NUMBER:HASH"]),
        (["lock", "info@example.com", "--for", "soon"], ["--for", "soon", "90s, 10m, 1h, 7d"]),
        (["list", "--every", "--journal"], ["--journal", "not allowed with", "--every"]),
    ],
)
def test_what_is_not_understood(locks: Run, arguments: list[str], words: list[str]) -> None:
    locks("protect", "x@y")
    locks(*arguments).refused(*words)


def test_a_file_that_is_no_export(sentinel: Run, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xff\xfe")
    sentinel("locks", "verify-journal", path).refused(str(path), "UTF-8")
    path.write_text('{"a": 1}\n', encoding="utf-8")
    sentinel("locks", "verify-journal", path).refused(f"{path}:1", "locks list --journal --format jsonl")
    sentinel("locks", "verify-journal", tmp_path / "none").refused("none", "No such file")


def test_a_lock_for_a_while_says_until_when(locks: Run) -> None:
    done = locks("lock", "info@example.com", "--for", "2h")
    assert (done.code, "until 20" in done.out) == (0, True)
    assert "until 20" in locks("list").out
    (lock,) = journal(locks)
    assert lock["expires"] > lock["created"]  # type: ignore[operator]


def test_who_is_locked_there_whoever_did_it(locks: Run) -> None:
    locks("lock", "info@example.com")
    assert sorted(locks("list", "--actual").out.splitlines()) == ["info@example.com  by sentinel", "old@example.com  by others"]
    lines = [json.loads(line) for line in locks("list", "--actual", "--format", "jsonl").out.splitlines()]
    assert {line["account"]: line["by"] for line in lines} == {"info@example.com": "sentinel", "old@example.com": "others"}


def test_the_breaker_is_shown_and_closed(locks: Run, tmp_path: Path) -> None:
    locks("resume").refused("there is no sentinel state in")
    locks("protect", "x@y")
    locks("unprotect", "x@y")
    assert locks("resume").out == "the breaker was not open\n"
    with State(tmp_path / "state") as state:
        Journal(state).open_breaker("11 accounts reached the score within 10m, more than 10", 1_700_000_000.0)
    assert locks("list").out.startswith("the breaker is open since 2023-11-14T22:13:20Z: 11 accounts")
    assert locks("resume", "--why", "the newsletter").out == "the breaker is closed; policy may lock again\n"
    assert locks("list").out == "no locks\n"
    assert [entry["event"] for entry in map(json.loads, locks("list", "--journal", "--format", "jsonl").out.splitlines())][2:] == [
        "breaker-open",
        "breaker-closed",
    ]


def test_steps_of_a_configuration_follow_a_lock_by_hand(sentinel: Run, mailboxes: Path, tmp_path: Path) -> None:
    """doveadm is not there: that is said, and the lock is made all the same."""
    config = tmp_path / "sentinel.yaml"
    config.write_text(
        f"log: x\nstate: {tmp_path / 'state'}\ndatabase: {{url: 'sqlite:///{mailboxes}'}}\n"
        "response: {kick: true, doveadm: /none/doveadm}\n",
        encoding="utf-8",
    )
    done = sentinel("locks", "lock", "info@example.com", "--config", config)
    assert done.code == 1
    first, kick = done.out.splitlines()
    assert first.split()[1:3] == ["lock", "done"]
    assert kick == "    kick: pending: there is no program /none/doveadm here; install it, or configure where it is"
