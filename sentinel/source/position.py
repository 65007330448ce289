"""How far a log has been read, written down so that a later process finds the place again."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

HEAD_BYTES = 256

TELLING_HEAD_BYTES = 64
"""A shorter beginning is not enough to know a file by when the inode is another."""


def head_digest(head: bytes) -> str:
    """``count:hex`` of a file's first bytes: tells a file from another that got its inode."""
    return f"{len(head)}:{blake2b(head, digest_size=16).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Position:
    """Everything before ``offset`` in this file has been handed out."""

    file_id: str
    """``device:inode``."""
    offset: int
    """Bytes; always just after a newline, except at the very end of a finished file."""
    head: str
    """See :func:`head_digest`; over at most the first 256 bytes."""
    previous: "Position | None" = None
    """The file before this one, as long as it is still watched for late writers after its rotation."""

    @property
    def head_bytes(self) -> int:
        """How many bytes of the file's beginning ``head`` covers."""
        return int(self.head.partition(":")[0])

    @property
    def telling(self) -> bool:
        """Is ``head`` enough to know the file by, whatever its inode?"""
        return self.head_bytes >= TELLING_HEAD_BYTES

    def fits(self, fd: int) -> bool:
        """Is the open file long enough, and does it begin, as the one that was read then? Says nothing about the
        inode.
        """
        return os.fstat(fd).st_size >= self.offset and self.head == head_digest(os.pread(fd, self.head_bytes, 0))

    def to_dict(self) -> dict[str, Any]:
        out: dict[str, Any] = {"file_id": self.file_id, "offset": self.offset, "head": self.head}
        if self.previous is not None:
            out["previous"] = self.previous.to_dict()
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Position":
        previous = data.get("previous")
        return cls(
            file_id=str(data["file_id"]),
            offset=int(data["offset"]),
            head=str(data["head"]),
            previous=None if previous is None else cls.from_dict(previous),
        )


NOWHERE = Position("", 0, "")
"""Of a log that did not exist yet: whatever comes to stand there is read from its start."""
