"""The registry: one row a running dispatcher, and a session lock that says it is alive.

The lock lives and dies with the control session, so a crash frees it without anybody's help.
"""

import os
import socket

import anyio
import psycopg

from dispatcher import __version__
from dispatcher.core.errors import SessionLost, Unreachable
from dispatcher.core.findings.troubles import MIGRATE
from dispatcher.infra.postgres import locks
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load

_TRIES = 20
_TAKEN = 1000  # ids in a row that others may have
SECOND_LOOK_S = 0.25  # one that only lost its control session has another one by then


class Registry:
    """This process's row. `id` is set by the first enrolment and kept while it is ours."""

    def __init__(self, name: str, control: ReconnectingSession, *, tries: int = _TRIES) -> None:
        self.name = name
        self._tries = tries  # to take the lock of our row
        self.deregistered = False  # the row is gone because we removed it; written by deregister()
        self.id: int | None = None  # written by enrol()
        self.control = control
        control.prepare(self.enrol)

    def locked_id(self) -> int | None:
        """Our id while we hold its lock. Without it we look dead: what is claimed then must not carry the id."""
        return self.id if self.control.session is not None else None

    async def enrol(self, session: Session) -> None:
        """Write our row and take its lock on this session.

        After a broken connection the server may not have noticed yet and still hold the lock for the old session: that
        one is ended first, or we would look dead to the others. Raises Unreachable when it will not go. After the
        sign-off it does nothing: a row that is left behind looks like a death.
        """
        if self.deregistered:
            return
        us: dict[str, object] = {
            "name": self.name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
        }
        if self.id is not None and await session.fetch(load("id_taken"), {"id": self.id, "name": self.name}):
            self.id = None  # asking for its lock would go on for ever
        if self.id is None:
            self.id = await self._new_id(session, us)
            return
        # The lock first: with the row alone we would look dead, and a successor's last step would remove it.
        for attempt in range(self._tries):
            [(locked,)] = await session.fetch(
                f"SELECT pg_try_advisory_lock({locks.REGISTRY}, %(id)s::int)", {"id": self.id}
            )
            if locked:
                await session.fetch(load("enrol_again"), {"id": self.id, **us})
                return
            await session.fetch(load("evict"), {"id": self.id})
            await anyio.sleep(0.02 * (attempt + 1))
        raise Unreachable(f"the lock of dispatcher {self.id} is still held by an earlier session of ours")

    def enrol_again(self) -> None:
        """Our row is gone: the tables were made again, or emptied. The next control session writes it."""
        if not self.deregistered and self.control.session is not None:
            self.control.session.lose(
                "the row of this dispatcher in messaging.dispatcher is gone, and is written again"
            )

    async def _new_id(self, session: Session, us: dict[str, object]) -> int:
        for _ in range(_TAKEN):
            try:
                [(new_id, *_)] = await session.fetch(load("enrol"), us)
            except psycopg.errors.UniqueViolation:  # a sequence left behind by a restore: the next number may be free
                continue
            return int(new_id)
        raise Unreachable(f"the sequence messaging.dispatcher_id_seq gives ids that are taken: as the owner: {MIGRATE}")

    async def deregister(self) -> None:
        """Remove our row at the end of a clean stop. A failure is no matter: the lock goes with the session."""
        self.deregistered = True
        if (session := self.control.session) is None:
            return
        try:
            await session.fetch(load("deregister"), {"id": self.id})
        except (SessionLost, psycopg.Error):
            return


async def find_dead(session: Session, us: int | None) -> list[tuple[int, str]]:
    """Id and name of the dispatchers whose locks are free at two looks; our id if our own row is gone.

    Two, because a dispatcher that lives cannot take its lock again while its successor holds it, and is fenced.
    """
    dead = await session.fetch(load("dead_dispatchers"), {"self": us})
    if any(owner != us for owner, _ in dead):
        await anyio.sleep(SECOND_LOOK_S)
        again = await session.fetch(load("dead_dispatchers"), {"self": us})
        dead = [each for each in again if each in dead]
    return [(int(owner), name) for owner, name in dead]
