"""Accounts as an attacker would write them, for every kind of locker: a refusal in a clear sentence, or a name and no
more. All that there is besides is compared before and after.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy.exc import SQLAlchemyError
from test_lock_command import Accounts
from test_lock_files import Map, passwd

from sentinel.respond.locks import AccountLocker, CommandLocker, Locker, LockRefused

WANG = "wang@corp.example"
NAMES = {
    "sql": "'; DROP TABLE mailbox; --",
    "sql or": "' OR '1'='1",
    "sql double": '" OR ""="',
    "option": "-d ALL",
    "long option": "--help",
    "dash": "-",
    "double dash": "--",
    "path": "../../x",
    "absolute": "/etc/passwd",
    "newline": "wang@corp.example\nroot@x REJECT",
    "crlf": "wang@corp.example\r\n",
    "tab": "wang@corp.example\tOK",
    "nul": "wang@corp.example\0",
    "long": "x" * 10_000,
    "empty": "",
    "format": "%s%n%d",
    "percent": "%",
    "underscore": "_ang@corp.example",
    "braces": "{}",
    "placeholder": "{account}",
    "bind": ":account",
    "prior": ":prior_active",
    "colon": "a:b",
    "comment": "#x",
    "quote": '"',
    "quoted": '"wang@corp.example"',
    "backslash": "\\' OR 1=1 -- ",
    "blank before": " wang@corp.example",
    "blank after": "wang@corp.example ",
    "blanks": "two words@corp.example",
    "shell": "$(touch x);`id`|&>x",
    "accent": "wáng@corp.example",
    "full width": "\uff57ang@corp.example",
    "kelvin": "\u212aim@corp.example",
    "sharp s": "straße@corp.example",
    "dotless i": "kım@corp.example",
    "zero width": "w\u200bang@corp.example",
    "right to left": "\u202ewang@corp.example",
    "combining": "wa\u0301ng@corp.example",
    "surrogate": "\udcff@corp.example",
    "emoji": "\U0001f600@corp.example",
    "chinese": "王@例.中国",
    "line separator": "x\u2028wang@corp.example REJECT",
    "next line": "x\u0085wang@corp.example:y",
}
OTHERS = (WANG, "kim@corp.example", "strasse@corp.example", "x", "wan@corp.example")


class Place(NamedTuple):
    """Something to lock in, and all that is in it: what, without the named account, must never change."""

    locker: Locker
    everything: Callable[[], dict[str, Any]]
    knows: bool = True
    """Whether it knows which accounts there are."""


def table(database: Any, names: tuple[str, ...]) -> Place:
    database.run("CREATE TABLE mailbox (username VARCHAR(255) PRIMARY KEY, active INTEGER, note VARCHAR(20))")
    for name in names:
        database.run("INSERT INTO mailbox VALUES (:name, 1, 'note')", name=name)
    return Place(AccountLocker(database.address), lambda: {name: tuple(rest) for name, *rest in database.run("SELECT * FROM mailbox")})


def users(folder: Path, names: tuple[str, ...]) -> Place:
    path = folder / "users"
    path.write_bytes("\n".join(f"{name}:{{PLAIN}}p::::::" for name in names).encode())

    def everything() -> dict[str, Any]:
        lines = path.read_bytes().decode().split("\n")
        return {line.partition(":")[0]: line.partition(":")[2] for line in lines} | {"": len(lines)}

    return Place(passwd(path), everything)


def access_map(folder: Path, names: tuple[str, ...]) -> Place:
    text = "".join(f"{name}\tDUNNO\n" for name in OTHERS)
    made = Map(folder, "lmdb", text.encode())

    def everything() -> dict[str, Any]:
        import subprocess

        done = subprocess.run([*made.postmap, "-s", f"lmdb:{made.path}"], capture_output=True, check=True)
        lines = made.path.read_bytes().decode().split("\n")
        return dict(line.split("\t", 1) for line in done.stdout.decode().splitlines()) | {"": len(lines) - len(text.splitlines())}

    return Place(made.locker(), everything, knows=False)


def command(folder: Path, names: tuple[str, ...]) -> Place:
    accounts = Accounts(folder, **dict.fromkeys(names, "free"))
    return Place(CommandLocker(options=accounts.options), accounts.read)


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, tuple[str, ...]], Place]:
    def made(kind: str, names: tuple[str, ...]) -> Place:
        if kind == "access-map" and shutil.which("postmap") is None:
            pytest.skip("postmap (Postfix) is not installed")
        if kind in ("sqlite", "mysql", "postgresql"):
            return table(request.getfixturevalue(kind), names)
        return {"passwd-file": users, "access-map": access_map, "command": command}[kind](tmp_path, names)

    return made


KINDS = ("sqlite", "mysql", "postgresql", "passwd-file", "access-map", "command")


def nothing(login: str, prior: dict[str, Any], locked_already: bool) -> None:
    """A record that nobody needs."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_name_that_nobody_has(kind: str, name: str, make: Callable[[str, tuple[str, ...]], Place]) -> None:
    place = make(kind, OTHERS)
    before = place.everything()
    recorded: list[str] = []
    for work in (lambda: place.locker.lock(name, lambda login, *_: recorded.append(login)), lambda: place.locker.is_locked(name)):
        try:
            work()
        except LockRefused as error:
            assert str(error).isprintable()
            assert 20 < len(str(error)) < 600
        else:
            # Only a map that knows no accounts takes a name that nobody has.
            assert not place.knows
    now = place.everything()
    if place.knows or not recorded:
        assert recorded == []
        assert now == before
    else:
        extra = {key for key in now if key not in before}
        assert extra == {name.lower()}
        assert now == before | {name.lower(): now[name.lower()], "": now[""]}
        assert place.locker.unlock(name, {"entry": None, "ended": True}).rows == 1
        assert place.everything() == before
    place.locker.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "access-map"])
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_name_that_somebody_has(kind: str, name: str, make: Callable[[str, tuple[str, ...]], Place]) -> None:
    try:
        name.encode()
        place = make(kind, (*OTHERS[:1], name))
    except (ValueError, SQLAlchemyError):
        # No Unicode, too long, or the same as another by the database's collation.
        assert kind in ("mysql", "postgresql") or name == NAMES["surrogate"]
        pytest.skip("a name that nobody can have there")
    before = place.everything()
    try:
        result = place.locker.lock(name, nothing)
    except LockRefused as error:
        assert str(error).isprintable()
        assert place.everything() == before
    else:
        assert result.login == name
        now = place.everything()
        assert {key for key in before if now[key] != before[key]} == {name}
        assert place.locker.list_locked() == [name]
        place.locker.unlock(name, result.prior)
        assert place.everything() == before
    place.locker.close()
