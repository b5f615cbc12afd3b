"""The Postgres sessions of one dispatcher: to listen, take over, do chores, one a lane, for handlers, for people."""

from random import Random

from dispatcher.core.events import DatabaseChanged, ListenerChanged, Observer, Ticked
from dispatcher.infra.postgres.lazy import LazySession
from dispatcher.infra.postgres.reconnecting import OnChange, ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.service.targets import PostgresTargets
from dispatcher.settings import Settings
from dispatcher.stages.doorbell.wake import Doorbell
from dispatcher.upkeep.registry import Registry

LANES = 3
CHORES_LOCK_S = 0.5  # then the next time will do


class Sessions:
    """Opens nothing by itself: whoever runs the service keeps those open that it needs, and runs `asked`.

    `session_name` is what Postgres knows all of them by, so that a successor can end them.
    """

    def __init__(
        self,
        settings: Settings,
        session_name: str,
        *,
        doorbell: Doorbell,
        registry: Registry,
        observe: Observer,
        rng: Random,
    ) -> None:
        reach = self._reach = PostgresTargets(settings, session_name)
        self._doorbell = doorbell
        self._registry = registry
        self._observe = observe
        database = DatabaseState(observe)
        self.control = ReconnectingSession(
            reach.listening, "control", prepare=self._prepare_control, changed=self._listener_changed, rng=rng
        )
        # Direct: the takeover takes session locks.
        self.upkeep = ReconnectingSession(
            reach.direct, "upkeep", prepare=reach.check, changed=database.changed("upkeep"), rng=rng
        )
        # Apart from upkeep, which publishing waits for after a reconnect: a lock on a table holds up only the chores.
        # It says nothing of whether events can be relayed, unless none are: then it is the only one.
        told = None if settings.enabled else database.changed("chores")
        self.chores = ReconnectingSession(reach.direct, "chores", prepare=self._prepare_chores, changed=told, rng=rng)
        self.lanes = [
            ReconnectingSession(
                reach.database, f"lane-{n}", prepare=reach.check, changed=self._turning(database, f"lane-{n}"), rng=rng
            )
            for n in range(LANES)
        ]
        # Apart from the others: what a person asks may be slow, and a slow answer holds up nobody else.
        self.asked = LazySession(reach.asking, "api", prepare=reach.check)
        self.handlers = ReconnectingSession(
            reach.database, "handlers", prepare=reach.check, changed=self._turning(database, "handlers"), rng=rng
        )
        links = [self.control, self.upkeep, self.chores, self.handlers, *self.lanes]
        for postgres in links:
            postgres.siblings = [other for other in links if other is not postgres]

    async def _prepare_control(self, session: Session) -> None:
        await self._reach.check(session)
        await self._doorbell.attach(session)
        await self._registry.enrol(session)

    async def _prepare_chores(self, session: Session) -> None:
        await self._reach.check(session)
        # For the session: a table's lock is taken before a statement could set it for itself.
        await session.fetch(f"SET lock_timeout = {round(CHORES_LOCK_S * 1000)}")

    def _turning(self, database: "DatabaseState", purpose: str) -> OnChange:
        """A lane that cannot get its session turns in vain: or an outage would look like a dispatcher that is dead."""
        note = database.changed(purpose)

        def changed(up: bool, reason: str | None) -> None:
            note(up, reason)
            if not up:
                self._observe(Ticked("error", 0.0, reason))

        return changed

    def _listener_changed(self, up: bool, reason: str | None) -> None:
        self._observe(ListenerChanged(up, reason))
        if up:
            self._doorbell.nudge()


class DatabaseState:
    """Turns the changes of several links into one state: the database is up while any of them is."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._up: set[str] = set()
        self._said: bool | None = None

    def changed(self, purpose: str) -> OnChange:
        def note(up: bool, reason: str | None) -> None:
            (self._up.add if up else self._up.discard)(purpose)
            now_up = bool(self._up)
            if now_up != self._said:
                self._said = now_up
                self._observe(DatabaseChanged(now_up, None if now_up else reason))

        return note
