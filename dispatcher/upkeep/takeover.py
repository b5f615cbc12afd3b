"""The takeover: settles or releases the rows of a dispatcher that died or froze, so that no crash leaves one behind.

A dead dispatcher is known by its free lock, in about a second (not just after we reconnected, never behind a pooler);
a frozen dispatcher by its lease (watched_claims.py). It is fenced first, if the registry has it. Then the stream is
searched for its rows: a row that is found is settled as sent. A row whose handler had, or may have, begun is charged
(charge.py), unless its owner turns out to live. All others are released.
"""

from collections.abc import Callable, Collection, Sequence
from random import Random
from time import monotonic

from dispatcher.core.decide import RetryPolicy
from dispatcher.core.events import Observer, Reconciled, TakenOver
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.stages.claim import new_claim_id
from dispatcher.stages.settle import release, settle
from dispatcher.upkeep.adopted import Adopted, AdoptedSearch, SearchedSink, adopt, of_the_dead, renew
from dispatcher.upkeep.charge import charge_begun, tell_charged
from dispatcher.upkeep.duty import repeat, tell_failure
from dispatcher.upkeep.fence import OPENS_AGAIN_S, fence
from dispatcher.upkeep.registry import find_dead
from dispatcher.upkeep.slot_handover import SlotHandover
from dispatcher.upkeep.standing_layout import StandingLayout
from dispatcher.upkeep.watched_claims import WatchedClaim, WatchedClaims

WINDOW = 20_000  # unsettled rows that one check of the claims reads
ADOPT = 2_000  # rows taken over in one statement
EVERY_S = 1.0
AT_THE_START = ("-infinity", 0)  # of the unsettled rows, which lie in the order of (next_run_at, id)
AFTER_RECONNECT_S = 3.0  # as our session was replaced, other dispatchers may just be opening theirs: not dead
_LOCK = f"SELECT pg_try_advisory_lock({locks.REGISTRY}, %(id)s::integer)"
_UNLOCK = f"SELECT pg_advisory_unlock({locks.REGISTRY}, %(id)s::integer)"


