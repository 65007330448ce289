"""Mail systems as the lock presets know them: their table of accounts with the types it has in real life, and how Dovecot asks it.

Tables are cut down to the columns that a lock, a login or an update could touch. Each password query tests what the preset's
notes say it must.
"""

from dataclasses import dataclass, field

WANG = "wang@corp.example"
"""The account that is locked."""
LIU = "liu@corp.example"
"""The account that must notice nothing."""
PASSWORDS = {WANG: "wang123", LIU: "liu-secret"}


@dataclass(frozen=True, slots=True)
class System:
    """One kind of mail system on one kind of database."""

    preset: str
    kind: str
    """``mysql``, ``postgresql`` or ``sqlite``"""
    database: str
    """As the preset's grants name it."""
    table: str
    """A statement that makes it, or several."""
    accounts: str
    """A statement that puts an account in, with {account}, {password} and {local}."""
    query: str
    """Dovecot's password_query."""
    name: str = "mailbox"
    username: str = "username"
    options: dict[str, str | int | bool] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.preset}-{self.kind}"

    @property
    def row(self) -> str:
        """All columns of WANG's row."""
        return f"SELECT * FROM {self.name} WHERE {self.username} = '{WANG}'"


_EXTMAIL = """
SET SESSION sql_mode = 'NO_ENGINE_SUBSTITUTION';
CREATE TABLE mailbox (
    username varchar(255) NOT NULL PRIMARY KEY,
    uid varchar(255) NOT NULL DEFAULT '',
    password varchar(255) NOT NULL DEFAULT '',
    clearpwd varchar(128) NOT NULL DEFAULT '',
    domain varchar(255) NOT NULL DEFAULT '',
    createdate datetime NOT NULL DEFAULT '0000-00-00 00:00:00',
    expiredate date NOT NULL DEFAULT '0000-00-00',
    active tinyint NOT NULL DEFAULT 1,
    disablepwdchange smallint,
    disablesmtpd smallint,
    disablesmtp smallint,
    disablewebmail smallint,
    disableimap smallint,
    disablepop3 smallint
) ENGINE=MyISAM DEFAULT CHARSET=utf8"""
_EXTMAIL_ACCOUNT = "INSERT INTO mailbox (username, uid, password, domain) VALUES ('{account}', '{local}', '{password}', 'corp.example')"
_EXTMAIL_QUERY = (
    "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active = 1 "
    "AND ('%s' <> 'smtp' OR disablesmtpd IS NULL OR disablesmtpd = 0)"
)

_POSTFIXADMIN = """
CREATE TABLE mailbox (
    username varchar(255) NOT NULL PRIMARY KEY,
    password varchar(255) NOT NULL,
    name varchar(255) NOT NULL,
    local_part varchar(255) NOT NULL,
    domain varchar(255) NOT NULL,
    quota bigint NOT NULL DEFAULT 0,
    created {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    modified {time} NOT NULL DEFAULT CURRENT_TIMESTAMP,
    active {flag},
    smtp_active {flag},
    token varchar(255) NOT NULL DEFAULT '',
    token_validity {time} NOT NULL DEFAULT '2000-01-01 00:00:00',
    password_expiry {time} NOT NULL DEFAULT '2000-01-01 00:00:00'
)"""
_POSTFIXADMIN_ACCOUNT = (
    "INSERT INTO mailbox (username, password, name, local_part, domain) VALUES ('{account}', '{password}', '', '{local}', 'corp.example')"
)
_POSTFIXADMIN_QUERY = (
    "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active = '1' AND ('%s' <> 'smtp' OR smtp_active = '1')"
)
_POSTFIXADMIN_TYPES = {
    "mysql": {"time": "datetime", "flag": "tinyint(1) NOT NULL DEFAULT 1"},
    "postgresql": {"time": "timestamp with time zone", "flag": "boolean NOT NULL DEFAULT true"},
}

_IREDMAIL = """
CREATE TABLE domain (domain varchar(255) NOT NULL PRIMARY KEY, backupmx {flag} DEFAULT 0, active {flag} DEFAULT 1);
INSERT INTO domain (domain) VALUES ('corp.example');
CREATE TABLE mailbox (
    username varchar(255) NOT NULL PRIMARY KEY,
    password varchar(255) NOT NULL DEFAULT '',
    domain varchar(255) NOT NULL DEFAULT '',
    quota bigint NOT NULL DEFAULT 0,
    enablesmtp {flag} DEFAULT 1,
    enablesmtpsecured {flag} DEFAULT 1,
    enableimap {flag} DEFAULT 1,
    enableimapsecured {flag} DEFAULT 1,
    enabledeliver {flag} DEFAULT 1,
    allow_nets text DEFAULT NULL,
    passwordlastchange timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    modified timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP,
    active {flag} DEFAULT 1
)"""
_IREDMAIL_ACCOUNT = "INSERT INTO mailbox (username, password, domain) VALUES ('{account}', '{password}', 'corp.example')"
_IREDMAIL_QUERY = (
    "SELECT mailbox.username AS user, mailbox.password AS password, mailbox.allow_nets AS allow_nets FROM mailbox, domain "
    "WHERE mailbox.username = '%u' AND mailbox.enable%Ls%Lc = 1 AND mailbox.active = 1 "
    "AND mailbox.domain = domain.domain AND domain.backupmx = 0 AND domain.active = 1"
)
_IREDMAIL_TYPES = {"mysql": {"flag": "tinyint(1) NOT NULL"}, "postgresql": {"flag": "smallint NOT NULL"}}

