"""The report of a run: a table on the screen; Markdown, JSON, charts in a folder. Names machine, versions, settings."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.charts import Chart, draw
from bench.environment import environment
from bench.servers import Rig

STEM = "BENCH_STEM"  # set by `bench all`: the name of the files in its folder, without the date


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and whether it was kept."""

    text: str
    met: bool


def below(name: str, found: float, wanted: float, unit: str = "") -> Target:
    """A figure that may be so much and no more."""
    return Target(f"{name} {found:,.4g}{unit}, wanted ≤ {wanted:,.4g}{unit}", found <= wanted)


def above(name: str, found: float, wanted: float, unit: str = "") -> Target:
    """A figure that must be so much at least."""
    return Target(f"{name} {found:,.4g}{unit}, wanted ≥ {wanted:,.4g}{unit}", found >= wanted)


def complete(name: str, lost: int, doubled: int) -> Target:
    """Every event once."""
    return Target(f"{name} {lost:,} lost, {doubled:,} doubled, wanted none", not lost + doubled)


@dataclass(slots=True)
class Report:
    """What a scenario found."""

    scenario: str
    options: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]  # one a line of the table, the same names in each
    targets: Sequence[Target]
    raw: Any = None  # for machines: everything measured
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    load_before: tuple[float, float, float] = field(default_factory=os.getloadavg)
    began: float = field(default_factory=monotonic)

    @property
    def met(self) -> bool:
        """Whether every target was."""
        return all(target.met for target in self.targets)

    def finish(self, rig: Rig, folder: Path) -> int:
        """Look at the machine, write the files, show the table. Returns the exit code."""
        self.environment = environment(rig.database_url, rig.redis_url, rig.dispatcher_settings) | {
            "load_average_1_5_15": self.load_before,
            "seconds": round(monotonic() - self.began),
        }
        stem = os.environ.get(STEM) or f"{self.scenario}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        folder.mkdir(parents=True, exist_ok=True)
        drawn = [
            (chart.title, path.name)
            for chart in self.charts
            if draw(chart, path := folder / f"{stem}-{chart.name}.png")
        ]
        if len(drawn) < len(self.charts):
            self.notes = [*self.notes, "No charts: matplotlib is not installed (dependency group `bench`)."]
        (folder / f"{stem}.md").write_text(self.markdown(drawn), encoding="utf-8")
        (folder / f"{stem}.json").write_text(json.dumps(self.as_dict(), indent=1), encoding="utf-8")
        on_terminal = Console().is_terminal
        self.show(Console(highlight=False, width=None if on_terminal else 170))
        print(f"\nReport: {folder / stem}.md and .json" + (f", {len(drawn)} charts" if drawn else ""))
        return 0 if self.met else 1

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "scenario": self.scenario,
            "met": self.met,
            "targets": [{"text": target.text, "met": target.met} for target in self.targets],
            "options": dict(self.options),
            "table": [dict(row) for row in self.rows],
            "notes": list(self.notes),
            "charts": [chart.as_dict() for chart in self.charts],
            "environment": self.environment,
            "raw": self.raw,
        }

    def markdown(self, drawn: Sequence[tuple[str, str]] = ()) -> str:
        """For people. `drawn`: title and file of each chart."""
        lines = [f"# {self.scenario}", "", *body(self.as_dict()), ""]
        lines += [f"![{title}]({file})\n" for title, file in drawn]
        lines += [f"- {name}: {value}" for name, value in (dict(self.options) | self.environment).items()]
        return "\n".join([*lines, ""])

    def show(self, console: Console) -> None:
        """On the screen."""
        table = Table(title=self.scenario, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in self.rows[0] if self.rows else ():
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row.values())
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)
        for target in self.targets:
            console.print(f"{'met   ' if target.met else 'MISSED'}  {target.text}", markup=False)


def body(saved: Mapping[str, Any]) -> list[str]:
    """Targets, table and notes of a saved report (`Report.as_dict`) as lines of Markdown."""
    lines = [f"- {'met' if target['met'] else '**missed**'}: {target['text']}" for target in saved["targets"]]
    rows = saved["table"]
    names = list(rows[0]) if rows else []
    if names:
        lines += ["", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(row[name] for name in names)} |" for row in rows]
    for note in saved["notes"]:
        lines += ["", note]
    return lines
