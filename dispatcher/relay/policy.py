"""What the relay is told, and whom it asks for room downstream."""

from dataclasses import dataclass
from typing import Protocol

from dispatcher.core.decide import RetryPolicy
from dispatcher.core.entry import EntryFormat


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """What the relay was told. Seconds."""

    entry: EntryFormat
    retry: RetryPolicy
    publish_timeout_s: float
    slots: int
    lease_s: float


class Switch(Protocol):
    """Whether everything is paused."""

    def held(self) -> bool:
        """Nothing may be claimed."""
        ...

    def settled(self) -> None:
        """A batch is not in hand any more."""
        ...


class Room(Protocol):
    """How many rows may be published before somebody downstream has to catch up."""

    async def room(self) -> int:
        """Rows that may be published now; 0: none."""
        ...

    def took(self, rows: int) -> None:
        """So many rows are about to be published."""
        ...
