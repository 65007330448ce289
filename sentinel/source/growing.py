"""One open file that somebody else is still writing: whole lines come out, and it notices when it has been truncated.

A line is handed out when its newline is there. What has been read of an incomplete line is kept (at most
``MAX_LINE_BYTES``), so that a line that arrives byte by byte is not read again for each byte. A line longer than that
is skipped up to its newline and counted; until then the position stays before it, so that a restart skips the same line
again.
"""

import os

from sentinel.maillog.chunk import Chunk
from sentinel.source.limits import MAX_LINE_BYTES
from sentinel.source.position import HEAD_BYTES, Position, head_digest

OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Non-blocking so that a FIFO put in the log's place cannot hang the daemon; regular files ignore it."""


class GrowingFile:
    """Owns the descriptor ``fd``. ``offset`` is the end of what has been handed out."""

    def __init__(self, fd: int, offset: int = 0) -> None:
        self.fd = fd
        stat = os.fstat(fd)
        self.file_id = f"{stat.st_dev}:{stat.st_ino}"
        self.offset = offset
        self.more = False
        """The last read stopped before the end of the file."""
        self.truncated = False
        """The bytes after ``offset`` are gone; whatever the file holds now is another log."""
        self.overlong = 0
        self._tail = bytearray()
        self._skipped = 0
        self._head = os.pread(fd, HEAD_BYTES, 0)

    @classmethod
    def open(cls, path: str, offset: int = 0) -> "GrowingFile":
        fd = os.open(path, OPEN_FLAGS)
        try:
            return cls(fd, offset)
        except OSError:
            os.close(fd)
            raise

    def close(self) -> None:
        os.close(self.fd)

    def position(self, previous: Position | None = None) -> Position:
        return Position(self.file_id, self.offset, head_digest(self._head), previous)

    def unread(self) -> int:
        """Bytes not yet handed out."""
        return 0 if self.truncated else max(0, os.fstat(self.fd).st_size - self.offset)

    def go_to_end(self) -> None:
        """Leave out every line that is complete now. A line of which only a part is written counts as new: half a line
        would be a forgery.
        """
        size = os.fstat(self.fd).st_size
        window = max(0, size - MAX_LINE_BYTES)
        self.offset = window + os.pread(self.fd, size - window, window).rfind(b"\n") + 1

    def next_chunk(self, source: str) -> Chunk | None:
        """The next whole lines, at most ``MAX_LINE_BYTES`` of them, or nothing; then ``more`` and ``truncated`` say
        why.

        Raises OSError when the file cannot be read.
        """
        self.more = False
        read_to = self.offset + self._skipped + len(self._tail)
        available = os.fstat(self.fd).st_size - read_to
        if self.truncated or available < 0:
            self.truncated = True
            return None
        data = os.pread(self.fd, min(available, MAX_LINE_BYTES - len(self._tail)), read_to)
        # A file that was emptied and has grown again looks alive by its size. After the read, so that it holds for what
        # was read.
        if not self._still_begins_alike(data):
            self.truncated = True
            return None
        self.more = 0 < len(data) < available
        return self._take(data, source) if data else None

    def last_line(self, source: str) -> Chunk | None:
        """What there is of a last line that will never get its newline."""
        data = bytes(self._tail)
        self._tail.clear()
        start = self.offset + self._skipped
        self.offset, self._skipped = start + len(data), 0
        return Chunk(data, source, self.file_id, start, self.offset) if data else None

    def _still_begins_alike(self, data: bytes) -> bool:
        if not self._head:
            # It was empty when it was opened, so this is its beginning.
            self._head = data[:HEAD_BYTES]
            return True
        head = os.pread(self.fd, HEAD_BYTES, 0)
        if not head.startswith(self._head):
            return False
        self._head = head
        return True

    def _take(self, data: bytes, source: str) -> Chunk | None:
        if self._skipped:
            newline = data.find(b"\n")
            if newline < 0:
                self._skipped += len(data)
                return None
            self.offset += self._skipped + newline + 1
            self._skipped = 0
            data = data[newline + 1 :]
        cut = data.rfind(b"\n") + 1
        if cut == 0:
            self._keep(data)
            return None
        lines = b"".join((self._tail, memoryview(data)[:cut])) if self._tail else data[:cut]
        self._tail[:] = data[cut:]
        start = self.offset
        self.offset += len(lines)
        return Chunk(lines, source, self.file_id, start, self.offset)

    def _keep(self, data: bytes) -> None:
        self._tail += data
        if len(self._tail) >= MAX_LINE_BYTES:
            self.overlong += 1
            self._skipped = len(self._tail)
            self._tail = bytearray()
