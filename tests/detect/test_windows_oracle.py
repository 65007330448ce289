"""The compiled windows against the oracle: random rules over random events, some of them late, in random company."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from helpers import make_engine, rules_from
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import windows as oracle

from sentinel.detect.engine import Engine
from sentinel.detect.rules import RuleSet

START = datetime(2026, 10, 24, tzinfo=UTC)
KEYS = ("192.0.2.1", "192.0.2.2", "2001:db8::3")
ITEMS = ("ann", "bob", "bad-1", "bad-2")


@st.composite
def specs(draw):
    measure = draw(st.sampled_from(("count", "sum", "distinct", "ratio", "share")))
    of_some = measure in ("ratio", "share")
    threshold = draw(st.sampled_from((0.25, 0.5, 1.0)) if of_some else st.integers(1, 12) if measure != "distinct" else st.integers(1, 4))
    return oracle.Rule(
        measure=measure,
        window=draw(st.sampled_from((1, 10, 30, 60, 100, 600))),
        threshold=threshold,
        release=threshold * draw(st.sampled_from((0.2, 0.5, 1.0))),
        cooldown=draw(st.sampled_from((1, 10, 20, 60, 300))),
        at_least=draw(st.integers(1, 4)) if of_some else 1,
        hits=draw(st.integers(1, 3)) if of_some and draw(st.booleans()) else 0,
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


# where a run of lines comes that are very late, and how many they are: from the thousandth on the clock was set back
set_backs = st.none() | st.none() | st.tuples(st.integers(0, 30), st.sampled_from((999, 1000)))
SET_BACK_BY = 5000
# where the engine is stopped, and another one goes on from its snapshot
stops = st.none() | st.integers(0, 40)


def runs(events: st.SearchStrategy) -> st.SearchStrategy:
    """Long ones too, which lists seldom are."""
    return st.sampled_from((0, 12, 24)).flatmap(lambda n: st.lists(events, min_size=n, max_size=n + 16))


def yaml(rule: oracle.Rule, **more: str) -> str:
    measure = {"sum": "sum(size)", "distinct": "distinct(sasl_username)", "share": "share(sasl_username)"}.get(rule.measure, rule.measure)
    keys = {
        "name": "r",
        "description": "x",
        "severity": "info",
        "score": "0",
        "on": "queued" if rule.measure == "sum" else "auth_failed",
        "by": "sender" if rule.measure == "sum" else "client_ip",
        "measure": measure,
        "window": rule.window,
        "threshold": rule.threshold,
        "release": rule.release,
        "cooldown": rule.cooldown,
    }
    if rule.measure in ("ratio", "share"):
        keys |= {"of": "{sasl_username: bad-*}" if rule.measure == "ratio" else "{reply: worse}", "at_least": rule.at_least}
        keys |= {"hits": rule.hits} if rule.hits else {}
    if rule.then:
        keys["then"] = "{on: accepted, where: {sasl_username: present}}"
    return "rules:\n  - " + "\n    ".join(f"{key}: {value}" for key, value in (keys | more).items()) + "\n"


def rules_of(text: str) -> RuleSet:
    with tempfile.TemporaryDirectory() as folder:
        return rules_from(Path(folder), text)


def restored(engine: Engine, rules: RuleSet) -> Engine:
    other = make_engine(rules)
    assert other.restore(engine.snapshot())
    return other


def stamp(time: float) -> str:
    return (START + timedelta(seconds=time)).isoformat().replace("+00:00", "Z")


def moment(time: float) -> int:
    return int((START + timedelta(seconds=time)).timestamp()) * 1_000_000


def line(rule: oracle.Rule, number: int, time: float, key: str, item: str, size: int, follows: bool) -> bytes:
    if follows:
        text = f"smtpd[1]: {number:010X}: client=unknown[{key}], sasl_method=PLAIN, sasl_username=x"
    elif rule.measure == "sum":
        text = f"qmgr[1]: {number:010X}: from=<{key}>, size={size}, nrcpt=1 (queue active)"
    else:
        reply = "worse" if is_hit(rule, item, size) else "no"
        text = f"smtpd[1]: warning: unknown[{key}]: SASL PLAIN authentication failed: {reply}, sasl_username={item}"
    daemon, _, text = text.partition(": ")
    times = folded(size)
    return f"{stamp(time)} mx postfix/{daemon}: {text if times == 1 else f'message repeated {times} times: [ {text}]'}\n".encode()


def is_hit(rule: oracle.Rule, item: str, size: int) -> bool:
    """Of a ratio by the item; of a share any item may be one now and none later."""
    return size % 2 == 1 if rule.measure == "share" else item.startswith("bad-")


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
    engine = make_engine(rules_of(yaml(rule)))
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
            else model.count(key, time, weight, item, is_hit(rule, item, size), 1 if rule.measure == "sum" else folded(size))
        )
        if value is not None:
            expected.append((number, key, round(value, 6), moment(model.now)))
    assert observed == expected
    assert engine.counters()["late"] == model.late


# --- episodes that last until an event with their key


@settings(max_examples=settings().max_examples * 6)
@given(specs().filter(lambda rule: rule.measure != "sum" and not rule.then), runs(steps), st.booleans(), set_backs, stops, st.booleans())
def test_episodes_until_an_event_of_their_key(rule, events, counted, set_back, stop, looked_at):
    """A message under a login ends them, whether it counts itself or not, once the measure has fallen."""
    rule.until_key = True
    on = "[auth_failed, accepted]" if counted else "auth_failed"
    rules = rules_of(yaml(rule, on=on, until="{name: over, on: accepted}"))
    model, engine = oracle.Windows(rule), make_engine(rules)
    expected, observed = [], []
    time = 0.0
    for place, (step, key, item, size, follows) in enumerate(events):
        lines = 1
        if set_back and set_back[0] == place:
            step, lines = -SET_BACK_BY, set_back[1]
        if stop == place:
            engine = restored(engine, rules)
        time = (model.now if step < 0 and place else time) + step
        found = engine.feed(line(rule, place, time, key, item, size, follows) * lines).detections
        observed += [(place, one.rule, one.subject, one.value, one.time) for one in found]
        if looked_at:
            engine.counters()
            engine.lasting()
        for _ in range(lines):
            if not model.arrives(time):
                continue
            now, subject = moment(model.now), {"client_ip": key}
            item_, hit = ("x", False) if follows else (item, is_hit(rule, item, size))
            value = model.count(key, time, 1, item_, hit, folded(size)) if counted or not follows else None
            if value is not None:
                expected.append((place, "r", subject, round(value, 6), now))
            began = model.over(key) if follows else None
            if began is not None:
                expected.append((place, "over", subject, model.now - began, now))
    assert observed == expected
    under_way = {name: key for name, key in model.keys.items() if key.active}
    assert sorted((one.since, one.subject["client_ip"]) for one in engine.lasting()) == sorted(
        (moment(key.fired), name) for name, key in under_way.items()
    )
    assert engine.counters()["active"] == {"r": len(under_way)}


# --- silent windows


@settings(max_examples=settings().max_examples * 3)
@given(
    st.sampled_from((1, 10, 60, 100, 600)),
    st.sampled_from(("count", "distinct")),
    st.integers(1, 6),
    runs(steps),
    set_backs,
    stops,
    st.booleans(),
)
def test_rankings(window, measure, threshold, events, set_back, stop, looked_at):
    """Of the logins: events, and those from one of two addresses. A rule that fires asks for it as of its own row."""
    rule = oracle.Rule(measure, 30, threshold, threshold, 1)
    model, silent = oracle.Windows(rule), oracle.Windows(oracle.Rule("ratio", window, float("inf"), float("inf"), 1))
    attribution = f'{{by: sasl_username, on: auth_failed, of: {{client_ip: "192.0.2.*"}}, window: {window}}}'
    rules = rules_of(yaml(rule, attribution=attribution))
    engine = make_engine(rules)

    def told(ranking: list[tuple[bytes, int, int]]) -> list[tuple[str, int, int]]:
        return sorted((key.decode(), total, hits) for key, total, hits in ranking)

    def ranking() -> list[tuple[str, int, int]]:
        return told(engine._core.windows.ranking(len(rules)))

    time = 0.0
    for number, (step, key, item, size, _) in enumerate(events):
        lines = 1
        if set_back and set_back[0] == number:
            step, lines = -SET_BACK_BY, set_back[1]
        if stop == number:
            engine = restored(engine, rules)
        time = (silent.now if step < 0 and number else time) + step
        with mock.patch("sentinel.detect.engine.earned", return_value=[]) as earned:
            engine.feed(line(rule, number, time, key, item, size, False) * lines)
        expected = []
        for _ in range(lines):
            if all([model.arrives(time), silent.arrives(time)]):
                silent.count(item, time, 1, "", key.startswith("192.0.2."), folded(size))
                if model.count(key, time, 1, item, False, folded(size)) is not None:
                    expected.append(silent.ranking())
        assert [told(call.args[0]) for call in earned.call_args_list] == expected
        if looked_at:
            assert ranking() == silent.ranking()
    assert ranking() == silent.ranking()
    assert (engine.counters()["late"], engine.counters()["clock_set_back"]) == (silent.late, silent.set_back)


# --- episodes that last until mail passes

PROVIDERS = {
    "mx1.example.net": "example.net",
    "mx2.example.net": "example.net",
    "mx.example.org": "example.org",
    "mta5.am0.yahoodns.net": "yahoo",
}
# "quoted": refused in the words of a provider, whoever says them
OUTCOMES = ("refused", "quoted", "sent", "unanswered")
REFUSED = OUTCOMES[:2]


class Delivery(NamedTuple):
    """Lines of one outcome, each about another address."""

    step: int
    """Seconds since the ones before; negative: late."""
    server: str
    host: str
    outcome: str
    number: int
    """Of the first address."""
    mark: str
    addresses: int = 1
    times: int = 1
    """How often syslog says that each happened."""

    @property
    def answerer(self) -> oracle.Answerer | None:
        return None if self.outcome == "unanswered" else (self.server, PROVIDERS[self.host])

    @property
    def provider(self) -> str | None:
        """As a key has it: a provider's words from another one's host stay apart from its own."""
        host = self.answerer[1] if self.answerer else None
        return f"yahoo, told by {host}" if self.outcome == "quoted" and host != "yahoo" else host

    def line(self, time: float, number: int) -> bytes:
        relay, host = "none", f"{self.host}[192.0.2.1]"
        if self.outcome == "sent":
            relay, end = f"{host}:25", "sent (250 2.0.0 Ok)"
        elif self.outcome == "refused":
            blocked = f"554 5.7.1 Service unavailable; Client host [{ip(number)}] blocked using bl.spamcop.net"
            end = f"deferred (host {host} refused to talk to me: {blocked})"
        elif self.outcome == "quoted":
            blocked = f"421 4.7.1 [TS03] All messages from {ip(number)} will be permanently deferred; Retrying will NOT succeed."
            end = f"deferred (host {host} refused to talk to me: {blocked})"
        else:
            end = f"deferred (connect to {host}:25: Connection timed out)"
        text = f"4A00000001: to=<{recipient(number)}>, relay={relay}, delay=1, delays=0/0/1/0, dsn={self.mark}, status={end}"
        if self.times > 1:
            text = f"message repeated {self.times} times: [ {text}]"
        return f"{stamp(time)} {self.server} postfix/smtp[1]: {text}\n".encode()


class Lasting(NamedTuple):
    """A rule with "until", and which deliveries it concerns."""

    rule: oracle.Rule
    by: tuple[str, ...]
    counted: tuple[str, ...]
    """Outcomes."""
    ending: tuple[str, ...]

    def yaml(self) -> str:
        conditions = {
            REFUSED: ", where: {reply_class: ip_blocked}",
            (*REFUSED, "unanswered"): ", where: {status: deferred}",
            ("sent",): ", where: {status: sent}",
            OUTCOMES: "",
        }
        more = {
            "on": "delivery" + conditions[self.counted].replace(", ", "\n    "),
            "by": f"[{', '.join(self.by)}]",
            "until": f"{{name: over, on: delivery{conditions[self.ending]}{f', quiet: {self.rule.quiet:g}' if self.rule.quiet else ''}}}",
        }
        if self.rule.measure == "distinct":
            more["measure"] = "distinct(dsn)"
        if self.rule.measure == "ratio":
            more["of"] = "{dsn: 4.7.1}"
        return yaml(self.rule, **more)

    def key(self, delivery: Delivery, number: int) -> str | None:
        """None for what has no key."""
        fields = {
            "recipient": recipient(number),
            "host": delivery.server,
            "provider": delivery.provider,
            "blocked_ip": ip(number) if delivery.outcome in REFUSED else "",
        }
        texts = [fields[name] for name in self.by]
        return None if None in texts else "\0".join(str(text) for text in texts)

    def subject(self, key: str) -> dict[str, str]:
        return {name: text.partition(", told by ")[0] for name, text in zip(self.by, key.split("\0"), strict=True) if text}


def recipient(number: int) -> str:
    return f"a{number}@x.example"


def ip(number: int) -> str:
    return f"198.51.100.{number}"


@st.composite
def lasting(draw):
    measure = draw(st.sampled_from(("count", "count", "distinct", "ratio")))
    threshold = draw(st.sampled_from((0.25, 0.5, 1.0)) if measure == "ratio" else st.integers(1, 3))
    rule = oracle.Rule(
        measure=measure,
        window=draw(st.sampled_from((1, 10, 60, 600))),
        threshold=threshold,
        release=threshold * draw(st.sampled_from((0.5, 1.0))),
        cooldown=draw(st.sampled_from((1, 10, 60, 600))),
        at_least=draw(st.integers(1, 3)) if measure == "ratio" else 1,
        until=True,
        quiet=draw(st.sampled_from((0, 1, 10, 60, 300))),
    )
    return Lasting(
        rule,
        by=draw(st.sampled_from((("recipient",), ("host", "provider", "blocked_ip")))),
        counted=draw(st.sampled_from((REFUSED, REFUSED, (*REFUSED, "unanswered"), OUTCOMES))),
        ending=draw(st.sampled_from((("sent",), ("sent",), OUTCOMES))),
    )


deliveries = st.builds(
    Delivery,
    step=st.sampled_from((0, 0, 0, 1, 1, 5, 10, 59, 60, 61, 300, 601, 3_600, 90_000, -1, -30, -59, -60, -61, -100)),
    server=st.sampled_from(("mx1", "mx1", "mx2")),
    host=st.sampled_from(("mx1.example.net", *PROVIDERS)),
    outcome=st.sampled_from(("refused", "refused", "quoted", "sent", "sent", "sent", "unanswered")),
    number=st.integers(1, 3),
    mark=st.sampled_from(("4.7.1", "4.7.2")),
    addresses=st.sampled_from((1, 1, 1, 1, 20)),
    times=st.sampled_from((1, 1, 1, 3)),
)


def blocks(*steps: int, outcome: str = "refused", **more: int) -> list[Delivery]:
    """Deliveries of one server to one host."""
    return [Delivery(step, "mx1", "mx1.example.net", outcome, **{"number": 1, "mark": "4.7.1", **more}) for step in steps]


BLOCK = Lasting(oracle.Rule("count", 60, 1, 1, 20, until=True, quiet=10), ("host", "provider", "blocked_ip"), REFUSED, ("sent",))


@settings(max_examples=settings().max_examples * 8)
@given(lasting(), runs(deliveries), set_backs, stops, st.booleans())
# More addresses than have room: those that are left over fire when others have ended.
@example(
    BLOCK, [*blocks(0, 5, addresses=20), *blocks(10, outcome="sent"), *blocks(0, addresses=20), *blocks(10, outcome="sent")], None, 2, True
)
# After an hour those that began first make room, and may begin anew.
@example(
    BLOCK,
    [*blocks(0, addresses=20), *blocks(3599, number=30), *blocks(1, number=40), *blocks(0), *blocks(1, 10, outcome="sent")],
    None,
    2,
    True,
)
# Mail passes while it is not quiet yet, then for the first time; the next episode begins when the cooldown is over.
@example(BLOCK, [*blocks(0), *blocks(9, outcome="sent"), *blocks(1, outcome="sent"), *blocks(9, 1)], None, 1, True)
# A late refusal is seen now, and a late delivery passes now.
@example(
    BLOCK,
    [
        *(*blocks(0), *blocks(100, number=2), *blocks(-60), *blocks(65, 5, outcome="sent")),
        *(*blocks(20), *blocks(20, outcome="unanswered"), *blocks(-59, outcome="sent")),
    ],
    None,
    None,
    False,
)
# What was under way when the clock was set back is forgotten: nothing ends, and the same key fires again.
@example(BLOCK, [*blocks(0, addresses=20), *blocks(0), *blocks(20, outcome="sent")], (1, 1000), 2, True)
@example(BLOCK, [*blocks(0, addresses=20), *blocks(0), *blocks(20, outcome="sent")], (1, 999), 2, True)
def test_episodes_that_last(case, events, set_back, stop, looked_at):
    expected, observed = [], []
    model = oracle.Windows(case.rule)
    rules = rules_of(case.yaml())
    engine = make_engine(rules)
    time = 0.0
    for place, event in enumerate(events):
        step, numbers = event.step, list(range(event.number, event.number + event.addresses))
        if set_back and set_back[0] == place:
            step, numbers = -SET_BACK_BY, [event.number] * set_back[1]
        if stop == place:
            engine = restored(engine, rules)
        time = (model.now if step < 0 and place else time) + step
        found = engine.feed(b"".join(event.line(time, number) for number in numbers)).detections
        observed += [(place, one.rule, one.subject, one.value, one.time) for one in found]
        if looked_at:
            engine.counters()
            engine.lasting()
        for number in numbers:
            if not model.arrives(time):
                continue
            key, now = case.key(event, number), moment(model.now)
            if event.outcome in case.counted and key is not None:
                value = model.count(key, time, 1, event.mark, event.mark == "4.7.1", event.times, event.answerer)
                if value is not None:
                    expected.append((place, "r", case.subject(key), round(value, 6), now))
            if event.outcome in case.ending:
                expected += [
                    (place, "over", case.subject(over), model.now - began, now) for over, began in model.passes(event.answerer, time)
                ]
    assert observed == expected
    under_way = [(case.subject(name), model.keys[name]) for name in model.lasting]
    assert sorted(
        (episode.since, episode.last, sorted((field, text) for field, text in episode.subject.items() if text))
        for episode in engine.lasting()
    ) == sorted((moment(key.fired), moment(key.seen), sorted(who.items())) for who, key in under_way)
    counters = engine.counters()
    assert (counters["active"], counters["late"], counters["clock_set_back"]) == ({"r": len(under_way)}, model.late, model.set_back)
