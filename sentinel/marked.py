"""YAML in which every value knows its line, for errors that tell the user where: configuration, rules, replies, presets.

Only what a person writes by hand is read: mappings, lists and scalars. Where YAML 1.1 surprises, this is stricter: a key that stands
twice, a tag or an alias is an error, numbers are decimal, and ``12:30``, ``0x10`` or a date are texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sentinel.errors import ContentError, UserError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|[smhdw]?)")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]*)?|\.[0-9]+")
"""Whole numbers are exact in a float; a longer one stays a text, and so is refused where a number belongs."""
_MEANINGS: dict[bool | None, tuple[str, ...]] = {True: ("true", "yes", "on"), False: ("false", "no", "off"), None: ("null", "~", "")}
_WORDS = {form(word): value for value, words in _MEANINGS.items() for word in words for form in (str, str.title, str.upper)}
_LONGEST_SECONDS = 10 * 366 * 86_400.0
_MAX_BYTES = 4 << 20
_MAX_DEPTH = 50
_SECONDS = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?``, or what is known, for the end of a sentence about an unknown word.

    >>> nearest("polcy", ["policy", "state"])
    '; did you mean "policy"?'
    """
    import difflib

    known = list(known)
    close = difflib.get_close_matches(word.lower(), known, 1, 0.6)
    return f'; did you mean "{close[0]}"?' if close else f"; known here: {', '.join(known)}"


def duration(value: object) -> float | None:
    """Seconds of ``90``, ``"90s"``, ``"10m"``, ``"1.5h"``, ``"7d"`` …; None for what isn't one."""
    if isinstance(value, str):
        found = _DURATION.fullmatch(value.strip())
        return float(found[1]) * _SECONDS[found[2]] if found else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Marked:
    """A value of a YAML file and where it stands."""

    __slots__ = ("file", "line", "value")

    def __init__(self, value: Any, file: str, line: int) -> None:
        self.value = value
        """dict[str, Marked], list[Marked], or a scalar."""
        self.file = file
        self.line = line

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def error(self, sentence: str) -> ContentError:
        return ContentError(f"{self.where}: {sentence}")

    def at(self, place: Iterable[str | int]) -> Marked:
        """What stands at a place such as ``("policy", "protected", 0)``, or the nearest thing around it."""
        item = self
        for part in place:
            inside = dict(enumerate(item.value)) if isinstance(item.value, list) else item.value
            if not isinstance(inside, dict) or part not in inside:
                break
            item = inside[part]
        return item

    def plain(self) -> Any:
        """The value without its marks."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def mapping(self, what: str, known: Iterable[str] | None = None, required: Iterable[str] = ()) -> dict[str, Marked]:
        """The value as a mapping, its keys checked."""
        if not isinstance(self.value, dict):
            raise self.error(f"{what} must be a mapping (key: value), not {self.shown()}")
        if known is not None:
            known = list(known)
            for key, item in self.value.items():
                if key not in known:
                    raise item.error(f'{what} has an unknown key "{key}"{nearest(key, known)}')
        for key in required:
            if key not in self.value:
                raise self.error(f'{what} has no "{key}"')
        return self.value

    def items(self, what: str) -> list[Marked]:
        """The value as a list; a single value is a list of one."""
        if isinstance(self.value, dict):
            raise self.error(f"{what} must be a list, not a mapping")
        return self.value if isinstance(self.value, list) else [self]

    def text(self, what: str) -> str:
        if not isinstance(self.value, str):
            raise self.error(f"{what} must be text, not {self.shown()}; put it in quotes if it is meant as text")
        return self.value

    def word(self, what: str, known: Iterable[str]) -> str:
        known = list(known)
        if self.value not in known:
            raise self.error(f"{what} can't be {self.shown()}{nearest(str(self.value), known)}")
        return str(self.value)

    def number(self, what: str, minimum: float | None = None, *, above: float | None = None) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.error(f"{what} must be a number, not {self.shown()}")
        if minimum is not None and self.value < minimum:
            raise self.error(f"{what} must be {minimum:g} or more, not {self.value:g}")
        if above is not None and self.value <= above:
            raise self.error(f"{what} must be more than {above:g}, not {self.value:g}")
        return float(self.value)

    def seconds(self, what: str) -> float:
        seconds = duration(self.value)
        if seconds is None or not 0 < seconds <= _LONGEST_SECONDS:
            raise self.error(f'{what} must be a time above zero and within ten years, like "90s", "10m", "1h" or "7d", not {self.shown()}')
        return seconds

    def shown(self) -> str:
        """The value, for an error's sentence."""
        kind: Callable[[Any], str] = lambda v: "a mapping" if isinstance(v, dict) else "a list" if isinstance(v, list) else f'"{v}"'  # noqa: E731
        return "empty" if self.value is None else kind(self.value)


