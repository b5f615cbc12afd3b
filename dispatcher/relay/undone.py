"""What to say of rows that a statement claimed or settled to no effect: a trigger undid it, and no error was raised."""

from contextlib import suppress

import psycopg

from dispatcher.core.errors import ClaimUndone, SessionLost, SettleUndone
from dispatcher.infra.postgres.session import Session
from dispatcher.ops.trials import name_triggers


async def claim_undone(session: Session, rows: int) -> ClaimUndone:
    """The error that says: so many rows were claimed, and a trigger took our claim off them again."""
    return ClaimUndone(await _said(session, rows, "claimed", "They are not published. "))


async def settle_undone(session: Session, rows: int) -> SettleUndone:
    """The error that says: so many rows were settled, and a trigger undid it: they are claimed by us as before."""
    return SettleUndone(await _said(session, rows, "settled"))


async def _said(session: Session, rows: int, done: str, then: str = "") -> str:
    names = ""
    with suppress(SessionLost, psycopg.Error):  # without the names it is said all the same
        names = await name_triggers(session)
    were = "row was" if rows == 1 else "rows were"
    undone = "to no effect: a trigger on messaging.message_outbox undid it"
    return f"{rows} {were} {done}, {undone}. {then}Remedy: drop or change it{names}"
