"""`python -m tests.faults.table`: writes what the last runs measured into docs/explanation/faults.md.

A fault that was not run keeps its line, the line of a test that is no more goes, and a test without a result is named.
"""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from tests.support.faults.results import Measured, read, results_file

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "explanation" / "faults.md"
NOT_YET = "not measured yet"
_MEASURES = re.compile(r"\.survives\(|\bbroken\(")  # the second begins with the first
_TABLE = re.compile(r"(?<=\|---\|\n)(?:\|.*\n)+")
_LINE = re.compile(r"^\| (?P<fault>.+?) \|.*\| `(?P<test>test_\w+\.py::test_\w+)` \|$", re.MULTILINE)


def measuring() -> set[str]:
    """The tests that measure a fault themselves, as `test_redis.py::test_full`."""
    return {
        f"{path.name}::{name}"
        for path in HERE.glob("test_*.py")
        for name, text in _tests(path)
        if _MEASURES.search(text)
    }


def every() -> set[str]:
    """All tests of this folder."""
    return {f"{path.name}::{name}" for path in HERE.glob("test_*.py") for name, _ in _tests(path)}


def _tests(path: Path) -> Iterable[tuple[str, str]]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.name, ast.unparse(node)


def filled(page: str, results: Iterable[Measured]) -> str:
    """The page with these results in its table, in the order of the tests."""
    lines = {line["fault"]: (line["test"], line[0]) for line in _LINE.finditer(page) if line["fault"] != NOT_YET}
    for each in results:
        test = each.test.removeprefix("tests/faults/")
        lines[each.fault] = (test, f"| {each.fault} | {' | '.join(each.cells())} | `{test}` |")
    for test in measuring() - {test for test, _ in lines.values()}:
        lines[test] = (test, f"| {NOT_YET} | - | - | - | - | - | - | - | `{test}` |")
    there = every()
    kept = [line for _, (test, line) in sorted(lines.items(), key=lambda item: (item[1][0], item[0])) if test in there]
    return _TABLE.sub("\n".join([*kept, ""]), page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), found := read()), encoding="utf-8")
    print(f"{len(found)} results in {results_file()}, of `make faults`")  # noqa: T201
