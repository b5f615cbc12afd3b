"""`python -m bench document REPORT`: writes a run's figures and charts into docs/explanation/performance.md.

A block is `<!-- bench:latency -->` to `<!-- bench:end -->`; what stands between is replaced. Blocks of scenarios that
the run does not have stay as they are.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.charts import Chart, draw
from bench.record import machine
from bench.report import body
from dispatcher.core.errors import Misconfigured

DOCUMENT = Path(__file__).parent.parent / "docs" / "explanation" / "performance.md"
_BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n).*?(<!-- bench:end -->)", re.DOTALL)


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

    def fill(block: re.Match[str]) -> str:
        name = block[2]
        lines = machine(saved) if name == "machine" else _scenario(saved["scenarios"].get(name), charts)
        return block[0] if lines is None else "\n".join([block[1].rstrip(), "", *lines, "", block[3]])

    return _BLOCK.sub(fill, text)


def _scenario(scenario: Mapping[str, Any] | None, charts: Path) -> list[str] | None:
    if scenario is None:
        return None
    lines = body(scenario)
    for described in scenario["charts"]:
        chart = Chart.from_dict(described)
        file = charts / f"{scenario['scenario']}-{chart.name}.svg"
        if draw(chart, file):
            lines += ["", f"![{chart.title}]({charts.name}/{file.name})"]
    return lines
