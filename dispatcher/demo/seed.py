"""Writes sample rows by COPY, a transaction for each part: millions need no memory, and a stop keeps what is in."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, Misconfigured, Unreachable
from dispatcher.demo.samples import COLUMNS, SampleRow
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.session import describe
from dispatcher.infra.postgres.target import PostgresTarget

PART_ROWS = 20_000
_COPY = f"COPY messaging.message_outbox ({', '.join(COLUMNS)}) FROM STDIN"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def seed(conninfo: str, rows: Iterator[SampleRow], count: int, progress: Callable[[int], None]) -> None:
    """Copy `count` rows; `progress` gets the rows of each part when it is committed. Raises a DispatcherError.

    Dead rows get no copy in the dead-letter queue: the API and `dlq` list them from their rows.
    """
    anyio.run(_require_table, PostgresTarget(conninfo, "seed"))
    try:
        with psycopg.connect(conninfo, autocommit=True, connect_timeout=10, application_name="outbox-seed") as session:
            while count > 0:
                size = min(count, PART_ROWS)
                now = datetime.now(UTC)
                with session.cursor() as cursor, cursor.copy(_COPY) as sink:
                    sink.write("".join(line(row, now) for row in islice(rows, size)))
                progress(size)
                count -= size
    except psycopg.OperationalError as error:
        raise Unreachable(f"Postgres went away: {describe(error)}") from None
    except psycopg.Error as error:
        raise DispatcherError(f"Postgres refused the rows: {describe(error)}") from None


async def _require_table(target: PostgresTarget) -> None:
    """Raise what is wrong with the database before anything is written."""
    session = await connect(target, "seed")
    try:
        [(there,)] = await session.fetch("SELECT to_regclass('messaging.message_outbox') IS NOT NULL")
    finally:
        await session.close()
    if not there:
        raise Misconfigured(f"{target.address()} has no table messaging.message_outbox: run `dispatcher migrate` first")


def line(row: SampleRow, now: datetime) -> str:
    """A row in COPY's text format."""
    moment = (now - timedelta(seconds=row.age)).isoformat()
    values = (
        row.aggregate_type, row.aggregate_id, row.event_type, row.payload, row.status, str(row.attempts), moment,
        moment, moment if row.status == "sent" else None, row.last_error,
    )  # fmt: skip
    return "\t".join("\\N" if value is None else value.translate(_ESCAPES) for value in values) + "\n"
