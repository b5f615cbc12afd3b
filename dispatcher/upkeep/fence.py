"""The fence: makes sure that a dispatcher can do nothing more before its rows are taken over.

A dead dispatcher may still act: a claim in its Postgres backend can commit, XADDs in Redis's socket buffer can be
applied, a frozen process can thaw. So its sessions and its Redis connections are ended from outside, and only then is
the stream searched for its rows.
"""

from collections.abc import Iterable, Sequence

import anyio
import psycopg

from dispatcher.core.decide import Refused
from dispatcher.core.errors import Unreachable
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.redis.connection import RedisConnection, client_name
from dispatcher.infra.redis.replies import ids_named
from dispatcher.infra.sqlfiles import load

OPENS_AGAIN_S = 0.5  # so soon after the fence one that lives has opened a session again
UNFENCED_WAIT_S = 1.0  # when an ACL forbids the kill: what is in a socket buffer is applied long before


def token_of(name: str) -> str:
    """The random part of a dispatcher's name, which its Postgres sessions carry too."""
    return name.rsplit("-", 1)[-1]


async def fence(session: Session, connections: Sequence[RedisConnection], name: str, deadline_s: float) -> bool:
    """End the Postgres sessions and the Redis connections of the dispatcher of that name, and wait until they ended.

    `connections`: one to each server of Redis; none: no event goes to the stream. Returns False when Redis's ACL
    forbids CLIENT KILL, or the name that connections are found by; then a second was waited instead. So it is for
    Postgres sessions of another role, which may not be ended. Raises Unreachable when Redis does not answer.
    """
    try:
        await session.fetch(load("fence"), {"token": token_of(name)})
    except psycopg.errors.InsufficientPrivilege:
        await anyio.sleep(UNFENCED_WAIT_S)  # it runs under another role; its statements are short
    return all([await end_connections(connection, [name], deadline_s) for connection in connections])


async def lives(session: Session, name: str) -> bool:
    """Whether a dispatcher has opened a session since it was fenced: then only its control session was lost."""
    return bool(await session.fetch(load("sessions_of"), {"token": token_of(name)}))


async def end_connections(
    connection: RedisConnection, names: Iterable[str], deadline_s: float, *, unfenced_wait_s: float = UNFENCED_WAIT_S
) -> bool:
    """End the Redis connections of the dispatchers of these names, except `connection` itself. Returns as `fence`."""
    wanted = {client_name(name) for name in names}
    [clients] = await connection.send([("CLIENT", "LIST")], deadline_s)
    if isinstance(clients, bytes) and connection.named:
        ids = ids_named(wanted, clients.decode(errors="replace"))
        replies = await connection.send([("CLIENT", "KILL", "ID", number) for number in ids], deadline_s) if ids else []
        if all(isinstance(reply, int) for reply in replies):
            return True
        clients = next(reply for reply in replies if not isinstance(reply, int))
    if not isinstance(clients, Refused | bytes):
        raise Unreachable(getattr(clients, "error", "no answer to CLIENT LIST"))
    await anyio.sleep(unfenced_wait_s)
    return False
