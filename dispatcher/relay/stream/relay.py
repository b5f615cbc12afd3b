"""The stream relay: lanes that take turns to claim, and overlap while they publish and settle.

One lane at a time has the turn: it sleeps, claims and writes its pipeline. Then the turn passes on, and while the next
lane claims, this one waits for the replies and settles. So claims are in order, pipelines reach the stream in the order
of the claims, and neither Postgres nor Redis waits for the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic

import anyio

from dispatcher.core.events import Observer, Ticked
from dispatcher.core.owned_slots import mask_of
from dispatcher.core.pacing import BatchSizer
from dispatcher.core.row import Batch, ClaimedRow
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.relay.claimer import Claimer, ClaimerParts
from dispatcher.relay.order.claimer import OrderedClaimer
from dispatcher.relay.order.groups import ALL_SLOTS_MASK
from dispatcher.relay.order.in_order import InOrder, OrderParts, make_order
from dispatcher.relay.policy import FlowControl, PauseCheck, StreamPolicy
from dispatcher.relay.stream.after_turn import AfterTurn, SinkBatch
from dispatcher.relay.stream.answers import SinkAnswers
from dispatcher.relay.stream.bisect import PoisonBisector
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.shard_sinks import ShardSinks
from dispatcher.relay.stream.sinks import Allowance, NotNow, OneSink, Sink, Sinks
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.stages.publish import send, unwritten

TRY_SINKS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class SinkParts:
    """What a sink is made of. `bisector_gate`: of the connection for isolated rows. `flow`: what limits how many rows
    may be published, for the sake of consumer groups that lag (backpressure).

    `slots`: rows of these slots go to this sink; empty: all rows.
    """

    gate: SinkGate
    bisector_gate: SinkGate
    flow: FlowControl
    slots: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class StreamParts:
    """What the stream relay works with: one sink, or those of a Cluster.

    `sink_of`: the number of the sink that a row goes to. `chores`: the session for what may wait for locks.
    """

    sinks: Sequence[SinkParts]
    doorbell: Doorbell
    lanes: list[ReconnectingSession]
    chores: ReconnectingSession
    pause: PauseCheck
    sink_of: Callable[[ClaimedRow], int] = lambda row: 0
    order: OrderParts | None = None


class StreamRelay:
    """Runs lanes until told to stop. Only the lane that has the turn changes the fields, unless said otherwise.

    `wake_handlers()` is called each turn, but not while paused, and lets the handler relay claim.
    """

    def __init__(
        self,
        policy: StreamPolicy,
        parts: StreamParts,
        *,
        batch_size: int,
        dispatcher_id: Callable[[], int | None],
        wake_handlers: Callable[[], None],
        observe: Observer,
        rng: Random,
    ) -> None:
        self._policy = policy
        self._doorbell = parts.doorbell
        self._lanes = parts.lanes
        self._chores = parts.chores
        self._pause_check = parts.pause
        self._wake_handlers = wake_handlers
        self._observe = observe
        self._sizer = BatchSizer(batch_size)
        self._stopping = anyio.Event()
        self._turns = anyio.Lock()
        self._order: InOrder | None = None
        claiming: ClaimerParts = {"dispatcher_id": dispatcher_id, "pause": parts.pause, "observe": observe, "rng": rng}
        if parts.order is None:
            self._claimer = Claimer(policy.claims, **claiming)
        else:
            self._order = make_order(
                parts.order,
                parts.doorbell,
                self.claims_in_flight,
                wake_relay=parts.doorbell.nudge,
                event_types=policy.claims.event_types,
                lanes=len(parts.lanes),
            )
            self._claimer = OrderedClaimer(policy.claims, self._order, own_pids=self._own_backend_pids, **claiming)
        self._settler = self._claimer.make_settler(
            batch_size=batch_size, wake=parts.doorbell.nudge, on_aside_round=parts.pause.note_claim_ended
        )
        if self._order is not None:
            self._order.sink_slots = [mask_of(each.slots) if each.slots else ALL_SLOTS_MASK for each in parts.sinks]
        sinks = [self._make_sink(policy, each, rng) for each in parts.sinks]
        self._sinks: Sinks = (
            OneSink(sinks[0], self._stopping, parts.doorbell.release_key)
            if len(sinks) == 1
            else ShardSinks(
                sinks,
                parts.sink_of,
                stopping=self._stopping,
                wake=self._sink_can_take_rows,
                may_connect=parts.pause.may_try_sink,
            )
        )
        self._after_turn = AfterTurn(self._lanes_finished, self._sink_can_take_rows)
        self._may_sleep = False  # the last claim came back short: sleep before the next
        self._try_sinks_at = 0.0  # when to ask the sinks again, while paused

    def _make_sink(self, policy: StreamPolicy, parts: SinkParts, rng: Random) -> Sink:
        answers = SinkAnswers(
            policy, gate=parts.gate, settler=self._settler, stopping=self._stopping, observe=self._observe, rng=rng
        )
        bisector = PoisonBisector(
            policy,
            gate=parts.bisector_gate,
            publisher=parts.gate.connection,  # the lanes publish on it
            answers=answers,
            stopping=self._stopping,
            pause=self._pause_check,
            observe=self._observe,
            rng=rng,
        )
        answers.order = bisector.order = self._order
        return Sink(parts.gate, parts.flow, answers, bisector, parts.slots)

    def _lanes_finished(self, claim_id: str) -> None:
        """No lane works on this claim any more."""
        self._claimer.lanes_finished(claim_id)
        self._pause_check.note_claim_ended()

    def _sink_can_take_rows(self) -> None:
        self._claimer.rescan()  # rows waited while the sink was shut; their index keys may be before the cursor
        self._doorbell.nudge()

    def claims_in_flight(self) -> set[str]:
        """The ids of the claims of which rows are worked on."""
        isolated = set[str]().union(*(sink.bisector.claims for sink in self._sinks.all))
        return self._claimer.in_flight | isolated | self._settler.aside.claims

    def unfinished(self) -> int:
        """How many claims may still be made, published or settled."""
        return self._claimer.unfinished + len(self.claims_in_flight() - self._claimer.in_flight)

    def stop(self) -> None:
        """Claim nothing new. `run()` returns when all in flight is settled, or left to a takeover."""
        self._stopping.set()
        for sink in self._sinks.all:
            sink.stop()
        self._doorbell.nudge()

    async def run(self) -> None:
        """Relay until `stop()`."""
        aside = self._settler.aside
        async with anyio.create_task_group() as beside:
            beside.start_soon(aside.run, self._chores, name="what is kept aside")
            async with anyio.create_task_group() as tasks:
                self._after_turn.background = tasks
                for sink in self._sinks.all:
                    tasks.start_soon(sink.bisector.run, name="bisector")
                self._sinks.start(tasks)
                for number, postgres in enumerate(self._lanes):
                    tasks.start_soon(self._lane, postgres, name=f"lane {number}")
            await self._claimer.release_at_stop([*self._lanes, self._chores])
            aside.stop()

    async def _lane(self, postgres: ReconnectingSession) -> None:
        while not self._stopping.is_set():
            # Before the turn: a lane whose session is away must not keep the other lanes from claiming.
            if postgres.session is None:
                await self._release_key_without_sessions()
                if await postgres.get_unless(self._stopping) is None:
                    continue
            async with self._turns:
                # Keep the turn after an empty claim: handing it over would wake another task each time.
                written = await self._turn(postgres)
                while written is None and self._may_sleep and not self._stopping.is_set():
                    written = await self._turn(postgres)
            if written is not None:
                await self._after_turn.run(postgres, written)

    async def _turn(self, postgres: ReconnectingSession) -> list[SinkBatch] | None:
        """One turn: wake, claim, write the pipeline. None: nothing was claimed."""
        if self._pause_check.paused():
            await self._stand_by(postgres)
            return None
        await self._wake()
        allowance = await self._allowance()
        if isinstance(allowance, NotNow):
            return None
        batch = await self._claimer.claim(postgres, allowance.rows, allowance.floor, left_out=allowance.left_out)
        if batch is None:
            return None
        self._sizer.note(len(batch.rows), batch.characters, full=batch.full)
        written = self._publish(batch, allowance) if batch.rows else None
        await self._note_claim(batch, allowance)
        return written

    def _own_backend_pids(self) -> list[int]:
        """Backend pids of our own sessions. The order's cursor waits for none of these: they write no events."""
        return [lane.session.backend_pid for lane in [*self._lanes, self._chores] if lane.session is not None]

    async def _stand_by(self, postgres: ReconnectingSession) -> None:
        """Claim nothing for a tick, a second at most, or until somebody resumed, rang or nudged."""
        self._may_sleep, began = False, monotonic()
        await self._claimer.release_uncertain(postgres)
        self._pause_check.note_claim_ended()
        await self._try_open_while_paused()
        took_s = monotonic() - began
        await self._doorbell.wait_while_paused(TRY_SINKS_EVERY_S)
        self._observe(Ticked("ok", took_s))

    async def _try_open_while_paused(self) -> None:
        """Find out whether Redis and the groups let rows through: an alert about a trouble that is over must end."""
        if monotonic() >= self._try_sinks_at and not self._stopping.is_set() and self._pause_check.may_try_sink():
            await self._sinks.try_open()
            self._try_sinks_at = monotonic() + TRY_SINKS_EVERY_S

    async def _wake(self) -> None:
        """Sleep if the last claim came back short, and let the handler relay claim."""
        if self._may_sleep:
            self._may_sleep = False
            if await self._doorbell.wait() == "nudge":
                self._claimer.rescan()  # something may have been released
        # Also reads the pause notification: when busy we never sleep, so nobody else would read it.
        await self._doorbell.read_notifications()
        self._wake_handlers()

    async def _allowance(self) -> Allowance | NotNow:
        """How much this turn may claim; nothing because of a stop, the sink, a consumer group, or rows kept aside."""
        if self._stopping.is_set():
            return NotNow.ASK_AGAIN
        began = monotonic()
        allowance = await self._sinks.allow(lambda: min(self._sizer.limit(), self._settler.aside.room))
        if allowance is NotNow.WAIT_FIRST:
            await self._doorbell.release_key()  # nobody will claim: writers need not ring
            await self._sinks.wait_changed()
            self._observe(Ticked("ok", monotonic() - began))
        if isinstance(allowance, NotNow):
            return allowance
        if isinstance(self._claimer, OrderedClaimer):
            self._claimer.connection_epochs = allowance.connection_epochs
            if self._order is not None and not self._order.slots.owned:
                await self._doorbell.release_key()  # we own no slot, so a ring would be for rows we may not claim
        return allowance

    def _publish(self, batch: Batch, allowance: Allowance) -> list[SinkBatch]:
        """Write the pipelines, without waiting for their replies."""
        return [self._publish_to(number, rows, allowance) for number, rows in self._sinks.split(batch).items()]

    def _publish_to(self, number: int, batch: Batch, allowance: Allowance) -> SinkBatch:
        sink = self._sinks.all[number]
        sink.flow.use_up(len(batch.rows))
        # Rows that failed before go to the bisector's connection, so a poison row cannot cut this one. A trial stays
        # here: it must test this connection.
        isolated = [] if allowance.trial else [row for row in batch.rows if row.attempts or row.suspect]
        if isolated:
            batch = batch._replace(rows=[row for row in batch.rows if not row.attempts and not row.suspect])
        connection = sink.gate.connection
        if connection.epoch == allowance.connection_epochs.get(number):
            written = send(connection, self._policy.entry, batch, self._policy.publish_timeout_s)
        else:  # connected again meanwhile: not verified yet, or the batch's floor is of another incarnation
            written = unwritten(batch, "the connection was replaced before it")
        return SinkBatch(sink, batch, written, allowance.began, isolated)

    async def _note_claim(self, batch: Batch, allowance: Allowance) -> None:
        """Decide how the next turn wakes, and whether other dispatchers are needed."""
        self._may_sleep = not batch.full
        if allowance.trial and not batch.rows:  # no row to try it with: none is due, or another dispatcher took it
            await self._sinks.try_open()
        await self._doorbell.note_claim(len(batch.rows))
        if batch.full and batch.rows and not allowance.trial:
            await self._doorbell.ring_peers()

    async def _release_key_without_sessions(self) -> None:
        """Release the doorbell's key while no lane has a session: writers would ring, and nobody could claim."""
        if any(lane.session is not None for lane in self._lanes):
            return
        async with self._turns:
            if not any(lane.session is not None for lane in self._lanes):
                await self._doorbell.release_key()
