"""Rows that are the fault: too large, too deep, refused for themselves, fatal to the connection. And a full bell."""

import json
import re
import time
from uuid import uuid4

import psycopg
import pytest

from tests.support.faults.world import StartWorld, World
from tests.support.proxy import Direction, Filter

MIB = 1024 * 1024
IMPATIENT = {
    "DISPATCH_MAX_ATTEMPTS": "3",
    "DISPATCH_BACKOFF_MAX_MS": "500",
    "DISPATCH_MAX_PAYLOAD_BYTES": str(16 * MIB),
}
LENGTH = re.compile(rb"\$(\d+)\r\n")


def no_large_strings() -> Filter:
    """A filter that resets the connection on a string of more than 64 KiB."""

    def pass_on(direction: Direction, data: bytes) -> bytes:
        if direction == "to_server" and any(int(length) > 64 * 1024 for length in LENGTH.findall(data)):
            raise ConnectionAbortedError
        return data

    return pass_on


async def poison(w: World, payload: str, *, among: int = 50) -> str:
    """Commit one row with this payload in the middle of others, in one transaction; its event_id."""
    event = str(uuid4())
    async with await psycopg.AsyncConnection.connect(w.admin_url) as connection:
        insert = (
            "INSERT INTO messaging.message_outbox (event_id, event_type, aggregate_id, payload) VALUES (%s, %s, %s, %s)"
        )
        events = [str(uuid4()) for _ in range(among)]
        for number, each in enumerate(events):
            await connection.execute(insert, (each, "order.created", f"p{number}", "{}"))
            if number == among // 2:
                await connection.execute(insert, (event, "order.created", "poison", payload))
    w.load.ledger.acknowledged |= dict.fromkeys([*events, event], time.time())
    return event


@pytest.mark.promise("one-entry")
async def test_a_nul_cannot_be_committed(world: StartWorld) -> None:
    async with world() as w:
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            await poison(w, '{"a": "\\u0000"}')


@pytest.mark.promise("too-large")
@pytest.mark.quick
async def test_32_mb(world: StartWorld) -> None:
    async with world(DISPATCH_QUERY_TIMEOUT_MS="30000", DISPATCH_LEASE_MS="60000") as w:  # 32 MB take their time
        await w.dispatcher()
        async with w.survives("poison: a payload of 32 MB", dead=1) as fault:
            event = await poison(w, json.dumps({"x": "y" * 32 * MIB}))
            fault.heal()
        rows = await w.ask("SELECT event_id::text, last_error FROM messaging.message_outbox WHERE status = 'dead'")
        assert [dead for dead, _ in rows] == [event]
        assert "DISPATCH_MAX_PAYLOAD_BYTES" in rows[0][1]


@pytest.mark.promise("one-entry")
async def test_deep_json(world: StartWorld) -> None:
    async with world() as w:
        await w.dispatcher()
        async with w.survives("poison: JSON nested 5,000 deep") as fault:
            event = await poison(w, "[" * 5000 + "]" * 5000)
            fault.heal()
        assert event in {found for found, _ in await w.entries()}


@pytest.mark.promise("bad-entry")
async def test_a_row_that_kills_the_connection(world: StartWorld) -> None:
    """Redis takes bulk strings of 1 MiB at most here, and closes the connection of whoever sends more."""
    async with world(valkey={"proto-max-bulk-len": "1mb"}, **IMPATIENT) as w:
        await w.dispatcher()
        async with w.survives(
            "poison: a row that makes Redis close the connection", dead=1, attempts=True, recover_s=60.0
        ) as fault:
            event = await poison(w, json.dumps({"x": "y" * 2 * MIB}))
            fault.heal()
        rows = await w.ask(
            "SELECT event_id::text, attempts, last_error FROM messaging.message_outbox WHERE attempts > 0"
        )
        assert [row[:2] for row in rows] == [(event, 3)]
        assert "2097161 bytes" in rows[0][2] or "Protocol error" in rows[0][2]


@pytest.mark.promise("bad-entry")
@pytest.mark.quick
@pytest.mark.in_order
async def test_rows_that_a_proxy_cuts_off(world: StartWorld) -> None:
    """Something between cuts each connection that sends more than 64 KiB at once; two dispatchers, five such rows."""
    async with world(**IMPATIENT) as w:
        for _ in range(2):
            (await w.dispatcher()).redis.make_filter = no_large_strings
        async with w.survives(
            "poison: 5 rows on which a proxy cuts the connection, 2 dispatchers",
            dead=5,
            attempts=True,
            recover_s=60.0,
            stolen=True,
        ) as fault:
            for process in w.processes:
                process.redis.cut()  # from here on the filter is between
            events = {await poison(w, json.dumps({"x": "y" * 128 * 1024})) for _ in range(5)}
            fault.heal()
        rows = await w.ask(
            "SELECT event_id::text, attempts, last_error FROM messaging.message_outbox WHERE attempts > 0"
        )
        assert {row[:2] for row in rows} == {(event, 3) for event in events}
        assert all("131081 bytes" in error for _, _, error in rows)
