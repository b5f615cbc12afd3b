"""What the settings say to the relays, and what the relays need to know of pause and backpressure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dispatcher.core.decide import Reply, RetryPolicy
from dispatcher.core.entry import EntryFormat, EntryFormats
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.handlers.load import HandlersByType
from dispatcher.stages.claim import EventTypeFilter

MakeSpans = Callable[[Batch, Sequence[Reply]], None]


@dataclass(frozen=True, slots=True)
class ClaimPolicy:
    """What one relay claims. `canary_slots`: rows of the slots below this number. `event_types` None: of all types."""

    canary_slots: int  # 256: all slots; a canary has fewer
    lease_s: float
    max_payload_bytes: int
    event_types: EventTypeFilter | None = None
    sharded: bool = False  # which stream a row goes to depends on its slot
    layout: str = ""  # the fingerprint that has to stand in Postgres


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """Settings of the stream relay. Its claims take all event types but those that have handlers."""

    claims: ClaimPolicy
    entry: EntryFormat | EntryFormats
    retry: RetryPolicy
    publish_timeout_s: float
    make_spans: MakeSpans | None = None  # of OpenTelemetry, from each batch and its replies


@dataclass(frozen=True, slots=True)
class HandlerPolicy:
    """What the handler relay was told. Where its claims take all event types, a row without a handler is buried."""

    claims: ClaimPolicy
    handlers: HandlersByType
    retry: RetryPolicy
    parallel: int
    timeout_s: float
    patience_s: float  # how long a stop waits for handlers
    unpublishable: Callable[[ClaimedRow], str | None]
    batch_size: int
    tick_s: float


class PauseCheck(Protocol):
    """Whether everything is paused (upkeep/pause.py)."""

    def paused(self) -> bool:
        """Whether nothing may be claimed."""
        ...

    def note_claim_ended(self) -> None:
        """Hear that a claim is not in flight any more: whoever paused waits until none is in flight."""
        ...

    def may_try_sink(self) -> bool:
        """Whether Redis may be asked while nothing is claimed: that notes in Postgres which Redis has the streams."""
        ...


class LayoutPause:
    """Whether a relay may claim: nobody has paused, and the layout that stands in Postgres does not forbid it."""

    def __init__(self, pause: PauseCheck, forbidden: Callable[[], bool]) -> None:
        self._pause_check = pause
        self._forbidden = forbidden

    def paused(self) -> bool:
        """Whether nothing may be claimed."""
        return self._pause_check.paused() or self._forbidden()

    def note_claim_ended(self) -> None:
        """Hear that a claim is not in flight any more."""
        self._pause_check.note_claim_ended()

    def may_try_sink(self) -> bool:
        """Whether Redis may be asked while nothing is claimed: not while another layout than ours, or none, stands."""
        return not self._forbidden()


class FlowControl(Protocol):
    """How many rows may be published before a consumer group has to catch up (upkeep/backpressure.py)."""

    async def allowance(self) -> int:
        """How many rows may be published now; 0: none. May ask Redis."""
        ...

    def rows_left(self) -> int:
        """How many rows may be published now, as it was known last. Asks nobody."""
        ...

    def would_ask_redis(self) -> bool:
        """Whether the next `allowance()` would ask Redis."""
        ...

    def use_up(self, rows: int) -> None:
        """Hear that so many rows are about to be published."""
        ...
