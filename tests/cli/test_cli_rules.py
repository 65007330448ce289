"""``sentinel rules check|test``."""

from pathlib import Path

import pytest
from commands import Run

from sentinel.detect.rules import load_rules

GOOD = """
rules:
  - name: password-spray
    description: One address tries the passwords of many accounts.
    severity: warning
    score: 0
    on: auth_failed
    by: client_ip
    measure: distinct(sasl_username)
    window: 1h
    threshold: 3
    tests:
      - name: three accounts
        log:
          - repeat: 3
            lines: "Oct 24 06:18:01 mx postfix/smtpd[1]: warning: h[192.0.2.7]: SASL LOGIN authentication failed: no, sasl_username=u{n}"
        fires: [{client_ip: 192.0.2.7}]
"""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_the_product_s_own_rules_are_right(sentinel: Run) -> None:
    done = sentinel("rules", "check")
    assert (done.code, done.err) == (0, "")
    assert len(done.out.splitlines()) == len(load_rules())


def test_the_product_s_own_tests_pass(sentinel: Run) -> None:
    done = sentinel("rules", "test")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[-1] == f"{sum(len(rule.tests) for rule in load_rules())} passed, 0 failed"


def test_check_of_a_file_and_of_its_folder(rules: Path, sentinel: Run) -> None:
    for path in (rules, rules.parent):
        done = sentinel("rules", "check", path)
        assert (done.code, done.out) == (0, "ok  password-spray  (score 0, 1 test)\n")


@pytest.mark.parametrize(
    ("right", "wrong", "line", "words"),
    [
        ("window: 1h", "windw: 1h", 10, ('"windw"', 'did you mean "window"')),
        ("window: 1h", "window: -1h", 10, ("window", "-1h")),
        ("threshold: 3", "threshold: many", 11, ("threshold", "many")),
        ("severity: warning", "severity: warn", 5, ("warn", '"warning"')),
        ("on: auth_failed", "on: auth_faild", 7, ("auth_faild", '"auth_failed"')),
        ("distinct(sasl_username)", "distinct(sasl_user)", 9, ("sasl_user", '"sasl_username"')),
        ("by: client_ip", "by: [client_ip", 9, ("YAML",)),
    ],
)
def test_check_names_file_line_and_the_nearest_word(
    right: str, wrong: str, line: int, words: tuple[str, ...], rules: Path, sentinel: Run
) -> None:
    rules.write_text(GOOD.replace(right, wrong), encoding="utf-8")
    done = sentinel("rules", "check", rules)
    assert done.code == 1
    (sentence,) = (done.out + done.err).splitlines()
    assert f"{rules}:{line}: " in sentence
    for word in words:
        assert word in sentence


def test_file_that_is_not_there_is_bad_input_and_no_bad_rule(tmp_path: Path, sentinel: Run) -> None:
    for command in ("check", "test"):
        sentinel("rules", command, tmp_path / "none.yaml").refused("none.yaml", "there is no such file")


def test_test_that_fails(rules: Path, sentinel: Run) -> None:
    rules.write_text(GOOD.replace("repeat: 3", "repeat: 2"), encoding="utf-8")
    done = sentinel("rules", "test", rules)
    assert done.code == 1
    assert done.out.startswith(f"FAIL  password-spray: three accounts\n      {rules}:13: expected")
    assert done.out.endswith("0 passed, 1 failed\n")


def test_test_whose_log_can_not_be_read(rules: Path, sentinel: Run) -> None:
    rules.write_text(GOOD.replace("Oct 24", "Oct 42"), encoding="utf-8")
    done = sentinel("rules", "test", rules)
    assert done.code == 1
    assert "3 of the test's log lines can't be read" in done.out


def test_rule_without_tests_is_named(rules: Path, sentinel: Run) -> None:
    rules.write_text(GOOD[: GOOD.index("    tests:")], encoding="utf-8")
    done = sentinel("rules", "test", rules)
    assert done.code == 0
    assert "without tests: password-spray" in done.out


def test_rules_file_that_is_wrong_can_not_be_tested(rules: Path, sentinel: Run) -> None:
    rules.write_text(GOOD.replace("window: 1h", "windw: 1h"), encoding="utf-8")
    sentinel("rules", "test", rules).refused(f"{rules}:10: ")
