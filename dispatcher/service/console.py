"""What feeds the console: what the events say, and a ring of it. Servers are asked only while somebody watches."""

from collections.abc import Callable

from aiohttp import web

from dispatcher.core.latencies import Latencies
from dispatcher.core.reading import Reading
from dispatcher.settings import Settings
from dispatcher.sidecar import page
from dispatcher.sidecar.history import History
from dispatcher.sidecar.overview import Facts, Overview
from dispatcher.telemetry.reader import Reader
from dispatcher.upkeep.attention import Attention


class Console:
    """Of one process."""

    def __init__(self, s: Settings, latency: Callable[[], Latencies]) -> None:
        self.attention = Attention()
        self.reader = Reader(latency)
        drawn = Drawn(s, self.reader.read, self.attention.look)
        self.history, self.routes = drawn.history, drawn.routes


class Drawn:
    """What is drawn of a reading: that of one process, or the sum of several. `look`: told that somebody watches."""

    def __init__(self, s: Settings, read: Callable[[], Reading], look: Callable[[], None]) -> None:
        self.history = History(read)
        facts = Facts(s.stream_name, s.stream_maxlen, look)
        self.routes: list[web.AbstractRouteDef] = [*page.routes(), *Overview(self.history, facts).routes()]
