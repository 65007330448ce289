"""Locking in real tables: exactly one account, exactly restored, and no secret in any text."""

import pickle
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sentinel.config import DatabaseSettings
from sentinel.errors import UserError
from sentinel.respond.locks import (
    AccountLocker,
    LockFailed,
    LockRefused,
    LockTrouble,
    LockUnavailable,
    load_preset,
    preset_names,
)

WANG = "wang@corp.example"
LIU = "liu@corp.example"
HOSTILE = [
    "'; DROP TABLE mailbox; --",
    "' OR '1'='1",
    'x" OR "1"="1',
    "%",
    "%s",
    "_ang@corp.example",
    "{account}",
    ":account",
    "\\' OR 1=1 -- ",
    "-d ALL",
    "../../x",
    "wang@corp.example\x00",
    "wang@corp.example\n",
    "wang@corp.example ",
    " wang@corp.example",
    "wáng@corp.example",
    "\uff57ang@corp.example",
    "w\u200bang@corp.example",
    "\udcff@x",
    "",
    "x" * 10_000,
    "\U0001f600@corp.example",
]


def nothing(login: str, prior: dict[str, Any], locked_already: bool) -> None:
    """A record that nobody needs."""


def locked(locker: AccountLocker, account: str) -> tuple[str, dict[str, Any], bool]:
    result = locker.lock(account, nothing)
    return result.login, result.prior, result.locked_already


@pytest.mark.parametrize("preset", ["generic", "extmail"])
def test_lock_and_unlock_touch_one_account(database: Any, preset: str) -> None:
    (database.create_generic if preset == "generic" else database.create_extmail)(WANG, LIU)
    before = database.rows()
    locker = AccountLocker(database.address, preset)
    assert not locker.is_locked(WANG)
    login, prior, already = locked(locker, WANG)
    assert (login, already) == (WANG, False)
    assert database.rows() == before | {WANG: 0 if preset == "generic" else 1}
    assert locker.is_locked(WANG)
    assert not locker.is_locked(LIU)
    assert locked(locker, WANG)[2] is True
    locker.unlock(WANG, prior)
    assert database.rows() == before
    locker.close()


@pytest.mark.parametrize("prior", [None, 0, 2])
def test_prior_value_comes_back_exactly(database: Any, prior: int | None) -> None:
    database.create_extmail(WANG, prior=prior)
    locker = AccountLocker(database.address, "extmail")
    login, kept, _ = locked(locker, WANG)
    assert kept == {"disablesmtpd": prior}
    locker.unlock(login, kept)
    assert database.rows() == {WANG: prior}
    locker.close()


def test_boolean_and_text_columns(postgresql: Any) -> None:
    postgresql.create_generic(WANG, active=True, column="BOOLEAN NOT NULL")
    locker = AccountLocker(postgresql.address)
    login, prior, _ = locked(locker, WANG)
    assert postgresql.rows() == {WANG: False}
    locker.unlock(login, prior)
    assert postgresql.rows() == {WANG: True}
    locker.close()
    postgresql.run("DROP TABLE mailbox")
    postgresql.create_generic(WANG, active="1", column="VARCHAR(1) NOT NULL")
    locker = AccountLocker(postgresql.address)
    locked(locker, WANG)
    assert postgresql.rows() == {WANG: "0"}
    locker.close()


