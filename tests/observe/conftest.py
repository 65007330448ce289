"""One running server a test."""

from collections.abc import Iterator

import pytest
from served import Site


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    with site.server:
        yield site
