"""README and docs say what the program does: settings, commands, endpoints, metrics, files."""

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dispatcher.cli import COMMANDS
from dispatcher.service.console import Console
from dispatcher.service.site import site as service_site
from dispatcher.settings import Settings, describe
from dispatcher.telemetry.latency import LatencyHistogram
from dispatcher.telemetry.metrics import Metrics
from tests.readme import OPERATIONS, README, ROOT, section, table

DOCS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


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
    site = service_site(
        settings,
        readiness=lambda: None,
        registry=CollectorRegistry(),
        ask=never,
        retried=never,
        observe=never,
        rooms=Console(settings, LatencyHistogram("x", "x").snapshot).routes,
    )
    served = {
        f"`{route.method} {route.resource.canonical}`"
        for route in site.router.routes()
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
    for name in re.findall(r"`((?:dispatcher|sql|triggers|tests|bench|docs)/[\w./-]+\.\w+(?:::\w+)?)`", text):
        path, _, test = name.partition("::")
        file = ROOT / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(name)
    assert not missing


def test_the_sections_of_a_first_visit_are_there() -> None:
    wanted = ("Try it", "Use your own Postgres and Redis", "Insert an event", "Read and acknowledge", "Not yet")
    assert all(section(heading).strip() for heading in wanted)
