"""What the settings make of all that works on rows: the relay, the handling, or both."""

from collections.abc import Callable
from random import Random

import anyio

from dispatcher.core.events import Observer
from dispatcher.handlers.load import Routes, load
from dispatcher.relay import HandlerPolicy, HandlerRelay, WakeLoop
from dispatcher.relay.handlers.call import HandlerExecutor
from dispatcher.relay.handlers.threads import Threads
from dispatcher.service.policies import entry_format, retry_policy, slots
from dispatcher.service.sessions import Sessions
from dispatcher.service.stream_engine import StreamEngine, build_stream_engine
from dispatcher.settings import Settings
from dispatcher.stages.claim import EventTypeFilter
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.upkeep.pause import PauseWatcher
from dispatcher.upkeep.registry import Registry


class Engine:
    """What works on rows: the relay, the handling, or both. Raises Misconfigured for REDIS_URL and for the handlers."""

    def __init__(
        self,
        s: Settings,
        name: str,
        links: Sessions,
        *,
        doorbell: Doorbell,
        registry: Registry,
        pause: PauseWatcher,
        observe: Observer,
        rng: Random,
    ) -> None:
        # Without the registry's lock we look dead: what is claimed then must not be taken for a dead one's.
        self._dispatcher_id = lambda: registry.id if links.control.session is not None else None
        self._doorbell = doorbell
        routes = load(s.handlers) if s.handlers else None
        self.stream: StreamEngine | None = None
        self.handling: HandlerRelay | None = None
        self.crew = HandlerExecutor(Threads("handler"), set())
        self._porter: WakeLoop | None = None
        if s.unrouted == "dead":
            self._porter = WakeLoop(doorbell, links.control, pause, observe)
        if routes is not None:
            arrived = self._porter.took if self._porter else doorbell.arrived
            self.handling = self._handling(s, routes, links, arrived, pause, observe, rng)
        if self._porter is None:
            share = EventTypeFilter(tuple(routes), handled=False) if routes is not None else None
            self.stream = build_stream_engine(
                s,
                name,
                links,
                share=share,
                beside=self.handling.nudge if self.handling else None,
                dispatcher_id=self._dispatcher_id,
                doorbell=doorbell,
                pause=pause,
                observe=observe,
                rng=rng,
            )

    def _handling(
        self,
        s: Settings,
        routes: Routes,
        links: Sessions,
        arrived: Callable[[int], None],
        pause: PauseWatcher,
        observe: Observer,
        rng: Random,
    ) -> HandlerRelay:
        grace_s = s.shutdown_grace_ms / 1000
        policy = HandlerPolicy(
            routes,
            share=EventTypeFilter(tuple(routes), handled=True) if s.unrouted == "stream" else None,
            parallel=s.max_parallel,
            timeout_s=s.handler_timeout_ms / 1000,
            patience_s=max(grace_s * 0.8, grace_s - 1.0),  # what is left of the grace is for giving back
            retry=retry_policy(s),
            unfit=entry_format(s).unfit,
            batch_size=s.batch_size,
            slots=slots(s),
            lease_s=s.lease_ms / 1000,
            tick_s=s.tick_ms / 1000,
            max_payload_bytes=s.max_payload_bytes,
        )
        return HandlerRelay(
            policy,
            postgres=links.handlers,
            crew=self.crew,
            dispatcher_id=self._dispatcher_id,
            arrived=arrived,
            pause=pause,
            observe=observe,
            rng=rng,
        )

    @property
    def in_flight(self) -> set[str]:
        """Claims of ours that are being worked on."""
        relaying = self.stream.relay.in_flight if self.stream else set()
        return relaying | self.handling.in_flight if self.handling else relaying

    @property
    def in_hand(self) -> int:
        """What may still be claimed, worked on or settled: 0 when a pause is obeyed."""
        relaying = self.stream.relay.in_hand if self.stream else 0
        return relaying + self.handling.in_hand if self.handling else relaying

    def freed(self) -> None:
        """Rows were put back: look for them."""
        self._doorbell.nudge()
        if self.handling is not None:
            self.handling.look_anew()

    async def run(self) -> int:
        """Work until `stop()`; returns how many rows of handlers were given back at the end."""
        given_back = 0
        async with anyio.create_task_group() as working:
            if self.stream is not None:
                working.start_soon(self.stream.relay.run, name="relay")
            if self._porter is not None and self.handling is not None:
                working.start_soon(self._porter.run, self.handling.nudge, name="porter")
            if self.handling is not None:
                given_back = await self.handling.run()
        return given_back

    def stop(self) -> None:
        """Take nothing new."""
        if self.stream is not None:
            self.stream.relay.stop()
        if self._porter is not None:
            self._porter.stop()
        if self.handling is not None:
            self.handling.stop()

    def close(self) -> None:
        """After `run()`."""
        if self.stream is not None:
            self.stream.connection.close()