def test_record_is_told_before_anything_changes(database: Any) -> None:
    database.create_extmail(WANG)
    locker = AccountLocker(database.address, "extmail")

    def stop(login: str, prior: dict[str, Any], locked_already: bool) -> None:
        assert (login, prior, locked_already) == (WANG, {"disablesmtpd": None}, False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        locker.lock(WANG, stop)
    assert database.rows() == {WANG: None}
    locker.close()


@pytest.mark.parametrize("account", HOSTILE)
def test_hostile_account_names_change_nothing(database: Any, account: str) -> None:
    database.create_generic(WANG, LIU, "wan@corp.example")
    before = database.rows()
    locker = AccountLocker(database.address)
    with pytest.raises(LockRefused) as caught:
        locker.lock(account, nothing)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert database.rows() == before
    locker.close()


@pytest.mark.parametrize("account", ["'; DROP TABLE mailbox; --", "%s{0}:account@x", "o'neil\\@x", "王@例.中国", "-d ALL"])
def test_strange_names_that_do_exist_are_locked(database: Any, account: str) -> None:
    database.create_generic(WANG, account)
    locker = AccountLocker(database.address)
    login, prior, _ = locked(locker, account)
    assert (login, database.rows()) == (account, {WANG: 1, account: 0})
    locker.unlock(login, prior)
    assert database.rows() == {WANG: 1, account: 1}
    locker.close()


def test_collation_finds_the_row_of_somebody_else(mysql: Any) -> None:
    mysql.run("CREATE TABLE mailbox (username VARCHAR(200) COLLATE utf8mb4_unicode_ci PRIMARY KEY, active INT)")
    mysql.run("INSERT INTO mailbox VALUES ('eva@x', 1), ('strasse@x', 1), ('kim@x', 1)")
    locker = AccountLocker(mysql.address)
    for account in ("éva@x", "straße@x", "\u212aim@x", "eva@x "):
        with pytest.raises(LockRefused, match="no such account in mailbox"):
            locker.lock(account, nothing)
    assert set(mysql.rows().values()) == {1}
    assert locked(locker, "EVA@X")[0] == "eva@x"
    assert mysql.rows() == {"eva@x": 0, "strasse@x": 1, "kim@x": 1}
    locker.close()


def test_other_letter_case_binds_the_name_of_the_row(mysql: Any) -> None:
    mysql.create_extmail("Wang@Corp.example", LIU)
    locker = AccountLocker(mysql.address, "extmail")
    assert locked(locker, "wang@corp.example")[0] == "Wang@Corp.example"
    assert mysql.rows() == {"Wang@Corp.example": 1, LIU: None}
    locker.close()


def test_two_rows_are_refused(database: Any) -> None:
    database.run("CREATE TABLE mailbox (username VARCHAR(200), active INT)")
    for _ in range(2):
        database.run("INSERT INTO mailbox VALUES (:a, 1)", a=WANG)
    locker = AccountLocker(database.address)
    with pytest.raises(LockRefused, match=r"more than one row in mailbox matches wang@corp\.example"):
        locker.lock(WANG, nothing)
    assert database.run("SELECT sum(active) FROM mailbox") == [(2,)]
    locker.close()


def preset_file(tmp_path: Path, **changes: str) -> str:
    given = {
        "name": "odd",
        "read": "SELECT username AS account, active AS active FROM mailbox WHERE username = :account",
        "lock": "UPDATE mailbox SET active = 0 WHERE username = :account",
        "unlock": "UPDATE mailbox SET active = :prior_active WHERE username = :account",
        "verify": "SELECT active = 0 FROM mailbox WHERE username = :account",
    } | changes
    path = tmp_path / "odd.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in given.items()))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"verify": "SELECT active = 7 FROM mailbox WHERE username = :account"}, "does not show"),
        ({"lock": "UPDATE mailbox SET active = 5 WHERE username <> 'x' OR username = :account"}, "matched 2 rows"),
        ({"lock": "UPDATE mailbox SET active = 5 WHERE username = :account AND active = 9"}, "matched 0 rows"),
    ],
)
def test_disagreement_is_rolled_back(database: Any, tmp_path: Path, changes: dict[str, str], says: str) -> None:
    database.create_generic(WANG, LIU)
    locker = AccountLocker(database.address, preset_file(tmp_path, **changes))
    with pytest.raises(LockFailed, match=says) as caught:
        locker.lock(WANG, nothing)
    assert "the row is as it was" in str(caught.value)
    assert database.rows() == {WANG: 1, LIU: 1}
    locker.close()


