"""Reading logs that are finished: plain, compressed (recognised by their first bytes, not by their names), or a pipe.

Plain files are read in pieces cut at line ends, each piece straight into the ``bytes`` that is handed out. Compressed
logs are unpacked with bounded memory, however small a file was made to unpack into much. What can be read of a damaged
or cut archive is handed out before the error is raised. Lines longer than ``MAX_LINE_BYTES`` are skipped and counted,
as they are when a log is followed.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Protocol

from sentinel.errors import UserError
from sentinel.maillog.chunk import Chunk
from sentinel.source.limits import MAX_LINE_BYTES

CHUNK_BYTES = 4 << 20

_PEEK_BYTES = 1024
_BLOCK_BYTES = 1 << 18
"""What is read from a pipe or an archive at once."""
_UNPACK_BYTES = 1 << 18
"""At most so much comes out of a decompressor at once."""
_ZSTD_FEED_BYTES = 256
"""zstandard has no limit on its output; so little input cannot become more than about 10 MB."""

_MAGIC_BYTES = 6


class LogReader:
    """Iterate over it to get the chunks of one finished log. Made by :func:`read_log`."""

    def __init__(self, path: str, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.path = path
        self.size: int | None = None
        """Bytes of the file as it lies on the disk; None for a pipe."""
        self.bytes_read = 0
        """How much of them has been read: the progress."""
        self.overlong = 0
        """Lines longer than ``MAX_LINE_BYTES``, skipped."""
        self._chunk_bytes = chunk_bytes
        self._fd = -1
        self._fd = _open(path)
        status = os.fstat(self._fd)
        regular = stat.S_ISREG(status.st_mode) and path != "-"
        self._file_id = f"{status.st_dev}:{status.st_ino}" if regular else ""
        if regular:
            self.size = status.st_size
        self.plain = regular and not self._packed_file()
        """A file that is not compressed."""
        self._chunks = self._plain() if self.plain else self._stream()

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        try:
            return next(self._chunks)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give back the file; done by itself at the end of the log and at an error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    # Plain files

    def peek(self, count: int, offset: int) -> bytes:
        """Bytes from anywhere in a plain file, without moving on."""
        return self._pread(count, offset)

    def _packed_file(self) -> bool:
        return _packing(self._pread(_MAGIC_BYTES, 0)) is not None

    def _plain(self) -> Iterator[Chunk]:
        start = 0
        while data := self._pread(self._to_line_end(start), start):
            if len(data) == self._chunk_bytes and not data.endswith(b"\n"):
                if cut := data.rfind(b"\n") + 1:
                    data = data[:cut]
                else:
                    end = self._line_end(start + len(data))
                    if end - start > MAX_LINE_BYTES:
                        self.overlong += 1
                        start = self.bytes_read = end
                        continue
                    data = self._pread(end - start, start)
            if len(data) < MAX_LINE_BYTES:
                yield Chunk(data, self.path, self._file_id, start, start + len(data))
            else:
                yield from self._without_overlong(data, start)
            start += len(data)
            self.bytes_read = start

    def _to_line_end(self, start: int) -> int:
        """How many bytes from ``start`` fill a chunk and end a line: looking first saves a copy."""
        peek = min(_PEEK_BYTES, self._chunk_bytes)
        last = self._pread(peek, start + self._chunk_bytes - peek)
        return self._chunk_bytes - (len(last) - 1 - last.rfind(b"\n") if len(last) == peek and b"\n" in last else 0)

    def _line_end(self, offset: int) -> int:
        """Where the line ends that goes on at ``offset``."""
        while data := self._pread(_BLOCK_BYTES, offset):
            if newline := data.find(b"\n") + 1:
                return offset + newline
            offset += len(data)
        return offset

    def _pread(self, count: int, offset: int) -> bytes:
        """Never beyond the size at the beginning: what is added to the file meanwhile belongs to another reading."""
        try:
            return os.pread(self._fd, max(0, min(count, (self.size or 0) - offset)), offset)
        except OSError as error:
            raise UserError(f"cannot read {self.path} at byte {offset:,}: {error.strerror}") from error

    # Pipes and archives

    def _stream(self) -> Iterator[Chunk]:
        """Blocks of any size into chunks of whole lines."""
        start = 0
        kept: list[bytes] = []
        length = 0
        skipping = False
        damage: UserError | None = None
        blocks = self._blocks()
        while True:
            try:
                block = next(blocks, b"")
            except UserError as error:
                damage, block = error, b""
            if skipping and block:
                newline = block.find(b"\n")
                start += len(block) if newline < 0 else newline + 1
                skipping = newline < 0
                block = b"" if skipping else block[newline + 1 :]
                if not block:
                    continue
            if block:
                kept.append(block)
                length += len(block)
                if length < self._chunk_bytes:
                    continue
            data = b"".join(kept)
            cut = (data.rfind(b"\n") + 1) if block else len(data)
            if data[:cut]:
                yield from self._without_overlong(data[:cut], start)
            start += cut
            kept = [data[cut:]]
            length = len(kept[0])
            if length >= MAX_LINE_BYTES:
                self.overlong += 1
                skipping = True
                start += length
                kept, length = [], 0
            if not block:
                break
        if damage is not None:
            raise damage

    def _blocks(self) -> Iterator[bytes]:
        """The log's bytes, unpacked where they are packed."""
        first = b""
        while len(first) < _MAGIC_BYTES and (data := self._read()):
            first += data
        packing = _packing(first)
        if packing is None:
            while first:
                yield first
                first = self._read()
            return
        new_decoder = _decoder(packing, self.path)
        out = 0
        try:
            for block in _unpack(first, self._read, new_decoder):
                out += len(block)
                yield block
        except _DamageError as error:
            raise UserError(
                f"{self.path} is damaged or cut short: its {packing} data makes no sense after {out:,} unpacked bytes "
                f"(about byte {self.bytes_read:,} of the file; {error}); what was before that has been read"
            ) from error

    def _read(self) -> bytes:
        try:
            data = os.read(self._fd, _BLOCK_BYTES)
        except OSError as error:
            raise UserError(f"cannot read {self.path} at byte {self.bytes_read:,}: {error.strerror}") from error
        self.bytes_read += len(data)
        return data

    # Both

    def _without_overlong(self, data: bytes, start: int) -> Iterator[Chunk]:
        """The chunk, or what is left of it around lines that are too long."""
        begin = 0
        for line, end in _overlong_lines(data):
            self.overlong += 1
            if begin < line:
                yield Chunk(data[begin:line], self.path, self._file_id, start + begin, start + line)
            begin = end
        if begin < len(data):
            yield Chunk(data[begin:] if begin else data, self.path, self._file_id, start + begin, start + len(data))


