"""The command line: arguments, wiring, exit codes.

Each command's module is imported when it is run: a replay does not load the daemon's libraries. argparse, because it starts fifty
milliseconds sooner than what is built on top of it, and ``sentinel replay`` is started from other programs.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import NoReturn

from sentinel.errors import UserError

EXIT_OK, EXIT_FOUND, EXIT_USAGE = 0, 1, 2
_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Errors as one sentence, with the way to more."""

    def error(self, message: str) -> None:  # type: ignore[override]
        sys.stderr.write(f"sentinel: {message}; see {self.prog} --help\n")
        raise SystemExit(EXIT_USAGE)


def _log_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--year", type=_year, metavar="Y", help="year of the first line whose stamp has none (default: by the file's date)")
    parser.add_argument("--timezone", metavar="TZ", help="zone of stamps without one, like Europe/Berlin (default: this machine's)")


def _replies_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replies", action="append", default=[], metavar="PATH", help="reply rules (file or folder) that go before the product's own"
    )


def _year(text: str) -> int:
    if not text.isdigit() or not 1970 <= int(text) <= 9998:
        raise argparse.ArgumentTypeError(f"a year is a number like 2026, not {text!r}")
    return int(text)


def _database_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", metavar="DIR", help="directory of the state database (default: /var/lib/sentinel)")
    parser.add_argument("--config", metavar="FILE", help="take state and database from a configuration file")
    parser.add_argument(
        "--database", metavar="URL", help="where accounts are locked, like mysql://user@host/extmail or file:///passwd-file"
    )
    parser.add_argument("--preset", metavar="NAME", help="how they are locked there: a name of sentinel locks presets, or a file")


def _run_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("--config", metavar="FILE", help="configuration file; the options below then may not be given")
    run.add_argument("--log", action="append", default=[], metavar="PATH", help="a log to follow; may be given several times")
    run.add_argument("--state", metavar="DIR", help="directory of the state database (default: /var/lib/sentinel)")
    run.add_argument("--database", metavar="URL", help="where accounts are locked, like mysql://user@host/extmail or file:///passwd-file")
    run.add_argument("--preset", metavar="NAME", help="how they are locked there: a name of sentinel locks presets, or a file")
    run.add_argument("--enforce", action="store_true", help="really lock; without it locks are only written to the journal")
    run.add_argument("--listen", metavar="HOST:PORT", help="metrics and status page (default: 127.0.0.1:9154)")
    run.add_argument("--rules", action="append", default=[], metavar="PATH", help="rules file or folder instead of the default rules")
    _replies_option(run)
    run.add_argument("--from-start", action="store_true", help="read a log without a checkpoint from its beginning, not from its end")
    _log_options(run)


