"""``sentinel rules check|test``."""

from pathlib import Path

import pytest
from commands import Run

from sentinel.detect.replies import default_replies_path, load_reply_rules
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
    replies = [line for line in done.out.splitlines() if "reply rules" in line]
    assert len(done.out.splitlines()) - len(replies) == len(load_rules())
    assert [line.split()[1] for line in replies] == [path.name for path in sorted(default_replies_path().glob("*.yaml"))]


def test_the_product_s_own_tests_pass(sentinel: Run) -> None:
    done = sentinel("rules", "test")
    assert (done.code, done.err) == (0, "")
    tests = sum(len(rule.tests) for rule in (*load_rules(), *load_reply_rules([default_replies_path()])))
    assert done.out.splitlines()[-1] == f"{tests} passed, 0 failed"


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


REPLIES = """
provider: example
source: https://example.net/postmaster
replies:
  - name: example-block
    class: ip_blocked
    patterns: ['code EX-7']
    tests:
      - "554 code EX-7"
      - {reply: "554 192.0.2.9 has code EX-7, see http://example.net/", provider: example, blocked_ip: 192.0.2.9, delist_url: http://example.net/}
  - name: yahoo-permanent
    class: rate_limited
    patterns: ['\\[TS03\\]']
    tests: ["421 4.7.1 [TS03] All messages will be permanently deferred"]
"""


def test_reply_rules_are_checked_and_tested_before_the_product_s(tmp_path: Path, sentinel: Run) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(REPLIES, encoding="utf-8")
    done = sentinel("rules", "check", path)
    assert (done.code, done.out) == (0, "ok  own.yaml  (2 reply rules, 3 tests)\n")
    for where in (path, tmp_path):
        done = sentinel("rules", "test", where)
        assert (done.code, done.out) == (0, "ok    own.yaml: 3 replies\n3 passed, 0 failed\n")


def test_reply_test_that_fails_says_what_came_out(tmp_path: Path, sentinel: Run) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(REPLIES.replace("blocked_ip: 192.0.2.9", "blocked_ip: 192.0.2.8"), encoding="utf-8")
    done = sentinel("rules", "test", path)
    assert done.code == 1
    assert f"FAIL  example-block: 554 192.0.2.9 has code EX-7, see http://example.net/\n      {path}:10: " in done.out
    assert "blocked_ip is '192.0.2.9', not '192.0.2.8'" in done.out
    assert done.out.endswith("ok    own.yaml: 2 replies\n2 passed, 1 failed\n")


def test_check_of_a_reply_rule_that_is_wrong(tmp_path: Path, sentinel: Run) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(REPLIES.replace("class: ip_blocked", "class: blocked"), encoding="utf-8")
    done = sentinel("rules", "check", path)
    assert done.code == 1
    assert f'{path}:6: "class" can\'t be "blocked"; did you mean "ip_blocked"?' in done.out


def test_rules_and_reply_rules_in_one_folder(rules: Path, sentinel: Run) -> None:
    (rules.parent / "own.yaml").write_text(REPLIES, encoding="utf-8")
    done = sentinel("rules", "check", rules.parent)
    assert (done.code, done.out) == (0, "ok  password-spray  (score 0, 1 test)\nok  own.yaml  (2 reply rules, 3 tests)\n")
