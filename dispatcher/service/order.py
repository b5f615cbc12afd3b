"""What an order (DISPATCH_ORDER=aggregate) adds to a dispatcher: slots of its own, and those who look after them."""

from collections.abc import Callable

from dispatcher.core.errors import Misconfigured
from dispatcher.core.events import Observer
from dispatcher.core.owned_slots import OwnedSlots
from dispatcher.infra.postgres.session import Session
from dispatcher.service.policies import slots
from dispatcher.service.sessions import Sessions
from dispatcher.settings import Settings
from dispatcher.stages.doorbell.owners import OwnerBell
from dispatcher.upkeep.registry import Registry
from dispatcher.upkeep.slot_keeper import SlotKeeper
from dispatcher.upkeep.standing_layout import StandingLayout


class Order:
    """The views of the relays, the keeper of the slots, and the bell of their owners."""

    def __init__(
        self, s: Settings, sessions: Sessions, *, dispatcher_id: Callable[[], int | None], observe: Observer
    ) -> None:
        self._settings = s
        self._sessions = sessions
        self._observe = observe
        self.stream_slots = OwnedSlots() if s.unrouted == "stream" else None
        self.handler_slots = OwnedSlots() if s.handlers else None
        self._views = [view for view in (self.stream_slots, self.handler_slots) if view is not None]
        self.bell = OwnerBell(sessions.control, self._views[0], dispatcher_id=dispatcher_id, observe=observe)
        for postgres in sessions.claiming:
            postgres.prepare(refuse_pooler)

    def join(self, registry: Registry, layout: StandingLayout) -> SlotKeeper:
        """Make the keeper. Called once the registry has its step on the control session: ours comes after it."""
        s = self._settings
        self._sessions.control.prepare(self.bell.listen)

        def share() -> int | None:
            return None if layout.differs else slots(s)

        return SlotKeeper(
            registry,
            self._sessions.upkeep,
            self._views,
            may_own=share,
            lease_s=s.lease_ms / 1000,
            observe=self._observe,
        )


async def refuse_pooler(session: Session) -> None:
    """Raises Misconfigured on a session behind a transaction pooler."""
    if session.pooled:
        raise Misconfigured(NO_POOLER)


NO_POOLER = (
    "DISPATCH_ORDER is aggregate and DATABASE_URL leads through a transaction pooler (or is another address than "
    "DISPATCH_LISTEN_URL, which says so). Behind one a dispatcher that froze cannot be cut off, so it may own no slot: "
    "set DATABASE_URL to a direct connection and leave DISPATCH_LISTEN_URL out, or DISPATCH_ORDER to none"
)
