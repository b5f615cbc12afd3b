"""What only somebody at the console needs: who runs. Looked up only while they watch."""

import time
from contextlib import suppress

import anyio
import psycopg

from dispatcher.core.errors import SessionLost
from dispatcher.core.events import Observer, Surveyed
from dispatcher.core.process_state import RunningDispatcher
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load
from dispatcher.upkeep.attention import Attention
from dispatcher.upkeep.gauges import REST

EVERY_S = 5.0
MAX_DISPATCHERS = 256


async def survey_once(fetch: Fetch, observe: Observer) -> None:
    """Look once and emit Surveyed. Raises SessionLost or psycopg.Error."""
    rows = await fetch(load("status_dispatchers"), None)
    alive = [
        RunningDispatcher(name, host, pid, version, started_at.timestamp())
        for _, name, host, pid, version, started_at in rows[:MAX_DISPATCHERS]
    ]
    observe(Surveyed(alive))


async def run(fetch: Fetch, attention: Attention, observe: Observer, *, every_s: float = EVERY_S) -> None:
    """Survey while somebody watches, until cancelled."""
    while True:
        await attention.begun()
        began = time.monotonic()
        # Postgres away or too busy: the age of the last survey says so, and the next may succeed.
        with suppress(SessionLost, psycopg.Error):
            await survey_once(fetch, observe)
        await anyio.sleep(max(every_s, REST * (time.monotonic() - began)))
