"""`python -m bench all`: every scenario for the record, each in a process of its own, and one report of them all.

A scenario that fails, or is not back in time, is noted, and the next one runs. The report is written after each, so
that an interrupted run leaves what it had.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.report import STEM, body

GRACE_S = 30.0


@dataclass(frozen=True, slots=True)
class Step:
    """A scenario as it is run for the record: its options, for how many minutes at most, and the quick variant."""

    scenario: str
    options: Sequence[str]
    quick: Sequence[str]
    minutes: float = 10.0


STEPS = (
    Step("counters", (), ()),
    Step("idle", (), ("--seconds", "6")),
    Step("latency", ("--seconds", "12"), ("--seconds", "2", "--warm-up", "1")),
    Step("realtime", (), ("--sockets", "100", "--rooms", "10", "--seconds", "3", "--warm-up", "1")),
    Step("sla", ("--find-max",), ("--seconds", "5", "--warm-up", "1")),
    Step("drain", (), ("--rows", "20000", "--rounds", "1")),
    Step("ceiling", (), ("--rows", "20000", "--rounds", "1")),
    Step("writers", ("--time", "4"), ("--time", "1", "--rounds", "1")),
    Step("snapshot", (), ("--rows", "20000", "--rounds", "1")),
    Step("growth", (), ("--settled", "1000", "--settled", "10000", "--claims", "20"), 15.0),
    Step("outage", (), ("--away", "3", "--after", "5")),
    Step("crash", (), ("--seconds", "6")),
    Step("cluster", (), ("--before", "3", "--away", "3", "--after", "3")),
    Step("shards", (), ("--rows", "10000", "--rounds", "1"), 15.0),
    Step("flood", (), ("--seconds", "2", "--warm-up", "1")),
    Step("scale", (), ("--rows", "20000", "--rounds", "1")),
    Step("order", (), ("--rows", "10000", "--seconds", "2", "--rounds", "1"), 20.0),
    Step("techniques", (), ("--rows", "10000", "--rounds", "1")),
    Step("peers", (), ("--rows", "2000", "--seconds", "3", "--rounds", "1"), 20.0),
    Step("soak", ("--minutes", "5"), ("--minutes", "0.2"), 30.0),
)


@click.command("all")
@click.option("--only", multiple=True, help="Run this scenario. May be given several times.  [default: all of them]")
@click.option("--skip", multiple=True, help="Leave this scenario out. May be given several times.")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes: to see that everything works, not to measure.")
@click.option("--database-url", help="Passed on to every scenario that takes it.")
@click.option("--redis-url", help="Passed on to every scenario that takes it.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A setting of the dispatcher, passed on.")
@click.option(
    "--reports",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "reports",
    help="Where the folder of this run goes.  [default: bench/reports]",
)
def run_all(
    only: tuple[str, ...],
    skip: tuple[str, ...],
    quick: bool,
    database_url: str | None,
    redis_url: str | None,
    settings: tuple[str, ...],
    reports: Path,
) -> None:
    """Every scenario, and one report: for the record, on a quiet machine."""
    if unknown := {*only, *skip} - {step.scenario for step in STEPS}:
        raise click.UsageError(f"no such scenario: {', '.join(sorted(unknown))}")
    folder = reports / f"all-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder.mkdir(parents=True)
    shared = [
        *(["--database-url", database_url] if database_url else []),
        *(["--redis-url", redis_url] if redis_url else []),
        *(item for setting in settings for item in ("--set", setting)),
    ]
    console = Console(stderr=True, highlight=False)
    outcomes: dict[str, str] = {}
    steps = [step for step in STEPS if (not only or step.scenario in only) and step.scenario not in skip]
    for number, step in enumerate(steps, 1):
        console.rule(f"{number}/{len(steps)}  {step.scenario}", align="left")
        began = time.monotonic()
        options = [*(step.quick if quick else step.options), *(shared if step.scenario != "counters" else [])]
        outcome = _run(step, options, folder)
        outcomes[step.scenario] = f"{outcome}, {time.monotonic() - began:.0f} s"
        combine(folder, outcomes, quick=quick)
    console.print(f"\nReport: {folder / 'README.md'}, {folder / 'report.json'}", soft_wrap=True)
    sys.exit(0 if all(outcome.startswith("met") for outcome in outcomes.values()) else 1)


def _run(step: Step, options: Sequence[str], folder: Path) -> str:
    """One scenario to its end, or to the end of its time. Returns what became of it."""
    command = [sys.executable, "-m", "bench", step.scenario, *options, "--reports", str(folder)]
    child = subprocess.Popen(command, env=os.environ | {STEM: step.scenario})
    try:
        code = child.wait(step.minutes * 60)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        if child.poll() is None:
            child.terminate()  # it stops what it started
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    if code is None:
        return f"not back after {step.minutes:g} minutes"
    if not (folder / f"{step.scenario}.json").exists():
        return f"failed with exit code {code}"
    return "met" if code == 0 else "a target was missed"


def combine(folder: Path, outcomes: Mapping[str, str], *, quick: bool = False) -> None:
    """Write report.json and README.md from the scenarios' own."""
    scenarios: dict[str, Any] = {}
    for name in outcomes:
        file = folder / f"{name}.json"
        if file.exists():
            scenarios[name] = json.loads(file.read_text(encoding="utf-8"))
    saved = {"quick": quick, "outcomes": dict(outcomes), "scenarios": scenarios}
    (folder / "report.json").write_text(json.dumps(saved, indent=1), encoding="utf-8")
    (folder / "README.md").write_text("\n".join(_markdown(saved)), encoding="utf-8")


def _markdown(saved: Mapping[str, Any]) -> list[str]:
    lines = ["# Benchmarks", "", *machine(saved), "", "| scenario | outcome |", "|---|---|"]
    lines += [f"| {name} | {outcome} |" for name, outcome in saved["outcomes"].items()]
    for name, scenario in saved["scenarios"].items():
        lines += ["", f"## {name}", "", *body(scenario)]
        lines += [f"\n![{chart['title']}]({name}-{chart['name']}.png)" for chart in scenario["charts"]]
    return [*lines, ""]


def machine(saved: Mapping[str, Any]) -> list[str]:
    """What it was measured on, as lines of Markdown; from the first scenario that came to its end."""
    for scenario in saved["scenarios"].values():
        found = scenario["environment"]
        parts = ("at", "commit", "cpu", "cores", "memory", "kernel", "python", "postgres", "valkey or redis")
        return [f"- {part}: {found[part]}" for part in parts if part in found]
    return ["- nothing came to its end"]
