"""The compiled windows against the oracle: random rules over random events, some of them late, in random company."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from helpers import make_engine, rules_from
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import windows as oracle

START = datetime(2026, 10, 24, tzinfo=UTC)
KEYS = ("192.0.2.1", "192.0.2.2", "2001:db8::3")
ITEMS = ("ann", "bob", "bad-1", "bad-2")


@st.composite
def specs(draw):
    measure = draw(st.sampled_from(("count", "sum", "distinct", "ratio")))
    threshold = draw(
        st.sampled_from((0.25, 0.5, 1.0)) if measure == "ratio" else st.integers(1, 12) if measure != "distinct" else st.integers(1, 4)
    )
    return oracle.Rule(
        measure=measure,
        window=draw(st.sampled_from((1, 10, 30, 60, 100, 600))),
        threshold=threshold,
        release=threshold * draw(st.sampled_from((0.2, 0.5, 1.0))),
        cooldown=draw(st.sampled_from((1, 10, 20, 60, 300))),
        at_least=draw(st.integers(1, 4)) if measure == "ratio" else 1,
        then=measure != "sum" and draw(st.integers(0, 3)) == 0,
    )


# seconds since the event before (late ones are negative), key, item, size, whether it is the event that a rule waits for
steps = st.tuples(
    st.sampled_from((0, 0, 0, 1, 1, 2, 5, 10, 11, 30, 59, 60, 61, 100, 601, -1, -5, -30, -59, -60, -61, -100)),
    st.sampled_from(KEYS),
    st.sampled_from(ITEMS),
    st.sampled_from((0, 1, 2, 5, 2**30, 2**31, 2**40)),
    st.integers(0, 4).map(lambda n: n == 0),
)


def yaml(rule: oracle.Rule) -> str:
    measure = {"sum": "sum(size)", "distinct": "distinct(sasl_username)"}.get(rule.measure, rule.measure)
    lines = [
        "name: r",
        "description: x",
        "severity: info",
        "score: 0",
        f"on: {'queued' if rule.measure == 'sum' else 'auth_failed'}",
        f"by: {'sender' if rule.measure == 'sum' else 'client_ip'}",
        f"measure: {measure}",
        f"window: {rule.window}",
        f"threshold: {rule.threshold}",
        f"release: {rule.release}",
        f"cooldown: {rule.cooldown}",
    ]
    if rule.measure == "ratio":
        lines += ["of: {sasl_username: bad-*}", f"at_least: {rule.at_least}"]
    if rule.then:
        lines += ["then: {on: accepted, where: {sasl_username: present}}"]
    return "rules:\n  - " + "\n    ".join(lines) + "\n"


def line(rule: oracle.Rule, number: int, time: float, key: str, item: str, size: int, follows: bool) -> bytes:
    stamp = (START + timedelta(seconds=time)).isoformat().replace("+00:00", "Z")
    if follows:
        text = f"smtpd[1]: {number:010X}: client=unknown[{key}], sasl_method=PLAIN, sasl_username=x"
    elif rule.measure == "sum":
        text = f"qmgr[1]: {number:010X}: from=<{key}>, size={size}, nrcpt=1 (queue active)"
    else:
        text = f"smtpd[1]: warning: unknown[{key}]: SASL PLAIN authentication failed: no, sasl_username={item}"
    daemon, _, text = text.partition(": ")
    times = folded(size)
    return f"{stamp} mx postfix/{daemon}: {text if times == 1 else f'message repeated {times} times: [ {text}]'}\n".encode()


def folded(size: int) -> int:
    """How often syslog says that an event of this size happened."""
    return 3 if size == 5 else 1


@settings(max_examples=settings().max_examples * 8)
@given(specs(), st.lists(steps, max_size=60), st.booleans())
@example(
    # Ratios rise when other events leave: whoever looks on must not end an episode.
    oracle.Rule("ratio", 100, 0.5, 0.5, 1),
    [
        (d, KEYS[0], "bad-1" if bad else "ann", 0, False)
        for d, bad in ((1, 0), (10, 0), (30, 1), (30, 1), (1, 0), (30, 0), (30, 1), (60, 0), (30, 1), (1, 0), (10, 0))
    ],
    True,
)
@example(
    # Weights that are merged in one second and do not fit into 32 bits.
    oracle.Rule("sum", 10, 1000, 500, 1),
    [
        (0, KEYS[0], "ann", 1_000_000_000, False),
        (0, KEYS[0], "ann", 2_000_000_000, False),
        (300, KEYS[0], "ann", 1, False),
        (1, KEYS[0], "ann", 2000, False),
    ],
    True,
)
def test_windows(rule, events, looked_at):
    expected, observed = [], []
    model = oracle.Windows(rule)
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(rules_from(Path(folder), yaml(rule)))
    time = 0.0
    latest = 0.0
    for number, (step, key, item, size, follows) in enumerate(events):
        time = latest + step if step < 0 else time + step
        latest = max(latest, time)
        follows = follows and rule.measure != "sum"
        for found in engine.feed(line(rule, number, time, key, item, size, follows)).detections:
            (subject,) = found.subject.values()
            observed.append((number, subject, found.value, found.time))
        if looked_at:
            engine.counters()
        if not model.arrives(time):
            continue
        # A message's size beyond 32 bits counts as the largest number that has them.
        weight = min(size * (folded(size) if rule.measure == "sum" else 1), 2**31 - 1)
        value = (
            (model.follow(key) if rule.then else None)
            if follows
            else model.count(key, time, weight, item, item.startswith("bad-"), 1 if rule.measure == "sum" else folded(size))
        )
        if value is not None:
            moment = int((START + timedelta(seconds=model.now)).timestamp()) * 1_000_000
            observed_value = round(value, 6)
            expected.append((number, key, observed_value, moment))
    assert observed == expected
    assert engine.counters()["late"] == model.late
