"""Every SQL preset on a table as its mail system makes it, on real servers, with the grants that the preset asks for."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from sentinel.errors import UserError
from sentinel.respond.locks import AccountLocker, LockFailed, LockTrouble, LockUnavailable, load_preset, preset_names

WANG = "wang@corp.example"
LIU = "liu@corp.example"
HASH = "$1$370f7643$bXOW.w4J7DKaGwUcRtqi51"

EXTMAIL = """CREATE TABLE mailbox (username varchar(255) NOT NULL default '', uid varchar(255) NOT NULL default '',
    password varchar(255) NOT NULL default '', clearpwd varchar(128) NOT NULL default '', name varchar(255) NOT NULL default '',
    createdate datetime NOT NULL default '0000-00-00 00:00:00', expiredate DATE NOT NULL default '0000-00-00',
    active smallint(1) NOT NULL default '1', disablepwdchange smallint(1), disablesmtpd smallint(1), disablesmtp smallint(1),
    disableimap smallint(1), question text NOT NULL default '', PRIMARY KEY (username), KEY username (username)) ENGINE=MyISAM DEFAULT CHARSET=latin1"""
POSTFIXADMIN_MYSQL = """CREATE TABLE mailbox (username varchar(255) NOT NULL, password varchar(255) NOT NULL,
    name varchar(255) CHARACTER SET utf8 NOT NULL, maildir varchar(255) NOT NULL, quota bigint(20) NOT NULL default 0,
    created datetime NOT NULL default '2000-01-01 00:00:00', modified datetime NOT NULL default '2000-01-01 00:00:00',
    active tinyint(1) NOT NULL default '1', smtp_active int DEFAULT 1, PRIMARY KEY (username)) ENGINE=InnoDB DEFAULT CHARSET=latin1"""
POSTFIXADMIN_POSTGRESQL = """CREATE TABLE mailbox (username character varying(255) NOT NULL PRIMARY KEY, password character varying(255)
    NOT NULL DEFAULT '', name character varying(255) NOT NULL DEFAULT '', quota bigint NOT NULL DEFAULT 0,
    created timestamp with time zone DEFAULT now(), modified timestamp with time zone DEFAULT now(),
    active boolean NOT NULL DEFAULT true, smtp_active {type})"""
IREDMAIL_MYSQL = """CREATE TABLE mailbox (username VARCHAR(255) NOT NULL DEFAULT '', password VARCHAR(255) NOT NULL DEFAULT '',
    enablesmtp TINYINT(1) NOT NULL DEFAULT 1, enablesmtpsecured TINYINT(1) NOT NULL DEFAULT 1, enableimap TINYINT(1) NOT NULL DEFAULT 1,
    allow_nets TEXT DEFAULT NULL, modified DATETIME NOT NULL DEFAULT '1970-01-01 01:01:01', active TINYINT(1) NOT NULL DEFAULT 1,
    PRIMARY KEY (username), INDEX (enablesmtp), INDEX (enablesmtpsecured)) ENGINE=InnoDB"""
IREDMAIL_POSTGRESQL = """CREATE TABLE mailbox (username VARCHAR(255) NOT NULL PRIMARY KEY, password VARCHAR(255) NOT NULL DEFAULT '',
    enablesmtp INT2 NOT NULL DEFAULT 1, enablesmtpsecured INT2 NOT NULL DEFAULT 1, enableimap INT2 NOT NULL DEFAULT 1,
    allow_nets TEXT DEFAULT NULL, modified TIMESTAMP WITHOUT TIME ZONE NOT NULL DEFAULT NOW()::TIMESTAMP WITHOUT TIME ZONE,
    active INT2 NOT NULL DEFAULT 1)"""
MAILCOW = """CREATE TABLE mailbox (username VARCHAR(255) NOT NULL, password VARCHAR(255) NOT NULL, name VARCHAR(255), quota BIGINT(20)
    NOT NULL DEFAULT 102400, local_part VARCHAR(255) NOT NULL DEFAULT '', attributes JSON, kind VARCHAR(100) NOT NULL DEFAULT '',
    created DATETIME(0) NOT NULL DEFAULT NOW(0), modified DATETIME ON UPDATE CURRENT_TIMESTAMP, active TINYINT(1) NOT NULL DEFAULT '1',
    PRIMARY KEY (username)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci ROW_FORMAT=DYNAMIC"""
ATTRIBUTES = (
    '{"force_pw_update":"0","tls_enforce_in":"0", "smtp_access": "1",\n "imap_access":"1","mailbox_format":"maildir:"}',
    '{"smtp_access":1,"imap_access":"1"}',
    '{"imap_access": "1", "名": "é\\u00e9"}',
    "{}",
    None,
)
MODOBOA_MYSQL = """CREATE TABLE core_user (id int(11) NOT NULL AUTO_INCREMENT, password varchar(128) NOT NULL, last_login datetime(6),
    is_superuser tinyint(1) NOT NULL, username varchar(254) NOT NULL, email varchar(254) NOT NULL, is_staff tinyint(1) NOT NULL DEFAULT 0,
    is_active tinyint(1) NOT NULL, PRIMARY KEY (id), UNIQUE KEY username (username), KEY email (email)) ENGINE=InnoDB"""
MODOBOA_POSTGRESQL = """CREATE TABLE core_user (id serial PRIMARY KEY, password varchar(128) NOT NULL, last_login timestamptz,
    is_superuser boolean NOT NULL, username varchar(254) NOT NULL UNIQUE, email varchar(254) NOT NULL, is_active boolean NOT NULL)"""
GENERIC_POSTGRESQL = "CREATE TABLE mailbox (username VARCHAR(255) PRIMARY KEY, password VARCHAR(255), active {type})"


class Case(NamedTuple):
    """A preset on a table; ``columns`` are more values of the locked account, each set in turn."""

    preset: str
    server: str
    create: str
    insert: str
    columns: tuple[dict[str, Any], ...] = ({},)
    table: str = "mailbox"


def plain(table: str = "mailbox") -> str:
    return f"INSERT INTO {table} (username, password) VALUES (:account, '{HASH}')"


POSTFIXADMIN = f"INSERT INTO mailbox (username, password, name, maildir) VALUES (:account, '{HASH}', 'é', 'x/')"
MODOBOA = "INSERT INTO core_user (username, email, password, is_superuser, is_active) VALUES (:account, :account, 'x', {no}, {yes})"
CASES = (
    Case("extmail", "mysql", EXTMAIL, plain(), ({}, {"disablesmtpd": 0}, {"disablesmtpd": 2})),
    Case("extmail-active", "mysql", EXTMAIL, plain(), ({}, {"active": 7})),
    Case("extmail-password", "mysql", EXTMAIL, plain(), ({}, {"password": ""}, {"password": "{SSHA}%s:!é"})),
    Case("postfixadmin", "mysql", POSTFIXADMIN_MYSQL, POSTFIXADMIN, ({}, {"smtp_active": None})),
    Case("postfixadmin-active", "mysql", POSTFIXADMIN_MYSQL, POSTFIXADMIN),
    Case("postfixadmin", "postgresql", POSTFIXADMIN_POSTGRESQL.format(type="boolean DEFAULT true"), plain(), ({}, {"smtp_active": None})),
    Case("postfixadmin", "postgresql", POSTFIXADMIN_POSTGRESQL.format(type="int DEFAULT 1"), plain(), ({}, {"smtp_active": None})),
    Case("postfixadmin-active", "postgresql", POSTFIXADMIN_POSTGRESQL.format(type="boolean"), plain()),
    Case("iredmail", "mysql", IREDMAIL_MYSQL, plain(), ({}, {"enablesmtp": 0})),
    Case("iredmail", "postgresql", IREDMAIL_POSTGRESQL, plain(), ({}, {"enablesmtpsecured": 0})),
    Case("mailcow", "mysql", MAILCOW, plain(), tuple({"attributes": text, "modified": "2020-02-03 04:05:06"} for text in ATTRIBUTES)),
    Case("mailcow-login", "mysql", MAILCOW, plain(), ({}, {"modified": "2020-02-03 04:05:06"})),
    Case("modoboa", "mysql", MODOBOA_MYSQL, MODOBOA.format(no=0, yes=1), table="core_user"),
    Case("modoboa", "postgresql", MODOBOA_POSTGRESQL, MODOBOA.format(no="false", yes="true"), table="core_user"),
    Case("generic", "mysql", "CREATE TABLE mailbox (username VARCHAR(255) PRIMARY KEY, password VARCHAR(255), active ENUM('1','0') DEFAULT '1')",
         plain(), ({}, {"active": None})),
    Case("generic", "postgresql", GENERIC_POSTGRESQL.format(type="boolean DEFAULT true"), plain(), ({}, {"active": None})),
    Case("generic", "postgresql", GENERIC_POSTGRESQL.format(type="text DEFAULT '1'"), plain(), ({}, {"active": None})),
    Case("generic", "postgresql", GENERIC_POSTGRESQL.format(type="smallint DEFAULT 1"), plain(), ({}, {"active": None})),
    Case("sqlite", "sqlite", "CREATE TABLE mailbox (username TEXT PRIMARY KEY, password TEXT, active INTEGER DEFAULT 1)", plain(),
         ({}, {"active": None}, {"active": "yes"})),
)  # fmt: skip


def nothing(login: str, prior: dict[str, Any], locked_already: bool) -> None:
    """A record that nobody needs."""


def everything(database: Any, table: str) -> list[tuple[Any, ...]]:
    return sorted(database.run(f"SELECT * FROM {table}"), key=repr)


def fill(database: Any, case: Case, columns: dict[str, Any]) -> str:
    """Makes the table with three accounts; the column that names them."""
    database.run(case.create)
    for account in (WANG, LIU, "wang@corp.example.net"):
        database.run(case.insert, account=account)
    name = "email" if case.table == "core_user" else "username"
    for column, value in columns.items():
        database.run(f"UPDATE {case.table} SET {column} = :value WHERE {name} = :account", value=value, account=WANG)
    return name


@contextmanager
def granted(database: Any, preset: str) -> Iterator[tuple[str, str]]:
    """A user with exactly the grants that the preset's text asks for; its URL and its name there."""
    name = f"s{uuid.uuid4().hex[:12]}"
    text = load_preset(preset).grants
    first, _, second = text.partition("-- PostgreSQL")
    who = f"'{name}'@'127.0.0.1'" if database.kind == "mysql" else name
    text = first if database.kind == "mysql" else second
    text = "\n".join(line for line in text.splitlines() if not line.startswith("--"))
    text = text.replace("'sentinel'@'localhost'", who) if database.kind == "mysql" else re.sub(r"\bsentinel\b", name, text)
    text = re.sub(r" ON \w+\.", f" ON {database.url.database}.", text).replace("'...'", "'p'")
    try:
        for statement in filter(str.strip, text.split(";")):
            database.run(statement)
        yield database.url.set(username=name, password="p").render_as_string(hide_password=False), who
    finally:
        if database.kind == "mysql":
            database.run(f"DROP USER IF EXISTS {who}")
        else:
            database.run(f"DROP OWNED BY {who}")
            database.run(f"DROP ROLE {who}")


EVERY = [(case, columns) for case in CASES for columns in case.columns]


def named(value: Any) -> str:
    return f"{value.preset}-{value.server}" if isinstance(value, Case) else str(value)[:40]


def test_every_sql_preset_is_here() -> None:
    assert {case.preset for case in CASES} == {name for name in preset_names() if load_preset(name).kind == "sql"}


@pytest.mark.parametrize(("case", "columns"), EVERY, ids=named)
def test_lock_verify_list_unlock_leaves_no_trace(case: Case, columns: dict[str, Any], request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue(case.server)
    fill(database, case, columns)
    before = everything(database, case.table)
    locker = AccountLocker(database.address, case.preset)
    assert not locker.is_locked(WANG)
    assert locker.list_locked() == []
    result = locker.lock(WANG, nothing)
    assert (result.login, result.locked_already, result.rows) == (WANG, False, 1)
    assert result.statement.startswith("UPDATE ")
    assert ":account" in result.statement
    assert WANG not in result.statement
    now = everything(database, case.table)
    assert len([row for row in now if row not in before]) == 1
    assert len([row for row in before if row not in now]) == 1
    assert locker.is_locked(WANG)
    assert not locker.is_locked(LIU)
    assert locker.list_locked() == [WANG]
    again = locker.lock(WANG, nothing)
    assert (again.locked_already, again.rows, again.statement) == (True, 0, "")
    undone = locker.unlock(WANG, result.prior)
    assert undone.rows == 1
    assert undone.statement.startswith("UPDATE ")
    assert everything(database, case.table) == before
    assert not locker.is_locked(WANG)
    assert locker.list_locked() == []
    locker.unlock(WANG, result.prior)
    assert everything(database, case.table) == before
    locker.close()


@pytest.mark.parametrize("case", [case for case in CASES if case.server != "sqlite"], ids=named)
def test_grants_of_the_preset_are_enough_and_no_more(case: Case, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue(case.server)
    fill(database, case, case.columns[0])
    before = everything(database, case.table)
    with granted(database, case.preset) as (url, who):
        locker = AccountLocker(url, case.preset)
        locker.check()
        result = locker.lock(WANG, nothing)
        assert locker.list_locked() == [WANG]
        locker.unlock(WANG, result.prior)
        assert everything(database, case.table) == before
        with locker._engine.connect() as db, pytest.raises(Exception, match=r"denied"):
            db.exec_driver_sql(f"SELECT * FROM {case.table}")
        column = re.search(r"UPDATE \((\w+)", load_preset(case.preset).grants)
        assert column is not None
        database.run(f"REVOKE UPDATE ({column[1]}) ON {case.table} FROM {who}")
        with pytest.raises(LockTrouble) as caught:
            locker.lock(WANG, nothing)
        sentence = str(caught.value)
        assert "denied" in sentence
        assert sentence.endswith(f"; grant what is missing: sentinel locks presets {case.preset}")
        assert "\n" not in sentence
        assert everything(database, case.table) == before
        locker.close()


def test_password_without_rights_is_told_at_the_connection(mysql: Any) -> None:
    mysql.create_generic(WANG)
    with granted(mysql, "generic") as (url, _):
        locker = AccountLocker(url.replace(":p@", ":wrong-one@"))
        with pytest.raises(LockUnavailable, match="Access denied") as caught:
            locker.lock(WANG, nothing)
        assert "wrong-one" not in str(caught.value)


# what others change meanwhile


@pytest.mark.parametrize(("meanwhile", "after"), [
    ("JSON_SET(attributes, '$.imap_access', '0')", {"smtp_access": "1", "imap_access": "0"}),
    ("JSON_SET(attributes, '$.quarantine', 'x', '$.smtp_access', '2')", {"smtp_access": "1", "imap_access": "1", "quarantine": "x"}),
    ("NULL", {"smtp_access": "1"}),
])  # fmt: skip
def test_mailcow_puts_only_its_key_back_when_others_have_changed_more(mysql: Any, meanwhile: str, after: dict[str, str]) -> None:
    import json

    case = next(case for case in CASES if case.preset == "mailcow")
    fill(mysql, case, {"attributes": '{"smtp_access":"1","imap_access":"1"}'})
    locker = AccountLocker(mysql.address, "mailcow")
    result = locker.lock(WANG, nothing)
    mysql.run(f"UPDATE mailbox SET attributes = {meanwhile}, modified = '2024-01-01' WHERE username = :a", a=WANG)
    locker.unlock(WANG, result.prior)
    ((attributes, modified),) = mysql.run("SELECT attributes, modified FROM mailbox WHERE username = :a", a=WANG)
    assert json.loads(attributes) == after
    assert str(modified) == "2024-01-01 00:00:00"
    locker.close()


def test_mailcow_takes_a_key_out_again_that_was_not_there(mysql: Any) -> None:
    case = next(case for case in CASES if case.preset == "mailcow")
    fill(mysql, case, {"attributes": '{"imap_access":"1"}'})
    locker = AccountLocker(mysql.address, "mailcow")
    result = locker.lock(WANG, nothing)
    mysql.run("UPDATE mailbox SET attributes = JSON_SET(attributes, '$.a', 1) WHERE username = :a", a=WANG)
    locker.unlock(WANG, result.prior)
    assert "smtp_access" not in mysql.run("SELECT attributes FROM mailbox WHERE username = :a", a=WANG)[0][0]
    locker.close()


def test_old_password_does_not_replace_a_new_one(mysql: Any) -> None:
    case = next(case for case in CASES if case.preset == "extmail-password")
    fill(mysql, case, {})
    locker = AccountLocker(mysql.address, "extmail-password")
    result = locker.lock(WANG, nothing)
    assert HASH not in repr(result)
    ((scrambled,),) = mysql.run("SELECT password FROM mailbox WHERE username = :a", a=WANG)
    assert re.fullmatch(r"!sentinel-locked![\w-]{43}", scrambled)
    assert scrambled not in result.statement
    mysql.run("UPDATE mailbox SET password = '$6$new' WHERE username = :a", a=WANG)
    assert not locker.is_locked(WANG)
    locker.unlock(WANG, result.prior)
    assert mysql.run("SELECT password FROM mailbox WHERE username = :a", a=WANG) == [("$6$new",)]
    locker.close()


def test_every_scrambled_password_is_another(mysql: Any) -> None:
    fill(mysql, next(case for case in CASES if case.preset == "extmail-password"), {})
    locker = AccountLocker(mysql.address, "extmail-password")
    for account in (WANG, LIU):
        locker.lock(account, nothing)
    ((different,),) = mysql.run("SELECT count(DISTINCT password) FROM mailbox WHERE password LIKE '!sentinel-locked!%'")
    assert different == 2
    assert sorted(locker.list_locked()) == [LIU, WANG]
    locker.close()


def test_unlock_that_does_not_unlock_is_an_error(sqlite: Any, tmp_path: Any) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        "name: odd\nmay_change: [active]\n"
        "read: SELECT username AS account, active AS active FROM mailbox WHERE username = :account\n"
        "lock: UPDATE mailbox SET active = 0 WHERE username = :account\n"
        "unlock: UPDATE mailbox SET active = 0 WHERE username = :account\n"
        "verify: SELECT active = 0 FROM mailbox WHERE username = :account\n"
    )
    sqlite.create_generic(WANG)
    locker = AccountLocker(sqlite.address, str(path))
    result = locker.lock(WANG, nothing)
    with pytest.raises(LockFailed, match=r"still shows wang@corp\.example as locked"):
        locker.unlock(WANG, result.prior)
    with pytest.raises(LockFailed, match="no list statement"):
        locker.list_locked()
    locker.close()


# the connection


def test_unix_sockets_by_the_url(mysql: Any, postgresql: Any) -> None:
    for database, query in ((mysql, "SELECT @@socket"), (postgresql, "SHOW unix_socket_directories")):
        database.create_generic(WANG)
        path = str(database.run(query)[0][0]).split(",")[0].strip()
        given = f"unix_socket={path}" if database.kind == "mysql" else f"host={path}"
        scheme = "mysql" if database.kind == "mysql" else "postgresql"
        locker = AccountLocker(f"{scheme}://{database.url.username}@/{database.url.database}?{given}")
        try:
            locker.check()
        except LockUnavailable as error:
            pytest.skip(f"this user may not use the socket of {scheme}: {error}")
        with locker._engine.connect() as db:
            if database.kind == "mysql":
                assert (
                    db.exec_driver_sql("SELECT HOST FROM information_schema.processlist WHERE ID = CONNECTION_ID()").scalar() == "localhost"
                )
            else:
                assert db.exec_driver_sql("SELECT inet_server_addr()").scalar() is None
        result = locker.lock(WANG, nothing)
        assert database.rows() == {WANG: 0}
        locker.unlock(WANG, result.prior)
        locker.close()


def test_tls_by_the_url(postgresql: Any) -> None:
    postgresql.create_generic(WANG)
    url = f"postgresql://{postgresql.url.username}@{postgresql.url.host}:{postgresql.url.port}/{postgresql.url.database}"
    locker = AccountLocker(f"{url}?sslmode=require")
    if postgresql.run("SHOW ssl") == [("on",)]:
        locker.check()
    else:
        with pytest.raises(LockUnavailable, match="SSL"):
            locker.check()
    locker.close()
    mysql = AccountLocker("mysql://u@db.example/mail?ssl_ca=/etc/ssl/ca.pem&ssl_check_hostname=true")
    arguments = mysql._engine.dialect.create_connect_args(mysql._engine.url)[1]
    assert arguments["ssl"] == {"ca": "/etc/ssl/ca.pem", "check_hostname": True}


def test_file_preset_is_no_sql() -> None:
    with pytest.raises(UserError, match="does not lock in an SQL database"):
        AccountLocker("sqlite:////x", "access-map")
