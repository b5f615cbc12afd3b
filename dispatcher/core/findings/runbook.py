"""The page of the runbook for each finding: of `status` and the console by its kind, of `doctor` by its check.

Tests hold that each page is there, and that each kind and each check is here.
"""

RIGHT_MISSING = "42501"  # SQLSTATE
BASE = "https://github.com/outbox-dispatcher/outbox-dispatcher/blob/main/docs/runbook/"

# Each kind, the cause before what comes of it, with its page of the runbook.
PAGES: dict[str, str | None] = {
    "copy": "copies",
    "database": "postgres-away",
    "redis": "breaker-open",
    "unreachable": "nothing-goes-out",
    "refused": "nothing-goes-out",
    "layout": "nothing-goes-out",
    "nobody": "down",
    "disabled": "start-and-stop",
    "paused": "paused",
    "backpressure": "backpressure",
    "slots": "slots-without-owner",
    "handlers": "handlers-stuck",
    "held": "held-aggregates",
    "retrying": "high-retries",
    "snapshot": "claims-are-slow",
    "catching-up": "backlog-grows",
    "late": "backlog-grows",
    "slow": "end-to-end-latency-high",
    "buried": "dead-letters",
    "dead": "dead-letters",
    "lost": "republished-after-loss",
    "half-read": "group-not-read",
    "unread": "group-not-read",
    "put-away": "consumers",
    "stopping": None,
    "listener": "listener-deaf",
    "doorbell": "doorbell-trigger",
    "notify-queue": "notification-queue-filling",
    "session": "connections",
    "stale": "gauges-stale",
    "errors": "high-error-rate",
    "audit": "loss-unnoticed",
    "starting": None,
    "ended": "dispatcher-died",
    "over": None,
}
# Each check of `doctor`. None: what to do is said in full.
CHECKS: dict[str, str | None] = {
    "autovacuum": "claims-are-slow",
    "backlog": "backlog-grows",
    "clocks": None,
    "cluster-coverage": "shards-away",
    "cluster-replicas": "shards-away",
    "cluster-slots": "shards-away",
    "cluster-spread": None,
    "dead-events": "dead-letters",
    "dead-rows": "claims-are-slow",
    "dispatchers": "down",
    "durability": "postgres-crashed",
    "fsync": "postgres-crashed",
    "groups": "group-lag-near-maxlen",
    "held": "held-aggregates",
    "home": "copies",
    "indexes": "claims-are-slow",
    "layout": "nothing-goes-out",
    "listen": "listener-deaf",
    "losses": "republished-after-loss",
    "notify-queue": "notification-queue-filling",
    "order": "slots-without-owner",
    "pause": "paused",
    "postgres": "postgres-away",
    "primary": "postgres-away",
    "redis": "breaker-open",
    "redis-entries": "breaker-open",
    "redis-identity": "loss-unnoticed",
    "redis-memory": "breaker-open",
    "redis-persistence": "republished-after-loss",
    "redis-replicas": "republished-after-loss",
    "redis-rights": "rights",
    "redis-version": None,
    "retrying": "high-retries",
    "rights": "rights",
    "sequences": None,
    "sessions": "connections",
    "snapshot": "claims-are-slow",
    "storage": "claims-are-slow",
    "stream": "nothing-goes-out",
    "tables": None,
    "trigger": "doorbell-trigger",
    "waits": "nothing-goes-out",
}


def page_of_trouble(kind: str, reason: str | None) -> str | None:
    """Of what a dispatcher says of itself. A refusal for want of a right is not the page about any refusal."""
    return "rights" if kind == "refused" and reason and RIGHT_MISSING in reason else PAGES.get(kind)


def page_of(check: str) -> str | None:
    """Of a check of `doctor`; those that try a statement (`try-...`) fail for want of a right."""
    return "rights" if check.startswith("try-") else CHECKS[check]


def address(page: str | None) -> str | None:
    """The URL of a page of docs/runbook, by its name without .md; None: of none."""
    return page and f"{BASE}{page}.md"
