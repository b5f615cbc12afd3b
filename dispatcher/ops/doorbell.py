"""Reads whether the doorbell trigger fires."""

from dispatcher.core.process_state import TriggerState
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load


async def read_doorbell(fetch: Fetch) -> TriggerState:
    """Whether the trigger is there and enabled, by the catalogue. Raises psycopg.Error or SessionLost."""
    enabled = [how for (how,) in await fetch(load("status_doorbell"), None)]
    if not enabled:
        return "absent"
    if enabled[0] == "dropped":
        return "dropped"
    return "disabled" if enabled[0] == "D" else "installed"
