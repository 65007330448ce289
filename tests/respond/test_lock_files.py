"""Locks in files: one line of a passwd-file, one entry of an access map that the real postmap builds."""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import UserError
from sentinel.respond.journal import _decode, _encode
from sentinel.respond.locks import AccessMapLocker, LockFailed, LockRefused, LockTrouble, PasswdFileLocker

WANG = "wang@corp.example"
LIU = "liu@corp.example"
ODD = (
    b"# users of corp.example\n\nwang@corp.example.net:{PLAIN}a::::::\n"
    b"wang@corp.example:{SHA512-CRYPT}$6$x$y:5000:5000:Wang, \xe9 not UTF-8:/home/w:/bin/false:userdb_quota_rule=*:bytes=1M nologin\r\n"
    b"#wang@corp.example:old::::::\nLiu@Corp.example:{BLF-CRYPT}$2y$05$abc\n\xff\xfe:x::::::\nno-colon-here\nlast@corp.example:p::::::"
)


def nothing(login: str, prior: dict[str, Any], locked_already: bool) -> None:
    """A record that nobody needs."""


def kept(prior: dict[str, Any]) -> dict[str, Any]:
    """The prior values as the journal gives them back."""
    decoded = _decode(_encode(prior))
    assert decoded is not None
    return decoded


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_bytes(ODD)
    path.chmod(0o640)
    return path


def passwd(path: Path) -> PasswdFileLocker:
    return PasswdFileLocker(options={"path": str(path)})


# passwd-file


@pytest.mark.parametrize("account", [WANG, LIU, "last@corp.example", "wang@corp.example.net"])
def test_lock_changes_one_line_and_unlock_nothing(users: Path, account: str) -> None:
    locker = passwd(users)
    locker.check()
    assert (locker.is_locked(account), locker.list_locked()) == (False, [])
    result = locker.lock(account, nothing)
    assert (result.locked_already, result.rows) == (False, 1)
    assert result.statement == f"{users}: password of {{account}} replaced"
    before, now = ODD.split(b"\n"), users.read_bytes().split(b"\n")
    ((old, new),) = [(a, b) for a, b in zip(before, now, strict=True) if a != b]
    assert new.startswith(old.split(b":")[0] + b":!sentinel-locked!")
    # All but the password.
    assert new.rstrip(b"\r").split(b":")[2:] == old.rstrip(b"\r").split(b":")[2:]
    assert new.endswith(b"\r") == old.endswith(b"\r")
    assert locker.is_locked(account)
    assert locker.list_locked() == [result.login]
    assert locker.lock(account, nothing).locked_already
    assert "SHA512" not in repr(result)
    assert locker.unlock(result.login, kept(result.prior)).rows == 1
    assert users.read_bytes() == ODD
    assert locker.unlock(result.login, kept(result.prior)).rows == 0
    assert sorted(os.listdir(users.parent)) == ["users"]


