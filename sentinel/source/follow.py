"""Following logs that grow, through rotation, truncation and restarts: one path name is one endless source of lines.

Each log has a queue of files, oldest first: normally just the one at its path. When another file stands at the path it
joins the queue's end. The first file is read to its end before the next is begun; after that it is kept open for a few
more seconds as the *late* file, because a process that still has it open may add a line. A truncated file
(``copytruncate``) is finished like a rotated one and begins again as a new member of the queue; lines that only the
copy has are taken from the copy. A file that was truncated before anything of it was read does not show it: what came
and went is then found by the names of the older generations.

A position is always exactly what :meth:`Follower.read` has handed out, so a checkpoint of it together with the reader's
own state loses no line and repeats none. Limits: files rotated into another directory or compressed while nobody was
reading are not found (a notice says so); lines that a writer adds to a rotated file after the grace period are not seen
once the new file is in use; what a ``copytruncate`` loses between copying and truncating is lost to everybody.
"""

import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sentinel.errors import UserError
from sentinel.maillog.chunk import Chunk
from sentinel.source import rotated
from sentinel.source.growing import GrowingFile
from sentinel.source.position import NOWHERE, Position
from sentinel.source.watch import Bell, DirectoryWatch

__all__ = ["GRACE_SECONDS", "Follower", "Position"]

GRACE_SECONDS = 5.0
"""How long a rotated file is kept open for late writers once its successor is being read."""


@dataclass(slots=True)
class _Log:
    """One configured path. Changed only by the follower's reading thread."""

    path: str
    pending: Position | None
    """Where to go on, until a file has been opened."""
    skip_existing: bool
    """Begin at the end of what is there now."""
    files: deque[GrowingFile] = field(default_factory=deque)
    late: GrowingFile | None = None
    late_until: float = 0.0
    behind: str = ""
    """Id of the last file that is done with: what is newer has not been read."""
    complaints: dict[str, str] = field(default_factory=dict)

    def open_files(self) -> list[GrowingFile]:
        return [*([self.late] if self.late else []), *self.files]


