"""Reads which events failed and are tried again, and how overdue the others are."""

from dispatcher.core.process_state import RetryCount
from dispatcher.infra.postgres.session import Fetch
from dispatcher.infra.sqlfiles import load


async def read_retrying(fetch: Fetch, *, ordered: bool, holds: bool) -> RetryCount:
    """`ordered`: aggregates are kept in order; `holds`: also behind a dead event. Raises as `fetch` does."""
    [row] = await fetch(load("retrying"), {"ordered": ordered, "holds": holds, "now": None})
    events, attempts, event_type, error, next_at, event_id, since, overdue_s = row
    return RetryCount(events, attempts or 0, event_type or "", error, next_at, overdue_s, event_id, since)
