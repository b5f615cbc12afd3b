"""What each trouble is called, how bad it is, and what to do about it: for the console, `status` and `doctor` alike."""

import re
from shlex import quote
from typing import Literal

from dispatcher.core.process_state import TroubleKind

Severity = Literal["fine", "note", "warn", "bad"]

# kind: level, what it is ({} is the reason: a group's name, an error, a person), what to do
TROUBLES: dict[TroubleKind, tuple[Severity, str, str]] = {
    "database": (
        "bad",
        "Postgres cannot be reached: {}",
        "Bring Postgres back, or do what the reason says. Your applications most likely cannot commit either. What is "
        "committed is kept; the dispatcher connects again by itself within seconds.",
    ),
    "redis": (
        "bad",
        "Redis takes no entries: {}",
        "Bring Redis back. Events that wait are safe in Postgres, and no attempt is used up: "
        "they go out within about a second of its return.",
    ),
    "backpressure": (
        "bad",
        "Publishing waits for the consumer group {}",
        "Start or repair the consumers of that group. If nobody needs it any more, "
        "`dispatcher groups destroy GROUP`, or exempt it (DISPATCH_BACKPRESSURE_EXCEPT). Publishing has stopped, and "
        "goes on by itself once the slowest group has less than 80 % of REDIS_STREAM_MAXLEN to read.",
    ),
    "layout": (
        "bad",
        "Nothing is claimed for the streams: {}",
        "Two dispatchers with different streams would split the events between them. Give all of them the settings "
        "that stand in Postgres (`dispatcher layout`), or change those there (`dispatcher layout set`). It goes on by "
        "itself.",
    ),
    "slots": (
        "bad",
        "Events of some aggregates wait: {}",
        "The slots of a dispatcher that died or froze are owned again once it is fenced: within a second of its death, "
        "a lease after a freeze. If it lasts, the page `slots-without-owner` of the runbook says what holds it up.",
    ),
    "handlers": (
        "bad",
        "No event is handed to a handler: {}",
        "Mend what those handlers wait for, and restart this dispatcher if they do not end by then: a thread "
        "cannot be ended. `dispatcher events list --status retry` has their events. Give what they call a timeout "
        "shorter than DISPATCH_HANDLER_TIMEOUT_MS. Events for the stream go on.",
    ),
    "stopping": ("warn", "Stopping: {}", "Nothing, if a rollout or a person asked for it; another takes over."),
    "disabled": (
        "warn",
        "Disabled: no event is taken",
        "Set DISPATCHER_ENABLED=true and restart, when it is meant to run.",
    ),
    "paused": (
        "warn",
        "Paused {}: no event is taken",
        "`dispatcher resume`, when whoever paused it agrees. Events wait in Postgres.",
    ),
    "listener": (
        "warn",
        "Writers cannot wake the dispatcher: {}",
        "Events go out late by up to DISPATCH_TICK_MS: so often the dispatcher looks for them. Behind a transaction "
        "pooler set DISPATCH_LISTEN_URL to a direct connection. Else run `dispatcher doctor`: its check "
        "`listen` says why the session hears nothing.",
    ),
    "session": (
        "warn",
        "Postgres has no connection left for: {}",
        "Raise the limit (ALTER ROLE ... CONNECTION LIMIT, max_connections), or end sessions of others. "
        "`dispatcher doctor` says how many there are (its check `sessions`).",
    ),
    "refused": (
        "bad",
        "Postgres refuses to {}",
        "`dispatcher doctor` tries it (its checks `try-...`) and says what to do. What was published stays claimed.",
    ),
    "audit": (
        "note",
        "A loss inside Redis would go unnoticed: {}",
        "Allow this user INFO and XINFO on the stream (docs/runbook/rights.md).",
    ),
    "doorbell": (  # its level and remedy: needs.doorbell
        "warn",
        "The doorbell trigger is {}",
        "`dispatcher migrate` installs it, as the owner of the table.",
    ),
    "notify-queue": (  # its level: needs.notify_queue
        "warn",
        "Postgres's notification queue is {}: a session listens and stays in a transaction",
        "End that session: `SELECT pid, usename, application_name, xact_start FROM pg_stat_activity WHERE state LIKE "
        "'idle in transaction%' ORDER BY xact_start`, then `SELECT pg_terminate_backend(PID)`.",
    ),
    "put-away": (  # its words and remedy: group_needs.put_away
        "warn",
        "Consumers have put events away, of the group {}",
        "`dispatcher groups` counts them; `dispatcher groups dead GROUP` lists them, with the error of each.",
    ),
    "starting": ("note", "Starting", "Nothing; it is opening its connections."),
}

HELD_S, VERY_HELD_S = 60.0, 600.0  # an aggregate is held for longer: a warning; bad, as when a dead event holds one
OOM = re.compile(r"\bOOM\b")
OUT_OF_MEMORY = (
    "Redis is out of memory and takes no entries",
    "Raise maxmemory, or delete other keys. Do not trim the stream: what is unread in it would be lost. No event is "
    "lost and no attempt is used up: events go out within about a second once there is room.",
)
REFUSED = "refused us"  # of the user or the password: Redis is up
REFUSED_DO = (
    "Give the dispatchers the user and password that Redis takes: in REDIS_URL, then restart them; or in the file of "
    "REDIS_URL_FILE, which is read again for each connection. Nothing is lost and no attempt is used up."
)


def group_of(reason: str) -> str:
    """The consumer group that backpressure waits for: several streams are named behind it."""
    return reason.partition(" of ")[0]


def words(kind: TroubleKind, reason: str | None) -> str:
    """What it is, in plain words."""
    if kind == "redis" and reason and OOM.search(reason):
        return OUT_OF_MEMORY[0]
    if kind == "database" and reason and reason.startswith("Postgres at "):
        return reason  # it says so itself
    what = TROUBLES[kind][1]
    if reason is None:
        what = what.replace(": {}", "").replace(" {}", "")
    return what.replace("{}", reason or "")


def remedy(kind: TroubleKind, reason: str | None) -> str:
    """The next step for a person. Redis that is up and refuses needs another one than Redis that is away."""
    if kind == "redis" and reason and OOM.search(reason):
        return OUT_OF_MEMORY[1]
    if kind == "backpressure" and reason:
        return TROUBLES[kind][2].replace("GROUP", quote(group_of(reason)))
    return REFUSED_DO if kind == "redis" and reason and REFUSED in reason else TROUBLES[kind][2]
