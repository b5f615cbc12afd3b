"""One look at everything, from outside: the outbox, the dispatchers that run, the stream."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
import psycopg
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from dispatcher.core.errors import DispatcherError, Misconfigured, SessionLost, Unreachable
from dispatcher.infra.postgres.migrations import missing
from dispatcher.infra.postgres.session import PostgresTarget, Session, connect
from dispatcher.infra.redis.connection import RedisConnection, RedisTarget
from dispatcher.infra.redis.info import StreamInfo, describe_failure, read_stream_info
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.pause import Acknowledgement, PauseSwitch, read_acknowledgements, read_switch

STATUSES = ("pending", "picked", "retry", "sent", "dead")


@dataclass(frozen=True, slots=True)
class RunningDispatcher:
    """A dispatcher that runs."""

    id: int
    name: str
    host: str | None
    pid: int | None
    version: str | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What Postgres says. `rows`: by status, None when counting took longer than a statement may."""

    address: str
    rows: dict[str, int] | None
    oldest_unsettled_age_s: float
    notification_queue_usage: float
    doorbell: str  # installed | disabled | absent
    dispatchers: tuple[RunningDispatcher, ...]
    pause: PauseSwitch
    words: tuple[Acknowledgement, ...]  # what each that takes rows said of the pause, those in no registry too


@dataclass(frozen=True, slots=True)
class Status:
    """Both sides; one that cannot be reached is None and has a problem instead."""

    stream_name: str
    outbox: OutboxStatus | None
    stream: StreamInfo | None
    problems: tuple[str, ...]


async def read_status(target: PostgresTarget, redis_url: str, stream_name: str) -> Status:
    """Ask both servers at once. Raises Misconfigured; a server that does not answer is one of the problems.

    `redis_url` "": no event goes to the stream, and nothing is asked of Redis.
    """
    outbox: list[OutboxStatus] = []
    stream: list[StreamInfo] = []
    errors: list[DispatcherError] = []

    async def asking(answers: list[Any], question: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers.append(await question())
        except DispatcherError as error:
            errors.append(error)

    async with anyio.create_task_group() as both:
        both.start_soon(asking, outbox, lambda: _look_at_outbox(target), name="Postgres")
        if redis_url:
            both.start_soon(
                asking, stream, lambda: _look_at_stream(redis_url, stream_name, target.connect_timeout_s), name="Redis"
            )
    if wrong := [str(error) for error in errors if isinstance(error, Misconfigured)]:
        raise Misconfigured("; ".join(wrong))
    problems = tuple(str(error) for error in errors)
    return Status(stream_name, next(iter(outbox), None), next(iter(stream), None), problems)


async def _look_at_outbox(target: PostgresTarget) -> OutboxStatus:
    where = f"Postgres at {target.address()}"
    session = await connect(target, "status")
    try:
        if gone := await missing(session):
            raise Misconfigured(f"{where} lacks {', '.join(gone)}: run `dispatcher migrate` first")
        [(_, oldest_age_s, queue_usage)] = await session.fetch(load("sample"), {"bound": 1, "now": None})
        enabled = [how for (how,) in await session.fetch(load("status_doorbell"))]
        dispatchers = tuple(RunningDispatcher(*row) for row in await session.fetch(load("status_dispatchers")))
        return OutboxStatus(
            target.address(),
            await _count(session),
            oldest_age_s,
            queue_usage,
            "absent" if not enabled else "disabled" if enabled[0] == "D" else "installed",
            dispatchers,
            await read_switch(session),
            tuple(await read_acknowledgements(session)),
        )
    except SessionLost as error:
        raise Unreachable(f"the connection to {where} broke ({error})") from None
    except psycopg.errors.InsufficientPrivilege:
        raise Misconfigured(
            f"{where}: this role may not read the outbox; grant it the role outbox_dispatcher (sql/roles.sql)"
        ) from None
    except psycopg.OperationalError as error:
        raise Unreachable(f"{where} did not answer: {type(error).__name__} {error.sqlstate}") from None
    finally:
        await session.close()


async def _count(session: Session) -> dict[str, int] | None:
    # The dispatcher's sessions avoid sequential scans; counting everything is what they are for.
    await session.fetch("SET enable_seqscan = on")
    try:
        counts = dict(await session.fetch(load("status_counts")))
    except psycopg.errors.QueryCanceled:
        return None
    return {name: counts.get(name, 0) for name in STATUSES}


async def _look_at_stream(url: str, name: str, timeout_s: float) -> StreamInfo:
    target = RedisTarget.parse(url)
    where = f"Redis at {target.address()}"
    # It tells a wrong password, a wrong key and a server that is away apart.
    connection = RedisConnection(
        target, name="dispatcher-status", stream=name, connect_timeout_s=timeout_s, on_lost=lambda _: None
    )
    await connection.connect()
    connection.close()
    client = Redis.from_url(
        url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s, socket_connect_timeout=timeout_s
    )
    try:
        return await read_stream_info(client, name)
    except NoPermissionError:
        raise Misconfigured(
            f"{where}: this user may not look at '{name}'; allow it with ACL SETUSER ... ~{name} +xlen +xinfo"
        ) from None
    except (RedisError, OSError, TimeoutError) as error:
        raise Unreachable(f"{where} did not answer: {describe_failure(error)}") from None
    finally:
        await client.aclose()
