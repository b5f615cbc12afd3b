"""What the demo says at the end: a table with the verdict, or one JSON object."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.demo.histogram import Histogram
from dispatcher.demo.verdict import Verdict

QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


@dataclass(frozen=True, slots=True)
class Report:
    """`table`: all but the verdict, which gets a row named `promise`. `notes`: lines below it. `figures`: for JSON."""

    table: Table
    figures: Mapping[str, object]
    verdict: Verdict
    promise: str = "verdict"
    notes: Sequence[str] = ()

    def show(self, console: Console) -> None:
        """Print it, once: the verdict becomes a row of the table."""
        style = "bold green" if self.verdict.passed else "bold red"
        self.table.add_row(self.promise, Text(self.verdict.word, style=style))
        console.print()
        console.print(self.table)
        for reason in self.verdict.reasons:
            console.print(Text(reason, style="red"))
        for note in self.notes:
            console.print(note, highlight=False, markup=False, soft_wrap=True)

    def as_json(self) -> str:
        return json.dumps({**self.figures, "verdict": self.verdict.word, "reasons": self.verdict.reasons})


def latencies(of: Histogram) -> dict[str, float | None]:
    """Quantiles and maximum in milliseconds, for JSON; null when nothing was timed."""
    values = {name: of.quantile(q) for name, q in QUANTILES} | {"max": of.maximum}
    return {f"{name}_ms": round(value / 1e6, 3) if of.count else None for name, value in values.items()}


def latency_rows(*parts: Histogram, decimals: int = 1) -> list[tuple[str, ...]]:
    """The same for the table: a row each, with a cell for each part."""
    rows = [(name, [part.quantile(q) for part in parts]) for name, q in QUANTILES]
    rows.append(("max", [part.maximum for part in parts]))
    return [
        (
            name,
            *(f"{v / 1e6:,.{decimals}f} ms" if part.count else "-" for v, part in zip(values, parts, strict=True)),
        )
        for name, values in rows
    ]
