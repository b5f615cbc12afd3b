"""What of waking up needs a person: writers that do not ring, a notification queue that cannot advance. Pure."""

from dispatcher.core.findings.needs import PROMISED_S, Need
from dispatcher.core.findings.runbook import PAGES
from dispatcher.core.findings.troubles import MIGRATE, Severity, remedy, words
from dispatcher.core.process_state import TriggerState

QUEUE_WARN, QUEUE_BAD = 0.25, 0.5  # share of the notification queue; from the second on writers ring no more
ENABLE_TRIGGER = "ALTER TABLE messaging.message_outbox ENABLE TRIGGER message_outbox_doorbell"


def late_by(tick_s: float | None) -> str:
    """How late events go out that nobody rings for. `tick_s`: DISPATCH_TICK_MS of the dispatchers; None: not known."""
    return "events go out late by up to " + ("DISPATCH_TICK_MS" if tick_s is None else f"{tick_s:g} s")


def unheard(tick_s: float | None) -> Severity:
    """How bad it is that events wait for the tick: a tick longer than the promise breaks it for most events."""
    return "bad" if tick_s is not None and tick_s > PROMISED_S else "warn"


def doorbell(state: TriggerState, since: float | None = None, tick_s: float | None = None) -> Need:
    """Writers do not ring. That the trigger is absent, with its function, is on purpose (`migrate --no-trigger`).

    `since`: when a dispatcher saw it first.
    """
    late, page = late_by(tick_s), PAGES["doorbell"]
    what = f"The doorbell trigger is {'disabled' if state == 'disabled' else 'missing'}: {late}"
    if state == "disabled":
        return Need(
            unheard(tick_s), "doorbell", what, since, f"As the owner of the table: `{ENABLE_TRIGGER}`.", page=page
        )
    if state == "dropped":
        return Need(unheard(tick_s), "doorbell", what, since, f"As the owner of the table: {MIGRATE}.", page=page)
    do = f"As the owner: {MIGRATE}. Nothing, when it was left out on purpose (`migrate --no-trigger`)."
    return Need("note", "doorbell", what, since, do, page=page)


def notify_queue(usage: float, since: float | None = None, tick_s: float | None = None) -> Need | None:
    """Postgres's notification queue cannot advance; above one half no writer rings. None: it is well."""
    if usage < QUEUE_WARN:
        return None
    full = f"{usage:.0%} full"
    what = words("notify-queue", full)
    what += ". When it is full, commits that notify fail, but for those of the outbox's producers: above one half they "
    what += f"ring no more, and {late_by(tick_s)}"
    level: Severity = "bad" if usage >= QUEUE_BAD else "warn"
    do = remedy("notify-queue", full)
    return Need(level, "notify-queue", what, since, do, page=PAGES["notify-queue"])
