"""YAML with lines: what is a number, what is a text, and a sentence for all that can't be read. With libyaml and without."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel.errors import ContentError, UserError
from sentinel.marked import Marked, nearest, parse, read


@pytest.fixture(params=["libyaml", "pure"], autouse=True)
def loader(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "pure":
            patch.delattr(yaml, "CSafeLoader", raising=False)
        elif not hasattr(yaml, "CSafeLoader"):
            pytest.skip("PyYAML was built without libyaml")
        yield


both = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def plain(text: str) -> Any:
    return parse(text.encode(), "x").plain()


def test_lines_of_keys_and_items() -> None:
    top = parse(b"# a comment\na:\n  b:\n  - 1\n  - c: >\n      text\n\n    d: [x,\n     y]\n", "x")
    assert top.plain() == {"a": {"b": [1, {"c": "text\n", "d": ["x", "y"]}]}}
    for place, line in {
        (): 2, ("a",): 2, ("a", "b"): 3, ("a", "b", 0): 4, ("a", "b", 1): 5, ("a", "b", 1, "c"): 5, ("a", "b", 1, "d"): 8,
        ("a", "b", 1, "d", 1): 9, ("a", "z"): 2, ("a", "b", 2): 3, ("a", "b", "c"): 3, ("a", "b", 0, 0): 4, ("a", "b", 1, "c", 0): 5,
    }.items():  # fmt: skip
        assert (place, top.at(place).line) == (place, line)
    assert top.at(("a", "b")).where == "x:3"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("-12", -12), ("+7", 7), ("1.50", 1.5), (".5", 0.5), ("5.", 5.0), ("0.6000000000000001", 0.6000000000000001), ("999999999999999", 999999999999999),
        ("yes", True), ("On", True), ("TRUE", True), ("no", False), ("off", False), ("~", None), ("", None), ("NULL", None), ("{}", {}),
        ("yEs", "yEs"), ("y", "y"), ("'no'", "no"), ('"12"', "12"), ("12:30", "12:30"), ("2012-10-24", "2012-10-24"), ("0x1f", "0x1f"),
        ("010", "010"), ("1_000", "1_000"), ("1e3", "1e3"), ("1.0e+3", "1.0e+3"), (".inf", ".inf"), (".nan", ".nan"), ("٣", "٣"),
        ("1000000000000000", "1000000000000000"), ("1.2.3", "1.2.3"), ("=", "="), ("9" * 5000, "9" * 5000), ("|\n  12\n", "12\n"),
    ],
)  # fmt: skip
def test_words(text: str, value: object) -> None:
    (found,) = plain(f"- {text}")
    assert (type(found), found) == (type(value), value)


def test_keys_are_words() -> None:
    assert plain("{on: 1, 12: 2, null: 3, 1.5: 4}") == {"on": 1, "12": 2, "null": 3, "1.5": 4}
    assert plain("\ufeffa: 1") == {"a": 1}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n...\n"])
def test_nothing(text: str) -> None:
    assert plain(text) is None


PROBLEMS = {
    "a: 1\nb: 2\na: 3": 'x:3: key "a" is given twice (first in line 1); keep one of them',
    "a: 1\nb: {'c': 1, c: 1}": 'x:2: key "c" is given twice (first in line 2); keep one of them',
    "a: &b 1\nc: *b": "x:2: aliases (*b) can't be used here; write the value out",
    "a: &b [*b]": "x:1: aliases (*b) can't be used here; write the value out",
    "\n*a": "x:2: aliases (*a) can't be used here; write the value out",
    "a: !!int '5'": "x:1: the tag tag:yaml.org,2002:int can't be used here; write the value without it, a text in quotes",
    "a: !mine {b: c}": "x:1: the tag !mine can't be used here; write the value without it, a text in quotes",
    "- !!python/object/apply:os.system [x]": "x:1: the tag tag:yaml.org,2002:python/object/apply:os.system can't be used here; write the value",
    "a: 1\n? [b, c]\n: d": "x:2: a key must be a word",
    "? \n: d": "x:1: a key must be a word",
    "!!str a: b": "x:1: the tag tag:yaml.org,2002:str can't be used here; write the value without it, a text in quotes\nx:1: a key must be a word",
    "a: 1\n---\nb: 2": "x:2: not valid YAML here: a second document begins; a file is one",
    "a: 1\nb: \t- c\n": "x:2: not valid YAML: ",
    "a:\n- [b\n": "x:",
    "a: 1\nb: é\x00": "x:2: not valid YAML: the character U+0000 can't be used",
    "%YAML 9.9\n---\na: 1": "x:1: not valid YAML: ",
    'a: "\\UFFFFFFFF"': "x:",
    'a: "\\U00110000"': "x:",
    f"%YAML {'9' * 5000}.1\n--- a": "x:",
    "a: 1\nb: " + "[" * 51: "x:2: nested more than 50 deep",
    "a:\n" + "- " * 5000: "x:2: nested more than 50 deep",
    "[" * 100_000: "x:1: nested more than 50 deep",
    "{a: " * 100_000: "x:1: nested more than 50 deep",
}


@pytest.mark.parametrize("text", PROBLEMS, ids=lambda text: text[:30])
def test_problems(text: str) -> None:
    with pytest.raises(ContentError) as caught:
        parse(text.encode(), "x")
    assert str(caught.value).startswith(PROBLEMS[text])


def test_what_is_not_utf8_is_named_with_its_line() -> None:
    with pytest.raises(ContentError, match=r"^x:2: not valid YAML: the text is not UTF-8$"):
        parse(b"a: \xc3\xa9\nb: caf\xe9\n", "x")


def test_smaller_problems_come_together() -> None:
    text = b"a: 1\na: 2\nb: *c\nc: !d e\n[f]: g\n"
    problems = ["first"]
    top = parse(text, "x", problems)
    assert top.plain() == {"a": 1, "b": None, "c": "e"}
    assert [problem[:5] for problem in problems] == ["first", "x:2: ", "x:3: ", "x:4: ", "x:5: "]
    with pytest.raises(ContentError) as caught:
        parse(text, "x")
    assert str(caught.value).splitlines() == problems[1:]


def test_doubling_aliases_stay_small() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    problems: list[str] = []
    top = parse("\n".join(lines).encode(), "x", problems)
    assert len(problems) == 78
    assert top.plain()["a39"] == [None, None]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(ContentError, match=rf"^{tmp_path}/a.yaml:2: "):
        read(tmp_path / "a.yaml")
    problems: list[str] = []
    assert read(tmp_path / "a.yaml", problems).plain() == {"a": 1}
    assert len(problems) == 1
    (tmp_path / "large.yaml").write_bytes(b"#" * (4 << 20) + b"#")
    for name, words in (
        ("none", "there is no such file"),
        ("", "this is a directory, a YAML file is needed"),
        ("large.yaml", "larger than 4 MiB"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            read(tmp_path / name)
        assert not isinstance(caught.value, ContentError)


def test_nearest() -> None:
    assert nearest("Polcy", ["policy", "state"]) == '; did you mean "policy"?'
    assert nearest("x", ["policy", "state"]) == "; known here: policy, state"


# Not the three that YAML 1.1 takes for line ends: PyYAML does not write them so that they come back.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029"), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15) + 1, 10**15 - 1) | st.integers(-1000, 1000).map(lambda n: n / 8) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(bool), inner, max_size=4),
    max_leaves=12,
)


@both
@given(VALUES, st.booleans())
def test_what_is_written_is_read(value: object, flow: bool) -> None:
    assert plain(yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)) == value


@both
@given(st.binary(max_size=200) | st.text("ab01:-?[]{},&*!|>'\"%#\\xuUF~<. \n\t\ufeff\x85", max_size=60).map(str.encode))
def test_any_bytes_end_in_values_or_a_sentence(data: bytes) -> None:
    try:
        assert isinstance(parse(data, "x"), Marked)
    except UserError as error:
        assert all(re.match(r"x:\d+: \S", line) for line in str(error).splitlines())