def test_owner_mode_and_link_stay(users: Path, tmp_path: Path) -> None:
    if os.getuid() == 0:
        os.chown(users, 1234, 4321)
    (tmp_path / "link").symlink_to(users)
    before = users.stat()
    locker = passwd(tmp_path / "link")
    result = locker.lock(WANG, nothing)
    now = users.stat()
    assert (now.st_uid, now.st_gid, now.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert (tmp_path / "link").is_symlink()
    locker.unlock(WANG, result.prior)
    assert users.read_bytes() == ODD


def test_size_always_changes(users: Path) -> None:
    """Dovecot looks at the second and the size: a hash of sixty characters must not be replaced by sixty others."""
    bcrypt = b"$2y$05$" + b"a" * 53
    users.write_bytes(b"wang@corp.example:" + bcrypt + b"\n")
    passwd(users).lock(WANG, nothing)
    assert len(users.read_bytes()) != len(b"wang@corp.example:" + bcrypt + b"\n")


def test_other_letter_case_only_when_it_is_one_account(users: Path) -> None:
    locker = passwd(users)
    assert locker.lock("LIU@CORP.EXAMPLE", nothing).login == "Liu@Corp.example"
    users.write_bytes(b"Liu@x:a::\nLIU@x:b::\nwang@x:c::\nwang@x:d::\n")
    before = users.read_bytes()
    for account, says in (("liu@x", "more than one line"), ("wang@x", "more than one line"), ("eva@x", "no such account")):
        with pytest.raises(LockRefused, match=says):
            locker.lock(account, nothing)
    assert users.read_bytes() == before
    assert locker.lock("LIU@x", nothing).login == "LIU@x"
    assert users.read_bytes().startswith(b"Liu@x:a::\nLIU@x:!")


def test_new_password_and_other_changes_stay(users: Path) -> None:
    locker = passwd(users)
    result = locker.lock(WANG, nothing)
    text = users.read_bytes()
    users.write_bytes(text.replace(b"5000:5000", b"6000:6000") + b"\nnew@corp.example:x::::::\n")
    locker.unlock(WANG, kept(result.prior))
    assert users.read_bytes() == ODD.replace(b"5000:5000", b"6000:6000") + b"\nnew@corp.example:x::::::\n"
    users.write_bytes(ODD)
    result = locker.lock(WANG, nothing)
    changed = b"\n".join(
        b"wang@corp.example:{PLAIN}new::::::" if line.startswith(b"wang@corp.example:") else line for line in ODD.split(b"\n")
    )
    users.write_bytes(changed)
    assert not locker.is_locked(WANG)
    assert locker.unlock(WANG, kept(result.prior)).rows == 0
    assert users.read_bytes() == changed
    users.write_bytes(b"liu@corp.example:x\n")
    with pytest.raises(LockRefused, match="no such account"):
        locker.unlock(WANG, kept(result.prior))


def test_record_is_told_before_anything_changes(users: Path) -> None:
    def stop(login: str, prior: dict[str, Any], locked_already: bool) -> None:
        assert (login, locked_already) == (WANG, False)
        assert prior["line"] in ODD
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        passwd(users).lock(WANG, stop)
    assert users.read_bytes() == ODD


def test_what_is_in_the_way_is_one_sentence(users: Path, tmp_path: Path) -> None:
    locker = passwd(tmp_path / "gone")
    for work in (locker.check, locker.list_locked, lambda: locker.lock(WANG, nothing)):
        with pytest.raises(LockTrouble, match=r"gone cannot be read or written: No such file or directory"):
            work()
    with pytest.raises(LockTrouble, match="Is a directory"):
        passwd(tmp_path).check()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can take rights away from another user")
@pytest.mark.parametrize(("folder", "owner", "says"), [
    (0o555, None, r"is not writable for sentinel|cannot be read or written: Permission denied"),
    (0o777, 1234, r"belongs to another user or group"),
])  # fmt: skip
def test_missing_rights_change_nothing(users: Path, tmp_path: Path, folder: int, owner: int | None, says: str) -> None:
    users.chmod(0o644)
    if owner is not None:
        os.chown(users, owner, owner)
    for parent in [tmp_path, *tmp_path.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    tmp_path.chmod(folder)
    program = (
        "import os, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "from sentinel.respond.locks import PasswdFileLocker, LockTrouble\n"
        "locker = PasswdFileLocker(options={'path': sys.argv[1]})\n"
        "try:\n    locker.lock('wang@corp.example', lambda *_: None)\n"
        "except LockTrouble as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", preloaded() + program, str(users)], capture_output=True, text=True, timeout=60)
    tmp_path.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert re.search(says, done.stdout)
    assert done.stdout.count("\n") == 1
    assert users.read_bytes() == ODD
    assert sorted(os.listdir(tmp_path)) == ["users"]


def preloaded() -> str:
    """Everything that a user without rights on this checkout could not import or read later."""
    return (
        "import sentinel.respond.lock_files as files\n"
        "loaded = files.load_preset('dovecot-passwd-file')\n"
        "files.load_preset = lambda name: loaded\n"
    )


SAFE = st.text(st.characters(exclude_characters=":\n\r#", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(names=st.lists(SAFE, min_size=1, max_size=6, unique_by=str.lower), rest=st.binary(max_size=30), which=st.integers(0, 5))
def test_any_file_comes_back_byte_for_byte(names: list[str], rest: bytes, which: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("any") / "users"
    rest = rest.replace(b"\n", b"")
    path.write_bytes(b"\n".join(name.encode() + b":" + rest for name in names))
    before = path.read_bytes()
    locker = passwd(path)
    account = names[which % len(names)]
    try:
        result = locker.lock(account, nothing)
    except LockRefused:
        assert path.read_bytes() == before
        return
    assert result.locked_already or path.read_bytes() != before
    locker.unlock(result.login, kept(result.prior))
    assert path.read_bytes() == before


# access map

needs_postmap = pytest.mark.skipif(shutil.which("postmap") is None, reason="postmap (Postfix) is not installed")
TEXT = b"# locked by hand\nspam@corp.example REJECT spam\n\nliu@corp.example\tOK\n  and more\n# end\nOther@corp.example DUNNO"


class Map:
    """An access map of the test's own."""

    def __init__(self, folder: Path, kind: str, text: bytes = TEXT) -> None:
        self.path, self.kind = folder / "locked", kind
        (folder / "postfix").mkdir()
        (folder / "postfix" / "main.cf").write_text("compatibility_level = 3.6\n")
        # Postfix waits until a new main.cf is two seconds old.
        os.utime(folder / "postfix" / "main.cf", (1_700_000_000, 1_700_000_000))
        self.postmap = ("postmap", "-c", str(folder / "postfix"))
        self.path.write_bytes(text)
        subprocess.run([*self.postmap, f"{kind}:{self.path}"], check=True, capture_output=True)

    def locker(self, **options: Any) -> AccessMapLocker:
        return AccessMapLocker(options={"path": str(self.path), "type": self.kind, "postmap": self.postmap, **options})

    def ask(self, key: str) -> str:
        """What Postfix would be told."""
        done = subprocess.run([*self.postmap, "-q", key, f"{self.kind}:{self.path}"], capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture(params=["lmdb", "hash"])
def access_map(request: pytest.FixtureRequest, tmp_path: Path) -> Map:
    try:
        return Map(tmp_path, request.param)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip(f"postmap with {request.param} is not installed")


def test_entry_is_added_and_taken_out(access_map: Map) -> None:
    locker = access_map.locker()
    locker.check()
    assert (locker.is_locked(WANG), locker.list_locked()) == (False, ["spam@corp.example"])
    result = locker.lock("Wang@Corp.example", nothing)
    assert (result.locked_already, result.rows) == (False, 1)
    assert result.statement == f"postmap -c {access_map.postmap[2]} {access_map.kind}:{access_map.path}"
    assert access_map.ask(WANG).startswith("REJECT This account is locked")
    assert access_map.path.read_bytes() == TEXT + b"\nwang@corp.example\tREJECT This account is locked; ask your mail administrator\n"
    assert sorted(locker.list_locked()) == ["spam@corp.example", WANG]
    assert locker.lock(WANG, nothing).locked_already
    assert locker.unlock(result.login, kept(result.prior)).rows == 1
    assert access_map.path.read_bytes() == TEXT
    assert access_map.ask(WANG) == ""
    assert locker.unlock(result.login, kept(result.prior)).rows == 0


def test_entry_of_somebody_is_replaced_and_put_back(access_map: Map) -> None:
    locker = access_map.locker(action="554 5.7.1 stop")
    result = locker.lock(LIU, nothing)
    assert access_map.ask(LIU) == "554 5.7.1 stop"
    assert access_map.ask("other@corp.example") == "DUNNO"
    other = locker.lock("OTHER@corp.example", nothing)
    locker.unlock(LIU, kept(result.prior))
    locker.unlock(other.login, kept(other.prior))
    assert access_map.path.read_bytes() == TEXT
    assert access_map.ask(LIU) == "OK  and more"


def test_lock_of_somebody_else_stays_after_ours(access_map: Map) -> None:
    locker = access_map.locker()
    result = locker.lock("spam@corp.example", nothing)
    assert result.locked_already
    locker.unlock("spam@corp.example", kept(result.prior))
    assert access_map.path.read_bytes() == TEXT
    assert access_map.ask("spam@corp.example") == "REJECT spam"


def test_other_entries_that_came_meanwhile_stay(access_map: Map) -> None:
    locker = access_map.locker()
    result = locker.lock(WANG, nothing)
    with access_map.path.open("ab") as file:
        file.write(b"late@corp.example REJECT\n")
    locker.unlock(WANG, kept(result.prior))
    assert access_map.path.read_bytes() == TEXT + b"\nlate@corp.example REJECT\n"
    assert access_map.ask("late@corp.example") == "REJECT"


def test_killed_before_postmap_is_finished_later(access_map: Map) -> None:
    with access_map.path.open("ab") as file:
        file.write(b"\nwang@corp.example\tREJECT This account is locked; ask your mail administrator\n")
    locker = access_map.locker()
    assert not locker.is_locked(WANG)
    told: list[bool] = []
    result = locker.lock(WANG, lambda _login, _prior, already: told.append(already))
    # The prior values of the attempt that was killed have to stay in the journal.
    assert told == [True]
    assert (result.locked_already, result.rows) == (True, 1)
    assert access_map.ask(WANG).startswith("REJECT")


def test_postmap_that_fails_puts_the_text_back(access_map: Map, tmp_path: Path) -> None:
    program = tmp_path / "postmap"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *-q*) exec postmap -c {access_map.postmap[2]} "$@";; esac\necho "fatal: no room" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    with pytest.raises(LockTrouble, match=r"failed for wang@corp\.example: fatal: no room"):
        access_map.locker(postmap=(str(program),)).lock(WANG, nothing)
    assert access_map.path.read_bytes() == TEXT
    program.write_text(f'#!/bin/sh\ncase "$*" in *-q*) exec postmap -c {access_map.postmap[2]} "$@";; esac\nexit 0\n')
    with pytest.raises(LockFailed, match="after postmap; the file is as it was"):
        access_map.locker(postmap=(str(program),)).lock(WANG, nothing)
    assert access_map.path.read_bytes() == TEXT
    with pytest.raises(LockTrouble, match=r"there is no program /none/postmap here"):
        access_map.locker(postmap=("/none/postmap",)).lock(WANG, nothing)
    assert access_map.path.read_bytes() == TEXT


def test_map_that_was_never_built(access_map: Map, tmp_path: Path) -> None:
    for name in ("locked.lmdb", "locked.db"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(LockTrouble, match=r"locked cannot be asked: .*No such file"):
        access_map.locker().check()


LOCK_MANY = """
import sys
from sentinel.respond.locks import AccessMapLocker
path, conf, kind, who, count = sys.argv[1:]
locker = AccessMapLocker(options={"path": path, "type": kind, "postmap": ("postmap", "-c", conf)})
for number in range(int(count)):
    locker.lock(f"{who}{number}@corp.example", lambda *_: None)
"""


@needs_postmap
def test_two_processes_lose_no_entry(tmp_path: Path) -> None:
    made = Map(tmp_path, "hash", b"")
    arguments = [str(made.path), made.postmap[2], made.kind]
    children = [subprocess.Popen([sys.executable, "-c", LOCK_MANY, *arguments, who, "6"]) for who in "ab"]
    assert [child.wait(120) for child in children] == [0, 0]
    wanted = sorted(f"{who}{number}@corp.example" for who in "ab" for number in range(6))
    assert sorted(made.locker().list_locked()) == wanted
    assert sorted(line.split(b"\t")[0].decode() for line in made.path.read_bytes().splitlines()) == wanted


def test_threads_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("".join(f"u{number}@x:p{number}::::::\n" for number in range(20)))
    before = path.read_bytes()
    locker = passwd(path)
    priors: dict[str, Any] = {}

    def work(part: int, do: Callable[[str], None]) -> None:
        for number in range(part, 20, 4):
            do(f"u{number}@x")

    def lock(account: str) -> None:
        priors[account] = locker.lock(account, nothing).prior

    for do in (lock, lambda account: locker.unlock(account, priors[account])):
        threads = [threading.Thread(target=work, args=(part, do)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        if do is lock:
            assert len(locker.list_locked()) == 20
    assert path.read_bytes() == before


# settings


@pytest.mark.parametrize(("options", "says"), [
    ({}, r"options\.path: is missing; the preset access-map needs it"),
    ({"path": "etc/locked"}, "is not an absolute path"),
    ({"path": "/x", "type": "texthash"}, "texthash is not one of lmdb, hash"),
    ({"path": "/x", "typ": "hash"}, 'did you mean "type"'),
    ({"path": "/x", "postmap": "postmap -c /etc"}, "must be a program and its arguments, as a list"),
    ({"path": "/x", "action": "OK"}, "does not refuse; write REJECT"),
    ({"path": "/x", "action": "REJECT\nx OK"}, "does not refuse; write REJECT"),
])  # fmt: skip
def test_options_of_the_access_map_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        AccessMapLocker(options=options)
