"""The exposition, read back with the parsers of those who will read it."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterable

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from sentinel.detect.engine import Engine
from sentinel.maillog.fields import KINDS, SERVICES
from sentinel.observe import metrics as module
from sentinel.observe.metrics import Metrics
from sentinel.observe.status import Snapshot, Status

LOG = "/var/log/mail.log"
RULES = (("outbound-burst-account", "critical"), ("auth-bruteforce-ip", "warning"))

# The contract, word for word.
CONTRACT = {
    "sentinel_build_info": ("gauge", {"version"}),
    "sentinel_lines_total": ("counter", {"source", "outcome"}),
    "sentinel_events_total": ("counter", {"kind", "service"}),
    "sentinel_deliveries_total": ("counter", {"status", "provider"}),
    "sentinel_remote_replies_total": ("counter", {"class", "provider"}),
    "sentinel_detections_total": ("counter", {"rule", "severity"}),
    "sentinel_active_detections": ("gauge", {"rule"}),
    "sentinel_account_score": ("gauge", {"sasl_username"}),
    "sentinel_series_dropped_total": ("counter", set()),
    "sentinel_actions_total": ("counter", {"action", "result"}),
    "sentinel_breaker_open": ("gauge", set()),
    "sentinel_notices_total": ("counter", {"target", "result"}),
    "sentinel_locked_accounts": ("gauge", set()),
    "sentinel_source_lag_bytes": ("gauge", {"source"}),
    "sentinel_last_event_timestamp_seconds": ("gauge", {"source"}),
    "sentinel_rotations_total": ("counter", {"source"}),
    "sentinel_checkpoint_age_seconds": ("gauge", set()),
    "sentinel_event_to_decision_seconds": ("histogram", set()),
    "sentinel_open_messages": ("gauge", set()),
    "sentinel_window_keys": ("gauge", {"rule"}),
    "sentinel_evictions_total": ("counter", {"table"}),
    # Beyond the contract.
    "sentinel_remote_reply_repeats_total": ("counter", {"class", "provider"}),
    "sentinel_late_lines_total": ("counter", set()),
    "sentinel_unattributed_deliveries_total": ("counter", set()),
    "sentinel_clock_set_back_total": ("counter", set()),
}

SPAM = b"".join(
    b"Nov 22 10:00:%02d mx postfix/smtpd[1]: %05dAAA: client=unknown[198.51.100.7], sasl_method=LOGIN, "
    b"sasl_username=info@example.com\n"
    b"Nov 22 10:00:%02d mx postfix/qmgr[2]: %05dAAA: from=<info@example.com>, size=900, nrcpt=50 (queue active)\n"
    b"Nov 22 10:00:%02d mx postfix/smtp[3]: %05dAAA: to=<a@yahoo.com>, relay=mta5.am0.yahoodns.net[192.0.2.1]:25, "
    b"delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent (250 ok)\n" % (n, n, n, n, n, n)
    for n in range(10, 40)
)


def new_status() -> Status:
    return Status(sources=[LOG], rules=RULES, detections=lambda limit: [], locks=list, targets=["pager"])


def scrape(metrics: Metrics) -> dict[str, Metric]:
    """Families by the name that the contract gives them."""
    families = {}
    for family in parse(metrics.render()[0].decode()):
        families[family.name + ("_total" if family.type == "counter" else "")] = family
    return families


def values(family: Metric) -> dict[tuple[str, ...], float]:
    return {tuple(label for _, label in sorted(s.labels.items())): s.value for s in family.samples}


def test_every_metric_of_the_contract_with_its_type_and_labels_and_nothing_else_of_ours() -> None:
    status = new_status()
    status.publish(Snapshot(scores={"info@example.com": 5.0}))
    families = scrape(Metrics(status, version="1.2.3"))
    ours = {name: family for name, family in families.items() if name.startswith("sentinel_")}
    found = {name: (family.type, set().union(*(set(s.labels) - {"le"} for s in family.samples))) for name, family in ours.items()}
    assert found == CONTRACT
    assert all(len(family.documentation) > 40 for family in ours.values())
    assert [spec.name for spec in module.METRICS] == list(CONTRACT)
    assert "process_resident_memory_bytes" in families


def test_known_label_values_are_there_from_the_start_and_0() -> None:
    families = scrape(Metrics(new_status(), version="1.2.3"))
    assert values(families["sentinel_build_info"]) == {("1.2.3",): 1}
    assert values(families["sentinel_lines_total"]) == {(outcome, LOG): 0 for outcome in ("event", "ignored", "unparsed", "repeated")}
    statuses = ("sent", "deferred", "bounced", "expired", "deliverable", "undeliverable", "SOFTBOUNCE", "other")
    assert values(families["sentinel_deliveries_total"]) == {("other", status): 0 for status in statuses}
    classes = "ip_blocked rate_limited content_spam auth_policy sender_blocked recipient_invalid greylisted other"
    assert values(families["sentinel_remote_replies_total"]) == {(word, "other"): 0 for word in classes.split()}
    assert values(families["sentinel_detections_total"]) == dict.fromkeys(RULES, 0)
    assert values(families["sentinel_active_detections"]) == {(name,): 0 for name, _ in RULES}
    assert values(families["sentinel_window_keys"]) == {(name,): 0 for name, _ in RULES}
    assert values(families["sentinel_actions_total"]) == {
        (action, result): 0
        for action in ("lock", "unlock", "notify", "flush", "flush-late", "map", "unmap", "kick", "smtpd", "hold", "hold-late", "ban")
        for result in ("simulated", "done", "failed", "refused")
    }
    assert values(families["sentinel_breaker_open"]) == {(): 0}
    assert values(families["sentinel_notices_total"]) == {(result, "pager"): 0 for result in ("sent", "failed", "retried")}
    assert values(families["sentinel_evictions_total"]) == {
        (table,): 0 for table in ("messages", "known_clients", "window_keys", "window_events", "evidence")
    }
    for name in ("source_lag_bytes", "last_event_timestamp_seconds", "rotations_total"):
        assert values(families[f"sentinel_{name}"]) == {(LOG,): 0}
    events = values(families["sentinel_events_total"])
    assert {("delivery", "smtp"), ("auth_failed", "smtpd"), ("rejected", "postscreen")} <= set(events)
    assert set(events.values()) == {0}
    assert all(kind in KINDS and service in SERVICES for kind, service in events)


def test_known_words_are_those_of_the_rooms_that_count() -> None:
    from sentinel.respond.responder import ACTIONS, RESULTS

    assert (module.ACTIONS, module.RESULTS) == (ACTIONS, RESULTS)
    counters = Engine().counters()
    assert set(counters["evictions"]) == set(module.TABLES)


def test_engine_counters_come_through() -> None:
    engine = Engine()
    status = new_status()
    status.count_from(engine.counters())
    step = engine.feed(SPAM)
    assert step.detections
    status.publish(
        Snapshot(
            counters=engine.counters(),
            detections={(d.rule, d.severity): 1 for d in step.detections},
            actions={("lock", "simulated"): 2},
            locked=["info@example.com"],
            lag={LOG: 17},
            rotations={LOG: 3},
            overlong={LOG: 4},
            last_event={LOG: 1.5e9},
            checkpoint_at=time.time() - 30,
        )
    )
    families = scrape(Metrics(status, version="1"))
    assert values(families["sentinel_events_total"])["accepted", "smtpd"] == 30
    assert values(families["sentinel_deliveries_total"])["yahoo", "sent"] == 30
    assert values(families["sentinel_lines_total"])["event", "other"] == 90  # raw bytes have no source
    assert values(families["sentinel_lines_total"])["unparsed", LOG] == 4  # too long to read
    assert values(families["sentinel_open_messages"]) == {(): 30}
    assert values(families["sentinel_active_detections"])[("outbound-burst-account",)] == 1
    assert values(families["sentinel_detections_total"])["outbound-burst-account", "critical"] == 1
    assert values(families["sentinel_actions_total"])["lock", "simulated"] == 2
    assert values(families["sentinel_locked_accounts"]) == {(): 1}
    assert values(families["sentinel_source_lag_bytes"]) == {(LOG,): 17}
    assert values(families["sentinel_rotations_total"]) == {(LOG,): 3}
    assert values(families["sentinel_last_event_timestamp_seconds"]) == {(LOG,): 1.5e9}
    assert 29 < values(families["sentinel_checkpoint_age_seconds"])[()] < 60
    # Yahoo has accepted mail so far: its first refusal is an increase from 0, not a series out of nowhere.
    assert values(families["sentinel_remote_replies_total"])["ip_blocked", "yahoo"] == 0


def test_the_unknown_provider_is_other_and_added_to_one_that_is_called_so() -> None:
    status = new_status()
    status.publish(Snapshot(counters={"deliveries": {("sent", ""): 2, ("sent", "other"): 3, ("sent", "gmail"): 5}}))
    sent = values(scrape(Metrics(status, version="1"))["sentinel_deliveries_total"])
    assert (sent["other", "sent"], sent["gmail", "sent"]) == (5, 5)


def test_totals_count_from_the_start_of_the_process() -> None:
    """A killed process goes on from a checkpoint a little behind: totals must not step back by less than all."""
    before, after = Engine(), Engine()
    before.feed(SPAM)
    after.restore(before.snapshot())
    status = new_status()
    status.count_from(after.counters())
    after.feed(SPAM.replace(b"Nov 22 10:", b"Nov 22 11:"))
    status.publish(Snapshot(counters=after.counters()))
    families = scrape(Metrics(status, version="1"))
    assert values(families["sentinel_events_total"])["accepted", "smtpd"] == 30
    assert values(families["sentinel_deliveries_total"])["yahoo", "sent"] == 30
    assert values(families["sentinel_lines_total"])["event", "other"] == 90


def test_account_series_are_capped_and_the_highest_are_kept() -> None:
    status = new_status()
    metrics = Metrics(status, version="1")
    accounts = {f"user{n}@example.com": float(n) for n in range(1500)}
    status.publish(Snapshot(scores=accounts))
    for _ in range(2):  # what was left out before does not count again
        families = scrape(metrics)
        shown = values(families["sentinel_account_score"])
        assert shown == {(f"user{n}@example.com",): n for n in range(500, 1500)}
        assert values(families["sentinel_series_dropped_total"]) == {(): 500}
    status.publish(Snapshot(scores=accounts | {"new@example.com": 9999.0}))
    families = scrape(metrics)
    assert values(families["sentinel_account_score"])[("new@example.com",)] == 9999
    assert values(families["sentinel_series_dropped_total"]) == {(): 501}
    status.publish(Snapshot())
    families = scrape(metrics)
    assert values(families["sentinel_account_score"]) == {}
    assert values(families["sentinel_series_dropped_total"]) == {(): 501}


HOSTILE = {
    'quote"': 'quote"',
    "line\nend": "line\nend",
    'x"} 1\nsentinel_locked_accounts 99\n#': 'x"} 1\nsentinel_locked_accounts 99\n#',
    "back\\slash\\": "back\\slash\\",
    "\\n": "\\n",
    "not\udcffutf8": "not?utf8",
    "\x00\r\x1b[31m\u2028\u202e": "\x00\r\x1b[31m\u2028\u202e",
    "ü" * 300: "ü" * 256,
    "": "other",
    "{}": "{}",
}


@pytest.mark.parametrize("accept", ["", "text/plain; version=1.0.0", "application/openmetrics-text; version=1.0.0"])
def test_hostile_account_names_are_values_and_nothing_else(accept: str) -> None:
    status = new_status()
    status.publish(Snapshot(scores=dict.fromkeys(HOSTILE, 1.0)))
    body, content_type = Metrics(status, version="1").render(accept)
    assert content_type.startswith(accept.partition(";")[0] or "text/plain")
    reader = parse_openmetrics if "openmetrics" in accept else parse
    families: dict[str, Metric] = {family.name: family for family in reader(body.decode())}
    shown = {s.labels["sasl_username"] for s in families["sentinel_account_score"].samples}
    assert shown == {visible(name) for name in HOSTILE.values()}
    assert all(name.isprintable() for name in shown)
    assert [s.value for s in families["sentinel_locked_accounts"].samples] == [0]


def visible(name: str) -> str:
    """As the label shows it: control characters spelled out."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


