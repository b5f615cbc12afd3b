"""The relay of proof events: real sessions, doorbell, lanes and connection, without the duties that run beside them.

The duties (takeover, the audits, retention) are about all rows of the outbox, and belong to the dispatchers.
"""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from random import SystemRandom
from uuid import uuid4

import anyio

from dispatcher.core.breaker import Breaker
from dispatcher.core.errors import Unreachable
from dispatcher.core.events import Observer
from dispatcher.core.layout import SLOTS
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.relay.policy import StreamPolicy
from dispatcher.relay.stream.gate import SinkGate
from dispatcher.relay.stream.relay import SinkParts, StreamParts, StreamRelay
from dispatcher.service.policies import claim_policy, entry_format, retry_policy
from dispatcher.service.process import one_error
from dispatcher.service.sessions import Sessions
from dispatcher.service.stream_engine import BREAKER
from dispatcher.settings import Settings
from dispatcher.stages.claim import PROOF_EVENT_TYPE, EventTypeFilter
from dispatcher.stages.doorbell.wake import Doorbell

# Another dispatcher may hold the doorbell's key: then nobody rings this one.
TICK_MS = 20
OPENS_WITHIN_S = 30.0


class NoPause:
    """Proof events go out during a pause too, and wait for no consumer group."""

    def paused(self) -> bool:
        """Never."""
        return False

    def note_claim_ended(self) -> None:
        """Nobody waits for it."""

    def may_try_sink(self) -> bool:
        """Always."""
        return True

    async def allowance(self) -> int:
        """As many rows as a claim takes."""
        return self.rows_left()

    def rows_left(self) -> int:
        """As many rows as a claim takes."""
        return 10_000

    def would_ask_redis(self) -> bool:
        """There is nothing to ask."""
        return False

    def use_up(self, rows: int) -> None:
        """Nothing is held back."""


class ProofRelay:
    """`name`: what Postgres and Redis know its connections by.

    `layout`: the fingerprint that stands in Postgres. Whichever it is, proof events go to a stream of their own.
    """

    def __init__(self, settings: Settings, stream: str, layout: str, observe: Observer) -> None:
        s = replace(
            settings, stream_name=stream, stream_shards=1, routes=(), order="none", tick_ms=TICK_MS, enabled=True
        )
        rng, token = SystemRandom(), uuid4().hex[:8]
        self.name = f"{socket.gethostname()}-{os.getpid()}-{token}"
        self.sessions = Sessions(s, f"{token} {self.name}", observe=observe, rng=rng)
        doorbell = Doorbell(
            self.sessions.control,
            tick_s=TICK_MS / 1000,
            slots=SLOTS,
            heartbeat_channel=f"outbox_ping_{uuid4().hex}",
            observe=observe,
            proof_events=True,
        )

        def connection(name: str) -> RedisConnection:
            return RedisConnection(
                lambda: RedisTarget.parse(s.current("redis_url")),
                name=name,
                streams=(stream,),
                connect_timeout_s=s.connect_timeout_ms / 1000,
                on_lost=lambda _why: doorbell.nudge(),
            )

        def gate(publisher: RedisConnection) -> SinkGate:
            timeout_s = s.publish_timeout_ms / 1000
            return SinkGate(publisher, Breaker(BREAKER, rng), layout=s.layout, timeout_s=timeout_s, observe=observe)

        self.publisher = connection(self.name)
        self.reader = connection(f"prove-{self.name}")
        self._bisector = connection(self.name)
        no_pause = NoPause()
        self._relay = StreamRelay(
            StreamPolicy(
                replace(claim_policy(s, EventTypeFilter((PROOF_EVENT_TYPE,), only_these=True)), layout=layout),
                entry_format(s),
                retry_policy(s),
                s.publish_timeout_ms / 1000,
            ),
            StreamParts(
                [SinkParts(gate(self.publisher), gate(self._bisector), no_pause)],
                doorbell,
                self.sessions.lanes,
                self.sessions.chores,
                no_pause,
            ),
            batch_size=s.batch_size,
            dispatcher_id=lambda: None,
            wake_handlers=lambda: None,
            observe=observe,
            rng=rng,
        )

    @property
    def kept(self) -> list[ReconnectingSession]:
        """The sessions that the relay works with."""
        return [self.sessions.control, *self.sessions.lanes]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Relay while the block runs, then settle what is in flight.

        Raises Misconfigured where a person has to act, Unreachable when a server does not answer within 30 s.
        """
        await self.reader.connect()
        with one_error():
            async with anyio.create_task_group() as tasks:
                try:
                    for postgres in (*self.kept, self.sessions.chores):
                        await tasks.start(postgres.keep)
                    with anyio.move_on_after(OPENS_WITHIN_S):
                        await self.sessions.lanes[0].get()
                    if self.sessions.lanes[0].session is None:
                        raise Unreachable(f"Postgres was not reached within {OPENS_WITHIN_S:g} s")
                    async with anyio.create_task_group() as relaying:
                        relaying.start_soon(self._relay.run, name="relay")
                        try:
                            yield
                        finally:
                            self._relay.stop()
                finally:
                    for each in (self.publisher, self._bisector, self.reader):
                        each.close()
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(0.01)  # for the loop to close the sockets
                    tasks.cancel_scope.cancel()
