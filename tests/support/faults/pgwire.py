"""Filters for the proxy before Postgres that know its messages: lose notifications, stop a claim on its way."""

import re
import struct
from dataclasses import dataclass, field

from tests.support.proxy import Direction, Filter, Proxy

CLAIM_ID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


@dataclass(slots=True)
class LoseNotifications:
    """Drops NotificationResponse ('A') from what the server sends, as a transaction pooler does. No TLS between."""

    losing: bool = True
    lost: int = 0

    def __call__(self) -> Filter:
        """A filter for a new connection."""
        rest = b""

        def pass_on(direction: Direction, data: bytes) -> bytes:
            nonlocal rest
            if direction == "to_server":
                return data
            rest += data
            kept = []
            while len(rest) >= 5:
                end = 1 + struct.unpack_from("!i", rest, 1)[0]
                if len(rest) < end:
                    break
                message, rest = rest[:end], rest[end:]
                if self.losing and message[:1] == b"A":
                    self.lost += 1
                else:
                    kept.append(message)
            return b"".join(kept)

        return pass_on


@dataclass(slots=True)
class StopClaim:
    """Once armed, the next claim a dispatcher sends is held on its way there or its answer on its way back, and so is
    all that follows in that direction. `session`: only of sessions of which this is a part of the name, as "lane"."""

    session: str = ""
    _proxy: Proxy | None = None
    _direction: Direction = "to_server"
    _seen: set[bytes] = field(default_factory=set)

    def arm(self, proxy: Proxy, direction: Direction) -> None:
        """From now on."""
        self._proxy, self._direction = proxy, direction

    async def sprung(self) -> bool:
        """Whether a claim was stopped."""
        return self._proxy is None

    def __call__(self) -> Filter:
        """A filter for a new connection."""
        begun = wanted = False

        def pass_on(direction: Direction, data: bytes) -> bytes:
            nonlocal begun, wanted
            if direction == "to_server":
                if not begun:  # the first message has the name
                    begun, wanted = True, self.session.encode() in data
                new = set(CLAIM_ID.findall(data)) - self._seen
                self._seen |= new
                if new and wanted and self._proxy is not None:
                    self._proxy.hold(self._direction)
                    self._proxy = None
            return data

        return pass_on