def read_log(path: str, chunk_bytes: int = CHUNK_BYTES) -> LogReader:
    """The chunks of a finished log, about ``chunk_bytes`` each, and how far it is (``bytes_read`` of ``size``,
    ``overlong``).

    ``-`` is standard input. The file is opened at once, and closed at its end. Raises UserError: here when it is not
    there, not readable or no file; while iterating when an archive is damaged, after everything before the damage has
    been handed out.
    """
    return LogReader(path, chunk_bytes)


def _open(path: str) -> int:
    try:
        fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}; give the path of a mail log") from error
    except PermissionError as error:
        raise UserError(f"no permission to read {path}; run as a user that may (often by membership in adm)") from error
    except OSError as error:
        raise UserError(f"cannot open {path}: {error.strerror}") from error
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise UserError(f"{path} is a directory; give the path of a log file in it")
    return fd


def _overlong_lines(data: bytes) -> list[tuple[int, int]]:
    """(start, end) of the lines longer than ``MAX_LINE_BYTES``.

    Such a line covers at least one whole block of half that length, so blocks with a newline in them need no closer
    look.
    """
    found: list[tuple[int, int]] = []
    step = MAX_LINE_BYTES // 2
    for block in range(0, len(data) - step + 1, step):
        if data.find(b"\n", block, block + step) < 0 and (not found or found[-1][1] <= block):
            start = data.rfind(b"\n", 0, block) + 1
            end = data.find(b"\n", block + step) + 1 or len(data)
            if end - start - data.endswith(b"\n", start, end) >= MAX_LINE_BYTES:
                found.append((start, end))
    return found


