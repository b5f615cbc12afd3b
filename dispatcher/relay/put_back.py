"""Rows that are put back each time they were sent: a trigger may do so after our settle, and it would never end.

A settled row that a plain UPDATE put back is replayed, once for each such UPDATE. A row that comes back at once, again
and again, while the table has triggers of others, is published no more: it is dead, with the triggers as its cause.
"""

from collections.abc import Callable, Iterable
from time import monotonic

from dispatcher.core.decide import brief
from dispatcher.core.events import Buried, Observer, Settled
from dispatcher.core.outcome import BatchOutcomes, FailedForGood
from dispatcher.core.row import Batch, any_put_back
from dispatcher.infra.postgres.session import Session
from dispatcher.ops.trials import name_triggers
from dispatcher.stages.settle import settle

AT_ONCE_S = 10.0  # between two claims of the same row
TRIALS_AFTER = 2  # claims of a row that was put back, after which the trials run
MOST = 5  # claims of such a row, after which it is published no more
REMEMBERED = 10_000  # rows


class PutBack:
    """What one relay saw of rows that were put back. Used by one task at a time."""

    def __init__(self, observe: Observer, run_trials_first: Callable[[], None]) -> None:
        self._observe = observe
        self._run_trials_first = run_trials_first
        self._seen: dict[int, tuple[int, float]] = {}  # by row: how often it was put back at once, and when last

    def given_back(self, ids: Iterable[int]) -> None:
        """Hear that these rows were released, or are to be retried: so nobody undid a settle before their next claim.

        Without this a row that was put back once, and then waits for Redis or a server of its handler, would be buried.
        """
        if self._seen:
            for row_id in ids:
                self._seen.pop(row_id, None)

    async def bury_repeated(self, session: Session, batch: Batch) -> Batch:
        """The batch without rows that were sent and put back at once, again and again: these rows are buried.

        Raises SessionLost or psycopg.Error.
        """
        if not self._seen and not any_put_back(batch.rows):
            return batch  # no row was put back
        again = self._note(batch)
        if not again or not (names := await name_triggers(session)):
            return batch
        self._run_trials_first()
        to_bury = [row_id for row_id, times in again.items() if times >= MOST]
        if not to_bury:
            return batch
        error = brief(
            f"PutBack: sent {MOST} times, and put back at once each time: something in Postgres undoes it{names}"
        )
        outcomes = BatchOutcomes(dead=[(row_id, FailedForGood(error)) for row_id in to_bury])
        settlement = await settle(session, batch.claim_id, outcomes)
        for row_id in to_bury:
            del self._seen[row_id]
        if dead := [(row_id, error) for row_id in to_bury if row_id not in settlement.not_ours]:
            self._observe(Buried(dead))
        self._observe(Settled(0, 0, settlement.dead, 0, 0, len(settlement.not_ours)))
        return batch.only([row for row in batch.rows if row.id not in to_bury])

    def _note(self, batch: Batch) -> dict[int, int]:
        """How often each row was put back at once: only rows for which that was at least twice."""
        now, again = monotonic(), dict[int, int]()
        if len(self._seen) > REMEMBERED:
            self._seen.clear()
        for row in batch.rows:
            times, last = self._seen.get(row.id, (0, now))
            if row.put_back_by_update or times:
                times = times + 1 if now - last < AT_ONCE_S else 1
                self._seen[row.id] = (times, now)
                if times >= TRIALS_AFTER:
                    again[row.id] = times
        return again