class Follower:
    """Reads several growing logs. One thread reads; :meth:`wake`, :meth:`lag` and :meth:`positions` may be called from
    others.

    ``positions`` are those of an earlier follower, by path; where there is none a log is read from its start
    (``from_start``) or from its present end. A log that does not exist yet is waited for, and then read from its start.
    ``on_notice`` gets one sentence whenever the operator may want to know something.

    Raises UserError for a path that cannot be followed: a directory, no permission, named twice.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        positions: Mapping[str, Position] | None = None,
        poll_seconds: float = 1.0,
        from_start: bool,
        on_notice: Callable[[str], None] = lambda notice: None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self.rotations = dict.fromkeys(paths, 0)
        """How often each log was rotated or truncated since the start."""
        self.overlong = dict.fromkeys(paths, 0)
        """Lines of each log that were longer than ``MAX_LINE_BYTES`` and therefore skipped."""
        self._poll_seconds = poll_seconds
        self._grace_seconds = grace_seconds
        self._on_notice = on_notice
        self._lock = threading.RLock()
        self._woken = False
        self._more = False
        self._next_check = time.monotonic() + poll_seconds
        positions = positions or {}
        self._logs = [_Log(path, _known(positions.get(path)), skip_existing=not from_start and path not in positions) for path in paths]
        self._bell = Bell()
        self._watch: DirectoryWatch | None = None
        try:
            self._open_all()
            # Watching begins after opening, so that a directory that may not be watched costs no open log. What changes
            # in between is seen by the first read, which looks before it waits.
            self._watch = DirectoryWatch(paths, self._bell, on_notice)
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> list[Chunk]:
        """Wait until a log has whole lines, at most ``timeout`` seconds; every log gives at most ``MAX_LINE_BYTES`` a
        call.

        An empty list means that the time is up or :meth:`wake` was called.
        """
        deadline = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            if now >= self._next_check:
                self._next_check = now + self._poll_seconds
                if self._watch is not None:
                    self._watch.check()
            with self._lock:
                chunks = self._gather()
            if chunks:
                return chunks
            if self._woken:
                self._woken = False
                return []
            if self._more:
                continue
            now = time.monotonic()
            if now >= deadline:
                return []
            self._bell.wait(min(deadline, self._next_check) - now)

    def wake(self) -> None:
        """Make the waiting :meth:`read`, or the next one that would wait, return at once. Safe in a signal handler."""
        self._woken = True
        self._bell.ring()

    def positions(self) -> dict[str, Position]:
        """What :meth:`read` has handed out, by path. A log that has never been seen is at ``NOWHERE``: to be read from its start."""
        with self._lock:
            return {log.path: self._position(log) or NOWHERE for log in self._logs}

    def lag(self) -> dict[str, int]:
        """Bytes written and not yet handed out, by path."""
        with self._lock:
            return {log.path: sum(file.unread() for file in log.open_files()) for log in self._logs}

    def close(self) -> None:
        """Release everything. Not while another thread is in :meth:`read`: wake that one and let it finish first."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        with self._lock:
            for log in self._logs:
                for file in log.open_files():
                    file.close()
                log.files.clear()
                log.late = None
        self._bell.close()

    # Starting

    def _open_all(self) -> None:
        owner: dict[str, str] = {}
        if len({log.path for log in self._logs}) < len(self._logs):
            twice = next(log.path for i, log in enumerate(self._logs) if log.path in {o.path for o in self._logs[:i]})
            raise UserError(f"{twice} is named twice among the logs to follow; name each log once")
        for log in self._logs:
            try:
                present = self._look(log)
            except OSError as error:
                raise UserError(f"cannot read {error.filename or log.path}: {_reason(error)}") from error
            if not present:
                if log.pending is not None:
                    self._resume(log, None)
                self._on_notice(f"{log.path} does not exist yet; waiting for it")
            log.skip_existing = False
            for file in list(log.files)[-1:]:
                if file.file_id in owner:
                    raise UserError(f"{log.path} and {owner[file.file_id]} are the same file; name each log once")
                owner[file.file_id] = log.path

    def _begin(self, log: _Log, current: GrowingFile) -> None:
        if log.pending is not None:
            self._resume(log, current)
            return
        if log.skip_existing:
            current.go_to_end()
        log.files.append(current)

    def _resume(self, log: _Log, current: GrowingFile | None) -> None:
        """Go on at the stored position: in the file at the path, or in what became of the file that was there then."""
        wanted = log.pending
        assert wanted is not None
        if wanted.previous is not None and log.late is None:
            log.behind = wanted.previous.file_id
            log.late = rotated.reopen(log.path, wanted.previous)
            log.late_until = time.monotonic() + self._grace_seconds
        if current is not None and _continues(wanted, current):
            current.offset = wanted.offset
            log.files.append(current)
        elif (old := rotated.reopen(log.path, wanted)) is not None:
            log.files.append(old)
            if current is not None:
                self._append(log, current)
        elif current is None:
            return
        else:
            self._on_notice(
                f"the file that {log.path} was when it was last read is gone (removed, compressed or truncated); "
                f"reading {log.path} from its start, lines written in between may be missing"
            )
            log.files.append(current)
        log.pending = None

    # Looking

    def _look(self, log: _Log) -> bool:
        """See whether another file stands at the path, and if so, put it in the queue. False where there is none.

        Raises OSError, also for things that are no files.
        """
        newest = log.files[-1] if log.files else None
        try:
            status = os.stat(log.path)
            if newest and newest.file_id == f"{status.st_dev}:{status.st_ino}":
                return True
            if not stat.S_ISREG(status.st_mode):
                kind = "it is a directory, name the log file in it" if stat.S_ISDIR(status.st_mode) else "not a file"
                raise OSError(0, kind, log.path)
            current = GrowingFile.open(log.path)
        except FileNotFoundError:
            return False
        try:
            if newest and _continues(newest.position(), current):
                current.offset = newest.offset
                log.files[-1] = current
                newest.close()
            elif newest:
                self._append(log, current)
            else:
                self._begin(log, current)
        except OSError:
            current.close()
            raise
        return True

    def _append(self, log: _Log, current: GrowingFile) -> None:
        known = {file.file_id for file in log.open_files()} | {current.file_id}
        newer = [*rotated.open_newer(log.path, log.files[-1].file_id, current, known), current]
        log.files.extend(newer)
        self.rotations[log.path] += len(newer)

    # Reading

    def _gather(self) -> list[Chunk]:
        """One turn: every log is looked at and may give one chunk, so that a busy one does not starve the others."""
        self._more = False
        chunks: list[Chunk] = []
        for log in self._logs:
            self._attempt(log, "opened", self._look)
            self._attempt(log, "read", lambda log: self._read_late(log, chunks))
            self._attempt(log, "read", lambda log: self._read_files(log, chunks))
        return chunks

    def _attempt(self, log: _Log, what: str, step: Callable[[_Log], object]) -> None:
        """Trouble with a file that could be read before may pass: say it once, and keep trying."""
        try:
            step(log)
        except OSError as error:
            complaint = f"{error.filename or log.path} cannot be {what}: {_reason(error)}; trying again until it can"
            if log.complaints.get(what) != complaint:
                log.complaints[what] = complaint
                self._on_notice(complaint)
        else:
            log.complaints.pop(what, None)

    def _read_late(self, log: _Log, chunks: list[Chunk]) -> None:
        file = log.late
        if file is None:
            return
        if not self._read_file(log, file, chunks) and (file.truncated or time.monotonic() >= log.late_until):
            self._finish_late(log, chunks)

    def _read_files(self, log: _Log, chunks: list[Chunk]) -> None:
        while log.files:
            file = log.files[0]
            # The successor is begun only when it has something: until then the old file is likely still being written.
            # Asked before the old file is read: what a writer put into it before it changed over must come first.
            superseded = any(newer.unread() for newer in list(log.files)[1:])
            untouched, before = file.offset == 0, len(chunks)
            gave = self._read_file(log, file, chunks)
            # Asked after the reading, so that it holds for what was read.
            if untouched and self._overtaken(log):
                del chunks[before:]
            elif gave:
                return
            elif file.truncated:
                self._begin_again(log, chunks)
            elif superseded:
                self._finish_late(log, chunks)
                log.late = log.files.popleft()
                log.late_until = time.monotonic() + self._grace_seconds
                log.behind = log.late.file_id
            else:
                return

    def _overtaken(self, log: _Log) -> bool:
        """Whether the first file, of which nothing had been read, was emptied and begun again meanwhile. What it held
        goes before it, and it is read anew.
        """
        file = log.files[0]
        missed = rotated.open_newer(log.path, log.behind, file, {other.file_id for other in log.open_files()}) if log.behind else []
        if missed:
            log.files[0] = GrowingFile(os.dup(file.fd))
            file.close()
            log.files.extendleft(reversed(missed))
            self.rotations[log.path] += len(missed)
        return bool(missed)

    def _read_file(self, log: _Log, file: GrowingFile, chunks: list[Chunk]) -> bool:
        """True if it gave something or has more."""
        chunk = file.next_chunk(log.path)
        self.overlong[log.path] += file.overlong
        file.overlong = 0
        if chunk is not None:
            chunks.append(chunk)
        self._more |= file.more
        return chunk is not None or file.more

    def _finish_late(self, log: _Log, chunks: list[Chunk]) -> None:
        if log.late is not None:
            file, log.late = log.late, None
            self._finish(log, file, chunks)

    def _finish(self, log: _Log, file: GrowingFile, chunks: list[Chunk] | None) -> None:
        """Close a file that is over; what there is of a last line goes to ``chunks``."""
        last = file.last_line(log.path)
        if last is not None and chunks is not None:
            chunks.append(last)
        file.close()

    def _begin_again(self, log: _Log, chunks: list[Chunk]) -> None:
        """The first file has been emptied: finish it, in its copy where there is one, and read what it holds since
        then.
        """
        file = log.files[0]
        copy = rotated.find_copy(log.path, file.position())
        known = {other.file_id for other in log.open_files()}
        try:
            between = rotated.open_newer(log.path, copy.file_id, file, known) if copy else []
        except OSError:
            if copy:
                copy.close()
            raise
        again = GrowingFile(os.dup(file.fd))
        self._finish(log, log.files.popleft(), None if copy else chunks)
        log.files.extendleft([again, *reversed(between), *([copy] if copy else [])])
        self.rotations[log.path] += 1 + len(between)
        self._on_notice(
            f"{log.path} was truncated{' and is read on in its copy' if copy else ''}; if that was logrotate's "
            "copytruncate, use create instead, because lines can get lost between copying and truncating"
        )

    def _position(self, log: _Log) -> Position | None:
        if not log.files:
            return log.pending
        return log.files[0].position(log.late.position() if log.late else None)


def _known(position: Position | None) -> Position | None:
    return None if position is None or position == NOWHERE else position


def _continues(position: Position, current: GrowingFile) -> bool:
    """Is the file at the path the one ``position`` speaks of, or a later state of it under another number?

    rsync and editors replace a file by a longer one, and device numbers may change when a machine starts again.
    """
    return (position.telling or current.file_id == position.file_id) and position.fits(current.fd)


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission (the user that runs sentinel must be able to read it, often by membership in the group adm)"
    return error.strerror or str(error)