# Packings

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x1f\x9d", "compress"),
)


class _DamageError(Exception):
    """What the decompressor did not like."""


class _Decoder(Protocol):
    """One compressed stream, as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


def _packing(first: bytes) -> str | None:
    for magic, name in _MAGIC:
        if first.startswith(magic):
            return name
    return None


def _decoder(packing: str, path: str) -> Callable[[], _Decoder]:
    if packing == "gzip":
        return _Gzip
    if packing == "xz":
        from lzma import FORMAT_XZ, LZMADecompressor

        return lambda: LZMADecompressor(FORMAT_XZ)
    if packing == "bzip2":
        from bz2 import BZ2Decompressor

        return BZ2Decompressor
    if packing == "zstd":
        try:
            zstandard = import_module("zstandard")
        except ImportError as error:
            raise UserError(f"{path} is a zstd archive; to read it, pip install maillog-sentinel[zst]") from error
        return lambda: _Zstd(zstandard.ZstdDecompressor().decompressobj())
    raise UserError(f"{path} is a {packing} archive, which cannot be read here; unpack it or pipe it in as -")


def _unpack(data: bytes, read: Callable[[], bytes], new_decoder: Callable[[], _Decoder]) -> Iterator[bytes]:
    """All streams of an archive: ``cat a.gz b.gz`` is an archive too, and so is one padded with zeros."""
    while data:
        decoder = new_decoder()
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = read()
                if not data:
                    raise _DamageError("the end is missing")
            try:
                block = decoder.decompress(data, _UNPACK_BYTES)
            except _errors() as error:
                yield from _last_bytes(decoder)
                raise _DamageError(str(error)) from error
            data = b""
            if block:
                yield block
        data = decoder.unused_data.lstrip(b"\0")
        while not data and (more := read()):
            data = more.lstrip(b"\0")


def _errors() -> tuple[type[Exception], ...]:
    """What the decompressors loaded so far raise on bad data."""
    import zlib

    found: list[type[Exception]] = [zlib.error, OSError, EOFError, ValueError]
    for module, name in (("lzma", "LZMAError"), ("zstandard", "ZstdError")):
        if module in sys.modules:
            found.append(getattr(sys.modules[module], name))
    return tuple(found)


def _last_bytes(decoder: _Decoder) -> Iterator[bytes]:
    return decoder.before_damage() if isinstance(decoder, _Gzip) else iter(())


class _Gzip:
    def __init__(self) -> None:
        import zlib

        self._inflate = zlib.decompressobj(wbits=31)
        self._before: tuple[Any, bytes] | None = None
        self._cut_short = False

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not (self._inflate.unconsumed_tail or self._cut_short)

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        data = self._inflate.unconsumed_tail + data
        self._before = self._inflate.copy(), data
        unpacked = self._inflate.decompress(data, max_length)
        self._cut_short = len(unpacked) == max_length
        return unpacked

    def before_damage(self) -> Iterator[bytes]:
        """zlib keeps to itself what it unpacked in the call that failed; go there again byte by byte."""
        import zlib

        if self._before is None:
            return
        inflate, data = self._before
        try:
            for at in range(len(data)):
                if unpacked := inflate.decompress(data[at : at + 1]):
                    yield unpacked
        except zlib.error:
            return


class _Zstd:
    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._waiting = b""

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def needs_input(self) -> bool:
        return not self._waiting

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data) + self._waiting

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        data = self._waiting + data
        at = 0
        blocks: list[bytes] = []
        length = 0
        while at < len(data) and length < max_length and not self._frame.eof:
            blocks.append(self._frame.decompress(data[at : at + _ZSTD_FEED_BYTES]))
            length += len(blocks[-1])
            at += _ZSTD_FEED_BYTES
        self._waiting = data[at:]
        return b"".join(blocks)