def read(path: str | Path, problems: list[str] | None = None) -> Marked:
    """A YAML file; UserError for one that can't be read or isn't YAML.

    Smaller problems are added to ``problems``, for who has more to say about the file; without it they raise too.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a directory, a YAML file is needed") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise UserError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, nobody writes that by hand")
    return parse(data, str(path), problems)


def parse(data: bytes, file: str, problems: list[str] | None = None) -> Marked:
    """YAML text, as if read from a file of that name."""
    import yaml

    found: list[str] = []
    try:
        text = data.decode("utf-8-sig")
        top = _Reader(yaml, text, file, found).document()
    except UnicodeDecodeError as error:
        raise ContentError(f"{file}:{data.count(10, 0, error.start) + 1}: not valid YAML: the text is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ContentError(f"{file}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, text.find(chr(error.character))) + 1
        raise ContentError(f"{file}:{line}: not valid YAML: the character U+{error.character:04X} can't be used") from None
    except (ValueError, OverflowError) as error:
        # The parser in pure Python lets them through, as of "\\UFFFFFFFF".
        raise ContentError(f"{file}: not valid YAML: {error}") from None
    if problems is not None:
        problems += found
    elif found:
        raise ContentError("\n".join(found))
    return top


class _Reader:
    """The parser's events to marked values. No nodes are composed: events are half the work, and an alias expands to nothing."""

    def __init__(self, yaml: Any, text: str, file: str, problems: list[str]) -> None:
        self._next = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text).get_event
        self._events = yaml.events
        self._file = file
        self._problems = problems

    def _problem(self, event: Any, sentence: str) -> None:
        self._problems.append(f"{self._file}:{event.start_mark.line + 1}: {sentence}")

    def document(self) -> Marked:
        self._next()  # the stream's start
        if type(self._next()) is self._events.StreamEndEvent:
            return Marked(None, self._file, 1)
        event = self._next()
        top = Marked(self._value(event, 0), self._file, event.start_mark.line + 1)
        self._next()  # the document's end
        event = self._next()
        if type(event) is not self._events.StreamEndEvent:
            self._problem(event, "not valid YAML here: a second document begins; a file is one")
        return top

    def _value(self, event: Any, depth: int) -> Any:
        kind = type(event)
        if kind is self._events.AliasEvent:
            self._problem(event, f"aliases (*{event.anchor}) can't be used here; write the value out")
            return None
        if event.tag is not None:
            self._problem(event, f"the tag {event.tag} can't be used here; write the value without it, a text in quotes")
        if kind is self._events.ScalarEvent:
            return _scalar(event.value) if event.implicit[0] else event.value
        if depth == _MAX_DEPTH:
            raise ContentError(f"{self._file}:{event.start_mark.line + 1}: nested more than {_MAX_DEPTH} deep")
        return self._mapping(depth + 1) if kind is self._events.MappingStartEvent else self._list(depth + 1)

    def _list(self, depth: int) -> list[Marked]:
        out = []
        while type(event := self._next()) is not self._events.SequenceEndEvent:
            out.append(Marked(self._value(event, depth), self._file, event.start_mark.line + 1))
        return out

    def _mapping(self, depth: int) -> dict[str, Marked]:
        out: dict[str, Marked] = {}
        while type(event := self._next()) is not self._events.MappingEndEvent:
            key = None
            # YAML 1.1 reads a bare "on" as true; as a key of ours it is the word.
            if type(event) is self._events.ScalarEvent and event.tag is None:
                key = event.value
            else:
                self._value(event, depth)
            value = self._value(self._next(), depth)
            if not key:
                self._problem(event, "a key must be a word")
            elif key in out:
                self._problem(event, f'key "{key}" is given twice (first in line {out[key].line}); keep one of them')
            else:
                out[key] = Marked(value, self._file, event.start_mark.line + 1)
        return out


def _scalar(text: str) -> str | int | float | bool | None:
    """The value of a word without quotes."""
    if _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return _WORDS.get(text, text)


def files(paths: Iterable[str | Path], suffix: str = ".yaml") -> Iterator[Path]:
    """The files that paths name: a folder stands for its YAML files, in order of name."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(path.glob(f"*{suffix}"))
        else:
            yield path
