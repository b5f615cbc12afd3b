"""Django's database connections, where an application that uses Django runs in this process.

Django closes connections that broke, or are older than CONN_MAX_AGE, at the start and the end of each request. Here no
request begins or ends: without this a connection that Postgres has ended would fail every later event of its thread.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator


def _close_old() -> Callable[[], None] | None:
    """What closes them in the thread that calls it; None: nobody has loaded Django, or told it its settings."""
    database, conf = sys.modules.get("django.db"), sys.modules.get("django.conf")
    if database is None or conf is None or not conf.settings.configured:
        return None

    def close() -> None:
        """As close_old_connections, but not in the middle of a transaction: a TestCase has one open all the time."""
        for connection in database.connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close_if_unusable_or_obsolete()

    return close


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """The block, in this thread, has usable connections, and leaves none behind that is not. It may raise."""
    if close := _close_old():
        close()
    try:
        yield
    finally:
        if close := _close_old():  # the block may have loaded Django
            with contextlib.suppress(Exception):  # what the block did is done
                close()


@contextlib.asynccontextmanager
async def usable_async() -> AsyncIterator[None]:
    """The same for a coroutine, whose database work Django runs in a thread by sync_to_async."""
    await _close_in_its_thread()
    try:
        yield
    except asyncio.CancelledError:
        raise  # that thread may be what does not end
    except BaseException:
        await _close_quietly()
        raise
    await _close_quietly()


async def _close_in_its_thread() -> None:
    asgiref = sys.modules.get("asgiref.sync")
    if (close := _close_old()) and asgiref is not None:
        await asgiref.sync_to_async(close)()


async def _close_quietly() -> None:
    with contextlib.suppress(Exception):
        await _close_in_its_thread()
