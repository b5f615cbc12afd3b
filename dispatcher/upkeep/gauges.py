"""Samples what Postgres and Redis hold, every few seconds: backlog, dead events, dispatchers, stream, consumer groups.

What it costs is bounded: the count stops at a million rows, and a slow one is followed by a rest four times as long,
in which all else is looked up as often as ever. It never stops the service: a server that does not answer is reported
by the sessions that need it, and here by figures that are missing.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio
import psycopg
from redis.asyncio import Redis

from dispatcher.core.errors import Misconfigured, SessionLost, Unreachable
from dispatcher.core.events import Observer, Sampled
from dispatcher.core.findings.condition import is_exempt
from dispatcher.core.known_groups import GroupWatch, KnownGroup, Loss, latest_loss
from dispatcher.core.outages import reply_of, tells_nothing
from dispatcher.core.process_state import DeadGroups, HeldCount, RunningDispatcher
from dispatcher.infra.blocking import CurrentSetting
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.connection import RedisTarget
from dispatcher.infra.redis.info import REDIS_DEADLINE_S, describe_failure
from dispatcher.infra.redis.positions import StreamPositions
from dispatcher.infra.redis.streams import SeenStreams, read_streams
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.dead_letters.find import read_groups
from dispatcher.ops.doorbell import read_doorbell
from dispatcher.ops.held.find import count_held
from dispatcher.ops.pause import read_ended_and_sent, read_known_groups
from dispatcher.ops.retrying import read_retrying
from dispatcher.ops.snapshots import read_snapshot
from dispatcher.upkeep.stream_figures import StreamFigures


@dataclass(frozen=True, slots=True)
class GaugesTiming:
    """After a count that took t seconds come at least `rest * t` without: never more than a fifth of a core."""

    every_s: float = 5.0
    rest: float = 4.0


@dataclass(frozen=True, slots=True)
class GaugesBounds:
    """How far is counted. Each group is a series in Prometheus for as long as it exists."""

    backlog: int = 1_000_001
    dead: int = 10_001
    groups: int = 64
    dispatchers: int = 256


TIMING, BOUNDS = GaugesTiming(), GaugesBounds()


class HeldLookup:
    """Counts held aggregates, where there is an order. `hold`: whether a dead event holds the later ones."""

    def __init__(self, *, hold: bool) -> None:
        self.hold = hold
        self._known: HeldCount | None = None  # written by read()

    async def read(self, fetch: Fetch, *, again: bool) -> HeldCount:
        """The count; unless `again`, that of the last time. Raises SessionLost or psycopg.Error."""
        if again or self._known is None:
            self._known = await count_held(fetch, hold=self.hold)
        return self._known


class DeadLookup:
    """Groups dead events by their error, again only when their number changed, or another one died."""

    def __init__(self) -> None:
        self._of: tuple[int, float | None] = (0, None)  # both written by read()
        self._known: DeadGroups | None = None

    async def read(self, fetch: Fetch, dead: int, newest_at: float | None) -> DeadGroups | None:
        """None: none is dead, so many that they are not grouped, or Postgres did not answer in time."""
        if (dead, newest_at) != self._of:
            self._known = None
            with suppress(psycopg.Error):  # the counts are worth more
                self._known = await read_groups(fetch, dead)
            self._of = (dead, newest_at)
        return self._known


class GroupsLookup:
    """Remembers the consumer groups, and those that went with a loss. It begins with what others saw before."""

    def __init__(self) -> None:
        self._watch: GroupWatch | None = None  # both written by read()
        self._known: tuple[KnownGroup, ...] = ()

    async def read(
        self, fetch: Fetch, seen: SeenStreams, exempt: Sequence[str], loss: Loss | None
    ) -> tuple[KnownGroup, ...]:
        """What is known after this sample; without an answer for each stream, what the last one found."""
        if self._watch is None:
            self._watch = GroupWatch(await read_known_groups(fetch))
        if seen.infos and not seen.missing:
            there = {group.name: stream for stream, info in seen.infos.items() for group in info.groups}
            there = {name: stream for name, stream in there.items() if not is_exempt(name, exempt)}
            length = sum(info.length for info in seen.infos.values())
            self._known = self._watch.note_seen(there, length, loss, time.time())
        return self._known


@dataclass(slots=True)
class Lookups:
    """What one sample remembers for the next. `positions`: what was learned of each stream; None: nothing is."""

    held: HeldLookup | None = None  # None: there is no order
    dead: DeadLookup = field(default_factory=DeadLookup)
    groups: GroupsLookup | None = None  # None: no group is remembered
    positions: Mapping[str, StreamPositions] | None = None


def _redis_error(seen: SeenStreams) -> str | None:
    """Why Redis did not answer; a right that is missing is no outage, nor is a proxy that does not ask it."""
    if seen.failure is None:
        return None
    reply = reply_of(seen.failure)
    if reply is not None and tells_nothing(reply):
        return None
    return describe_failure(seen.failure)


async def _read_dead(fetch: Fetch, bound: int) -> tuple[int, dict[str, Any]]:
    """How many events are dead, and when (`at`) and of what (`error`) the newest one died."""
    [(dead, died_last)] = await fetch(load("count_dead"), {"bound": bound})
    return dead, json.loads(died_last) if died_last else {"at": None, "error": None}


async def _read_dispatchers(fetch: Fetch, most: int) -> list[RunningDispatcher]:
    alive = await fetch(load("status_dispatchers"), None)
    return [
        RunningDispatcher(name, host, pid, version, started_at.timestamp())
        for _, name, host, pid, version, started_at in alive[:most]
    ]


async def sample_once(
    fetch: Fetch,
    redis: Redis | None,
    streams: Sequence[str],
    observe: Observer,
    *,
    known: int | None = None,
    lookups: Lookups | None = None,
    exempt: Sequence[str] = (),
    now: datetime | None = None,
    bounds: GaugesBounds = BOUNDS,
) -> int:
    """Emit one Sampled, which says also that Redis does not answer; returns the backlog.

    `known`: a backlog that need not be counted again; `exempt`: patterns of groups that may be left unread; `now`:
    instead of Postgres's clock, for tests. Raises SessionLost or psycopg.Error.
    """
    lookups = lookups or Lookups()
    held, groups, bound = lookups.held, lookups.groups, bounds.backlog if known is None else 0
    [(backlog, oldest_age_s, queue_usage)] = await fetch(load("sample"), {"bound": bound, "now": now})
    backlog = backlog if known is None else known
    dead, newest = await _read_dead(fetch, bounds.dead)
    retrying = await read_retrying(fetch, ordered=held is not None, holds=held is not None and held.hold)
    ended, sent = await read_ended_and_sent(fetch)
    loss = latest_loss((at.timestamp(), rows) for _, at, rows, *_ in await fetch(load("status_losses"), None))
    seen = SeenStreams() if redis is None else await read_streams(redis, streams, lookups.positions, readers=True)
    of_streams = StreamFigures.of(seen, exempt, bounds.groups)
    observe(
        Sampled(
            backlog,
            oldest_age_s,
            queue_usage,
            of_streams.length,
            of_streams.group_lag,
            _redis_error(seen),
            dead,
            newest_dead_at=newest["at"],
            newest_dead_error=newest["error"],
            group_read_age_s=of_streams.group_read_age_s,
            dispatchers=await _read_dispatchers(fetch, bounds.dispatchers),
            streams=of_streams.each if len(streams) > 1 else (),
            held=None if held is None else await held.read(fetch, again=known is None),
            dead_groups=await lookups.dead.read(fetch, dead, newest["at"]),
            retrying=retrying,
            doorbell=await read_doorbell(fetch),
            snapshot=await read_snapshot(fetch),
            known_groups=await groups.read(fetch, seen, exempt, loss) if groups else (),
            loss=loss,
            group_dead=of_streams.group_dead,
            ended=ended,
            sent=sent,
            group_reader=of_streams.group_reader,
            group_put_away=of_streams.group_put_away,
        )
    )
    return int(backlog)


async def run(
    fetch: Fetch,
    redis_url: Callable[[], str],
    name: str,
    streams: Sequence[str],
    observe: Observer,
    *,
    exempt: Sequence[str] = (),
    held: HeldLookup | None = None,
    timing: GaugesTiming = TIMING,
) -> None:
    """Sample until cancelled. `name`: of the Redis connection.

    `redis_url` is called before each sample, so that a rotated password is used without a restart; it gives "" when no
    event goes to the stream.
    """
    asked = CurrentSetting(redis_url)
    url, redis = "", None
    current_url: str | None = None
    lookups = Lookups(held, groups=GroupsLookup(), positions=_positions(streams))
    backlog: int | None = None
    count_at = 0.0
    try:
        while True:
            began = time.monotonic()
            with suppress(Misconfigured, Unreachable):  # a file is gone or half written: go on with what there is
                if (current_url := await asked.get()) and (current_url != url or redis is None):
                    url, redis = current_url, await _replaced(redis, current_url, name)
                    lookups.positions = _positions(streams)
            # Postgres away or too busy: the age of the last sample says so, and the next may succeed.
            with suppress(SessionLost, psycopg.Error):
                if redis is not None or current_url == "":
                    known = backlog if began < count_at else None
                    backlog = await sample_once(
                        fetch, redis, streams, observe, known=known, lookups=lookups, exempt=exempt
                    )
                    if known is None:
                        count_at = time.monotonic() + timing.rest * (time.monotonic() - began)
            await anyio.sleep(timing.every_s)
    finally:
        with anyio.CancelScope(shield=True):
            if redis is not None:
                await redis.aclose()


def _positions(streams: Sequence[str]) -> dict[str, StreamPositions]:
    return {stream: StreamPositions() for stream in streams}


async def _replaced(old: Redis | None, url: str, name: str) -> Redis:
    RedisTarget.parse(url)  # says what is wrong with it in our words
    if old is not None:
        await old.aclose()
    return open_client(url, REDIS_DEADLINE_S, name)
