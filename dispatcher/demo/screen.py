"""The demo's output while it runs: a live panel on a terminal, a line every few seconds elsewhere."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dispatcher.demo.tally import Tally
from dispatcher.demo.verdict import SLA_P95_MS

LINE_EVERY_S = 3.0


class Screen(Protocol):
    """Shows the demo's steps and figures."""

    def step(self, text: str) -> None:
        """Announce the next step."""

    def progress(self, tally: Tally, elapsed_s: float) -> None:
        """Show the figures so far."""

    def close(self) -> None:
        """Show nothing more."""


@dataclass(slots=True)
class LineScreen:
    """Plain lines, for a log, a pipe or CI."""

    seconds: float
    to_stderr: bool = False
    _next_s: float = LINE_EVERY_S

    def step(self, text: str) -> None:
        click.echo(text, err=self.to_stderr)

    def progress(self, tally: Tally, elapsed_s: float) -> None:
        if elapsed_s >= self._next_s:
            self._next_s = elapsed_s + LINE_EVERY_S
            click.echo(f"{min(elapsed_s, self.seconds):4.0f} s  {describe(tally)}", err=self.to_stderr)

    def close(self) -> None:
        return


class Watch:
    """What `demo --stay` shows: what was done, and below it how everything is now, on a terminal in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._told_at = -math.inf

    def step(self, text: str) -> None:
        """Say what happened."""
        self._console.print(Text.assemble(("• ", "cyan"), text), soft_wrap=True)

    def keys(self, keys: Sequence[tuple[str, str]]) -> None:
        """Say which keys there are, and what they do; none where nobody can press any."""
        if self._live is not None:
            for key, what in [*keys, ("x", "20 events that die"), ("q", "or Ctrl-C: stop everything")]:
                self._console.print(Text.assemble(("  ", ""), (f" {key} ", "reverse bold"), f"  {what}"))

    def show(self, parts: Sequence[tuple[str, bool]], committed: int, received: int) -> None:
        """Say how everything is now: on a terminal always, elsewhere every few seconds."""
        state = Text("   ").join(
            Text.assemble(("● " if up else "✕ ", "green" if up else "bold red"), name) for name, up in parts
        )
        figures = f"{committed:,} committed, {received:,} received by the consumer"
        if self._live is not None:
            self._live.start()
            self._live.update(Group(Text(""), state, Text(figures, style="dim")), refresh=True)
        elif time.monotonic() - self._told_at >= LINE_EVERY_S:
            self._told_at = time.monotonic()
            self._console.print(figures, soft_wrap=True)

    def close(self) -> None:
        """Show nothing more."""
        if self._live is not None:
            self._live.stop()


def describe(tally: Tally) -> str:
    """The figures of a running measurement in one line."""
    return (
        f"{tally.committed:,} committed, {tally.matched:,} received, {tally.duplicated:,} duplicated, "
        f"p95 so far {tally.quantile_ms(0.95):.1f} ms (SLA: under {SLA_P95_MS / 1000:g} s)"
    )


class LivePanel:
    """A few lines that redraw themselves."""

    REDRAW_S = 0.2

    def __init__(self, console: Console, seconds: float) -> None:
        self.console = console
        self.seconds = seconds
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.drawn_at = 0.0

    def step(self, text: str) -> None:
        self.console.print(Text.assemble(("• ", "cyan"), text))

    def progress(self, tally: Tally, elapsed_s: float) -> None:
        now = time.monotonic()
        if now - self.drawn_at < self.REDRAW_S:
            return
        self.drawn_at = now
        self.live.start()
        self.live.update(self._panel(tally, min(elapsed_s, self.seconds)), refresh=True)

    def _panel(self, tally: Tally, elapsed_s: float) -> Group:
        p95 = tally.quantile_ms(0.95)
        grid = Table.grid(padding=(0, 2))
        grid.add_row("events committed", f"{tally.committed:,}")
        grid.add_row("received by the consumer", f"{tally.matched:,}")
        grid.add_row("duplicated", f"{tally.duplicated:,}")
        grid.add_row("p95 commit to consumer", Text(f"{p95:.2f} ms", style="green" if p95 < SLA_P95_MS else "red"))
        grid.add_row("SLA", f"p95 under {SLA_P95_MS / 1000:g} s")
        return Group(ProgressBar(total=self.seconds, completed=elapsed_s, width=50), grid)

    def close(self) -> None:
        self.live.stop()
