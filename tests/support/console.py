"""The console of a process that is not there: the test observes for it."""

from collections.abc import Callable, Mapping

from dispatcher.core.latencies import Latencies
from dispatcher.service.http import console_routes
from dispatcher.settings import Settings
from dispatcher.sidecar.history import History
from dispatcher.telemetry.state import StateTracker


class FedConsole:
    """`observe` is told what happens; `history` and `routes` show it."""

    def __init__(
        self,
        settings: Settings,
        latency: Callable[[], Latencies],
        types: Callable[[], Mapping[str, Latencies]] = dict,
    ) -> None:
        self.observe = StateTracker(latency, types=types)
        self.history = History(self.observe.read)
        self.routes = console_routes(settings, self.history)
