"""Reconcile: rows whose reply was lost are searched for in the stream, as soon as the sink is back."""

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
    """Waits for the sink and searches. Keeps nothing between two batches."""

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
        """File what is unknown as sent or released. At a stop it stays unknown, and its rows claimed.

        `renew_too`: other batches whose leases are renewed while this one waits: an outage longer than the lease must
        not look like a frozen dispatcher.
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