def _replay_options(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("files", nargs="+", metavar="FILE", help="logs, also .gz .xz .zst .bz2; - is standard input")
    replay.add_argument("--rules", action="append", default=[], metavar="PATH", help="rules file or folder instead of the default rules")
    replay.add_argument("--format", choices=("table", "jsonl"), default="table", help="default: table")
    replay.add_argument(
        "--fail-on", choices=("info", "warning", "critical"), metavar="SEVERITY", help="exit with 1 if a detection is as severe"
    )
    replay.add_argument("--config", metavar="FILE", help="take rules, networks and logins from a configuration file")
    _replies_option(replay)
    _log_options(replay)


def _parse_options(parse: argparse.ArgumentParser) -> None:
    parse.add_argument("files", nargs="+", metavar="FILE", help="logs, also .gz .xz .zst .bz2; - is standard input")
    parse.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl", help="default: jsonl; parquet needs pyarrow")
    parse.add_argument("--dialect", choices=("auto", "postfix", "sendmail", "exim", "qmail"), default="auto", help="default: auto")
    parse.add_argument(
        "--attributed", action="store_true", help="with the origin's account, client and sender on every row, and what refusals mean"
    )
    parse.add_argument("--all", action="store_true", help="also lines that mean nothing (other) and that are not mail (unparsed)")
    parse.add_argument("--out", metavar="FILE", help="write there and not to standard output")
    _log_options(parse)


def _classify_options(classify: argparse.ArgumentParser) -> None:
    classify.add_argument("file", metavar="FILE", help="remote replies, one a line, bare or as Postfix logs them; - is standard input")
    classify.add_argument("--host", metavar="NAME", help="who answered, where the lines do not say it: the provider is told by it")
    _replies_option(classify)


def _doctor_options(doctor: argparse.ArgumentParser) -> None:
    doctor.add_argument(
        "--blocks", nargs="+", required=True, metavar="FILE", help="logs: who blocks this server, since when, and how to get off"
    )
    doctor.add_argument("--format", choices=("table", "jsonl"), default="table", help="default: table")
    doctor.add_argument("--rules", action="append", default=[], metavar="PATH", help="rules file or folder instead of the default rules")
    _replies_option(doctor)
    _log_options(doctor)


def _rules_options(rules: argparse.ArgumentParser) -> None:
    commands = rules.add_subparsers(dest="rules_command", metavar="check|test", required=True, parser_class=_Parser)
    for name, text in (("check", "validate rules"), ("test", "run the tests that rules carry")):
        command = commands.add_parser(name, help=text)
        command.add_argument(
            "paths", nargs="*", metavar="PATH", help="files or folders of rules or reply rules (default: the product's own)"
        )


def _locks_options(locks: argparse.ArgumentParser) -> None:
    metavar = "list|lock|unlock|protect|unprotect|resume|verify-journal|presets"
    commands = locks.add_subparsers(dest="locks_command", metavar=metavar, required=True, parser_class=_Parser)
    listing = commands.add_parser("list", help="open locks, with what followed them")
    what = listing.add_mutually_exclusive_group()
    what.add_argument("--every", action="store_true", help="all actions: also what was undone, refused, simulated")
    what.add_argument("--journal", action="store_true", help="the journal's entries, each hashed with the one before; jsonl is its export")
    what.add_argument("--actual", action="store_true", help="accounts that the mail system's database holds for locked, whoever did it")
    listing.add_argument("--format", choices=("table", "jsonl"), default="table")
    _database_options(listing)
    presets = commands.add_parser("presets", help="ways to lock an account: what they change, what that stops, and the grants they need")
    presets.add_argument("name", nargs="?", metavar="NAME", help="print all about this one, which may also be a file")
    for name, text in (
        ("lock", "lock an account now"),
        ("unlock", "undo a lock: the account's row is again as it was"),
        ("protect", "never lock an account or pattern (*@example.com), or whose mail comes from a network (192.0.2.0/24)"),
        ("unprotect", "take a protection back"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("account", metavar="ACCOUNT")
        command.add_argument("--why", default="by hand", metavar="TEXT", help="for the journal")
        if name == "lock":
            command.add_argument("--for", dest="for_", metavar="TIME", help="unlock by itself after this, such as 2h (default: never)")
        _database_options(command)
    again = commands.add_parser("resume", help="close the breaker: policy may lock again")
    again.add_argument("--why", default="by hand", metavar="TEXT", help="for the journal")
    _database_options(again)
    verify = commands.add_parser("verify-journal", help="whether the journal is as it was written")
    verify.add_argument(
        "file", nargs="?", metavar="FILE", help="an export (locks list --journal --format jsonl) and not the database; - is stdin"
    )
    verify.add_argument("--head", action="append", default=[], metavar="NUMBER:HASH", help="an entry's hash as it was noted elsewhere")
    _database_options(verify)


def _queue_options(queue: argparse.ArgumentParser) -> None:
    commands = queue.add_subparsers(dest="queue_command", metavar="list|hold|release|delete", required=True, parser_class=_Parser)
    for name, text in (
        ("list", "show the culprit's messages"),
        ("hold", "put them on hold: no delivery is begun any more"),
        ("release", "take them off hold: they are delivered again"),
        ("delete", "delete them for good; asks for their number, or takes it from --max"),
    ):
        command = commands.add_parser(name, help=text)
        who = command.add_mutually_exclusive_group(required=True)
        who.add_argument("--account", metavar="A", help="whose login the messages were sent with")
        who.add_argument("--client-ip", metavar="IP", help="the address that they came from")
        command.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
        command.add_argument("--format", choices=("table", "jsonl"), default="table", help="default: table")
        command.add_argument("--config", metavar="FILE", help="take state and Postfix's programs from a configuration file")
        command.add_argument(
            "--state", metavar="DIR", help="directory of the daemon's state (default: /var/lib/sentinel, where it is there)"
        )
        command.add_argument("--postfix-config", metavar="DIR", help="directory of Postfix's main.cf (default: Postfix's own)")
        command.add_argument(
            "--max-envelopes",
            type=_count,
            default=1_000_000,
            metavar="N",
            help="look into so many messages that the log does not tell about",
        )
        if name != "list":
            command.add_argument("--max", type=_count, metavar="N", help="refuse when more messages match")
            command.add_argument("--why", default="by hand", metavar="TEXT", help="for the journal")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"a number of messages is written like 500, not {text[:40]!r}")
    return int(text)


def _config_options(config: argparse.ArgumentParser) -> None:
    commands = config.add_subparsers(dest="config_command", metavar="check", required=True, parser_class=_Parser)
    check = commands.add_parser("check", help="validate a configuration file, its rules and its preset")
    check.add_argument("file", nargs="?", default="/etc/sentinel/sentinel.yaml", metavar="FILE")


def _notify_options(notify: argparse.ArgumentParser) -> None:
    commands = notify.add_subparsers(dest="notify_command", metavar="test", required=True, parser_class=_Parser)
    test = commands.add_parser("test", help="send a trial notice to each target, and say what became of it")
    test.add_argument("--config", default="/etc/sentinel/sentinel.yaml", metavar="FILE", help="default: /etc/sentinel/sentinel.yaml")


_COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("the daemon: follow logs, detect, export metrics, respond", _run_options),
    "replay": ("the same on finished logs", _replay_options),
    "parse": ("the event table", _parse_options),
    "classify": ("what remote servers' replies mean", _classify_options),
    "doctor": ("who blocks this server, and how to get off", _doctor_options),
    "rules": ("check rules, run their tests", _rules_options),
    "locks": ("the lock journal, and doing or undoing one by hand", _locks_options),
    "queue": ("one culprit's mail in Postfix's queue: list, hold, release, delete", _queue_options),
    "notify": ("try the targets that notices go to", _notify_options),
    "config": ("check a configuration file", _config_options),
}


def build_parser(commands: Iterable[str] = _COMMANDS) -> argparse.ArgumentParser:
    """The parser of these commands: of all, or only of the one that is asked for, which is quicker."""
    parser = _Parser(
        prog="sentinel",
        description="Finds, in a mail server's log, whose account is being abused, and can stop it.",
        epilog="sentinel COMMAND --help tells more.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for name in commands:
        text, add_options = _COMMANDS[name]
        add_options(parsers.add_parser(name, help=text))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; its exit code. No traceback reaches a user for what the user can mend."""
    # What is loaded at the start stays: looking through it for garbage meanwhile only takes time.
    gc.disable()
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(words[:1] if words and words[0] in _COMMANDS else _COMMANDS)
    arguments = parser.parse_args(words)
    # What machines read is UTF-8 wherever it is written.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        if arguments.version:
            import sentinel

            print(f"sentinel {sentinel.__version__}", flush=True)
            return EXIT_OK
        if arguments.command is None:
            parser.print_help(sys.stderr)
            return EXIT_USAGE
        command = import_module(f"sentinel.cli.{arguments.command}")
        gc.freeze()
        gc.enable()
        code: int = command.main(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        _complain(str(error))
        return EXIT_USAGE
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader went away (head, a pager): nothing more to say.
        _drop_output()
        return EXIT_OK
    except OSError as error:
        _drop_output()
        _complain(f"{error.filename or 'the output'}: can't be written or read: {error.strerror}")
        return EXIT_USAGE
    finally:
        gc.enable()


def entry() -> NoReturn:
    """The installed command. Ends without taking tables of a million entries apart one by one: everything is written by then."""
    code = main()
    sys.stderr.flush()
    os._exit(code)


def _drop_output() -> None:
    """Nothing is flushed at exit: it would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    for line in text.splitlines():
        sys.stderr.write(f"sentinel: {line}\n")
