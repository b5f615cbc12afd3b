"""Shows the layout of the streams, and changes it while everything is paused, so that nothing is lost or doubled."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import anyio
import psycopg
from redis.exceptions import RedisClusterException, RedisError

from dispatcher.core.errors import DispatcherError, Unreachable
from dispatcher.core.layout import Layout
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.infra.redis.client import open_client
from dispatcher.infra.redis.info import REDIS_DEADLINE_S, StreamInfo, describe_failure, read_stream_info
from dispatcher.infra.redis.target import RedisTarget
from dispatcher.infra.sqlfiles import load
from dispatcher.ops.groups import try_to_connect
from dispatcher.ops.pause import PauseSession, read_acknowledgements
from dispatcher.ops.session import ask, operator

POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class LayoutState:
    """What stands in Postgres. `layout` None: none was ever set, so events go to the one stream of the settings."""

    fingerprint: str
    layout: Layout | None
    former: tuple[str, ...]  # keys that events went to before, which may still hold some
    generation: int
    changed_at: datetime | None
    changed_by: str | None
    runs: bool = False  # a dispatcher that runs has it

    def is_of(self, layout: Layout) -> bool:
        """Whether a dispatcher with these settings publishes."""
        return self.fingerprint == layout.fingerprint


@dataclass(frozen=True, slots=True)
class StreamKeyState:
    """One key in Redis. `info` None: it is not there."""

    key: str
    info: StreamInfo | None

    @property
    def unread(self) -> int:
        """What the slowest group has to read or to acknowledge; without a group, all entries."""
        if self.info is None:
            return 0
        return max((group.lag + group.pending for group in self.info.groups), default=self.info.length)


async def read_layout_state(where: PostgresTarget) -> LayoutState:
    """What stands now. Raises DispatcherError."""
    return await ask(where, "read the layout", _read_state)


async def _read_state(session: Session) -> LayoutState:
    [row] = await session.fetch(load("layout_state"))
    fingerprint, spec, keys, former, seen, generation, changed_at, changed_by = row
    layout = None if spec is None else Layout.of_spec(spec)
    known = tuple(key for key in dict.fromkeys([*former, *seen]) if key not in keys)
    return LayoutState(fingerprint, layout, known, generation, changed_at, changed_by, await has_layout(session))


class LayoutChange(PauseSession):
    """`async with LayoutChange(target) as change:` to set another layout."""

    def __init__(self, target: PostgresTarget) -> None:
        super().__init__(target, "change the layout")

    async def set(self, layout: Layout, former: Sequence[str], timeout_s: float) -> None:
        """Pause, wait until nothing is in hand, set the layout, resume. Somebody else's pause stays.

        `former`: keys that may still hold entries. Raises DispatcherError, with the layout as it was, when not all
        dispatchers acknowledged, or rows stay claimed, within `timeout_s` seconds.
        """
        deadline, reason = monotonic() + timeout_s, f"the layout of the streams is set to {layout}"
        ours = True  # also while the answer to our pause is missing
        try:
            switch, ours = await self.switch(paused=True, reason=reason)
            acknowledgements = await self.wait(switch, timeout_s, lambda _: None)
            if late := [each.name for each in acknowledgements if not each.obeys(switch)]:
                raise DispatcherError(
                    f"the layout is as it was: not all dispatchers acknowledged the pause within {timeout_s:g} s. Stop "
                    f"these, or find out what holds them up: {', '.join(late)}"
                )
            while (why := await self._try(layout, former)) is not None:
                if monotonic() >= deadline:
                    raise DispatcherError(f"the layout is as it was: {why} after {timeout_s:g} s. {_REMEDIES[why]}")
                await anyio.sleep(POLL_S)
        finally:
            if ours:
                with anyio.CancelScope(shield=True):  # Ctrl-C must not leave all paused; each step has its timeout
                    await self._resume(reason)

    async def _resume(self, reason: str) -> None:
        """End our pause, on another session if this one broke. Raises DispatcherError when all may be paused still."""
        try:
            await self.end_pause(reason)
        except DispatcherError:
            try:
                async with PauseSession(self.target, self.verb) as another:
                    await another.end_pause(reason)
            except DispatcherError as error:
                raise Unreachable(f"{error}; all dispatchers may be paused still: `dispatcher resume`") from None

    async def _try(self, layout: Layout, former: Sequence[str]) -> str | None:
        parameters = {**layout.columns(), "former": list(former), "by": operator(), "first": False}
        with self.explained():
            [(why,)] = await self.session.fetch(load("layout_set"), parameters)
        return None if why is None else str(why)


async def has_layout(session: Session) -> bool:
    """Whether a dispatcher that runs has the layout that stands: one with another says so. Raises as fetch() does."""
    running = [each.condition.told for each in await read_acknowledgements(session.fetch)]
    return any(all(trouble.kind != "layout" for trouble in told) for told in running)


async def standing_layout(where: PostgresTarget, ours: Layout) -> Layout:
    """The layout that stands in Postgres, when `ours` names no routes and no shards of its own; else `ours`.

    A shell has the addresses of the servers most often, and not the routes of the dispatchers.
    """
    if not ours.plain:
        return ours
    with suppress(DispatcherError, psycopg.Error):
        there = (await read_layout_state(where)).layout
        return there if there is not None and there.stream == ours.stream else ours
    return ours


_REMEDIES = {
    "rows are in hand": "They belong to a dispatcher that died or froze, and a running one takes them over within its "
    "lease (DISPATCH_LEASE_MS): let one run, and repeat the command with a longer --timeout",
    "Postgres may have forgotten claims": "It crashed, failed over or was restored, and no dispatcher has searched the "
    "streams since; the new layout would not search the keys that it gives up. Let a dispatcher of the old layout run "
    "until its log says postgres_crash_audited (it does that while all is paused), and repeat the command",
    "the dispatchers are not paused": "Somebody resumed them meanwhile: repeat the command",
}


async def read_keys(url: str, keys: Sequence[str]) -> list[StreamKeyState]:
    """What Redis says of these keys. Raises DispatcherError."""
    await try_to_connect(url, (), REDIS_DEADLINE_S)
    client = open_client(url, REDIS_DEADLINE_S)
    found = []
    try:
        for key in keys:
            there = await client.exists(key)
            found.append(StreamKeyState(key, await read_stream_info(client, key) if there else None))
    except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
        where = RedisTarget.parse(url).address()
        raise Unreachable(f"Redis at {where} did not answer: {describe_failure(error)}") from None
    finally:
        await client.aclose()
    return found
