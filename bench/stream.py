"""What the stream holds in the end: how fast it got there, what is missing, what is there twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import ConnectionPool

from bench.servers import STREAM, Rig


@dataclass(frozen=True, slots=True)
class Looked:
    """What a stream held."""

    entries: int
    seconds: float
    lost: int
    duplicated: int


def look(servers: Rig, expected: set[bytes] | None = None, streams: Sequence[str] = (STREAM,)) -> Looked:
    """Read the whole streams: the time from their ids, what is missing and what is there twice.

    `expected`: the event_ids that should be there; without it, those of the table.
    """
    expected = _in_the_table(servers) if expected is None else expected
    seen: set[bytes] = set()
    entries, times = 0, list[int]()
    for stream in streams:
        for page in pages(servers, stream):
            times += [int(entry_id.split(b"-")[0]) for entry_id in (page[0][0], page[-1][0])]
            entries += len(page)
            seen.update(fields[1] for _, fields in page)  # event_id is the first field
    seconds = max(1, max(times, default=0) - min(times, default=0)) / 1000
    return Looked(entries, seconds, len(expected - seen), entries - len(seen))


def pages(servers: Rig, stream: str = STREAM) -> Iterator[list[tuple[bytes, list[bytes]]]]:
    """The stream's entries: id, and names and values by turns, as hiredis returns them."""
    pool = ConnectionPool.from_url(servers.url_of(stream), protocol=2, socket_timeout=30)
    connection: Any = pool.make_connection()
    try:
        start = "-"
        while True:
            connection.send_command("XRANGE", stream, start, "+", "COUNT", 5000)
            if not (page := connection.read_response()):
                return
            yield page
            start = f"({page[-1][0].decode()}"
    finally:
        connection.disconnect()


def _in_the_table(servers: Rig) -> set[bytes]:
    statement = "COPY (SELECT event_id FROM messaging.message_outbox) TO STDOUT"
    with servers.connect() as connection, connection.cursor() as cursor, cursor.copy(statement) as copy:
        return {bytes(line).rstrip() for line in copy}
