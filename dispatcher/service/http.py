"""What the settings make of the sidecar: who may use it, and what it answers."""

from collections.abc import Callable, Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry

from dispatcher.core.events import Observer
from dispatcher.core.process_state import ProcessState
from dispatcher.infra.postgres.session import Fetch
from dispatcher.settings import Settings
from dispatcher.sidecar import app
from dispatcher.sidecar.access import AccessControl
from dispatcher.sidecar.dead_letters import DeadLetters
from dispatcher.sidecar.openapi import document


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
) -> web.Application:
    """Put the sidecar together, with `extra_routes` beside its own: those of the console.

    `ask` runs what people ask of Postgres; `retried` is called after events went back.
    """
    guard = AccessControl(token=lambda: s.current("api_token"), listens_on=s.http_host, hosts=s.http_allowed_hosts)
    routes = [document(), *DeadLetters(ask, observe, retried).routes(), *extra_routes]

    def missing() -> str | None:
        return next((trouble.reason for trouble in state().troubles if trouble.kind == "session"), None)

    return app.build(readiness, metrics_registry, guard=guard, routes=routes, missing=missing)