_MAILCOW = """
CREATE TABLE mailbox (
    username varchar(255) NOT NULL PRIMARY KEY,
    password varchar(255) NOT NULL,
    domain varchar(255) NOT NULL,
    attributes json,
    kind varchar(100) NOT NULL DEFAULT '',
    created datetime NOT NULL DEFAULT CURRENT_TIMESTAMP,
    modified datetime ON UPDATE CURRENT_TIMESTAMP,
    active tinyint(1) NOT NULL DEFAULT 1
)"""
_MAILCOW_ACCOUNT = (
    "INSERT INTO mailbox (username, password, domain, attributes, modified) VALUES ('{account}', '{password}', 'corp.example', "
    """'{{"force_pw_update": "0", "smtp_access":"1",  "imap_access": "1"}}', '2024-05-06 07:08:09')"""
)
# mailcow itself asks from a program; this is the condition in it.
_MAILCOW_QUERY = (
    "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active = 1 "
    "AND ('%s' <> 'smtp' OR JSON_VALUE(attributes, '$.smtp_access') = '1')"
)

_MODOBOA = """
CREATE TABLE core_user (
    id {serial} PRIMARY KEY,
    password varchar(256) NOT NULL,
    last_login {time},
    is_superuser {flag} NOT NULL,
    username varchar(254) NOT NULL UNIQUE,
    email varchar(254) NOT NULL,
    is_staff {flag} NOT NULL,
    is_active {flag} NOT NULL,
    date_joined {time} NOT NULL DEFAULT CURRENT_TIMESTAMP
)"""
_MODOBOA_ACCOUNT = (
    "INSERT INTO core_user (password, is_superuser, username, email, is_staff, is_active) "
    "VALUES ('{password}', false, '{account}', '{account}', false, true)"
)
_MODOBOA_QUERY = "SELECT email AS user, password FROM core_user WHERE email = '%u' AND is_active"
_MODOBOA_TYPES = {
    "mysql": {"serial": "int AUTO_INCREMENT", "time": "datetime(6)", "flag": "tinyint(1)"},
    "postgresql": {"serial": "serial", "time": "timestamp with time zone", "flag": "boolean"},
}

_PLAIN = "CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, password varchar(255) NOT NULL, active {flag} NOT NULL DEFAULT {on})"
_PLAIN_ACCOUNT = "INSERT INTO mailbox (username, password) VALUES ('{account}', '{password}')"
_PLAIN_QUERY = "SELECT username AS user, password FROM mailbox WHERE username = '%u' AND active = {on}"
_PLAIN_TYPES = {
    "mysql": {"flag": "int", "on": "1"},
    "postgresql": {"flag": "boolean", "on": "true"},
    "sqlite": {"flag": "integer", "on": "1"},
}


def _extmail(preset: str) -> System:
    return System(preset, "mysql", "extmail", _EXTMAIL, _EXTMAIL_ACCOUNT, _EXTMAIL_QUERY)


def _postfixadmin(preset: str, kind: str) -> System:
    table = _POSTFIXADMIN.format(**_POSTFIXADMIN_TYPES[kind])
    return System(preset, kind, "postfix", table, _POSTFIXADMIN_ACCOUNT, _POSTFIXADMIN_QUERY)


def _iredmail(kind: str) -> System:
    return System("iredmail", kind, "vmail", _IREDMAIL.format(**_IREDMAIL_TYPES[kind]), _IREDMAIL_ACCOUNT, _IREDMAIL_QUERY)


def _mailcow(preset: str) -> System:
    return System(preset, "mysql", "mailcow", _MAILCOW, _MAILCOW_ACCOUNT, _MAILCOW_QUERY)


def _modoboa(kind: str) -> System:
    table = _MODOBOA.format(**_MODOBOA_TYPES[kind])
    return System("modoboa", kind, "modoboa", table, _MODOBOA_ACCOUNT, _MODOBOA_QUERY, name="core_user", username="email")


def _plain(preset: str, kind: str) -> System:
    types = _PLAIN_TYPES[kind]
    return System(preset, kind, "mail", _PLAIN.format(**types), _PLAIN_ACCOUNT, _PLAIN_QUERY.format(**types))


SYSTEMS = (
    _extmail("extmail"),
    _extmail("extmail-active"),
    _extmail("extmail-password"),
    _postfixadmin("postfixadmin", "mysql"),
    _postfixadmin("postfixadmin", "postgresql"),
    _postfixadmin("postfixadmin-active", "mysql"),
    _postfixadmin("postfixadmin-active", "postgresql"),
    _iredmail("mysql"),
    _iredmail("postgresql"),
    _mailcow("mailcow"),
    _mailcow("mailcow-login"),
    _modoboa("mysql"),
    _modoboa("postgresql"),
    _plain("generic", "mysql"),
    _plain("generic", "postgresql"),
    _plain("sqlite", "sqlite"),
)
