"""What feeds the console: what the events say, and a ring of it. Servers are asked only while somebody watches."""

from collections.abc import Callable

from aiohttp import web

from dispatcher.core.latencies import Latencies
from dispatcher.core.process_state import ProcessState
from dispatcher.settings import Settings
from dispatcher.sidecar import static as page
from dispatcher.sidecar.history import History
from dispatcher.sidecar.overview import ConsoleFacts, Overview
from dispatcher.telemetry.state import StateTracker
from dispatcher.upkeep.attention import Attention


class ConsoleState:
    """Of one process."""

    def __init__(self, s: Settings, latency: Callable[[], Latencies]) -> None:
        self.attention = Attention()
        self.reader = StateTracker(latency)
        drawn = ConsoleRoutes(s, self.reader.read, self.attention.look)
        self.history, self.routes = drawn.history, drawn.routes


class ConsoleRoutes:
    """What is drawn of a reading: that of one process, or the sum of several. `look`: told that somebody watches."""

    def __init__(self, s: Settings, read: Callable[[], ProcessState], look: Callable[[], None]) -> None:
        self.history = History(read)
        facts = ConsoleFacts(s.stream_name, s.stream_maxlen, look)
        self.routes: list[web.AbstractRouteDef] = [*page.routes(), *Overview(self.history, facts).routes()]
