"""The join's traps, each by its name."""

import pytest
from helpers import make_engine, rows, rules_from
from oracles.join import Join

from sentinel.detect.engine import OWN_NETWORKS
from sentinel.maillog._scan import Scanner
from sentinel.maillog.chunk import Chunk
from sentinel.maillog.clock import LogClock
from sentinel.track._join import Networks

LOGIN = "smtpd[1]: {}: client=unknown[203.0.113.66], sasl_method=PLAIN, sasl_username=wang@corp.example"
SENT = "smtp[1]: {}: to=<u@example.net>, relay={}, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent ({})"
OUTSIDE, FILTER = "mx.example.net[192.0.2.25]:25", "127.0.0.1[127.0.0.1]:10024"


def log(*messages: str, host: str = "mx") -> bytes:
    return "".join(f"Oct 24 06:18:01 {host} postfix/{message}\n" for message in messages).encode()


def accounts(*messages: str) -> list[str | None]:
    """The account of each line."""
    return [row.get("sasl_username") for row in rows(log(*messages))]


def sent(queue_id: str, relay: str = OUTSIDE, reply: str = "250 ok") -> str:
    return SENT.format(queue_id, relay, reply)


def test_every_later_line_of_a_message_knows_its_origin():
    observed = rows(
        log(
            LOGIN.format("A000001"),
            "cleanup[1]: A000001: message-id=<x@corp.example>",
            "qmgr[1]: A000001: from=<linda@example.net>, size=900, nrcpt=50 (queue active)",
            sent("A000001"),
            "qmgr[1]: A000001: removed",
            sent("A000001"),
        )
    )
    origin = {"sasl_username": "wang@corp.example", "client_ip": "203.0.113.66"}
    for row in observed[:5]:
        assert {name: row.get(name) for name in origin} == origin
    assert [row.get("sender") for row in observed] == [None, None, *["linda@example.net"] * 3, None]
    assert "sasl_username" not in observed[5]


def test_reuse_of_a_queue_id_after_removed():
    assert accounts(LOGIN.format("A000001"), "qmgr[1]: A000001: removed", "smtpd[1]: A000001: client=a[192.0.2.1]", sent("A000001")) == [
        "wang@corp.example",
        "wang@corp.example",
        None,
        None,
    ]


def test_reuse_of_a_queue_id_whose_removed_was_lost():
    assert accounts(LOGIN.format("A000001"), "smtpd[1]: A000001: client=a[192.0.2.1]", sent("A000001"))[1:] == [
        None,
        None,
    ]
    assert accounts(LOGIN.format("A000001"), "pickup[1]: A000001: uid=33 from=<www-data>", sent("A000001"))[1:] == [
        None,
        None,
    ]
    assert accounts(
        LOGIN.format("A000001"),
        "qmgr[1]: A000001: from=<a@b.example>, size=9, nrcpt=1 (queue active)",
        "cleanup[1]: A000001: message-id=<of a bounce>",
        sent("A000001"),
    )[2:] == [None, None]


def test_queue_ids_differ_by_case():
    assert accounts(LOGIN.format("4PbC4x469Jz3tBr"), sent("4PBC4x469Jz3tBr"), sent("4PbC4x469Jz3tBr"))[1:] == [
        None,
        "wang@corp.example",
    ]


def test_lines_from_before_the_log_belong_to_nobody_and_are_counted():
    engine = make_engine((), year=2026)
    batch = engine.feed(
        log(sent("A000001"), "qmgr[1]: A000002: from=<a@b.example>, size=9, nrcpt=5 (queue active)", sent("A000002"))
    ).events
    assert [batch.row(i).get("sasl_username") for i in range(3)] == [None] * 3
    assert batch.row(2)["sender"] == "a@b.example"
    assert engine.counters()["unattributed"] == 2


def test_filter_that_tells_the_queue_id_it_came_from():
    assert (
        accounts(
            LOGIN.format("A000001"),
            "smtpd[2]: B000001: client=localhost[127.0.0.1], orig_queue_id=A000001, orig_client=unknown[203.0.113.66]",
            sent("A000001", FILTER, "250 2.0.0 Ok: queued as B000001"),
            "qmgr[1]: A000001: removed",
            sent("B000001"),
        )
        == ["wang@corp.example"] * 5
    )


