"""Takeover: rows claimed by somebody who froze or died are put back, so that no crash leaves an event behind."""

from datetime import datetime

import anyio
import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, TakenOver
from dispatcher.infra.database import Session
from dispatcher.infra.link import Link
from dispatcher.infra.sqlfiles import load

WINDOW = 20_000
EVERY_S = 1.0


class Takeover:
    """Walks the unsettled rows in windows, one a call, and puts overdue claims back."""

    def __init__(self, *, lease_s: float, observe: Observer) -> None:
        self._lease_s = lease_s
        self._observe = observe
        self._after: tuple[str, int] = ("-infinity", 0)  # written by look() only

    async def look(self, session: Session, *, now: datetime | None = None) -> int:
        """Look at the next window; returns how many rows were put back."""
        after_time, after_id = self._after
        [(freed, seen, last_time, last_id)] = await session.fetch(
            load("takeover"),
            {"after_time": after_time, "after_id": after_id, "window": WINDOW, "lease_s": self._lease_s, "now": now},
        )
        self._after = (last_time, last_id) if seen == WINDOW else ("-infinity", 0)
        if freed:
            self._observe(TakenOver(freed, "lease"))
        return int(freed)

    async def run(self, link: Link) -> None:
        """Look every second until cancelled."""
        while True:
            session = await link.get()
            try:
                await self.look(session)
            except SessionLost as error:
                await link.broke(session, str(error))
            except psycopg.Error:
                pass  # a lock or a timeout; the next second tries again
            await anyio.sleep(EVERY_S)
