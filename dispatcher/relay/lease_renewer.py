"""Leases: the owner of rows that take long renews them, or another dispatcher would take the rows over."""

from collections.abc import Iterable
from random import Random
from time import monotonic

import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.failures import StatementFailures
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.sqlfiles import load

RowAndClaim = tuple[int, str]  # a row's id, and the id of the claim that it belongs to


def rows_of(batches: Iterable[Batch]) -> list[RowAndClaim]:
    """The rows of these batches, each with its claim."""
    return [(row.id, batch.claim_id) for batch in batches for row in batch.rows]


class LeaseRenewer:
    """Renews leases of one relay. Written by one task at a time."""

    def __init__(self, observe: Observer, rng: Random) -> None:
        self._failures = StatementFailures("renew leases", observe, rng)
        self._renewed_at = monotonic()

    def is_time(self, every_s: float) -> bool:
        """Whether so many seconds have passed since the last renewal."""
        return monotonic() - self._renewed_at > every_s

    def done(self) -> None:
        """Note that nothing is left to be renewed: that it was refused is no matter any more."""
        self._failures.clear()

    async def renew(
        self, postgres: ReconnectingSession, rows: list[RowAndClaim], *, floor: str | None = None
    ) -> set[RowAndClaim] | None:
        """Renew the leases; the rows that still bear these claims. None: the statement failed, and nothing is known.

        `floor`: the new floor of these rows, of which none may be in the stream; or the mark of one whose handler is
        about to begin. None: their floors stay.
        """
        self._renewed_at = monotonic()
        session, began = await postgres.get_any(), monotonic()
        try:
            found = await session.fetch(
                load("renew_claims"),
                {
                    "ids": [row_id for row_id, _ in rows],
                    "claim_ids": [claim_id for _, claim_id in rows],
                    "floor": floor,
                },
            )
        except (SessionLost, psycopg.Error) as error:
            await self._failures.tell_and_wait(error, began)
            return None
        self._failures.clear()
        return {(row_id, claim_id) for row_id, claim_id in found}
