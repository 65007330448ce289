"""``sentinel config check``."""

from pathlib import Path

import pytest
from commands import Run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "sentinel.yaml"


def test_good(config: Path, sentinel: Run) -> None:
    config.write_text("log: /var/log/mail.log\n", encoding="utf-8")
    done = sentinel("config", "check", config)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{config}: ok\n")
    assert "policy: observe, lock at a score of 10" in done.out


def test_good_with_everything(config: Path, tmp_path: Path, sentinel: Run) -> None:
    (tmp_path / "logins").write_text("# sender  logins\n@example.com  anna, info\n", encoding="utf-8")
    (tmp_path / "secret").write_text("s3cret\n", encoding="utf-8")
    config.write_text(
        f"""
log: [/var/log/mail.log, /var/log/mail-2.log]
state: {tmp_path}
listen: "[::1]:9154"
rules: []
timezone: Europe/Berlin
year: 2026
networks: [127.0.0.0/8, 192.0.2.0/24, "2001:db8::/32"]
logins:
  file: {tmp_path}/logins
  refresh: 10m
policy:
  mode: enforce
  lock_at: 12.5
  memory: 24h
  protected: [postmaster@*, boss@example.com]
  max_locks_per_hour: 5
  max_locks_per_day: 20
  max_evidence_age: 1h
database:
  url: mysql://sentinel@localhost/extmail
  password_file: {tmp_path}/secret
  preset: extmail
  options:
    table: mailbox
""",
        encoding="utf-8",
    )
    done = sentinel("config", "check", config)
    assert (done.code, done.err) == (0, "")
    assert "policy: enforce, lock at a score of 12.5" in done.out
    assert "extmail" in done.out
    assert "s3cret" not in done.out


def test_every_mistake_has_its_line(config: Path, sentinel: Run) -> None:
    config.write_text("log: a\npolcy: {}\npolicy:\n  mode: enforc\nnetworks: [192.0.2.1/8]\ntimezone: Berlin\n", encoding="utf-8")
    done = sentinel("config", "check", config)
    assert (done.code, done.out) == (2, "")
    polcy, mode, network, zone = done.sentences
    assert polcy == f'{config}:2: polcy: unknown key; did you mean "policy"?'
    assert mode.startswith(f'{config}:4: policy.mode: "enforc" is not one of')
    assert network.startswith(f"{config}:5: networks[1]: ")
    assert zone == f'{config}:6: timezone: "Berlin" is not a time zone; did you mean "Europe/Berlin"?'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("empty", "log:")),
        ("log: a\npolicy: {mode: enforce}\n", ("enforce needs a database",)),
        ("log: a\nrules: NOWHERE/rules.yaml\n", ("NOWHERE/rules.yaml",)),
        ("log: a\nlogins: {file: NOWHERE/logins}\n", ("NOWHERE/logins",)),
        ("log: a\nlogins: {}\n", ("logins", "file")),
        ("log: a\ndatabase: {url: 'mysql://u@h/d', preset: extmial}\n", ('did you mean "extmail"',)),
        ("log: a\ndatabase: {url: 'mysql://u@h/d', options: {tabel: x}}\n", ('did you mean "table"',)),
        ("log: a\ndatabase: {url: 'mysql://u:${NOT_SET_HERE}@h/d'}\n", ("NOT_SET_HERE", "not set")),
        ("log: a\ndatabase: {url: 'mysql://u@h/d', password_file: NOWHERE/secret}\n", ("NOWHERE/secret",)),
    ],
)
def test_bad(text: str, words: tuple[str, ...], config: Path, tmp_path: Path, sentinel: Run) -> None:
    config.write_text(text.replace("NOWHERE", str(tmp_path / "nowhere")), encoding="utf-8")
    sentinel("config", "check", config).refused(*(word.replace("NOWHERE", str(tmp_path / "nowhere")) for word in words))


def test_password_is_never_shown(config: Path, sentinel: Run) -> None:
    config.write_text("log: a\ndatabase: {url: 'mysql://u:hunter2@h:port/d'}\n", encoding="utf-8")
    done = sentinel("config", "check", config)
    assert done.code == 2
    assert "hunter2" not in done.out + done.err


def test_file_that_is_not_there(config: Path, sentinel: Run) -> None:
    sentinel("config", "check", config).refused(str(config), "no such file")
    sentinel("config", "check", config.parent).refused(str(config.parent), "directory")


def test_targets_and_bans(config: Path, tmp_path: Path, sentinel: Run) -> None:
    (tmp_path / "url").write_text("https://hooks.example.net/s3cret\n", encoding="utf-8")
    good = f"log: x\nnotify: [{{kind: webhook, format: slack, url_file: {tmp_path}/url}}]\n"
    config.write_text(f"{good}ban: {{by: nftables}}\n", encoding="utf-8")
    done = sentinel("config", "check", config)
    assert (done.code, done.err) == (0, "")
    assert "tells slack; try them with: sentinel notify test" in done.out
    assert "bans addresses by nftables, for auth-bruteforce-ip" in done.out
    assert "s3cret" not in done.out
    config.write_text(f"{good}ban: {{by: nftables, rules: auth-brutforce-ip}}\n", encoding="utf-8")
    done = sentinel("config", "check", config)
    assert (done.code, done.err) == (
        2,
        f'sentinel: {config}: ban.rules: there is no rule auth-brutforce-ip; did you mean "auth-bruteforce-ip"?\n',
    )
    config.write_text("log: x\nnotify: [{kind: webhook, url_file: /nowhere/url}]\n", encoding="utf-8")
    done = sentinel("config", "check", config)
    assert done.code == 2
    assert "notify[1].url_file /nowhere/url cannot be read: No such file or directory" in done.err
