"""``sentinel rules check|test``."""

from __future__ import annotations

import argparse
import os

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.detect.engine import Engine
from sentinel.detect.replies import ReplyClassifier, ReplyRule, default_replies_path, failure, is_reply_file, load_reply_rules
from sentinel.detect.rules import Rule, RuleSet, RuleTest, load_rules
from sentinel.errors import ContentError
from sentinel.marked import files, read

_YEAR = 2026
"""Of stamps in tests: any will do, so that they mean the same for ever."""


def main(arguments: argparse.Namespace) -> int:
    try:
        rules, replies = _load(arguments.paths)
    except ContentError as error:
        if arguments.rules_command != "check":
            raise
        print(error)
        return EXIT_FOUND
    return _check(rules, replies) if arguments.rules_command == "check" else _test(rules, replies)


def _load(paths: list[str]) -> tuple[RuleSet, tuple[ReplyRule, ...]]:
    """The rules and the reply rules of these files and folders, or the product's own."""
    if not paths:
        return load_rules(), load_reply_rules([default_replies_path()])
    reply_files = [path for path in files(paths) if is_reply_file(read(path))]
    return load_rules(paths), load_reply_rules(reply_files)


def _by_file(replies: tuple[ReplyRule, ...]) -> dict[str, list[ReplyRule]]:
    out: dict[str, list[ReplyRule]] = {}
    for rule in replies:
        out.setdefault(rule.file, []).append(rule)
    return out


def _count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"


def _check(rules: RuleSet, replies: tuple[ReplyRule, ...]) -> int:
    for rule in rules:
        print(f"ok  {rule.name}  (score {rule.score:g}, {_count(len(rule.tests), 'test')})")
    for file, group in _by_file(replies).items():
        tests = sum(len(rule.tests) for rule in group)
        print(f"ok  {os.path.basename(file)}  ({_count(len(group), 'reply rule')}, {_count(tests, 'test')})")
    return EXIT_OK


def _test(rules: RuleSet, replies: tuple[ReplyRule, ...]) -> int:
    failed = passed = 0
    for rule in rules:
        for test in rule.tests:
            problem = run_test(rule, test)
            if problem:
                failed += 1
                print(f"FAIL  {rule.name}: {test.name}\n      {test.file}:{test.line}: {problem}")
            else:
                passed += 1
                print(f"ok    {rule.name}: {test.name}")
    if replies:
        # As they would run: before the product's own.
        own = ReplyClassifier((*replies, *load_reply_rules([default_replies_path()])))
        for file, group in _by_file(replies).items():
            right = 0
            for reply_rule in group:
                for reply_test in reply_rule.tests:
                    problem = failure(own, reply_rule, reply_test)
                    right += not problem
                    failed += bool(problem)
                    if problem:
                        print(f"FAIL  {reply_rule.name}: {reply_test.reply}\n      {reply_test.file}:{reply_test.line}: {problem}")
            passed += right
            print(f"ok    {os.path.basename(file)}: {'1 reply' if right == 1 else f'{right} replies'}")
    without = [rule.name for rule in (*rules, *replies) if not rule.tests]
    if without:
        print(f"      without tests: {', '.join(without)}")
    print(f"{passed} passed, {failed} failed")
    return EXIT_FOUND if failed else EXIT_OK


def _told(rule: Rule, name: str, who: dict[str, str]) -> str:
    """A subject; that of an episode's end is told apart."""
    return ("" if name == rule.name else "the end of ") + str(who)


def run_test(rule: Rule, test: RuleTest) -> str:
    """What is wrong; empty if the rule fires for the expected subjects and for no other."""
    engine = Engine([rule], year=_YEAR)
    found = [*engine.feed(test.log.encode()).detections, *engine.finish().detections]
    fired = sorted(_told(rule, detection.rule, detection.subject) for detection in found)
    expected = sorted([*(_told(rule, rule.name, who) for who in test.fires), *(_told(rule, "", who) for who in test.ends)])
    unparsed = sum(lines["unparsed"] for lines in engine.counters()["lines"].values())
    if unparsed:
        return f"{unparsed} of the test's log lines can't be read"
    if fired != expected:
        return f"expected {', '.join(expected) or 'nothing'}; fired {', '.join(fired) or 'nothing'}"
    return ""
