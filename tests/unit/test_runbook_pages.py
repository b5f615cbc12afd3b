"""Each finding leads to a page of the runbook: one table, and each page is there."""

import ast
import tomllib
from pathlib import Path
from typing import get_args

from dispatcher.core.findings.runbook import BASE, CHECKS, PAGES, page_of
from dispatcher.core.process_state import TroubleKind

ROOT = Path(__file__).parents[2]
CALLS = {"ok", "warning", "bad", "unknown", "Finding"}


def calls(folder: str) -> list[ast.Call]:
    files = (ROOT / "dispatcher" / folder).rglob("*.py")
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return [each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Call)]


def test_each_page_is_there():
    pages = {page for page in (*PAGES.values(), *CHECKS.values(), page_of("try-claim")) if page}
    assert {page for page in pages if not (ROOT / "docs" / "runbook" / f"{page}.md").is_file()} == set()


def test_each_check_of_doctor_and_each_kind_of_trouble_is_in_the_table():
    made = [each for each in calls("ops/doctor") if isinstance(each.func, ast.Name) and each.func.id in CALLS]
    names = [str(each.args[0].value) for each in made if each.args and isinstance(each.args[0], ast.Constant)]
    assert len(names) > 50
    assert {name for name in names if not name.startswith("try-")} <= set(CHECKS)
    assert set(get_args(TroubleKind)) <= set(PAGES)


def test_the_pages_are_where_the_project_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"{project['urls']['Repository']}/blob/main/docs/runbook/" == BASE
