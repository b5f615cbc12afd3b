"""The engine: all that works on rows, put together from the settings. The stream relay, the handler relay, or both."""

import anyio

from dispatcher.core.decide import RetryPolicy
from dispatcher.handlers.load import HandlersByType, load
from dispatcher.relay.handlers.call import HandlerExecutor
from dispatcher.relay.handlers.relay import HandlerRelay
from dispatcher.relay.handlers.threads import Threads
from dispatcher.relay.handlers.wake_loop import WakeLoop
from dispatcher.relay.order.in_order import OrderParts
from dispatcher.relay.policy import HandlerPolicy, LayoutPause
from dispatcher.service.context import Context
from dispatcher.service.policies import claim_policy, entry_format, handler_retry_policy
from dispatcher.service.stream_engine import StreamEngine, build_stream_engine
from dispatcher.stages.claim import EventTypeFilter


class Engine:
    """Runs the relays of one process. Raises Misconfigured for REDIS_URL and for the handlers."""

    def __init__(self, c: Context) -> None:
        s = c.settings
        self._doorbell = c.doorbell
        self._handlers_pause = LayoutPause(c.pause, lambda: c.layout.bars_handlers)
        self._by_type = by_type = load(s.handlers) if s.handlers else None
        self._handler_retry = handler_retry_policy(s)
        self.event_types = tuple(by_type or ())  # that go to a handler
        self.stream: StreamEngine | None = None
        self.handlers: HandlerRelay | None = None
        self.executor = HandlerExecutor(Threads("handler"), set())
        self._wake_loop: WakeLoop | None = None
        if s.unrouted == "dead":
            self._wake_loop = WakeLoop(c.doorbell, self._handlers_pause, c.observe)
        if by_type is not None:
            self.handlers = self._handler_relay(c, by_type)
        if self._wake_loop is None:
            event_types = EventTypeFilter(tuple(by_type), only_these=False) if by_type is not None else None
            self.stream = build_stream_engine(c, event_types=event_types, wake_handlers=self._wake_handlers)

    def _handler_relay(self, c: Context, by_type: HandlersByType) -> HandlerRelay:
        s = c.settings
        grace_s = s.shutdown_grace_ms / 1000
        event_types = EventTypeFilter(tuple(by_type), only_these=True) if s.unrouted == "stream" else None
        policy = HandlerPolicy(
            claim_policy(s, event_types),
            by_type,
            retry=self._handler_retry,
            parallel=s.max_parallel,
            timeout_s=s.handler_timeout_ms / 1000,
            patience_s=max(grace_s * 0.8, grace_s - 1.0),  # what is left of the grace is for releasing
            unpublishable=entry_format(s).unpublishable,
            batch_size=s.batch_size,
            tick_s=s.tick_ms / 1000,
        )
        return HandlerRelay(
            policy,
            postgres=c.sessions.handlers,
            chores=c.sessions.chores,
            executor=self.executor,
            dispatcher_id=c.registry.locked_id if c.handler_slots is None else lambda: c.registry.id,
            on_claim=self._wake_loop.note_claim if self._wake_loop else c.doorbell.note_arrivals,
            pause=self._handlers_pause,
            observe=c.observe,
            rng=c.rng,
            order=OrderParts(c.handler_slots, s.order_on_dead == "hold") if c.handler_slots is not None else None,
            doorbell=c.doorbell,
        )

    def _wake_handlers(self) -> None:
        if self.handlers is not None:
            self.handlers.wake()

    def handler_retry(self, event_type: str) -> RetryPolicy:
        """How often a handler of this type is tried, also where it ends its process."""
        handler = (self._by_type or {}).get(event_type)
        return handler.retry(self._handler_retry) if handler else self._handler_retry

    def claims_in_flight(self) -> set[str]:
        """The ids of our claims that are worked on."""
        claims = self.stream.relay.claims_in_flight() if self.stream else set()
        return claims | self.handlers.claims_in_flight() if self.handlers else claims

    def unfinished(self) -> int:
        """How many claims may still be made, worked on or settled: 0 when a pause is obeyed."""
        count = self.stream.relay.unfinished() if self.stream else 0
        return count + self.handlers.unfinished() if self.handlers else count

    def rows_released(self) -> None:
        """Claim soon: rows were released or put back."""
        self._doorbell.nudge()
        if self.handlers is not None:
            self.handlers.rescan()

    async def run(self) -> int:
        """Work until `stop()`; returns how many rows of handlers were released at the end."""
        released = 0
        async with anyio.create_task_group() as working:
            if self.stream is not None:
                working.start_soon(self.stream.relay.run, name="stream relay")
            if self._wake_loop is not None and self.handlers is not None:
                working.start_soon(self._wake_loop.run, self.handlers, name="wake loop")
            if self.handlers is not None:
                released = await self.handlers.run()
        return released

    def stop(self) -> None:
        """Claim nothing new."""
        if self.stream is not None:
            self.stream.relay.stop()
        if self._wake_loop is not None:
            self._wake_loop.stop()
        if self.handlers is not None:
            self.handlers.stop()

    def close(self) -> None:
        """Close the connection to Redis, after `run()`."""
        if self.stream is not None:
            self.stream.close()
