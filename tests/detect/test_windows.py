"""What the windows promise beyond the measure: limits, evidence, a clock that is set back, names that differ by case, episodes that last."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers import make_engine, rules_from

from sentinel.detect.engine import Engine
from sentinel.detect.replies import load_replies

START = datetime(2026, 10, 24, tzinfo=UTC)


def rule(**keys: object) -> str:
    merged = {
        "name": "r",
        "description": "x",
        "severity": "info",
        "score": 0,
        "on": "auth_failed",
        "by": "client_ip",
        "measure": "count",
        "window": "1h",
        "threshold": 3,
        **keys,
    }
    return "rules:\n  - " + "\n    ".join(f"{key}: {value}" for key, value in merged.items()) + "\n"


def stamp(second: float) -> str:
    return (START + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def failed(second: float, ip: str = "192.0.2.1", login: str = "ann") -> bytes:
    return f"{stamp(second)} mx postfix/smtpd[1]: warning: unknown[{ip}]: SASL PLAIN authentication failed: no, sasl_username={login}\n".encode()


def fired(engine: Engine, *lines: bytes) -> list[tuple[int, float]]:
    """(line, value) of each detection."""
    return [(n, one.value) for n, line in enumerate(lines) for one in engine.feed(line).detections]


def test_window_is_open_on_the_left(tmp_path):
    rules = rules_from(tmp_path, rule(window="10s", threshold=2))
    assert fired(make_engine(rules), failed(0), failed(10)) == []
    assert fired(make_engine(rules), failed(0), failed(9.999999)) == [(1, 2.0)]


def test_episode_release_and_cooldown(tmp_path):
    rules = rules_from(tmp_path, rule(window="10s", threshold=3, release=2, cooldown="60s"))
    times = [0, 1, 2, 3, 12.5, 13, 14, 15, 61, 61.5, 62, 63]
    # Fires at 2; over at 12.5 (one left, at 3); full again at 14 but within the cooldown; then at 62.
    assert fired(make_engine(rules), *map(failed, times)) == [(2, 3.0), (10, 3.0)]


def test_cooldown_is_over_at_its_very_end(tmp_path):
    rules = rules_from(tmp_path, rule(window="1s", threshold=1, release=1, cooldown="10s"))
    assert fired(make_engine(rules), *map(failed, (0, 9.999999, 11, 21))) == [(0, 1.0), (2, 1.0), (3, 1.0)]


def test_cooldown_that_runs_out_in_a_full_window(tmp_path):
    rules = rules_from(tmp_path, rule(window="10s", threshold=2, release=2, cooldown="30s"))
    # The episode is over at 15 (nothing left); from 15 on the window is full again, and at 31 the cooldown is over.
    assert fired(make_engine(rules), *map(failed, (0, 1, 15, 16, 20, 24, 28, 31, 32))) == [(1, 2.0), (7, 3.0)]


def test_late_events_take_their_place(tmp_path):
    rules = rules_from(tmp_path, rule(window="90s", threshold=3))
    engine = make_engine(rules)
    # The second comes late by a minute and is counted at its own time: at 95 it has left the window, at 85 it has not.
    assert fired(engine, failed(60), failed(0), failed(85)) == [(2, 3.0)]
    assert fired(make_engine(rules), failed(60), failed(0), failed(95)) == []
    assert engine.counters()["late"] == 0


def test_events_that_are_too_late_are_counted_and_left_out(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule()))
    assert fired(engine, failed(61), failed(62), failed(1.5)) == []
    assert engine.counters()["late"] == 1
    assert fired(engine, failed(63)) == [(0, 3.0)]


def test_clock_set_back(tmp_path):
    """A thousand late lines in a row are no straggler: the watermark follows, and the windows begin anew."""
    engine = make_engine(rules_from(tmp_path, rule(threshold=3)))
    engine.feed(failed(7200) + failed(7200))
    assert fired(engine, *[failed(0, "192.0.2.9")] * 999) == []
    assert (engine.counters()["late"], engine.counters()["clock_set_back"]) == (999, 0)
    assert fired(engine, *[failed(0)] * 3) == [(2, 3.0)]
    assert (engine.counters()["late"], engine.counters()["clock_set_back"]) == (1000, 1)


def test_straggler_in_time_breaks_the_run_of_late_lines(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(threshold=3)))
    engine.feed(failed(7200))
    for _ in range(3):
        engine.feed(failed(0) * 999 + failed(7190))
    assert engine.counters()["clock_set_back"] == 0


def test_logins_and_senders_are_folded_but_queue_ids_are_not(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(measure="distinct(sasl_username)", threshold=2)))
    assert fired(engine, failed(0, login="Ann@Example.com"), failed(1, login="ann@example.COM")) == []
    removed = "2026-10-24T00:00:00Z mx postfix/qmgr[1]: {}: removed\n"
    by_id = rule(on="removed", by="host", measure="distinct(queue_id)", threshold=2)
    engine = make_engine(rules_from(tmp_path, by_id, "ids.yaml"))
    data = (removed.format("4PbC4x469Jz3tBr") + removed.format("4PBC4x469Jz3tBr")).encode()
    assert [one.value for one in engine.feed(data).detections] == [2.0]


def test_subject_is_spelled_as_the_log_spells_it(tmp_path):
    """One key, whatever the case; a database may tell them apart, so the newest spelling is the one that is named."""
    engine = make_engine(rules_from(tmp_path, rule(by="sasl_username", threshold=2)))
    (only,) = engine.feed(failed(0, login="ann@example.com") + failed(1, login="Ann@Example.COM")).detections
    assert (only.subject, only.value) == ({"sasl_username": "Ann@Example.COM"}, 2.0)


def test_key_of_several_fields(tmp_path):
    rules = rules_from(tmp_path, rule(by="[client_ip, sasl_username]", threshold=2))
    engine = make_engine(rules)
    found = [one for line in (failed(0), failed(1, login="bob"), failed(2, "192.0.2.2"), failed(3)) for one in engine.feed(line).detections]
    assert [(one.subject, one.time) for one in found] == [
        ({"client_ip": "192.0.2.1", "sasl_username": "ann"}, int(START.timestamp() + 3) * 1_000_000)
    ]


def test_row_without_the_key_is_left_out(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(by="sasl_username", threshold=1)))
    assert engine.feed(failed(0).replace(b", sasl_username=ann", b"")).detections == []
    assert engine.counters()["window_keys"] == {"r": 0}


def test_limit_of_keys(tmp_path):
    """The key not seen for longest goes, with its count."""
    rules = rules_from(tmp_path, rule(threshold=2))
    rules[0].compiled["max_keys"] = 3
    engine = make_engine(rules)
    assert fired(engine, *(failed(0, f"192.0.2.{n}") for n in range(4))) == []
    counters = engine.counters()
    assert (counters["window_keys"]["r"], counters["evictions"]["window_keys"]) == (3, 1)
    assert fired(engine, failed(1, "192.0.2.3")) == [(0, 2.0)]
    assert fired(engine, failed(1, "192.0.2.0")) == []
    assert engine.counters()["evictions"]["window_keys"] == 2


def test_limit_of_events(tmp_path):
    """The oldest event goes: the measure is too small, never too large."""
    for measure, expected in (("count", 4.0), ("distinct(sasl_username)", 4.0)):
        rules = rules_from(tmp_path, rule(measure=measure, threshold=4, window="1d"))
        rules[0].compiled["max_entries"] = 4
        engine = make_engine(rules)
        lines = [failed(n, login=f"login{n}") for n in range(20)]
        assert fired(engine, *lines) == [(3, expected)]
        assert engine.counters()["evictions"]["window_events"] == 16
        rules = rules_from(tmp_path, rule(measure=measure, threshold=5, window="1d"))
        rules[0].compiled["max_entries"] = 4
        assert fired(make_engine(rules), *lines) == []


def test_keys_that_have_nothing_left_to_say_are_let_go(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(window="10s")))
    for n in range(1000):
        engine.feed(failed(n, f"2001:db8::{n:x}"))
    assert engine.counters()["window_keys"]["r"] < 20
    assert engine.counters()["evictions"]["window_keys"] == 0


def test_limit_of_evidence(tmp_path):
    """Fifty thousand lines in all are kept for crossings that may come; the key that began first loses its own, not its count."""
    engine = make_engine(rules_from(tmp_path, rule(threshold=2)))
    for start in range(0, 50_100, 1000):
        engine.feed(b"".join(failed(0, f"2001:db8::{n:x}") for n in range(start, min(start + 1000, 50_100))))
    assert engine.counters()["evictions"]["evidence"] == 100
    (first,) = engine.feed(failed(1, "2001:db8::0")).detections
    (last,) = engine.feed(failed(1, "2001:db8::c3b0")).detections
    assert (first.value, len(first.evidence)) == (2.0, 1)
    assert (last.value, len(last.evidence)) == (2.0, 2)


def test_evidence_is_the_last_ten_lines_of_the_window_with_their_places(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(threshold=30, window="100s")))
    lines = [failed(n * 5) for n in range(15)] + [failed(75 + n, login=f"login{n}") for n in range(30)]
    found = [one for line in lines for one in engine.feed(line + failed(0, "192.0.2.99")).detections]
    place = {line: sum(len(one) + len(failed(0, "192.0.2.99")) for one in lines[:n]) for n, line in enumerate(lines)}
    (only,) = found
    trigger = next(n for n, line in enumerate(lines) if line.decode().rstrip("\n") == only.evidence[-1]["line"])
    assert [entry["line"] for entry in only.evidence] == [line.decode().rstrip("\n") for line in lines[trigger - 9 : trigger + 1]]
    assert [entry["offset"] for entry in only.evidence] == [place[line] for line in lines[trigger - 9 : trigger + 1]]
    assert only.value == 30.0


def test_related_names_are_sorted_by_number_and_capped(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(by="sasl_username", threshold=30)))
    lines = [failed(n, f"192.0.2.{n % 15 if n < 28 else 7}") for n in range(30)]
    (only,) = [one for line in lines for one in engine.feed(line).detections]
    assert only.related["client_ips"][0] == "192.0.2.7"
    assert len(only.related["client_ips"]) == 10


def test_message_that_waits_for_a_success(tmp_path):
    rules = rules_from(
        tmp_path,
        rule(threshold=2, then="{on: accepted, where: {sasl_username: present}}", subject="[sasl_username, client_ip]"),
    )
    accepted = b"2026-10-24T00:10:00Z mx postfix/smtpd[1]: 4A00000001: client=unknown[192.0.2.1], sasl_method=PLAIN, sasl_username=Bob\n"
    engine = make_engine(rules)
    assert fired(engine, failed(0), failed(1), failed(2)) == []
    (only,) = engine.feed(accepted).detections
    assert only.subject == {"sasl_username": "Bob", "client_ip": "192.0.2.1"}
    assert only.evidence[-1]["line"] == accepted.decode().rstrip("\n")
    assert engine.feed(accepted).detections == []
    stranger = accepted.replace(b"192.0.2.1", b"192.0.2.2")
    assert engine.feed(stranger).detections == []


def test_active_episodes(tmp_path):
    engine = make_engine(rules_from(tmp_path, rule(threshold=2, window="10s")))
    engine.feed(failed(0) + failed(1))
    assert engine.counters()["active"] == {"r": 1}
    engine.feed(failed(100, "192.0.2.2"))
    assert engine.counters()["active"] == {"r": 0}


def test_keys_that_cross_at_once_have_each_their_id(tmp_path):
    """Also where the subject leaves out what tells them apart."""
    engine = make_engine(rules_from(tmp_path, rule(by="[client_ip, sasl_username]", subject="sasl_username", threshold=1)))
    found = engine.feed(failed(0, "192.0.2.1") + failed(0, "192.0.2.2")).detections
    assert [one.subject for one in found] == [{"sasl_username": "ann"}] * 2
    assert len({one.id for one in found}) == 2


def test_a_late_delivery_is_a_delivery(tmp_path):
    """It comes too late for the windows, but not for the count of deliveries."""
    line = "{} mx postfix/smtp[1]: 4A00000001: to=<a@example.net>, relay=none, delay=1, dsn=4.4.1, status=deferred (421 4.7.0 slow down)\n"
    engine = make_engine(rules_from(tmp_path, rule(on="delivery", by="host", threshold=2)))
    found = [engine.feed(line.format(f"2026-10-24T{time}Z").encode()).detections for time in ("06:02:01", "06:01:00", "06:01:01")]
    assert [len(one) for one in found] == [0, 0, 1]
    counters = engine.counters()
    assert counters["late"] == 1
    assert sum(counters["deliveries"].values()) == 3
    assert sum(counters["replies"].values()) == 3


# --- episodes that last until mail passes


def lasting(**keys: object) -> str:
    until = "{name: over, on: delivery, where: {status: sent}, quiet: 5m}"
    more = {"where": "{reply_class: ip_blocked}", "by": "[host, provider, blocked_ip]", "window": "10m", "threshold": 1, "until": until}
    return rule(**{"on": "delivery", **more, **keys})


def delivery(second: float, status: str, host: str = "mx.example.net", server: str = "mx") -> bytes:
    text = f"to=<u@x.example>, relay={host}[192.0.2.1]:25, delay=1, delays=0/0/1/0, dsn=4.0.0, status={status}"
    return f"{stamp(second)} {server} postfix/smtp[1]: 4A00000001: {text}\n".encode()


def sent(second: float, host: str = "mx.example.net", server: str = "mx") -> bytes:
    return delivery(second, "sent (250 2.0.0 Ok)", host, server)


def said(second: float, reply: str, host: str = "mx.example.net", server: str = "mx") -> bytes:
    return delivery(second, f"bounced (host {host}[192.0.2.1] said: {reply})", host, server)


def refused(second: float, ip: str = "198.51.100.1", host: str = "mx.example.net", server: str = "mx") -> bytes:
    return said(second, f"554 5.7.1 Service unavailable; Client host [{ip}] blocked using bl.spamcop.net", host, server)


def many(second: float, number: int, host: str = "mx.example.net", server: str = "mx") -> list[bytes]:
    """Refusals that name each another address."""
    return [refused(second, f"198.51.100.{n}", host, server) for n in range(number)]


def told(engine: Engine, lines: Iterable[bytes]) -> list[tuple[int, str]]:
    """(line, rule) of each detection."""
    return [(n, one.rule) for n, line in enumerate(lines) for one in engine.feed(line).detections]


def test_episode_that_lasts_longer_than_the_window(tmp_path):
    engine = make_engine(rules_from(tmp_path, lasting(threshold=2)))
    assert told(engine, [refused(0), refused(1)]) == [(1, "r")]
    # Others come and go, each after its window.
    day = 86_400
    assert told(engine, (refused(n * day / 200, host=f"mx.n{n}.example") for n in range(1, 200))) == []
    assert engine.counters()["window_keys"]["r"] < 20
    assert engine.counters()["active"] == {"r": 1}
    # As many refusals as fire, but it is the same block.
    assert told(engine, [refused(day), refused(day + 1)]) == []
    began = int(START.timestamp() + 1) * 1_000_000
    subject = {"host": "mx", "provider": "example.net", "blocked_ip": "198.51.100.1"}
    assert [(one.rule, one.subject, one.since, one.last) for one in engine.lasting()] == [("r", subject, began, began + day * 1_000_000)]
    passing = sent(day + 301)
    (over,) = engine.feed(passing).detections
    assert (over.rule, over.subject, over.measure, over.value) == ("over", subject, "episode", day + 300.0)
    assert [entry["line"] for entry in over.evidence] == [passing.decode().rstrip("\n")]
    assert engine.lasting() == []
    assert engine.counters()["active"] == {"r": 0}
    assert told(engine, [sent(day + 302), *[refused(day + 3601)] * 2]) == [(2, "r")]


@pytest.mark.parametrize(
    "other",
    [
        sent(400, host="mx.example.org"),
        sent(400, server="mx2"),
        sent(399.999999),
        delivery(400, "deferred (host mx.example.net[192.0.2.1] said: 450 4.2.0 Greylisted)"),
    ],
    ids=["another provider", "another server", "within quiet", "not sent"],
)
def test_delivery_that_does_not_end_an_episode(tmp_path, other):
    engine = make_engine(rules_from(tmp_path, lasting()))
    assert told(engine, [refused(0), refused(100), other]) == [(0, "r")]
    assert len(engine.lasting()) == 1
    # Whichever of the provider's hosts takes the mail.
    assert told(engine, [sent(400, host="mx2.example.net")]) == [(0, "over")]


def test_quiet_is_counted_from_the_latest_refusal_of_the_same_key(tmp_path):
    engine = make_engine(rules_from(tmp_path, lasting()))
    lines = [refused(0), refused(200, "198.51.100.2"), sent(300)]
    assert told(engine, lines) == [(0, "r"), (1, "r"), (2, "over")]
    assert [one.subject["blocked_ip"] for one in engine.lasting()] == ["198.51.100.2"]


def test_snapshot_at_any_line_of_episodes_that_last(tmp_path):
    """What ends, and what has room to begin, is the same as without."""
    rules = rules_from(tmp_path, lasting(cooldown="10m"))
    lines = [
        *many(0, 18),
        refused(1, server="mx2"),
        refused(2, host="mx.example.org"),
        refused(700, "198.51.100.3"),
        sent(701, server="mx2"),
        sent(702),
        refused(703, "198.51.100.17"),
        sent(1003),
        sent(1004, host="mx.example.org"),
        *many(1005, 18),
        sent(2000),
    ]

    def on(engine: Engine, first: int, last: int) -> list[dict[str, Any]]:
        return [one.to_dict() for line in lines[first:last] for one in engine.feed(line).detections]

    whole = make_engine(rules)
    expected = on(whole, 0, len(lines))
    assert [one["rule"] for one in expected].count("over") == 16 + 1 + 1 + 1 + 16
    assert whole.lasting() == []
    for stop in range(len(lines) + 1):
        engine = make_engine(rules)
        found = on(engine, 0, stop)
        again = make_engine(rules)
        assert again.restore(engine.snapshot())
        assert again.lasting() == engine.lasting()
        assert again.counters() == engine.counters()
        assert found + on(again, stop, len(lines)) == expected


def test_host_that_names_another_address_in_each_refusal(tmp_path):
    """At most sixteen episodes of one server and one provider begin in an hour; others have their own."""
    engine = make_engine(rules_from(tmp_path, lasting()))
    assert told(engine, many(0, 100)) == [(n, "r") for n in range(16)]
    assert told(engine, many(1, 100, host="mx.example.org")) == [(n, "r") for n in range(16)]
    assert told(engine, many(2, 100, server="mx2")) == [(n, "r") for n in range(16)]
    assert engine.counters()["active"] == {"r": 48}
    assert told(engine, [sent(302)]) == [(0, "over")] * 16
    # Those that fired are within their cooldown; the others have room now.
    assert told(engine, many(303, 100)) == [(n, "r") for n in range(16, 32)]
    assert engine.counters()["active"] == {"r": 48}
    # An hour later they make room, without being over.
    assert told(engine, [refused(3902, "192.0.2.99"), refused(3903, "192.0.2.99")]) == [(1, "r")]
    assert engine.counters()["active"] == {"r": 48}
    assert "192.0.2.99" in [one.subject["blocked_ip"] for one in engine.lasting()]


def test_episodes_that_last_are_let_go_after_what_does_not(tmp_path):
    """A flood of addresses that one host names does not push out what another host does."""
    rules = rules_from(tmp_path, lasting())
    rules[0].compiled["max_keys"] = 20
    engine = make_engine(rules)
    assert told(engine, many(0, 2)) == [(0, "r"), (1, "r")]
    assert told(engine, many(1, 200, host="mx.example.org")) == [(n, "r") for n in range(16)]
    assert (engine.counters()["active"], engine.counters()["evictions"]["window_keys"]) == ({"r": 18}, 182)
    assert told(engine, [sent(400)]) == [(0, "over")] * 2


def test_what_a_text_claims_of_another_provider_is_its_own_host_s_word(tmp_path):
    """A host may write what it likes: another provider's block neither begins nor ends by it."""
    engine = make_engine(rules_from(tmp_path, lasting()))
    yahoo = "553 5.7.2 [TSS09] All messages from 198.51.100.1 will be permanently deferred; Retrying will NOT succeed. See https://postmaster.yahooinc.com/error-codes"
    forged, real = said(0, yahoo, host="mx.example.org"), said(1, yahoo, host="mta5.am0.yahoodns.net")
    found = [one for line in (forged, real) for one in engine.feed(line).detections]
    assert [one.subject["provider"] for one in found] == ["yahoo", "yahoo"]
    assert [one.told_by for one in engine.lasting()] == ["example.org", ""]
    assert [one.detection for one in engine.lasting()] == [one.id for one in found]
    assert "a host of example.org" in found[0].description
    assert "a host of" not in found[1].description
    again = make_engine(rules_from(tmp_path, lasting()))
    assert again.restore(engine.snapshot())
    for one in (engine, again):
        (over,) = one.feed(sent(400, host="mx.example.org")).detections
        assert (over.subject["provider"], over.subject["blocked_ip"]) == ("yahoo", "198.51.100.1")
        assert [(left.subject["provider"], left.told_by) for left in one.lasting()] == [("yahoo", "")]
        assert told(one, [sent(401, host="mta6.am0.yahoodns.net")]) == [(0, "over")]


