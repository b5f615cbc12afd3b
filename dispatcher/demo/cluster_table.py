"""What `dispatcher demo --cluster` says at the end: a table, or one JSON object."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.demo.cluster import ClusterResult
from dispatcher.demo.histogram import Histogram

QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def show_cluster_result(console: Console, result: ClusterResult) -> None:
    """The table: what was lost and doubled, and how long it took from commit to consumer."""
    shards = ", ".join(map(str, result.killed_shards))
    table = Table(title="A primary was killed half-way", title_justify="left")
    table.add_column("from commit to consumer", style="bold")
    for name in ("before", f"then, on it: {shards}", "then, the others"):
        table.add_column(name, justify="right")
    parts = (result.before, result.there, result.elsewhere)
    table.add_row("events", *(f"{part.count:,}" for part in parts))
    for name, q in QUANTILES:
        table.add_row(name, *(_ms(part, q) for part in parts))
    table.add_row("max", *(f"{part.maximum / 1e6:,.1f} ms" if part.count else "-" for part in parts), end_section=True)
    for name, count in (
        ("committed", result.committed),
        ("rows marked sent", result.sent),
        ("lost", result.lost),
        ("doubled", result.doubled),
    ):
        table.add_row(name, f"{count:,}", "", "")
    style = "bold green" if result.verdict.passed else "bold red"
    word = Text(result.verdict.word, style=style)
    table.add_row("verdict", word, "", "")
    console.print()
    console.print(table)
    for reason in result.verdict.reasons:
        console.print(Text(reason, style="red"))


def cluster_summary(result: ClusterResult) -> dict[str, object]:
    """The figures, latencies in milliseconds."""
    return {
        "committed": result.committed,
        "sent": result.sent,
        "lost": result.lost,
        "doubled": result.doubled,
        "killed_shards": list(result.killed_shards),
        "before": _figures(result.before),
        "killed": _figures(result.there),
        "others": _figures(result.elsewhere),
        "verdict": result.verdict.word,
        "reasons": result.verdict.reasons,
    }


def _figures(part: Histogram) -> dict[str, float | int]:
    of = {f"{name}_ms": round(part.quantile(q) / 1e6, 3) for name, q in QUANTILES} if part.count else {}
    return {"events": part.count, **of, "max_ms": round(part.maximum / 1e6, 3)}


def _ms(part: Histogram, q: float) -> str:
    return f"{part.quantile(q) / 1e6:,.1f} ms" if part.count else "-"
