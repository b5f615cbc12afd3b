"""What is started and stopped by a `with` block."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Entered(ABC):
    """Started at the beginning of the block, stopped at its end."""

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it works."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it and wait until it is gone."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
