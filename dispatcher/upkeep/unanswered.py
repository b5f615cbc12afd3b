"""Finds a session to Postgres whose connection has gone silent, long before the deadline of its statement.

A proxy may acknowledge bytes for a server that it cannot reach any more: then no keepalive of TCP finds out, one lane
that waits keeps the turn from all lanes, and a lease that is not renewed is taken over. So when a session has waited a
while, the server is asked on another one what it does for that session. The control session is asked first: when no
answer comes there either, its own short timeout says that the network is silent, and all sessions are replaced.
"""

from collections.abc import Sequence

import anyio
import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

LOOK_EVERY_S = 1.0
SILENT_S = 4.0  # so long a session waits for a word of the server before another one is asked
WHY = "the server does nothing for this session, and no answer came: its connection is silent"


async def watch_unanswered(
    sessions: Sequence[ReconnectingSession], *, silent_s: float = SILENT_S, look_every_s: float = LOOK_EVERY_S
) -> None:
    """Watch until cancelled. The first of `sessions` that is open and does not wait itself is asked about the others.

    A session behind a transaction pooler is left to the deadline of its statement: nobody knows its server process.
    """
    doubted: set[Session] = set()  # found not at work by the last look: its answer may have been on its way
    while True:
        await anyio.sleep(look_every_s)
        open_now = [session for each in sessions if (session := each.session or each.opening) is not None]
        waiting = [session for session in open_now if session.silent_s > silent_s and not session.pooled]
        asked = next((each.session for each in sessions if each.session and each.session not in waiting), None)
        if not waiting or asked is None:
            doubted.clear()
            continue
        try:
            rows = await asked.fetch(load("not_at_work"), {"pids": [session.backend_pid for session in waiting]})
        except (SessionLost, psycopg.Error):
            doubted.clear()
            continue
        found = {pid for (pid,) in rows}
        idle = {session for session in waiting if session.backend_pid in found and session.silent_s > silent_s}
        for session in idle & doubted:
            session.lose(WHY)
        doubted = idle
