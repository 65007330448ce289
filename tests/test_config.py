"""sentinel.yaml: what is accepted, and that every mistake is named with line and nearest word."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from sentinel.config import OWN_NETWORKS, Config, load_config, parse_duration, parse_zone
from sentinel.errors import UserError

FULL = """
log: [/var/log/mail.log, /var/log/mail2.log]
state: /srv/sentinel
listen: "[::1]:9155"
rules: rules/mine.yaml
timezone: Asia/Shanghai
year: 2012
networks: [192.0.2.0/24, "2001:db8::/32"]
logins: {database: "mysql://u:geheim@h/x", query: "SELECT a, b FROM t", refresh: 5m}
policy:
  mode: enforce
  lock_at: 12
  memory: 1.5h
  protected: [postmaster@*, root]
  max_locks_per_hour: 3
  max_locks_per_day: 5
  max_evidence_age: 600
database:
  url: mysql://guard:geheim@127.0.0.1/extmail
  preset: extmail
  options: {table: mailbox, locked: 0}
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "sentinel.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text))
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, FULL))
    assert config.log == ("/var/log/mail.log", "/var/log/mail2.log")
    assert config.listen_address == ("::1", 9155)
    assert config.rules == ("rules/mine.yaml",)
    assert (config.policy.memory, config.policy.max_evidence_age, config.policy.lock_at) == (5400, 600, 12)
    assert config.policy.protected == ("postmaster@*", "root")
    assert config.logins is not None
    assert config.logins.refresh == 300
    assert config.database is not None
    assert config.database.options == {"table": "mailbox", "locked": 0}
    assert config.database.url.get_secret_value() == "mysql://guard:geheim@127.0.0.1/extmail"
    assert "geheim" not in repr(config) + str(config) + config.model_dump_json()