def test_episode_that_nothing_could_end_does_not_begin(tmp_path):
    """No host has answered, so mail can't pass there again."""
    engine = make_engine(rules_from(tmp_path, lasting(where="{status: deferred}", by="recipient")))
    timeout = delivery(0, "deferred (connect to mx.example.net[192.0.2.1]:25: Connection timed out)").replace(
        b"mx.example.net[192.0.2.1]:25,", b"none,"
    )
    assert b"relay=none" in timeout
    assert told(engine, [timeout, delivery(1, "deferred (host mx.example.net[192.0.2.1] said: 450 no)")]) == [(1, "r")]


def test_a_delivery_from_before_the_refusal_does_not_end_it(tmp_path):
    until = "{name: over, on: delivery, where: {status: sent}, quiet: 1s}"
    engine = make_engine(rules_from(tmp_path, lasting(until=until)))
    assert told(engine, [refused(100), refused(102, host="mx.example.org"), sent(50), sent(100.5), sent(101)]) == [
        (0, "r"),
        (1, "r"),
        (4, "over"),
    ]


def test_endings_of_one_moment_are_two(tmp_path):
    engine = make_engine(rules_from(tmp_path, lasting(until="{name: over, on: delivery, where: {status: sent}}", cooldown="1s")))
    lines = [refused(0), refused(10), sent(10), refused(10), sent(10)]
    assert told(engine, lines) == [(0, "r"), (2, "over"), (3, "r"), (4, "over")]
    again = make_engine(rules_from(tmp_path, lasting(until="{name: over, on: delivery, where: {status: sent}}", cooldown="1s")))
    ids = [one.id for line in lines for one in again.feed(line).detections]
    assert len(set(ids)) == 4


