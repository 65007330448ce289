"""Scores, limits and incidents of the policy; the sum against a plain oracle."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel.config import PolicySettings
from sentinel.detect.detection import Detection
from sentinel.respond.policy import Decision, Policy, Standing, protecting_pattern
from sentinel.state import account_key

NOW = 1_700_000_000.0
FREE = Standing()


def detection(id_: str, account: str = "wang@corp.example", rule: str = "burst", score: float = 10.0, age: float = 0) -> Detection:
    return Detection(
        id=id_, rule=rule, severity="critical", score=score, time=int((NOW - age) * 1e6),
        subject={"sasl_username": account},
        window=60.0, measure="count", value=1.0, threshold=1.0,
    )  # fmt: skip


def enforcing(**changes: object) -> Policy:
    return Policy(PolicySettings(mode="enforce").model_copy(update=changes))


def decide(policy: Policy, one: Detection, standing: Standing = FREE, now: float = NOW) -> Decision | None:
    return policy.consider(one, now=now, standing=standing)


def test_scores_of_rules_add_up_and_each_counts_once() -> None:
    policy = enforcing()
    assert decide(policy, detection("a", rule="many-senders", score=4, age=300)) is None
    assert decide(policy, detection("b", rule="many-senders", score=5, age=200)) is None
    assert decide(policy, detection("c", rule="many-senders", score=3, age=100)) is None
    decision = decide(policy, detection("d", rule="remote-block", score=6.5))
    assert decision is not None
    assert (decision.action, decision.total, decision.detections) == ("lock", 11.5, ("d", "b"))
    assert decision.why == "wang@corp.example has 11.5 of 10 points: remote-block (6.5), many-senders (5)"


def test_only_an_account_can_be_locked() -> None:
    by_ip = detection("a", score=99)._replace(subject={"client_ip": "203.0.113.66"})
    policy = enforcing()
    assert decide(policy, by_ip) is None
    assert policy.scores(by_ip.time) == {}


def test_memory_span_is_open_at_its_beginning() -> None:
    policy = enforcing(memory=3600.0)
    decide(policy, detection("old", rule="r1", score=6, age=3600))
    assert decide(policy, detection("new", rule="r2", score=6)) is None
    policy = enforcing(memory=3600.0)
    decide(policy, detection("old", rule="r1", score=6, age=3599.999))
    assert decide(policy, detection("new", rule="r2", score=6)) is not None


def test_letter_case_is_one_account_and_similar_letters_are_not() -> None:
    policy = enforcing()
    decide(policy, detection("a", "Info@Example.com", "r1", 6))
    assert decide(policy, detection("b", "info@example.com", "r2", 6)) is not None
    assert account_key("\u212aim@x") != account_key("kim@x")
    assert account_key("stra\u00dfe@x") != account_key("strasse@x")


def test_decision_id_depends_on_account_and_detections_alone() -> None:
    first = decide(enforcing(), detection("a"))
    again = decide(enforcing(), detection("a"), now=NOW + 5)
    other = decide(enforcing(), detection("a", "liu@corp.example"))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.id == again.id != other.id


@pytest.mark.parametrize("pattern", ["wang@corp.example", "WANG@corp.example", "*@corp.example", "w?ng@*"])
def test_protected_is_refused(pattern: str) -> None:
    decision = decide(enforcing(protected=(pattern,)), detection("a"))
    assert decision is not None
    assert decision.refused == f"protected: matches {pattern}"
    later = enforcing().consider(detection("a"), now=NOW, standing=FREE, protected=[pattern])
    assert later is not None
    assert later.kind == "protected"


def test_pattern_brackets_of_a_plain_name_are_that_name() -> None:
    assert protecting_pattern("[a]@x", ["[a]@x"]) == "[a]@x"


def test_evidence_that_a_wrong_clock_dated_into_the_future_does_not_hide_that_of_the_present() -> None:
    policy = enforcing()
    wrong = decide(policy, detection("future", score=20, age=-30 * 86_400))
    assert wrong is not None
    assert wrong.kind == "stale"
    before = Standing(previous="stale", previous_event_time=wrong.event_time)
    right = decide(policy, detection("now"), before)
    assert right is not None
    assert (right.kind, right.detections, right.total) == ("lock", ("now",), 10)


@pytest.mark.parametrize(("age", "kind"), [(3600, "lock"), (3601, "stale"), (30 * 365 * 86400, "stale"), (-3600, "lock"), (-3601, "stale")])
def test_evidence_must_be_of_now(age: int, kind: str) -> None:
    decision = decide(enforcing(), detection("a", age=age))
    assert decision is not None
    assert decision.kind == kind


def test_old_points_count_beside_fresh_evidence() -> None:
    policy = enforcing()
    decide(policy, detection("a", rule="r1", score=6, age=7200))
    decision = decide(policy, detection("b", rule="r2", score=6))
    assert decision is not None
    assert decision.kind == "lock"


@pytest.mark.parametrize(("hour", "day", "kind"), [(9, 29, "lock"), (10, 10, "cap"), (0, 30, "cap")])
def test_caps(hour: int, day: int, kind: str) -> None:
    decision = decide(enforcing(), detection("a"), Standing(locks_last_hour=hour, locks_last_day=day))
    assert decision is not None
    assert decision.kind == kind


def test_locked_account_is_not_locked_again() -> None:
    assert decide(enforcing(), detection("a"), Standing(locked=True)) is None


def test_after_unlock_only_later_detections_count() -> None:
    policy = enforcing()
    released = Standing(released_at=NOW - 50)
    assert decide(policy, detection("a", rule="r1", score=10, age=100), released) is None
    assert decide(policy, detection("b", rule="r2", score=6, age=20), released) is None
    decision = decide(policy, detection("c", rule="r3", score=6), released)
    assert decision is not None
    assert decision.detections == ("b", "c")


@pytest.mark.parametrize(
    ("previous", "kind"),
    [
        ("stale", "lock"),
        ("cap", "lock"),
        ("protected", "lock"),
        ("simulated", "lock"),
        ("failed", "lock"),
        ("account", None),
        ("lock", None),
    ],
)
def test_one_decision_an_incident_gives_way_to_a_heavier_one(previous: str, kind: str | None) -> None:
    standing = Standing(previous=previous, previous_event_time=int((NOW - 60) * 1e6))
    decision = decide(enforcing(), detection("a"), standing)
    assert (decision.kind if decision else None) == kind


def test_simulated_once_in_a_memory_span() -> None:
    policy = Policy(PolicySettings())
    first = decide(policy, detection("a", age=600))
    assert first is not None
    assert (first.action, first.simulated, first.kind) == ("observe", True, "simulated")
    recent = Standing(previous="simulated", previous_event_time=first.event_time, locks_last_hour=99)
    assert decide(policy, detection("b")) is not None
    assert decide(policy, detection("c"), recent) is None
    long_ago = Standing(previous="simulated", previous_event_time=int((NOW - 86_401) * 1e6))
    assert decide(policy, detection("d"), long_ago) is not None


def test_notify_tells_of_protected_accounts_too() -> None:
    decision = decide(Policy(PolicySettings(mode="notify", protected=("*",))), detection("a"))
    assert decision is not None
    assert (decision.action, decision.refused, decision.simulated) == ("notify", None, False)


def test_terminal_escapes_in_a_name_are_harmless() -> None:
    decision = decide(enforcing(), detection("a", "x\x1b[2J\u202e@y\n"))
    assert decision is not None
    assert decision.why.startswith("x?[2J?@y? has")


def test_memory_is_bounded() -> None:
    policy = Policy(PolicySettings(), max_accounts=100)
    for number in range(1000):
        policy.remember(detection(f"d{number}", f"user{number}@x", age=1000 - number))
    assert len(policy.scores(int(NOW * 1e6))) <= 100
    assert policy.evicted >= 900
    assert policy.total("user999@x") == 10
    for number in range(1000):
        policy.remember(detection(f"e{number}", "one@x", score=number % 7, age=1000 - number))
    assert sum(len(points) for points in policy._accounts["one@x"].rules.values()) <= 7


def test_fewest_points_are_dropped_first() -> None:
    policy = Policy(PolicySettings(), max_accounts=10)
    policy.remember(detection("a", "culprit@x", score=8, age=1000))
    for number in range(100):
        policy.remember(detection(f"d{number}", f"guess{number}@x", score=1))
    assert policy.total("culprit@x") == 8


def test_one_line_of_the_future_makes_nobody_forgotten() -> None:
    policy = enforcing()
    decide(policy, detection("a", "wang@x", "r1", 6))
    decide(policy, detection("b", "liu@x", "r1", 6, age=-300 * 86400))
    decision = decide(policy, detection("c", "wang@x", "r2", 6))
    assert decision is not None
    assert decision.kind == "lock"


def test_score_nought_neither_counts_nor_decides() -> None:
    policy = enforcing()
    decide(policy, detection("a"))
    assert decide(policy, detection("b", rule="info", score=0)) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a@x", "A@x", "b@x"]),
        st.sampled_from(["r1", "r2", "r3"]),
        st.sampled_from([0.0, 0.1, 0.2, 2.5, 5.0, 7.0, 10.0]),
        st.integers(0, 400),
    ),
    max_size=40,
)


@given(STEPS, st.integers(1, 300))
def test_total_equals_the_plain_sum(steps: list[tuple[str, str, float, int]], memory: int) -> None:
    policy = enforcing(memory=float(memory), max_evidence_age=1e9)
    seen: list[Detection] = []
    for number, (account, rule, score, age) in enumerate(steps):
        one = detection(f"d{number}", account, rule, score, age)
        seen.append(one)
        decision = decide(policy, one)
        mine = [d for d in seen if d.score and d.subject["sasl_username"].lower() == account.lower()]
        newest = max((d.time for d in mine), default=0)
        best: dict[str, float] = {}
        for d in mine:
            if newest - memory * 1_000_000 < d.time:
                best[d.rule] = max(best.get(d.rule, 0.0), d.score)
        assert policy.total(account) == math.fsum(best.values())
        assert (decision is not None) == (score > 0 and math.fsum(best.values()) >= 10)
        if decision is not None:
            by_id = {d.id: d for d in mine}
            assert math.fsum(by_id[id_].score for id_ in decision.detections) == decision.total


# modes by rule and by account


MODES = ["observe", "notify", "enforce"]


def kinds(policy: Policy, *scores: tuple[str, float], account: str = "wang@corp.example") -> list[str | None]:
    """What is decided at each of these (rule, score) in turn."""
    decided = [decide(policy, detection(f"d{n}", account, rule, score)) for n, (rule, score) in enumerate(scores)]
    return [decision.kind if decision else None for decision in decided]


def test_points_of_an_observed_rule_never_lock() -> None:
    policy = enforcing(rules={"noisy": "observe"})
    assert kinds(policy, ("noisy", 10)) == ["simulated"]
    decision = decide(policy, detection("x", rule="sure", score=10))
    assert decision is not None
    assert (decision.kind, decision.total, decision.detections) == ("lock", 10, ("x",))


def test_a_lock_takes_the_points_of_rules_that_may_lock() -> None:
    policy = enforcing(rules={"noisy": "notify"})
    assert kinds(policy, ("noisy", 6), ("sure", 6)) == [None, "notify"]
    assert kinds(policy, ("surer", 6)) == ["lock"]


def test_one_rule_alone_may_lock_while_all_else_is_observed() -> None:
    policy = enforcing(mode="observe", rules={"sure": "enforce"})
    assert kinds(policy, ("other", 10)) == ["simulated"]
    assert kinds(policy, ("sure", 10)) == ["lock"]


@pytest.mark.parametrize(
    ("accounts", "kind"),
    [
        ({"*@corp.example": "observe"}, "simulated"),
        ({"WANG@*": "notify", "*": "enforce"}, "notify"),
        ({"liu@*": "observe"}, "lock"),
        ({"*": "enforce", "wang@*": "observe"}, "lock"),
    ],
)
def test_the_first_pattern_that_fits_an_account_counts(accounts: dict[str, str], kind: str) -> None:
    assert kinds(enforcing(accounts=accounts), ("burst", 10)) == [kind]


def test_some_accounts_may_be_locked_while_the_others_are_observed() -> None:
    policy = enforcing(mode="observe", accounts={"student*": "enforce"})
    assert kinds(policy, ("burst", 10), account="student1@corp.example") == ["lock"]
    assert kinds(policy, ("burst", 10), account="dean@corp.example") == ["simulated"]


@given(st.sampled_from(MODES), st.sampled_from([None, *MODES]), st.sampled_from([None, *MODES]))
def test_what_is_named_replaces_the_mode_and_the_more_careful_one_counts(mode: str, rule: str | None, account: str | None) -> None:
    policy = enforcing(mode=mode, rules={"burst": rule} if rule else {}, accounts={"wang@*": account} if account else {})
    named = [each for each in (rule, account) if each]
    wanted = min(named, key=MODES.index) if named else mode
    assert kinds(policy, ("burst", 10)) == [{"observe": "simulated", "notify": "notify", "enforce": "lock"}[wanted]]


# networks, unlocks by hand, the breaker


def from_addresses(id_: str, *addresses: str, rule: str = "burst", score: float = 10.0) -> Detection:
    return detection(id_, rule=rule, score=score)._replace(related={"client_ips": list(addresses)})


@pytest.mark.parametrize(
    ("addresses", "kind"),
    [
        (["192.0.2.7"], "protected"),
        (["192.0.2.7", "192.0.2.9", "2001:db8::1"], "protected"),
        (["::ffff:192.0.2.7"], "protected"),
        (["192.0.2.7", "203.0.113.66"], "lock"),
        (["nonsense"], "lock"),
        ([], "lock"),
    ],
)
def test_mail_from_protected_networks_alone(addresses: list[str], kind: str) -> None:
    decision = decide(enforcing(protected_networks=("192.0.2.0/24", "2001:db8::/32")), from_addresses("a", *addresses))
    assert decision is not None
    assert decision.kind == kind
    by_hand = enforcing().consider(
        from_addresses("a", *addresses), now=NOW, standing=FREE, protected=["192.0.2.0/24", "2001:db8::/32", "none@x"]
    )
    assert by_hand is not None
    assert by_hand.kind == kind


def test_points_that_tell_no_address_are_not_protected_by_others() -> None:
    policy = enforcing(protected_networks=("192.0.2.0/24",))
    assert decide(policy, from_addresses("a", "192.0.2.7", rule="r1", score=6)) is None
    decision = decide(policy, from_addresses("b", rule="r2", score=6))
    assert decision is not None
    assert decision.kind == "lock"


@pytest.mark.parametrize(("ago", "kind"), [(0, "released"), (3599, "released"), (3600, "lock")])
def test_an_account_unlocked_by_hand_is_left_alone_for_a_while(ago: float, kind: str) -> None:
    standing = Standing(released_at=NOW - ago - 1, released_by_hand_at=NOW - ago)
    decision = decide(enforcing(), detection("a"), standing)
    assert decision is not None
    assert decision.kind == kind
    at_once = decide(enforcing(respect_unlock=0.0), detection("a"), standing)
    assert at_once is not None
    assert at_once.kind == "lock"


@pytest.mark.parametrize(
    ("others", "active", "trips"),
    [
        (9, None, False),
        (10, None, True),
        (10, 1000, True),
        (3, 10, False),
        (4, 10, True),
        (4, 25, False),
        (4, 24, True),
        (4, 0, False),
    ],
)
def test_too_many_culprits_at_once_open_the_breaker(others: int, active: int | None, trips: bool) -> None:
    decision = enforcing(max_locks_per_hour=1000).consider(detection("a"), now=NOW, standing=Standing(others_lately=others), active=active)
    assert decision is not None
    assert (decision.kind, decision.trips is not None) == (("breaker", True) if trips else ("lock", False))


def test_an_open_breaker_refuses_and_does_not_open_again() -> None:
    decision = decide(enforcing(), detection("a"), Standing(others_lately=100, breaker="11 accounts"))
    assert decision is not None
    assert (decision.refused, decision.trips) == ("breaker: 11 accounts", None)


def test_who_is_protected_does_not_trip_the_breaker() -> None:
    decision = decide(enforcing(protected=("wang@*",)), detection("a"), Standing(others_lately=100))
    assert decision is not None
    assert (decision.kind, decision.trips) == ("protected", None)