def test_defaults_lock_nobody(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "log: /var/log/mail.log\ndatabase:\n"))
    assert config == Config.from_arguments(log=["/var/log/mail.log"])
    assert config.policy.mode == "observe"
    assert config.networks == OWN_NETWORKS
    assert config.listen_address == ("127.0.0.1", 9154)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lgo: x", 'lgo: unknown key; did you mean "log"?'),
        ("policy: {memroy: 1h}", 'policy.memroy: unknown key; did you mean "memory"?'),
        ("policy: {mode: enfroce}",
         'policy.mode: "enfroce" is not one of observe, notify, enforce; did you mean "enforce"?'),
        ("policy: {lock_at: 0}", "policy.lock_at: must be more than 0, not 0"),
        ("policy: {lock_at: .inf}", None),
        ("policy: {lock_at: ten}", 'policy.lock_at: must be a number, not "ten"'),
        ("policy: {max_locks_per_hour: -1}", "policy.max_locks_per_hour: must be at least 0, not -1"),
        ("policy: {max_locks_per_hour: 1.5}", "policy.max_locks_per_hour: must be a whole number, not 1.5"),
        ("policy: {max_locks_per_hour: true}", "policy.max_locks_per_hour: must be a whole number, not true"),
        ("policy: {memory: 1:30}",
         "policy.memory: '1:30' is not a duration; write a number of seconds or 90s, 10m, 1h, 7d"),
        ("policy: {memory: -5}", "policy.memory: -5 is not a duration; it must be longer than 0 seconds"),
        ("policy: {protected: [a, no]}",
         "policy.protected[2]: must be a text, but YAML reads this word as true or false; put it in quotes"),
        ("policy: {protected: ['']}", None),
        ("policy: {protected: ' '}",
         "policy.protected[1]: an empty pattern protects nobody; name an account or a pattern such as *@example.com"),
        ("policy: 5", "policy: must hold keys and values, not 5"),
        ("listen: 9154", "listen: 9154 is not HOST:PORT; write it as 127.0.0.1:9154 or [::1]:9154"),
        ("listen: ::1:9154", 'listen: "::1:9154" is not HOST:PORT; write it as 127.0.0.1:9154 or [::1]:9154'),
        ("listen: localhost:99999", None),
        ("networks: [10.0.0.1/8]", 'networks[1]: "10.0.0.1/8" is not a network; did you mean "10.0.0.0/8"?'),
        ("timezone: Asia/Shanghia", 'timezone: "Asia/Shanghia" is not a time zone; did you mean "Asia/Shanghai"?'),
        ("timezone: ../../etc/passwd", None),
        ("year: 12", "year: must be at least 1970, not 12"),
        ("notify: 5", "notify: must be a list of targets; begin each with - kind: webhook (or email, alertmanager, command)"),
        ("notify: [{kind: webhok, url: 'https://x/y'}]",
         'notify[1]: kind: "webhok" is not one of webhook, email, alertmanager, command; did you mean "webhook"?'),
        ("notify: [{url: x}]", "notify[1]: kind is missing; it is one of webhook, email, alertmanager, command"),
        ("notify: [{kind: webhook}]", "notify[1]: give either url or url_file"),
        ("notify: [{kind: webhook, url: 'https://x/y', fromat: slack}]", 'notify[1].fromat: unknown key; did you mean "format"?'),
        ("notify: [{kind: command, argv: a, kinds: lcked}]", None),
        ("notify: [{kind: command, argv: a}, {kind: command, argv: b}]",
         'notify: 2 targets are called "command"; give each a name of its own'),
        ("notify: [{kind: email, to: a@b.example, from: c@d.example, relay: 'x:25', tls: none, user: u, password_file: /p}]",
         "notify[1]: with tls: none the password would be sent in the clear; use starttls or implicit"),
        ("notify: [{kind: email, to: 'A <a@b.example>', from: c@d.example, relay: 'x:25'}]",
         'notify[1].to[1]: "A <a@b.example>" is not a bare mail address; write it as admin@example.com'),
        ("notify: [{kind: email, to: a@b.example, relay: 'x:25'}]", "notify[1].from: is missing"),
        ("notify: [{kind: email, to: a@b.example, from: c@d.example, relay: x}]", None),
        ("notify: [{kind: webhook, format: matrix, url: 'https://x', room: '#a:b', token_file: /t}]",
         "notify[1]: room must be the room's id, which begins with !, and not its alias"),
        ("notify: [{kind: command, argv: [a], timeout: 5m}]", 'notify[1].timeout: must be at most 60, not "5m"'),
        ("ban: {by: iptables}", 'ban.by: "iptables" is not one of nftables, fail2ban, crowdsec, command; did you mean "nftables"?'),
        ("ban: {by: command}", "ban: by: command and argv belong together"),
        ("ban: {by: nftables, never: 1.2.3.4/8}", None),
        ("ban: {by: nftables, table: '-x'}", None),
        ("state: ''", "state: must not be empty"),
        ("rules: {a: b}", "rules: must be a text or a list of texts, not keys and values"),
        ("rules: [2012-10-24]", ""),
        ("database: {}", "database.url: is missing; say where the accounts are"),
        ("database: {url: geheim}", None),
        ("database: {url: 'sqlite:////x', options: {table: 1.5}}",
         "database.options.table: must be a text, a whole number, true or false, or a list of texts, not 1.5"),
        ("logins: {file: a, database: b, query: c}", "logins: give either file, or database and query"),
        ("logins: {database: 'mysql://h/x'}", "logins: database and query belong together"),
        ("postfix: {postsuper: sudo -n postsuper}",
         'postfix.postsuper: "sudo -n postsuper" is no program; write program and arguments as a list: [sudo, -n, postsuper]'),
        ("postfix: {postcat: []}", "postfix.postcat: must not be empty"),
        ("postfix: {postcat: [postcat, '']}", None),
        ("postfix: {postqueue: [postqueue, 5]}", "postfix.postqueue[2]: must be a text, not 5; put it in quotes"),
        ('postfix: {postqueue: "post\\0queue"}', None),
        ("postfix: {postmapp: x}", None),
        ("postfix: {postsuper: [docker, exec, -i, mail, postsuper], postcat: /usr/sbin/postcat}", ""),
        ("<<: {a: b}", None),
        ("policy: {max_locks_per_day: 010}", 'policy.max_locks_per_day: must be a whole number, not "010"'),
        ("policy: !mine {}", "the tag !mine can't be used here; write the value without it, a text in quotes"),
        ("? [a, b]\n: c", None),
        ("&a policy: *a", None),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, line: str, expected: str | None) -> None:
    text = f"log: /var/log/mail.log\n# here it comes\n{line}\n"
    if expected == "":
        load_config(write(tmp_path, text))
        return
    found = problems(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith("sentinel.yaml:3: ")
    assert "geheim" not in found[0]
    if expected is not None:
        assert found[0] == f"sentinel.yaml:3: {expected}"


def test_all_mistakes_in_one_go_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = problems(tmp_path, "lgo: x\npolicy:\n  mode: on\n  memory: 0\n  memory: 1\nyear: x\nstate: a\nstate: b\n")
    assert [line.split(": ")[0] for line in found] == [f"sentinel.yaml:{n}" for n in (1, 1, 3, 4, 5, 6, 8)]
    assert 'sentinel.yaml:5: key "memory" is given twice (first in line 4); keep one of them' in found
    assert "sentinel.yaml:1: log: is missing; name the mail log, such as log: /var/log/mail.log" in found


def test_enforce_needs_a_database(tmp_path: Path) -> None:
    found = problems(tmp_path, "log: x\npolicy: {mode: enforce}\n")
    assert found == ["sentinel.yaml:1: enforce needs a database to lock accounts in"]


@pytest.mark.parametrize(
    "text",
    ["", "# nothing\n", "- a\n", "just text", "log: [", "log: \t- x\n", "a: b: c", "log: \x00", b"\xff\xfe\x00",
     b"log: \xff",
     "log: !!python/object/apply:os.system [x]", "log: &a [*a]", "%YAML 9.9\n---\nlog: x", "a: 1\n---\nb: 2\n",
     "log: " + "[" * 200 + "]" * 200, "year: 0x\n", "log: !!binary x"],
)  # fmt: skip
def test_bad_yaml_is_a_sentence_with_the_file(tmp_path: Path, text: str | bytes) -> None:
    for line in problems(tmp_path, text):
        assert re.match(r"sentinel\.yaml(:\d+)?: \S", line), line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="this is a directory"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="larger than 4 MiB"):
        load_config(write(tmp_path, b"#" * (5 << 20)))


