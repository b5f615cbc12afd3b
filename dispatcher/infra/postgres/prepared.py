"""Prepared statements on libpq itself: what a relay runs hundreds of times a second.

A cursor of psycopg is made for any statement, and costs a relay at a light load three times what the round trip costs:
it looks for parameters in the text, finds a type for each value, and gives the event loop the socket to watch anew for
each wait. Here a text is prepared once a session, the server finds the types, and the loop watches the socket all the
time. Not for poolers, where each transaction may meet another server process.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple, cast

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result

from dispatcher.infra.forks import not_for_children

_PARAMETER = re.compile(r"%\((\w+)\)s|%%")
_BINARY = 1


class Prepared(NamedTuple):
    """A statement as the server knows it, and the names of its parameters in their order."""

    name: bytes
    text: bytes
    parameters: tuple[str, ...]


class UnknownKindError(TypeError):
    """A parameter is of a kind that is not written here: psycopg writes it."""


class PreparedStatements:
    """Runs one statement at a time on a connection; notices when the server says something unasked.

    The connection is psycopg's: nobody else may use it meanwhile, except within `handed_over()`.
    """

    def __init__(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._encoding = connection.info.encoding
        self._loop = asyncio.get_running_loop()
        self._transformer = Transformer(connection)
        self._prepared: dict[str, Prepared] = {}
        self._results: list[pq.abc.PGresult] = []
        self._done: asyncio.Future[None] | None = None  # of the statement that is under way
        self._on_said: Callable[[], None] | None = None  # of who waits for what comes unasked
        self._said = False  # something came unasked, and nobody looked since
        self._waits_for_room = False  # in the socket, to write
        self._lent = False  # within handed_over()
        self.heard_at = 0.0  # when the server last said something, by the loop's clock
        # A duplicate: libpq may close its own, and a new connection's may get the same number.
        self._descriptor = os.dup(connection.fileno())
        not_for_children(self, lambda ours: [ours._descriptor] if ours._descriptor >= 0 else [])
        self._loop.add_reader(self._descriptor, self._readable)

    async def run(self, sql: str, params: Mapping[str, object] | None) -> list[tuple[Any, ...]]:
        """Run one statement to its end and return its rows. Must not be cancelled, nor called while one is under way.

        Raises psycopg.Error, and UnknownKindError before anything was sent.
        """
        prepared = self._prepared.get(sql)
        if prepared is None:
            prepared = self._parse(sql)
            values = self._written(prepared, params)
            self._pgconn.send_prepare(prepared.name, prepared.text)
            await self._answer()
            self._prepared[sql] = prepared
        else:
            values = self._written(prepared, params)
        self._pgconn.send_query_prepared(prepared.name, values, None, _BINARY)
        result = await self._answer()
        if result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._transformer.set_pgresult(result)
        return self._transformer.load_rows(0, result.ntuples, tuple)

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Within the block the connection is psycopg's to read."""
        self._watch(False)
        self._lent = True
        try:
            yield
        finally:
            self._lent = False
            self._watch(not self._connection.closed)
            self._wake_who_waits()

    def when_said(self, call: Callable[[], None] | None) -> None:
        """Call this once when something came unasked, or the connection was closed, soon if it was; None: do not."""
        self._on_said = call
        if call is not None and (self._said or self._descriptor < 0):
            self._loop.call_soon(self._tell)

    def read(self) -> None:
        """Read what is on the socket, without waiting. The answer to another task's statement may be among it.

        Raises psycopg.Error when the connection is gone.
        """
        self._said = False
        if not self._lent:  # psycopg would wait for ever for what was read here
            self._pgconn.consume_input()
            self._take()

    def close(self) -> None:
        """Watch the socket no more. A statement that is under way is not told."""
        if self._descriptor >= 0:
            self._wait_for_room(False)
            self._watch(False)
            os.close(self._descriptor)
            self._descriptor = -1
        self._tell()

    def _watch(self, on: bool) -> None:
        if self._descriptor >= 0:
            if on:
                self._loop.add_reader(self._descriptor, self._readable)
            else:
                self._loop.remove_reader(self._descriptor)

    def _parse(self, sql: str) -> Prepared:
        names: dict[str, int] = {}

        def place(found: re.Match[str]) -> str:
            name = found[1]
            return "%" if name is None else f"${names.setdefault(name, len(names) + 1)}"

        text = _PARAMETER.sub(place, sql).encode(self._encoding)
        return Prepared(b"d%d" % len(self._prepared), text, tuple(names))

    def _written(self, prepared: Prepared, params: Mapping[str, object] | None) -> list[bytes | None] | None:
        if not prepared.parameters:
            return None
        given, encoding = params or {}, self._encoding
        texts = [_write(given[name]) for name in prepared.parameters]
        return [None if text is None else text.encode(encoding) for text in texts]

    async def _answer(self) -> pq.abc.PGresult:
        """The result of what was sent. Raises what the server refused it with."""
        self._done, self._results = self._loop.create_future(), []
        try:
            self._flush()
            self._take()  # libpq may have read all of it while it wrote
            await self._done
        finally:
            self._done = None
            self._wait_for_room(False)
            self._wake_who_waits()
        for result in self._results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise error_from_result(result, encoding=self._encoding)
        return self._results[-1]

    def _flush(self) -> None:
        """Send what is left to send, when there is room in the socket."""
        try:
            self._wait_for_room(bool(self._pgconn.flush()))
        except psycopg.Error as error:
            self._fail(error)

    def _wake_who_waits(self) -> None:
        """Another task's statement has ended: what came unasked with its answer is on the socket no more."""
        if self._on_said is not None:
            self._said = True
            self._loop.call_soon(self._tell)

    def _wait_for_room(self, on: bool) -> None:
        if on != self._waits_for_room and self._descriptor >= 0:
            self._waits_for_room = on
            if on:
                self._loop.add_writer(self._descriptor, self._flush)
            else:
                self._loop.remove_writer(self._descriptor)

    def _readable(self) -> None:
        self.heard_at = self._loop.time()
        try:
            self._pgconn.consume_input()
        except psycopg.Error as error:
            self._watch(False)  # the connection is gone: the socket would be readable for ever
            self._fail(error)
        else:
            self._take()
        if self._done is None:
            self._said = True
            self._tell()

    def _take(self) -> None:
        """Take the results that are here."""
        done = self._done
        if done is None or done.done():
            return
        try:
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    if self._results:
                        done.set_result(None)
                    else:
                        done.set_exception(psycopg.OperationalError("the server gave no result"))
                    return
                self._results.append(result)
        except psycopg.Error as error:
            self._fail(error)

    def _fail(self, error: psycopg.Error) -> None:
        """The connection is gone. What the server said before it closed says more than that it closed."""
        if self._done is not None and not self._done.done():
            if any(result.status == pq.ExecStatus.FATAL_ERROR for result in self._results):
                self._done.set_result(None)
            else:
                self._done.set_exception(error)

    def _tell(self) -> None:
        call, self._on_said = self._on_said, None
        if call is not None:
            call()


def _write(value: object) -> str | None:
    """A parameter as Postgres reads it: the server finds its type. Raises UnknownKindError."""
    if value is None:
        return None
    write = _WRITE.get(type(value)) or (str if isinstance(value, str) else None)
    if write is None:
        raise UnknownKindError(type(value).__name__)
    text = write(value)
    if "\0" in text:  # as text it would end there
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return text


def _write_list(values: object) -> str:
    items = cast("list[object]", values)
    if items and type(items[0]) is int and set(map(type, items)) == {int}:
        return f"{{{str(items)[1:-1]}}}"
    return "{" + ",".join(map(_write_item, items)) + "}"


def _write_item(value: object) -> str:
    if isinstance(value, list):
        raise UnknownKindError("a list in a list")
    text = _write(value)
    if text is None:
        return "NULL"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_WRITE: dict[type, Callable[[Any], str]] = {
    str: str,
    int: str,
    float: str,
    bool: str,
    datetime: str,
    list: _write_list,
}
