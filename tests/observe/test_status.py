"""What is published is what is read, whatever the publisher does afterwards."""

from collections import Counter
from dataclasses import FrozenInstanceError

import pytest

from sentinel.observe import status as module
from sentinel.observe.status import Snapshot, Status


def new_status() -> Status:
    return Status(sources=["-"], rules=[], detections=lambda limit: [], locks=list)


def test_a_snapshot_does_not_change_with_what_it_was_made_of() -> None:
    lag, actions, locked = {"-": 1}, Counter({("lock", "done"): 1}), ["a"]
    snapshot = Snapshot(lag=lag, actions=actions, locked=locked)
    lag["-"] = 2
    actions["lock", "done"] += 1
    locked.append("b")
    assert (dict(snapshot.lag), dict(snapshot.actions), snapshot.locked) == ({"-": 1}, {("lock", "done"): 1}, ("a",))
    with pytest.raises(TypeError):
        snapshot.lag["-"] = 3  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        snapshot.ready = True  # type: ignore[misc]


def test_readiness_from_start_to_death(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    status = new_status()
    assert status.alive() == (True, "ok")
    assert status.readiness() == (False, "starting: the logs have not been opened yet")
    status.publish(Snapshot(ready=False, reason="catching up: 5 MB of - to read"))
    assert status.readiness() == (False, "catching up: 5 MB of - to read")
    status.publish(Snapshot(ready=True, reason=""))
    assert status.readiness() == (True, "ready")
    now += module.HEARTBEAT_SECONDS - 1
    assert status.readiness() == (True, "ready")
    status.beat()
    now += module.HEARTBEAT_SECONDS + 13
    assert status.alive()[0] is False
    assert "73 seconds" in status.alive()[1]
    assert status.readiness() == status.alive()
    status.publish(Snapshot(ready=True))
    assert status.readiness() == (True, "ready")


def test_totals_from_a_baseline_never_fall_below_0() -> None:
    status = new_status()
    status.count_from({"lines": {"-": {"event": 10}}, "late": 3})
    snapshot = Snapshot(counters={"lines": {"-": {"event": 12, "ignored": 1}, "b": {"event": 4}}, "late": 1})
    assert status.totals("lines", snapshot) == {"-": {"event": 2, "ignored": 1}, "b": {"event": 4}}
    assert status.number("late", snapshot) == 0
    assert status.totals("replies", snapshot) == {}
