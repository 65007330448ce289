"""A reply's shape in plain Python: what ``shape_of`` in ``sentinel/detect/_windows.pyx`` must agree with."""

import re

_TOKEN = re.compile(rb"[0-9a-zA-Z@._]+")
_V4 = re.compile(rb"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})")
_V6 = re.compile(rb"[0-9a-fA-F:.]{1,46}")
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT(?=.)[0-9:.Z+-]*", re.DOTALL)
_MAX_LITERALS = 8


def _word(data: bytes, i: int) -> bool:
    return 0 <= i < len(data) and re.match(rb"[0-9a-zA-Z_]", data[i : i + 1]) is not None


def _v4(data: bytes, i: int) -> int:
    """Length of the dotted quad at i, or 0."""
    found = _V4.match(data, i)
    if not found or any(int(part) > 255 for part in found.groups()):
        return 0
    end = found.end()
    follows = data[end : end + 1]
    if _word(data, end) or follows == b"@" or (follows == b"." and _word(data, end + 1)):
        return 0
    return end - i


def _v6(data: bytes, i: int) -> int:
    """Length of what looks like an IPv6 address at i, or 0."""
    found = _V6.match(data, i)
    if not found:
        return 0
    text = found[0]
    doubled = b"::" in text
    while text and (text[-1:] == b"." or (text[-1:] == b":" and text[-2:] != b"::")):
        text = text[:-1]
    end = i + len(text)
    colons = text.count(b":")
    if not 2 <= colons <= 7 or not (doubled or colons == 7) or _word(data, end) or data[end : end + 1] == b"@":
        return 0
    return len(text)


def _domain(token: bytes) -> bytes:
    """The last two labels of a longer host's name with the dot before them, or nothing."""
    found = re.search(rb"(?<=.)\.[0-9a-zA-Z]*\.[a-zA-Z]+$", token)
    return found[0] if found and len(found[0]) < 32 else b""


def _varies(token: bytes) -> bool:
    """Whether a token is an identifier of one message and not a code or a name."""
    digits = len(re.findall(rb"\d", token))
    joints = len(re.findall(rb"[._]", token))
    mixed = len(re.findall(rb"(?<=[a-z])[A-Z]", token))
    if digits > 6 or b"@" in token:
        return True
    if joints == 0:
        return (len(token) >= 10 and mixed > 1) or (len(token) >= 12 and digits > 0)
    return len(token) >= 14 and digits > 1


def shape_of(data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    out = bytearray()
    literals: list[tuple[int, bytes]] = []
    before: int | None = None

    def literal(i: int, length: int) -> None:
        if len(literals) < _MAX_LITERALS:
            literals.append((len(out), data[i : i + length]))

    i = 0
    while i < len(data):
        found = _TOKEN.match(data, i)
        if not found:
            out += data[i : i + 1]
            if data[i : i + 1] == b"<" and data[i + 1 : i + 2] not in (b"", b" "):
                inside = re.compile(rb"[^>]*" if data[i + 1 : i + 2] == b'"' else rb"[^> ]*", re.DOTALL).match(data, i + 1)
                end = inside.end() if inside else i + 1
                closed = data[end : end + 1] in (b"", b">")
                if closed and not (_v4(data, i + 1) or _v6(data, i + 1)) and data[i + 1 : i + 5] != b"http":
                    named = re.compile(rb"<[^>\[]*\[").match(data, i, i + 300)
                    start = named.end() if named else 0
                    size = (_v4(data, start) or _v6(data, start)) if named and start < min(len(data), i + 300) else 0
                    if size and data[start + size : start + size + 1] == b"]" and len(literals) < _MAX_LITERALS:
                        out += b"["
                        literal(start, size)
                        out += b"#]"
                    i = end
                    out += b">"
            if i >= len(data) or data[i : i + 1] != b"-" or i == 0 or data[i - 1 : i] == b"-":
                before = None
            i += 1
            continue
        length = 0
        if not _word(data, i - 1):
            stamp = _TIME.match(data, i)
            if stamp:
                out += b"~"
                before = None
                i = stamp.end()
                continue
            if data[i : i + 1].isdigit():
                length = _v4(data, i)
            if not length and re.match(rb"[0-9a-fA-F]", data[i : i + 1]):
                length = _v6(data, i)
        if length:
            literal(i, length)
            out += b"#"
            before = None
            i += length
            continue
        token = found[0]
        i = found.end()
        if _varies(token):
            if before is not None:
                del out[before:]
            out += b"@" if b"@" in token else b"~"
            before = None
            if len(re.findall(rb"[._]", token)) > 1 and b"@" not in token:
                out += _domain(token)
        else:
            mixed = re.fullmatch(rb"[0-9a-z]+", token) and re.search(rb"\d", token) and re.search(rb"[a-z]", token)
            before = len(out) if len(token) >= 8 or mixed else None
            out += token
    return bytes(out), literals
