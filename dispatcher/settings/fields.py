"""The one table of settings: group, attribute, environment variable, flag, default, limits, what it does."""

from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from dispatcher.core.layout import DEFAULT_STREAM, Layout, Route
from dispatcher.settings.files import SecretFile
from dispatcher.settings.kinds import (
    LEVELS,
    MS,
    choice,
    host,
    hosts,
    key,
    module,
    name,
    page_url,
    patterns,
    postgres_url,
    redis_url,
    routes,
    seconds_to_ms,
    shards,
    switch,
    token,
    whole,
)
from dispatcher.settings.read import read
from dispatcher.settings.setting import Alias, Section, is_setting, negated, setting, terminal_format, unchanged

Secret = Literal["database_url", "listen_url", "redis_url", "api_token"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings. Built by `load()`, which checks them; built directly, values are not checked."""

    # fmt: off
    enabled: bool = setting(Section.BASICS, "DISPATCHER_ENABLED", switch(), False,
        "Whether rows are taken at all. Off: probes and metrics only.")
    canary_percent: int = setting(Section.BASICS, "DISPATCH_CANARY_PERCENT", whole(0, 100, "percent"), 100,
        "The share of the events that this dispatcher takes.")
    processes: int = setting(Section.BASICS, "DISPATCH_PROCESSES", whole(1, 256, "processes"), 1,
        "How many processes share the work, under one supervisor.")
    database_url: str = setting(Section.POSTGRES, "DATABASE_URL", postgres_url(), ...,
        "The Postgres that holds the outbox.",
        also_env="POSTGRES_URL", alias=Alias("--dsn", unchanged, "Dispatchbox's name for --database-url.", "DSN"))
    listen_url: str = setting(Section.POSTGRES, "DISPATCH_LISTEN_URL", postgres_url(), "",
        "Direct to Postgres, when the database URL is a transaction pooler.", default_text="the database URL")
    query_timeout_ms: int = setting(Section.POSTGRES, "DISPATCH_QUERY_TIMEOUT_MS", whole(100, 3_600_000, MS), 30_000,
        "The longest wait for a statement.")
    connect_timeout_ms: int = setting(Section.POSTGRES, "DISPATCH_CONNECT_TIMEOUT_MS", whole(100, 600_000, MS), 10_000,
        "The longest wait for a connection, to each host of a URL.")
    redis_url: str = setting(Section.STREAM, "REDIS_URL", redis_url(), "", "The Redis or Valkey that holds the stream.")
    stream_name: str = setting(Section.STREAM, "DISPATCH_STREAM_NAME", key(), DEFAULT_STREAM, "The stream's key.")
    stream_shards: int = setting(Section.STREAM, "DISPATCH_STREAM_SHARDS", shards(), 1,
        "Keys that each stream is spread over, by aggregate: 1, 2, 4 ... 256. See `dispatcher layout`.")
    routes: tuple[Route, ...] = setting(Section.STREAM, "DISPATCH_ROUTES", routes(), (),
        "Which event types go to another stream; the first pattern that matches counts.", default_text="")
    order: Literal["none", "aggregate"] = setting(Section.STREAM, "DISPATCH_ORDER", choice("none", "aggregate"), "none",
        "Whether the events of an aggregate reach their stream in order. See `dispatcher layout`.")
    order_on_dead: Literal["continue", "hold"] = setting(Section.STREAM, "DISPATCH_ORDER_ON_DEAD",
        choice("continue", "hold"), "continue",
        "With an order: whether the later events of an aggregate go on or wait when one is dead.")
    stream_maxlen: int = setting(Section.STREAM, "REDIS_STREAM_MAXLEN", whole(1, 10**12, "entries"), 1_000_000,
        "About how many entries the stream keeps.")
    backpressure_except: tuple[str, ...] = setting(Section.STREAM, "DISPATCH_BACKPRESSURE_EXCEPT", patterns(), (),
        "Consumer groups, or patterns such as web-*, commas between, that hold nothing back: what they have not "
        "read may be trimmed.", default_text="")
    publish_timeout_ms: int = setting(Section.STREAM, "DISPATCH_PUBLISH_TIMEOUT_MS", whole(100, 600_000, MS), 5_000,
        "The longest wait for Redis to answer a batch.")
    audit_window_s: int = setting(Section.STREAM, "DISPATCH_AUDIT_WINDOW_S", whole(0, 86_400, "seconds"), 60,
        "How far back sent rows are sent again when Redis lost them.")
    tick_ms: int = setting(Section.PACE, "DISPATCH_TICK_MS", whole(1, 60_000, MS), 100,
        "The fallback poll, when nothing wakes the dispatcher.",
        alias=Alias("--poll-interval", seconds_to_ms, "Dispatchbox's name for --tick-ms, in seconds.", "SECONDS"))
    batch_size: int = setting(
        Section.PACE,
        "DISPATCH_BATCH_SIZE",
        whole(1, 10_000, "rows"),
        512,
        "The most rows of one claim. The first takes 64; while claims come back full each takes twice as many as the "
        "one before, as far as their payloads fit in 4 MiB.",
    )
    lease_ms: int = setting(Section.PACE, "DISPATCH_LEASE_MS", whole(1000, 3_600_000, MS), 30_000,
        "After this long a claim is taken from a dispatcher that froze.")
    shutdown_grace_ms: int = setting(Section.PACE, "DISPATCH_SHUTDOWN_GRACE_MS", whole(0, 3_600_000, MS), 10_000,
        "How long a stop waits for what is in flight.")
    max_attempts: int = setting(Section.FAILURES, "DISPATCH_MAX_ATTEMPTS", whole(1, 10_000), 10,
        "Failures of its own after which a row is dead.")
    backoff_base_ms: int = setting(Section.FAILURES, "DISPATCH_BACKOFF_BASE_MS", whole(1, 600_000, MS), 250,
        "The longest wait after a row's first failure; doubles with each.")
    backoff_max_ms: int = setting(Section.FAILURES, "DISPATCH_BACKOFF_MAX_MS", whole(1, 86_400_000, MS), 60_000,
        "The longest wait after any failure.")
    max_payload_bytes: int = setting(Section.FAILURES, "DISPATCH_MAX_PAYLOAD_BYTES",
        whole(1, 512 * 1024 * 1024, "bytes"), 1_048_576, "A larger payload, or headers, are dead at once.")
    handlers: str | None = setting(Section.HANDLERS, "DISPATCH_HANDLERS", module(), None,
        "The event types that go to a Python handler instead of the stream.")
    unrouted: Literal["stream", "dead"] = setting(Section.HANDLERS, "DISPATCH_UNROUTED", choice("stream", "dead"),
        "stream", "Where an event without a handler goes; dead: no Redis is used.")
    max_parallel: int = setting(Section.HANDLERS, "DISPATCH_MAX_PARALLEL", whole(1, 1000, "handlers"), 10,
        "How many handlers run at once in a process.")
    handler_timeout_ms: int = setting(Section.HANDLERS, "DISPATCH_HANDLER_TIMEOUT_MS", whole(1, 86_400_000, MS), 60_000,
        "The longest a handler may take; longer is a failed attempt.")
    handler_backoff_base_ms: int = setting(Section.HANDLERS, "DISPATCH_HANDLER_BACKOFF_BASE_MS",
        whole(1, 86_400_000, MS), 0, "The longest wait after a handler's first failure; three times as long with each.",
        default_text="4 times DISPATCH_BACKOFF_BASE_MS")
    handler_backoff_max_ms: int = setting(Section.HANDLERS, "DISPATCH_HANDLER_BACKOFF_MAX_MS",
        whole(1, 604_800_000, MS), 0, "The longest wait after any failure of a handler.",
        default_text="120 times DISPATCH_BACKOFF_MAX_MS")
    outbox_retention_days: int = setting(Section.RETENTION, "OUTBOX_RETENTION_DAYS", whole(1, 36_500, "days"), 7,
        "How long settled rows are kept.")
    dlq_retention_days: int = setting(Section.RETENTION, "DLQ_RETENTION_DAYS", whole(1, 36_500, "days"), 30,
        "How long dead-letter copies are kept.")
    http_enabled: bool = setting(Section.HTTP, "", switch(), True, "Whether the HTTP sidecar runs.",
        alias=Alias("--disable-http", negated, "Serve no probes, no metrics, no API."))
    http_host: str = setting(Section.HTTP, "DISPATCH_HTTP_HOST", host(), "::",
        "The address the sidecar listens on; :: is every one, of IPv6 and IPv4.")
    http_port: int = setting(Section.HTTP, "DISPATCH_HTTP_PORT", whole(0, 65_535), 8080,
        "The port the sidecar listens on; 0: any free one.")
    probe_port: int | None = setting(Section.HTTP, "DISPATCH_PROBE_PORT", whole(0, 65_535), None,
        "A port of their own for /health and /ready; 0: any free one.", default_text="that of the sidecar")
    http_allowed_hosts: tuple[str, ...] = setting(Section.HTTP, "DISPATCH_HTTP_ALLOWED_HOSTS", hosts(), (),
        "Other host names that API and console answer to, commas between.", default_text="")
    api_token: str | None = setting(Section.HTTP, "DISPATCH_API_TOKEN", token(), None,
        "The bearer token that the API asks for. Set the variable: others can see a flag.")
    deployment: str | None = setting(Section.HTTP, "DISPATCH_DEPLOYMENT", name(), None,
        "The name of this installation, which the console shows, such as shop, production.")
    grafana_url: str | None = setting(Section.HTTP, "DISPATCH_GRAFANA_URL", page_url(), None,
        "The dashboard that the console links to, for more than 15 minutes.")
    otel: bool = setting(Section.HTTP, "DISPATCH_OTEL", switch(), False,
        "Make spans of OpenTelemetry for events whose producer's span was sampled; the OTEL_ variables say where to.")
    log_level: str = setting(Section.LOG, "DISPATCH_LOG_LEVEL", choice(*LEVELS), "INFO",
        "The least severe messages that are logged.")
    log_format: Literal["json", "text"] = setting(Section.LOG, "DISPATCH_LOG_FORMAT", choice("json", "text"),
        terminal_format, "How messages are written.", default_text="json; text on a terminal")
    # fmt: on
    _files: dict[str, SecretFile] = field(default_factory=dict, repr=False)  # of secrets that came from a file

    def __post_init__(self) -> None:
        if not self.listen_url:  # frozen: set once, before anybody has it
            object.__setattr__(self, "listen_url", self.database_url)
        if not self.handler_backoff_base_ms:
            object.__setattr__(self, "handler_backoff_base_ms", 4 * self.backoff_base_ms)
        if not self.handler_backoff_max_ms:
            longest = max(120 * self.backoff_max_ms, self.handler_backoff_base_ms)
            object.__setattr__(self, "handler_backoff_max_ms", longest)

    @cached_property
    def layout(self) -> Layout:
        """Which stream an event goes to."""
        return Layout(self.stream_name, self.stream_shards, self.routes, self.order, self.order_on_dead)

    @classmethod
    def table(cls) -> dict[str, Field[Any]]:
        """The fields that are settings, by attribute, in the table's order."""
        return {field.name: field for field in fields(cls) if is_setting(field)}

    @classmethod
    def load(cls, env: Mapping[str, str], flags: Mapping[str, object]) -> "Settings":
        """All settings. A flag beats the environment beats the default.

        `flags`: by the flag's name as click has it (tick_ms, dsn, disable_http); None is not given.
        Raises Misconfigured with a line for each problem.
        """
        found = read(cls.table(), env, flags)
        files = found.files
        if "listen_url" not in found.values and "database_url" in files:
            files["listen_url"] = files["database_url"]
        return cls(**found.values, _files=files)

    @classmethod
    def load_some(
        cls, attributes: Iterable[str], env: Mapping[str, str], flags: Mapping[str, object]
    ) -> dict[str, Any]:
        """Some settings by attribute, for a command that needs no more. Arguments and errors as for `load`."""
        table = cls.table()
        return read({name: table[name] for name in attributes}, env, flags).values

    def current(self, attribute: Secret) -> Any:
        """A secret as it is now: read again when it came from a file. Raises Misconfigured when it cannot be."""
        file = self._files.get(attribute)
        return file.read() if file else getattr(self, attribute)
