"""The settler: writes outcomes to Postgres until they are written, or keeps aside what is refused again and again."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.errors import IncarnationChanged, SessionLost
from dispatcher.core.events import Buried, Observer, Settled
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.failures import AGAIN_AND_AGAIN, StatementFailures
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.aside import MOST_BATCHES, KeptAside, KeptBatch, SearchAgain
from dispatcher.relay.undone import settle_undone
from dispatcher.stages.settle import Settlement, settle

WAIT_S = 0.05  # how long a settle waits for the one that began before it


class Settler:
    """Settles for one relay, several batches at once. `wake(delay_s)`: a row is due again in so many seconds.

    `run_trials_first()` is called when no row of a settled batch was ours, or a row was undone: before the next claim
    the trials have to run. For if something in Postgres undoes our settles, rows that are claimed next would be
    published again and again. `given_back(ids)` is called with rows that were released, or are to be
    retried.

    `aside.run()` has to run beside. `batch_size`: rows. `on_aside_round()` is called after each try of a batch that is
    kept aside: a pause may wait for it. `wait_s`: how long a settle waits for the settle before.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        lease_s: float,
        wake: Callable[[float], None],
        run_trials_first: Callable[[], None],
        given_back: Callable[[Iterable[int]], None],
        on_aside_round: Callable[[], None],
        observe: Observer,
        rng: Random,
        wait_s: float = WAIT_S,
    ) -> None:
        self._wake = wake
        self._run_trials_first = run_trials_first
        self._given_back = given_back
        self._observe = observe
        self._rng = rng
        self._wait_s = wait_s
        self._last: anyio.Event | None = None  # set when the settle that began last has ended
        # Called with the claim; set by the claimer, if there is an order.
        self.on_settled: Callable[[str, BatchOutcomes, Settlement], None] | None = None
        self.aside = KeptAside(
            most_rows=MOST_BATCHES * batch_size,
            lease_s=lease_s,
            tell=self._tell,
            on_round=on_aside_round,
            observe=observe,
            rng=rng,
        )

    async def settle(
        self,
        postgres: ReconnectingSession,
        claim_id: str,
        outcomes: BatchOutcomes,
        *,
        batch: Batch | None = None,
        search_again: SearchAgain | None = None,
        tried_together: bool = False,
    ) -> Settlement | None:
        """Write the outcomes of rows of one claim. If the session is lost, the next one is used, or another lane's.

        None: the rows are kept aside now, for Postgres refused the settle several times, or keeps refusing others.
        `search_again(outcomes, batch)` is called when another incarnation of Redis holds the stream than the one that
        has the entries: it has to search for the entries, and change `outcomes`. `batch` has at least the rows of these
        outcomes.
        `tried_together`: settle_together() was tried before, and may have settled some of the rows.
        """
        failures = StatementFailures("settle", self._observe, self._rng)
        while True:
            session = await postgres.get_any()
            began = monotonic()
            try:
                async with self._one_by_one():
                    settlement = await settle(session, claim_id, outcomes)
                break
            except IncarnationChanged:
                if search_again is None or batch is None:
                    raise
                await search_again(outcomes, batch)
            except (SessionLost, psycopg.Error) as error:
                # If other batches are already kept aside, this trouble lasts: do not wait for five refusals.
                if isinstance(error, psycopg.Error) and (self.aside or failures.refused >= AGAIN_AND_AGAIN - 1):
                    where = outcomes.incarnation, outcomes.streams
                    kept = KeptBatch(postgres, claim_id, outcomes.each(), *where, batch, search_again)
                    self.aside.keep(kept, error, began)
                    return None
                await failures.tell_and_wait(error, began)
        if failures or tried_together:
            failures.clear()
            # A row that an earlier try settled, whose answer was lost, is not found by this try: settled, not lost.
            settlement = settlement._replace(not_ours=frozenset())
        elif settlement.not_ours and settlement.wrote_nothing:
            self._run_trials_first()
        if settlement.undone:
            rows = [(row_id, outcome) for row_id, outcome in outcomes.each() if row_id in settlement.undone]
            kept = KeptBatch(postgres, claim_id, rows, outcomes.incarnation, outcomes.streams, batch, search_again)
            self.aside.keep(kept, await settle_undone(session, len(rows)), began)
            self._run_trials_first()
        self._tell(claim_id, outcomes, settlement)
        return settlement

    async def settle_together(
        self, postgres: ReconnectingSession, claim_id: str, by_sink: Sequence[BatchOutcomes]
    ) -> frozenset[int]:
        """Settle the rows of one claim that several sinks took, by one statement. Tried once.

        Returns the ids of the rows that settle() still has to settle, sink by sink: it tries again after a failure.
        """
        streams = dict(chain.from_iterable(outcomes.streams.items() for outcomes in by_sink))
        whole = BatchOutcomes.of(chain.from_iterable(outcomes.each() for outcomes in by_sink), None, streams)
        incarnations = [outcomes.incarnation for outcomes in by_sink if outcomes.incarnation is not None]
        session = await postgres.get_any()
        try:
            async with self._one_by_one():
                settlement = await settle(session, claim_id, whole, incarnations=incarnations)
        except (IncarnationChanged, SessionLost, psycopg.Error):
            return frozenset(whole.sent_ids)
        if settlement.not_ours and settlement.wrote_nothing:
            self._run_trials_first()
        self._tell(claim_id, whole, settlement)
        return settlement.undone

    @asynccontextmanager
    async def _one_by_one(self) -> AsyncIterator[None]:
        """Begin a settle when the settle before it has ended, or after `wait_s`: else its rows would leave their pages.

        A settled row stays in its page if Postgres can remove there the version of the row from before its claim.
        Postgres keeps that version while any statement runs that began before the claim was committed. With batches of
        512 the settle of the batch before was such a statement. Up to 18 in 100 rows moved then, and a row that moves
        is written to the WAL whole.
        """
        before, this = self._last, anyio.Event()
        self._last = this
        try:
            if before is not None and not before.is_set():
                with anyio.move_on_after(self._wait_s):  # it may wait for a row that somebody locked: go on without it
                    await before.wait()
            yield
        finally:
            this.set()

    def _tell(self, claim_id: str, outcomes: BatchOutcomes, settlement: Settlement) -> None:
        if self.on_settled is not None:
            self.on_settled(claim_id, outcomes, settlement)
        if outcomes.released or outcomes.retries:
            self._given_back([*outcomes.released, *(row_id for row_id, _ in outcomes.retries)])
        if settlement.released:
            self._wake(0.0)  # due again, and a lane that sleeps ran its due check while we still held them
        if outcomes.retries:
            self._wake(min(retry.delay_s for _, retry in outcomes.retries))
        if dead := outcomes.buried(settlement.not_ours | settlement.undone):
            self._observe(Buried(dead))
        self._observe(
            Settled(
                sent=settlement.sent,
                retried=settlement.retried,
                dead=settlement.dead,
                released=settlement.released,
                unknown=len(outcomes.unknown),
                lost=len(settlement.not_ours),
                waiting=settlement.waiting,
            )
        )