def test_without_transactions_the_row_is_put_back(mysql: Any, tmp_path: Path) -> None:
    mysql.run("CREATE TABLE mailbox (username VARCHAR(200) PRIMARY KEY, active INT) ENGINE=MyISAM")
    mysql.run("INSERT INTO mailbox VALUES (:a, NULL)", a=WANG)
    locker = AccountLocker(mysql.address, preset_file(tmp_path, verify="SELECT active = 7 FROM mailbox WHERE username = :account"))
    with pytest.raises(LockFailed, match="the row is as it was"):
        locker.lock(WANG, nothing)
    assert mysql.rows() == {WANG: None}
    locker.close()


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_somebody_elses_lock_of_the_same_moment_stays(request: Any, kind: str) -> None:
    """Between sentinel's look at the row and its statement, an admin locks the account in the panel."""
    database = request.getfixturevalue(kind)
    database.create_generic(WANG, LIU)
    locker = AccountLocker(database.address)

    def meanwhile(login: str, prior: dict[str, Any], locked_already: bool) -> None:
        assert (prior, locked_already) == ({"active": 1}, False)
        database.run("UPDATE mailbox SET active = 0 WHERE username = :a", a=WANG)

    locker.lock(WANG, meanwhile)
    assert database.rows() == {WANG: 0, LIU: 1}
    assert locker.is_locked(WANG)
    locker.close()


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_of_two_sentinels_one_locks_and_the_other_finds_it_locked(request: Any, kind: str) -> None:
    database = request.getfixturevalue(kind)
    database.create_generic(WANG)
    lockers = [AccountLocker(database.address) for _ in range(2)]
    found: list[bool] = []

    def second() -> None:
        found.append(lockers[1].lock(WANG, nothing).locked_already)

    other = threading.Thread(target=second)

    def meanwhile(login: str, prior: dict[str, Any], locked_already: bool) -> None:
        other.start()
        # It can't come between: as long as this one has not ended it waits.
        other.join(0.3)
        assert found == []

    assert not lockers[0].lock(WANG, meanwhile).locked_already
    other.join(20)
    assert found == [True]
    for locker in lockers:
        locker.close()


def test_own_table_and_column_names(database: Any) -> None:
    quote = "`" if database.kind == "mysql" else '"'
    database.run(f"CREATE TABLE {quote}order{quote} (login VARCHAR(200) PRIMARY KEY, {quote}Enabled{quote} CHAR(1))")
    database.run(f"INSERT INTO {quote}order{quote} VALUES (:a, 'Y')", a=WANG)
    options = {"table": "order", "username": "login", "active": "Enabled", "locked": "N"}
    locker = AccountLocker(database.address, "generic", options=options)
    locked(locker, WANG)
    assert database.run(f"SELECT {quote}Enabled{quote} FROM {quote}order{quote}") == [("N",)]
    locker.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"table": "mailbox; DROP TABLE x"}, "not a plain name"),
        ({"table": "1st"}, "not a plain name"),
        ({"active": "a b"}, "not a plain name"),
        ({"active": True}, "not a plain name"),
        ({"tabel": "x"}, 'did you mean "table"'),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        AccountLocker("sqlite:////nowhere/x.db", options=options)


def test_missing_table_is_worth_another_attempt(database: Any) -> None:
    locker = AccountLocker(database.address)
    database.run("SELECT 1")
    with pytest.raises(LockTrouble, match="mailbox"):
        locker.lock(WANG, nothing)
    with pytest.raises(LockTrouble):
        locker.check()
    database.create_generic(WANG)
    locker.check()
    locked(locker, WANG)
    locker.close()


