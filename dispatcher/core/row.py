"""One claimed outbox row, as the claim returns it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

# The next_run_at of a row that nobody scheduled; UTC; sql/statements/claim.sql has it too.
UNSCHEDULED = datetime(1970, 1, 1)

NEVER_READ = "!"  # begins what stands for a JSON text that is never read (too large, say); then its bytes, if known
READ_LATER = "?"  # begins what stands for a JSON text that a second statement reads; then a size in bytes
MOST_NAME_CHARS = 1000  # of event_type, aggregate_type and aggregate_id each; claim.sql returns no more than one more

PROCESS_LOST = "ProcessLost"  # begins the error of a row whose process ended under its handler; claim.sql knows it
SERVER_LOST = "ServerLost"  # begins the error of a row under which Redis itself ended; claim.sql knows it


class HandlerMark(StrEnum):
    """What a claimed row for a handler says, in the column stream_id, to whoever takes it over. NULL: not begun."""

    BEGUN = "begun"  # its handler began with the claim, beside others
    MAY_HAVE_BEGUN = "may have begun"  # claimed ahead: it begins within a tenth of a second
    ALONE = "begun alone"  # no other handler runs beside it


class ClaimedRow(NamedTuple):
    """Columns of sql/statements/claim.sql, in its order.

    A tuple, not a dataclass: one is made for each event, and a tuple is made in C.
    """

    id: int
    next_run_at: datetime  # naive, UTC; the claim's order, with id; the keyset cursor; see `fresh`
    event_id: str
    message_id: str  # another name of the event, for applications that have one of their own; else event_id
    event_type: str
    aggregate_type: str
    aggregate_id: str
    occurred_at: datetime  # naive, UTC
    payload: str  # the JSON text as Postgres prints it; never parsed, for it may be ciphertext
    headers: str | None
    attempts: int
    age_s: float  # seconds that it had waited at the claim, by Postgres's clock; claim.sql says since when
    suspect: bool = False  # its process, or Redis, ended under it, last time: it is tried alone
    slot: int = 0  # 0 to 255; only where its stream, or an order, depends on it, else 0

    @property
    def size(self) -> int:
        """Characters of payload and headers: as many bytes, if the text is ASCII."""
        return len(self.payload) + len(self.headers or "")

    @property
    def fresh(self) -> bool:
        """Whether its next_run_at says that nobody scheduled it: it is due whatever the clock says."""
        return self.next_run_at <= UNSCHEDULED

    @property
    def put_back_by_update(self) -> bool:
        """Whether it was sent, and a plain UPDATE put it back: claim.sql then says an age of exactly 0.

        A row that was tried before does not show it: its age counts from occurred_at.
        """
        return self.age_s == 0.0


_age_of = itemgetter(ClaimedRow._fields.index("age_s"))


def any_put_back(rows: Iterable[ClaimedRow]) -> bool:
    """Whether any of these was put back by a plain UPDATE. Without a call for each row: it is asked of each batch."""
    return 0.0 in map(_age_of, rows)


class Batch(NamedTuple):
    """What one claim took: its fencing token, its rows in publishing order, and when it was taken."""

    claim_id: str
    rows: list[ClaimedRow]
    floor: str  # the newest stream id known before it was published: its entries come after
    claimed_at: float  # this process's monotonic clock, seconds, when the claim's answer arrived
    full: bool = False  # there may be more to claim
    characters: int = 0  # of payloads and headers, as ClaimedRow.size counts them
    undone_by_trigger: int = 0  # rows that were claimed and are not ours, because a trigger undid it
    over_budget: bool = False  # more rows were claimed than fit in the budget of bytes: those were released
    aggregate_keys: Mapping[int, int] = MappingProxyType({})  # in order: by row id, see core/held.py
    after_dead: Mapping[int, str] = MappingProxyType({})  # by row id: the event_id of the dead event before it

    def only(self, rows: list[ClaimedRow]) -> "Batch":
        """The batch with these of its rows; the others were given back."""
        return self._replace(rows=rows, characters=sum(row.size for row in rows))
