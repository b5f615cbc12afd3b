"""`python -m tests.proofs`: writes docs/explanation/proofs.md, the tests of each promise of guarantees.md.

A test names the promises it proves with `@pytest.mark.promise("one-entry")`. guarantees.md has a list item for each
promise, which ends in a link to its section of the page.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.readme import ROOT

EXPLANATION = ROOT / "docs" / "explanation"
PAGE = EXPLANATION / "proofs.md"
_PROMISE = re.compile(r"^- ((?:(?!^- ).)+?)\s\[proofs\]\(proofs\.md#([\w-]+)\)$", re.MULTILINE | re.DOTALL)
_HEAD = """# Proofs

The tests of each promise of [guarantees.md](guarantees.md). Each of them fails when its promise is broken.
`make test` runs them all, but of `tests/faults` only the quick ones; `make faults` runs those. To run one test:
`.venv/bin/pytest tests/unit/test_merge.py::test_counts_are_added_and_never_fall`.

This page is written by `python -m tests.proofs`: do not edit it.
"""


def promises() -> dict[str, str]:
    """The promises of guarantees.md: name to text, in the order of the page."""
    text = (EXPLANATION / "guarantees.md").read_text(encoding="utf-8")
    return {name: " ".join(promise.split()) for promise, name in _PROMISE.findall(text)}


def proofs() -> dict[str, list[str]]:
    """Names of promises to the tests that are marked with them, as `path::test`."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for test, name in _marked(path):
            found.setdefault(name, []).append(f"{path.relative_to(ROOT)}::{test}")
    return found


def _marked(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.promise":
                    yield from ((node.name, ast.literal_eval(name)) for name in decorator.args)


def page() -> str:
    """The whole page."""
    tests = proofs()
    sections = [
        "\n".join([f"## {name}", "", text, "", *(f"- `{test}`" for test in tests.get(name, []))])
        for name, text in promises().items()
    ]
    return "\n".join([_HEAD, "\n\n".join(sections), ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
