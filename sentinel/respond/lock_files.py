"""Locks an account in a file: Dovecot's passwd-file, or an access map for Postfix's ``check_sasl_access``.

Both change one entry and leave every other byte as it is. A file is written anew beside the old one, with its owner,
mode and extended attributes, brought to the disk, and put in its place by a rename: readers see the one or the other,
never half of it. So the folder must be writable. Processes of ours take turns (a lock on the folder, which needs no file
of its own and no rights); when somebody else has changed the file in the meantime, it is read again.

:class:`PasswdFileLocker` replaces the password by one that nobody has. Dovecot's extra field ``nologin`` would not do:
it stops IMAP and POP3 logins, but on the socket that Postfix asks the answer is ``OK … nologin``, and Postfix does not read
the second word (measured with Dovecot 2.3.19). ``allow_nets`` would, but there is only one such field, and it may be in use.

:class:`AccessMapLocker` adds a line that rejects the account and has ``postmap`` build the map from it. Postfix then
refuses each recipient of the account's mail, also in a session that is already open.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sentinel.detect.detection import account_key
from sentinel.errors import UserError
from sentinel.respond import locks
from sentinel.respond.locks import (
    MAX_LISTED,
    SCRAMBLED_PREFIX,
    LockError,
    LockFailed,
    LockRefused,
    LockResult,
    LockTrouble,
    LockUnavailable,
    Record,
    UnlockResult,
    check_account,
    run_program,
)
from sentinel.respond.policy import printable
from sentinel.respond.presets import Preset, Value, load_preset, option_values, shown

_MAX_FILE_BYTES = 64 << 20
_ATTEMPTS = 5
_PASSES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ENFILE, errno.EMFILE)
"""Errors that are not about this file, and go away."""


class PasswdFileLocker:
    """Locks accounts in a passwd-file of Dovecot's. Any thread may use it."""

    def __init__(self, preset: Preset | str = "dovecot-passwd-file", options: Mapping[str, Value] | None = None) -> None:
        """Opens nothing. Raises UserError for what is wrong with the settings."""
        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        if self.preset.kind != "passwd-file":
            raise UserError(f"the preset {self.preset.name} changes no passwd-file")
        self._file = _File(str(option_values(self.preset, options or {})["path"]))
        self.place = f"file {self._file.path}"

    def __repr__(self) -> str:
        return f"PasswdFileLocker({self.place!r}, preset={self.preset.name!r})"

    def close(self) -> None:
        """Nothing is open."""

    def lock(self, account: str, record: Record) -> LockResult:
        """Locks an account, or finds that it is locked. Raises a :class:`LockError`, and what ``record`` raises."""
        check_account(account)
        with self._file.held():
            login, line = self._line(self._file.read().data, account)
            prior = {"line": line}
            locked_already = _is_scrambled(line)
            record(login, prior, locked_already)
            if locked_already:
                return LockResult(login, prior, True)
            changed = _with_password(line, _scrambled(len(_password(line))))
            self._file.change(lambda data: self._replaced(data, login, line, changed))
            if not _is_scrambled(self._line(self._file.read().data, login)[1]):
                raise LockFailed(f"{self._file.path} does not show {printable(login)} as locked; another program writes it too")
        return LockResult(login, prior, False, f"{self._file.path}: password of {{account}} replaced", 1)

    def unlock(self, login: str, prior: Mapping[str, Any]) -> UnlockResult:
        """Puts the password back, and with it the line exactly as it was. A password that somebody has set in the
        meantime stays: the old one is known to others.
        """
        check_account(login)
        before = bytes(prior["line"])
        with self._file.held():
            found, line = self._line(self._file.read().data, login)
            if found != login:
                raise LockRefused(f"no such account in {self._file.path}: {printable(login)}")
            if not _is_scrambled(line):
                return UnlockResult()
            restored = _with_password(line, _password(before))
            self._file.change(lambda data: self._replaced(data, login, line, restored))
            if self._line(self._file.read().data, login)[1] != restored:
                raise LockFailed(f"{self._file.path} did not take the line of {printable(login)} back; another program writes it too")
        return UnlockResult(f"{self._file.path}: password of {{account}} put back", 1)

    def is_locked(self, account: str) -> bool:
        """What the file says now."""
        check_account(account)
        return _is_scrambled(self._line(self._file.read().data, account)[1])

    def list_locked(self) -> list[str]:
        """Accounts whose password is one that nobody has; the first 10,000."""
        lines = self._file.read().data.split(b"\n")
        return [_name(line).decode("utf-8", "replace") for line in lines if _name(line) and _is_scrambled(line)][:MAX_LISTED]

    def check(self) -> None:
        """Raises a :class:`LockError` unless the file can be read and replaced."""
        self._file.check()

    def _line(self, data: bytes, account: str) -> tuple[str, bytes]:
        """The account as the file has it, and its line."""
        wanted = account.encode()
        found = [line for line in data.split(b"\n") if _name(line) == wanted]
        if not found:
            key = account_key(account)
            found = [
                line for line in data.split(b"\n") if _name(line) and account_key(_name(line).decode("utf-8", "surrogateescape")) == key
            ]
        if len(found) > 1:
            raise LockRefused(f"more than one line in {self._file.path} matches {printable(account)}")
        if not found:
            raise LockRefused(f"no such account in {self._file.path}: {printable(account)}")
        return _name(found[0]).decode("utf-8", "surrogateescape"), found[0]

    def _replaced(self, data: bytes, login: str, line: bytes, by: bytes) -> bytes:
        lines = data.split(b"\n")
        if lines.count(line) != 1:
            raise LockTrouble(f"the line of {printable(login)} in {self._file.path} has changed in this moment")
        lines[lines.index(line)] = by
        return b"\n".join(lines)


