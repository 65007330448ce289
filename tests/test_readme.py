"""The README tells the truth: its examples work, and its references are whole."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from sentinel.cli import build_parser, main
from sentinel.config import (
    TARGET_KINDS,
    AccessMapSettings,
    BanSettings,
    Config,
    DatabaseSettings,
    LoginSettings,
    PolicySettings,
    PostfixSettings,
    ResponseSettings,
    load_config,
)
from sentinel.detect.detection import Detection
from sentinel.detect.engine import REPLY_COLUMNS
from sentinel.detect.replies import _RULE_KEYS as _REPLY_KEYS
from sentinel.detect.replies import CLASS_NAMES, STAGES
from sentinel.detect.rules import _RULE_KEYS, CONDITION_FIELDS
from sentinel.maillog.fields import COLUMNS, KINDS
from sentinel.observe.metrics import ACTIONS, METRICS, RESULTS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else ""
pytestmark = pytest.mark.skipif(not README, reason="the README is not here: these are the tests of a checkout")


def section(title: str) -> str:
    return re.search(rf"^##+ {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]


def block(language: str, title: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)[1]  # type: ignore[index]


def words(text: str) -> set[str]:
    """What stands in backticks."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[ =|(){},]+", code)}


def test_configuration_is_whole_and_says_the_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = block("yaml", "Configuration")
    (tmp_path / "logins").write_text("a@example.com a\n", encoding="utf-8")
    (tmp_path / "password").write_text("secret\n", encoding="utf-8")
    own = text.replace("/etc/postfix/sender_login", str(tmp_path / "logins")).replace("/etc/sentinel/password", str(tmp_path / "password"))
    own = re.sub(r"^  url: mysql://.*$", f"  url: sqlite:///{tmp_path}/mail.db", own, flags=re.MULTILINE).replace("  password_file:", "  #")
    (tmp_path / "sentinel.yaml").write_text(own, encoding="utf-8")
    assert main(["config", "check", str(tmp_path / "sentinel.yaml")]) == 0, capsys.readouterr().err
    shown = yaml.safe_load(text)
    assert set(shown) == set(Config.model_fields)
    sections: dict[str, type[BaseModel]] = {
        "policy": PolicySettings,
        "response": ResponseSettings,
        "database": DatabaseSettings,
        "postfix": PostfixSettings,
        "logins": LoginSettings,
    }
    for name, model in sections.items():
        either = {"database", "query"} if name == "logins" else set()
        assert set(shown[name]) == set(model.model_fields) - either
    default = Config.from_arguments(log=["x"])
    assert (shown["state"], shown["listen"], tuple(shown["networks"])) == (default.state, default.listen, default.networks)
    policy = load_config(tmp_path / "sentinel.yaml").policy
    assert policy == PolicySettings(unlock_after=86_400.0)
    response = load_config(tmp_path / "sentinel.yaml").response
    assert response == ResponseSettings(access_map=AccessMapSettings(path="/etc/postfix/sentinel-locked"))


def test_what_follows_a_lock_is_whole() -> None:
    example = yaml.safe_load(
        "\n".join(line[3:] for line in re.search(r"^   response:\n(.*?)^   ```", section("Let it lock"), re.M | re.S)[0].splitlines()[:-1])
    )
    assert ResponseSettings.model_validate(example["response"]).hold
    steps = words(section("Metrics"))
    assert set(ACTIONS) | set(RESULTS) <= steps


def test_targets_and_bans_work_and_their_keys_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "sentinel.yaml"
    path.write_text(f"log: x\n{block('yaml', 'Be told')}\n{block('yaml', 'Ban addresses')}", encoding="utf-8")
    config = load_config(path)
    assert {target.kind for target in config.notify} == set(TARGET_KINDS)
    keys = {info.alias or name for model in TARGET_KINDS.values() for name, info in model.model_fields.items()}
    assert keys <= words(section("Be told"))
    assert config.ban == BanSettings(by="nftables", never=("198.51.100.0/24",))
    named = words(section("Ban addresses")) | {word.rstrip(":") for word in words(section("Ban addresses"))}
    assert set(BanSettings.model_fields) <= named | set(yaml.safe_load(block("yaml", "Ban addresses"))["ban"])


def test_the_rule_works_and_the_keys_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "spray.yaml"
    path.write_text(block("yaml", "Write a rule"), encoding="utf-8")
    assert main(["rules", "test", str(path)]) == 0
    assert capsys.readouterr().out in README
    assert set(_RULE_KEYS) <= words(section("Keys"))
    assert set(KINDS[2:]) <= words(section("Kinds"))
    assert set(CONDITION_FIELDS) <= words(section("Conditions")) | set(COLUMNS)


def test_the_reply_rule_works_and_its_keys_are_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(block("yaml", "Write a reply rule"), encoding="utf-8")
    assert main(["rules", "test", str(path)]) == 0
    assert capsys.readouterr().out in README
    assert set(_REPLY_KEYS) <= words(section("Write a reply rule"))
    assert set(STAGES) <= words(section("Write a reply rule"))
    assert set(CLASS_NAMES[1:]) <= words(section("Who blocks us"))
    assert set(REPLY_COLUMNS) <= words(section("Find the culprit in a log"))


def test_references_are_whole() -> None:
    assert set(COLUMNS) <= words(section("Event fields"))
    assert set(Detection.__slots__) - {"baseline"} <= words(section("Detection fields"))
    assert {spec.name.removeprefix("sentinel_") for spec in METRICS} <= words(section("Metrics"))
    commands = section("Commands")
    for action in build_parser()._subparsers._group_actions:  # type: ignore[union-attr]
        for name, command in action.choices.items():  # type: ignore[union-attr, attr-defined]
            assert f"sentinel {name}" in commands
            for option in {o for a in command._actions for o in a.option_strings if o.startswith("--")} - {"--help"}:
                assert option in commands, (name, option)


def test_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("http"):
            assert (ROOT / target).exists()
