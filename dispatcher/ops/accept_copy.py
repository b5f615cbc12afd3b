"""Makes a copy of an outbox the outbox: a person's word, after which dispatchers claim from it."""

from dispatcher.infra.sqlfiles import load
from dispatcher.ops.session import OperatorSession


class AcceptCopySession(OperatorSession):
    """`async with AcceptCopySession(target) as outbox:` to say the word."""

    verb = "accept a copy"

    async def accept(self) -> str | None:
        """Why it was a copy, which it is no more. None: it lives where it says."""
        with self.explained():
            [(why,)] = await self.session.fetch(load("accept_copy"))
        return None if why is None else str(why)
