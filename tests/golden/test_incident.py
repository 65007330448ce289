"""The incident that the product began with: sixteen lines, each field, and what follows from them."""

import json

import pytest
from helpers import make_engine

from sentinel.detect.detection import Detection, format_time

# Ours, line by line; of the texts only what tells that they were read to the right place.
EXPECTED = [
    {
        "time": "2012-10-22T16:36:01Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "error",
        "pid": 18675,
        "kind": "delivery",
        "queue_id": "42263221CA",
        "recipient": "ann@example.net",
        "delay": 111421.0,
        "dsn": "4.0.0",
        "status": "deferred",
        "reply": "delivery temporarily suspended: host relay.verizon.net[192.0.2.11] refused to talk to me: 571 Email "
        "from 198.51.100.224 is currently "
        "blocked by Verizon Online's anti-spam system. The email sender or Email Service Provider may visit "
        ""
        "http://www.verizon.net/whitelist "
        "and request removal of the block. "
        "121022",
        "reply_code": 571,
    },
    {
        "time": "2012-10-22T16:36:01Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "qmgr",
        "pid": 32357,
        "kind": "queued",
        "queue_id": "184F627BF64",
        "sender": "linda338@example.com.hk",
        "size": 2338,
        "nrcpt": 50,
    },
    {
        "time": "2012-10-22T16:36:02Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "smtp",
        "pid": 18300,
        "kind": "delivery",
        "queue_id": "1C34F26235C",
        "recipient": "drew@example.org",
        "relay_host": "mail2.example.org",
        "relay_ip": "192.0.2.28",
        "relay_port": 25,
        "delay": 110287.0,
        "dsn": "4.0.0",
        "status": "deferred",
        "reply": "host mail2.example.org[192.0.2.28] refused to talk to me: 554 mail2.example.org",
        "reply_code": 554,
    },
    {
        "time": "2012-10-22T16:36:02Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "smtp",
        "pid": 18288,
        "kind": "connect_failed",
        "relay_host": "in15.mx.example.com",
        "relay_ip": "192.0.2.12",
        "relay_port": 25,
        "reply": "Connection refused",
    },
    {
        "time": "2012-10-22T16:41:38Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "error",
        "pid": 18801,
        "kind": "delivery",
        "queue_id": "45C4E130CB",
        "recipient": "larry@example.net",
        "delay": 101364.0,
        "dsn": "4.0.0",
        "status": "deferred",
        "reply": "delivery temporarily suspended: host gateway-f1.isp.att.net[192.0.2.16] refused to talk to me: "
        "550-198.51.100.224 blocked by "
        "ldap:ou=rblmx,dc=att,dc=net 550 Error - Blocked for abuse. See "
        "http://att.net/blocks",
        "reply_code": 550,
    },
    {
        "time": "2012-10-22T16:41:38Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "error",
        "pid": 18103,
        "kind": "delivery",
        "queue_id": "4728312BBA",
        "recipient": "b@example.com",
        "delay": 102971.0,
        "dsn": "4.7.1",
        "status": "deferred",
        "reply": "delivery temporarily suspended: host mta5.am0.yahoodns.net[192.0.2.139] refused to talk to me: 421 "
        "4.7.1 [TS03] All messages from "
        "198.51.100.224 will be permanently deferred; Retrying will NOT succeed. See "
        "http://postmaster.yahoo.com/421-ts03.html",
        "reply_code": 421,
    },
    *(
        {
            "time": f"2012-10-24T00:32:{second}Z",
            "host": "mx1",
            "syslog_name": "postfix",
            "service": "smtpd",
            "pid": pid,
            "kind": "accepted",
            "queue_id": queue_id,
            "client_name": "unknown",
            "client_ip": "203.0.113.196",
            "sasl_method": "LOGIN",
            "sasl_username": "info@example.com",
        }
        for second, pid, queue_id in (
            ("10", 4202, "8F005249014"),
            ("16", 5029, "11044249024"),
            ("17", 4626, "930FB249028"),
            ("17", 4765, "A890624902B"),
        )
    ),
    {
        "time": "2012-10-26T02:54:27Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "qmgr",
        "pid": 40723,
        "kind": "queued",
        "queue_id": "99F4C23F008",
        "sender": "test@example.net",
        "size": 197,
        "nrcpt": 1,
    },
    {
        "time": "2012-10-26T02:54:27Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "smtp",
        "pid": 41094,
        "kind": "delivery",
        "queue_id": "99F4C23F008",
        "sender": "test@example.net",
        "recipient": "445335@example.com",
        "relay_host": "mx3.qq.com",
        "relay_ip": "192.0.2.199",
        "relay_port": 25,
        "delay": 110.0,
        "dsn": "5.0.0",
        "status": "bounced",
        "reply": "host mx3.qq.com[192.0.2.199] said: 550 Mail content denied. "
        "http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000726 "
        "(in reply to end of DATA "
        "command)",
        "reply_code": 550,
    },
    {
        "time": "2012-10-26T02:54:27Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "cleanup",
        "pid": 41089,
        "kind": "message_id",
        "queue_id": "69EA423F027",
        "message_id": "<20121025185427.69EA423F027@mx1.example.com>",
    },
    {
        "time": "2012-10-26T02:54:27Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "bounce",
        "pid": 41095,
        "kind": "bounce_notice",
        "queue_id": "99F4C23F008",
        "sender": "test@example.net",
        "linked_queue_id": "69EA423F027",
        "action": "sender non-delivery",
    },
    {
        "time": "2012-10-26T02:54:27Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "qmgr",
        "pid": 40723,
        "kind": "queued",
        "queue_id": "69EA423F027",
        "sender": "",
        "size": 2203,
        "nrcpt": 1,
    },
    {
        "time": "2012-10-26T02:54:27Z",
        "host": "mx1",
        "syslog_name": "postfix",
        "service": "qmgr",
        "pid": 40723,
        "kind": "removed",
        "queue_id": "99F4C23F008",
        "sender": "test@example.net",
    },
]


