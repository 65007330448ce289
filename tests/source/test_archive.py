"""Finished logs: every packing gives the same bytes; bad input gives its sentence after all that can be read."""

import bz2
import gzip
import lzma
import os
import random
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel.errors import UserError
from sentinel.maillog.chunk import Chunk
from sentinel.source.archive import LogReader, read_log
from sentinel.source.follow import Follower
from sentinel.source.limits import MAX_LINE_BYTES

PLAIN_PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": bz2.compress,
}


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard", reason="the zst extra is not installed")
    packed: bytes = zstandard.ZstdCompressor().compress(data)
    return packed


PACKINGS = {**PLAIN_PACKINGS, "zstd": zstd}


def lines(count: int, seed: int = 5) -> bytes:
    rng = random.Random(seed)
    return b"".join(
        b"Nov 22 03:34:43 mx1 postfix/smtpd[%d]: %X: client=unknown[203.0.113.66]\0\xff%s\n"
        % (rng.randrange(30000), rng.getrandbits(40), rng.randbytes(rng.randrange(8)).replace(b"\n", b""))
        for _ in range(count)
    )


def check(chunks: list[Chunk], whole: bytes) -> None:
    """The chunks are the text, in order, cut at line ends only, and know where they stand."""
    at = 0
    for chunk in chunks:
        assert (chunk.start, chunk.end) == (at, at + len(chunk.data))
        assert chunk.data.endswith(b"\n") or chunk is chunks[-1]
        at = chunk.end
    assert b"".join(chunk.data for chunk in chunks) == whole


def readable(reader: LogReader) -> tuple[list[Chunk], str]:
    """What comes before the error, and the error."""
    chunks = []
    with pytest.raises(UserError) as caught:
        for chunk in reader:
            chunks.append(chunk)
    return chunks, str(caught.value)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 4096, 100_000, 4 << 20])
@pytest.mark.parametrize("ending", [b"", b"a last line without its newline"])
def test_a_plain_log_comes_in_whole_lines(tmp_path: Path, chunk_bytes: int, ending: bytes) -> None:
    text = lines(3000) + ending
    path = tmp_path / "mail.log"
    path.write_bytes(text)
    reader = read_log(str(path), chunk_bytes)
    assert reader.size == len(text)
    chunks = list(reader)
    check(chunks, text)
    assert reader.bytes_read == len(text)
    status = path.stat()
    assert {(chunk.source, chunk.file_id) for chunk in chunks} == {(str(path), f"{status.st_dev}:{status.st_ino}")}


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_archive_is_known_by_its_content_and_gives_the_same_lines(tmp_path: Path, packing: str) -> None:
    text = lines(60_000)
    path = tmp_path / "mail.log"
    path.write_bytes(PACKINGS[packing](text))
    reader = read_log(str(path), 1 << 20)
    chunks = list(reader)
    check(chunks, text)
    assert len(chunks) > 3
    assert reader.bytes_read == reader.size == path.stat().st_size


@pytest.mark.parametrize("packing", PACKINGS)
def test_archives_one_after_another_are_one_log(tmp_path: Path, packing: str) -> None:
    text = lines(1000)
    path = tmp_path / "mail.log.1"
    # Padding with zeros, as tapes and some copying programs leave it, is not damage.
    path.write_bytes(b"".join(PACKINGS[packing](text[at : at + 7000]) for at in range(0, len(text), 7000)) + bytes(512))
    check(list(read_log(str(path))), text)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_cut_archive_gives_all_that_can_be_read_and_then_its_sentence(tmp_path: Path, packing: str) -> None:
    text = lines(60_000)
    packed = PACKINGS[packing](text)
    path = tmp_path / "mail.log.2"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    chunks, message = readable(read_log(str(path)))
    got = b"".join(chunk.data for chunk in chunks)
    assert text.startswith(got)
    assert len(got) > len(text) // 3
    assert f"{path} is damaged or cut short: its {packing} data" in message
    assert f"{len(got):,} unpacked bytes" in message
    assert "\n" not in message


def test_a_cut_gzip_gives_exactly_what_zcat_gives(tmp_path: Path) -> None:
    packed = gzip.compress(lines(20_000))
    path = tmp_path / "mail.log.gz"
    for part in (0.1, 0.5, 0.999):
        path.write_bytes(packed[: int(len(packed) * part)])
        chunks, _ = readable(read_log(str(path)))
        zcat = subprocess.run(["gzip", "-dc", str(path)], capture_output=True, check=False)
        assert b"".join(chunk.data for chunk in chunks).startswith(zcat.stdout)


