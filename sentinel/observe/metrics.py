"""The Prometheus metrics: what a :class:`Status` says, put into the words of the exposition format at each scrape.

Nothing is counted here but the delay histogram; all else is read from the latest snapshot. Every label is bounded: by
the configuration (sources, rules), by the product (kinds, services, classes, providers) or, for accounts, by a hard cap
that keeps the highest scores. Known label values are exported from the start, with 0, so that an increase of a total is
seen when it first happens.

``prometheus_client`` is imported when it is first needed, since it costs more than all the rest of this room.
"""

import bisect
import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sentinel.detect._windows import STATUSES
from sentinel.detect.replies import CLASS_NAMES
from sentinel.maillog.forms import FORMS
from sentinel.observe.status import Snapshot, Status

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

__all__ = ["ACCOUNT_SERIES", "METRICS", "Metrics"]

ACCOUNT_SERIES = 1000
"""Accounts that get a series of their own, at most."""
DECISION_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)

_MAX_LABEL_CHARACTERS = 256
_OTHER = "other"

OUTCOMES = ("event", "ignored", "unparsed", "repeated")
CLASSES = CLASS_NAMES[1:]
# As respond/responder.py has them.
ACTIONS = ("lock", "unlock", "notify", "map", "flush", "unmap", "flush-late", "kick", "smtpd", "hold", "hold-late", "ban")
RESULTS = ("simulated", "done", "failed", "refused")
NOTICE_RESULTS = ("sent", "failed", "retried")
TABLES = ("messages", "known_clients", "window_keys", "window_events", "evidence")
"""What has a limit: open messages, keys of windows, events in windows, evidence lines."""
EVENTS = tuple(dict.fromkeys((form.kind, service) for form in FORMS if form.kind != _OTHER for service in form.services))
"""(kind, service) that the scanner knows."""

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its full name, type, labels, and what to do with the number."""

    name: str
    type: Literal["counter", "gauge", "histogram", "info"]
    labels: Labels
    help: str


METRICS = (
    Spec("sentinel_build_info", "info", ("version",), "Which version runs here; always 1. Join it to see what changed."),
    Spec(
        "sentinel_lines_total",
        "counter",
        ("source", "outcome"),
        "Log lines read. event: it told something; ignored: nothing to learn from it; unparsed: no mail log line, or "
        "too long; repeated: told again by syslog. None come: is the path right? Many unparsed: is it a mail log?",
    ),
    Spec(
        "sentinel_events_total",
        "counter",
        ("kind", "service"),
        "What the log told, by kind of event and Postfix daemon. Compare with the usual rate of the same hour.",
    ),
    Spec(
        "sentinel_deliveries_total",
        "counter",
        ("status", "provider"),
        "Delivery attempts by outcome and who runs the remote server. A rising share of deferred or bounced at one "
        "provider: look at the replies, it may have begun to block this server.",
    ),
    Spec(
        "sentinel_remote_replies_total",
        "counter",
        ("class", "provider"),
        "Refusals by remote servers, by what they are about. ip_blocked, rate_limited or content_spam rising: find the "
        "account that earned it before asking for delisting.",
    ),
    Spec(
        "sentinel_detections_total",
        "counter",
        ("rule", "severity"),
        "Times that a rule fired. Alert on any increase at severity critical; see /api/detections for the evidence.",
    ),
    Spec(
        "sentinel_active_detections",
        "gauge",
        ("rule",),
        "Subjects that are above the rule's release level now. 0 again means that it is over.",
    ),
    Spec(
        "sentinel_account_score",
        "gauge",
        ("sasl_username",),
        "Points of an account now, the highest only; policy acts at the total that is configured (10 by default). Look "
        "into accounts on their way there.",
    ),
    Spec(
        "sentinel_series_dropped_total",
        "counter",
        (),
        "Accounts that got no series of sentinel_account_score because there are too many. If it rises, go by "
        "/api/detections: the low scores are missing here.",
    ),
    Spec(
        "sentinel_actions_total",
        "counter",
        ("action", "result"),
        "What policy did, and what followed a lock. failed: the account is still open, lock it by hand; of a step, see "
        "sentinel locks list. refused: a limit or a protected account stood in the way. simulated: it would have been "
        "done in mode enforce.",
    ),
    Spec(
        "sentinel_breaker_open",
        "gauge",
        (),
        "1 while policy locks nobody because too many accounts reached the score at once. Look at whose they are, then close it: "
        "sentinel locks resume.",
    ),
    Spec(
        "sentinel_notices_total",
        "counter",
        ("target", "result"),
        "Notices by target. failed: it was given up, and nobody was told there. retried: the target did not take it yet; "
        "try it with sentinel notify test.",
    ),
    Spec(
        "sentinel_locked_accounts",
        "gauge",
        (),
        "Accounts that sentinel holds locked now. Each waits for its password to be changed and then to be unlocked.",
    ),
    Spec(
        "sentinel_source_lag_bytes",
        "gauge",
        ("source",),
        "Bytes of the log that are not read yet. More than a few MB for minutes: this host is too slow or the disk is.",
    ),
    Spec(
        "sentinel_last_event_timestamp_seconds",
        "gauge",
        ("source",),
        "Time of the newest event as the log has it, 0 before the first. Old on a busy server: logging has stopped, or "
        "sentinel follows the wrong file.",
    ),
    Spec(
        "sentinel_rotations_total",
        "counter",
        ("source",),
        "Times that the log was rotated or truncated. Should go with the schedule of logrotate.",
    ),
    Spec(
        "sentinel_checkpoint_age_seconds",
        "gauge",
        (),
        "Seconds since position and state were last saved (since the start, before the first time). More than some "
        "minutes: the state directory cannot be written.",
    ),
    Spec(
        "sentinel_event_to_decision_seconds",
        "histogram",
        (),
        "From the time in the log line to the decision about it. High right after a start, while older log is read; "
        "otherwise look at the lag, and at this host's clock.",
    ),
    Spec(
        "sentinel_open_messages",
        "gauge",
        (),
        "Messages that are in the queue as far as the log tells. Growing for hours: mail is not getting out.",
    ),
    Spec(
        "sentinel_window_keys",
        "gauge",
        ("rule",),
        "Subjects that the rule keeps a window for now; memory goes with it.",
    ),
    Spec(
        "sentinel_evictions_total",
        "counter",
        ("table",),
        "Things forgotten early because a limit was reached. Any increase: detections may be missed, give it more "
        "memory or find out who floods the log.",
    ),
    Spec(
        "sentinel_remote_reply_repeats_total",
        "counter",
        ("class", "provider"),
        "Deliveries that Postfix put off without trying, because of such a refusal before. Large: mail piles up in the queue "
        "for this provider; the refusals themselves are in sentinel_remote_replies_total.",
    ),
    Spec(
        "sentinel_late_lines_total",
        "counter",
        (),
        "Events that came more than a minute behind the newest one: they are left out of the windows. Rising: hosts "
        "whose clocks differ write into one log, or syslog holds lines back.",
    ),
    Spec(
        "sentinel_unattributed_deliveries_total",
        "counter",
        (),
        "Deliveries of messages whose beginning is not in the log, so that they count for no account. Some after a "
        "first start are normal; rising later: lines are lost, or open messages were evicted.",
    ),
    Spec(
        "sentinel_clock_set_back_total",
        "counter",
        (),
        "Times that the log's time was set back for good and the windows began anew. Any increase: look at this host's clock.",
    ),
)
"""All metrics in the order in which they are exported."""

_Samples = Mapping[Labels, float]


class Metrics:
    """The metrics of one daemon in a registry of their own. Any thread may use it."""

    def __init__(self, status: Status, *, version: str, max_account_series: int = ACCOUNT_SERIES) -> None:
        self._status = status
        self._version = version
        self._max_account_series = max_account_series
        self._lock = threading.Lock()
        self._registry: CollectorRegistry | None = None
        self._buckets = [0] * (len(DECISION_BUCKETS_SECONDS) + 1)
        self._seconds = 0.0
        self._dropped_names: frozenset[str] = frozenset()
        self._dropped = 0

    def observe_decision(self, seconds: float) -> None:
        """A decision was made so long after the time in the log line. Clocks may differ: less than 0 counts as 0."""
        if math.isnan(seconds):
            return
        seconds = max(0.0, seconds)
        with self._lock:
            self._buckets[bisect.bisect_left(DECISION_BUCKETS_SECONDS, seconds)] += 1
            self._seconds += seconds

    @property
    def registry(self) -> "CollectorRegistry":
        """All of it, and the process's own metrics, for whoever wants to export it in another way."""
        from prometheus_client import CollectorRegistry, ProcessCollector

        with self._lock:
            if self._registry is None:
                registry = CollectorRegistry()
                registry.register(_Collector(self))
                ProcessCollector(registry=registry)
                self._registry = registry
            return self._registry

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type, as the ``Accept`` header wants it."""
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def collect(self) -> Iterator["Metric"]:
        """Every metric of the contract, from one snapshot."""
        samples = self._samples(self._status.current)
        for spec in METRICS:
            if spec.type == "histogram":
                yield self._histogram(spec)
            else:
                yield _family(spec, samples[spec.name])

    def _samples(self, now: Snapshot) -> dict[str, _Samples]:
        status = self._status
        rules = dict.fromkeys((name,) for name, _ in status.rules)
        checkpoint = status.started if now.checkpoint_at is None else now.checkpoint_at
        scores, dropped = self._highest(now.scores)
        deliveries, replies, repeats = (status.totals(name, now) for name in ("deliveries", "replies", "repeats"))
        # A provider that has ever answered has all its series, so that its first refusal is seen as an increase.
        providers = dict.fromkeys((_OTHER, *(provider for _, provider in (*deliveries, *replies, *repeats))))
        return {
            "sentinel_build_info": {(self._version,): 1},
            "sentinel_lines_total": self._lines(now),
            "sentinel_events_total": _counted(EVENTS, status.totals("events", now)),
            "sentinel_deliveries_total": _counted(itertools.product(STATUSES, providers), deliveries),
            "sentinel_remote_replies_total": _counted(itertools.product(CLASSES, providers), replies),
            "sentinel_remote_reply_repeats_total": _counted(itertools.product(CLASSES, providers), repeats),
            "sentinel_detections_total": _counted(status.rules, now.detections),
            "sentinel_active_detections": _counted(rules, _keyed(now.counters.get("active", {}))),
            "sentinel_account_score": scores,
            "sentinel_series_dropped_total": {(): dropped},
            "sentinel_actions_total": _counted(itertools.product(ACTIONS, RESULTS), now.actions),
            "sentinel_breaker_open": {(): float(now.breaker)},
            "sentinel_notices_total": _counted(itertools.product(self._status.targets, NOTICE_RESULTS), now.notices),
            "sentinel_locked_accounts": {(): len(now.locked)},
            "sentinel_source_lag_bytes": self._by_source(now.lag),
            "sentinel_last_event_timestamp_seconds": self._by_source(now.last_event),
            "sentinel_rotations_total": self._by_source(now.rotations),
            "sentinel_checkpoint_age_seconds": {(): max(0.0, time.time() - checkpoint)},
            "sentinel_open_messages": {(): now.counters.get("open_messages", 0)},
            "sentinel_window_keys": _counted(rules, _keyed(now.counters.get("window_keys", {}))),
            "sentinel_evictions_total": _counted(((table,) for table in TABLES), _keyed(status.totals("evictions", now))),
            "sentinel_late_lines_total": {(): status.number("late", now)},
            "sentinel_unattributed_deliveries_total": {(): status.number("unattributed", now)},
            "sentinel_clock_set_back_total": {(): status.number("clock_set_back", now)},
        }

    def _by_source(self, values: Mapping[str, float]) -> _Samples:
        return _counted(((source,) for source in self._status.sources), _keyed(values))

    def _lines(self, now: Snapshot) -> _Samples:
        lines = {
            (source, outcome): number
            for source, outcomes in self._status.totals("lines", now).items()
            for outcome, number in outcomes.items()
        }
        for source, number in now.overlong.items():
            lines[source, "unparsed"] = lines.get((source, "unparsed"), 0) + number
        return _counted(itertools.product(self._status.sources, OUTCOMES), lines)

    def _highest(self, scores: Mapping[str, float]) -> tuple[_Samples, int]:
        """The highest scores, and how many accounts have been left out so far.

        An account counts when it is left out and was not at the scrape before. Two names that are the same once they
        are cut to a label's length would be one series: the higher score has it, the other name is left out.
        """
        kept: dict[Labels, float] = {}
        left_out = set(scores)
        for name, score in heapq.nlargest(self._max_account_series, scores.items(), key=lambda item: (item[1], item[0])):
            label = (_label(name),)
            if label not in kept:
                kept[label] = score
                left_out.discard(name)
        with self._lock:
            self._dropped += len(left_out - self._dropped_names)
            self._dropped_names = frozenset(left_out)
            return kept, self._dropped

    def _histogram(self, spec: Spec) -> "Metric":
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        with self._lock:
            counts, seconds = list(self._buckets), self._seconds
        bounds = [*map(floatToGoString, DECISION_BUCKETS_SECONDS), "+Inf"]
        buckets = list(zip(bounds, itertools.accumulate(counts), strict=True))
        return HistogramMetricFamily(spec.name, spec.help, buckets=buckets, sum_value=seconds)


class _Collector:
    """What the registry asks. Without ``describe``, so that registering collects nothing."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable["Metric"]:
        return self._metrics.collect()


