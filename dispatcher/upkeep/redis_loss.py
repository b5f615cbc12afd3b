"""The audit after a loss of Redis: entries that Redis acknowledged and lost are published again.

A failover, or a restart without the end of the append-only file, loses entries whose rows say `sent`. Another
incarnation (run id or replication id) is the sign of it. No dispatcher publishes to it until the rows whose entry id is
above its newest one are put back: a single new entry would move that id past the lost ones. The whole argument:
docs/explanation/decisions/0008. A stream that lost its end while the server ran on (FLUSHALL, DEL, an older copy) is
audited too: it begins another life. A proxy that answers each connection with another run id: no audit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import anyio

from dispatcher.core.errors import Unreachable
from dispatcher.core.events import AuditChanged, Observer, Republished
from dispatcher.core.incarnation import RedisIncarnation, StreamEnd
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.replies import clock_in, info_fields
from dispatcher.infra.redis.stream_end import (
    Forbidden,
    Gap,
    KnownEnd,
    SeenServer,
    ask_elsewhere,
    ask_incarnation,
    look_for_gap,
)
from dispatcher.upkeep.clone import refuse_clone
from dispatcher.upkeep.stream_server import EMPTIED, StreamServers

CHUNK = 20_000  # rows put back in one statement, well within its timeout; settles wait as long
EVERY_S = 1.0
NOTE_EVERY = 5  # checks; less often than the shortest useful window
PROXY = "each connection to Redis is told another run id: a proxy makes it up, and a failover behind it would not show"


class RedisLossAudit:
    """Remembers in Postgres which incarnation of Redis holds the streams, and audits a new one. One for each server.

    `default_stream`: the stream of the rows that name none; None: the first.
    """

    def __init__(
        self,
        streams: Sequence[str],
        postgres: ReconnectingSession,
        *,
        window_s: float,
        deadline_s: float,
        wake: Callable[[], None],
        observe: Observer,
        default_stream: str | None = None,
        chunk: int = CHUNK,
    ) -> None:
        self._streams = tuple(streams)
        self._servers = StreamServers(
            self._streams,
            postgres,
            window_s=window_s,
            default_stream=self._streams[0] if default_stream is None else default_stream,
            chunk=chunk,
        )
        self._deadline_s = deadline_s
        self._wake = wake
        self._observe = observe
        self._on: bool | None = None  # what was reported last; written by _tell_whether_on()
        self._knew_holder = False  # this process knew a Redis that holds the stream: no clone; written by verify()
        self._proxied = False  # the run id is one of a connection, and tells nothing; written by _is_behind_proxy()
        self._lengths = [0] * len(self._streams)  # at the last check

    async def verify(
        self, connection: RedisConnection, *, publisher_at: RedisIncarnation | None = None
    ) -> RedisIncarnation:
        """The incarnation that this connection leads to; once this returns, Postgres names it as the stream's holder.

        `publisher_at`: where the connection that publishes was verified to lead to; for the same one Postgres is not
        asked.
        Raises Unreachable while nothing may be published there: a replica, a server that loads, Postgres away.
        """
        seen = await self._ask_server(connection)
        if seen is None:
            return RedisIncarnation()
        # Once a replica, a primary may have dropped entries: those to come may be older than the known ones.
        connection.known_entries.begin(seen.last_ids, seen.clock_ms)
        if publisher_at is not None and publisher_at.same_server(seen.incarnation):
            return publisher_at
        noted = await self._servers.noted(seen.incarnation)
        if len(noted) == len(self._streams):
            held = _with_lives(seen.incarnation, noted)
            if not await self._gaps(connection, held, noted):
                self._knew_holder = True
                return held
        elif not noted:
            if await self._is_behind_proxy(connection, seen.incarnation):
                return RedisIncarnation()
            if not self._knew_holder:
                await refuse_clone(self._servers.ask, connection, self._deadline_s)
        # A dispatcher that does not know of the new incarnation yet may publish to it, and settle, after we asked for
        # the newest entry. Under the lock nobody settles: rows that say `sent` and are newer than that entry are lost.
        async with self._servers.nobody_settles():
            return await self._audit(connection, seen.incarnation)

    async def _audit(self, connection: RedisConnection, incarnation: RedisIncarnation) -> RedisIncarnation:
        """Put back what the streams lost, while nobody settles; then Postgres names this incarnation."""
        # Asked before Redis: what is noted by then must still be in the stream.
        noted = await self._servers.noted(incarnation)
        now = await self._ask_server(connection)
        if now is None or not now.incarnation.same_server(incarnation):
            raise Unreachable("another incarnation of Redis holds the stream than a moment ago")
        connection.known_entries.begin(now.last_ids, now.clock_ms)
        self._knew_holder = True
        gaps = await self._gaps(connection, _with_lives(incarnation, noted), noted)
        lives = {stream: known.life for stream, known in noted.items()}
        republished, why = 0, ""  # why: of the first stream of which something can be lost
        for stream in self._streams:
            if stream not in noted:
                rows, another, lives[stream] = await self._audit_stream(now, stream, None, None)
                republished, why = republished + rows, why or another or ""
            elif stream in gaps:
                *_, lives[stream] = await self._audit_stream(now, stream, gaps[stream], lives[stream])
        if why and not republished:
            self._observe(Republished(0, why))
        return replace(incarnation, lives=tuple((stream, lives[stream]) for stream in self._streams))

    async def _audit_stream(
        self, seen: SeenServer, stream: str, gap: Gap | None, life: int | None
    ) -> tuple[int, str | None, int]:
        """Put back what one stream lost: how many rows, why (None: nothing can be lost), and its life from now on.

        `gap`: what a server that ran on lost, in this `life` of the stream; None: another incarnation holds it now.
        """
        so_far = 0
        while True:
            step = await self._servers.audit(seen, stream, gap, life, so_far)
            so_far += step.republished
            promoted = step.replid_before == seen.replid2
            why = "a replica was promoted" if promoted else "it is another incarnation"
            if step.changed and (step.republished or (step.done and gap is not None)):
                cause = why if gap is None else EMPTIED
                self._observe(Republished(step.republished, cause, same_server=gap is not None))
            if step.republished:
                self._wake()
            if step.done:
                return so_far, why if step.changed else None, step.life

    async def run(self, connection: RedisConnection) -> None:
        """Ask every second, until cancelled, whether the connection still leads to the incarnation it was verified for.

        A primary that was made a replica, lost entries and is a primary again has cut no connection; nor has a stream
        that was deleted.
        """
        checks = 0
        while True:
            await anyio.sleep(EVERY_S)
            incarnation = connection.incarnation
            if incarnation is None or not incarnation.known or not connection.up:
                continue
            commands = [("INFO", "replication"), *[("XLEN", each) for each in self._streams]]
            if len(self._streams) > 1:  # with one stream the newest entry is the floor, and nobody needs the clock
                commands.insert(0, ("INFO", "server"))
            replies = await connection.send(commands, self._deadline_s)
            info, *lengths = replies[-1 - len(self._streams) :]
            if not isinstance(info, bytes) or connection.incarnation != incarnation:
                continue
            if isinstance(replies[0], bytes) and (clock_ms := clock_in(replies[0])) is not None:
                connection.known_entries.note_clock(clock_ms)
            fields = info_fields(info)
            same = fields.get("role") == "master" and fields.get("master_replid") == incarnation.replid
            checks += 1
            now = [length if isinstance(length, int) else 0 for length in lengths]
            shrank = any(
                isinstance(length, int) and length < before / 2
                for length, before in zip(lengths, self._lengths, strict=True)
            )
            self._lengths = now
            if same and (shrank or checks % NOTE_EVERY == 0):
                # All must leave for the server that the settings name now, or two would hold parts of the stream.
                same = not await connection.leads_elsewhere() and await self._note_ends(connection, incarnation)
            if not same:
                connection.mark_unverified(incarnation)
                self._wake()  # or a relay that sleeps would not find out what was lost

    async def _ask_server(self, connection: RedisConnection) -> SeenServer | None:
        """What the connection leads to. None: that cannot be told, and entries that are lost will not be noticed."""
        try:
            seen = await ask_incarnation(connection, self._streams, self._deadline_s)
        except Forbidden as code:
            self._tell_whether_on(False, f"Redis refused: {code}; allow this user +info and +xinfo")
            return None
        if self._proxied:
            connection.known_entries.begin(seen.last_ids, seen.clock_ms)
            return None
        known = seen.incarnation.known
        self._tell_whether_on(known, None if known else "INFO tells no run id or replication id")
        return seen if known else None

    async def _is_behind_proxy(self, connection: RedisConnection, incarnation: RedisIncarnation) -> bool:
        """Whether each connection is told another run id: then it is a proxy's, and says nothing of Redis.

        A few more are opened, only when an audit is due. A failover changes what they are told once, a proxy again and
        again. Raises Unreachable when all of them lead elsewhere: this connection is one to an old primary.
        """
        told = await ask_elsewhere(connection, incarnation.run_id)
        if told == "elsewhere":
            connection.close()
            raise Unreachable("new connections lead to another Redis than the one that was opened a moment ago")
        if told != "differ":
            return False
        self._proxied = True
        connection.run_ids_differ = True
        self._tell_whether_on(False, PROXY)
        return True

    async def _gaps(
        self, connection: RedisConnection, held: RedisIncarnation, noted: Mapping[str, KnownEnd]
    ) -> dict[str, Gap]:
        """What streams lost since Postgres noted their ends, or since this connection had its last reply."""
        left, gaps = connection.left, dict[str, Gap]()
        ours = left[1] if left is not None and left[0] == held else {}
        for stream, known in noted.items():
            gap = (await look_for_gap(connection, known, ours.get(stream, ()), self._deadline_s))[1]
            if gap is not None:
                gaps[stream] = gap
        return gaps

    async def _note_ends(self, connection: RedisConnection, incarnation: RedisIncarnation) -> bool:
        """Note in Postgres that the incarnation answered, and the end of its stream.

        False: another one holds the stream, or it has lost its end.
        """
        entries = connection.known_entries.take()
        if not self._servers.up:
            return True
        there = True
        try:
            noted = await self._servers.noted(incarnation)
            if _with_lives(incarnation, noted) != incarnation:
                return False
            ends, gaps = dict[str, StreamEnd](), 0
            for stream, known in noted.items():
                ends[stream], gap = await look_for_gap(connection, known, entries[stream], self._deadline_s)
                gaps += gap is not None
            if connection.incarnation != incarnation:
                return True  # connected again meanwhile
            if not gaps:
                await self._servers.write_ends(incarnation, ends, connection.address)
                return True
            there = False
        except Unreachable:
            pass
        if connection.incarnation == incarnation:
            connection.known_entries.restore(entries)  # for the next check
        return there

    def _tell_whether_on(self, on: bool, reason: str | None) -> None:
        if on != self._on:
            self._on = on
            self._observe(AuditChanged(on, reason))


def _with_lives(incarnation: RedisIncarnation, noted: Mapping[str, KnownEnd]) -> RedisIncarnation:
    return replace(incarnation, lives=tuple((stream, known.life) for stream, known in noted.items()))
