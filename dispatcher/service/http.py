"""What the settings make of the sidecar: who may use it, and what it answers."""

from collections.abc import Callable
from functools import partial

from aiohttp import web
from anyio.abc import TaskGroup
from prometheus_client import CollectorRegistry

from dispatcher.core.events import Observer, SidecarUp
from dispatcher.core.process_state import ProcessState
from dispatcher.infra.postgres.lazy import LazySession
from dispatcher.infra.postgres.target import PostgresTarget
from dispatcher.ops.groups import GroupsQuestion
from dispatcher.settings import Settings
from dispatcher.sidecar import app, static
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.controls import Controls
from dispatcher.sidecar.dead_letters import DeadLetters
from dispatcher.sidecar.held import HeldAggregates
from dispatcher.sidecar.history import History
from dispatcher.sidecar.openapi import document
from dispatcher.sidecar.outbox_events import Events
from dispatcher.sidecar.overview import Installation, Overview


class Http:
    """The sidecar of one process, or of the sum of several: `state` gives the state now.

    `api` is asked what people ask of Postgres; `retried` is called after events went back.
    """

    def __init__(
        self,
        s: Settings,
        *,
        readiness: Callable[[], str | None],
        metrics_registry: CollectorRegistry,
        api: LazySession,
        retried: Callable[[], None],
        observe: Observer,
        state: Callable[[], ProcessState],
    ) -> None:
        self._settings, self._api, self._observe = s, api, observe
        self._history = History(state)
        guard = AccessControl(token=lambda: s.current("api_token"), listens_on=s.http_host, hosts=s.http_allowed_hosts)

        def groups() -> GroupsQuestion:
            url = "" if s.unrouted == "dead" else s.current("redis_url")
            timeout_s = s.connect_timeout_ms / 1000
            return GroupsQuestion(url, s.layout.keys, s.stream_maxlen, s.backpressure_except, timeout_s)

        def missing() -> str | None:
            return next((trouble.reason for trouble in state().troubles if trouble.kind == "session"), None)

        routes = [
            document(),
            *DeadLetters(api.fetch, observe, retried).routes(),
            *HeldAggregates(api.fetch, observe, retried).routes(),
            *Events(api.fetch, s.max_attempts, observe, retried).routes(),
            *Controls(api.fetch, groups).routes(),
            *console_routes(s, self._history),
        ]
        self.main = app.build(readiness, metrics_registry, guard=guard, routes=routes, missing=missing)
        # Probes alone, when they have a port of their own.
        self._probes = app.build_probes(readiness, missing=missing) if s.probe_port is not None else None

    async def open(self, beside: TaskGroup) -> None:
        """Listen on the port of the sidecar, and on that of the probes if they have one. Raises Misconfigured."""
        s, probe_port = self._settings, None
        port = await beside.start(app.serve, self.main, s.http_host, s.http_port, name="sidecar")
        if self._probes is not None:
            serve = partial(app.serve, port_setting="probe")
            probe_port = await beside.start(serve, self._probes, s.http_host, s.probe_port, name="probes")
        self._observe(SidecarUp(s.http_host, port, probe_port))
        beside.start_soon(self._api.run, name="what people ask")
        beside.start_soon(self._history.run, name="history")


def console_routes(s: Settings, history: History) -> list[web.RouteDef]:
    """What feeds the console: the state of the process and a history of it. No request asks Postgres or Redis."""
    overview = Overview(
        history,
        stream=s.stream_name,
        maxlen=s.stream_maxlen,
        max_attempts=s.max_attempts,
        tick_s=s.tick_ms / 1000,
        installation=Installation(s.deployment, PostgresTarget(s.database_url, "").address(), s.grafana_url),
    )
    return [*static.routes(), *overview.routes()]
