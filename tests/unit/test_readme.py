"""README and docs say what the program does: settings, commands, endpoints, metrics, files."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console as Terminal

from dispatcher.cli import COMMANDS
from dispatcher.demo.screen import show_result
from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import judge
from dispatcher.service.console_routes import ConsoleState
from dispatcher.service.http import build_http as service_site
from dispatcher.settings import Settings, describe
from dispatcher.telemetry.latency import LatencyHistogram
from dispatcher.telemetry.metrics import Metrics
from tests.support.readme import OPERATIONS, README, ROOT, blocks, section, table

DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def configuration_table() -> str:
    """What README has to hold, from the table of settings."""
    lines = ["| Variable | Flag | Default | What it is |", "|---|---|---|---|"]
    for row in describe():
        env, default = (f"`{text}`" if text and " " not in text else text for text in (row.env, row.default))
        lines.append(f"| {env} | `{row.flag}` | {default} | {row.help} |")
    return "\n".join(re.sub(" +", " ", line) for line in lines)


def test_the_configuration_table_is_the_table_of_settings() -> None:
    assert configuration_table() in README, f"put this into README.md under Configuration:\n{configuration_table()}"


def test_every_command_is_described() -> None:
    assert [row[0] for row in table("Commands")] == [f"`dispatcher {name}`" for name in COMMANDS]


def never(*anything: object) -> Any:
    raise AssertionError("nothing is asked")


def test_every_endpoint_is_described() -> None:
    settings = Settings(database_url="postgresql:///app", redis_url="redis://localhost")
    build_http = service_site(
        settings,
        readiness=lambda: None,
        registry=CollectorRegistry(),
        ask=never,
        retried=never,
        observe=never,
        rooms=ConsoleState(settings, LatencyHistogram("x", "x").snapshot).routes,
    )
    served = {
        f"`{route.method} {route.resource.canonical}`"
        for route in build_http.router.routes()
        if route.resource is not None and route.method != "HEAD" and "/console/" not in route.resource.canonical
    }
    assert {row[0] for row in table("HTTP")} == served


def test_every_metric_is_described() -> None:
    exported = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}
    described = {name for row in table("Metrics", OPERATIONS) for name in re.findall(r"`(messaging_\w+)", row[0])}
    assert described == exported


def test_every_log_event_is_described() -> None:
    source = (ROOT / "dispatcher" / "telemetry" / "logs.py").read_text(encoding="utf-8")
    written = set(re.findall(r'\bwrite\(\s*"[A-Z]+", "(\w+)"', source))
    for what in re.findall(r'_write_change\("(\w+)"', source):
        written |= {f"{what}_up", f"{what}_down"}
    described = {name for row in table("Log events", OPERATIONS) for name in re.findall(r"`(\w+)`", row[0])}
    assert described == written


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    broken = [
        target
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
        if not target.startswith("https://") and not (document.parent / target).exists()
    ]
    assert not broken


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_files_and_tests_that_are_named_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = []
    for name in re.findall(r"(?<![\w/.-])((?:dispatcher|sql|triggers|tests|bench|docs)/[\w./-]+\.\w+(?:::\w+)?)", text):
        path, _, test = name.partition("::")
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(name)
    assert set(missing) <= {"sql/insert_outbox.sql"}, "a file that is not there (that one is Dispatchbox's)"


def test_the_sections_of_a_first_visit_are_there() -> None:
    wanted = ("Try it", "Use your own Postgres and Redis", "Insert an event", "Read and acknowledge", "Not yet")
    assert all(section(heading).strip() for heading in wanted)


def test_who_visits_tries_it_before_anything_is_looked_up() -> None:
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings[0] == "Try it"
    assert headings[-3:] == ["Configuration", "Not yet", "More"]


def test_the_result_that_is_shown_is_the_one_that_the_demo_prints() -> None:
    tally = Tally()
    tally.add_committed([(1_000, b"a")])
    tally.add_received([(2_000, [b"a"])])
    shown = io.StringIO()
    show_result(Terminal(file=shown, width=100), tally, 1, judge(tally, sent=1, exit_code=0), rate=200)
    [result] = blocks("Try it", "")
    assert _labels(result) == _labels(shown.getvalue())
    assert len(_labels(result)) > 5


def _labels(printed: str) -> list[str]:
    return re.findall(r"^│ (.+?) +│", printed, re.MULTILINE)
