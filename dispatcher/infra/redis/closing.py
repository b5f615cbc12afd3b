"""Connections of redis-py that close at once, whatever the server does.

Those of redis-py itself wait until the server has answered the end of TLS: where it has gone silent, for
`socket_connect_timeout`, and then they raise TimeoutError, out of `aclose()` and out of each command that closes one.
"""

from functools import cache
from typing import Any


class _ClosesAtOnce:
    _writer: Any

    async def disconnect(self, nowait: bool = False, **about: Any) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # or it waits for that answer behind our back, half a minute long
        await super().disconnect(nowait=True, **about)  # type: ignore[misc]


@cache
def closing_at_once(connection_class: type) -> type:
    """The same class of connections, which close at once."""
    return type(connection_class.__name__, (_ClosesAtOnce, connection_class), {})


def close_at_once(opens: Any) -> None:
    """Let it open such connections from now on. `opens`: a pool, or a node of a Cluster."""
    opens.connection_class = closing_at_once(opens.connection_class)
