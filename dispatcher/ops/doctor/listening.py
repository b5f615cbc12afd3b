"""The LISTEN round trip: a notification sent on the outbox's database must arrive on the listening connection."""

from time import monotonic
from uuid import uuid4

import anyio

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.core.findings.finding import Finding, bad, ok
from dispatcher.infra.postgres.connect import connect
from dispatcher.infra.postgres.pooler import ROOM
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.postgres.target import PostgresTarget

LATE = "; until then events go out on the tick only, and only the lease shows that a dispatcher died"


async def check_listening(session: Session, target: PostgresTarget, timeout_s: float) -> Finding:
    """Notify on the database's session, listen on a second one opened as the dispatcher would."""
    try:
        listener = await connect(target, "doctor")
    except DispatcherError as error:
        return bad("listen", f"the listening connection: {error}", f"correct DISPATCH_LISTEN_URL{LATE}")
    try:
        if listener.pooled:
            found = f"{target.address()} is {listener.pooler}, where LISTEN hears nothing"
            more = ROOM if listener.pooler_full else ""
            return bad("listen", found, f"{more}set DISPATCH_LISTEN_URL to a direct connection{LATE}")
        channel = f"outbox_ping_{uuid4().hex}"
        await listener.fetch(f"LISTEN {channel}")
        took = await _round_trip(session, listener, channel, timeout_s)
        if took is not None:
            return ok("listen", f"a notification was heard after {took * 1000:.1f} ms")
        if await _round_trip(listener, listener, channel, timeout_s) is not None:
            found = "DATABASE_URL and DISPATCH_LISTEN_URL lead to different databases: notifications do not cross"
            return bad("listen", found, f"let both lead to the same database of the same server{LATE}")
        found = f"a notification did not come back within {timeout_s:g} s: something in between drops it"
        return bad("listen", found, f"set DISPATCH_LISTEN_URL to a connection without a pooler or proxy{LATE}")
    except SessionLost as error:
        return bad("listen", f"the listening connection broke ({error})", "run it again; look at the log of Postgres")
    finally:
        await listener.close()


async def _round_trip(sender: Session, listener: Session, channel: str, timeout_s: float) -> float | None:
    began = monotonic()
    await sender.fetch("SELECT pg_notify(%(channel)s, '')", {"channel": channel})
    with anyio.move_on_after(timeout_s):
        while not any(heard == channel for heard, _, _ in listener.drain_notifications()):
            await listener.wait_readable()
        return monotonic() - began
    return None
