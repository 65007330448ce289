"""The unit in which log bytes travel from a source to the core."""

from typing import NamedTuple


class Chunk(NamedTuple):
    """Whole log lines and where they stand.

    Every line ends in a newline; only the last line of a file that is finished may lack it.
    """

    data: bytes
    source: str
    """The log's name as the user gave it (``/var/log/mail.log``), ``-`` for standard input."""
    file_id: str
    """``device:inode`` of the file, empty where there is none."""
    start: int
    """Offset in bytes of ``data[0]`` in that file, uncompressed."""
    end: int
    """Offset just after the last byte: ``start + len(data)``."""
