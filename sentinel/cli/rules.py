"""``sentinel rules check|test``."""

from __future__ import annotations

import argparse

from sentinel.cli import EXIT_FOUND, EXIT_OK
from sentinel.detect.engine import Engine
from sentinel.detect.rules import Rule, RuleSet, RuleTest, load_rules
from sentinel.errors import ContentError

_YEAR = 2026
"""Of stamps in tests: any will do, so that they mean the same for ever."""


def main(arguments: argparse.Namespace) -> int:
    try:
        rules = load_rules(arguments.paths or None)
    except ContentError as error:
        if arguments.rules_command != "check":
            raise
        print(error)
        return EXIT_FOUND
    if arguments.rules_command == "check":
        for rule in rules:
            tests = len(rule.tests)
            print(f"ok  {rule.name}  (score {rule.score:g}, {tests} {'test' if tests == 1 else 'tests'})")
        return EXIT_OK
    return _test(rules)


def _test(rules: RuleSet) -> int:
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
    without = [rule.name for rule in rules if not rule.tests]
    if without:
        print(f"      without tests: {', '.join(without)}")
    print(f"{passed} passed, {failed} failed")
    return EXIT_FOUND if failed else EXIT_OK


def run_test(rule: Rule, test: RuleTest) -> str:
    """What is wrong; empty if the rule fires for the expected subjects and for no other."""
    engine = Engine([rule], year=_YEAR)
    found = [*engine.feed(test.log.encode()).detections, *engine.finish().detections]
    fired = sorted(str(detection.subject) for detection in found)
    expected = sorted(str(dict(subject)) for subject in test.fires)
    unparsed = sum(lines["unparsed"] for lines in engine.counters()["lines"].values())
    if unparsed:
        return f"{unparsed} of the test's log lines can't be read"
    if fired != expected:
        return f"expected {', '.join(expected) or 'nothing'}; fired {', '.join(fired) or 'nothing'}"
    return ""
