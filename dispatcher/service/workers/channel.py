"""Between the supervisor and a worker: one socket. Down go lines of JSON, up go snapshots, each after its length.

Snapshots are pickled: both ends are the same program, and nobody else has an end of the socket.
"""

import pickle
import struct
from asyncio import IncompleteReadError, StreamReader

from dispatcher.core.snapshot import WorkerReport

_LENGTH = struct.Struct(">I")


def pack(snapshot: WorkerReport) -> bytes:
    """A snapshot as it is sent."""
    body = pickle.dumps(snapshot, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def receive_report(reader: StreamReader) -> WorkerReport | None:
    """The next snapshot; None when the worker is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        snapshot: WorkerReport = pickle.loads(await reader.readexactly(length))  # noqa: S301 -- our own child's
    except (IncompleteReadError, ConnectionError):
        return None
    return snapshot
