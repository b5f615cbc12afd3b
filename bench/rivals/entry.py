"""What every peer publishes, and how: the dispatcher's own wire to Redis, so that what is compared is the queue.

A job's body is one JSON object of texts, as an application would enqueue the event.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from dispatcher.core.decide import Refused
from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.infra.redis.pipe import Pipe

TIMEOUT_S = 10.0
BODY = """jsonb_build_object(
    'event_id', {0}::text, 'message_id', {1}::text, 'event_type', {2}::text, 'aggregate_id', {3}::text,
    'payload', {4}::text, 'headers', {5}::text)"""
OF_ONE = BODY.format("$1", "$2", "$3", "$4", "$5", "$6")
OF_SAMPLES = BODY.format(
    "gen_random_uuid()", "gen_random_uuid()", "s.event_type", "s.aggregate_id", "s.payload", "s.headers"
)


class Publisher:
    """Adds events to the stream. One connection; events of concurrent handlers travel together."""

    def __init__(self, pipe: Pipe, stream: str) -> None:
        self._pipe = pipe
        self._stream = stream

    @classmethod
    async def connect(cls, url: str, stream: str) -> "Publisher":
        """Connect, log in, choose the database."""
        parts = urlsplit(url)
        if parts.scheme != "redis":
            raise Misconfigured("peers speak to Redis without TLS: --redis-url must be a redis:// URL")
        _, pipe = await asyncio.get_running_loop().create_connection(
            lambda: Pipe(lambda pipe, why: None), parts.hostname or "127.0.0.1", parts.port or 6379
        )
        commands: list[tuple[str, ...]] = [("SELECT", parts.path.strip("/") or "0")]
        if parts.password:
            user = (unquote(parts.username),) if parts.username else ()
            commands.insert(0, ("AUTH", *user, unquote(parts.password)))
        if any(reply != b"OK" for reply in await pipe.send(commands, TIMEOUT_S)):
            raise Misconfigured("Redis refuses the login or the database")
        return cls(pipe, stream)

    async def publish(self, event: Mapping[str, str | None]) -> None:
        """Add one event, as the dispatcher would. Raises Unreachable: the job must be tried again."""
        command = [
            "XADD", self._stream, "MAXLEN", "~", "1000000", "*",
            "event_id", event["event_id"] or "",
            "message_id", event["message_id"] or "",
            "event_type", event["event_type"] or "",
            "aggregate_type", "message",
            "aggregate_id", event["aggregate_id"] or "",
            "occurred_at", "2025-02-03T04:05:06.789012Z",
            "payload", event["payload"] or "",
        ]  # fmt: skip
        if headers := event["headers"]:
            command += ["headers", headers]
        [reply] = await self._pipe.send([tuple(command)], TIMEOUT_S)
        if type(reply) is not bytes:
            raise Unreachable(f"Redis: {reply.text if isinstance(reply, Refused) else reply}")
