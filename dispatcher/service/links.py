"""The Postgres sessions of one dispatcher: to listen, for what runs beside, one a lane, for handlers, for people."""

from dataclasses import replace
from random import Random
from typing import Literal

from dispatcher.core.errors import Misconfigured, Unreachable
from dispatcher.core.events import DatabaseChanged, ListenerChanged, Observer, Ticked
from dispatcher.infra.database import Session, Target
from dispatcher.infra.link import Changed, Link
from dispatcher.infra.migrations import missing
from dispatcher.infra.on_demand import OnDemand
from dispatcher.infra.sqlfiles import load
from dispatcher.settings import Settings
from dispatcher.stages.wake import Doorbell
from dispatcher.upkeep.registry import Registry

LANES = 3
CONTROL_TIMEOUT_S = 5.0
ASKED_TIMEOUT_S = 5.0
ASKED_CONNECT_S = 2.0


class Links:
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
        self._settings = settings
        self._session_name = session_name
        self._doorbell = doorbell
        self._registry = registry
        self._observe = observe
        self._pooled = settings.listen_url != settings.database_url
        database = _AnyUp(observe)
        self.control = Link(
            self._listening, "control", prepare=self._prepare_control, changed=self._listener_changed, rng=rng
        )
        # Direct: the takeover takes session locks.
        self.upkeep = Link(self._direct, "upkeep", prepare=self._check, changed=database.changed("upkeep"), rng=rng)
        self.lanes = [
            Link(
                self._database, f"lane-{n}", prepare=self._check, changed=self._turning(database, f"lane-{n}"), rng=rng
            )
            for n in range(LANES)
        ]
        # Apart from the others: what a person asks may be slow, and a slow answer holds up nobody else.
        self.asked = OnDemand(self._asking, "api", prepare=self._check)
        self.handlers = Link(
            self._database, "handlers", prepare=self._check, changed=self._turning(database, "handlers"), rng=rng
        )
        links = [self.control, self.upkeep, self.handlers, *self.lanes]
        for link in links:
            link.companions = [other for other in links if other is not link]

    def _database(self) -> Target:
        """The database as it is to be reached now: its password may have changed."""
        return self._target("database_url", pooled=self._pooled)

    def _direct(self) -> Target:
        """The same without a pooler between."""
        return self._target("listen_url", pooled=False)

    def _listening(self) -> Target:
        """The same with little patience: its statements are short, so it is the first to find a silent network out."""
        target = self._direct()
        return replace(target, query_timeout_s=min(target.query_timeout_s, CONTROL_TIMEOUT_S))

    def _asking(self) -> Target:
        """The same for people, who would rather hear that it takes too long."""
        target = self._direct()
        return replace(
            target,
            query_timeout_s=min(target.query_timeout_s, ASKED_TIMEOUT_S),
            connect_timeout_s=min(target.connect_timeout_s, ASKED_CONNECT_S),
        )

    def _target(self, which: Literal["database_url", "listen_url"], *, pooled: bool) -> Target:
        s = self._settings
        return Target(
            s.current(which),
            self._session_name,
            connect_timeout_s=s.connect_timeout_ms / 1000,
            query_timeout_s=s.query_timeout_ms / 1000,
            pooled=pooled,
        )

    async def _prepare_control(self, session: Session) -> None:
        await self._check(session)
        await self._doorbell.attach(session)
        await self._registry.enrol(session)

    async def _check(self, session: Session) -> None:
        """Raises Misconfigured when a table or a right is missing, Unreachable when the server is a standby."""
        [(standby,)] = await session.fetch(
            "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'"
        )
        if standby:
            raise Unreachable(f"Postgres at {self._database().address()} is read-only: a standby, or about to be one")
        if gone := await missing(session):
            raise Misconfigured(
                f"Postgres at {self._database().address()} lacks {', '.join(gone)}: run `dispatcher migrate` first"
            )
        if denied := [what for (what,) in await session.fetch(load("rights"))]:
            raise Misconfigured(
                f"the role at {self._database().address()} lacks {'; '.join(denied)}: "
                "grant it the role outbox_dispatcher (sql/roles.sql)"
            )

    def _turning(self, database: "_AnyUp", purpose: str) -> Changed:
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


class _AnyUp:
    """Turns the changes of several links into one state: the database is up while any of them is."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._up: set[str] = set()
        self._said: bool | None = None

    def changed(self, purpose: str) -> Changed:
        def note(up: bool, reason: str | None) -> None:
            (self._up.add if up else self._up.discard)(purpose)
            now_up = bool(self._up)
            if now_up != self._said:
                self._said = now_up
                self._observe(DatabaseChanged(now_up, None if now_up else reason))

        return note
