"""A duty: work that runs again and again beside the relays, on one session, and never ends the process."""

from collections.abc import Awaitable, Callable

import anyio
import psycopg

from dispatcher.core.errors import DispatcherError, SessionLost
from dispatcher.core.events import Observer, Ticked
from dispatcher.infra.postgres.reconnecting import ReconnectingSession
from dispatcher.infra.postgres.session import Session, describe


def tell_failure(observe: Observer, duty: str) -> Callable[[DispatcherError | psycopg.Error], None]:
    """A way to tell of a duty's failures: as ticks that failed, with the duty's name in the reason."""
    return lambda error: observe(Ticked("error", 0.0, f"{duty}: {describe(error)}"))


async def repeat(
    postgres: ReconnectingSession,
    work: Callable[[Session], Awaitable[float]],
    *,
    failed: Callable[[DispatcherError | psycopg.Error], None],
    pause_s: float,
) -> None:
    """Run `work` on the session there is, until cancelled. It returns the seconds to pause; after a failure: `pause_s`.

    A lock, a timeout, a missing right or a sink that is away is told to `failed`, and tried again. A new session ends
    the pause: it may lead to another server. While there is no session, nothing is tried.
    """
    while True:
        session = await postgres.get()
        rest_s = pause_s
        try:
            rest_s = await work(session)
        except SessionLost:
            pass
        except (psycopg.Error, DispatcherError) as error:
            failed(error)
        with anyio.move_on_after(rest_s):
            await postgres.wait_lost()
