"""`python -m bench.without <technique>`: `dispatcher run` with one technique switched off, to see what it brings.

It changes modules from outside before the dispatcher starts: nothing of this is in the product.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, cast

from redis.connection import Connection, PythonRespSerializer

from dispatcher.cli import main
from dispatcher.core.entry import EntryFormat
from dispatcher.core.row import ClaimedRow
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.relay import cursor
from dispatcher.service import sessions
from dispatcher.stages.claim import FROM_THE_START


@dataclass(frozen=True, slots=True)
class Technique:
    """What is taken away: `off` alters the process, `sql` the database, `back` undoes it. `held`: beside a snapshot."""

    name: str
    off: Callable[[], None] = lambda: None
    sql: str = ""
    back: str = ""
    held: bool = False
    settings: tuple[tuple[str, str], ...] = ()


def _replace(owner: Any, name: str, by: object) -> None:
    """Set what is there already. A name that is gone is an error: the technique would stay on, and be measured so."""
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__} has no {name} any more: what is to be switched off here?")
    setattr(owner, name, by)


def _one_lane() -> None:
    _replace(sessions, "LANES", 1)


def _no_cursor() -> None:
    _replace(cursor, "last_index_key", lambda _batch: FROM_THE_START)


def _python_packing() -> None:
    connection: Any = cast("Any", Connection)()
    serializer: Any = PythonRespSerializer(connection._buffer_cutoff, connection.encoder.encode)

    def xadd(entry: EntryFormat, row: ClaimedRow, **_: bool) -> bytes:
        fields = {
            "event_id": row.event_id,
            "message_id": row.message_id,
            "event_type": row.event_type,
            "aggregate_type": row.aggregate_type,
            "aggregate_id": row.aggregate_id,
            "occurred_at": row.occurred_at.isoformat(timespec="microseconds") + "Z",
            "payload": row.payload,
        } | ({} if row.headers is None else {"headers": row.headers})
        words = ("XADD", entry.stream, "MAXLEN", "~", str(entry.maxlen), "*", *chain.from_iterable(fields.items()))
        return b"".join(serializer.pack(*words))

    _replace(EntryFormat, "xadd", xadd)


def _synchronous_commit() -> None:
    settings: Callable[[PostgresTarget, int], dict[str, str]] = PostgresTarget.session_settings

    def durable(target: PostgresTarget, server_version: int) -> dict[str, str]:
        return settings(target, server_version) | {"synchronous_commit": "on"}

    _replace(PostgresTarget, "session_settings", durable)


_TABLE = "ALTER TABLE messaging.message_outbox"
_USUAL_INDEX = "ON messaging.message_outbox (next_run_at, id) WHERE status IN ('pending', 'retry')"
TECHNIQUES = {
    "batches": Technique("batches of up to 512 (16)", settings=(("DISPATCH_BATCH_SIZE", "16"),)),
    "lanes": Technique("three lanes that take turns (one)", _one_lane),
    "packing": Technique("entries written from one template (redis-py's packer)", _python_packing),
    "commit": Technique("synchronous_commit off in our sessions (on)", _synchronous_commit),
    "hot": Technique(
        "claims that are heap-only (an index on status too)",
        sql=f"CREATE INDEX bench_usual {_USUAL_INDEX}",
        back="DROP INDEX IF EXISTS messaging.bench_usual",
    ),
    "fillfactor": Technique(
        "room in the page, fillfactor 44 (100)",
        sql=f"{_TABLE} SET (fillfactor = 100)",
        back=f"{_TABLE} SET (fillfactor = 44)",
    ),
    "cursor": Technique("the keyset cursor, a snapshot held (none)", _no_cursor, held=True),
}


if __name__ == "__main__":
    TECHNIQUES[sys.argv[1]].off()
    sys.argv[1:] = ["run"]
    main()
