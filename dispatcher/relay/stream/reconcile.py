"""Reconcile: once the sink is back, the stream is searched for rows whose reply was lost."""

from collections.abc import Collection
from random import Random

import anyio

from dispatcher.core.events import Observer
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.redis.search import Search
from dispatcher.relay.lease_renewer import LeaseRenewer, rows_of
from dispatcher.relay.stream.gate import SinkGate


class Reconciler:
    """Waits for the sink, then searches the stream. Keeps nothing between two batches."""

    def __init__(self, *, lease_s: float, stopping: anyio.Event, observe: Observer, rng: Random) -> None:
        self._lease_s = lease_s
        self._stopping = stopping
        self._observe = observe
        self._rng = rng

    async def reconcile(
        self,
        gate: SinkGate,
        postgres: ReconnectingSession,
        batch: Batch,
        outcomes: BatchOutcomes,
        *,
        renew_too: Collection[Batch] = (),
    ) -> None:
        """Note rows of unknown outcome as sent or released. After a stop they stay unknown, and claimed.

        `renew_too`: other batches whose leases are renewed while this batch waits. Else we would look frozen, if
        an outage lasts longer than the lease.
        """
        leases = LeaseRenewer(self._observe, self._rng)
        search: Search | None = None
        while not self._stopping.is_set():
            if await gate.wait_open():
                if (incarnation := gate.connection.incarnation) != outcomes.incarnation:
                    outcomes.doubt_sent()
                outcomes.incarnation = incarnation
                search = gate.search_of(batch, outcomes, search)
                if await gate.search_for_unknown(batch, outcomes, search=search, for_s=self._lease_s / 8):
                    break
            if leases.is_time(self._lease_s / 4):
                await leases.renew(postgres, rows_of([batch, *renew_too]))
        leases.done()
