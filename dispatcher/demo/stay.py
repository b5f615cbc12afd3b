"""`dispatcher demo --stay`: the whole path for as long as somebody looks, with keys that break and mend its parts.

Two dispatchers run: the console is that of the first, and the second is there to be killed.
"""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.core.errors import DispatcherError
from dispatcher.core.layout import DEFAULT_STREAM
from dispatcher.demo.cleanup import InterruptedRunError, ending_in_order, scratch_folder
from dispatcher.demo.keys import pressed, single_keys
from dispatcher.demo.process import DispatcherProcess, connected
from dispatcher.demo.run import start_servers
from dispatcher.demo.screen import Watch
from dispatcher.demo.traffic import DIE_AT_ONCE, TOO_LARGE, DemoConsumer, DemoProducer
from dispatcher.embedded import free_port
from dispatcher.embedded.ports import require_free
from dispatcher.embedded.server import EmbeddedServer

GROUP = "demo"
RATE = 20.0
MAXLEN = 2_000  # small, so that a consumer that stops is backpressure within two minutes
USUAL_PORT = 8080
LOOK_S = 0.25


@dataclass(slots=True)
class Part:
    """Something that a key breaks and mends. `up`: whether it works now."""

    key: str
    name: str
    breaks: str  # what the key does to it
    up: Callable[[], bool]
    take: Callable[[], None]
    bring: Callable[[], None]


def stay(rate: float, http_port: int, screen: Watch) -> None:
    """Until Ctrl-C or `q`. Raises Misconfigured or another DispatcherError; nothing is left running then or later."""
    port = http_port or _usual_port()
    require_free(port, "--http-port")
    with contextlib.suppress(InterruptedRunError), ending_in_order() as stack:
        stack.callback(screen.close)
        folder = stack.enter_context(scratch_folder("dispatcher-demo-"))
        postgres, valkey, database_url = start_servers(stack, folder, screen.step, appendonly=True)

        def dispatcher(number: int, own_port: int) -> DispatcherProcess:
            settings = connected(database_url, valkey.url, own_port) | {
                "DISPATCH_DEPLOYMENT": "demo",
                "REDIS_STREAM_MAXLEN": str(MAXLEN),
                "DISPATCH_MAX_PAYLOAD_BYTES": str(TOO_LARGE - 1000),
            }
            return stack.enter_context(DispatcherProcess(settings, folder / f"dispatcher-{number}.log"))

        first = dispatcher(1, port)
        first.wait_ready()
        second = _Second(lambda: dispatcher(2, free_port()))
        producer, consumer = DemoProducer(database_url, rate), DemoConsumer(valkey.url, DEFAULT_STREAM, GROUP)
        for thread in (producer, consumer):
            thread.start()
            stack.callback(thread.stop)
        parts = [
            _server("r", "Redis", valkey),
            _server("p", "Postgres", postgres),
            Part("d", "second dispatcher", "killed", second.up, second.kill, second.start),
            Part(
                "c",
                "consumer",
                "stopped",
                lambda: consumer.reading,
                lambda: setattr(consumer, "reading", False),
                lambda: setattr(consumer, "reading", True),
            ),
        ]
        screen.step(f"look at the console: http://127.0.0.1:{port}/")
        screen.keys([(part.key, f"{part.name} {part.breaks}, and back") for part in parts])
        keys = stack.enter_context(single_keys())
        while True:
            first.check()
            screen.show([(part.name, part.up()) for part in parts], producer.committed, consumer.received)
            for key in pressed(keys, LOOK_S):
                if key == "q":
                    return
                if key == "x":
                    producer.die()
                    screen.step(f"{DIE_AT_ONCE} events that are too large: they will be dead letters")
                for part in parts:
                    if part.key == key:
                        _turn(part, screen)


def _usual_port() -> int:
    """8080, so that the address can be told from memory; any free one where it is taken."""
    try:
        require_free(USUAL_PORT, "--http-port")
    except DispatcherError:
        return free_port()
    return USUAL_PORT


def _server(key: str, name: str, server: EmbeddedServer) -> Part:
    return Part(key, name, "stopped", lambda: server.running, server.stop, server.start)


def _turn(part: Part, screen: Watch) -> None:
    up = part.up()
    began = time.monotonic()
    (part.take if up else part.bring)()
    took = time.monotonic() - began
    screen.step(f"{part.name}: {part.breaks if up else 'there again'}" + (f" after {took:.1f} s" if took > 1 else ""))


class _Second:
    """The dispatcher that is killed. A new one is another process, with another name."""

    def __init__(self, make: Callable[[], DispatcherProcess]) -> None:
        self._make = make
        self._process = make()

    def up(self) -> bool:
        return self._process.runs

    def kill(self) -> None:
        self._process.signal(signal.SIGKILL)
        self._process.stop()  # it has ended when this returns: the same key, pressed at once, brings it back

    def start(self) -> None:
        self._process = self._make()
