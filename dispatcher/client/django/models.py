"""Models to look at the outbox. Unmanaged: Django neither makes nor changes the tables; and read-only.

OutboxEvent.objects.filter(event_type="order.created")     each event that is in the outbox, whatever its status
DeadEvent.objects.filter(event_type="mail.sent").retry(by="ada", reason="the mail server is back")
DeadEvent.objects.filter(aggregate_id="7").discard(by="ada", reason="a test order")
"""

from collections.abc import Iterator
from typing import Any

from django.db import models, router, transaction
from django.db.utils import ProgrammingError

from dispatcher.core.outages import sqlstate_of
from dispatcher.infra import sqlfiles

BATCH = 1000
_FORBIDDEN = "42501"


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise TypeError(
        "the outbox is read-only here: add_event adds an event, DeadEvent.objects.retry() and .discard() end dead ones"
    )


class ReadOnly(models.QuerySet):
    """Rows of the outbox, to be read: each method that writes raises TypeError."""

    create = bulk_create = bulk_update = update = delete = _raw_delete = _update = _insert = _refuse
    get_or_create = update_or_create = _refuse


class DeadEvents(ReadOnly):
    """Dead events: to be read, put back (`retry`) and discarded (`discard`); nothing else changes one."""

    def retry(self, by: str | None = None, reason: str | None = None) -> int:
        """Put them back, to be published at once; how many. As `dispatcher dlq retry`: each goes out once, however many
        ask. `by` and `reason` are kept in the event's history. Commits after each thousand, outside of `atomic`.

        Raises django.db.ProgrammingError where the database's role lacks the rights of the role outbox_dispatcher.
        """
        return self._decide("dead_retry", "dead_retry_copy", by=by, reason=reason)  # rows that were pruned: from copies

    def discard(self, by: str | None = None, *, reason: str) -> int:
        """End them, for nobody needs them; how many. As `dispatcher dlq discard`: the row goes, its copy stays until
        its retention ends. `by` and `reason` are kept in the event's history. Commits and raises as `retry`.
        """
        if not reason.strip():
            raise ValueError("reason must say why nobody needs these events")
        return self._decide("dead_discard", by=by, reason=reason)

    def _decide(self, *statements: str, by: str | None, reason: str | None) -> int:
        """Each statement takes those that the one before it did not find."""
        alias = self._db or router.db_for_write(self.model)
        ids = list(self.using(alias).order_by("id").values_list("id", flat=True))
        done: set[int] = set()
        for at in range(0, len(ids), BATCH):
            with transaction.atomic(using=alias), transaction.get_connection(alias).cursor() as cursor:
                for statement in statements:
                    if left := [each for each in ids[at : at + BATCH] if each not in done]:
                        asked = {"ids": left, "event_ids": [], "by": by, "reason": reason, "now": None}
                        cursor.execute(sqlfiles.load(statement), asked)
                        done |= {row for row, _ in cursor.fetchall()}
                if done:  # a dispatcher knows some rows from its memory
                    cursor.execute(sqlfiles.load("ring_all"))
        return len(done)


class _Event(models.Model):
    id = models.BigIntegerField(primary_key=True)
    event_id = models.UUIDField()
    message_id = models.UUIDField()
    event_type = models.TextField()
    aggregate_type = models.TextField()
    aggregate_id = models.TextField()
    payload = models.JSONField()
    headers = models.JSONField(null=True)
    attempts = models.IntegerField()
    last_error = models.TextField(null=True)
    occurred_at = models.DateTimeField()

    save = delete = save_base = _refuse

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.id} {self.event_type} {self.aggregate_type} {self.aggregate_id}"


class OutboxEvent(_Event):
    """A row of messaging.message_outbox. `status`: pending, picked, retry, sent or dead."""

    status = models.TextField()
    next_run_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    stream_id = models.TextField(null=True)

    objects = ReadOnly.as_manager()

    class Meta:
        managed = False
        db_table = '"messaging"."message_outbox"'
        default_permissions = ("view",)
        verbose_name = "event"


class DeadEvent(_Event):
    """An event that failed for the last time, also one whose row was pruned (the view messaging.dead_event)."""

    died_at = models.DateTimeField()

    objects = DeadEvents.as_manager()

    class Meta:
        managed = False
        db_table = '"messaging"."dead_event"'
        default_permissions = ("view",)
        permissions = (
            ("retry_deadevent", "Can retry dead events"),
            ("discard_deadevent", "Can discard dead events"),
            ("read_payload_deadevent", "Can read the payload of dead events"),
        )
        verbose_name = "dead event"


def is_forbidden(error: BaseException) -> bool:
    """Whether the database's role lacks a right (SQLSTATE 42501)."""
    return isinstance(error, ProgrammingError) and sqlstate_of(error) == _FORBIDDEN


def history_of(event: DeadEvent) -> Iterator[tuple[Any, ...]]:
    """What happened to it, the oldest first, as (at, what, attempt, actor, error): `at` is text, `YYYY-MM-DD HH:MM:SS`
    in UTC, the last three may be None. Reads messaging.message_history. Raises an error of the database.
    """
    with transaction.get_connection(event._state.db).cursor() as cursor:
        cursor.execute(
            "SELECT to_char(h.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), h.what, h.attempt, h.actor, h.error "
            "FROM messaging.message_history AS h WHERE h.outbox_id = %s ORDER BY h.at",
            [event.pk],
        )
        yield from cursor.fetchall()