def read(log: bytes) -> tuple[list[dict], list[Detection]]:
    engine = make_engine(year=2012)
    step = engine.feed(log)
    observed = [step.events.row(i) for i in range(len(step.events))]
    return [{**row, "time": format_time(row["time"])} for row in observed], step.detections


def blocks(found: list[Detection]) -> list[tuple[str, str]]:
    return [(one.subject["host"], one.subject["provider"]) for one in found if one.rule == "remote-block"]


def test_every_line_and_field(data):
    observed, _ = read((data / "incident.log").read_bytes())
    assert len(EXPECTED) == len(observed) == 16
    for expected, row in zip(EXPECTED, observed, strict=True):
        assert row == expected


def test_the_server_is_blocked(data):
    _, found = read((data / "incident.log").read_bytes())
    # Not example.org, whose 554 at the greeting gives no reason.
    assert blocks(found) == [("mx1", "verizon"), ("mx1", "att"), ("mx1", "yahoo")]
    assert {one.rule for one in found} == {"remote-block"}
    assert [one.related["delist_urls"] for one in found] == [[VERIZON_PAGE], [ATT_PAGE], [YAHOO_PAGE]]


VERIZON_PAGE = "http://www.verizon.net/whitelist"
ATT_PAGE = "http://att.net/blocks"
YAHOO_PAGE = "http://postmaster.yahoo.com/421-ts03.html"
REFUSALS = [
    # queue ID, class, provider, temporary, delist_url
    ("42263221CA", "ip_blocked", "verizon", False, VERIZON_PAGE),
    ("1C34F26235C", "ip_blocked", None, False, ""),
    ("45C4E130CB", "ip_blocked", "att", False, ATT_PAGE),
    ("4728312BBA", "ip_blocked", "yahoo", False, YAHOO_PAGE),
    ("99F4C23F008", "content_spam", "qq", False, ""),
]


def refusals(log: bytes, ip: str) -> list[tuple]:
    """What is told of each refusal. The blocked address must be ours wherever the text names one."""
    engine = make_engine(year=2012)
    step = engine.feed(log)
    out = []
    for i in range(len(step.events)):
        row = step.events.row(i)
        if row["kind"] != "delivery" or row.get("reply_code", 0) < 400:
            continue
        verdict = engine.replies.classify(row["reply"])
        assert verdict.blocked_ip == (ip if ip in row["reply"] else "")
        out.append((row["queue_id"], verdict.reply_class, verdict.provider, verdict.temporary, verdict.delist_url))
    return out


def test_every_reply_is_classified_right(data):
    told = refusals((data / "incident.log").read_bytes(), "198.51.100.224")
    assert told == [(*known[:2], known[2] or "example.org", *known[3:]) for known in REFUSALS]


def test_every_reply_of_the_real_incident_is_classified_right(shared):
    told = refusals((shared / "incident" / "seed-incident.log").read_bytes(), "124.172.224.76")
    assert told == [(*known[:2], known[2] or "honeywell.com", *known[3:]) for known in REFUSALS]


