"""asyncio's event loop, with a way of its own to look names up."""

import asyncio
import socket
from functools import partial
from typing import Any

from dispatcher.infra.blocking import in_a_thread

MOST = 32  # different look-ups that hang at once


class EventLoop(asyncio.SelectorEventLoop):
    """A look-up of a name that hangs keeps no other name waiting, nor the end of the process.

    asyncio's own take a few threads that all share: five look-ups of Postgres's name that hang, and Redis cannot be
    connected to. And the end of the process waits for these threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[tuple[object, ...], asyncio.Future[Any]] = {}

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """As asyncio's. Who asks for what is being looked up already gets the same answer. Raises OSError."""
        wanted = (host, port, family, type, proto, flags)
        if (lookup := self._lookups.get(wanted)) is None:
            if len(self._lookups) >= MOST:
                raise socket.gaierror(socket.EAI_AGAIN, "too many look-ups of names do not answer")
            try:
                lookup = in_a_thread(partial(_look_up, *wanted), f"look-up of {host}")
            except RuntimeError:
                raise socket.gaierror(socket.EAI_AGAIN, "no thread is left to look the name up") from None
            self._lookups[wanted] = lookup
            lookup.add_done_callback(lambda done: self._looked_up(wanted, done))
        return await asyncio.shield(lookup)

    def _looked_up(self, wanted: tuple[object, ...], done: "asyncio.Future[Any]") -> None:
        del self._lookups[wanted]
        if not done.cancelled():
            done.exception()  # whoever waited may be gone


def _look_up(*wanted: Any) -> Any:
    try:
        return socket.getaddrinfo(*wanted)
    except UnicodeError as error:  # "a..b": no other error of a name is of this kind, and nobody expects it
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
