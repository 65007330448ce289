"""Addresses that guess passwords: the right ones, once, by the real nft and fail2ban, and nothing of the log but an address."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sentinel.config import OWN_NETWORKS, BanSettings, load_config
from sentinel.errors import UserError
from sentinel.respond.ban import BanFailed, Banner, BanRefused, ban_command, bannable, banner_of
from sentinel.state import State

NOW = 1_351_059_487.0
RECORD = (
    "import sys; open(sys.argv[1], 'a').write(' '.join(sys.argv[2:]) + chr(10)); sys.exit(int(sys.argv[4]) if len(sys.argv) > 4 else 0)"
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with State(tmp_path / "state") as opened:
        yield opened


def detection(
    id_: str = "d1", ip: str = "203.0.113.5", rule: str = "auth-bruteforce-ip", time: str = "2012-10-24T06:18:07Z"
) -> dict[str, Any]:
    return {"id": id_, "rule": rule, "time": time, "subject": {"client_ip": ip}, "measure": "count", "value": 20.0}


def settings(**more: Any) -> BanSettings:
    return BanSettings(**{"by": "nftables", **more})


def recorder(tmp_path: Path, **more: Any) -> BanSettings:
    """Bans by a program that writes down its arguments."""
    return settings(
        by="command", argv=(sys.executable, "-c", RECORD, str(tmp_path / "banned"), "{ip}", "{seconds}", *more.pop("code", ())), **more
    )


def banned(tmp_path: Path) -> list[str]:
    path = tmp_path / "banned"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def banner(state: State, which: BanSettings, **more: Any) -> Banner:
    return Banner(state, which, **{"now": lambda: NOW, "pauses": (0.01, 0.05), **more})


# what is banned


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::FFFF:cb00:7105", "203.0.113.5"),
    ],
)
def test_addresses_are_written_by_us(text: str, expected: str) -> None:
    assert str(bannable(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "2001:db8::1%$(reboot)", "224.0.0.1", "ff02::1", "0.0.0.0",
     "::", "", "unknown", "203.0.113.5 }; flush ruleset; {", "203.0.113.5\n", " 203.0.113.5", "203.0.113.0/24", "0x7f.1", "203.0.113.005", "-d", "１.2.3.4"],
)  # fmt: skip
def test_what_no_firewall_is_told(text: str) -> None:
    with pytest.raises(BanRefused, match=r"^address: "):
        bannable(text)


@given(st.one_of(st.text(), st.ip_addresses().map(str), st.tuples(st.ip_addresses().map(str), st.text()).map("".join)))
def test_no_text_reaches_a_program_but_an_address(text: str) -> None:
    try:
        ip = bannable(text)
    except BanRefused:
        return
    for by in ("nftables", "fail2ban", "crowdsec"):
        argv, given_ = ban_command(settings(by=by), ip, 60, "auth-bruteforce-ip")
        assert given_ is None
        assert all(re.fullmatch(r"[ -~]+", word) for word in argv)
        assert re.sub(r"[0-9a-f.:]", "", str(ip)) == ""
        assert any(str(ip) in word for word in argv)


def test_commands() -> None:
    four, six = bannable("203.0.113.5"), bannable("2001:db8::5")
    assert ban_command(settings(), four, 3600, "x")[0] == [
        "nft",
        "add element inet sentinel banned4 { 203.0.113.5 timeout 3600s }; delete element inet sentinel banned4 { 203.0.113.5 }; "
        "add element inet sentinel banned4 { 203.0.113.5 timeout 3600s }",
    ]
    assert (
        "add element ip6 t v6 { 2001:db8::5 timeout 60s }" in ban_command(settings(family="ip6", table="t", set6="v6"), six, 60, "x")[0][1]
    )
    assert ban_command(settings(by="fail2ban", program=("sudo", "-n", "fail2ban-client"), jail="mail"), six, 60, "x")[0] == [
        "sudo", "-n", "fail2ban-client", "set", "mail", "banip", "2001:db8::5",
    ]  # fmt: skip
    assert ban_command(settings(by="crowdsec"), four, 3600, "auth-bruteforce-ip: count 20\x1b")[0] == [
        "cscli", "decisions", "add", "--ip=203.0.113.5", "--duration=3600s", "--reason=sentinel: auth-bruteforce-ip: count 20?",
    ]  # fmt: skip
    argv, given_ = ban_command(settings(by="command", argv=("/x", "--ip={ip}", "{seconds}")), four, 60, "why")
    assert argv == ["/x", "--ip=203.0.113.5", "60"]
    assert json.loads(given_ or b"") == {"ip": "203.0.113.5", "seconds": 60, "why": "why"}


@pytest.mark.parametrize(
    "more",
    [
        {"by": "command"},
        {"argv": ("x",)},
        {"table": "a b"},
        {"set4": "-x"},
        {"jail": "a;b"},
        {"max_per_hour": 0},
        {"by": "ipset"},
        {"duration": 0.1},
    ],
)
def test_settings_that_can_do_nothing(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        settings(**more)


# rows


def test_a_detection_bans_once_for_good(tmp_path: Path) -> None:
    for _ in range(3):
        with State(tmp_path / "state") as state:
            each = banner(state, recorder(tmp_path, duration=600.0))
            each.offer(detection())
            assert each.drain(5)
    assert banned(tmp_path) == ["203.0.113.5 600"]


def test_it_is_there_if_and_only_if_the_caller_commits(tmp_path: Path, state: State) -> None:
    each = banner(state, recorder(tmp_path))
    with pytest.raises(ZeroDivisionError), state.transaction():
        assert each.offer(detection()) == "pending"
        1 / 0  # noqa: B018
    assert each.drain(5) and banned(tmp_path) == []
    assert each.offer(detection()) == "pending"
    assert each.offer(detection()) is None


def test_other_rules_and_other_subjects_are_none_of_its_business(state: State) -> None:
    each = banner(state, settings())
    assert each.offer(detection(rule="outbound-burst-ip")) is None
    assert each.offer({**detection(), "subject": {"sasl_username": "info@example.com"}}) is None
    assert each.bans() == []
    assert banner(state, settings(rules=("outbound-burst-ip",))).offer(detection(rule="outbound-burst-ip")) == "pending"


def test_refusals_stand_in_the_row(tmp_path: Path, state: State) -> None:
    each = banner(state, recorder(tmp_path, never=("203.0.113.128/25",), max_per_hour=2), never=OWN_NETWORKS)
    given_ = [
        ("198.51.100.1", "2012-10-24T06:18:07Z"), ("10.1.2.3", "2012-10-24T06:18:07Z"), ("::ffff:203.0.113.200", "2012-10-24T06:18:07Z"),
        ("fc00::7", "2012-10-24T06:18:07Z"), ("127.0.0.1", "2012-10-24T06:18:07Z"), ("x\x1b[2J", "2012-10-24T06:18:07Z"),
        ("198.51.100.2", "2012-10-24T05:00:00Z"), ("198.51.100.3", "2012-10-24T08:00:00Z"), ("198.51.100.4", "2012-10-24T06:18:07Z"),
        ("198.51.100.5", "2012-10-24T06:18:07Z"),
    ]  # fmt: skip
    for number, (ip, time_) in enumerate(given_):
        each.offer(detection(f"d{number}", ip, time=time_))
    assert each.drain(5)
    assert [(row.ip, row.state, row.refused) for row in each.bans()] == [
        ("198.51.100.1", "done", None),
        ("10.1.2.3", "refused", "never: lies in 10.0.0.0/8"),
        ("::ffff:203.0.113.200", "refused", "never: lies in 203.0.113.128/25"),
        ("fc00::7", "refused", "never: lies in fc00::/7"),
        ("127.0.0.1", "refused", "address: it is loopback"),
        ("x?[2J", "refused", "address: the log names none"),
        ("198.51.100.2", "refused", "stale: the evidence is 4687 s old, more than 3600 s"),
        ("198.51.100.3", "refused", "stale: the evidence is dated 6113 s in the future; check the time zone and year of the log"),
        ("198.51.100.4", "done", None),
        ("198.51.100.5", "refused", "cap: 2 bans within an hour, at most 2 allowed"),
    ]
    assert banned(tmp_path) == ["198.51.100.1 3600", "198.51.100.4 3600"]
    assert each.results == {"done": 2, "failed": 0, "refused": 8}
    assert each.bans()[0].until == NOW + 3600


def test_a_network_that_is_protected_meanwhile_is_not_banned(tmp_path: Path, state: State) -> None:
    banner(state, recorder(tmp_path)).offer(detection())
    later = banner(state, recorder(tmp_path, never=("203.0.113.0/24",)))
    assert later.drain(5)
    assert [(row.state, row.refused) for row in later.bans()] == [("refused", "never: lies in 203.0.113.0/24")]
    assert banned(tmp_path) == []


def test_failures_are_tried_again_until_the_ban_would_be_over(tmp_path: Path, state: State, poll: Callable[..., object]) -> None:
    clock = [NOW]
    program = tmp_path / "program"
    each = banner(state, settings(by="command", argv=(str(program), "{ip}"), duration=60.0), now=lambda: clock[0])
    each.offer(detection())
    each.offer(detection("d2", "203.0.113.6"))
    each.start()
    try:
        poll(lambda: each.bans()[0].attempts > 1)
        row = each.bans()[0]
        assert row.state == "pending"
        assert row.error == f"there is no program {program} here; install it, or configure where it is"
        program.write_text(
            f"#!/bin/sh\n[ $1 = 203.0.113.5 ] || {{ echo 'no set' >&2; exit 3; }}\necho $1 >> {tmp_path}/banned\n", encoding="utf-8"
        )
        program.chmod(0o755)
        poll(lambda: [row.state for row in each.bans()] == ["done", "pending"])
        poll(lambda: each.bans()[1].error == "program ended with exit code 3: no set")
        assert banned(tmp_path) == ["203.0.113.5"]
        clock[0] += 61
        assert each.drain(5)
    finally:
        each.stop()
    assert [(row.ip, row.state, row.error) for row in each.bans()] == [
        ("203.0.113.5", "done", None),
        ("203.0.113.6", "failed", "program ended with exit code 3: no set"),
    ]


CHILD = """
import os, signal, sys
from sentinel.config import BanSettings
from sentinel.respond.ban import Banner
from sentinel.state import State
with State(sys.argv[1]) as state:
    banner = Banner(state, BanSettings(by="command", argv=tuple(sys.argv[2:])), now=lambda: 1351059487.0)
    banner.offer({"id": "d1", "rule": "auth-bruteforce-ip", "time": "2012-10-24T06:18:07Z", "subject": {"client_ip": "203.0.113.5"},
                  "measure": "count", "value": 20.0})
    banner.drain(10)
