"""What of waking up needs a person: writers that do not ring, a notification queue that cannot advance. Pure."""

from dispatcher.core.findings.needs import Need
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.findings.troubles import Severity, remedy, words
from dispatcher.core.process_state import TriggerState

QUEUE_WARN, QUEUE_BAD = 0.25, 0.5  # share of the notification queue; from the second on writers ring no more


def doorbell(state: TriggerState, since: float | None = None) -> Need:
    """Writers do not ring. That the trigger is absent, with its function, is on purpose (`migrate --no-trigger`).

    `since`: when a dispatcher saw it first.
    """
    late = "events go out late by up to DISPATCH_TICK_MS"
    if state == "disabled":
        do = "`ALTER TABLE messaging.message_outbox ENABLE TRIGGER message_outbox_doorbell`, as the owner of the table."
        return Need("warn", "doorbell", f"The doorbell trigger is disabled: {late}", since, do, page=PAGES["doorbell"])
    if state == "dropped":
        do = "`dispatcher migrate` installs it, as the owner of the table."
        return Need("warn", "doorbell", f"The doorbell trigger is missing: {late}", since, do, page=PAGES["doorbell"])
    do = "`dispatcher migrate` installs it. Nothing, when it was left out on purpose (`migrate --no-trigger`)."
    return Need("note", "doorbell", f"The doorbell trigger is missing: {late}", since, do, page=PAGES["doorbell"])


def notify_queue(usage: float, since: float | None = None) -> Need | None:
    """Postgres's notification queue cannot advance; above one half no writer rings. None: it is well."""
    if usage < QUEUE_WARN:
        return None
    full = f"{usage:.0%} full"
    what = words("notify-queue", full)
    what += ". When it is full, commits that notify fail"
    what += "; till then events go out late by up to DISPATCH_TICK_MS" if usage >= QUEUE_BAD else ""
    level: Severity = "bad" if usage >= QUEUE_BAD else "warn"
    do = remedy("notify-queue", full)
    return Need(level, "notify-queue", what, since, do, page=PAGES["notify-queue"])
