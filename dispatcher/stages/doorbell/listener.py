"""Hears the control session: prepares it, sorts its notifications, and notices when it has gone deaf."""

from collections.abc import Callable

import anyio

from dispatcher.core.errors import Unreachable
from dispatcher.core.events import WakeCause
from dispatcher.infra.postgres.pooler import ROOM
from dispatcher.infra.postgres.session import Session
from dispatcher.stages.doorbell import heartbeat
from dispatcher.stages.doorbell.heartbeat import ListenerHeartbeat
from dispatcher.stages.doorbell.owners import OwnerBell

DOORBELL = "outbox_doorbell"  # rung by writers; whoever got the key listens, until a peer has it
PEERS = "outbox_backlog"  # rings dispatchers: there is more than one can take, or what others may claim
CONTROL = "outbox_control"  # rung by whoever pauses, resumes, changes the layout or what is held


class Listener:
    """Used by the task that has the doorbell. `owners`: with an order, who else may have to be woken."""

    def __init__(self, heartbeat_channel: str, owners: OwnerBell | None, clock: Callable[[], float]) -> None:
        self.heartbeat = ListenerHeartbeat(heartbeat_channel, clock)
        self._owners = owners
        self._on_control: list[Callable[[], None]] = []

    def on_control(self, listener: Callable[[], None]) -> None:
        """Call `listener()` when CONTROL was rung, or may have been while nobody listened."""
        self._on_control.append(listener)

    async def attach(self, session: Session) -> None:
        """Prepare a new control session: it must be direct, and hear its own notification.

        Raises Unreachable when it is deaf, as behind a transaction pooler.
        """
        if session.pooled:
            raise Unreachable(
                f"the listener is behind {session.pooler}, where LISTEN is deaf; {ROOM if session.pooler_full else ''}"
                "set DISPATCH_LISTEN_URL to a direct connection"
            )
        for channel in (PEERS, CONTROL, self.heartbeat.channel):
            await session.fetch(f"LISTEN {channel}")
        await self.heartbeat.ring(session)
        with anyio.move_on_after(heartbeat.EVERY_S):
            while not any(channel == self.heartbeat.channel for channel, _, _ in session.drain_notifications()):
                await session.wait_readable()
            return
        raise Unreachable("the listener is deaf: its own notification did not come back")

    def begin(self) -> None:
        """Begin anew, for a new session: what was rung in between was rung to nobody."""
        self.heartbeat.begin()
        self._tell_control()

    def hear(self, session: Session) -> WakeCause | None:
        """Read what has arrived, without waiting, and say whether it rang for rows. Raises SessionLost."""
        cause: WakeCause | None = None
        for channel, _, sender in session.drain_notifications():
            self.heartbeat.heard(channel)
            if channel == DOORBELL:
                cause = "notify"
                if self._owners is not None:
                    self._owners.pass_on()
            elif self._owners is not None and channel == self._owners.channel:
                cause = cause or "peer"
            elif channel == CONTROL:
                self._tell_control()
            elif channel == PEERS and sender != session.backend_pid:
                cause = cause or "peer"
        return cause

    def _tell_control(self) -> None:
        for listener in self._on_control:
            listener()
