"""How far a scenario is: a bar on a terminal, a line a leg elsewhere. All of it on standard error."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Legs:
    """Counts the legs of a scenario."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = 0
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=total)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.bar.console.print(text, soft_wrap=True, markup=False)

    def begin(self, text: str) -> None:
        """A leg starts."""
        self.bar.update(self.task, description=text)

    def within(self, share: float) -> None:
        """So much of the leg is done, 0 to 1."""
        self.bar.update(self.task, completed=self.finished + min(1.0, share))

    def end(self, result: str) -> None:
        """The leg is over."""
        self.finished += 1
        self.bar.update(self.task, completed=self.finished)
        self.say(f"{self.finished}/{self.total}  {result}")

    def __enter__(self) -> "Legs":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