"""


def test_killed_while_banning_it_is_done_at_the_next_start(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\necho $1 >> {tmp_path}/banned\n[ -e {tmp_path}/again ] && exit 0\ntouch {tmp_path}/again\nkill -9 $PPID\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "state"), str(program), "{ip}"]
    assert subprocess.run(argv, timeout=30).returncode == -9
    for _ in range(2):
        subprocess.run(argv, check=True, timeout=30)
    assert banned(tmp_path) == ["203.0.113.5", "203.0.113.5"]
    with State(tmp_path / "state") as state:
        assert [row.state for row in banner(state, recorder(tmp_path)).bans()] == ["done"]


def test_of_a_configuration(tmp_path: Path, state: State) -> None:
    def config(text: str) -> Any:
        (tmp_path / "sentinel.yaml").write_text(f"log: x\n{text}", encoding="utf-8")
        return load_config(tmp_path / "sentinel.yaml")

    assert banner_of(config(""), state) is None
    each = banner_of(config("networks: [198.51.100.0/24]\nban: {by: nftables}"), state, rules=["auth-bruteforce-ip"])
    assert each is not None
    with pytest.raises(BanRefused, match=r"never: lies in 198\.51\.100\.0/24"):
        each.address("198.51.100.9")
    with pytest.raises(UserError, match=r'ban.rules: there is no rule auth-brutforce-ip; did you mean "auth-bruteforce-ip"\?'):
        banner_of(config("ban: {by: nftables, rules: auth-brutforce-ip}"), state, rules=["auth-bruteforce-ip"])


# the real nft

NFT = """
import sys, time
from sentinel.config import BanSettings
from sentinel.respond.ban import BanFailed, Banner
from sentinel.state import State
with State(sys.argv[1]) as state:
    banner = Banner(state, BanSettings(by="nftables", duration=float(sys.argv[2])))
    for ip in sys.argv[3:]:
        try:
            print(ip, banner.ban(ip, "test") > time.time())
        except BanFailed as error:
            print(ip, error)