def _name(line: bytes) -> bytes:
    """The account of a line; empty for a comment, and for a line without a password field."""
    name, colon, _ = line.partition(b":")
    return name if colon and not name.startswith(b"#") else b""


def _password(line: bytes) -> bytes:
    return line.rstrip(b"\r").split(b":")[1]


def _with_password(line: bytes, password: bytes) -> bytes:
    name, _, rest = line.partition(b":")
    after = rest[len(_password(line)) :]
    return name + b":" + password + after


def _is_scrambled(line: bytes) -> bool:
    return _password(line).startswith(SCRAMBLED_PREFIX.encode())


def _scrambled(unlike: int) -> bytes:
    """A password that nobody has, of another length: Dovecot sees a change by second and size."""
    password = SCRAMBLED_PREFIX + secrets.token_urlsafe(32)
    return (password if len(password) != unlike else password + secrets.choice("abcdefgh")).encode()


# access map


class _Entry(NamedTuple):
    """A key with its value, or what stands between such; ``raw`` is all its bytes."""

    key: str | None
    value: str
    raw: bytes


class AccessMapLocker:
    """Locks accounts in a Postfix access map. Any thread may use it."""

    def __init__(self, preset: Preset | str = "access-map", options: Mapping[str, Value] | None = None) -> None:
        """Opens nothing. Raises UserError for what is wrong with the settings."""
        self.preset = load_preset(preset) if isinstance(preset, str) else preset
        if self.preset.kind != "access-map":
            raise UserError(f"the preset {self.preset.name} changes no access map")
        values = option_values(self.preset, options or {})
        self._file = _File(str(values["path"]))
        self._map = f"{values['type']}:{values['path']}"
        postmap = values["postmap"]
        self._postmap = postmap if isinstance(postmap, tuple) else (str(postmap),)
        self._action = str(values["action"])
        if not _stops(self._action) or not self._action.isascii() or not self._action.isprintable():
            raise UserError(
                f"database.options.action: {printable(self._action)} does not refuse; write REJECT and a text, or a code such as 554"
            )
        self.place = f"access map {self._map}"

    def __repr__(self) -> str:
        return f"AccessMapLocker({self.place!r}, preset={self.preset.name!r})"

    def close(self) -> None:
        """Nothing is open."""

    def lock(self, account: str, record: Record) -> LockResult:
        """Locks an account, or finds that it is locked. Raises a :class:`LockError`, and what ``record`` raises. The map
        does not know which accounts there are.
        """
        key = self._key(account)
        with self._file.held():
            data = self._file.read().data
            entry = self._entry(data, key)
            locked_already = entry is not None and _stops(entry.value)
            prior: dict[str, Any] = {"entry": entry.raw if entry else None, "ended": data.endswith(b"\n") or not data}
            record(account, prior, locked_already)
            if not locked_already:
                self._file.change(lambda now: self._with(now, key, f"{key}\t{self._action}\n".encode()))
            elif self._found(key):
                return LockResult(account, prior, True)
            # The text may say so and the map not: somebody was interrupted before postmap.
            self._build(account, data if not locked_already else None)
            if not self._found(key):
                self._put_back(data)
                raise LockFailed(f"{self._map} does not show {printable(account)} after postmap; the file is as it was")
        return LockResult(account, prior, locked_already, self._shown(), 1)

    def unlock(self, login: str, prior: Mapping[str, Any]) -> UnlockResult:
        """Takes our entry out, or puts back the one that stood there before."""
        key = self._key(login)
        with self._file.held():
            before = self._file.read().data
            entry = self._entry(before, key)
            was = bytes(prior["entry"]) if prior.get("entry") is not None else None
            if entry is None or not _stops(entry.value):
                return UnlockResult()
            self._file.change(lambda now: self._without(now, key, was, bool(prior.get("ended", True))))
            self._build(login, before)
            if self._found(key) and not (was and _stops(self._parsed(was)[0].value)):
                raise LockFailed(f"{self._map} still shows {printable(login)} after postmap")
        return UnlockResult(self._shown(), 1)

    def is_locked(self, account: str) -> bool:
        """What the map tells Postfix now."""
        return self._found(self._key(account))

    def list_locked(self) -> list[str]:
        """Keys of the map whose value refuses, as Postfix sees it; the first 10,000."""
        done = run_program([*self._postmap, "-s", self._map], limit=_MAX_FILE_BYTES)
        if done.code != 0:
            raise LockTrouble(f"{self._map} cannot be read: {done.said or f'postmap ended with exit code {done.code}'}")
        lines = done.output.decode("utf-8", "replace").split("\n")
        return [key for key, _, value in (line.partition("\t") for line in lines) if _stops(value)][:MAX_LISTED]

    def check(self) -> None:
        """Raises a :class:`LockError` unless the file can be read and replaced and the map can be asked."""
        self._file.check()
        self._found("sentinel-check.invalid")

    def _key(self, account: str) -> str:
        """The account as the map's text may hold it."""
        check_account(account)
        if account.startswith("#") or any(char.isspace() or char in '"\\' for char in account):
            raise LockRefused(f"this cannot be a key of an access map, because of its blanks, quotes or #: {printable(account)}")
        key = account_key(account)
        if key.casefold() != key:
            raise LockRefused(
                f"Postfix holds {printable(account)} for the same as {printable(account.casefold())}, which may be somebody else"
            )
        return key

    def _found(self, key: str) -> bool:
        # The key is given on standard input: as an argument "-" would mean something else.
        done = run_program([*self._postmap, "-q", "-", self._map], given=f"{key}\n".encode())
        if done.code not in (0, 1) or (done.code == 1 and done.said):
            raise LockTrouble(f"{self._map} cannot be asked: {done.said or f'postmap ended with exit code {done.code}'}")
        return _stops(done.output.decode("utf-8", "replace").partition("\t")[2])

    def _build(self, account: str, before: bytes | None) -> None:
        """Runs postmap. When it fails, the text is put back, so that text and map don't differ."""
        try:
            done = run_program([*self._postmap, self._map])
        except LockTrouble:
            self._put_back(before)
            raise
        if done.code != 0:
            self._put_back(before)
            raise LockTrouble(f"{self._shown()} failed for {printable(account)}: {done.said or f'exit code {done.code}'}")

    def _put_back(self, before: bytes | None) -> None:
        if before is not None:
            with contextlib.suppress(LockError):
                self._file.change(lambda _: before)
                run_program([*self._postmap, self._map])

    def _shown(self) -> str:
        return shown([*self._postmap, self._map])

    def _entry(self, data: bytes, key: str) -> _Entry | None:
        found = [entry for entry in self._parsed(data) if entry.key is not None and account_key(entry.key) == key]
        if len(found) > 1:
            raise LockRefused(f"more than one entry in {self._file.path} is about {printable(key)}")
        return found[0] if found else None

    def _with(self, data: bytes, key: str, raw: bytes) -> bytes:
        entry = self._entry(data, key)
        if entry is None:
            return data + (b"" if data.endswith(b"\n") or not data else b"\n") + raw
        return b"".join(raw if each is entry else each.raw for each in self._parsed(data, entry))

    def _without(self, data: bytes, key: str, was: bytes | None, ended: bool) -> bytes:
        entry = self._entry(data, key)
        if entry is None:
            return data
        left = [was or b"" if each is entry else each.raw for each in self._parsed(data, entry)]
        text = b"".join(left)
        # A last line without an end got one from us, if it is still the last.
        return text[:-1] if was is None and not ended and data.endswith(entry.raw) and text.endswith(b"\n") else text

    def _parsed(self, data: bytes, known: _Entry | None = None) -> list[_Entry]:
        """The text in entries; a line that begins with a blank belongs to the entry before it (postmap(1))."""
        pieces: list[bytes] = []
        last: int | None = None
        for line in _lines(data):
            if line[:1] in b" \t" and line.strip() and not line.lstrip().startswith(b"#") and last is not None:
                pieces[last:] = [b"".join([*pieces[last:], line])]
            else:
                pieces.append(line)
                if line.strip() and not line.lstrip().startswith(b"#"):
                    last = len(pieces) - 1
        entries = [_entry(piece) for piece in pieces]
        return [known if known == entry else entry for entry in entries] if known else entries


