"""What each trouble is called, how bad it is, who hears of it, what to do: for console, `status` and `doctor`."""

import re
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from dispatcher.core.findings.runbook import RIGHT_MISSING
from dispatcher.core.process_state import TroubleKind

Severity = Literal["fine", "note", "warn", "bad"]
GOES_ON = "Once that is done, publishing goes on without a restart."  # at the end of an order, not "by itself"
MIGRATE = "`dispatcher migrate --database-url OWNER_URL`"
# A role that may not see another one's transaction gets a row that says so. The oldest transaction comes first.
QUEUE_HOLDER = (
    "SELECT pid, usename, application_name, state, xact_start, left(query, 60) AS query FROM pg_stat_activity "
    "WHERE datname IS NOT NULL AND pid <> pg_backend_pid() "
    "AND (xact_start IS NOT NULL OR query = '<insufficient privilege>') ORDER BY xact_start"
)


@dataclass(frozen=True, slots=True)
class KindOfTrouble:
    """All that is known of one. Its rank among other findings and its page of the runbook are in `runbook.PAGES`."""

    level: Severity
    what: str  # {} is the reason: a group's name, an error, a person
    do: str
    stops: bool = False  # events wait while there is one; when it is over that is said for a while
    told: bool = False  # in Postgres, for those who ask from outside (condition.py): it is not said elsewhere
    looked_up: bool = False  # they see it themselves, and ask only since when it is there

    @property
    def holds_up(self) -> bool:
        """Of one that is told: whether events, or some of them, do not go out because of it."""
        return self.level == "bad"


TROUBLES: dict[TroubleKind, KindOfTrouble] = {
    "database": KindOfTrouble(
        "bad",
        "Postgres cannot be reached: {}",
        "Bring Postgres back, or do what the reason says. Your applications most likely cannot commit either. What is "
        "committed is kept; the dispatcher connects again by itself within seconds.",
        stops=True,
    ),
    "redis": KindOfTrouble(
        "bad",
        "Redis takes no entries: {}",
        "Bring Redis back. Events that wait are safe in Postgres, and no attempt is used up: "
        "they go out within about a second of its return.",
        stops=True,
        told=True,
    ),
    "backpressure": KindOfTrouble(
        "bad",
        "Publishing waits for the consumer group {}",
        "Start or repair the consumers of that group. If nobody needs it any more, "
        "`dispatcher groups destroy GROUP`, or exempt it (DISPATCH_BACKPRESSURE_EXCEPT). Publishing has stopped, and "
        "goes on by itself once the slowest group has less than 80 % of REDIS_STREAM_MAXLEN to read.",
        stops=True,
        told=True,
    ),
    "layout": KindOfTrouble(
        "bad",
        "Nothing is claimed for the streams: {}",
        "Two dispatchers with different streams would split the events between them. Give all of them the settings "
        f"that stand in Postgres (`dispatcher layout`), or change those there (`dispatcher layout set`). {GOES_ON}",
        stops=True,
        told=True,
    ),
    "slots": KindOfTrouble(
        "bad",
        "Events of some aggregates wait: {}",
        "The slots of a dispatcher that died or froze are owned again once it is fenced: within a second of its death, "
        "a lease after a freeze. If it lasts, the page `slots-without-owner` of the runbook says what holds it up.",
        told=True,
    ),
    "handlers": KindOfTrouble(
        "bad",
        "No event is handed to a handler: {}",
        "Mend what those handlers wait for, and restart this dispatcher if they do not end by then: a thread "
        "cannot be ended. `dispatcher events list --status retry` has their events. Give what they call a timeout "
        "shorter than DISPATCH_HANDLER_TIMEOUT_MS. Events for the stream go on.",
        stops=True,
        told=True,
    ),
    "stopping": KindOfTrouble(
        "warn", "Stopping: {}", "Nothing, if a rollout or a person asked for it; another takes over."
    ),
    "disabled": KindOfTrouble(
        "warn",
        "Disabled: no event is taken",
        "Set DISPATCHER_ENABLED=true and restart, when it is meant to run.",
    ),
    "paused": KindOfTrouble(  # no fault, and it stops everything all the same
        "bad",
        "Paused {}: no event is taken",
        "`dispatcher resume`, when whoever paused it agrees. Events wait in Postgres.",
        stops=True,
    ),
    "listener": KindOfTrouble(
        "warn",
        "Writers cannot wake the dispatcher: {}",
        "Events wait until the dispatcher looks for them (DISPATCH_TICK_MS). Behind a transaction "
        "pooler set DISPATCH_LISTEN_URL to a direct connection. Else run `dispatcher doctor`: its check "
        "`listen` says why the session hears nothing.",
        told=True,
    ),
    "session": KindOfTrouble(
        "warn",
        "Postgres has no connection left for: {}",
        "Raise the limit (ALTER ROLE ... CONNECTION LIMIT, max_connections), or end sessions of others. "
        "`dispatcher doctor` says how many there are (its check `sessions`).",
        told=True,
    ),
    "refused": KindOfTrouble(
        "bad",
        "Postgres refuses to {}",
        "`dispatcher doctor` tries it (its checks `try-...`) and says what to do. What was published stays claimed.",
        stops=True,
        told=True,
    ),
    "audit": KindOfTrouble(
        "note",
        "A loss inside Redis would go unnoticed: {}",
        "Allow this user INFO and XINFO on the stream (docs/runbook/rights.md).",
        told=True,
    ),
    "doorbell": KindOfTrouble(  # its level and remedy: needs.doorbell
        "warn",
        "The doorbell trigger is {}",
        f"{MIGRATE} installs it, as the owner of the table.",
        told=True,
        looked_up=True,
    ),
    "notify-queue": KindOfTrouble(  # its level: needs.notify_queue
        "warn",
        "Postgres's notification queue is {}: a session listens and stays in a transaction",
        f'Find that session, most often the first one: `psql OWNER_URL -c "{QUEUE_HOLDER}"`, as the owner or a role '
        "with pg_read_all_stats (a query that reads <insufficient privilege> is not visible to the role). End it: "
        "`psql OWNER_URL -c 'SELECT pg_terminate_backend(PID)'`.",
        told=True,
        looked_up=True,
    ),
    "put-away": KindOfTrouble(  # its words and remedy: group_needs.put_away
        "warn",
        "Consumers have put events away, of the group {}",
        "`dispatcher groups` counts them; `dispatcher groups dead GROUP` lists them, with the error of each.",
        told=True,
        looked_up=True,
    ),
    "late": KindOfTrouble(  # its level and remedy: needs.late
        "warn",
        "Events are overdue and still wait",
        "`dispatcher doctor` looks for the cause.",
        told=True,
        looked_up=True,
    ),
    "snapshot": KindOfTrouble(  # its words and remedy: snapshot_needs.snapshot
        "warn",
        "A transaction holds an old snapshot, and claims read past dead row versions: {}",
        "`dispatcher doctor` says whose it is and how to end it (its check `snapshot`).",
        told=True,
        looked_up=True,
    ),
    "starting": KindOfTrouble("note", "Starting", "Nothing; it is opening its connections."),
}

