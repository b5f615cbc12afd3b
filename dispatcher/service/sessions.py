"""The Postgres sessions of one dispatcher: control, upkeep, chores, one for each lane, handlers, api."""

from random import Random

from dispatcher.core.events import DatabaseChanged, Observer, SessionMissing, StillAway, Ticked
from dispatcher.infra.postgres.lazy import LazySession
from dispatcher.infra.postgres.precedence import Precedence
from dispatcher.infra.postgres.reconnecting import OnChange, ReconnectingSession
from dispatcher.infra.postgres.session import Session
from dispatcher.service.targets import PostgresTargets
from dispatcher.settings import Settings

LANES = 3
CHORES_LOCK_S = 0.5  # then the next time will do

_FEWER = "fewer batches overlap"
_WITHOUT = {  # what is not done without this session
    "upkeep": "a new Redis is not verified, rows of dead dispatchers wait",
    "lane-0": "nothing is published",
    "handlers": "no handler is called",
    "control": "writers cannot wake the dispatcher, and its death is found by the lease",
    "chores": "nothing is pruned, the gauges stand still, a consumer group that lags is not seen",
}


class Sessions:
    """Opens nothing by itself: whoever runs the service keeps those open that it needs, and runs `api`.

    `session_name` is what Postgres knows all of them by, so that another dispatcher can end them.
    """

    def __init__(self, settings: Settings, session_name: str, *, observe: Observer, rng: Random) -> None:
        targets = PostgresTargets(settings, session_name)
        self.control = ReconnectingSession(targets.control, "control", rng=rng)
        # Direct, without a pooler: the takeover takes session locks.
        self.upkeep = ReconnectingSession(targets.direct, "upkeep", rng=rng)
        # Apart from upkeep, which publishing waits for after a reconnect: a lock on a table holds up only the chores.
        self.chores = ReconnectingSession(targets.direct, "chores", rng=rng)
        self.lanes = [ReconnectingSession(targets.database, f"lane-{n}", rng=rng) for n in range(LANES)]
        self.handlers = ReconnectingSession(targets.database, "handlers", rng=rng)
        # Apart from the others: what a person asks may be slow, and a slow answer holds up nobody else.
        self.api = LazySession(targets.api, prepare=targets.check)

        # All but api, whose statements are short. The control session first: see upkeep/unanswered.py.
        everything = self.everything = [self.control, self.upkeep, self.chores, self.handlers, *self.lanes]
        first = [self.upkeep, self.lanes[0], self.handlers, self.control, self.chores, *self.lanes[1:]]
        apart = settings.listen_url != settings.database_url
        precedence = Precedence(
            first,
            lambda purpose, reason: observe(SessionMissing(purpose, reason, _WITHOUT.get(purpose, _FEWER))),
            direct=[each.purpose for each in (self.control, self.upkeep, self.chores)] if apart else (),
        )
        for postgres in everything:
            postgres.other_sessions = [self.api, *(other for other in everything if other is not postgres)]
            postgres.prepare(targets.check)
            postgres.precedence = precedence
        for lane in self.lanes:
            lane.stand_ins = [other for other in self.lanes if other is not lane]
        for postgres in self.claiming:
            postgres.prepare(targets.try_out)
        self.chores.prepare(_limit_lock_waits)
        database = DatabaseState(observe)
        for postgres in self.claiming:  # with the others alone nothing is relayed
            postgres.on_change(database.part(postgres))
        if not settings.enabled:  # else the chores say nothing of whether events can be relayed
            self.chores.on_change(database.part(self.chores))

        def tick_in_vain(postgres: ReconnectingSession) -> OnChange:
            # Or an outage would look like a dispatcher that is dead. That there is no room for a lane is said once.
            def tick(up: bool, reason: str | None) -> None:
                if not up and not (
                    postgres.purpose in precedence.missing and any(each.session for each in self.claiming)
                ):
                    observe(Ticked("error", 0.0, reason))

            return tick

        for postgres in self.claiming:
            postgres.on_change(tick_in_vain(postgres))

    @property
    def claiming(self) -> list[ReconnectingSession]:
        """Those that claim and settle."""
        return [*self.lanes, self.handlers]


async def _limit_lock_waits(session: Session) -> None:
    # For the session: a table's lock is taken before a statement could set it for itself.
    await session.fetch(f"SET lock_timeout = {round(CHORES_LOCK_S * 1000)}")


class DatabaseState:
    """Makes one state of several sessions: the database is up while any of them is."""

    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._up: set[ReconnectingSession] = set()
        self._told: bool | None = None
        self._why: str | None = None  # what was told last

    def part(self, postgres: ReconnectingSession) -> OnChange:
        """A listener for the changes of this session."""

        def changed(up: bool, reason: str | None) -> None:
            (self._up.add if up else self._up.discard)(postgres)
            now_up = bool(self._up)
            why = None if now_up else reason
            # While it is down the reason changes: ended by an administrator, then refused, then without tables.
            if now_up != self._told:
                self._told, self._why = now_up, why
                self._observe(DatabaseChanged(now_up, why))
            elif why is not None and why != self._why:
                self._why = why
                self._observe(StillAway("database", why))

        return changed