def test_names_that_are_the_same_once_cut_are_one_series() -> None:
    status = new_status()
    status.publish(Snapshot(scores={"a" * 256 + "1": 1.0, "a" * 256 + "2": 7.0, "\udc80": 2.0, "?": 3.0}))
    families = scrape(Metrics(status, version="1"))
    assert values(families["sentinel_account_score"]) == {("a" * 256,): 7.0, ("?",): 3.0}
    assert values(families["sentinel_series_dropped_total"]) == {(): 2}


def test_decision_delays_fall_into_their_buckets() -> None:
    metrics = Metrics(new_status(), version="1")
    seconds = [-5.0, 0.0, 0.01, 0.011, 0.4, 2.0, 3600.0, 90_000.0, float("nan")]
    for value in seconds:
        metrics.observe_decision(value)
    samples = scrape(metrics)["sentinel_event_to_decision_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    counted = [max(0.0, value) for value in seconds[:-1]]
    assert buckets == {bound: sum(value <= float(bound) for value in counted) for bound in buckets}
    assert (next(iter(buckets)), list(buckets)[-2:]) == ("0.01", ["3600.0", "+Inf"])
    assert {s.name.rpartition("_")[2]: s.value for s in samples if not s.labels} == {"count": 8, "sum": sum(counted)}


def test_many_threads_observe_and_scrape() -> None:
    status = new_status()
    status.publish(Snapshot(scores={f"u{n}": float(n) for n in range(2000)}))
    metrics = Metrics(status, version="1")
    bodies: list[bytes] = []

    def work() -> None:
        for _ in range(200):
            metrics.observe_decision(0.2)
        bodies.append(metrics.render()[0])

    run_all(threading.Thread(target=work) for _ in range(8))
    assert len(bodies) == 8
    last = scrape(metrics)
    assert [s.value for s in last["sentinel_event_to_decision_seconds"].samples if s.name.endswith("_count")] == [1600]
    assert values(last["sentinel_series_dropped_total"]) == {(): 1000}


def run_all(threads: Iterable[threading.Thread]) -> None:
    started = list(threads)
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


def test_promtool_finds_nothing_wrong() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    engine = Engine()
    engine.feed(SPAM)
    status = new_status()
    hostile = dict.fromkeys(HOSTILE, 1.0)
    status.publish(Snapshot(counters=engine.counters(), scores=hostile, lag={LOG: 1}))
    metrics = Metrics(status, version="1.2.3")
    metrics.observe_decision(0.3)
    # Standard names of every process are not ours to judge, and older promtools find fault with them.
    text = b"".join(line for line in metrics.render()[0].splitlines(keepends=True) if b"process_" not in line.partition(b"{")[0])
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def test_what_came_late_and_what_belongs_to_nobody_is_counted_from_the_start() -> None:
    connect = "2026-10-24T{}Z mx postfix/smtpd[1]: connect from unknown[198.51.100.7]\n"
    sent = "2026-10-24T07:00:00Z mx postfix/smtp[1]: 4A00000001: to=<a@example.net>, relay=none, delay=1, dsn=2.0.0, status=sent (ok)\n"
    engine = Engine()
    engine.feed((connect.format("06:20:00") + connect.format("06:18:59")).encode())
    status = new_status()
    status.count_from(engine.counters())
    metrics = Metrics(status, version="1")
    names = ("sentinel_late_lines_total", "sentinel_unattributed_deliveries_total", "sentinel_clock_set_back_total")
    assert [values(scrape(metrics)[name]) for name in names] == [{(): 0}] * 3
    engine.feed((sent + connect.format("06:00:00") * 1000).encode())
    status.publish(Snapshot(counters=engine.counters()))
    assert [values(scrape(metrics)[name]) for name in names] == [{(): 1000}, {(): 1}, {(): 1}]