def test_from_arguments() -> None:
    config = Config.from_arguments(
        log=["a", "b"], state="s", database="sqlite:////x.db", preset="extmail", enforce=True, listen="0.0.0.0:1",
        rules=["r"], timezone="+08:00", year=2012,
    )  # fmt: skip
    assert config.policy.mode == "enforce"
    assert config.database is not None
    assert config.database.preset == "extmail"
    assert (config.log, config.rules, config.year) == (("a", "b"), ("r",), 2012)


def test_arguments_are_answered_in_their_own_words() -> None:
    with pytest.raises(UserError, match=r"^--enforce: locking needs --database URL"):
        Config.from_arguments(log=["a"], enforce=True)
    with pytest.raises(UserError, match=r"^--preset: .* --database is needed"):
        Config.from_arguments(log=["a"], preset="extmail")
    with pytest.raises(UserError) as caught:
        Config.from_arguments(log=[], listen="x", timezone="Mars/Base", database="geheim")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "--log",
        "--listen",
        "--timezone",
        "--database",
    ]
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("7d", 604800), (0.5, 0.5)])
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1y", "-1h", "1h30m", "0", "1e3", "٣m", True, None, [], float("nan"), float("inf")])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


def test_timezones() -> None:
    assert parse_zone("-03:30").utcoffset(None) == -timedelta(hours=3, minutes=30)
    assert str(parse_zone("Asia/Shanghai")) == "Asia/Shanghai"
    with pytest.raises(ValueError, match="is not a time zone"):
        parse_zone("+25:00")


def test_json_schema_for_editors() -> None:
    schema = Config.model_json_schema()
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["additionalProperties"] is False