def test_filter_that_is_known_by_queued_as_only():
    assert accounts(
        LOGIN.format("A000001"),
        "smtpd[2]: B000001: client=localhost[127.0.0.1]",
        "qmgr[1]: B000001: from=<linda@example.net>, size=900, nrcpt=50 (queue active)",
        sent("A000001", FILTER, "250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as B000001"),
        "qmgr[1]: A000001: removed",
        sent("B000001"),
    ) == ["wang@corp.example", None, None, "wang@corp.example", "wang@corp.example", "wang@corp.example"]


def test_filter_behind_a_socket_or_a_pipe():
    for relay, agent in (("amavis[/run/amavis.sock]", "lmtp"), ("spamassassin", "pipe")):
        assert (
            accounts(
                LOGIN.format("A000001"),
                "smtpd[2]: B000001: client=localhost[127.0.0.1]",
                sent("A000001", relay, "250 2.0.0 Ok: queued as B000001").replace("smtp[", agent + "["),
                sent("B000001"),
            )[3]
            == "wang@corp.example"
        )


def test_two_filters_in_a_row():
    assert (
        accounts(
            LOGIN.format("A000001"),
            "smtpd[2]: B000001: client=localhost[127.0.0.1], orig_queue_id=A000001",
            "smtpd[2]: C000001: client=localhost[127.0.0.1], orig_queue_id=B000001",
            sent("C000001"),
        )
        == ["wang@corp.example"] * 4
    )


def test_hostile_remote_cannot_hand_its_mail_to_a_victim():
    """A remote server answers with the queue ID of another message, of a login, of a stranger, of our own script."""
    for victim in (
        "smtpd[2]: B000001: client=unknown[198.51.100.7], sasl_method=PLAIN, sasl_username=bob@corp.example",
        "smtpd[2]: B000001: client=mail.example.org[198.51.100.7]",
        "smtpd[2]: B000001: client=localhost[127.0.0.1]",
        "pickup[2]: B000001: uid=33 from=<www-data>",
    ):
        alone = accounts(victim, sent("B000001"))
        assert accounts(
            LOGIN.format("A000001"),
            victim,
            sent("A000001", OUTSIDE, "250 2.0.0 Ok: queued as B000001"),
            sent("B000001"),
        ) == [
            "wang@corp.example",
            alone[0],
            "wang@corp.example",
            alone[1],
        ]


def test_hostile_remote_cannot_say_forwarded_as():
    assert accounts(
        LOGIN.format("A000001"),
        "cleanup[1]: B000001: message-id=<x>",
        sent("A000001", OUTSIDE, "forwarded as B000001"),
        sent("B000001"),
    )[3:] == [None]


def test_filter_cannot_take_over_the_message_of_a_login():
    assert accounts(
        LOGIN.format("A000001"),
        "smtpd[2]: B000001: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username=bob@corp.example",
        sent("A000001", FILTER, "250 2.0.0 Ok: queued as B000001"),
        sent("B000001"),
    )[3:] == ["bob@corp.example"]


def test_message_cannot_be_its_own_parent():
    assert accounts(
        "smtpd[2]: B000001: client=localhost[127.0.0.1], orig_queue_id=B000001",
        sent("B000001", FILTER, "250 queued as B000001"),
    ) == [
        None,
        None,
    ]


def test_forwarded_by_an_alias():
    assert (
        accounts(
            LOGIN.format("A000001"),
            "cleanup[1]: B000001: message-id=<x>",
            "qmgr[1]: B000001: from=<linda@example.net>, size=900, nrcpt=1 (queue active)",
            "local[1]: A000001: to=<u@corp.example>, relay=local, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent (forwarded as B000001)",
            sent("B000001"),
        )[3:]
        == ["wang@corp.example"] * 2
    )


