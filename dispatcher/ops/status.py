"""The state of everything, asked from outside: the outbox, the running dispatchers, the stream."""

import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured
from dispatcher.core.known_groups import KnownGroup
from dispatcher.core.layout import Layout
from dispatcher.core.process_state import DeadGroups, HeldCount, RetryCount, SnapshotHolder, TriggerState
from dispatcher.infra.postgres.session import Fetch, Session
from dispatcher.infra.postgres.tables import why_copy
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.info import StreamInfo, summed
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import read_groups
from dispatcher.ops.doorbell import read_doorbell
from dispatcher.ops.groups import ask_redis
from dispatcher.ops.held.find import StandingOrder, count_held, read_order
from dispatcher.ops.pause import Acknowledgement, PauseSwitch, read_layout, read_notes, read_switch
from dispatcher.ops.retrying import read_retrying
from dispatcher.ops.session import ask
from dispatcher.ops.snapshots import read_snapshot

T = TypeVar("T")
STATUSES = ("pending", "picked", "retry", "sent", "dead")


@dataclass(frozen=True, slots=True)
class RegisteredDispatcher:
    """A row of messaging.dispatcher whose advisory lock is held."""

    id: int
    name: str
    host: str | None
    pid: int | None
    version: str | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class StreamLoss:
    """The last time that an audit found entries of a stream lost, and how many rows it put back."""

    stream: str
    at: datetime
    rows: int
    why: str


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """Postgres's answer. `rows`: by status, None when counting took longer than one statement may."""

    address: str
    rows: dict[str, int] | None
    oldest_unsettled_age_s: float
    notification_queue_usage: float  # 0 to 1
    doorbell: TriggerState
    dispatchers: tuple[RegisteredDispatcher, ...]
    pause: PauseSwitch
    acknowledgements: tuple[Acknowledgement, ...]  # of every enabled dispatcher, also of those without a registry row
    losses: tuple[StreamLoss, ...] = ()
    copy: str | None = None  # why it is a copy, from which nothing is claimed
    dead: int = 0  # dead events that nobody decided about, counted up to a bound
    newest_dead_at: float | None = None  # Unix seconds
    newest_dead_error: str | None = None
    now: float = 0.0  # Unix seconds, by Postgres's clock
    layout: str = ""  # the fingerprint of the one that stands
    held: HeldCount | None = None  # None: nothing is kept in order
    slots: Mapping[int, int] | None = None  # with an order: how many each living dispatcher owns, by id
    dead_groups: DeadGroups | None = None  # None: none is dead, or so many that they are not grouped
    retrying: RetryCount | None = None  # None: it may not be read
    last_seen: tuple[str, float] | None = None  # host of the one heard last, and when (Unix seconds)
    known_groups: tuple[KnownGroup, ...] = ()  # consumer groups as the dispatchers saw them
    snapshot: SnapshotHolder | None = None  # who holds the oldest one
    disabled: tuple[str, ...] = ()  # names of those that are connected, and take no events

    @property
    def living(self) -> tuple[Acknowledgement, ...]:
        """The enabled dispatchers that live. One that is registered and holds no lock has just died."""
        return tuple(each for each in self.acknowledgements if each.alive or not each.registered)

    @property
    def overdue_s(self) -> float:
        """How overdue the oldest event is, by when it is due; one that waits behind a failed one is not."""
        return self.retrying.overdue_s if self.retrying else self.oldest_unsettled_age_s

    @property
    def waiting(self) -> int | None:
        """Unsettled rows, when one of them is due; None: they were not counted."""
        if not self.oldest_unsettled_age_s:
            return 0
        return None if self.rows is None else sum(self.rows[name] for name in ("pending", "picked", "retry"))


@dataclass(frozen=True, slots=True)
class Status:
    """Both servers; one that cannot be reached is None and has a problem instead."""

    layout: Layout  # of the settings
    outbox: OutboxStatus | None
    streams: Mapping[str, StreamInfo] | None  # by key, in the order of the layout; without those of a node that is away
    problems: tuple[str, ...]
    now: float = 0.0  # Unix seconds, by our clock
    misconfigured: bool = False  # Redis refuses us: trying again does not help

    @property
    def stream(self) -> StreamInfo | None:
        """All streams as one: the entries of all; of each group of one name what it has to read in all."""
        return summed([*self.streams.values()]) if self.streams else None


