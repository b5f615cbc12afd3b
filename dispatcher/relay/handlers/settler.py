"""What runs beside the handlers: each row is settled as its handler ends, and the rows in flight keep their leases."""

from time import monotonic

import anyio

from dispatcher.core.events import Observer, Settled
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.handlers.in_flight import EndedTask, InFlight
from dispatcher.relay.handlers.pool import NO_PLACE, WAIT_S, HandlerPool
from dispatcher.relay.lease_renewer import LeaseRenewer
from dispatcher.relay.policy import PauseCheck
from dispatcher.relay.settler import Settler

CHECK_EVERY_S = 1.0


class HandlerSettler:
    """Settles what handlers ended: what ended while the settles before ran, one settle for each claim."""

    def __init__(self, postgres: ReconnectingSession, in_flight: InFlight, settler: Settler, pause: PauseCheck) -> None:
        self._postgres = postgres
        self._in_flight = in_flight
        self._settler = settler
        self._pause_check = pause
        self.released = 0  # rows; written by run()

    async def run(self) -> None:
        """Settle until cancelled."""
        in_flight = self._in_flight
        while True:
            await in_flight.some_ended.wait()
            in_flight.some_ended.clear()
            by_claim: dict[str, list[EndedTask]] = {}
            for ended in in_flight.to_settle():
                by_claim.setdefault(ended[0].claim_id, []).append(ended)
            for claim_id, batch in by_claim.items():
                outcomes = BatchOutcomes()
                for task, outcome in batch:
                    outcomes.add(task.row.id, outcome)
                settlement = await self._settler.settle(self._postgres, claim_id, outcomes)
                if settlement is not None:
                    self.released += settlement.released
            in_flight.note_settled()
            self._pause_check.note_claim_ended()


class HandlerLeases:
    """Renews the leases of rows in flight, and releases those that wait too long for a place."""

    def __init__(
        self,
        postgres: ReconnectingSession,
        in_flight: InFlight,
        pool: HandlerPool,
        leases: LeaseRenewer,
        *,
        lease_s: float,
        observe: Observer,
    ) -> None:
        self._postgres = postgres
        self._in_flight = in_flight
        self._pool = pool
        self._leases = leases
        self._lease_s = lease_s
        self._observe = observe

    async def run(self) -> None:
        """Check every second, or four times a lease where that is more often, until cancelled."""
        while True:
            await anyio.sleep(min(CHECK_EVERY_S, self._lease_s / 4))
            now = monotonic()
            for task in [each for each in self._in_flight.waiting if now - each.waits_since > WAIT_S]:
                self._in_flight.end(task, NO_PLACE)
                self._pool.prefetch.note(WAIT_S)
            self._pool.report()
            if self._in_flight and self._leases.is_time(self._lease_s / 5):
                await self._renew()
            elif not self._in_flight:
                self._leases.done()

    async def _renew(self) -> None:
        tasks = self._in_flight.everything()
        ours = await self._leases.renew(self._postgres, [(task.row.id, task.claim_id) for task in tasks])
        if ours is None:
            return
        gone = [task for task in tasks if (task.row.id, task.claim_id) not in ours]
        lost = [task for task in gone if self._in_flight.drop(task)]  # to handle them here too would be once too often
        self._in_flight.forget(lost)
        if lost:
            self._observe(Settled(sent=0, retried=0, dead=0, released=0, unknown=0, lost=len(lost)))
