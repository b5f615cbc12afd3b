"""`python -m bench document REPORT`: writes a run's figures and charts into docs/explanation/performance.md.

A block is `<!-- bench:latency -->` to `<!-- bench:end -->`; what stands between is replaced. Blocks of scenarios that
the run does not have stay as they are. The block `summary` is made of all the others.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.charts import Chart, draw
from bench.record import machine
from bench.report import body
from bench.steady import NOTE as COLUMNS
from bench.summary import BLOCK, summary
from dispatcher.core.errors import Misconfigured

DOCUMENT = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"


@click.command()
@click.argument("report", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=DOCUMENT,
    help="The document.  [default: docs/explanation/performance.md]",
)
def document(report: Path, into: Path) -> None:
    """Write a run's figures and charts into the document. REPORT: the report.json of `python -m bench all`."""
    saved = json.loads(report.read_text(encoding="utf-8"))
    if "scenarios" not in saved:
        raise Misconfigured(f"{report} is not the report.json of `python -m bench all`")
    if saved["quick"]:
        raise Misconfigured(f"{report} is of a --quick run: its figures say nothing")
    charts = into.parent / into.stem
    charts.mkdir(exist_ok=True)
    into.write_text(render(into.read_text(encoding="utf-8"), saved, charts), encoding="utf-8")
    click.echo(f"Written: {into} and its charts in {charts}")


def render(text: str, saved: Mapping[str, Any], charts: Path) -> str:
    """The document with its blocks filled. Draws the charts that it shows, as SVG, into the folder `charts`."""

    def fill(name: str, lines: list[str], page: str) -> str:
        filled = "\n".join(["", *lines, "", ""])
        return BLOCK.sub(lambda block: block[1] + filled + block[4] if block[2] == name else block[0], page)

    if saved["scenarios"]:
        text = fill("machine", machine(saved), text)
    for name in saved["scenarios"]:
        text = fill(name, _scenario(saved["scenarios"][name], charts), text)
    return fill("summary", summary(text), text)


def _scenario(scenario: Mapping[str, Any], charts: Path) -> list[str]:
    """What the page shows of a scenario. What the columns mean is written on the page once."""
    lines = body({**scenario, "notes": [note for note in scenario["notes"] if note != COLUMNS]})
    measured = scenario["environment"]
    lines += ["", f"Measured at commit {measured.get('commit')}, {measured.get('at')}."]
    for described in scenario["charts"]:
        chart = Chart.from_dict(described)
        file = charts / f"{scenario['scenario']}-{chart.name}.svg"
        if draw(chart, file):
            lines += ["", f"![{chart.title}]({charts.name}/{file.name})"]
    return lines
