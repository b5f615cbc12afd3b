"""The claimer: claims batches for one relay, one batch at a time."""

from collections.abc import Callable, Iterable, Sequence
from random import Random
from time import monotonic
from typing import TypedDict

import anyio
import psycopg

from dispatcher.core.errors import Misconfigured, SessionLost
from dispatcher.core.events import Claimed, Observer
from dispatcher.core.row import Batch, HandlerMark
from dispatcher.infra.postgres.failures import StatementFailures
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.trials import require_trials
from dispatcher.relay.cursor import ClaimCursor
from dispatcher.relay.policy import ClaimPolicy, PauseCheck
from dispatcher.relay.put_back import PutBack
from dispatcher.relay.settler import Settler
from dispatcher.relay.undone import claim_undone
from dispatcher.stages.claim import EventTypeFilter, claim, new_claim_id
from dispatcher.stages.settle import release

BACK_WITHIN_S = 3.0  # so long a stop waits for a session, to release claims whose answer was lost
ALL_TYPES = EventTypeFilter((), only_these=False)


class ClaimerParts(TypedDict):
    """What every claimer works with."""

    dispatcher_id: Callable[[], int | None]
    pause: PauseCheck
    observe: Observer
    rng: Random


class Claimer:
    """Claims, and knows on which claims lanes work. One task at a time claims; what only notes something is for any."""

    def __init__(
        self,
        policy: ClaimPolicy,
        *,
        dispatcher_id: Callable[[], int | None],
        pause: PauseCheck,
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._dispatcher_id = dispatcher_id
        self._pause_check = pause
        self._observe = observe
        self._rng = rng
        self._cursor = ClaimCursor(filtered=policy.event_types is not None)
        self._left_out: tuple[int, ...] = ()  # slots whose rows are not claimed
        self._uncertain = UncertainClaims()
        self._failures = StatementFailures("claim", observe, rng)
        self._trials_first = False  # before the next claim: see run_trials_first()
        self._event_types = policy.event_types
        self._put_back = PutBack(observe, self.run_trials_first)
        self.in_flight: set[str] = set()  # claim ids, from before the first statement of each to lanes_finished()

    def make_settler(
        self, *, batch_size: int, wake: Callable[[float], None], on_aside_round: Callable[[], None]
    ) -> Settler:
        """The settler of what is claimed here: it tells this claimer what the next claim has to know. See Settler."""
        return Settler(
            batch_size=batch_size,
            lease_s=self._policy.lease_s,
            wake=wake,
            run_trials_first=self.run_trials_first,
            given_back=self.given_back,
            on_aside_round=on_aside_round,
            observe=self._observe,
            rng=self._rng,
        )

    @property
    def unfinished(self) -> int:
        """How many claims may still be made, or have a lane; the relay adds those isolated or kept aside."""
        return len(self.in_flight) + len(self._uncertain)

    def lanes_finished(self, claim_id: str) -> None:
        """Note that no lane works on this claim any more. To call it twice does no harm.

        Its rows that are isolated or kept aside may be in flight still: the relay knows of these.
        """
        self.in_flight.discard(claim_id)

    def run_trials_first(self) -> None:
        """Run the trials before the next claim: no row of a settled batch was ours, or something undid a settle."""
        self._trials_first = True

    def given_back(self, ids: Iterable[int]) -> None:
        """Hear that rows were released, or are to be retried."""
        self._put_back.given_back(ids)

    def rescan(self) -> None:
        """Begin the next claim at the start, if claims pass over rows: see ClaimCursor.reset()."""
        self._cursor.reset()

    def set_event_types(self, event_types: EventTypeFilter | None) -> None:
        """Claim these event types from now on. If they changed, begin at the start: rows of new types may wait."""
        if event_types != self._event_types:
            self._event_types = event_types
            self.rescan()

    def leave_out(self, left_out: tuple[int, ...]) -> None:
        """From now on claim no row of these slots.

        The rows of these slots stay in the index. The cursor steps over them, as over rows of event types that are not
        claimed.
        """
        if left_out != self._left_out:
            self._left_out = left_out
            self._cursor = ClaimCursor(filtered=bool(left_out) or self._policy.event_types is not None)

    async def claim(
        self,
        postgres: ReconnectingSession,
        limit: int,
        floor: str | None,
        mark: HandlerMark | None = None,
        left_out: tuple[int, ...] = (),
    ) -> Batch | None:
        """Claim up to `limit` rows; a batch without rows when nothing is due.

        `floor`: the newest entry id known; None when the rows do not go to the stream. Then `mark` is what the rows say
        to a successor. `left_out`: slots whose rows are not claimed.

        Returns None when there is nothing to publish: there is no session, it was lost, the statement failed (the
        failure was told, and a pause has passed), everything is paused, or the answer came so late that the rows were
        released.
        """
        session = postgres.session
        if session is None:
            return None
        began = monotonic()
        self.leave_out(left_out)
        try:
            await self._uncertain.release(session)
            if self._trials_first:
                await self._run_trials(session)
            # Whoever paused waits until no claim is in flight. So _claim() adds the claim to in_flight before it awaits
            # anything: else a pause could see that nothing is in flight, and this claim would come after. The _claim()
            # of OrderedClaimer awaits its slots first, so it asks about the pause once more.
            if self._pause_check.paused():
                return None
            batch = await self._claim(session, limit, floor, mark)
            if monotonic() - began > self._policy.lease_s / 2:
                # This process was frozen meanwhile: another dispatcher may have taken the rows over already.
                self._uncertain.add(batch.claim_id, session)
                self.lanes_finished(batch.claim_id)
                await self._uncertain.release(session)
                return None
            if batch.rows:
                batch = await self._without_put_back(session, batch)
            if batch.undone_by_trigger:
                await self._failures.tell_and_wait(await claim_undone(session, batch.undone_by_trigger), began)
            else:
                self._failures.clear()
        except (Misconfigured, SessionLost, psycopg.Error) as error:
            await self._failures.tell_and_wait(error, began)
            return None
        if batch.rows:
            self._observe(Claimed(len(batch.rows), batch.full, batch.characters))
        return batch

    async def _without_put_back(self, session: Session, batch: Batch) -> Batch:
        try:
            kept = await self._put_back.bury_repeated(session, batch)
        except (SessionLost, psycopg.Error):  # else the rows would stay in flight, and nobody would work on them
            self._uncertain.add(batch.claim_id, session)
            self.lanes_finished(batch.claim_id)
            raise
        if not kept.rows:
            self.lanes_finished(batch.claim_id)
        return kept

    async def _claim(self, session: Session, limit: int, floor: str | None, mark: HandlerMark | None) -> Batch:
        while True:
            start = self._cursor.start(monotonic(), limit)
            claim_id = new_claim_id()
            self.in_flight.add(claim_id)
            try:
                if self._cursor.wants_highest_id:
                    began = monotonic()
                    [(highest,)] = await session.fetch(load("highest_id"))
                    self._cursor.note_highest(began, highest)
                batch = await claim(
                    session,
                    claim_id=claim_id,
                    dispatcher=self._dispatcher_id(),
                    limit=limit,
                    fresh_limit=start.fresh_limit,
                    canary_slots=self._policy.canary_slots,
                    after=start.after,
                    fresh_after=start.fresh_after,
                    floor=floor,
                    mark=mark,
                    event_types=self._event_types or (ALL_TYPES if self._left_out else None),
                    left_out=self._left_out,
                    since_s=start.since_s,
                    most_bytes=self._policy.max_payload_bytes,
                    sharded=self._policy.sharded,
                    layout=self._policy.layout,
                )
            except SessionLost:
                self._uncertain.add(claim_id, session)
                self.lanes_finished(claim_id)
                raise
            except psycopg.Error:
                self.lanes_finished(claim_id)
                raise
            if batch.rows:
                return batch._replace(full=self._cursor.advance(batch, limit, start))
            self.lanes_finished(claim_id)
            if batch.undone_by_trigger or self._cursor.found_nothing(batch, limit, start):
                return batch

    async def _run_trials(self, session: Session) -> None:
        # Cleared first: if the trials cannot run now, the next settle that finds no row of ours sets it again.
        self._trials_first = False
        try:
            await require_trials(session, "Postgres")
        except Misconfigured:
            self._trials_first = True
            raise

    async def release_uncertain(self, postgres: ReconnectingSession) -> None:
        """Release claims whose answer was lost, while nothing may be claimed. If this fails, the next call does it."""
        session, began = postgres.session, monotonic()
        if session is not None and self._uncertain:
            try:
                await self._uncertain.release(session)
            except (SessionLost, psycopg.Error) as error:
                await self._failures.tell_and_wait(error, began)

    async def release_at_stop(self, sessions: Sequence[ReconnectingSession]) -> None:
        """Release them after the last claim, on any of these sessions: else an order's slots would stay in hand, and
        a row that stays claimed makes a clean stop look like a death.

        The first session is waited for, for a moment: without one Postgres is away, and a takeover releases the claims.
        """
        while self._uncertain:
            postgres = next((each for each in sessions if each.session is not None), None)
            if postgres is not None:
                await self.release_uncertain(postgres)
                continue
            with anyio.move_on_after(BACK_WITHIN_S):
                await sessions[0].get_any()
            if all(each.session is None for each in sessions):
                return


class UncertainClaims:
    """Claims whose answer was lost or came too late. They may have been made, and nobody works on their rows."""

    def __init__(self) -> None:
        self._claims: list[tuple[str, int]] = []  # claim id, backend pid of the session that claimed
        self.on_released: Callable[[str], None] | None = None

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def ids(self) -> set[str]:
        """The claims that are noted."""
        return {claim_id for claim_id, _ in self._claims}

    def add(self, claim_id: str, session: Session) -> None:
        """Note a claim that this session made. To note it twice does no harm."""
        self._claims.append((claim_id, session.backend_pid))

    async def release(self, session: Session) -> None:
        """End the sessions that made these claims, so that no claim of theirs is made later; then release the claims.

        Raises SessionLost or psycopg.Error; then the claims stay noted.
        """
        while self._claims:
            noted = list(self._claims)
            if not session.pooled:
                await session.fetch(load("end_sessions"), {"pids": [pid for _, pid in noted]})
            await release(session, [claim_id for claim_id, _ in noted])
            del self._claims[: len(noted)]
            if self.on_released is not None:
                for claim_id, _ in noted:
                    self.on_released(claim_id)
