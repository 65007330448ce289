"""What the fuzzer starts from and how it changes it: whole lines, their headers, and the literals of ``forms.py``."""

import lzma
import random
import re
from collections.abc import Iterable
from pathlib import Path

from sentinel.maillog.fields import KINDS, SERVICES
from sentinel.maillog.forms import compile_forms

_OWN = Path(__file__).with_name("lines.log")
_SHAPES = 1000
_MAX_SEED = 4000


def seed_lines(recordings: Iterable[Path] = ()) -> list[bytes]:
    """Our own lines, and one of each shape of what real servers have written, where that is at hand."""
    lines = _OWN.read_bytes().splitlines()
    seen = set()
    for path in sorted(recordings):
        with lzma.open(path) as file:
            for line in file:
                shape = re.sub(rb"[0-9A-F]+|[a-z]{3,}[0-9]+", b"#", line)[:160]
                if shape not in seen and len(line) < _MAX_SEED and len(seen) < _SHAPES:
                    seen.add(shape)
                    lines.append(line.rstrip(b"\n"))
    return lines


def _tokens() -> list[bytes]:
    literals = {text for form in compile_forms()[0] for op in form.operations for text in (*op.stops, *op.words)}
    tags = [f"postfix/{name}[7]: ".encode() for name in SERVICES]
    return [
        *sorted(literals),
        *tags,
        *(b"postfix: ", b"postfix/a/b/smtpd: ", b"/", b"NOQUEUE: ", b"4A00000001: ", b"4PbC4x469Jz3tBr: ", b"DEADBEEFDEADBEEFDEADBEEF: "),
        *(
            b"warning: ",
            b"error: ",
            b"fatal: ",
            b"panic: ",
            b"mail.info ",
            b"message repeated 2 times: [ ",
            b"last message repeated 9 times",
        ),
        *(b" from=<", b" to=<", b" proto=ESMTP", b" helo=<h>", b" sasl_username=<", b" sasl_method=", b" sasl_username=", b" sasl_sender="),
        *(b"; from=<a@b> to=<c@d> proto=E helo=<h>", b">: Sender address rejected: not owned by user ", b"queued as 4A00000001"),
        *(b"host h[192.0.2.9] said: 550 ", b" refused to talk to me: 421-", b"forwarded as 4A00000001", b"554 5.7.1 ", b"unknown[unknown]"),
        *(
            b"delivery temporarily suspended: ",
            b"SASL authentication failed; server ",
            b"[192.0.2.1]",
            b"x[2001:db8::1]:25",
            b"[private/x]",
        ),
        *(b"<22>", b"<22>1 ", b"<999>", b"- - - ", b'[a b="c\\"]"]', b"2026-12-31T23:59:60.999999999+14:00 ", b"2024-02-29T00:00:00Z "),
        *(
            b"Dec 31 23:59:59 ",
            b"Jan  1 00:00:00 ",
            b"Feb 29 12:00:00 ",
            b"Oct 3 01:02:03 ",
            b"1970-01-01T00:00:00+23:59 ",
            b"mx1 ",
            b"mx2 ",
        ),
        *(b'{"MESSAGE":"', b'"}', b'\\"', b"\\u0000", b"\\ud83d\\ude00", b"\\ud800", b"\\n", b'","_PID":"7"', b"[104,105]"),
        *(
            b"\0",
            b"\0\0\0\0",
            b"\r",
            b"\n",
            b"\n\n",
            b"\r\n",
            b" ",
            b"  ",
            b"\\",
            b'"',
            b">",
            b"<",
            b";",
            b":",
            b"]",
            b"[",
            b"(",
            b")",
            b"=",
            b",",
        ),
        *(b"\xe2\x80\xa8", b"\xff", b"\xf0\x9f\x98\x80", b"9" * 18, b"9" * 40, b"18446744073709551616", b"0.000000000000000000001"),
        *(name.encode() for name in KINDS),
    ]


TOKENS = _tokens()
_HEADER_END = re.compile(rb"(?:\]|[a-z]):? ")
_NUMBER = re.compile(rb"[0-9]+")
_NUMBERS = (b"0", b"1", b"2147483648", b"4294967296", b"65535", b"999999999999999999", b"9999999999999999999", b"9" * 400)


def _place(rng: random.Random, data: bytes) -> int:
    return rng.randint(0, len(data))


def _insert_token(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _overwrite_token(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    at, token = _place(rng, data), rng.choice(TOKENS)
    return data[:at] + token + data[at + len(token) :]


def _add_line(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    line = rng.choice(lines) + b"\n"
    return data + line if rng.random() < 0.5 else line + data


def _splice(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    other = rng.choice(lines)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _swap_header(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    """The message of one line under the header of another."""
    own = data.split(b"\n")
    which = rng.randrange(len(own))
    theirs = _HEADER_END.search(rng.choice(lines))
    mine = _HEADER_END.search(own[which])
    if theirs and mine:
        own[which] = theirs.string[: theirs.end()] + own[which][mine.end() :]
    return b"\n".join(own)


def _cut(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] if rng.random() < 0.3 else data[:at] + data[at + rng.choice((1, 1, 2, 8, 40)) :]


def _bytes(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        if out:
            at = rng.randrange(len(out))
            out[at] = rng.choice((out[at] ^ 1 << rng.randrange(8), rng.randrange(256), rng.choice(b' <>[]:;,="\\\n\r\0/09az')))
    return bytes(out)


def _repeat(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    at = _place(rng, data)
    piece = data[at : at + rng.choice((1, 3, 30, 300))]
    times = rng.choice((1, 2, 10, 100, 5000, 70_000 // (len(piece) or 1)))
    return data[:at] + piece * min(times, 90_000 // (len(piece) or 1)) + data[at:]


def _number(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    found = list(_NUMBER.finditer(data[:5000]))
    if not found:
        return data
    which = rng.choice(found)
    return data[: which.start()] + rng.choice(_NUMBERS) + data[which.end() :]


def _shuffle(rng: random.Random, data: bytes, lines: list[bytes]) -> bytes:
    own = data.split(b"\n")
    rng.shuffle(own)
    return b"\n".join(own * rng.choice((1, 1, 2, 30)))[:100_000]


_WAYS = (_insert_token, _insert_token, _overwrite_token, _add_line, _splice, _swap_header, _cut, _bytes, _bytes, _repeat, _number, _shuffle)


def mutate(rng: random.Random, data: bytes, lines: list[bytes], max_size: int = 100_000) -> bytes:
    """One to four changes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_WAYS)(rng, data, lines)
    return data[:max_size]