def test_bounce_belongs_to_nobody_in_both_orders():
    """Up to 3.10 the notice comes after the bounce's own first lines, from 3.11 on before them."""
    notice = "bounce[1]: A000001: sender non-delivery notification: B000001"
    begin = ("cleanup[1]: B000001: message-id=<x>", "qmgr[1]: B000001: from=<>, size=9, nrcpt=1 (queue active)")
    assert accounts(LOGIN.format("A000001"), *begin, notice, sent("B000001")) == [
        "wang@corp.example",
        None,
        None,
        "wang@corp.example",
        None,
    ]
    assert accounts(LOGIN.format("A000001"), notice, *begin, sent("B000001")) == [
        "wang@corp.example",
        "wang@corp.example",
        None,
        None,
        None,
    ]


def test_bounces_are_internal_mail(tmp_path):
    rules = rules_from(
        tmp_path,
        "rules: [{name: own, description: x, severity: info, score: 0, on: delivery, where: {origin: internal}, by: host, measure: count, "
        "window: 1h, threshold: 1}]",
    )
    notice = "bounce[1]: A000001: sender non-delivery notification: B000001"
    begin = ("cleanup[1]: B000001: message-id=<x>", "qmgr[1]: B000001: from=<>, size=9, nrcpt=1 (queue active)")
    for order in ((*begin, notice), (notice, *begin)):
        found = make_engine(rules, year=2026).feed(log(LOGIN.format("A000001"), *order, sent("B000001"))).detections
        assert [one.rule for one in found] == ["own"]


def test_requeued_by_postsuper():
    observed = accounts(
        LOGIN.format("A000001"),
        "postsuper[1]: A000001: requeued",
        "pickup[1]: B000001: uid=0 from=<linda@example.net> orig_id=A000001",
        "cleanup[1]: B000001: message-id=<x>",
        sent("B000001"),
        sent("A000001"),
    )
    assert observed == ["wang@corp.example", "wang@corp.example", *["wang@corp.example"] * 3, None]


def test_removed_by_postsuper():
    assert accounts(LOGIN.format("A000001"), "postsuper[1]: A000001: removed", sent("A000001")) == ["wang@corp.example"] * 2 + [None]


def test_two_hosts_with_the_same_queue_ids():
    data = log(LOGIN.format("A000001"), host="mx1") + log(sent("A000001"), host="mx2") + log(sent("A000001"), host="mx1")
    assert [row.get("sasl_username") for row in rows(data)] == ["wang@corp.example", None, "wang@corp.example"]


def test_recipients_count_once(tmp_path):
    rules = rules_from(
        tmp_path,
        "rules: [{name: r, description: x, severity: info, score: 0, on: queued, by: sasl_username, measure: sum(recipients), window: 1h, "
        "threshold: 60}]",
    )
    queued = "qmgr[1]: {}: from=<a@corp.example>, size=9, nrcpt={} (queue active)"
    filtered = (
        LOGIN.format("A000001"),
        queued.format("A000001", 30),
        queued.format("A000001", 29),  # a retry
        "smtpd[2]: B000001: client=localhost[127.0.0.1], orig_queue_id=A000001",
        queued.format("B000001", 30),  # behind the filter
        "pickup[1]: C000001: uid=0 from=<a@corp.example> orig_id=B000001",
        queued.format("C000001", 30),  # requeued
    )
    engine = make_engine(rules, year=2026)
    assert engine.feed(log(*filtered)).detections == []
    again = engine.feed(log(LOGIN.format("D000001"), queued.format("D000001", 30))).detections
    assert [(one.subject, one.value) for one in again] == [({"sasl_username": "wang@corp.example"}, 60.0)]


def test_limit_of_open_messages():
    """The message not seen for longest goes, is counted, and its later lines belong to nobody."""
    engine = make_engine((), year=2026, max_open_messages=3)
    engine.feed(log(*(LOGIN.format(f"A00000{n}") for n in range(3))))
    assert (engine.counters()["open_messages"], engine.counters()["evictions"]["messages"]) == (3, 0)
    engine.feed(log(sent("A000000", OUTSIDE, "451 later")))
    engine.feed(log(LOGIN.format("A000009")))
    assert (engine.counters()["open_messages"], engine.counters()["evictions"]["messages"]) == (3, 1)
    batch = engine.feed(log(sent("A000000"), sent("A000001"), sent("A000002"), sent("A000009"))).events
    wang = "wang@corp.example"
    assert [batch.row(i).get("sasl_username") for i in range(4)] == [wang, None, wang, wang]


