"""Makes a copy of an outbox the outbox: a person's word, after which dispatchers claim from it."""

from dispatcher.infra.postgres.session import Session
from dispatcher.infra.sqlfiles import load


async def accept_copy(session: Session) -> str | None:
    """Why it was a copy, which it is no more. None: it lives where it says."""
    [(why,)] = await session.fetch(load("accept_copy"))
    return None if why is None else str(why)
