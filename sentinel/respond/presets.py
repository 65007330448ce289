"""Reads lock presets: files that say how one kind of mail system locks an account (``rules/presets/*.yaml``).

A preset has a kind, which says what carries it out, and statements for it:

==============  ====================================================  ===========================================
kind            read, lock, unlock, verify, list are                  carried out by
==============  ====================================================  ===========================================
``sql``         SQL with bind parameters                              :mod:`sentinel.respond.lock_sql`
``command``     lists of arguments                                    :mod:`sentinel.respond.lock_command`
``passwd-file`` sentences for a reader; the kind knows what to do     :mod:`sentinel.respond.lock_files`
``access-map``  the same                                              :mod:`sentinel.respond.lock_files`
==============  ====================================================  ===========================================

``{name}`` in a statement is an option, which the configuration may set. What can never be set is the account: in SQL it
is only a bind parameter, and in a command a whole or partial argument that cannot be taken for an option of the
program. All mistakes in a file are named together, with their lines.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sentinel.config import is_identifier
from sentinel.errors import UserError
from sentinel.marked import Marked, nearest, read
from sentinel.resources import resource
from sentinel.respond.policy import printable

Value = str | int | bool | tuple[str, ...]
"""What an option may be set to; a tuple is an argument vector."""

KINDS = ("sql", "passwd-file", "access-map", "command")
STATEMENTS = ("read", "lock", "unlock", "verify", "list")
OPTION_KINDS = ("identifier", "value", "path", "argv", "choice")
PLACEHOLDER = re.compile(r"\{(\w*)\}")
BIND = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")

_REQUIRED = {"sql": ("read", "lock", "unlock", "verify"), "command": ("lock", "unlock", "verify")}
_TEXTS = ("name", "kind", "description", "grants", "notes")
_KEYS = (*_TEXTS, "options", "may_change", *STATEMENTS)
_OPTION_KEYS = ("kind", "default", "like", "choices", "description")
_ACCOUNT = "{account}"


@dataclass(frozen=True, slots=True)
class PresetOption:
    """Something that a preset lets the configuration choose."""

    kind: str
    """``identifier``: a name in the SQL text; ``value``: a bind parameter, or a text; ``path``: an absolute path;
    ``argv``: a program and its arguments; ``choice``: one of some words.
    """
    default: Value | None
    """None: it has to be set."""
    like: str | None = None
    """Of a value: the column whose type it follows."""
    description: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preset:
    """How one kind of mail system locks an account."""

    name: str
    description: str = ""
    kind: str = "sql"
    read: str = ""
    lock: str = ""
    unlock: str = ""
    verify: str = ""
    list: str = ""
    arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The statements of kind ``command``; the texts above are empty then."""
    may_change: tuple[str, ...] = ()
    """Columns that ``read`` keeps for the unlock, but that others may change meanwhile."""
    options: dict[str, PresetOption] = field(default_factory=dict)
    grants: str = ""
    notes: str = ""

    def statement(self, key: str) -> str:
        """One of the statements as a line or lines for a reader; empty when the preset has none."""
        return shown(self.arguments[key]) if key in self.arguments else str(getattr(self, key))


def shown(arguments: Sequence[str]) -> str:
    """An argument vector as one line; ``{account}`` stays as it is written in the preset."""
    import shlex

    line = " ".join(argument if PLACEHOLDER.fullmatch(argument) else shlex.quote(argument) for argument in arguments)
    return "".join(char if char.isprintable() else "?" for char in line)


