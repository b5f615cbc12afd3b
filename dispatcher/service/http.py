"""What the settings make of the sidecar: who may use it, and what it answers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from anyio.abc import TaskGroup
from prometheus_client import CollectorRegistry

from dispatcher.core.events import Observer, SidecarUp
from dispatcher.core.process_state import ProcessState
from dispatcher.infra.postgres.session import Fetch
from dispatcher.ops.groups import GroupsQuestion
from dispatcher.settings import Settings
from dispatcher.sidecar import app
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.controls import Controls
from dispatcher.sidecar.dead_letters import DeadLetters
from dispatcher.sidecar.held import HeldAggregates
from dispatcher.sidecar.openapi import document
from dispatcher.sidecar.outbox_events import Events


@dataclass(frozen=True, slots=True)
class Sites:
    """What is served. `probes`: probes alone, when they have a port of their own."""

    main: web.Application
    probes: web.Application | None


def build_http(
    s: Settings,
    *,
    readiness: Callable[[], str | None],
    metrics_registry: CollectorRegistry,
    ask: Fetch,
    retried: Callable[[], None],
    observe: Observer,
    state: Callable[[], ProcessState],
    extra_routes: Iterable[web.AbstractRouteDef] = (),
) -> Sites:
    """Put the sidecar together, with `extra_routes` beside its own: those of the console.

    `ask` runs what people ask of Postgres; `retried` is called after events went back.
    """
    guard = AccessControl(token=lambda: s.current("api_token"), listens_on=s.http_host, hosts=s.http_allowed_hosts)

    def groups() -> GroupsQuestion:
        url = "" if s.unrouted == "dead" else s.current("redis_url")
        return GroupsQuestion(url, s.layout.keys, s.stream_maxlen, s.backpressure_except, s.connect_timeout_ms / 1000)

    routes = [
        document(),
        *DeadLetters(ask, observe, retried).routes(),
        *HeldAggregates(ask, observe, retried).routes(),
        *Events(ask, s.max_attempts, observe, retried).routes(),
        *Controls(ask, groups).routes(),
        *extra_routes,
    ]

    def missing() -> str | None:
        return next((trouble.reason for trouble in state().troubles if trouble.kind == "session"), None)

    return Sites(
        app.build(readiness, metrics_registry, guard=guard, routes=routes, missing=missing),
        app.build_probes(readiness, missing=missing) if s.probe_port is not None else None,
    )


async def open_http(sites: Sites, s: Settings, beside: TaskGroup, observe: Observer) -> None:
    """Listen on the port of the sidecar, and on that of the probes if they have one. Raises Misconfigured."""
    port = await beside.start(app.serve, sites.main, s.http_host, s.http_port, name="sidecar")
    probe_port = None
    if sites.probes is not None:
        serve = partial(app.serve, port_setting="probe")
        probe_port = await beside.start(serve, sites.probes, s.http_host, s.probe_port, name="probes")
    observe(SidecarUp(s.http_host, port, probe_port))
