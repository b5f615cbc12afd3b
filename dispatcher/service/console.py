"""What feeds the console: what the events say, and a ring of it. Servers are asked only while somebody watches."""

from collections.abc import Callable

from aiohttp import web

from dispatcher.core.latencies import Latencies
from dispatcher.settings import Settings
from dispatcher.sidecar import page
from dispatcher.sidecar.history import History
from dispatcher.sidecar.overview import Facts, Overview
from dispatcher.telemetry.reader import Reader
from dispatcher.upkeep.attention import Attention


class Console:
    """Of one process. With several, one sidecar draws `core.reading.merged` of all their readers."""

    def __init__(self, s: Settings, latency: Callable[[], Latencies]) -> None:
        self.attention = Attention()
        self.reader = Reader(latency)
        self.history = History(self.reader.read)
        facts = Facts(s.stream_name, s.stream_maxlen, self.attention.look)
        self.routes: list[web.AbstractRouteDef] = [*page.routes(), *Overview(self.history, facts).routes()]