async def read_outbox(session: Session, address: str, *, slots: bool = False) -> OutboxStatus:
    """Count the rows, find the running dispatchers and the pause. `slots`: and who owns how many. Raises psycopg.Error,
    or SessionLost.
    """
    fetch = session.fetch
    [(_, oldest_age_s, queue_usage)] = await fetch(load("sample"), {"bound": 1, "now": None})
    [(now,)] = await fetch("SELECT date_part('epoch', clock_timestamp())")
    rows = await _count(fetch)
    dead, newest = await _if_allowed(_dead(fetch), ((rows or {}).get("dead", 0), {}))
    alive, notes = await read_notes(fetch)
    order = await _if_allowed(read_order(fetch), StandingOrder())
    return OutboxStatus(
        address,
        rows,
        oldest_age_s,
        queue_usage,
        await read_doorbell(fetch),
        tuple(RegisteredDispatcher(*row) for row in await fetch(load("status_dispatchers"), None)),
        await read_switch(fetch),
        tuple(alive),
        tuple(StreamLoss(*row[:4]) for row in await _if_allowed(fetch(load("status_losses"), None), [])),
        await _if_allowed(why_copy(session, settle=False), None),
        dead,
        newest.get("at"),
        newest.get("error"),
        now,
        await read_layout(fetch),
        await _if_allowed(count_held(fetch, hold=order.hold), None) if order.on else None,
        await _if_allowed(_slots(fetch), None) if slots else None,
        await _dead_groups(fetch, dead),
        await _if_allowed(read_retrying(fetch, ordered=order.on, holds=order.hold), None),
        _last_seen(notes),
        tuple(group for each in notes for group in each.condition.groups),
        await read_snapshot(fetch),
        await _disabled(fetch, notes),
    )


async def _if_allowed(answer: Awaitable[T], otherwise: T) -> T:
    """A role that may only read the status of the release before may not ask everything."""
    try:
        return await answer
    except psycopg.errors.InsufficientPrivilege:
        return otherwise


async def _slots(fetch: Fetch) -> dict[int, int] | None:
    return {owner: count for owner, _, state, count, _ in await fetch(load("slots_summary"), None) if state == "owned"}


async def _disabled(fetch: Fetch, notes: Sequence[Acknowledgement]) -> tuple[str, ...]:
    """Those that are connected, and write no acknowledgement as an enabled one does."""
    enabled = {each.name.rpartition("-")[2] for each in notes}
    connected = await fetch(load("status_idle"), None)
    return tuple(dict.fromkeys(name for token, name in connected if token not in enabled))


async def _dead(fetch: Fetch) -> tuple[int, dict[str, Any]]:
    """How many events nobody decided about, and the newest of them."""
    [(dead, newest)] = await fetch(load("count_dead"), {"bound": 10_001})
    return dead, json.loads(newest) if newest else {}


async def _dead_groups(fetch: Fetch, dead: int) -> DeadGroups | None:
    try:
        return await _if_allowed(read_groups(fetch, dead), None)
    except psycopg.errors.QueryCanceled:
        return None


async def _count(fetch: Fetch) -> dict[str, int] | None:
    try:
        counts: dict[str, int] = dict(await fetch(load("status_counts"), None))
    except psycopg.errors.QueryCanceled:
        return None
    return {name: counts.get(name, 0) for name in STATUSES}


def _last_seen(notes: Sequence[Acknowledgement]) -> tuple[str, float] | None:
    """The host of the dispatcher that was heard last, and when."""
    heard = [(datetime.fromisoformat(each.said_at), each.name) for each in notes if each.said_at and not each.alive]
    if not heard:
        return None
    at, name = max(heard)
    return name.rsplit("-", 2)[0], at.timestamp()


async def read_status(target: PostgresTarget, redis_url: str, layout: Layout) -> Status:
    """Ask both servers at once. A server that does not answer, and Redis that refuses us, are problems. Raises
    Misconfigured when Postgres refuses us.

    `redis_url` "": no event goes to the stream, and nothing is asked of Redis.
    """
    outbox: list[OutboxStatus] = []
    streams: list[tuple[dict[str, StreamInfo], str | None]] = []
    errors: list[DispatcherError] = []

    def of_outbox(session: Session) -> Awaitable[OutboxStatus]:
        return read_outbox(session, target.address(), slots=layout.order != "none")

    async def asking(answers: list[Any], question: Callable[[], Awaitable[Any]]) -> None:
        try:
            answers.append(await question())
        except DispatcherError as error:
            errors.append(error)

    async with anyio.create_task_group() as both:
        both.start_soon(asking, outbox, lambda: ask(target, "read the status", of_outbox), name="Postgres")
        if redis_url:
            both.start_soon(
                asking, streams, lambda: ask_redis(redis_url, layout.keys, target.connect_timeout_s), name="Redis"
            )
    wrong = [str(error) for error in errors if isinstance(error, Misconfigured)]
    if wrong and not outbox:
        raise Misconfigured("; ".join(wrong))
    problems = [str(error) for error in errors] + [said for _, said in streams if said is not None]
    infos = next((found for found, _ in streams), None)
    return Status(layout, next(iter(outbox), None), infos, tuple(problems), time.time(), bool(wrong))