"""
SETS = """
nft add table inet sentinel
nft add set inet sentinel banned4 '{ type ipv4_addr; flags timeout; }'
nft add set inet sentinel banned6 '{ type ipv6_addr; flags timeout; }'
"""


def in_namespace(script: str) -> str:
    """What a shell script prints in a network of its own."""
    if shutil.which("nft") is None or shutil.which("unshare") is None:
        pytest.skip("nft is not installed: apt install nftables")
    probe = subprocess.run(["unshare", "--net", "nft", "add", "table", "inet", "probe"], capture_output=True, timeout=20)
    if probe.returncode:
        pytest.skip("the kernel gives no network namespace of our own, or has no nftables")
    done = subprocess.run(["unshare", "--net", "sh", "-e", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nftables_takes_addresses_and_renews_them(tmp_path: Path) -> None:
    (tmp_path / "ban.py").write_text(NFT, encoding="utf-8")
    python = f'"{sys.executable}" "{tmp_path}/ban.py" "{tmp_path}/state"'
    out = in_namespace(f"{SETS}\n{python} 100 203.0.113.5 2001:db8::5\n{python} 900 203.0.113.5 ::ffff:203.0.113.6\nnft -j list ruleset")
    *said, ruleset = out.splitlines()
    assert said == ["203.0.113.5 True", "2001:db8::5 True", "203.0.113.5 True", "::ffff:203.0.113.6 True"]
    sets = {item["set"]["name"]: item["set"]["elem"] for item in json.loads(ruleset)["nftables"] if "set" in item}
    timeouts = {each["elem"]["val"]: each["elem"]["timeout"] for name in ("banned4", "banned6") for each in sets[name]}
    assert timeouts == {"203.0.113.5": 900, "203.0.113.6": 900, "2001:db8::5": 100}


def test_nftables_without_the_set_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "ban.py").write_text(NFT, encoding="utf-8")
    out = in_namespace(f'"{sys.executable}" "{tmp_path}/ban.py" "{tmp_path}/state" 100 203.0.113.5')
    assert out.startswith("203.0.113.5 nft ended with exit code 1: Error: No such file or directory")


# the real fail2ban


@pytest.fixture
def fail2ban(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """A server of the test's own with one jail that bans by nothing; the client that talks to it."""
    server, client = shutil.which("fail2ban-server"), shutil.which("fail2ban-client")
    if server is None or client is None:
        pytest.skip("fail2ban is not installed: apt install fail2ban")
    conf = tmp_path / "fail2ban"
    for folder in ("filter.d", "action.d"):
        (conf / folder).mkdir(parents=True)
    (tmp_path / "mail.log").touch()
    (conf / "filter.d" / "none.conf").write_text("[Definition]\nfailregex = ^never <HOST>$\n", encoding="utf-8")
    (conf / "action.d" / "note.conf").write_text(f"[Definition]\nactionban = echo <ip> >> {tmp_path}/banned\n", encoding="utf-8")
    (conf / "jail.conf").write_text(
        f"[sentinel]\nenabled = true\nfilter = none\naction = note\nlogpath = {tmp_path}/mail.log\nbackend = polling\nbantime = 600\n",
        encoding="utf-8",
    )
    (conf / "fail2ban.conf").write_text(
        f"[Definition]\ndbfile = None\nloglevel = INFO\nlogtarget = {tmp_path}/fail2ban.log\nsyslogsocket = auto\ndbpurgeage = 1d\n",
        encoding="utf-8",
    )
    files = ["-s", str(tmp_path / "sock"), "-p", str(tmp_path / "pid"), "-c", str(conf)]
    process = subprocess.Popen(
        [server, "-f", *files, "start"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while subprocess.run([client, *files, "status", "sentinel"], capture_output=True, timeout=20).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"fail2ban did not start: {process.stdout.read().decode() if process.stdout else ''}")
        yield (client, *files)
    finally:
        process.terminate()
        process.wait(20)


def test_fail2ban_bans_in_its_jail(tmp_path: Path, state: State, fail2ban: tuple[str, ...]) -> None:
    each = banner(state, settings(by="fail2ban", program=fail2ban))
    for number, ip in enumerate(("203.0.113.5", "2001:db8::5", "203.0.113.5")):
        each.offer(detection(f"d{number}", ip))
    assert each.drain(20)
    status = subprocess.run([*fail2ban, "status", "sentinel"], capture_output=True, text=True, timeout=20).stdout
    assert re.search(r"Banned IP list:\s+203\.0\.113\.5 2001:db8::5$", status, re.MULTILINE)
    assert [(row.state, row.until) for row in each.bans()] == [("done", None)] * 3
    with pytest.raises(BanFailed, match="fail2ban-client ended with exit code 255"):
        banner(state, settings(by="fail2ban", program=fail2ban, jail="none")).ban("203.0.113.5", "x")
