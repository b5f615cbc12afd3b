"""Redis was lost while a row was sent alone: is it the row's own failure, or an outage that met the row by chance?

Redis may end on a row (a bug, a module), come back, and end on that row again. So rows under which Redis was lost, one
of which was cut off or failed before, are suspects: each is published alone, once Redis has been up for a while. The
row is charged only if Redis takes other entries before it, and ends twice in a row just as this row is sent. Another
application or dispatcher that crashes Redis again and again does so at other moments, for that while has a random
length. A Redis that ends on every write takes no other entries.
"""

from collections.abc import Awaitable, Callable
from random import Random
from time import monotonic

import anyio

from dispatcher.core.backoff import Backoff
from dispatcher.core.decide import ClosesConnection, RetryPolicy, decide
from dispatcher.core.events import ClosedConnection, Observer
from dispatcher.core.outcome import BatchOutcomes
from dispatcher.core.row import SERVER_LOST, ClaimedRow
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.relay.stream.answers import make_suspects
from dispatcher.relay.stream.gate import SinkGate

UP_S = 1.0  # so long, and at random up to twice as long, Redis has to be up before such a row is sent
PROOFS = 2  # so often Redis must be lost under a row alone before it is charged for the first time
REMEMBERED = 10_000  # at most so many rows; then all are forgotten
NOT_PROVEN = Backoff(base_s=2.0, cap_s=60.0)  # pauses of a row that cannot be charged: each try may be an outage


class Suspects:
    """What the bisector knows of losses of Redis. Used by its task only."""

    def __init__(
        self, gate: SinkGate, publisher: RedisConnection, *, stopping: anyio.Event, observe: Observer, rng: Random
    ) -> None:
        self._gate = gate
        self._publisher = publisher  # of the lanes
        self._stopping = stopping
        self._observe = observe
        self._rng = rng
        self._stable_server: object = None  # the server that has been up for long enough
        self._takes_others = False  # whether that server took another entry, or a write of ours, before this row
        self._lost: dict[int, int] = {}  # by row id: how often Redis was lost while the row was sent alone
        self._charged: set[int] = set()

    async def wait_until_stable(self, every_s: float, renew: Callable[[], Awaitable[object]]) -> bool:
        """Wait until Redis has been up for a while. False: Redis was lost meanwhile, or we stop.

        `renew()` is called about every `every_s` seconds: leases must not run out.
        """
        connection = self._gate.connection
        server = self._server(connection)
        until = monotonic() + self._rng.uniform(UP_S, 2 * UP_S)
        while self._stable_server != server and (left_s := until - monotonic()) > 0:
            with anyio.move_on_after(min(left_s, every_s)):
                await self._stopping.wait()
            if self._stopping.is_set() or not connection.up or self._server(connection) != server:
                return False
            await renew()
        if not await self._gate.wait_open() or self._server(connection) != server:
            return False
        self._stable_server = server
        self._takes_others = self._took_others() or await self._gate.takes_writes()
        return True

    def judge(self, row: ClaimedRow, outcomes: BatchOutcomes, policy: RetryPolicy) -> bool:
        """Redis was lost while this row was sent alone. Returns whether to try it again; else files its outcome."""
        if len(self._lost) > REMEMBERED:
            self._lost.clear()
            self._charged.clear()
        times = self._lost[row.id] = self._lost.get(row.id, 0) + 1
        if not self._takes_others:
            make_suspects([row], outcomes, NOT_PROVEN.reconnect_delay(times, self._rng))
            return False
        if times < PROOFS and row.id not in self._charged:
            return True
        self._charged.add(row.id)
        size = len(row.payload.encode())
        error = (
            f"{SERVER_LOST}: Redis ends, or closes the connection, whenever this row is sent, alone, and takes others: "
            f"payload of {size} bytes"
        )
        outcomes.add(row.id, decide(ClosesConnection(error), row.attempts, policy, self._rng))
        self._observe(ClosedConnection(row.id, size, server=True))
        return False

    def passed(self, rows: list[int]) -> None:
        """Note that Redis took these rows."""
        for row_id in rows:
            self._lost.pop(row_id, None)
            self._charged.discard(row_id)

    def _took_others(self) -> bool:
        here = self._gate.connection
        return any(
            each.known_entries.added
            and each.incarnation is not None
            and each.incarnation.same_and_known(here.incarnation)
            for each in (here, self._publisher)
        )

    @staticmethod
    def _server(connection: RedisConnection) -> object:
        """What stands for the server that answers; the connection, where the server does not say who it is."""
        incarnation = connection.incarnation
        if incarnation is None or not incarnation.known:
            return connection.epoch
        return incarnation.run_id, incarnation.replid