def test_bytes_that_separate_in_keys(tmp_path):
    """In a host's name, which a remote DNS may have made, they mean nothing."""
    engine = make_engine(rules_from(tmp_path, lasting()))
    names = ("mx.a\x01b.example", "mx.a\0b.example")
    found = [one for n, name in enumerate(names) for one in engine.feed(refused(n, host=name)).detections]
    assert [one.told_by for one in engine.lasting()] == [""] * len(found)
    assert {one.subject["provider"] for one in found} <= {"a?b.example", "b.example"}
    assert told(engine, [sent(400, host=name) for name in names[: len(found)]])
    assert engine.lasting() == []


def test_episode_whose_key_is_evicted_leaves_nothing_behind(tmp_path):
    """It neither takes the room of others nor ends when mail passes."""
    rules = rules_from(tmp_path, lasting())
    rules[0].compiled["max_keys"] = 2
    engine = make_engine(rules)
    assert told(engine, many(0, 40)) == [(n, "r") for n in range(40)]
    counters = engine.counters()
    assert (counters["active"], counters["evictions"]["window_keys"]) == ({"r": 2}, 38)
    again = make_engine(rules)
    assert again.restore(engine.snapshot())
    for one in (engine, again):
        assert sorted(left.subject["blocked_ip"] for left in one.lasting()) == ["198.51.100.38", "198.51.100.39"]
        assert told(one, [sent(300), sent(301)]) == [(0, "over"), (0, "over")]
        assert one.counters()["active"] == {"r": 0}
        assert told(one, many(302, 40)) == [(n, "r") for n in range(40)]
        # Two others take the place of the last two.
        assert told(one, [*many(303, 1, "mx.example.org"), *many(303, 1, "mx.example.com"), sent(700)]) == [(0, "r"), (1, "r")]


