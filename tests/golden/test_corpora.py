"""Other projects' test suites of log lines, where they lie beside the checkout: kinds and fields as they expect them."""

import pytest
from corpora import CORPORA, all_of, percent, table

ENOUGH = 99.5
"""Percent of lines and of fields."""


def test_kinds_and_fields_of_the_corpora(shared, capsys):
    folder = shared / "corpora"
    results = all_of(folder) if folder.is_dir() else []
    if not results:
        pytest.skip(f"no corpora in {folder}")
    with capsys.disabled():
        print("\n" + table(results))
    assert {one.corpus for one in results} <= set(CORPORA)
    assert percent(sum(one.right for one in results), sum(one.judged for one in results)) >= ENOUGH
    assert percent(sum(one.equal for one in results), sum(one.fields for one in results)) >= ENOUGH
    # What is not counted is the exception.
    assert sum(one.judged for one in results) >= 0.9 * sum(one.lines for one in results)
