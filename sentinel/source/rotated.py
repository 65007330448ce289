"""Finding a log again after it was rotated away: its older generations in the same directory.

The file that was being read is known by inode and first bytes, whatever it is called now, or by its first bytes alone
where ``copytruncate`` made a copy of it. Files between it and the present one are told by their names (``mail.log.2``,
``maillog-20261122``, ``mail-20261122.log``). Compressed generations are not looked into yet: that is later work, and
until then the reader says that it could not find the file.
"""

import os
import re
import stat
from collections.abc import Collection, Iterator

from sentinel.source.growing import GrowingFile
from sentinel.source.position import Position

MAX_COUNTER_DIGITS = 4
"""``mail.log.12`` is a counter (the higher the older), ``mail.log.20261122`` a date (the higher the newer)."""

_STAMP = r"[.-](\d[\d.T:_-]*)"

_Age = tuple[str, int, str]


def reopen(path: str, position: Position) -> GrowingFile | None:
    """The file that ``position`` speaks of among the older generations of the log at ``path``, ready to be read on from
    there.

    Raises OSError when it is there and cannot be opened.
    """
    others = list(_others(path))
    for other, file_id in others:
        if file_id == position.file_id and (found := _open_if_fits(other, position)):
            return found
    return find_copy(path, position, others)


def find_copy(path: str, position: Position, others: Collection[tuple[str, str]] | None = None) -> GrowingFile | None:
    """A copy (as ``copytruncate`` leaves) of the file ``position`` speaks of, if it holds at least as much as was
    read.
    """
    if not position.telling:
        return None
    for other, _ in _others(path) if others is None else others:
        if _age(path, other) and (found := _open_if_fits(other, position)):
            return found
    return None


def open_newer(path: str, than: str, present: GrowingFile, known: Collection[str]) -> list[GrowingFile]:
    """The generations between the file with the id ``than`` and the present log, oldest first: what came and went while
    nobody looked.

    ``known`` are the ids of files that are being read already. A copy of the present log, which is about to be
    truncated, is none of them, and neither is an empty file.
    """
    others = list(_others(path))
    ages = {file_id: _age(path, other) for other, file_id in others}
    age = ages.get(than)
    if age is None:
        return []
    # The present log may have been rotated away itself by now.
    limit = ages.get(present.file_id)
    newer = []
    for other, file_id in others:
        its_age = ages[file_id]
        if its_age and its_age[0] == age[0] and age < its_age and (limit is None or its_age < limit) and file_id not in known:
            newer.append((its_age, other))
    opened: list[GrowingFile] = []
    try:
        for _, other in sorted(newer):
            file = GrowingFile.open(other)
            begun = file.position()
            if file.unread() and not (begun.telling and begun.fits(present.fd)):
                opened.append(file)
            else:
                file.close()
    except OSError:
        for file in opened:
            file.close()
        raise
    return opened


def _others(path: str) -> Iterator[tuple[str, str]]:
    """(path, file_id) of regular files beside the log whose names begin like its own."""
    seen = set()
    for name in {os.path.abspath(path), os.path.realpath(path)}:
        directory, base = os.path.split(name)
        stem = os.path.splitext(base)[0]
        try:
            entries = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry == base or not entry.startswith(stem):
                continue
            other = os.path.join(directory, entry)
            try:
                status = os.lstat(other)
            except FileNotFoundError:
                continue
            file_id = f"{status.st_dev}:{status.st_ino}"
            if stat.S_ISREG(status.st_mode) and file_id not in seen:
                seen.add(file_id)
                yield other, file_id


def _open_if_fits(path: str, position: Position) -> GrowingFile | None:
    try:
        file = GrowingFile.open(path, position.offset)
    except FileNotFoundError:
        return None
    if position.fits(file.fd):
        return file
    file.close()
    return None


def _age(path: str, other: str) -> _Age | None:
    """Sorts the generations of one naming scheme from oldest to newest; None for a name that no rotation gives."""
    entry = os.path.basename(other)
    for base in (os.path.basename(path), os.path.basename(os.path.realpath(path))):
        stem, extension = os.path.splitext(base)
        found = re.fullmatch(re.escape(base) + _STAMP, entry) or re.fullmatch(re.escape(stem) + _STAMP + re.escape(extension), entry)
        if found:
            mark = found[1]
            if mark.isdigit() and len(mark) <= MAX_COUNTER_DIGITS:
                return "counter", -int(mark), ""
            return "date", 0, mark
    return None
