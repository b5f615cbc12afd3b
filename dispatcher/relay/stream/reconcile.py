"""Find out: rows whose reply was lost are looked for in the stream, as soon as the sink is back."""

from collections.abc import Collection
from time import monotonic

import anyio
import psycopg

from dispatcher.core.backoff import Backoff
from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, Ticked
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import Batch
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe, is_read_only
from dispatcher.infra.sqlfiles import load
from dispatcher.relay.stream.gate import SinkGate

REFUSED = Backoff(base_s=0.1, cap_s=1.0)  # between two tries of what Postgres refuses, and goes on refusing


class Reconciler:
    """Waits for the sink and looks. Keeps nothing between two batches."""

    def __init__(self, *, lease_s: float, stopping: anyio.Event, observe: Observer) -> None:
        self._lease_s = lease_s
        self._stopping = stopping
        self._observe = observe

    async def resolve(
        self,
        gate: SinkGate,
        postgres: ReconnectingSession,
        batch: Batch,
        outcomes: BatchOutcomes,
        *,
        also: Collection[Batch] = (),
    ) -> None:
        """File what is unknown as sent or returned. At a stop it stays unknown, and its rows claimed.

        `also`: batches whose leases are renewed meanwhile.
        """
        renewed_at = monotonic()
        while not self._stopping.is_set():
            if await gate.open():
                if (incarnation := gate.connection.incarnation) != outcomes.incarnation:
                    outcomes.doubt_sent()  # acknowledged by a run of Redis that holds the stream no more
                outcomes.incarnation = incarnation
                if await gate.reconcile(batch, outcomes):
                    return
            if monotonic() - renewed_at > self._lease_s / 4:
                renewed_at = monotonic()
                await self._renew(postgres, [batch, *also])

    async def _renew(self, postgres: ReconnectingSession, batches: Collection[Batch]) -> None:
        """Say that the claim's owner is alive, or an outage longer than the lease would look like a frozen owner."""
        held = [(row.id, batch.claim_id) for batch in batches for row in batch.rows]
        parameters = {"ids": [row_id for row_id, _ in held], "claim_ids": [claim_id for _, claim_id in held]}
        session = await postgres.get()
        try:
            await session.fetch(load("renew_claims"), parameters | {"floor": None})
        except (SessionLost, psycopg.Error) as error:
            await statement_failed(postgres, session, error, monotonic(), self._observe)


async def statement_failed(
    postgres: ReconnectingSession,
    session: Session,
    error: SessionLost | psycopg.Error,
    began: float,
    observe: Observer,
    *,
    pause_s: float = REFUSED.base_s,
) -> None:
    """Note a statement that failed; a session that is of no use any more is replaced. Else wait for `pause_s`."""
    reason = describe(error)
    observe(Ticked("error", monotonic() - began, reason))
    if isinstance(error, SessionLost) or is_read_only(error):
        await postgres.report_broken(session, reason)
    else:
        await anyio.sleep(pause_s)  # refused, not broken: a lock, a timeout, a right taken away
