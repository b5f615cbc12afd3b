"""What the relay and the handling are told, and whom the relay asks for room downstream."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dispatcher.core.decide import RetryPolicy
from dispatcher.core.entry import EntryFormat
from dispatcher.core.row import ClaimedRow
from dispatcher.handlers.load import Routes
from dispatcher.stages.claim import EventTypeFilter


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """What the relay was told. Seconds."""

    entry: EntryFormat
    retry: RetryPolicy
    publish_timeout_s: float
    slots: int
    lease_s: float
    share: EventTypeFilter | None = None  # all but the event types that have handlers; None: there are no handlers


@dataclass(frozen=True, slots=True)
class HandlerPolicy:
    """What the handling was told. Seconds. `share`: None takes every event, and buries what has no handler."""

    routes: Routes
    share: EventTypeFilter | None
    parallel: int
    timeout_s: float
    patience_s: float  # how long a stop waits for handlers
    retry: RetryPolicy
    unfit: Callable[[ClaimedRow], str | None]
    batch_size: int
    slots: int
    lease_s: float
    tick_s: float
    max_payload_bytes: int


class PauseCheck(Protocol):
    """Whether everything is paused."""

    def held(self) -> bool:
        """Nothing may be claimed."""
        ...

    def settled(self) -> None:
        """A batch is not in hand any more."""
        ...


class FlowControl(Protocol):
    """How many rows may be published before somebody downstream has to catch up."""

    async def room(self) -> int:
        """Rows that may be published now; 0: none."""
        ...

    def took(self, rows: int) -> None:
        """So many rows are about to be published."""
        ...