def _family(spec: Spec, samples: _Samples) -> "Metric":
    from prometheus_client.core import Metric

    # The client adds the suffix by itself in the format that wants it.
    name = spec.name.removesuffix("_total").removesuffix("_info")
    suffix = spec.name[len(name) :]
    metric = Metric(name, spec.help, spec.type)
    for labels, value in samples.items():
        metric.add_sample(name + suffix, dict(zip(spec.labels, labels, strict=True)), value)
    return metric


def _keyed(values: Mapping[str, float]) -> dict[Labels, float]:
    return {(name,): value for name, value in values.items()}


def _counted(known: Iterable[Labels], values: Mapping[Any, float]) -> _Samples:
    """Values by their labels as they are exported; known ones that have none are 0. Unknown (``""``) is "other"."""
    out: dict[Labels, float] = dict.fromkeys((tuple(map(_label, labels)) for labels in known), 0)
    for labels, value in values.items():
        exported = tuple(map(_label, labels))
        out[exported] = out.get(exported, 0) + value
    return out


def _label(value: str) -> str:
    """A text as a label value: cut, never empty, and always UTF-8. The encoder escapes quotes and line ends."""
    clean = value[:_MAX_LABEL_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    # Whoever looks at /metrics in a terminal must not run what an attacker logged in as.
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in clean) or _OTHER