def test_grants_of_the_preset_are_enough(mysql: Any, postgresql: Any) -> None:
    name = f"s{str(mysql.url.database)[-12:]}"
    mysql.create_extmail(WANG)
    grants = load_preset("extmail").grants.replace("'sentinel'@'localhost'", f"'{name}'@'127.0.0.1'")
    grants = grants.replace("extmail.mailbox", f"{mysql.url.database}.mailbox").replace("'...'", "'p'")
    try:
        for line in grants.splitlines():
            if not line.startswith("--"):
                mysql.run(line)
        locker = AccountLocker(mysql.url.set(username=name, password="p").render_as_string(hide_password=False), "extmail")
        login, prior, _ = locked(locker, WANG)
        locker.unlock(login, prior)
        with locker._engine.connect() as db, pytest.raises(Exception, match="denied"):
            db.execute(text("SELECT password FROM mailbox"))
        locker.close()
    finally:
        mysql.run(f"DROP USER IF EXISTS '{name}'@'127.0.0.1'")
    postgresql.create_generic(WANG)
    lines = [line for line in load_preset("generic").grants.split("PostgreSQL")[1].splitlines() if line.strip()]
    try:
        for line in lines:
            postgresql.run(line.replace("sentinel", name).replace("'...'", "'p'"))
        locker = AccountLocker(postgresql.url.set(username=name, password="p").render_as_string(hide_password=False))
        login, prior, _ = locked(locker, WANG)
        locker.unlock(login, prior)
        locker.close()
    finally:
        postgresql.run(f"DROP OWNED BY {name}")
        postgresql.run(f"DROP ROLE {name}")


def test_sqlite_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "gone.db"
    locker = AccountLocker(f"sqlite:///{path}")
    with pytest.raises(LockUnavailable, match="cannot connect to sqlite"):
        locker.lock(WANG, nothing)
    assert not path.exists()


def test_row_held_by_another_transaction(postgresql: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel.respond.locks.STATEMENT_SECONDS", 1)
    postgresql.create_generic(WANG)
    locker = AccountLocker(postgresql.address)
    with postgresql._engine.begin() as other:
        other.execute(text("UPDATE mailbox SET active = 1"))
        with pytest.raises(LockUnavailable, match="timeout"):
            locker.lock(WANG, nothing)
    locked(locker, WANG)
    locker.close()


# secrets

SECRET = "hunt/er:2@'\"%{}"


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_password_appears_nowhere(scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: Any) -> None:
    server = request.getfixturevalue(scheme)
    monkeypatch.setenv("SENTINEL_TEST_SECRET", SECRET)
    (tmp_path / "password").write_text(f"{SECRET}\n")
    texts: list[str] = []
    for url, file in (
        (f"{scheme}://guard:${{SENTINEL_TEST_SECRET}}@{server.url.host}:{server.url.port}/mail", None),
        (f"{scheme}://guard@{server.url.host}:{server.url.port}/mail", str(tmp_path / "password")),
        (f"{scheme}://guard@127.0.0.1:1/mail", str(tmp_path / "password")),
    ):
        settings = DatabaseSettings.model_validate({"url": url, "password_file": file})
        locker = AccountLocker.from_settings(settings)
        texts += [repr(settings), str(settings), repr(locker), str(locker.__class__), repr(locker._engine)]
        assert locker._engine.url.password == SECRET
        try:
            locker.lock(WANG, nothing)
        except LockUnavailable as error:
            texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
        except LockTrouble as error:  # a server that trusts loopback lets guard in
            texts += [str(error), "".join(traceback.format_exception(error))]
    assert len(texts) > 15
    assert not [shown for shown in texts if SECRET in shown or "hunt" in shown]


def test_driver_that_repeats_the_password_is_cleaned() -> None:
    locker = AccountLocker(f"sqlite:////nowhere/x.db?password={'geheim-1'}")
    assert locker._text_of(ValueError("no geheim-1 here\nand geheim%2D1, geheim-1")) == "no *** here and geheim%2D1, ***"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("geheim", "is not a database URL"),
        ("mysql://u:geheim@h:port/x", "is not a database URL"),
        ("oracel://u:geheim@h/x", "no kind of database known here: mysql"),
        ("mysql+nodriver://u:geheim@h/x", "no kind of database"),
        ("mysql://u:${SENTINEL_NOT_SET}@h/x", "SENTINEL_NOT_SET is not set"),
        ("${SENTINEL_NOT_SET}", "SENTINEL_NOT_SET is not set"),
    ],
)
def test_bad_url_is_one_sentence_without_it(url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        AccountLocker(url)
    assert "geheim" not in "".join(traceback.format_exception(caught.value)).replace(url, "")
    assert "geheim" not in str(caught.value)


def test_password_file_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"password_file .*/none cannot be read: No such file"):
        AccountLocker("mysql://u@h/x", password_file=str(tmp_path / "none"))
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="its first line must be the password"):
        AccountLocker("mysql://u@h/x", password_file=str(tmp_path / "empty"))
    with pytest.raises(UserError, match="keep one of them"):
        AccountLocker("mysql://u:p@h/x", password_file=str(tmp_path / "empty"))