def test_detections_survive_json(data):
    _, found = read((data / "incident.log").read_bytes())
    assert found
    for one in found:
        assert Detection.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_detection_of_the_first_block_in_full(data):
    log = (data / "incident.log").read_bytes()
    _, found = read(log)
    first = found[0].to_dict()
    line = log.splitlines()[0].decode()
    expected = {
        "rule": "remote-block",
        "severity": "critical",
        "score": 0.0,
        "time": "2012-10-22T16:36:01Z",
        "subject": {"host": "mx1", "provider": "verizon", "blocked_ip": "198.51.100.224"},
        "window": 21600.0,
        "measure": "count",
        "value": 1.0,
        "threshold": 1.0,
        "evidence": [{"line": line, "source": "", "offset": 0}],
        "related": {
            "recipient_domains": ["example.net"],
            "queue_ids": ["42263221CA"],
            "providers": ["verizon"],
            "replies": [EXPECTED[0]["reply"]],
            "delist_urls": [VERIZON_PAGE],
            "accounts": [],
        },
        "description": "A provider refuses our server's mail because it has blocked our address. verizon blocks 198.51.100.224: "
        f'"{EXPECTED[0]["reply"].removeprefix("delivery temporarily suspended: ")}". Get off at {VERIZON_PAGE}. The log before it '
        "does not tell whose mail earned it.",
    }
    assert {name: first[name] for name in expected} == expected
    assert len(first["id"]) == 20
    assert int(first["id"], 16) > 0
    assert "baseline" not in first


# The real lines: what differs from ours by name. Service, kind and the fields that are present are the same line by line.
SEED = {
    0: {"recipient": "altoact@verizon.net", "reply_code": 571, "queue_id": "42263221CA", "pid": 18675},
    1: {"sender": "lindawatts338@yahoo.com.hk", "nrcpt": 50, "size": 2338},
    2: {
        "relay_host": "mail2.honeywell.com",
        "relay_ip": "199.61.24.28",
        "relay_port": 25,
        "recipient": "andrew.rawson@honeywell.com",
    },
    3: {
        "relay_host": "news-daily.com.inbound15.mxlogicmx.net",
        "relay_ip": "208.65.144.12",
        "relay_port": 25,
        "reply": "Connection refused",
    },
    4: {"recipient": "blantonlarry@bellsouth.net", "reply_code": 550, "delay": 101364.0},
    5: {"recipient": "bhaitov@yahoo.com", "reply_code": 421, "dsn": "4.7.1", "status": "deferred"},
    **{
        n: {
            "client_name": "unknown",
            "client_ip": "68.167.29.196",
            "sasl_method": "LOGIN",
            "sasl_username": "info@example.com",
        }
        for n in range(6, 10)
    },
    10: {"sender": "test@yahoo.com", "size": 197, "nrcpt": 1},
    11: {
        "recipient": "445335413@qq.com",
        "relay_host": "mx3.qq.com",
        "relay_ip": "119.147.192.199",
        "status": "bounced",
        "reply": "host mx3.qq.com[119.147.192.199] said: 550 Mail content denied. "
        "http://service.mail.qq.com/cgi-bin/help?subtype=1&&id=20022&&no=1000726 "
        "(in reply to end of DATA "
        "command)",
    },
    12: {"message_id": "<20121025185427.69EA423F027@mail.example.com>"},
    13: {"queue_id": "99F4C23F008", "linked_queue_id": "69EA423F027"},
    14: {"sender": "", "size": 2203, "nrcpt": 1},
    15: {"kind": "removed", "queue_id": "99F4C23F008"},
}


def test_the_real_lines(shared):
    path = shared / "incident" / "seed-incident.log"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    observed, found = read(path.read_bytes())
    assert len(observed) == 16
    same = (
        "kind",
        "service",
        "syslog_name",
        "pid",
        "queue_id",
        "delay",
        "dsn",
        "status",
        "size",
        "nrcpt",
        "reply_code",
        "linked_queue_id",
    )
    for n, row in enumerate(observed):
        assert row.keys() == EXPECTED[n].keys(), n
        assert row["host"] == "localhost"
        assert {name: row.get(name) for name in same} == {name: EXPECTED[n].get(name) for name in same}, n
        assert {name: row.get(name) for name in SEED[n]} == SEED[n], n
    assert [row["time"][:13] for row in observed] == ["2012-10-22T16"] * 6 + ["2012-10-24T00"] * 4 + ["2012-10-26T02"] * 6
    assert {("localhost", name) for name in ("yahoo", "att", "verizon")} <= set(blocks(found))
