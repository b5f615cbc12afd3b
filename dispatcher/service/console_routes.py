"""What feeds the console: the state of the process and a history of it. No request asks Postgres or Redis."""

from collections.abc import Callable

from aiohttp import web

from dispatcher.core.process_state import ProcessState
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.settings import Settings
from dispatcher.sidecar import static
from dispatcher.sidecar.history import History
from dispatcher.sidecar.overview import Installation, Overview


class ConsoleRoutes:
    """The console of one process, or of the sum of several: `read` gives the state now."""

    def __init__(self, s: Settings, read: Callable[[], ProcessState]) -> None:
        self.history = History(read)
        database = PostgresTarget(s.database_url, "").address()
        installation = Installation(s.deployment, database, s.grafana_url)
        overview = Overview(
            self.history,
            stream=s.stream_name,
            maxlen=s.stream_maxlen,
            max_attempts=s.max_attempts,
            tick_s=s.tick_ms / 1000,
            installation=installation,
        )
        self.routes: list[web.AbstractRouteDef] = [*static.routes(), *overview.routes()]
