"""Failpoints without code in the product: the proxies stop a dispatcher between two steps, by what is on the wire."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.support.faults.pgwire import StopClaim
from tests.support.faults.process import Process
from tests.support.faults.world import World
from tests.support.proxy import Direction
from tests.support.waiting import NeverCameTrue, until

Stopped = Callable[[], Awaitable[bool]]

ENTRY_ID = re.compile(rb"\$\d+\r\n\d{13}-\d+\r\n")  # Redis's answer to an XADD


async def before_the_answer(w: World, one: Process, claims: StopClaim) -> list[int]:
    """A claim of its is made, and the answer is on its way back. `claims` filters its sessions; the claimed rows."""
    while True:  # another may have been quicker: then the claim that was stopped found nothing
        claims.arm(one.postgres, "to_client")
        await until(claims.sprung, "it claims")
        with suppress(NeverCameTrue):
            return list(await until(lambda: w.picked(one), "its claim found rows", 0.2))
        one.postgres.let_go("to_client")


async def before_publish(w: World, one: Process) -> None:
    """Its claim is made, its entries are on their way to Redis."""

    async def stopped() -> bool:
        return b"XADD" in one.redis.held_bytes("to_server") and bool(await w.picked(one))

    await _held(w, one, "to_server", stopped, "it claims and publishes")


async def after_publish(w: World, one: Process) -> None:
    """Redis has its entries, and the answer is on its way back."""

    async def stopped() -> bool:
        # The answer too: a batch from before the hold may be about to be settled.
        return ENTRY_ID.search(one.redis.held_bytes("to_client")) is not None and await w.published(one)

    await _held(w, one, "to_client", stopped, "Redis has what it claimed")


async def _held(w: World, one: Process, direction: Direction, stopped: Stopped, what: str) -> None:
    """Hold its traffic with Redis until `stopped`. Anew when a question was caught instead, about its groups, say."""
    caught = b""
    for _ in range(10):
        one.redis.hold(direction)
        with suppress(NeverCameTrue):
            await until(stopped, what, 3.0)  # less than the publish timeout, at which it would give the connection up
            return
        caught = one.redis.held_bytes(direction)
        settles = await _settles(w, one)
        one.redis.let_go(direction)
        # Held again at once, a dispatcher that connects anew would have its next question caught, and so each time.
        await until(settles, "it settles again", 30.0)
    raise NeverCameTrue(f"{what}; the last that was held: {caught[:500]!r}")


async def in_settle(w: World, one: Process) -> None:
    """Its settle is on its way to Postgres."""
    await _settle_held(w, one, "to_server", _settle_arrives)


async def after_settle(w: World, one: Process) -> None:
    """Its settle was carried out, the answer is on its way back."""
    await _settle_held(w, one, "to_client", _settles)


async def _settle_held(
    w: World, one: Process, direction: Direction, watch: Callable[[World, Process], Awaitable[Stopped]]
) -> None:
    """Hold its traffic with Postgres once its entries are in Redis. Anew when it had given Redis up by then."""
    for _ in range(10):
        await after_publish(w, one)
        stopped = await watch(w, one)
        one.postgres.hold(direction)
        one.redis.let_go("to_client")
        with suppress(NeverCameTrue):
            await until(stopped, "it settles", 3.0)  # an owner of slots that is silent for longer loses them
            return
        settles = await _settles(w, one)
        one.postgres.let_go(direction)
        await until(settles, "it settles again", 30.0)
    raise NeverCameTrue("it settles")


async def _settle_arrives(w: World, one: Process) -> Stopped:
    rows = await w.picked(one)
    claims = await w.ask("SELECT DISTINCT claim_id::text FROM messaging.message_outbox WHERE id = ANY(%s)", (rows,))

    async def stopped() -> bool:
        held = one.postgres.held_bytes("to_server")
        return any(claim.encode() in held for (claim,) in claims)

    return stopped


async def _settles(w: World, one: Process) -> Stopped:
    [(before,)] = await w.ask("SELECT coalesce(max(id), 0) FROM audit.change")

    async def stopped() -> bool:
        sent = "SELECT 1 FROM audit.change WHERE id > %s AND after = 'sent' AND by LIKE %s LIMIT 1"
        return bool(await w.ask(sent, (before, f"% {one.token} %")))

    return stopped
