"""The servers we bring ourselves: they keep their data, say clearly what is wrong, and never outlive us."""

import psycopg
from redis.asyncio import Redis


async def test_a_cloned_database_has_our_table(db: psycopg.AsyncConnection) -> None:
    cursor = await db.execute("SELECT count(*) FROM messaging.message_outbox")
    assert await cursor.fetchone() == (0,)


async def test_an_empty_database_has_nothing(empty_database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(empty_database_url) as connection:
        cursor = await connection.execute("SELECT to_regnamespace('messaging')")
        assert await cursor.fetchone() == (None,)


async def test_redis_is_empty(redis: Redis) -> None:
    assert await redis.dbsize() == 0
    await redis.set("left", "behind")