def preset_names() -> list[str]:
    """Names that :func:`load_preset` knows."""
    return sorted(path.stem for path in resource("rules", "presets").glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """A preset by name, or by path when it has a slash or ends in ``.yaml``. UserError names every mistake with file
    and line.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return _read_preset(Path(name))
    if is_identifier(name.replace("-", "_")):
        path = resource("rules", "presets", f"{name}.yaml")
        if path.is_file():
            return _read_preset(path)
    raise UserError(f'there is no lock preset "{printable(name)}"{nearest(name, preset_names())}')


def option_values(preset: Preset, given: Mapping[str, Value]) -> dict[str, Value]:
    """The preset's options as the configuration sets them. UserError for one that is unknown, missing or not right."""
    values = {name: option.default for name, option in preset.options.items() if option.default is not None}
    for name, value in given.items():
        option = preset.options.get(name)
        if option is None:
            raise UserError(f"database.options.{printable(name)}: unknown in preset {preset.name}{nearest(name, preset.options)}")
        problem = _value_problem(option, value)
        if problem:
            raise UserError(f"database.options.{name}: {problem}")
        values[name] = (value,) if option.kind == "argv" and isinstance(value, str) else value
    for name, option in preset.options.items():
        if name not in values:
            raise UserError(f"database.options.{name}: is missing; the preset {preset.name} needs it: {option.description}")
    return values


def arguments_of(preset: Preset, key: str, values: Mapping[str, Value]) -> tuple[str, ...]:
    """The argument vector of a command preset with its options put in, and ``{account}`` still in it; empty when there
    is none. UserError when the account could become an option of the program.
    """
    out: list[str] = []
    for argument in preset.arguments.get(key, ()):
        value = values.get(argument[1:-1]) if argument.startswith("{") and argument.endswith("}") else None
        if isinstance(value, tuple):
            out += value
        else:
            out.append(PLACEHOLDER.sub(lambda match: str(values.get(match[1], match[0])), argument))
    for problem in _argument_problems(key, out):
        raise UserError(f"the command {key} of the preset {preset.name}: {problem}")
    return tuple(out)


# reading a file


def _read_preset(path: Path) -> Preset:
    problems: list[str] = []
    top = read(path, problems)
    keys = top.mapping("a preset")
    kind = _kind(keys, problems)
    options = _read_options(keys["options"], problems) if "options" in keys else {}
    texts: dict[str, str] = {}
    arguments: dict[str, tuple[str, ...]] = {}
    may_change: tuple[str, ...] = ()
    for key, item in keys.items():
        if key == "options":
            continue
        if key not in _KEYS:
            problems.append(f"{item.where}: {key}: unknown key{nearest(key, _KEYS)}")
        elif key == "may_change":
            may_change = _names(item, problems)
        elif kind == "command" and key in STATEMENTS:
            arguments[key] = _arguments(key, item, options, problems)
        elif not isinstance(item.value, str):
            problems.append(f"{item.where}: {key}: must be a text")
        else:
            texts[key] = item.value.strip()
    problems += [f"{top.where}: {key}: is missing" for key in ("name", *_REQUIRED.get(kind, ())) if key not in keys]
    if kind == "sql":
        for key in STATEMENTS:
            if key in texts:
                problems += [f"{keys[key].where}: {key}: {problem}" for problem in _statement_problems(key, texts[key], options)]
    if problems:
        raise UserError("\n".join(problems))
    return Preset(options=options, arguments=arguments, may_change=may_change, **texts)


def _kind(keys: Mapping[str, Marked], problems: list[str]) -> str:
    item = keys.get("kind")
    if item is None:
        return "sql"
    if item.value not in KINDS:
        problems.append(f"{item.where}: kind: {item.shown()} is no kind of preset{nearest(str(item.value), KINDS)}")
        return ""
    return str(item.value)


def _names(item: Marked, problems: list[str]) -> tuple[str, ...]:
    plain = item.plain() if isinstance(item.value, list) else [item.value]
    if not all(isinstance(name, str) and is_identifier(name) for name in plain):
        problems.append(f"{item.where}: may_change: must be a list of columns that read gives")
        return ()
    return tuple(plain)


def _read_options(given: Marked, problems: list[str]) -> dict[str, PresetOption]:
    out: dict[str, PresetOption] = {}
    if given.value is None:
        return out
    if not isinstance(given.value, dict):
        problems.append(f"{given.where}: options: must hold keys and values")
        return out
    for name, item in given.value.items():
        where = f"{item.where}: options.{name}"
        if not isinstance(item.value, dict):
            problems.append(f"{where}: must hold keys and values")
            continue
        option = item.plain()
        problems += [f"{where}.{key}: unknown key{nearest(key, _OPTION_KEYS)}" for key in option if key not in _OPTION_KEYS]
        kind, choices = option.get("kind"), option.get("choices", [])
        default = tuple(option["default"]) if isinstance(option.get("default"), list) else option.get("default")
        if kind not in OPTION_KINDS:
            problems.append(f"{where}.kind: must be one of {', '.join(OPTION_KINDS)}")
        elif not isinstance(choices, list) or not all(isinstance(word, str) for word in choices):
            problems.append(f"{where}.choices: must be a list of words")
        else:
            made = PresetOption(kind, default, option.get("like"), str(option.get("description", "")), tuple(choices))
            problem = _default_problem(made, "default" in option)
            if problem:
                problems.append(f"{where}.default: {problem}")
            else:
                out[name] = made
    return out


def _default_problem(option: PresetOption, given: bool) -> str | None:
    if option.default is None:
        return None if option.kind in ("path", "argv") and not given else _rule(option)
    # An empty vector is a command that there is not.
    return _rule(option) if option.default != () and _value_problem(option, option.default) else None


def _rule(option: PresetOption) -> str:
    match option.kind:
        case "identifier":
            return "must be a plain name"
        case "path":
            return "must be an absolute path"
        case "argv":
            return "must be a program and its arguments, as a list of texts"
        case "choice":
            return f"must be one of {', '.join(option.choices)}"
        case _:
            return "must be a text, a whole number, true or false"


def _value_problem(option: PresetOption, value: object) -> str | None:
    """Why an option can't have a value; None when it can."""
    shown = printable(str(value))
    match option.kind:
        case "identifier":
            good = isinstance(value, str) and is_identifier(value)
            return None if good else f"{shown} is not a plain name; letters, digits and _ only, no digit first"
        case "path":
            good = isinstance(value, str) and value.startswith("/") and value.isprintable()
            return None if good else f"{shown} is not an absolute path"
        case "argv":
            vector = (value,) if isinstance(value, str) and not any(map(str.isspace, value)) else value
            good = isinstance(vector, tuple) and bool(vector) and all(isinstance(one, str) and one and "\0" not in one for one in vector)
            return None if good else f"{shown}: {_rule(option)}, such as [/usr/sbin/postmap, -c, /etc/postfix]"
        case "choice":
            return None if value in option.choices else f"{shown} is not one of {', '.join(option.choices)}"
        case _:
            return _rule(option) if not isinstance(value, (str, int, bool)) else None


def _statement_problems(key: str, sql: str, options: Mapping[str, PresetOption]) -> Iterator[str]:
    identifiers = [name for name, option in options.items() if option.kind == "identifier"]
    for name in PLACEHOLDER.findall(sql):
        if name not in identifiers:
            yield f"{{{name}}} is no option of kind identifier{nearest(name, identifiers) if identifiers else ''}"
    binds = BIND.findall(sql)
    if key != "list" and "account" not in binds:
        yield "must bind the account as :account"
    known = {name for name, option in options.items() if option.kind == "value"}
    known |= {"account"} if key != "list" else set()
    known |= {"scrambled"} if key == "lock" else set()
    for name in binds:
        if name not in known and not (key == "unlock" and name.startswith("prior_")):
            yield f":{name} is not known here{nearest(name, known) if known else ''}"


def _arguments(key: str, item: Marked, options: Mapping[str, PresetOption], problems: list[str]) -> tuple[str, ...]:
    plain = item.plain()
    if not isinstance(plain, list) or not plain or not all(isinstance(one, str) and one for one in plain):
        problems.append(f"{item.where}: {key}: must be a program and its arguments, as a list of texts")
        return ()
    for argument in plain:
        for name in PLACEHOLDER.findall(argument):
            if name != "account" and name not in options:
                problems.append(f"{item.where}: {key}: {{{name}}} is no option{nearest(name, [*options, 'account'])}")
            elif name in options and options[name].kind == "argv" and argument != f"{{{name}}}":
                problems.append(f"{item.where}: {key}: {{{name}}} stands for several arguments, so it must be an argument by itself")
    problems += [f"{item.where}: {key}: {problem}" for problem in _argument_problems(key, plain)]
    return tuple(plain)


def _argument_problems(key: str, arguments: list[str]) -> Iterator[str]:
    """An account is written by whoever logs in: ``-rf`` must never be an option of the program."""
    if arguments and _ACCOUNT in arguments[0]:
        yield "the account can't be the program"
    ended = arguments.index("--") if "--" in arguments else len(arguments)
    for argument in arguments[1:ended]:
        if argument.startswith(_ACCOUNT):
            yield f'the argument {argument} may be taken for an option when the account begins with "-"; put -- before it'
    if key == "list" and any(_ACCOUNT in argument for argument in arguments):
        yield "list is about all accounts; there is no {account} in it"