HELD_S, VERY_HELD_S = 60.0, 600.0  # an aggregate is held for longer: a warning; bad, as when a dead event holds one
OOM = re.compile(r"\bOOM\b")
OUT_OF_MEMORY = (
    "Redis is out of memory and takes no entries",
    "Raise maxmemory, or delete other keys. Do not trim the stream: what is unread in it would be lost. No event is "
    "lost and no attempt is used up: events go out within about a second once there is room.",
)
RIGHT_DO = (
    "A right is missing. As the owner of the tables: `dispatcher sql roles | psql OWNER_URL`, and grant the "
    "dispatchers' role outbox_dispatcher. `dispatcher doctor` names the right (`rights`). " + GOES_ON
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
    """What is wrong, as console, `status` and log say it. `reason`: the server's own words; None: it gave none."""
    if kind == "redis" and reason and OOM.search(reason):
        return OUT_OF_MEMORY[0]
    if kind == "database" and reason and reason.startswith("Postgres at "):
        return reason  # it says so itself
    what = TROUBLES[kind].what
    if reason is None:
        what = what.replace(": {}", "").replace(" {}", "")
    return what.replace("{}", reason or "")


def remedy(kind: TroubleKind, reason: str | None) -> str:
    """The next step for a person. Redis that is up and refuses needs another one than Redis that is away."""
    if kind == "redis" and reason and OOM.search(reason):
        return OUT_OF_MEMORY[1]
    if kind == "refused" and reason and RIGHT_MISSING in reason:
        return RIGHT_DO
    if kind == "backpressure" and reason:
        return TROUBLES[kind].do.replace("GROUP", quote(group_of(reason)))
    return REFUSED_DO if kind == "redis" and reason and REFUSED in reason else TROUBLES[kind].do