def _lines(data: bytes) -> list[bytes]:
    """Lines that only a newline ends."""
    return re.findall(rb"[^\n]*\n|[^\n]+", data)


def _entry(raw: bytes) -> _Entry:
    text = raw.decode("utf-8", "surrogateescape")
    if not text.strip() or text.lstrip().startswith("#"):
        return _Entry(None, "", raw)
    quoted = re.match(r'\s*"([^"]*)"\s*(.*)', text, re.DOTALL)
    key, value = quoted.groups() if quoted else [*text.split(None, 1), ""][:2]
    return _Entry(key, value.strip(), raw)


def _stops(action: str) -> bool:
    """Whether the right side of an access map (access(5)) refuses."""
    word = action.split(None, 1)[0].upper() if action.strip() else ""
    return word in ("REJECT", "DEFER") or re.fullmatch(r"[45]\d\d", word) is not None


# the file


class _Content(NamedTuple):
    data: bytes
    status: os.stat_result


class _File:
    """A text file that is replaced whole."""

    def __init__(self, path: str) -> None:
        self.path = path

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """One process of ours at a time, for files in this folder."""
        folder = self._real().parent
        with self._translated(folder):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + locks.STATEMENT_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LockTrouble(f"another process has held {folder} for {locks.STATEMENT_SECONDS} seconds") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(handle)

    def read(self) -> _Content:
        """All of it. Raises a LockError."""
        with self._translated(self.path), open(self.path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
            if len(data) > _MAX_FILE_BYTES:
                raise LockTrouble(f"{self.path} is larger than {_MAX_FILE_BYTES >> 20} MiB")
            return _Content(data, os.fstat(file.fileno()))

    def change(self, edit: Callable[[bytes], bytes]) -> None:
        """Replaces the file by what ``edit`` makes of it. Raises a LockError, and what ``edit`` raises."""
        for _ in range(_ATTEMPTS):
            content = self.read()
            if self._replace(edit(content.data), content.status):
                return
        raise LockTrouble(f"{self.path} is changed by another program again and again")

    def check(self) -> None:
        """Raises a LockError unless the file is there and its folder can be written."""
        self.read()
        folder = self._real().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise LockTrouble(f"{folder} is not writable for sentinel; a changed {self._real().name} is written there and renamed")

    def _real(self) -> Path:
        """What a symbolic link means: the link stays a link."""
        return Path(os.path.realpath(self.path))

    def _replace(self, data: bytes, before: os.stat_result) -> bool:
        """False when the file is another than when it was read."""
        real = self._real()
        with self._translated(real.parent):
            handle, name = tempfile.mkstemp(prefix=f".{real.name}.", suffix=".new", dir=real.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    self._same_rights(file.fileno(), real, before)
                    os.fsync(file.fileno())
                now = os.stat(real)
                if (now.st_ino, now.st_size, now.st_mtime_ns) != (before.st_ino, before.st_size, before.st_mtime_ns):
                    return False
                os.replace(name, real)
                name = ""
                folder = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            finally:
                if name:
                    os.unlink(name)
        return True

    def _same_rights(self, handle: int, real: Path, before: os.stat_result) -> None:
        made = os.fstat(handle)
        if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
            try:
                os.fchown(handle, before.st_uid, before.st_gid)
            except PermissionError:
                raise LockTrouble(f"{self.path} belongs to another user or group, and sentinel may not give a new file to them") from None
        os.fchmod(handle, before.st_mode & 0o7777)
        for attribute in os.listxattr(real) if hasattr(os, "listxattr") else ():
            # What only the system may set, it sets itself (SELinux by the folder's rules).
            with contextlib.suppress(OSError):
                os.setxattr(handle, attribute, os.getxattr(real, attribute))

    @contextlib.contextmanager
    def _translated(self, what: str | Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = LockUnavailable if error.errno in _PASSES else LockTrouble
            raise kind(f"{what} cannot be read or written: {error.strerror}") from None
