"""``sentinel/maillog/COVERAGE.md`` names a test for every template; here: that the tests exist, and that no row is without one."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = HERE.parents[1] / "sentinel" / "maillog" / "COVERAGE.md"


def table_rows() -> list[list[str]]:
    """The cells of every row of every table, without heads."""
    lines = [line.strip() for line in TABLE.read_text(encoding="utf-8").splitlines()]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in rows if row[0] != "template"]


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_template_has_a_test():
    rows = table_rows()
    assert len(rows) > 40
    assert [row for row in rows if len(row) != 3 or not re.search(r"`test_\w+\.py::test_\w+`", row[2])] == []


def test_every_test_that_is_named_exists():
    named = {(file, name) for row in table_rows() for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])}
    known = {file: functions_of(HERE / file) for file in {file for file, _ in named} if (HERE / file).exists()}
    assert sorted((file, name) for file, name in named if name not in known.get(file, ())) == []