def test_whole_url_from_the_environment(sqlite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite.create_generic(WANG)
    monkeypatch.setenv("SENTINEL_TEST_URL", sqlite.address)
    locker = AccountLocker("${SENTINEL_TEST_URL}")
    locked(locker, WANG)
    assert sqlite.rows() == {WANG: 0}


# presets


def test_presets_that_come_with_sentinel_are_valid() -> None:
    assert {"generic", "extmail"} <= set(preset_names())
    for name in preset_names():
        preset = load_preset(name)
        assert preset.name == name
        assert all([preset.notes, preset.grants, preset.description])
        assert pickle.loads(pickle.dumps(preset)) == preset


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match='no lock preset "extmial"; did you mean "extmail"'):
        load_preset("extmial")


def test_preset_mistakes_are_all_named_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: bad\n"
        "verfiy: SELECT 1\n"
        "read: SELECT 1 FROM {tabel} WHERE username = :account\n"
        "options:\n"
        "  table: {kind: identifier, default: a b}\n"
        "  other: {knid: value}\n"
        "lock: UPDATE mailbox SET active = 0\n"
        "unlock: UPDATE mailbox SET active = :acount WHERE username = :account\n"
        "name: worse\n"
        "notes: 5\n"
    )
    with pytest.raises(UserError) as caught:
        load_preset(str(path))
    lines = str(caught.value).replace(str(path), "bad").splitlines()
    for expected in (
        'bad:2: verfiy: unknown key; did you mean "verify"?',
        "bad:3: read: {tabel} is no option of kind identifier",
        "bad:5: options.table.default: must be a plain name",
        'bad:6: options.other.knid: unknown key; did you mean "kind"?',
        "bad:7: lock: must bind the account as :account",
        'bad:8: unlock: :acount is not known here; did you mean "account"?',
        'bad:9: key "name" is given twice (first in line 1); keep one of them',
        "bad:10: notes: must be a text",
        "bad:1: verify: is missing",
    ):
        assert expected in lines
    path.write_text("")
    with pytest.raises(UserError, match=r"bad\.yaml:1: a preset must be a mapping \(key: value\), not empty"):
        load_preset(str(path))


def test_gate_refuses_then_lets_through(mysql: Any, gate: Callable[[Any], Any]) -> None:
    mysql.create_generic(WANG)
    door = gate(mysql)
    locker = AccountLocker(mysql.url.set(host="127.0.0.1", port=door.port).render_as_string(hide_password=False))
    with pytest.raises(LockUnavailable, match="cannot connect to mysql sentinel_test_"):
        locker.lock(WANG, nothing)
    door.open()
    locked(locker, WANG)
    door.shut()
    with pytest.raises(LockUnavailable):
        locker.is_locked(WANG)
    door.open()
    assert locker.is_locked(WANG)
    locker.close()
