"""Charts: described in plain data, so that a report keeps them in its JSON; drawn by matplotlib (group `bench`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["lines", "bars"]
Point = tuple[float | str, float]
_COLOURS = ("#2563eb", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#64748b", "#0ea5e9", "#84cc16")


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart shows. Bars: each series has a point for each category, in the same order."""

    name: str  # of its file
    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[Point]]
    kind: Kind = "lines"
    log_x: bool = False
    log_y: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "x": self.x,
            "y": self.y,
            "series": {name: [list(point) for point in points] for name, points in self.series.items()},
            "kind": self.kind,
            "log_x": self.log_x,
            "log_y": self.log_y,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Chart":
        """What `as_dict` wrote."""
        series = {name: [(x, y) for x, y in points] for name, points in saved["series"].items()}
        return cls(**{**saved, "series": series})


def draw(chart: Chart, path: Path) -> bool:
    """Write it as PNG or SVG, by the file's suffix. False: matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return False
    # The same data must make the same file: no date, no random ids, letters as text.
    with rc_context({"svg.hashsalt": chart.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        (_bars if chart.kind == "bars" else _lines)(axes, chart)
        axes.set(title=chart.title, xlabel=chart.x, ylabel=chart.y)
        if chart.log_x:
            axes.set_xscale("log")
        if chart.log_y:
            axes.set_yscale("log")
        elif all(y >= 0 for points in chart.series.values() for _, y in points):
            axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", color="#e5e7eb")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(chart.series) > 1:
            axes.legend(frameon=False)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=130, metadata=metadata)
    return True


def _lines(axes: Any, chart: Chart) -> None:
    for (name, points), colour in zip(chart.series.items(), _COLOURS, strict=False):
        marker = "o" if len(points) < 40 else ""
        axes.plot(
            [x for x, _ in points], [y for _, y in points], label=name, color=colour, marker=marker, markersize=3.5
        )


def _bars(axes: Any, chart: Chart) -> None:
    categories = [str(x) for x, _ in next(iter(chart.series.values()), [])]
    width = 0.8 / max(1, len(chart.series))
    for number, ((name, points), colour) in enumerate(zip(chart.series.items(), _COLOURS, strict=False)):
        left = [place - 0.4 + width * (number + 0.5) for place in range(len(points))]
        axes.bar(left, [y for _, y in points], width=width * 0.92, label=name, color=colour)
    axes.set_xticks(range(len(categories)), categories)
