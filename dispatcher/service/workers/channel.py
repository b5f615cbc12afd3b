"""The one socket between the supervisor and a worker.

Down: a line of JSON with the flags, then a line for each command: a nudge (rows were put back), or to end at once. The
end of the socket says that the supervisor is gone. Up: reports, each after its length. They are pickled: both ends are
the same program, and nobody else has an end of the socket.
"""

import json
import pickle
import struct
from asyncio import IncompleteReadError, StreamReader
from collections.abc import Mapping

from dispatcher.core.process_state import WorkerReport

NUDGE = b"nudge\n"
CUT_SHORT = b"cut short\n"
_LENGTH = struct.Struct(">I")


def pack_flags(flags: Mapping[str, object]) -> bytes:
    return json.dumps(dict(flags)).encode() + b"\n"


def pack_report(report: WorkerReport) -> bytes:
    body = pickle.dumps(report, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


async def receive_report(reader: StreamReader) -> WorkerReport | None:
    """The next report; None when the worker is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        report: WorkerReport = pickle.loads(await reader.readexactly(length))  # noqa: S301 -- our own child's
    except (IncompleteReadError, ConnectionError):
        return None
    return report
