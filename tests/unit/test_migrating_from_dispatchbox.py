"""docs/how-to/migrate-from-dispatchbox.md names what there was, and what there is."""

import re
from pathlib import Path

import pytest

from dispatcher.cli import cli
from tests.support.readme import ROOT, page, section, table

GUIDE = page("how-to/migrate-from-dispatchbox.md")
OLD_FLAGS = {
    "--dsn", "--processes", "--batch-size", "--poll-interval", "--log-level", "--http-host", "--http-port",
    "--disable-http",
}  # fmt: skip
OLD_CONSTANTS = {"max_attempts", "retry_backoff_seconds", "connect_timeout", "query_timeout", "max_parallel"}
OLD_ENDPOINTS = {
    "GET /health", "GET /ready", "GET /metrics", "GET /api/dead-events", "GET /api/dead-events/stats",
    "GET /api/dead-events/<event_id>", "POST /api/dead-events/<event_id>/retry", "POST /api/dead-events/retry-batch",
}  # fmt: skip


def column(heading: str, number: int) -> set[str]:
    """What stands in backquotes in a column of the tables under a heading."""
    return {name for row in table(heading, GUIDE) for name in re.findall(r"`([^`]+)`", row[number])}


def test_everything_of_dispatchbox_is_named() -> None:
    assert column("The command", 0) >= OLD_FLAGS | OLD_CONSTANTS
    assert column("HTTP", 0) == OLD_ENDPOINTS
    assert column("Rows and statuses", 0) >= {
        "pending",
        "retry",
        "processing",
        "done",
        "dead",
        "attempts",
        "created_at",
    }


def test_the_lists_are_those_of_its_readme() -> None:
    seed = Path(ROOT).parent / "shared" / "seeds" / "dispatchbox-readme.md"
    if not seed.exists():
        pytest.skip("Dispatchbox's README is not beside this checkout")
    text = seed.read_text(encoding="utf-8")
    assert set(re.findall(r"^- `(--[\w-]+)`", text, re.MULTILINE)) == OLD_FLAGS
    constants = set(re.findall(r"^- `(\w+)`", section("Configuration defaults", text), re.MULTILINE))
    assert constants - {"http_host", "http_port"} == OLD_CONSTANTS
    assert set(re.findall(r"^- \*\*`([A-Z]+ /[^`]+)`\*\*", text, re.MULTILINE)) == OLD_ENDPOINTS


def test_every_flag_that_is_named_is_one_of_run() -> None:
    run = cli.get_command(None, "run")  # type: ignore[arg-type]
    assert run is not None
    known = {name for option in run.params for name in option.opts}
    named = set(re.findall(r"(?<!\w)--[a-z][\w-]+", section("The command", GUIDE) + section("Handlers", GUIDE)))
    assert named <= known


def test_every_endpoint_that_is_named_is_served() -> None:
    reference = page("reference/http.md")
    served = {re.sub(r"^`|`$", "", row[0]) for row in table("HTTP", reference)}
    served |= set(re.findall(r"^### ((?:GET|POST) \S+)$", reference, re.MULTILINE))
    assert column("HTTP", 1) - {"payload=1"} <= served
