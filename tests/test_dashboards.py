"""The alerting rules: valid, tested by Prometheus's own tool, and about metrics that sentinel exports."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from sentinel.detect.rules import load_rules
from sentinel.observe.metrics import ACTIONS, METRICS, RESULTS, Metrics
from sentinel.observe.status import Status
from sentinel.resources import resource

FOLDER = resource("dashboards", "prometheus")
ALERTS = FOLDER / "alerts.yaml"
TESTS = FOLDER / "alerts.test.yaml"
OF_THE_TARGET = {"job", "instance"}
"""Labels that Prometheus adds to everything that it scrapes."""
OF_PROMETHEUS = {"up"}
RULES = {rule.name for rule in load_rules()}
VALUES = {"rule": RULES, "action": set(ACTIONS), "result": set(RESULTS)}

_WORDS = {"and", "or", "unless", "offset", "bool"}
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-z_:][\w:]*)?\s*\{([^}]*)\}", re.IGNORECASE)
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def names(expression: str) -> set[str]:
    """The metrics of an expression."""
    bare = _GROUPING.sub(" ", re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", expression))
    words = re.finditer(r"(?<![\w.])([a-z_:][\w:]*)(\s*\()?", bare, re.IGNORECASE)
    return {word[1] for word in words if not word[2] and word[1] not in _WORDS}


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Every name that the product's /metrics has, those of the process included."""
    status = Status(sources=["mail.log"], rules=[("remote-block", "critical")], detections=lambda _: [], locks=list)
    text = Metrics(status, version="1").render()[0].decode()
    samples = {re.split(r"[{ ]", line, maxsplit=1)[0] for line in text.splitlines() if not line.startswith("#")}
    return samples | {spec.name for spec in METRICS}


@pytest.mark.parametrize("arguments", [("check", "rules", ALERTS.name), ("test", "rules", TESTS.name)], ids=["check", "test"])
def test_promtool(arguments: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian, Ubuntu: apt install prometheus)")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('sum by (job) (rate(a_total{x="b_c"}[5m])) > 1e6', {"a_total"}),
        ("a > 600 and on (job, instance) b == 0 or absent(up)", {"a", "b", "up"}),
    ],
)
def test_names_of_an_expression(expression: str, expected: set[str]) -> None:
    assert names(expression) == expected


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_is_about_what_sentinel_exports(alert: dict[str, Any], exported: set[str]) -> None:
    used = names(alert["expr"])
    assert used
    assert used <= exported | OF_PROMETHEUS
    labels = {spec.name: set(spec.labels) for spec in METRICS}
    for metric, matchers in _SELECTOR.findall(alert["expr"]):
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in labels.get(metric, set()) | OF_THE_TARGET
            if label in VALUES:
                assert set(value.split("|") if operator.endswith("~") else [value]) <= VALUES[label]
    for group in _GROUPING.findall(alert["expr"]):
        allowed = OF_THE_TARGET.union(*(labels.get(metric, set()) for metric in used))
        assert {label.strip() for label in group.split(",")} <= allowed


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert set(alert["annotations"]) == {"summary", "description"}
    assert len(alert["annotations"]["description"]) > 80


def test_every_alert_is_tested_to_fire_and_not_to_fire() -> None:
    fires: dict[str, set[bool]] = {}
    for test in yaml.safe_load(TESTS.read_text(encoding="utf-8"))["tests"]:
        for case in test["alert_rule_test"]:
            fires.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert fires == {alert["alert"]: {True, False} for alert in alerts()}