def test_the_flood_of_queue_ids_is_bounded():
    engine = make_engine((), year=2026, max_open_messages=100)
    for start in range(0, 5000, 500):
        engine.feed(log(*(f"cleanup[1]: {n:010X}: message-id=<x>" for n in range(start, start + 500))))
    assert (engine.counters()["open_messages"], engine.counters()["evictions"]["messages"]) == (100, 4900)


def test_limit_must_leave_room_for_a_message_and_its_bounce():
    for limit in (-1, 0, 1):
        with pytest.raises(ValueError, match="2"):
            make_engine((), max_open_messages=limit)


def test_beginning_at_every_line():
    """Whatever the first line is: the rest is attributed as the oracle says, and later messages as in the whole log."""
    lines = (
        LOGIN.format("A000001"),
        "cleanup[1]: A000001: message-id=<x>",
        "qmgr[1]: A000001: from=<linda@example.net>, size=9, nrcpt=2 (queue active)",
        "smtpd[2]: B000001: client=localhost[127.0.0.1], orig_queue_id=A000001",
        "qmgr[1]: B000001: from=<linda@example.net>, size=9, nrcpt=2 (queue active)",
        sent("A000001", FILTER, "250 2.0.0 Ok: queued as B000001"),
        "qmgr[1]: A000001: removed",
        sent("B000001", OUTSIDE, "550 no").replace("status=sent", "status=bounced"),
        "bounce[1]: B000001: sender non-delivery notification: C000001",
        "qmgr[1]: B000001: removed",
        LOGIN.format("A000001"),
        sent("A000001"),
    )
    for start in range(len(lines)):
        data = log(*lines[start:])
        observed = rows(data)
        join = Join(list(OWN_NETWORKS), 1_000_000)
        batch = Scanner(LogClock(year=2026)).scan(Chunk(data, "", "", 0, len(data)))
        assert observed == [join.attribute(batch.row(i)).row for i in range(len(batch))]
        if start <= 10:
            assert [row["sasl_username"] for row in observed[-2:]] == ["wang@corp.example"] * 2


def test_networks():
    own = Networks(["10.0.0.0/8", "192.0.2.128/25", "2001:db8::/33", "203.0.113.7"])
    inside = ("10.255.0.1", "192.0.2.128", "2001:db8:7fff::1", "203.0.113.7", "::ffff:10.0.0.1")
    outside = (
        "11.0.0.1",
        "192.0.2.127",
        "2001:db8:8000::1",
        "203.0.113.8",
        "10.0.0",
        "10.0.0.256",
        "010.0.0.0.1",
        "",
        "unknown",
        ":" * 80,
    )
    assert [address in own for address in inside] == [True] * len(inside)
    assert [address in own for address in outside] == [False] * len(outside)


def test_inside_and_outside_hold_for_every_kind(tmp_path):
    rule = (
        "- {{name: {0}-{3}, description: x, severity: info, score: 0, on: {1}, where: {{{2}: {3}}}, by: host, measure: count, window: 1h, "
    )
    rule += "threshold: 1}}\n"
    probes = [("in", "connect", "client_ip"), ("out", "connect_failed", "relay_ip")]
    rules = rules_from(tmp_path, "rules:\n" + "".join(rule.format(*probe, side) for probe in probes for side in ("inside", "outside")))
    for address, side in (("127.0.0.1", "inside"), ("198.51.100.7", "outside")):
        data = log(f"smtpd[1]: connect from a[{address}]", f"smtp[1]: connect to a[{address}]:25: Connection refused")
        found = {one.rule for one in make_engine(rules, year=2026).feed(data).detections}
        assert found == {f"in-{side}", f"out-{side}"}
