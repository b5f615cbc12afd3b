"""Both servers as the test sees them: no proxy between, a superuser, what is claimed, published and connected."""

from collections import Counter
from typing import Any

import psycopg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from dispatcher.embedded import EmbeddedValkey
from tests.support.faults.process import Process
from tests.support.rows import STREAM

PAGE = 10_000  # entries that are read at once


class Direct:
    """Questions to the two servers. A connection that broke is replaced."""

    def __init__(self, admin_url: str, valkey: EmbeddedValkey) -> None:
        self.admin_url = admin_url
        self.valkey = valkey  # the primary; replaced by a failover
        self.keys: tuple[str, ...] = (STREAM,)  # that events go to
        self.password: str | None = None  # while the fault is one
        self._db: psycopg.AsyncConnection[Any] | None = None

    async def close(self) -> None:
        """Close the connection to Postgres."""
        if self._db is not None:
            await self._db.close()

    async def db(self) -> psycopg.AsyncConnection[Any]:
        """An autocommit superuser's connection; a new one when it broke."""
        if self._db is None or self._db.closed:
            self._db = await psycopg.AsyncConnection.connect(self.admin_url, autocommit=True)
        return self._db

    async def ask(self, statement: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows. Once more when the connection was found to be broken, as after a restart."""
        for again in (True, False):
            db = await self.db()
            try:
                cursor = await db.execute(statement, parameters)
                return await cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if not (db.closed and again):
                    raise
        raise AssertionError("not reached")

    def _client(self) -> Redis:
        url, retry = self.valkey.url, Retry(NoBackoff(), 0)
        client: Redis = Redis.from_url(url, decode_responses=True, retry=retry, password=self.password)
        return client

    async def redis(self, *command: str | int) -> Any:
        """One command to the primary."""
        async with self._client() as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]

    async def entries(self, newest: int | None = None) -> list[tuple[str, float]]:
        """(event_id, when added) of all entries in order, or of the newest, newest first."""
        found: list[tuple[str, float]] = []
        async with self._client() as client:
            for key in self.keys:
                first: str | None = "-"
                while first is not None:
                    read = client.xrevrange(key, count=newest) if newest else client.xrange(key, first, count=PAGE)
                    page: Any = await read
                    found += [
                        (fields.get("event_id", ""), int(entry.partition("-")[0]) / 1000) for entry, fields in page
                    ]
                    first = f"({page[-1][0]}" if not newest and len(page) == PAGE else None
        if len(self.keys) > 1:
            found.sort(key=lambda each: each[1], reverse=bool(newest))
        return found[:newest] if newest else found

    async def picked(self, process: Process | None = None) -> list[int]:
        """Ids of the rows that are claimed, by anybody or by this one."""
        name = None if process is None else process.name
        rows = await self.ask(
            "SELECT o.id FROM messaging.message_outbox AS o "
            "LEFT JOIN messaging.dispatcher AS d ON d.id = o.picked_by "
            "WHERE o.status = 'picked' AND (%s::text IS NULL OR d.name = %s)",
            (name, name),
        )
        return [row for (row,) in rows]

    async def published(self, process: Process) -> bool:
        """Whether it holds claims, and Redis has every row of them."""
        held = await self.ask(
            "SELECT o.event_id::text FROM messaging.message_outbox AS o "
            "JOIN messaging.dispatcher AS d ON d.id = o.picked_by WHERE o.status = 'picked' AND d.name = %s",
            (process.name,),
        )
        return bool(held) and {event for (event,) in held} <= {event for event, _ in await self.entries(500)}

    async def end_sessions(self, like: str) -> int:
        """Terminate the sessions of this database with such an application_name; how many they were."""
        ended = await self.ask(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE %s",
            (like,),
        )
        return len(ended)

    async def sessions(self) -> Counter[str]:
        """Dispatcher sessions in this database, by the dispatcher's token."""
        rows = await self.ask(
            "SELECT application_name FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name LIKE 'dispatcher %%'"
        )
        return Counter(name.split(" ")[2] for (name,) in rows)
