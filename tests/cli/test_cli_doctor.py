"""``sentinel doctor --blocks``: who blocks the server now, since when, on what, and how to get off."""

import json
from pathlib import Path

import pytest
from commands import UTC_2026, Run, write

LOGIN = "mx postfix/smtpd[1]: 4A%06X: client=unknown[198.51.100.7], sasl_method=LOGIN, sasl_username=info@example.com"
TS03 = "421 4.7.1 [TS03] All messages from 192.0.2.9 will be permanently deferred; Retrying will NOT succeed. See http://x.example/ts03"
ZEN = "554 5.7.1 Service unavailable; Client host [192.0.2.9] blocked using zen.spamhaus.org"


def delivery(time: str, reply: str, *, host: str = "mta5.am0.yahoodns.net", status: str = "deferred", queue_id: str = "4A000001") -> str:
    text = f"host {host}[192.0.2.1] said: {reply}" if status != "sent" else reply
    return f"{time} mx postfix/smtp[3]: {queue_id}: to=<u@example.net>, relay={host}[192.0.2.1]:25, delay=1, delays=0/0/1/0, dsn=4.0.0, status={status} ({text})"


BLOCKED = [
    f"Oct 24 06:18:01 {LOGIN % 1}",
    delivery("Oct 24 06:18:02", TS03),
    delivery("Oct 24 07:18:02", TS03, host="mta7.am0.yahoodns.net"),
    delivery("Oct 24 06:20:00", ZEN, host="mx.example.org", status="bounced"),
]


def test_table(tmp_path: Path, sentinel: Run) -> None:
    done = sentinel("doctor", *UTC_2026, "--blocks", write(tmp_path / "mail.log", sorted(BLOCKED)))
    assert done.code == 1
    assert done.out == (
        "PROVIDER     ADDRESS    LIST              SINCE                 LAST REFUSED          SERVER\n"
        "yahoo        192.0.2.9  -                 2026-10-24T06:18:02Z  2026-10-24T07:18:02Z  mx\n"
        f"    said:      host mta5.am0.yahoodns.net[192.0.2.1] said: {TS03}\n"
        "    get off:   http://x.example/ts03\n"
        "    earned by: info@example.com\n"
        "example.org  192.0.2.9  zen.spamhaus.org  2026-10-24T06:20:00Z  2026-10-24T06:20:00Z  mx\n"
        f"    said:      host mx.example.org[192.0.2.1] said: {ZEN}\n"
        "    get off:   https://check.spamhaus.org/query/ip/192.0.2.9\n"
        "    earned by: info@example.com\n"
    )
    assert done.sentences == ["4 lines read, 2 blocks now"]


def test_json(tmp_path: Path, sentinel: Run) -> None:
    done = sentinel("doctor", *UTC_2026, "--format", "jsonl", "--blocks", write(tmp_path / "mail.log", sorted(BLOCKED)))
    first, second = (json.loads(line) for line in done.out.splitlines())
    assert first == {
        "provider": "yahoo",
        "blocked_ip": "192.0.2.9",
        "dnsbl": "",
        "since": "2026-10-24T06:18:02Z",
        "last": "2026-10-24T07:18:02Z",
        "host": "mx",
        "delist_url": "http://x.example/ts03",
        "told_by": "",
        "reply": f"host mta5.am0.yahoodns.net[192.0.2.1] said: {TS03}",
        "accounts": ["info@example.com"],
    }
    assert (second["provider"], second["dnsbl"]) == ("example.org", "zen.spamhaus.org")


def test_block_that_is_over(tmp_path: Path, sentinel: Run) -> None:
    over = [*BLOCKED[:2], delivery("Oct 24 06:30:00", "250 2.0.0 ok", status="sent")]
    done = sentinel("doctor", *UTC_2026, "--blocks", write(tmp_path / "mail.log", over))
    assert (done.code, done.out) == (0, "Nobody is known to block this server.\n")
    assert done.sentences == ["3 lines read, no blocks now; 1 is over"]


def test_an_outage_of_ones_own_is_no_block(tmp_path: Path, sentinel: Run) -> None:
    """It has an episode that lasts, too."""
    fault = "Oct 24 06:18:01 mx dovecot: auth: Error: sql(u{0}@corp.example,198.51.100.{0}): Not connected to database"
    log = write(tmp_path / "mail.log", [fault.format(n) for n in range(1, 9)])
    assert sentinel("doctor", *UTC_2026, "--blocks", log).out == "Nobody is known to block this server.\n"
    assert "auth-backend-down of mx since 2026-10-24T06:18:01Z" in sentinel("replay", *UTC_2026, log).sentences


def test_several_logs_in_order_of_time(tmp_path: Path, sentinel: Run) -> None:
    later = write(tmp_path / "a.log", [delivery("Oct 24 07:00:00", "250 ok", status="sent")])
    earlier = write(tmp_path / "b.log", BLOCKED[:2])
    assert sentinel("doctor", *UTC_2026, "--blocks", later, earlier).code == 0


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path, sentinel: Run) -> None:
    log = tmp_path / "mail.log"
    log.write_bytes((delivery("Oct 24 06:18:02", TS03 + " \x1b[2J") + "\n").encode())
    out = sentinel("doctor", *UTC_2026, "--blocks", log).out
    assert "\x1b" not in out
    assert "\\x1b[2J" in out


def test_wrong_arguments(tmp_path: Path, sentinel: Run) -> None:
    sentinel("doctor").refused("--blocks")
    sentinel("doctor", "--blocks", tmp_path / "none.log").refused("none.log", "there is no file")
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: []\n", encoding="utf-8")
    log = write(tmp_path / "mail.log", BLOCKED)
    sentinel("doctor", "--rules", rules, "--blocks", log).refused("--rules", '"until"')


@pytest.mark.parametrize("name", ["incident-A-postlogd"])
def test_a_recorded_incident(name: str, shared: Path, sentinel: Run) -> None:
    """The providers that blocked, in order of time, and the one account that earned it."""
    path = shared / "lab" / "recordings" / f"{name}.log.xz"
    if not path.exists():
        pytest.skip(f"no recording {path.name}")
    done = sentinel("doctor", *UTC_2026, "--format", "jsonl", "--blocks", path)
    blocks = [json.loads(line) for line in done.out.splitlines()]
    assert [(block["provider"], block["dnsbl"]) for block in blocks] == [
        ("comcast", "spamhaus"),
        ("godaddy", "invaluement"),
        ("microsoft", ""),
        ("yahoo", ""),
    ]
    assert {block["blocked_ip"] for block in blocks} == {"192.0.2.1"}
    assert [block["accounts"] for block in blocks] == [["wang@corp.example"]] * 4