class Takeover:
    """Takes over from the dead and the frozen. Its fields are written by its own task only."""

    def __init__(
        self,
        sinks: Sequence[SearchedSink],
        *,
        layout: StandingLayout,
        lease_s: float,
        deadline_s: float,
        retry: Callable[[str], RetryPolicy],
        rng: Random,
        dispatcher_id: Callable[[], int | None],
        own_row_gone: Callable[[], None],
        claims_in_flight: Callable[[], Collection[str]],
        rows_released: Callable[[], None],
        observe: Observer,
        handover: SlotHandover | None = None,
        window: int = WINDOW,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._window = window
        self._every_s = every_s
        self._check_claims_every_s = min(max(lease_s / 6, every_s), 5.0)
        self._clock = clock
        self._search = AdoptedSearch(sinks, layout.ours, lease_s=lease_s)  # no sink: no event goes to the stream
        self._layout = layout
        self._lease_s = lease_s
        self._deadline_s = deadline_s
        self._retry = retry  # of rows for handlers, by event type
        self._rng = rng
        self._dispatcher_id = dispatcher_id
        self._own_row_gone = own_row_gone  # called when our own row in the registry is gone
        self._claims_in_flight = claims_in_flight  # our own
        self._rows_released = rows_released
        self._observe = observe
        self._handover = handover  # None: no order is kept
        self._told: set[int] = set()  # ids of dead dispatchers for which a TakenOver was emitted
        self._after = AT_THE_START  # the key after which the next window begins
        self._session: Session | None = None  # the session of the last check
        self._check_dead_from = 0.0
        self._check_claims_at = 0.0
        self._watched = WatchedClaims(lease_s, at_most_s=2 * self._check_claims_every_s)
        self._adopted: list[Adopted] = []  # adopted rows that are not settled yet
        self._renewed_at = clock()  # when the leases of adopted rows were renewed last

    async def run(self, postgres: ReconnectingSession) -> None:
        """Check every second until cancelled; the claims of others every lease/6 within the bounds of 1 s and 5 s."""
        await repeat(postgres, self._check, failed=tell_failure(self._observe, "takeover"), pause_s=self._every_s)

    async def _check(self, session: Session) -> float:
        if session is not self._session:
            first, self._session = self._session is None, session
            self._check_dead_from = 0.0 if first else monotonic() + AFTER_RECONNECT_S
            self._watched.forget()
        # Without the sink no fence and no search. In a Cluster only rows of shards whose node is away wait.
        if not self._search.note_which_answer():
            return self._every_s
        await self.settle_adopted(session)
        # Behind a transaction pooler the lock that we take on a dead dispatcher would stay in the pool.
        if monotonic() >= self._check_dead_from and not session.pooled:
            await self.take_over_from_dead_and_slot_owners(session)
        if monotonic() >= self._check_claims_at:
            self._check_claims_at = monotonic() + self._check_claims_every_s
            await self.take_over_from_frozen(session)
        return OPENS_AGAIN_S if any(each.died for each in self._adopted) else self._every_s

    async def take_over_from_dead_and_slot_owners(self, session: Session) -> None:
        """Take over from the dead; with an order, also from owners of slots that froze with nothing in hand."""
        if self._handover is not None:
            await self._handover.fence_frozen(session, self._search.connections(), self._deadline_s)
        await self.take_over_from_dead(session)
        if self._handover is not None:
            await self._handover.free(session)

    async def take_over_from_dead(self, session: Session) -> int:
        """Take over from every dispatcher whose lock is free; returns how many rows were adopted."""
        total, us = 0, self._dispatcher_id()
        for owner, name in await find_dead(session, us):
            if owner == us:
                self._own_row_gone()
                continue
            # We hold the lock of the dead dispatcher meanwhile: only one dispatcher takes over from it.
            [(locked,)] = await session.fetch(_LOCK, {"id": owner})
            if not locked:
                continue
            try:
                if owner not in self._told or self._may_search():  # else it left us nothing but rows for streams
                    total += await self._take_over_from_one(session, owner, name)
                await session.fetch(load("deregister"), {"id": owner})  # does nothing while rows of it wait
            finally:
                await session.fetch(_UNLOCK, {"id": owner})
        return total

    def _may_search(self) -> bool:
        """Whether rows for streams are ours to take over from the dead: we have streams, and the layout that stands."""
        return self._search.has_sinks and not self._layout.differs

    async def _take_over_from_one(self, session: Session, owner: int, name: str) -> int:
        claims = await self._fence_dead(session, owner, name)
        cause = f"the process {name} ended while the handler of this event ran"
        rows = await self._adopt_and_settle(session, name, cause, claims=claims, picked_without_claim=True, owner=owner)
        if not (rows or owner in self._told):
            self._observe(TakenOver(0, name, died=True))
        self._told.add(owner)
        if self._handover is not None:
            await self._handover.free(session)
        return rows

    async def _fence_dead(self, session: Session, owner: int, name: str) -> list[str]:
        """Fence a dispatcher. Returns its claims whose rows may be adopted now."""
        connections, deadline_s = self._search.connections(), self._deadline_s
        if self._handover is not None and await self._handover.revoke(session, owner, name):
            await self._handover.fence(session, connections, owner, name, deadline_s)
            # Listed after the fence: the dispatcher owns no slot, so it claims nothing more, and no claim is under way.
            return await self._claims_of(session, owner)
        # Listed before the fence: one that is alive may open new sessions after it, and publish what it claims there.
        claims = await self._claims_of(session, owner)
        await fence(session, connections, name, deadline_s)
        return claims

    async def _claims_of(self, session: Session, owner: int) -> list[str]:
        return [claim for (claim,) in await session.fetch(load("claims_of"), {"owner": owner})]

    async def take_over_from_frozen(self, session: Session) -> int:
        """Take over claims that have stood still for the length of the lease; returns how many rows were adopted."""
        stood_still = await self._claims_that_stood_still(session)
        own_claims = self._claims_in_flight()
        by_owner: dict[tuple[int | None, str | None], list[WatchedClaim]] = {}
        for claim, name in stood_still.items():
            if claim.claim_id not in own_claims:
                by_owner.setdefault((claim.owner, name), []).append(claim)
        total = 0
        for (owner, name), claims in by_owner.items():
            if name is not None and owner != self._dispatcher_id():
                await fence(session, self._search.connections(), name, self._deadline_s)
            named = [claim for claim in claims if claim.claim_id is not None]
            picked_without_claim = len(named) < len(claims)
            cause = (
                f"the process {name or 'unknown'} gave no sign of life for a lease ({self._lease_s:g} s) "
                "while the handler of this event ran: it blocks the event loop, or the process was frozen"
            )
            total += await self._adopt_and_settle(
                session, name or "unknown", cause, stood_still=named, picked_without_claim=picked_without_claim
            )
            for claim in claims:
                self._watched.drop(claim)
        return total

    async def _claims_that_stood_still(self, session: Session) -> dict[WatchedClaim, str | None]:
        """Check the claims of the next window. Returns those that stood still for a lease, and their owners' names."""
        began = self._clock()
        suspected = self._watched.begin_check(began)  # claims that stood still so far
        after_time, after_id = self._after
        # list_claims.sql says what the columns are: first of the window, then of each claim.
        [(_, _, _, rows_read, last_time, last_id, _, postgres_s, _), *listed] = await session.fetch(
            load("list_claims"),
            {
                "after_time": after_time,
                "after_id": after_id,
                "window": self._window,
                "rows": list(suspected.values()),
                "claim_ids": [claim.claim_id for claim in suspected],
                "picked_at": [claim.picked_at for claim in suspected],
            },
        )
        self._after = (last_time, last_id) if rows_read == self._window else AT_THE_START
        self._watched.note_check(began, self._clock(), postgres_s)
        stood_still: dict[WatchedClaim, str | None] = {}
        for claim_id, owner, name, _, _, row, picked_at, age_s, unchanged in listed:
            claim = WatchedClaim(claim_id, owner, picked_at)
            if self._watched.note(claim, row, age_s) or unchanged:
                stood_still[claim] = name
        for claim in suspected.keys() - stood_still.keys():
            self._watched.drop(claim)  # its row was settled or renewed: if it has others, another row will stand for it
        return stood_still

    async def _adopt_and_settle(
        self,
        session: Session,
        name: str,
        cause: str,
        *,
        claims: Collection[str] = (),
        stood_still: Collection[WatchedClaim] = (),
        picked_without_claim: bool = False,
        owner: int | None = None,
    ) -> int:
        """Adopt the rows of these claims and settle them, a part at a time; returns how many rows. See adopt.sql.

        `stood_still`: of these claims only rows that were not renewed since. `picked_without_claim`: also rows that are
        picked without a claim id. `owner`: the dispatcher that died; None: the owner froze.
        """
        # Without a stream of our own we could not search: another one may, within a second. After a lease nobody did.
        layout = self._layout.our_fingerprint if self._search.has_sinks or owner is None else None
        total = 0
        while True:
            claim_id = new_claim_id()
            rows = await adopt(
                session,
                {
                    "self": self._dispatcher_id(),
                    "claim_id": claim_id,
                    "claims": list(claims),
                    "still_claims": [claim.claim_id for claim in stood_still],
                    "still_at": [claim.picked_at for claim in stood_still],
                    "picked_without_claim": picked_without_claim,
                    "owner": owner,
                    "left_out": self._search.left_out,
                    "layout": layout,
                    "limit": ADOPT,
                },
            )
            if not rows:
                return total
            total += len(rows)
            self._observe(TakenOver(len(rows), name, died=owner is not None))
            adopted = Adopted(claim_id, rows, cause)
            died = owner is not None
            self._adopted += of_the_dead(adopted, name, self._clock() + OPENS_AGAIN_S) if died else [adopted]
            await self.settle_adopted(session)

    async def settle_adopted(self, session: Session) -> None:
        """Search the stream for adopted rows: sent when found; charged if their handler may have begun; else released.

        Raises Unreachable, SessionLost or psycopg.Error; a later call settles the rows that are left.
        """
        if self._adopted and self._clock() - self._renewed_at >= self._lease_s / 4:
            self._renewed_at = self._clock()
            await renew(session, self._adopted)
        at = 0
        while at < len(self._adopted):
            searchable, waiting = self._search.split(self._adopted[at], self._clock())
            if searchable.rows:
                await self._settle_part(session, searchable)
            if waiting.rows:
                self._adopted[at] = waiting
                at += 1
            else:
                self._adopted.pop(at)

    async def _settle_part(self, session: Session, adopted: Adopted) -> None:
        streams = self._layout.ours.keys_by_row(adopted.rows)
        undone, in_streams = frozenset[int](), 0
        for found, incarnation in await self._search.find(session, adopted):
            sent = BatchOutcomes(list(found), list(found.values()), incarnation=incarnation, streams=streams)
            undone |= (await settle(session, adopted.claim_id, sent)).undone
            in_streams += len(found)
        charged, outcomes = await charge_begun(session, adopted, self._retry, self._rng)
        settlement = await settle(session, adopted.claim_id, outcomes)
        undone |= settlement.undone
        # All rows but those that are undone: release.sql leaves rows that were just settled, as they are not picked any
        # more. Rows that are undone stay claimed: released, they would be published again, though they may be sent.
        await release(session, [adopted.claim_id], [row.id for row in adopted.rows if row.id not in undone])
        self._observe(Reconciled(in_streams, len(adopted.rows) - in_streams))
        if charged:
            tell_charged(charged, outcomes, settlement, self._observe)
        self._rows_released()
