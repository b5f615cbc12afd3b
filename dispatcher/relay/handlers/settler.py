"""The desk of the handlers: writes down what became of each row as it ends, and keeps the leases of those in hand."""

import asyncio
from collections.abc import Callable
from random import Random
from time import monotonic

import anyio
import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Buried, Observer, Settled
from dispatcher.core.outcome import BatchOutcomes, Released
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.sqlfiles import load
from dispatcher.relay.handlers.in_flight import Ended, InFlight
from dispatcher.relay.stream.reconcile import REFUSED, statement_failed
from dispatcher.stages.settle import Settlement, settle

TEND_EVERY_S = 1.0
WAIT_S = 1.0  # a row that waits longer for a slot is given back: another dispatcher may have one
CROWDED = Released("no handler was free")


class HandlerSettler:
    """One task settles; what ends meanwhile is settled together.

    `due`: told in how many seconds a retry is due. `slow`: told how long a row waited in vain. `settled`: told that
    rows are not in hand any more. `beat`: each second.
    """

    def __init__(
        self,
        postgres: ReconnectingSession,
        hand: InFlight,
        *,
        lease_s: float,
        due: Callable[[float], None],
        slow: Callable[[float], None],
        settled: Callable[[], None],
        beat: Callable[[], None],
        observe: Observer,
        rng: Random,
    ) -> None:
        self._postgres = postgres
        self._hand = hand
        self._lease_s = lease_s
        self._due = due
        self._slow = slow
        self._settled = settled
        self._beat = beat
        self._observe = observe
        self._rng = rng
        self._more = asyncio.Event()  # something has ended
        self._empty = asyncio.Event()  # nothing is left to settle
        self.given_back = 0  # rows; written by settle_all()

    def nudge(self) -> None:
        """A row has ended."""
        self._empty.clear()
        self._more.set()

    async def empty(self) -> None:
        """Wait until everything that has ended is settled."""
        while self._hand.ended or self._hand.settling:
            self._empty.clear()
            await self._empty.wait()

    async def settle_all(self) -> None:
        """Settle what ends, until cancelled."""
        while True:
            await self._more.wait()
            self._more.clear()
            by_claim: dict[str, list[Ended]] = {}
            for ended in self._hand.to_settle():
                by_claim.setdefault(ended[0].claim_id, []).append(ended)
            for claim_id, batch in by_claim.items():
                await self._settle(claim_id, batch)
            self._hand.settled()
            self._settled()
            self._empty.set()

    async def _settle(self, claim_id: str, batch: list[Ended]) -> None:
        outcomes = BatchOutcomes()
        for work, outcome in batch:
            outcomes.add(work.row.id, outcome)
        settlement = await self._write(claim_id, outcomes)
        self.given_back += settlement.released
        if outcomes.retries:
            self._due(min(retry.delay_s for _, retry in outcomes.retries))
        if settlement.released:
            self._due(0.0)
        dead = [(row_id, each.error) for row_id, each in outcomes.dead if row_id not in settlement.lost]
        if dead:
            self._observe(Buried(dead))
        self._observe(
            Settled(
                sent=settlement.sent,
                retried=settlement.retried,
                dead=settlement.dead,
                released=settlement.released,
                unknown=0,
                lost=len(settlement.lost),
            )
        )

    async def _write(self, claim_id: str, outcomes: BatchOutcomes) -> Settlement:
        """Settle, on another session when one breaks: what was handled must not be handled again."""
        failures = 0
        while True:
            session = await self._postgres.get()
            began = monotonic()
            try:
                settlement = await settle(session, claim_id, outcomes)
            except (SessionLost, psycopg.Error) as error:
                failures += 1
                pause_s = REFUSED.reconnect_delay(failures, self._rng)
                await statement_failed(self._postgres, session, error, began, self._observe, pause_s=pause_s)
            else:
                # After a lost answer, rows the first try settled are not found by the second: not lost, just done.
                return settlement._replace(lost=frozenset()) if failures else settlement

    async def tend(self) -> None:
        """Renew leases and give back what waits too long, until cancelled."""
        renewed_at = monotonic()
        while True:
            await anyio.sleep(min(TEND_EVERY_S, self._lease_s / 4))
            now = monotonic()
            hand = self._hand
            for work in [each for each in hand.waiting if now - each.claimed_at > WAIT_S]:
                hand.end(work, CROWDED)
                self._slow(WAIT_S)
                self.nudge()
            self._beat()
            if len(hand) and now - renewed_at >= self._lease_s / 5:
                renewed_at = now
                await self._renew()

    async def _renew(self) -> None:
        in_hand = self._hand.everything()
        session = await self._postgres.get()
        began = monotonic()
        try:
            rows = await session.fetch(
                load("renew_claims"),
                {
                    "ids": [work.row.id for work in in_hand],
                    "claim_ids": [work.claim_id for work in in_hand],
                    "floor": None,
                },
            )
        except (SessionLost, psycopg.Error) as error:
            await statement_failed(self._postgres, session, error, began, self._observe)
            return
        ours = set(rows)
        lost = [work for work in self._hand.waiting if work in in_hand and (work.row.id, work.claim_id) not in ours]
        for work in lost:  # somebody else has them: to handle them here too would be once too often
            self._hand.waiting.remove(work)
        self._hand.forget(lost)
        if lost:
            self._observe(Settled(sent=0, retried=0, dead=0, released=0, unknown=0, lost=len(lost)))
