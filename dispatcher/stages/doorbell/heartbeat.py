"""The listener rings itself now and then, because a connection can go deaf without breaking."""

from collections.abc import Callable

from dispatcher.infra.postgres.session import Session

EVERY_S = 5.0


class ListenerHeartbeat:
    """When the session was heard last, and whether our own ring is on its way. Written by the task that listens."""

    def __init__(self, channel: str, clock: Callable[[], float]) -> None:
        self.channel = channel
        self._clock = clock
        self._heard_at = 0.0
        self._rang_at: float | None = None

    def begin(self) -> None:
        """Begin anew, for a new session."""
        self._heard_at, self._rang_at = self._clock(), None

    def heard(self, channel: str) -> None:
        """Note a notification, perhaps our own."""
        self._heard_at = self._clock()
        if channel == self.channel:
            self._rang_at = None

    async def check(self, session: Session) -> None:
        """Ring ourselves after five silent seconds. Raises SessionLost when that ring does not come back."""
        now = self._clock()
        if self._rang_at is not None:
            if now - self._rang_at > EVERY_S:
                raise session.lose("the listener is deaf: its own notification did not come back")
        elif now - self._heard_at > EVERY_S:
            self._rang_at = now
            await self.ring(session)

    async def ring(self, session: Session) -> None:
        await session.fetch("SELECT pg_notify(%(channel)s, '')", {"channel": self.channel})
