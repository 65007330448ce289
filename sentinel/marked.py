"""YAML in which every value knows its line, for errors that tell the user where.

Only what a user writes by hand is read with it: mappings, sequences and scalars. A key that stands twice, a tag or an alias is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from sentinel.errors import ContentError, UserError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)?")
_LARGEST = 2.0**53
"""Whole numbers are exact below it."""
_LONGEST_SECONDS = 10 * 366 * 86_400.0
_DEEPEST = 50
_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null"))
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?``, or what is known, for the end of a sentence about an unknown word."""
    import difflib

    known = list(known)
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f'; did you mean "{close[0]}"?' if close else f"; known are {', '.join(known)}"


def duration(text: str) -> float | None:
    """Seconds of ``90``, ``90s``, ``10m``, ``1.5h``, ``7d`` …; None for what isn't one."""
    found = _DURATION.fullmatch(text.strip())
    return float(found[1]) * _SECONDS[found[2]] if found else None


class Marked:
    """A value of a YAML file and where it stands."""

    __slots__ = ("file", "line", "value")

    def __init__(self, value: Any, file: str, line: int) -> None:
        self.value = value
        """dict[str, Marked], list[Marked], or a scalar."""
        self.file = file
        self.line = line

    def error(self, sentence: str) -> ContentError:
        return ContentError(f"{self.file}:{self.line}: {sentence}")

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
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not abs(self.value) < _LARGEST:
            raise self.error(f"{what} must be a number, not {self.shown()}")
        if minimum is not None and self.value < minimum:
            raise self.error(f"{what} must be {minimum:g} or more, not {self.value:g}")
        if above is not None and self.value <= above:
            raise self.error(f"{what} must be more than {above:g}, not {self.value:g}")
        return float(self.value)

    def seconds(self, what: str) -> float:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float | str):
            raise self.error(f'{what} must be a time like "10m" or a number of seconds, not {self.shown()}')
        seconds = duration(self.value) if isinstance(self.value, str) else float(self.value)
        if seconds is None or not 0 < seconds <= _LONGEST_SECONDS:
            raise self.error(f'{what} must be a time above zero and within ten years, like "90s", "10m", "1h" or "7d", not {self.shown()}')
        return seconds

    def shown(self) -> str:
        """The value, for an error's sentence."""
        kind: Callable[[Any], str] = lambda v: "a mapping" if isinstance(v, dict) else "a list" if isinstance(v, list) else f'"{v}"'  # noqa: E731
        return "empty" if self.value is None else kind(self.value)


def read(path: str | Path) -> Marked:
    """A YAML file; UserError for one that can't be read or isn't YAML."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    return parse(data, str(path))


def parse(data: bytes | str, file: str) -> Marked:
    """YAML text, as if read from a file of that name."""
    try:
        loader = _Loader(data)
        try:
            node = loader.get_single_node()
            if node is None:
                return Marked(None, file, 1)
            return _Reader(loader, file).read(node, 0)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ContentError(f"{file}:{mark.line + 1 if mark else 1}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ContentError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise ContentError(f"{file}: not text in UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise ContentError(f"{file}: nested too deeply") from None


class _Reader:
    """YAML nodes to marked values."""

    def __init__(self, loader: Any, file: str) -> None:
        self._loader = loader
        self._file = file
        self._seen: set[int] = set()

    def error(self, line: int, sentence: str) -> ContentError:
        return ContentError(f"{self._file}:{line}: {sentence}")

    def read(self, node: Any, depth: int) -> Marked:
        line = node.start_mark.line + 1
        if depth > _DEEPEST:
            raise self.error(line, "nested too deeply")
        if not isinstance(node, yaml.ScalarNode):
            if id(node) in self._seen:
                raise self.error(line, "aliases (*name) can't be used here; write the value out")
            self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return Marked(self._mapping(node, depth), self._file, line)
        if isinstance(node, yaml.SequenceNode):
            return Marked([self.read(item, depth + 1) for item in node.value], self._file, line)
        return Marked(self._scalar(node, line), self._file, line)

    def _mapping(self, node: Any, depth: int) -> dict[str, Marked]:
        out: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            # YAML 1.1 reads a bare "on" as true; as a key of ours it is the word.
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not key:
                raise self.error(line, "a key must be a word")
            if key in out:
                raise self.error(line, f'"{key}" stands twice (first in line {out[key].line})')
            out[key] = Marked(self.read(value_node, depth + 1).value, self._file, line)
        return out

    def _scalar(self, node: Any, line: int) -> Any:
        # A date is text to us, like everything else that is not a number or a truth.
        if node.tag not in _PLAIN_TAGS:
            return node.value
        try:
            return self._loader.construct_object(node)
        except (ValueError, OverflowError):
            raise self.error(line, f'"{node.value}" is not what its tag says') from None


def files(paths: Iterable[str | Path], suffix: str = ".yaml") -> Iterator[Path]:
    """The files that paths name: a folder stands for its YAML files, in order of name."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(path.glob(f"*{suffix}"))
        else:
            yield path