def test_hosts_that_are_numbered_anew(tmp_path):
    """After fifty thousand of them: none answers for the one that had its number before, and mail ends what was under way."""
    engine = make_engine(rules_from(tmp_path, lasting()))
    assert told(engine, [sent(0, host="mx.c.example"), refused(1, host="mx.a.example")]) == [(1, "r")]
    engine.feed(b"".join(sent(2, host=f"mx.n{n}.example") for n in range(49_998)))
    assert told(engine, [refused(3, host="mx.b.example")]) == [(0, "r")]
    assert [one.subject["provider"] for one in engine.lasting()] == ["a.example", "b.example"]
    assert told(engine, [sent(400, host="mx.a.example"), sent(400, host="mx.b.example")]) == [(0, "over"), (1, "over")]


def test_clock_set_back_forgets_episodes_that_last(tmp_path):
    engine = make_engine(rules_from(tmp_path, lasting()))
    assert len(told(engine, many(7200, 16))) == 16
    engine.feed(failed(0) * 1000)
    assert (engine.counters()["clock_set_back"], engine.counters()["active"], engine.lasting()) == (1, {"r": 0}, [])
    assert told(engine, [sent(1), *many(2, 100), sent(302)]) == [*((n, "r") for n in range(1, 17)), *[(101, "over")] * 16]