@pytest.mark.parametrize("packing", PLAIN_PACKINGS)
@pytest.mark.parametrize("where", [0.3, 0.7])
def test_a_damaged_archive_ends_in_its_sentence(tmp_path: Path, packing: str, where: float) -> None:
    text = lines(60_000)
    packed = bytearray(PACKINGS[packing](text))
    at = int(len(packed) * where)
    packed[at : at + 64] = bytes(64)
    path = tmp_path / "mail.log"
    path.write_bytes(packed)
    chunks, message = readable(read_log(str(path)))
    assert f"its {packing} data makes no sense after" in message
    got = b"".join(chunk.data for chunk in chunks)
    assert got[: len(text) // 8] == text[: len(text) // 8]


def test_a_wrong_checksum_costs_no_line(tmp_path: Path) -> None:
    text = lines(100)
    packed = bytearray(gzip.compress(text))
    packed[-8] ^= 1
    path = tmp_path / "mail.log.gz"
    path.write_bytes(packed)
    chunks, message = readable(read_log(str(path)))
    check(chunks, text)
    assert "incorrect data check" in message


def test_a_small_archive_that_unpacks_into_much_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(200 << 20), 9))
    reader = read_log(str(path))
    tracemalloc.start()
    try:
        assert list(reader) == []
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
    assert reader.overlong == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk_bytes", [100_000, 4 << 20])
def test_lines_too_long_are_skipped_and_counted(tmp_path: Path, packed: bool, chunk_bytes: int) -> None:
    fits = b"y" * (MAX_LINE_BYTES - 1) + b"\n"
    too_long = b"x" * MAX_LINE_BYTES + b"\n"
    huge = b"z" * (11 << 20) + b"\n"
    text = b"one\n" + fits + too_long + b"two\n" + huge + too_long + lines(30_000) + too_long[:-1]
    path = tmp_path / "mail.log"
    path.write_bytes(gzip.compress(text, 1) if packed else text)
    reader = read_log(str(path), chunk_bytes)
    chunks = list(reader)
    assert b"".join(chunk.data for chunk in chunks) == b"one\n" + fits + b"two\n" + lines(30_000)
    assert all(text[chunk.start : chunk.end] == chunk.data for chunk in chunks)
    assert reader.overlong == 4


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=50),
        st.just(b"\n"),
        st.sampled_from([MAX_LINE_BYTES // 2, MAX_LINE_BYTES - 1, MAX_LINE_BYTES, 3 * MAX_LINE_BYTES]).map(lambda size: b"x" * size),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(PIECES, st.sampled_from([1000, MAX_LINE_BYTES, 4 << 20]))
def test_plain_packed_and_followed_give_the_same_lines(pieces: list[bytes], chunk_bytes: int) -> None:
    text = b"".join(pieces)
    with tempfile.TemporaryDirectory() as directory:
        plain, packed = Path(directory) / "mail.log", Path(directory) / "packed"
        plain.write_bytes(b" " + text + b"\n")
        packed.write_bytes(gzip.compress(b" " + text + b"\n", 1))
        readers = [read_log(str(path), chunk_bytes) for path in (plain, packed)]
        got = [b"".join(chunk.data for chunk in reader) for reader in readers]
        follower = Follower([str(plain)], from_start=True)
        followed = b""
        while chunks := follower.read(0):
            followed += b"".join(chunk.data for chunk in chunks)
        follower.close()
        want = [line for line in (b" " + text).split(b"\n") if len(line) < MAX_LINE_BYTES]
        assert got[0] == got[1] == followed == b"".join(line + b"\n" for line in want)
        assert {reader.overlong for reader in readers} == {*follower.overlong.values()}


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert list(read_log(str(tmp_path / "empty"))) == []
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    assert list(read_log(str(tmp_path / "empty.gz"))) == []


def test_a_pipe_is_read_packed_or_not(tmp_path: Path) -> None:
    text = lines(30_000)
    for number, data in enumerate((text, gzip.compress(text))):
        fifo = tmp_path / f"fifo{number}"
        os.mkfifo(fifo)
        writer = threading.Thread(target=fifo.write_bytes, args=(data,))
        writer.start()
        reader = read_log(str(fifo), 100_000)
        chunks = list(reader)
        writer.join()
        check(chunks, text)
        assert reader.size is None
        assert chunks[0].file_id == ""


@pytest.mark.parametrize("packed", [False, True])
def test_standard_input(packed: bool) -> None:
    text = lines(2000)
    script = (
        "import os\nfrom sentinel.source.archive import read_log\n"
        "for chunk in read_log('-'): assert chunk.source == '-'; os.write(1, chunk.data)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        input=gzip.compress(text) if packed else text,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout == text


def test_without_the_zstd_package_the_sentence_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "mail.log.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20))
    # -S keeps installed packages out, so that this is the interpreter of somebody who has not installed the extra.
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from sentinel.errors import UserError\nfrom sentinel.source.archive import read_log\n"
        f"try: list(read_log({str(path)!r}))\nexcept UserError as error: print(error)"
    )
    process = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout == f"{path} is a zstd archive; to read it, pip install maillog-sentinel[zst]\n"


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*missing"):
        read_log(str(tmp_path / "missing"))
    with pytest.raises(UserError, match="is a directory; give the path of a log file in it"):
        read_log(str(tmp_path))
    (tmp_path / "mail.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(UserError, match="is a zip archive, which cannot be read here"):
        list(read_log(str(tmp_path / "mail.zip")))


def test_no_permission_is_refused_in_one_sentence() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "mail.log"
        path.touch(0)
        if root := os.geteuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(UserError, match=r"no permission to read .*mail\.log"):
                read_log(str(path))
        finally:
            if root:
                os.seteuid(0)
