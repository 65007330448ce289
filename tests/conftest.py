"""Fixtures that every room's tests share."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.register_profile("thorough", max_examples=3000, deadline=None, suppress_health_check=_SLOW_IS_FINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def shared_folder() -> Path | None:
    """Recordings and reference material: the folder that SENTINEL_SHARED names, or ``shared`` beside the checkout."""
    named = os.environ.get("SENTINEL_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("no folder with shared recordings: set SENTINEL_SHARED, or put it beside the checkout as ../shared")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def poll() -> Callable[..., object]:
    """``poll(condition, seconds=10)``: asks again and again until the condition holds; its value, or a failure when the time is up."""

    def until(condition: Callable[[], object], seconds: float = 10.0) -> object:
        deadline = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                pytest.fail(f"did not come true within {seconds:g} s: {getattr(condition, '__name__', condition)}")
            time.sleep(0.01)

    return until
