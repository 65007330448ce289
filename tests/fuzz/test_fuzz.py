"""The fuzzer's targets for a second or two, always the same way, on the ordinary build. ``make fuzz`` is the long run."""

import random

import pytest
from checks import TARGETS
from mutations import mutate, seed_lines


@pytest.mark.parametrize(("target", "times"), [("scan", 800), ("engine", 250), ("oracle", 800)])
def test_what_must_hold_for_any_bytes(target, times):
    rng = random.Random(20261122)
    lines = seed_lines()
    pool = list(lines)
    for _ in range(times):
        data = mutate(rng, rng.choice(pool), lines)
        TARGETS[target](data)
        if rng.random() < 0.1 and len(data) < 2000:
            pool.append(data)


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed(target):
    lines = seed_lines()
    for line in lines:
        TARGETS[target](line)
    TARGETS[target](b"\n".join(lines))
    TARGETS[target](b"")