# --- what refusals mean

LISTED = "554 5.7.1 Service unavailable; Client host [198.51.100.1] blocked using bl.spamcop.net"
FULL = "452 4.2.2 Mailbox full"
SUSPENDED = f"deferred (delivery temporarily suspended: host mx.example.net[192.0.2.1] refused to talk to me: {LISTED})"


@pytest.mark.parametrize(
    ("where", "listed", "full", "suspended", "passed"),
    [
        ("{dnsbl: bl.spamcop.net}", 1, 0, 1, 0),
        ("{dnsbl: absent}", 0, 1, 0, 1),
        ("{blocked_ip: 198.51.100.*}", 1, 0, 1, 0),
        ("{blocked_ip: 198.51.100.2}", 0, 0, 0, 0),
        ("{reply_sub: mailbox_full}", 0, 1, 0, 0),
        ("{reply_sub: {not: mailbox_full}}", 1, 0, 1, 1),
        ('{reply_confidence: ">= 0.01"}', 1, 1, 1, 0),
        ('{reply_confidence: ">= 1"}', 0, 0, 0, 0),
        ("{suspended: true}", 0, 0, 1, 0),
        ("{suspended: false}", 1, 1, 0, 1),
    ],
)
def test_conditions_on_what_a_refusal_says(tmp_path, where, listed, full, suspended, passed):
    lines = [said(0, LISTED), said(1, FULL), delivery(2, SUSPENDED), sent(3)]
    rules = rules_from(tmp_path, rule(on="delivery", where=where, by="host", threshold=1))
    assert [len(told(make_engine(rules), [line])) for line in lines] == [listed, full, suspended, passed]


def test_other_knowledge_of_replies_from_the_next_row_on(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("replies:\n  - {name: moon, class: ip_blocked, confidence: 0.9, patterns: ['the moon is full']}\n", encoding="utf-8")
    moon = "550 198.51.100.7: the moon is full"
    before, after = load_replies(), load_replies([own])
    engine = make_engine(rules_from(tmp_path, lasting()), replies=before)
    assert told(engine, [said(0, moon), refused(1)]) == [(1, "r")]
    engine.use_replies(after)
    assert told(engine, [said(2, moon), refused(3)]) == [(0, "r")]
    assert [one.subject["blocked_ip"] for one in engine.lasting()] == ["198.51.100.1", "198.51.100.7"]
    engine.use_replies(before)
    # It means nothing to the rule again: the episode is not put off by it.
    assert told(engine, [said(302, moon), sent(303)]) == [(1, "over"), (1, "over")]
    classes: dict[str, int] = {}
    for (name, _), number in engine.counters()["replies"].items():
        classes[name] = classes.get(name, 0) + number
    assert classes == {"ip_blocked": 3, "other": 2}
