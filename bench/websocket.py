"""A WebSocket client that costs little, so that a thousand of them do not use up the machine that is measured.

Enough of RFC 6455 for the gateway of examples/chat: text frames in, pings answered, a close code; no extensions.
"""

import asyncio
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
GONE = 1006  # as browsers say it: no close frame came
Heard = Callable[[bytes], None]


class WebSocket(asyncio.Protocol):
    """One connection. `heard` gets each text frame; `closed` gets the close code."""

    def __init__(self, request: bytes, heard: Heard) -> None:
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._request = request
        self._heard = heard
        self._buffer = b""
        self._open = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take all frames that are complete."""
        data = self._buffer + data if self._buffer else data
        if not self._open:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.end(GONE)
                return
            self._open = True
        begin, size = 0, len(data)
        while size - begin >= 2:
            kind, length, start = data[begin] & 0xF, data[begin + 1], begin + 2
            if length == 126 and size >= begin + 4:
                length, start = int.from_bytes(data[begin + 2 : begin + 4]), begin + 4
            elif length == 127 and size >= begin + 10:
                length, start = int.from_bytes(data[begin + 2 : begin + 10]), begin + 10
            elif length >= 126:
                break
            if size < start + length:
                break
            self._take(kind, data[start : start + length])
            begin = start + length
        self._buffer = data[begin:]

    def connection_lost(self, exc: Exception | None) -> None:
        """The end, with a close frame or without."""
        if not self.closed.done():
            self.closed.set_result(GONE)

    def end(self, code: int) -> None:
        """Close the connection."""
        if not self.closed.done():
            self.closed.set_result(code)
        if self._transport is not None:
            self._transport.close()

    def _take(self, kind: int, payload: bytes) -> None:
        if kind == TEXT:
            self._heard(payload)
        elif kind == PING and self._transport is not None:
            self._transport.write(_frame(PONG, payload))
        elif kind == CLOSE and self._transport is not None:
            self._transport.write(_frame(CLOSE, payload))
            self.end(int.from_bytes(payload[:2]) or GONE)


async def connect(url: str, heard: Heard) -> WebSocket:
    """Connect; the upgrade is answered later. Raises OSError."""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(
        lambda: WebSocket(request, heard), parts.hostname or "", parts.port or 80
    )
    return protocol


def _frame(kind: int, payload: bytes) -> bytes:
    """A short frame of a client's, masked with zeros."""
    return struct.pack("!BBI", 0x80 | kind, 0x80 | len(payload), 0) + payload
