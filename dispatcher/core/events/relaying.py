"""What the loop does with rows, from the wait to the settled row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WakeCause = Literal["notify", "tick", "due", "writers", "peer", "reconnect", "nudge", "busy", "poll"]


@dataclass(frozen=True, slots=True)
class Woke:
    """The relay stopped waiting, and why."""

    cause: WakeCause


@dataclass(frozen=True, slots=True)
class Slept:
    """The relay is about to wait. `holds_key`: it is the one writers ring for."""

    holds_key: bool
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ticked:
    """One turn of the loop: an idle look, or one batch from claim to settle. Seconds."""

    result: Literal["ok", "error"]
    duration_s: float
    error: str | None = None  # class and code, no payload


@dataclass(frozen=True, slots=True)
class Claimed:
    """A batch was claimed."""

    rows: int
    full: bool


@dataclass(frozen=True, slots=True)
class Published:
    """A pipeline was answered. `ages_s`: as the rows', up to the answer, one an entry."""

    entries: int
    ages_s: Sequence[float]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Handled:
    """A handler ended, or its time was over. `age_s`: as a row's, up to its end.

    `error`: class and message without payload; `where`: file and line that raised.
    """

    row_id: int
    event_type: str
    handled: Literal["done", "retry", "dead", "timeout"]
    age_s: float
    duration_s: float
    error: str | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class InHand:
    """Rows that handlers work on, rows that wait for one, and handlers that go on though nobody waits for them."""

    running: int
    waiting: int
    stuck: int


@dataclass(frozen=True, slots=True)
class StuckHandlers:
    """All slots are taken by handlers that do not end: no event is handed to one (on), or it is again (off)."""

    on: bool
    stuck: int


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch was settled. `lost`: rows whose claim was no longer ours."""

    sent: int
    retried: int
    dead: int
    released: int
    unknown: int
    lost: int


@dataclass(frozen=True, slots=True)
class Buried:
    """Rows went to the dead-letter queue: (id, class and code of the error), no payload."""

    rows: Sequence[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class ClosedConnection:
    """A row was found to be what closes the connection to the sink; it cost the row an attempt. Size in bytes."""

    row: int
    size: int


@dataclass(frozen=True, slots=True)
class DeadRetried:
    """Dead events were put back to be published. `ids`: their rows; `by`: the address that asked for it."""

    ids: Sequence[int]
    by: str
