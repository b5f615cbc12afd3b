"""The pages of the reference are what the code says now, and the runbook is complete."""

import ast
import logging
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from prometheus_client import CollectorRegistry

from dispatcher.core import errors
from dispatcher.infra.postgres.lazy import LazySession
from dispatcher.service.http import Http
from dispatcher.settings import Settings
from dispatcher.telemetry.latency import LatencyHistogram
from dispatcher.telemetry.loguru_setup import FromLibraries
from dispatcher.telemetry.state import StateTracker
from tests.reference_pages import MISSING, PAGES, PART, PARTS, generated
from tests.support.readme import ROOT, page, table

RUNBOOK = ROOT / "docs" / "runbook"


@pytest.fixture(autouse=True)
def restore_log() -> Iterator[None]:
    """The table of log events is made by writing each of them."""
    yield
    logger.remove()
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, FromLibraries)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_page_is_what_the_code_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert generated(text) == text, f"{path.name} is stale: run `make reference`"
    assert MISSING not in text, f"{path.name}: say what the new row means, in its last column"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=lambda path: path.stem)
def test_no_text_is_taken_for_a_tag(path: Path) -> None:
    """`<stream>` in a sentence is a tag to a browser, and nothing is shown."""
    text = path.read_text(encoding="utf-8")
    shown = re.sub(r"^ *```.*?^ *```$|<!--.*?-->|`+[^`]+`+", "", text, flags=re.MULTILINE | re.DOTALL)
    tags = set(re.findall(r"<(?!https?:|/|br>|details|summary|figure|img|svg|div|span|kbd)[a-zA-Z][^>\n]*>", shown))
    assert not tags


def test_every_part_is_on_a_page() -> None:
    assert {name for path in PAGES for _, name, _, _ in PART.findall(path.read_text(encoding="utf-8"))} == set(PARTS)


def test_what_a_person_wrote_is_kept_and_a_new_row_is_seen() -> None:
    text = page("reference/log-events.md")
    without = re.sub(r"^\| `breaker_opened` .*\n", "", text, flags=re.MULTILINE)
    assert without != text
    again = generated(without)
    assert again.count(MISSING) == 1
    assert [line for line in again.splitlines() if MISSING not in line] == without.splitlines()


def never(*anything: object) -> Any:
    raise AssertionError("nothing is asked")


def test_every_endpoint_is_described() -> None:
    settings = Settings(database_url="postgresql:///app", redis_url="redis://localhost")
    http = Http(
        settings,
        readiness=lambda: None,
        metrics_registry=CollectorRegistry(),
        api=LazySession(never, prepare=never),
        retried=never,
        observe=never,
        state=StateTracker(LatencyHistogram("x", "x").snapshot).read,
    )
    served = {
        f"{route.method} {route.resource.canonical}"
        for route in http.main.router.routes()
        if route.resource is not None and route.method != "HEAD" and "/console/" not in route.resource.canonical
    }
    text = page("reference/http.md")
    described = {row[0].strip("`") for row in table("HTTP", text)} - {"GET /api/..."}
    assert described | set(re.findall(r"^### (\w+ /.*)$", text, re.MULTILINE)) == served


def test_exit_codes() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type)]
    assert {str(each.exit_code) for each in kinds if hasattr(each, "exit_code")} | {"0", "130", "143"} == {
        row[0] for row in table("Exit codes", page("reference/commands.md"))
    }


def test_versions_of_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=")
    supported = {
        row[0]: row[1] for row in table("Versions", page("reference/support.md")) if row[0].startswith("Python")
    }
    assert supported[f"Python before {oldest}"] == "no"
    assert next(iter(supported)).startswith(f"Python {oldest}, ")


def test_what_the_console_says() -> None:
    sidecar = ROOT / "dispatcher" / "sidecar"
    core = ROOT / "dispatcher" / "core"
    sources = [
        core / "findings" / "troubles.py",
        *(core / "findings").glob("*needs.py"),
        sidecar / "diagnosis.py",
        *(sidecar / "console").glob("*.js"),
    ]
    said = " ".join(path.read_text(encoding="utf-8") for path in sources).casefold()
    rows = [cell for row in table("Console", page("runbook/console.md")) for cell in row[0].split(", ")]
    assert len(rows) > 5
    assert [row for row in rows if row.casefold() not in said] == []


def test_what_a_consumer_says() -> None:
    """Each line of its log is a row of the table, and no other."""
    names = (
        "lease_keeper",
        "ordered_reader",
        "patience",
        "group_reader",
        "reader",
        "tailing",
        "entry_taker",
        "function_routes",
    )
    files = [ROOT / "dispatcher" / "client" / f"{name}.py" for name in names]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    calls = [each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Call)]
    lines = [ast.literal_eval(each.args[0]) for each in calls if ast.unparse(each.func).startswith("log.")]
    assert len(lines) > 5
    plain = [re.sub(r"%[\d.]*\w", "#", line) for line in lines]
    rows = [row[0].strip("`") for row in table("Consumers", page("runbook/consumers.md"))]
    for row in (re.sub(r"\.\.\.|ConnectionError|[\d.]+(?=[ ,])", "#", row) for row in rows):
        assert len([line for line in plain if line.startswith(row)]) == 1, row
    assert len(rows) == len(lines)


def test_the_index_of_the_runbook_leads_to_every_page() -> None:
    named = set(re.findall(r"\]\(([\w-]+\.md)", page("runbook/index.md")))
    assert named == {path.name for path in RUNBOOK.glob("*.md")} - {"index.md"}
