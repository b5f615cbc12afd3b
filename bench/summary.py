"""The first table of the page on performance: each figure, lowest to highest, over all legs on the page."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n)(.*?)(<!-- bench:end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of a scenario's table: one column of the rows whose other cells are as `where` says."""

    scenario: str
    column: str
    where: Mapping[str, str] = field(default_factory=dict)


def _latency(rate: str, percentile: str) -> list[Cells]:
    """Where the page has this percentile of one dispatcher with its doorbell at this rate."""
    column = f"{percentile} ms"
    places = [Cells("latency", column, {"woken by": "doorbell", "events/s": rate})]
    if rate == "1000":
        places = [Cells("sla", column, {"events/s": rate}), Cells("crash", column, {"events/s": rate})]
    if rate == "500":
        places += [Cells("soak", column), Cells("flood", column, {"flood of": "nothing"})]
    if rate in ("50", "500") and percentile != "p95":
        places.append(Cells("peers", f"{rate}/s {column}", {"relay": "dispatcher"}))
    return places


_ONE_PROCESS = [
    Cells("drain", "events/s"),
    Cells("ceiling", "lowest", {"alone": "drain"}),
    Cells("ceiling", "highest", {"alone": "drain"}),
    Cells("scale", "events/s", {"processes": "1"}),
    Cells("snapshot", "events/s", {"snapshot": "nobody's"}),
    Cells("techniques", "events/s", {"without": "all of them"}),
    Cells("peers", "backlog, events/s", {"relay": "dispatcher"}),
]
FIGURES: Mapping[str, list[Cells]] = {
    **{
        f"commit to consumer at {int(rate):,} events/s, {percentile}, ms": _latency(rate, percentile)
        for rate in ("50", "500", "1000", "5000")
        for percentile in ("p50", "p95", "p99")
    },
    "backlog, one process, events/s": _ONE_PROCESS,
    "backlog, two processes, events/s": [Cells("scale", "events/s", {"processes": "2"})],
    "processor time of the dispatcher in a backlog, s for 1,000 events": [
        *(
            Cells(place.scenario, "CPU s / 1,000", place.where)
            for place in _ONE_PROCESS[:-1]
            if place.scenario != "ceiling"
        ),
        Cells("peers", "CPU s / 1,000: its own / Postgres's", {"relay": "dispatcher"}),
    ],
    "memory of the dispatcher in a backlog, MB": [Cells("drain", "peak MB")],
    "first event after Redis is back, s": [Cells("outage", "first event s")],
    "at rest, % of a core": [Cells("idle", "CPU, % of a core")],
}


def summary(page: str) -> list[str]:
    """The table as lines of Markdown, from the tables in the blocks of the page."""
    blocks = {name: text for _, name, text, _ in BLOCK.findall(page)}
    lines = ["| figure | lowest | highest | legs | scenarios |", "|---|---|---|---|---|"]
    for figure, places in FIGURES.items():
        found = [(cell, place.scenario) for place in places for cell in cells(blocks.get(place.scenario, ""), place)]
        if found:
            values = sorted((cell for cell, _ in found), key=lambda cell: float(cell.replace(",", "")))
            scenarios = ", ".join(dict.fromkeys(f"`{scenario}`" for _, scenario in found))
            lines.append(f"| {figure} | {values[0]} | {values[-1]} | {len(values)} | {scenarios} |")
    return lines


def cells(block: str, place: Cells) -> Iterator[str]:
    """What stands at that place in a scenario's block; where a cell has two figures, the first."""
    rows = [line.strip("| ").split(" | ") for line in block.splitlines() if line.startswith("| ")]
    for row in rows[1:]:
        named = dict(zip(rows[0], row, strict=True))
        if place.where.items() <= named.items():
            yield named[place.column].split(" / ")[0]
