"""What happens where a test cannot have what it needs: it is skipped and says why, or fails where SENTINEL_TESTS_NEED_SERVERS=1 asks for it."""

import os

import pytest


def need(available: bool, what: str) -> None:
    """Returns when it is available; ``what`` says what is missing, and how to get it."""
    if available:
        return
    if os.environ.get("SENTINEL_TESTS_NEED_SERVERS") == "1":
        pytest.fail(f"SENTINEL_TESTS_NEED_SERVERS=1, and {what}")
    pytest.skip(what)
