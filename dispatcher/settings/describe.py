"""The configuration table in words: for docs/reference/configuration.md and `dispatcher run --help`."""

from typing import NamedTuple

from dispatcher.settings.fields import Settings
from dispatcher.settings.setting import flag_of, is_required, setting_of

# The settings by what they are about, as the reference and `dispatcher run --help` list them: each by its variable, or
# by its flag.
GROUPS: dict[str, tuple[str, ...]] = {
    "What it does": ("DISPATCHER_ENABLED", "DISPATCH_CANARY_PERCENT", "DISPATCH_PROCESSES"),
    "Connection to Postgres": (
        "DATABASE_URL",
        "DISPATCH_LISTEN_URL",
        "DISPATCH_QUERY_TIMEOUT_MS",
        "DISPATCH_CONNECT_TIMEOUT_MS",
    ),
    "Connection to Redis, and the stream": (
        "REDIS_URL",
        "DISPATCH_STREAM_NAME",
        "DISPATCH_STREAM_SHARDS",
        "DISPATCH_ROUTES",
        "DISPATCH_ORDER",
        "DISPATCH_ORDER_ON_DEAD",
        "REDIS_STREAM_MAXLEN",
        "DISPATCH_BACKPRESSURE_EXCEPT",
        "DISPATCH_PUBLISH_TIMEOUT_MS",
        "DISPATCH_AUDIT_WINDOW_S",
    ),
    "Pace": ("DISPATCH_TICK_MS", "DISPATCH_BATCH_SIZE", "DISPATCH_LEASE_MS", "DISPATCH_SHUTDOWN_GRACE_MS"),
    "Failures of an event": (
        "DISPATCH_MAX_ATTEMPTS",
        "DISPATCH_BACKOFF_BASE_MS",
        "DISPATCH_BACKOFF_MAX_MS",
        "DISPATCH_MAX_PAYLOAD_BYTES",
    ),
    "Handlers in Python": (
        "DISPATCH_HANDLERS",
        "DISPATCH_UNROUTED",
        "DISPATCH_MAX_PARALLEL",
        "DISPATCH_HANDLER_TIMEOUT_MS",
        "DISPATCH_HANDLER_BACKOFF_BASE_MS",
        "DISPATCH_HANDLER_BACKOFF_MAX_MS",
    ),
    "Retention": ("OUTBOX_RETENTION_DAYS", "DLQ_RETENTION_DAYS"),
    "HTTP": (
        "--disable-http",
        "DISPATCH_HTTP_HOST",
        "DISPATCH_HTTP_PORT",
        "DISPATCH_PROBE_PORT",
        "DISPATCH_HTTP_ALLOWED_HOSTS",
        "DISPATCH_API_TOKEN",
        "DISPATCH_DEPLOYMENT",
        "DISPATCH_GRAFANA_URL",
        "DISPATCH_OTEL",
    ),
    "Log": ("DISPATCH_LOG_LEVEL", "DISPATCH_LOG_FORMAT"),
}


class Row(NamedTuple):
    """One line of the configuration table."""

    env: str  # "" where there is only a flag
    flag: str
    default: str  # "" where there is none
    wanted: str
    help: str


def describe() -> list[Row]:
    """Every setting, in the table's order."""
    rows = []
    for name, field in Settings.table().items():
        setting = setting_of(field)
        if setting.env or setting.alias is None:
            row = Row(next(iter(setting.env), ""), flag_of(name), default_text(name), setting.kind.wanted, setting.help)
        else:  # its flag says the opposite of the attribute: so do the words beside it
            row = Row("", setting.alias.flag, "", setting.kind.wanted, setting.alias.help)
        rows.append(row)
    return rows


def group_of(attribute: str) -> str:
    """The title of a setting's group."""
    setting = setting_of(Settings.table()[attribute])
    names = {*setting.env[:1], *([setting.alias.flag] if setting.alias else [])}
    return next(title for title, group in GROUPS.items() if names & {*group})


def with_unit(attribute: str) -> str:
    """A setting's default with its unit, as `100 ms`; "" where there is none."""
    text, unit = default_text(attribute), setting_of(Settings.table()[attribute]).kind.metavar.lower()
    unit = "process" if (text, unit) == ("1", "processes") else unit
    return f"{text} {unit}" if text.isdigit() and unit != "n" else text


def default_text(attribute: str) -> str:
    """A setting's default as it would be typed; "" where there is none."""
    field = Settings.table()[attribute]
    stated = setting_of(field).default_text
    if stated is not None:
        return stated
    if is_required(field) or field.default is None:
        return ""
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
