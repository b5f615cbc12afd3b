"""The settler: writes outcomes to Postgres until they are written."""

from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic

import psycopg

from dispatcher.core.errors import SessionLost, StreamMoved
from dispatcher.core.events import Buried, Observer, Settled
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.infra.postgres.failures import StatementFailures
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.stages.settle import Settlement, settle


class Settler:
    """Settles for one relay, several batches at once. `wake(delay_s)`: a row is due again in so many seconds.

    `doubt()`: a batch was settled of which no row was ours. Another dispatcher took all over, or something in Postgres
    undoes what we do, and what is claimed next would be published again and again.
    """

    def __init__(
        self, *, wake: Callable[[float], None], doubt: Callable[[], None], observe: Observer, rng: Random
    ) -> None:
        self._wake = wake
        self._doubt = doubt
        self._observe = observe
        self._rng = rng

    async def settle(
        self,
        postgres: ReconnectingSession,
        claim_id: str,
        outcomes: BatchOutcomes,
        *,
        on_moved: Callable[[], Awaitable[None]] | None = None,
    ) -> Settlement:
        """Write the outcomes of rows of one claim. A session that is lost is followed by the next one, or a stand-in.

        `moved()` is called when another incarnation of Redis holds the stream than the one that has the entries: it has
        to find out what became of them, and changes `outcomes`.
        """
        failures = StatementFailures("settle", self._observe, self._rng)
        while True:
            session = await postgres.get_any()
            began = monotonic()
            try:
                settlement = await settle(session, claim_id, outcomes)
                break
            except StreamMoved:
                if on_moved is None:
                    raise
                await on_moved()
            except (SessionLost, psycopg.Error) as error:
                await failures.tell_and_wait(error, began)
        if failures:
            failures.clear()
            # Rows that an earlier try settled, whose answer was lost, are not found by the last one: done, not lost.
            settlement = settlement._replace(lost=frozenset())
        elif settlement.lost and not any(settlement[:4]):
            self._doubt()
        self._tell(outcomes, settlement)
        return settlement

    def _tell(self, outcomes: BatchOutcomes, settlement: Settlement) -> None:
        if settlement.released:
            self._wake(0.0)  # due again, and a lane that sleeps looked while we still held them
        if outcomes.retries:
            self._wake(min(retry.delay_s for _, retry in outcomes.retries))
        if dead := [(row_id, dead.error) for row_id, dead in outcomes.dead if row_id not in settlement.lost]:
            self._observe(Buried(dead))
        waiting = outcomes.waiting(settlement.lost) if outcomes.retries else 0
        self._observe(
            Settled(
                sent=settlement.sent,
                retried=settlement.retried - waiting,
                dead=settlement.dead,
                released=settlement.released,
                unknown=len(outcomes.unknown),
                lost=len(settlement.lost),
                waiting=waiting,
            )
        )
