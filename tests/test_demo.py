"""`make demo` as people see it, and that it says so when something is wrong."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parent / "demo" / "demo.py"
CULPRIT = "info@example.com"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)
    spec.loader.exec_module(module)
    return module


def test_the_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DEMO), "--fast"], capture_output=True, text=True, timeout=90, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = done.stdout
    assert "\x1b" not in out
    assert re.search(rf"log \| \w+ +\d+ [\d:]+ mx postfix/submission/smtpd\[\d+\]: \w+: client=unknown\[203.0.113.66\].*={CULPRIT}\n", out)
    assert out.count("421 4.7.1 [TS03]") == 1
    assert out.count("Blocked for abuse") == 1
    for words in (
        f"WARNING auth-success-after-failures, 5 points: {CULPRIT}, 203.0.113.66",
        f"CRITICAL outbound-burst-account, 5 points: {CULPRIT}",
        f"CRITICAL sender-login-mismatch, 6 points: {CULPRIT}",
        "CRITICAL remote-block, 0 points: mx, yahoo",
        "CRITICAL remote-block, 0 points: mx, att",
    ):
        assert out.count(f"sentinel | {words}") == 1
    # Before, when it flips, and after the unlock; what is locked is one row.
    assert [line for line in out.splitlines() if "<-- locked" in line] == [
        " mailbox | info@example.com     Info     active=0   <-- locked"
    ] * 2
    assert out.count("anna@example.com     Anna     active=1") == 3
    locked = re.search(r"Locked ([0-9.]+) s after the first spam, with (\d+) recipients; untouched: (.*)\.\n", out)
    assert locked is not None
    assert float(locked[1]) < 10
    assert int(locked[2]) <= 300
    assert locked[3] == "anna@example.com, bert@example.com, carla@example.com, office@example.com"
    for metric in (
        'sentinel_remote_replies_total{class="ip_blocked",provider="yahoo"} 1.0',
        f'sentinel_account_score{{sasl_username="{CULPRIT}"}} 16.0',
        'sentinel_actions_total{action="lock",result="done"} 1.0',
        "sentinel_locked_accounts 1.0",
    ):
        assert f" metrics | {metric}\n" in out
    assert re.search(rf"^\S+Z  lock  done  {CULPRIT}  .* points: ", out, re.MULTILINE)
    assert re.search(rf"^\S+Z  unlock  done  {CULPRIT}  password changed", out, re.MULTILINE)
    assert re.search(r"sentinel replay /var/log/mail\.log\n", out)
    assert re.search(r"sentinel run --log /var/log/mail\.log --state ", out)
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_that_does_not_start_is_told(tmp_path: Path) -> None:
    """Another package named sentinel stands in front: it says why it ends, and so does the demo."""
    impostor = tmp_path / "sentinel"
    impostor.mkdir()
    (impostor / "__init__.py").touch()
    (impostor / "__main__.py").write_text("import sys\nsys.exit('the disk is on fire')\n")
    done = subprocess.run([sys.executable, str(DEMO), "--fast"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["demo: the daemon ended by itself with exit code 1", "daemon: the disk is on fire"]


def test_an_account_that_is_not_locked_is_told(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.Daemon, "mode", ())
    monkeypatch.setattr(demo, "LOCK_SECONDS", 0.3)
    assert demo.perform(0.0) == 1
    first, *rest = capfd.readouterr().err.splitlines()
    assert re.fullmatch(rf"demo: {CULPRIT} was not locked within 0\.3 s after 600 recipients", first)
    assert rest
    assert all(line.startswith("daemon: ") for line in rest)
    assert any("detection sender-login-mismatch" in line for line in rest)


def test_a_wrong_lock_is_told(demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "CULPRIT", "office@example.com")
    real = demo.Demo.attack

    def attack(self: object) -> None:
        # Somebody else is robbed than the one whom the demo expects to be locked.
        with monkeypatch.context() as changed:
            changed.setattr(
                demo.Postfix, "login", lambda self, account, ip, _real=demo.Postfix.login, **how: _real(self, CULPRIT, ip, **how)
            )
            real(self)

    monkeypatch.setattr(demo.Demo, "attack", attack)
    assert demo.perform(0.0) == 1
    assert capfd.readouterr().err.splitlines()[0] == f"demo: the wrong account was locked: {CULPRIT}"
