"""The wire to Redis: bursts of commands written at once, their replies collected by count.

redis-py packs a command in Python at 22 µs and awaits each reply by itself; hiredis packs one in 2 µs, and here a burst
of replies costs one future. Nothing is ever sent twice: whoever gave a burst decides what to do about a lost reply.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis

from dispatcher.core.decide import NoReply, NotApplied, Refused
from dispatcher.core.outages import is_wrong_server
from dispatcher.infra.redis.shapes import in_shape

_INCOMPLETE = object()
_pack = cast("Callable[[tuple[str, ...]], bytes]", hiredis.pack_command)  # its stub allows a tuple of one only

Command = tuple[str, ...] | bytes  # its words, or packed already


class _Burst:
    """Commands written together. `replies` grows in order; the future holds them all in the end."""

    __slots__ = ("commands", "done", "expected", "most_bytes", "replies", "timer")

    def __init__(self, commands: Sequence[Command], done: asyncio.Future[list[Any]], most_bytes: int | None) -> None:
        self.commands = () if isinstance(commands[0], bytes) else commands  # () of entries: publish.py checks these
        self.most_bytes = most_bytes
        self.expected = len(commands)
        self.replies: list[Any] = []
        self.done = done
        self.timer: asyncio.TimerHandle | None = None


class Pipe(asyncio.Protocol):
    """One connection. `send` may be called again before earlier bursts are answered; replies come in that order."""

    def __init__(self, on_lost: Callable[["Pipe", str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_INCOMPLETE)
        self._bursts: deque[_Burst] = deque()
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._why = "the connection was closed"
        self._aborted = False
        self.wrong_server: str | None = None  # a reply that says so: nothing more is sent on this connection
        self._received = 0  # bytes since the last burst was answered

    @property
    def open(self) -> bool:
        """Whether something may still be sent."""
        return self._transport is not None and not self._transport.is_closing() and self.wrong_server is None

    def send(
        self, commands: Sequence[Command], deadline_s: float, most_bytes: int | None = None
    ) -> asyncio.Future[list[Any]]:
        """Write the commands now and return a future of their replies, one a command, by index.

        The connection is closed when their replies are larger than `most_bytes` together.

        A reply is what hiredis makes of it (bytes, int, list, None), `Refused` for an error, or for what the command
        never gives, `NoReply` where the connection broke or the deadline passed first, `NotApplied` when it was closed
        already. The future never fails.
        """
        done: asyncio.Future[list[Any]] = self._loop.create_future()
        if self._transport is None or not self.open:
            done.set_result([NotApplied(self.wrong_server or self._why)] * len(commands))
            return done
        if not commands:
            done.set_result([])
            return done
        data = b"".join([command if isinstance(command, bytes) else _pack(command) for command in commands])
        burst = _Burst(commands, done, most_bytes)
        burst.timer = self._loop.call_later(deadline_s, self.abort, f"no reply within {deadline_s:g} s")
        self._bursts.append(burst)
        self._transport.write(data)
        return done

    def abort(self, why: str) -> None:
        """Close at once. Bursts that wait get `NoReply`."""
        if self._transport is not None and not self._transport.is_closing():
            self._why, self._aborted = why, True
            self._transport.abort()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        reader, bursts = self._reader, self._bursts
        self._received += len(data)
        if bursts and bursts[0].most_bytes is not None and self._received > bursts[0].most_bytes:
            self.abort(f"a reply of more than {bursts[0].most_bytes} bytes")
            return
        try:
            reader.feed(data)
            while bursts:
                burst = bursts[0]
                replies = burst.replies
                for _ in range(burst.expected - len(replies)):
                    reply = reader.gets()
                    if reply is _INCOMPLETE:
                        return
                    replies.append(self._refused(str(reply)) if isinstance(reply, hiredis.ReplyError) else reply)
                bursts.popleft()
                self._received = 0
                self._finish(burst)
            if self.wrong_server is not None:
                self.abort(f"closed by us, for the server said: {self.wrong_server}")
                return
            unasked = reader.gets()
            if unasked is not _INCOMPLETE:
                # Kept, it would be taken for the reply to the next command, and every one after it would be off by one.
                said = str(unasked)[:100] if isinstance(unasked, hiredis.ReplyError) else "something we did not ask for"
                self.abort(f"the server said: {said}")
        except hiredis.ProtocolError:
            self.abort("the server does not speak the Redis protocol (if it speaks TLS, the URL begins with rediss://)")

    def _refused(self, text: str) -> Refused:
        """An error reply. One that another server would not give ends the connection, once all is answered.

        A primary that was replaced keeps its connections: asked again on the same one, it would say so for ever.
        """
        if self.wrong_server is None and is_wrong_server(text):
            self.wrong_server = text[:100]
        return Refused(text)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._why = f"the connection broke ({type(exc).__name__})"
        self._transport = None
        lost = NoReply(self._why, cut=not self._aborted)
        while self._bursts:
            burst = self._bursts.popleft()
            burst.replies.extend([lost] * (burst.expected - len(burst.replies)))
            self._finish(burst)
        self._on_lost(self, self._why)

    @staticmethod
    def _finish(burst: _Burst) -> None:
        if burst.timer is not None:
            burst.timer.cancel()
        if not burst.done.done():
            replies = burst.replies
            burst.done.set_result(in_shape(burst.commands, replies) if burst.commands else replies)
