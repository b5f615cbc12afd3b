"""The gate before the sink: connects, holds claims back while the sink fails, lets a trial through, searches.

The gate is open while its breaker is closed, and shut while its breaker is open and waits. An outage of Redis costs no
row an attempt: nothing is claimed for it while the gate is shut, and rows that were in flight are released.
"""

from time import monotonic

import anyio

from dispatcher.core.breaker import Breaker
from dispatcher.core.decide import Refused
from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.core.events import BreakerChanged, Observer, Reconciled, StillAway, Ticked
from dispatcher.core.incarnation import RedisIncarnation
from dispatcher.core.layout import Layout
from dispatcher.core.outages import passes_by_itself, without_abort
from dispatcher.core.outcome import BatchOutcomes, Released, Sent
from dispatcher.core.row import Batch
from dispatcher.infra.redis.connection import RedisConnection
from dispatcher.infra.redis.search import Search, Searcher, Verify, by_stream

SEARCH_S = 5.0
SEARCH_AGAIN_S = 0.5


class SinkGate:
    """One connection to the sink, and its breaker. Used by all lanes.

    `verify(connection)` says which incarnation of Redis the connection leads to, and raises DispatcherError while
    nothing may be published there. It is called before anything is published on a new connection, and after a failure.
    `retry_misconfigured`: retry configuration errors from the start, because another connection with the same settings
    has already worked. `in_order`: nothing may be published to a Redis that refuses MULTI or EXEC.
    """

    def __init__(
        self,
        connection: RedisConnection,
        breaker: Breaker,
        *,
        layout: Layout,
        timeout_s: float,
        observe: Observer,
        verify: Verify | None = None,
        searcher: Searcher | None = None,
        retry_misconfigured: bool = False,
        in_order: bool = False,
    ) -> None:
        self.connection = connection
        self._breaker = breaker
        self._layout = layout
        self._timeout_s = timeout_s
        self._observe = observe
        self._verify = verify
        self._searcher = searcher or Searcher(connection, timeout_s)
        self._connecting = anyio.Lock()
        self._attempt = anyio.CancelScope()  # of the connect that runs now, or ran last; replaced by _connect()
        self._stopping = anyio.Event()
        self._ever_up = retry_misconfigured
        self._in_order = in_order

    def stop(self) -> None:
        """End every wait of `wait_open()`, also that for a Redis which accepts a connection and says nothing."""
        self._stopping.set()
        self._attempt.cancel()

    def begin_trial(self) -> bool:
        """Whether only a single row should be tried: a breaker whose wait is over turns half open."""
        return self._breaker.begin_trial(monotonic())

    async def wait_open(self) -> bool:
        """Whether something may be sent now. Waits for the breaker and connects. False: ask again.

        Raises Misconfigured when a person has to act and the sink was never up. Once it was up, False is returned.
        """
        if self.ready:  # hundreds of times a second: the lock below costs a tenth of what an empty claim costs us
            return True
        wait_s = self._breaker.wait_s(monotonic())
        if wait_s > 0:
            with anyio.move_on_after(wait_s):
                await self._stopping.wait()
            return False
        async with self._connecting:
            if self.is_shut():
                return False  # another lane tried meanwhile, and failed
            if self.connection.up and self.connection.incarnation is not None:
                return True
            began = monotonic()
            try:
                if not await self._connect():
                    return False
                verify = self._verify
                incarnation = await verify(self.connection) if verify else RedisIncarnation()
                if self._in_order:
                    await self._try_transaction()
                self.connection.set_incarnation(incarnation)
            except DispatcherError as error:
                if isinstance(error, Misconfigured) and not self._ever_up:
                    raise
                self._shut(str(error))
                # Or an outage would look like a dispatcher that does not turn any more.
                self._observe(Ticked("error", monotonic() - began, str(error)))
                return False
            self._ever_up = True
            if self._breaker.connection_only:
                self._reopen()
        return True

    async def _connect(self) -> bool:
        """Connect, if need be. False: a stop came first. Raises as RedisConnection.connect()."""
        if self._stopping.is_set():
            return False
        # No statement of Postgres runs in this scope: it may be cut.
        with anyio.CancelScope() as self._attempt:
            # If the settings name another user by now, the old connection stays, but may do nothing any more.
            if not self.connection.up or await self.connection.is_outdated():
                await self.connection.connect()
        return not self._attempt.cancelled_caught

    async def _try_transaction(self) -> None:
        """Raise Misconfigured where Redis refuses MULTI or EXEC: what is sent between them would be taken all the same.

        Raises Unreachable when it does not answer, or refuses them for a reason that passes by itself.
        """
        begun, done = await self.connection.send([("MULTI",), ("EXEC",)], self._timeout_s)
        if isinstance(begun, bytes) and isinstance(done, list):
            return
        self.connection.close()  # where only EXEC was refused, an old Redis would queue all that follows
        answer = done if isinstance(begun, bytes) else begun
        if not isinstance(answer, Refused):
            raise Unreachable(f"Redis at {self.connection.address}: {getattr(answer, 'error', 'no answer to MULTI')}")
        said = without_abort(answer.text)
        if passes_by_itself(said):
            raise Unreachable(f"Redis at {self.connection.address}: {said[:100]}")
        raise Misconfigured(
            f"Redis at {self.connection.address} takes no transaction, which DISPATCH_ORDER=aggregate needs "
            f"({said[:100]}): allow this user +multi +exec; a proxy that does not know them cannot keep an order"
        )

    @property
    def ready(self) -> bool:
        """Whether something may be sent now, without waiting for anything."""
        return self._breaker.state == "closed" and self.connection.up and self.connection.incarnation is not None

    def is_shut(self) -> bool:
        """Whether claims are held back now."""
        return self._breaker.wait_s(monotonic()) > 0

    def note_outcomes(self, outcomes: BatchOutcomes) -> None:
        """Learn from the outcomes of a batch whether the sink works."""
        if outcomes.sink_error is not None:
            self._shut(outcomes.sink_error, connection_only=self._not_reached())
        elif outcomes.sent_ids or outcomes.retries:  # a dead row may never have been sent
            self._reopen()
        if outcomes.stream_ids and outcomes.incarnation in (None, self.connection.incarnation):
            streams = [outcomes.streams[row_id] for row_id in outcomes.sent_ids] if outcomes.streams else None
            self.connection.known_entries.note(outcomes.stream_ids, streams)

    def _not_reached(self) -> bool:
        # A server that answered "not me" may do so again on the next connection: that alone is no proof.
        return not self.connection.up and not self.connection.wrong_server

    def _shut(self, reason: str, *, connection_only: bool = True) -> None:
        # Verified again: a primary that refused may have been a replica meanwhile, and lost entries.
        self.connection.set_incarnation(None)
        before = self._breaker.reason
        opened = self._breaker.failed(monotonic(), reason, connection_only=connection_only)
        if opened:
            self._observe(BreakerChanged("open", reason))
        elif self._breaker.reason != before:
            self._observe(StillAway("redis", reason))

    def _reopen(self) -> None:
        if self._breaker.succeeded():
            self._observe(BreakerChanged("closed", None))

    async def try_open(self) -> bool:
        """Whether the sink takes entries: asked by a probe, as nothing may be claimed. Raises as wait_open."""
        if not await self.wait_open():
            return False
        if self._breaker.state != "closed":
            if (reason := await self.probe()) is not None:
                self._shut(reason, connection_only=not self.connection.up)
                return False
            self._reopen()
        return True

    async def probe(self) -> str | None:
        """Why the sink takes no entries now, by an XADD that Redis always refuses; None: it takes entries.

        A reply that speaks of that XADD proves more than PING does: reachable, writable, and no proxy's own error.
        """
        [reply] = await self.connection.send(
            [("XADD", self.connection.streams[0], "0-0", "probe", "")], self._timeout_s
        )
        if isinstance(reply, Refused):
            return None if "than 0-0" in reply.text else reply.text
        return str(getattr(reply, "error", "it took an XADD that nobody may take"))

    async def takes_writes(self) -> bool:
        """Whether Redis takes a write now that is not to the stream: a key that lives for a millisecond."""
        stream = self.connection.streams[0]
        key = (
            f"{stream}:probe" if "{" in stream else f"{{{stream}}}:probe"
        )  # on the node of the stream, if this is a Cluster
        [reply] = await self.connection.send([("SET", key, "", "PX", "1")], self._timeout_s)
        return reply in (b"OK", "OK")

    def search_of(self, batch: Batch, outcomes: BatchOutcomes, last: Search | None = None) -> Search:
        """The search for rows whose reply was lost: `last`, if that searches for the same rows; else a new search."""
        unknown = set(outcomes.unknown)
        wanted = by_stream(self._layout, [row for row in batch.rows if row.id in unknown])
        if last is not None and (last.wanted, last.incarnation) == (wanted, outcomes.incarnation):
            return last
        return Search(self.connection.known_entries.search_from(batch.floor), wanted, outcomes.incarnation)

    async def search_for_unknown(
        self, batch: Batch, outcomes: BatchOutcomes, *, search: Search | None = None, for_s: float = SEARCH_S
    ) -> bool:
        """Search the streams, after the batch's floor, for rows whose reply was lost; note them as sent or released.

        Each row was answered, or the connection that carried it is dead by now (see RedisConnection.connect), so no
        entry can arrive after the search. False: the search failed, or is not done after about `for_s` seconds. Then
        the rows stay unknown, and `search`, of search_of(), knows where to go on. Several tasks may search for rows of
        one claim at a time.
        """
        search = search or self.search_of(batch, outcomes)
        try:
            if not await self._searcher.go_on(search, for_s):
                return False
        except DispatcherError as error:
            if self.connection.up:  # publishing goes on meanwhile
                with anyio.move_on_after(SEARCH_AGAIN_S):
                    await self._stopping.wait()
            else:
                self._shut(str(error), connection_only=self._not_reached())  # else the next try would follow at once
            return False
        found, unknown = search.found, len(outcomes.unknown)
        for row_id in outcomes.unknown:
            outcomes.add(row_id, Sent(found[row_id]) if row_id in found else Released("the connection broke before it"))
        outcomes.unknown.clear()
        self._observe(Reconciled(len(found), unknown - len(found)))
        return True
