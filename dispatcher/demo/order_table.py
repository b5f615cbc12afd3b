"""What `dispatcher demo --order` says at the end: a table, or one JSON object."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dispatcher.demo.order import OrderResult

QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


def show_order_result(console: Console, result: OrderResult) -> None:
    """The table: what was out of order, lost and doubled, and how long it took from commit to consumer."""
    table = Table(title="Order within each aggregate, DISPATCH_ORDER=aggregate", title_justify="left")
    table.add_column("events of", style="bold")
    table.add_column(f"{result.aggregates} aggregates", justify="right")
    for name, count in (("committed", result.committed), ("rows marked sent", result.sent)):
        table.add_row(name, f"{count:,}")
    for name, count in (("out of order", result.overtaken), ("lost", result.lost), ("doubled", result.doubled)):
        table.add_row(name, Text(f"{count:,}", style="bold red" if count else "bold green"))
    for name, q in QUANTILES:
        table.add_row(f"{name} from commit to consumer", f"{result.latency.quantile(q) / 1e6:,.1f} ms")
    table.add_row("longest", f"{result.latency.maximum / 1e6:,.1f} ms", end_section=True)
    style = "bold green" if result.verdict.passed else "bold red"
    table.add_row("verdict", Text(result.verdict.word, style=style))
    console.print()
    console.print(table)
    for reason in result.verdict.reasons:
        console.print(Text(reason, style="red"))


def order_summary(result: OrderResult) -> dict[str, object]:
    """The figures, latencies in milliseconds."""
    latency = {f"{name}_ms": round(result.latency.quantile(q) / 1e6, 3) for name, q in QUANTILES}
    return {
        "aggregates": result.aggregates,
        "committed": result.committed,
        "sent": result.sent,
        "out_of_order": result.overtaken,
        "lost": result.lost,
        "doubled": result.doubled,
        **latency,
        "max_ms": round(result.latency.maximum / 1e6, 3),
        "changes": list(result.changes),
        "verdict": result.verdict.word,
        "reasons": result.verdict.reasons,
    }
