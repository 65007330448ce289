"""Logs that real servers wrote while an account was abused: the thief's account and no other reaches the total at which policy locks."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
from helpers import make_engine, open_recording

from sentinel.detect.detection import Detection

THIEF = "wang@corp.example"
LOCK_AT = 10
RECIPIENTS_LET_THROUGH = 250
INCIDENTS = (
    "incident-A-postlogd",
    "incident-B-traditional",
    "incident-B-rfc5424",
    "incident-C-warn-postlogd",
    "incident-D-reject-postlogd",
    "incident-E-filter-traditional",
)


class Replay:
    """A recording read line by line: detections, totals of accounts, and recipients of the thief's mail before the decision."""

    def __init__(self, log: bytes) -> None:
        self.found: list[Detection] = []
        self.scores: dict[str, dict[str, float]] = defaultdict(dict)
        self.recipients = 0
        self.messages: set[str] = set()
        """Handed in by the thief, not yet queued."""
        engine = make_engine(year=2026)
        lines = log.splitlines(keepends=True)
        # In blocks until something is seen of the thief, then line by line until the decision.
        at = 0
        near = False
        while at < len(lines):
            near = near or any(THIEF.encode() in line for line in lines[at : at + 500])
            size = 1 if near and not self.decided else 500
            step = engine.feed(b"".join(lines[at : at + size]))
            at += size
            if not self.decided:
                self._count(step.events)
            for one in step.detections:
                account = one.subject.get("sasl_username")
                if account is not None:
                    self.scores[account][one.rule] = one.score
            self.found += step.detections

    def _count(self, events) -> None:
        """Recipients of messages that the thief handed in: not of a retry, nor of the same message behind the content filter."""
        for i in range(len(events)):
            row = events.row(i)
            if row.get("sasl_username") != THIEF:
                continue
            if row["kind"] == "accepted" and "linked_queue_id" not in row:
                self.messages.add(row.get("queue_id", ""))
            elif row["kind"] == "queued" and row["queue_id"] in self.messages:
                self.messages.discard(row["queue_id"])
                self.recipients += row["nrcpt"]

    @property
    def totals(self) -> dict[str, float]:
        return {account: sum(scores.values()) for account, scores in self.scores.items()}

    @property
    def decided(self) -> bool:
        return self.totals.get(THIEF, 0) >= LOCK_AT


@pytest.fixture(scope="module")
def replay(shared):
    done: dict[str, Replay] = {}

    def of(name: str) -> Replay:
        path = shared / "lab" / "recordings" / f"{name}.log.xz"
        if not path.exists():
            pytest.skip(f"no recording {path.name}")
        if name not in done:
            done[name] = Replay(open_recording(path))
        return done[name]

    return of


@pytest.mark.parametrize("name", INCIDENTS)
def test_the_thief_and_nobody_else_would_be_locked(replay, name):
    totals = replay(name).totals
    assert [account for account, total in totals.items() if total >= LOCK_AT] == [THIEF]
    # Nor is anybody near it.
    assert {account: total for account, total in totals.items() if account != THIEF and total > LOCK_AT / 2} == {}


@pytest.mark.parametrize("name", INCIDENTS)
def test_few_recipients_are_let_through_before_the_decision(replay, name):
    one = replay(name)
    assert one.decided
    assert one.recipients <= RECIPIENTS_LET_THROUGH


def test_both_formats_of_one_run_say_the_same(replay):
    traditional, rfc5424 = (
        {(one.rule, tuple(sorted(one.subject.items()))) for one in replay(name).found}
        for name in ("incident-B-traditional", "incident-B-rfc5424")
    )
    assert traditional == rfc5424
    assert len(traditional) > 5


def test_quiet_recordings_name_nobody(replay):
    for name in (
        "extra-postlogd",
        "injection-postlogd",
        "reply-matrix-postlogd",
        "session-lock-postlogd",
        "sql-maria-postlogd",
    ):
        assert max(replay(name).totals.values(), default=0) < LOCK_AT, name


OURS = sorted((Path(__file__).resolve().parents[1] / "data").glob("recording-*.log.xz"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name.removesuffix(".log.xz"))
def test_our_own_part_of_a_recording(path):
    one = Replay(open_recording(path))
    found = [
        {
            "rule": each.rule,
            "subject": each.subject,
            "time": each.to_dict()["time"],
            "value": each.value,
            "threshold": each.threshold,
        }
        for each in one.found
    ]
    assert found == json.loads(path.with_name(path.name.replace(".log.xz", ".json")).read_text())
    assert [account for account, total in one.totals.items() if total >= LOCK_AT] == [THIEF]
    assert one.recipients <= RECIPIENTS_LET_THROUGH


def test_we_have_recordings_of_our_own():
    assert [path.name for path in OURS] == [
        "recording-account.log.xz",
        "recording-filter.log.xz",
        "recording-refused.log.xz",
        "recording-rfc5424.log.xz",
    ]
    assert sum(path.stat().st_size for path in OURS) < 300_000
