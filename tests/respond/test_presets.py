"""Preset files, and the locker that a configuration asks for."""

import re
from pathlib import Path
from typing import Any

import pytest

from sentinel.config import DatabaseSettings, load_config
from sentinel.errors import UserError
from sentinel.respond.locks import (
    AccessMapLocker,
    AccountLocker,
    CommandLocker,
    PasswdFileLocker,
    load_preset,
    locker_of_settings,
    preset_names,
)
from sentinel.wiring import locker_of

COMMANDS = dict.fromkeys(("lock", "unlock", "verify"), ("/bin/true", "--", "{account}"))


def settings(**given: Any) -> DatabaseSettings:
    return DatabaseSettings.model_validate(given)


@pytest.mark.parametrize(
    ("given", "kind", "place"),
    [
        ({"url": "sqlite:////x/mail.db"}, AccountLocker, "sqlite /x/mail.db"),
        ({"url": "sqlite:////x/mail.db", "preset": "sqlite"}, AccountLocker, "sqlite /x/mail.db"),
        ({"url": "file:///etc/dovecot/users", "preset": "dovecot-passwd-file"}, PasswdFileLocker, "file /etc/dovecot/users"),
        ({"options": {"path": "/etc/dovecot/users"}, "preset": "dovecot-passwd-file"}, PasswdFileLocker, "file /etc/dovecot/users"),
        ({"url": "file:///a%20b/%23c", "preset": "access-map"}, AccessMapLocker, "access map lmdb:/a b/#c"),
        ({"url": "file://localhost/a", "preset": "access-map", "options": {"type": "hash"}}, AccessMapLocker, "access map hash:/a"),
        ({"preset": "command", "options": COMMANDS}, CommandLocker, "the program /bin/true"),
    ],
)
def test_preset_says_which_locker(given: dict[str, Any], kind: type, place: str) -> None:
    locker = locker_of_settings(settings(**given))
    assert type(locker) is kind
    assert locker.place == place
    assert repr(locker)
    locker.close()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"preset": "extmail"},
            r"database\.url: is missing; say where the accounts are, such as mysql://.*: the preset extmail locks them",
        ),
        ({"preset": "extmail", "url": "file:///x"}, r"database\.url: a file is for presets such as dovecot-passwd-file"),
        ({"preset": "access-map"}, r"database\.options\.path: is missing; the preset access-map needs it: the map's text"),
        ({"preset": "access-map", "url": "mysql://h/x"}, r"database\.url: the preset access-map changes a file; write file:///path"),
        ({"preset": "access-map", "url": "file://host/x"}, r"write file:///path"),
        ({"preset": "access-map", "url": "file:///x", "options": {"path": "/y"}}, r"the path is in url and in options\.path; keep one"),
        ({"preset": "access-map", "url": "file:///x", "password_file": "/y"}, r"password_file: the preset access-map uses no password"),
        ({"preset": "access-map", "url": "${SENTINEL_NOT_SET}"}, r"variable SENTINEL_NOT_SET is not set"),
        ({"preset": "command", "url": "mysql://h/x"}, r"database\.url: the preset command runs programs"),
        ({"preset": "command"}, r"database\.options\.lock: is missing; the preset command needs it"),
        (
            {"preset": "command", "options": COMMANDS | {"lock": "mail lock"}},
            r"options\.lock: mail lock: must be a program and its arguments",
        ),
        ({"preset": "command", "options": COMMANDS | {"lock": ()}}, r"options\.lock: \(\): must be a program"),
        ({"preset": "command", "options": COMMANDS | {"lok": ("x",)}}, 'did you mean "lock"'),
        ({"url": "sqlite:////x", "options": {"table": ("a", "b")}}, "not a plain name"),
        ({"url": "sqlite:////x", "options": {"locked": ("a", "b")}}, r"options\.locked: must be a text, a whole number"),
    ],
)
def test_what_is_wrong_with_the_database_section_is_one_sentence(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        locker_of_settings(settings(**given))
    assert "\n" not in str(caught.value)


def test_configuration_file_without_a_url(tmp_path: Path) -> None:
    path = tmp_path / "sentinel.yaml"
    path.write_text(
        "log: /x\ndatabase:\n  preset: command\n  options:\n    lock: [/bin/l, --, '{account}']\n    unlock: [u]\n    verify: [v]\n"
    )
    locker = locker_of(load_config(path))
    assert isinstance(locker, CommandLocker)
    path.write_text("log: /x\ndatabase:\n  options: {table: x}\n")
    with pytest.raises(UserError, match=r"sentinel\.yaml:2: database\.url: is missing; say where the accounts are"):
        load_config(path)
    path.write_text("log: /x\ndatabase:\n  preset: command\n  options: {lock: [1, 2]}\n")
    with pytest.raises(UserError, match=r"sentinel\.yaml:4: database\.options\.lock: must be a text, .* or a list of texts, not a list"):
        load_config(path)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_says_all_that_an_admin_has_to_know(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    for key in ("read", "lock", "unlock", "verify", "list"):
        assert preset.statement(key), key
    assert preset.grants
    if name != "command":
        # What goes on: sessions, and the cache that answers for the database.
        assert re.search(r"[Ss]essions? ", preset.notes)
        assert "auth_cache" in preset.notes
    if preset.kind == "sql":
        assert "query" in preset.notes or "script" in preset.notes or "Every login asks" in preset.notes
        assert "UPDATE" in preset.grants or name == "sqlite"
    assert max(map(len, [*preset.notes.splitlines(), *preset.grants.splitlines()])) <= 150


def test_mistakes_in_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: bad\n"
        "kind: comand\n"
    )  # fmt: skip
    with pytest.raises(UserError, match=r'bad\.yaml:2: kind: "comand" is no kind of preset; did you mean "command"\?'):
        load_preset(str(path))
    path.write_text(
        "name: bad\n"
        "kind: command\n"
        "options:\n"
        "  tool: {kind: argv}\n"
        "  where: {kind: path, default: etc}\n"
        "  how: {kind: choice, choices: [a, b], default: c}\n"
        "  who: {kind: person}\n"
        "  empty: {kind: value}\n"
        "lock: rm -rf {account}\n"
        "unlock: [x, '--tool={tool}', '{tol}']\n"
        "list: [x, --, '{account}']\n"
        "may_change: [a b]\n"
    )
    with pytest.raises(UserError) as caught:
        load_preset(str(path))
    lines = str(caught.value).replace(str(path), "bad").splitlines()
    for expected in (
        "bad:5: options.where.default: must be an absolute path",
        "bad:6: options.how.default: must be one of a, b",
        "bad:7: options.who.kind: must be one of identifier, value, path, argv, choice",
        "bad:8: options.empty.default: must be a text, a whole number, true or false",
        "bad:9: lock: must be a program and its arguments, as a list of texts",
        "bad:10: unlock: {tool} stands for several arguments, so it must be an argument by itself",
        'bad:10: unlock: {tol} is no option; did you mean "tool"?',
        "bad:11: list: list is about all accounts; there is no {account} in it",
        "bad:12: may_change: must be a list of columns that read gives",
        "bad:1: verify: is missing",
    ):
        assert expected in lines
    path.write_text(
        "name: bad\nread: SELECT 1 WHERE a = :account\nlock: UPDATE a SET b = :scrambled WHERE a = :account\n"
        "unlock: UPDATE a SET b = :scrambled WHERE a = :account\nverify: SELECT 1 WHERE a = :account\nlist: SELECT a WHERE b = :account\n"
    )
    with pytest.raises(UserError) as caught:
        load_preset(str(path))
    assert "bad.yaml:4: unlock: :scrambled is not known here" in str(caught.value)
    assert "bad.yaml:6: list: :account is not known here" in str(caught.value)
