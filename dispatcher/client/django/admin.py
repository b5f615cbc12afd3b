"""The dead events in Django's admin: read-only, with actions that retry them, or discard them with a reason.

Permissions: `view_deadevent` sees them, `retry_deadevent` retries them, `discard_deadevent` discards them,
`read_payload_deadevent` sees payload and headers, which may be personal data. The database's role needs the rights of
the role outbox_dispatcher (`dispatcher sql roles`); a router may send these models to an alias with another role.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.db import ProgrammingError
from django.db.models import TextField
from django.db.models.functions import Cast, Left
from django.forms import CharField
from django.http import HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from dispatcher.client.django.models import DeadEvent, history_of, is_forbidden
from dispatcher.core.outages import sqlstate_of

SHOWN = 20_000  # characters of a payload
_NO_TABLE = "42P01"


def _explained(view: Callable[..., Any]) -> Callable[..., Any]:
    """A refusal of the database as a message: which right, or which table, is missing."""

    def explained(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return view(self, request, *args, **kwargs)
        except ProgrammingError as error:
            if is_forbidden(error):
                why = "The database's role may not do this: GRANT outbox_dispatcher to it (`dispatcher sql roles`)."
            elif sqlstate_of(error) == _NO_TABLE:
                why = "There is no outbox of this release: run manage.py migrate."
            else:
                raise
            self.message_user(request, why, messages.ERROR)
            return HttpResponseRedirect(reverse(f"{self.admin_site.name}:index"))

    return explained


class WithReason(ActionForm):
    """Beside the choice of an action: why, for the history of the events."""

    reason = CharField(required=False, max_length=200, label="Reason: ")


def _reason_of(request: Any) -> str:
    return str(request.POST.get("reason", "")).strip()[:200]


@admin.register(DeadEvent)
class DeadEventAdmin(admin.ModelAdmin):
    """A list, a page for each event, and the actions."""

    list_display = ("id", "event_type", "aggregate_type", "aggregate_id", "attempts", "died_at", "error")
    list_filter = ("event_type", "aggregate_type")
    search_fields = ("=event_id", "=aggregate_id", "last_error")
    ordering = ("-id",)
    list_per_page = 100
    show_full_result_count = False
    actions = ("retry", "discard")
    action_form = WithReason

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False

    def has_retry_permission(self, request: Any) -> bool:
        return bool(request.user.has_perm("outbox_dispatcher.retry_deadevent"))

    def has_discard_permission(self, request: Any) -> bool:
        return bool(request.user.has_perm("outbox_dispatcher.discard_deadevent"))

    def get_queryset(self, request: Any) -> Any:
        """Without payloads: one may be large, and not everybody may see it."""
        return super().get_queryset(request).defer("payload", "headers")

    def get_fields(self, request: Any, obj: Any = None) -> list[str]:
        names = [field.name for field in DeadEvent._meta.fields if field.name not in ("payload", "headers")]
        if request.user.has_perm("outbox_dispatcher.read_payload_deadevent"):
            names += ["payload_text", "headers_text"]
        return [*names, "history"]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> list[str]:
        return self.get_fields(request, obj)

    @admin.display(description="last error")
    def error(self, event: DeadEvent) -> str:
        return (event.last_error or "")[:120]

    @admin.display(description="payload")
    def payload_text(self, event: DeadEvent) -> Any:
        return self._text(event, "payload")

    @admin.display(description="headers")
    def headers_text(self, event: DeadEvent) -> Any:
        return self._text(event, "headers")

    def _text(self, event: DeadEvent, name: str) -> Any:
        """As Postgres prints it: no number loses digits."""
        text = Left(Cast(name, TextField()), SHOWN)
        found = DeadEvent.objects.using(event._state.db).filter(pk=event.pk).values_list(text, flat=True).first() or ""
        return format_html("<pre>{}</pre>", found + ("…" if len(found) == SHOWN else ""))

    @admin.display(description="history")
    def history(self, event: DeadEvent) -> Any:
        rows = ((at, what, attempt or "", who or "", why or "") for at, what, attempt, who, why in history_of(event))
        return format_html_join("", "<div>{} UTC {} {} {} {}</div>", rows)

    @admin.action(description="Retry the selected dead events", permissions=["retry"])
    def retry(self, request: Any, queryset: Any) -> None:
        """Put them back, in the name of the user."""
        chosen = queryset.count()
        done = queryset.retry(by=request.user.get_username(), reason=_reason_of(request) or None)
        self._say(request, chosen, done, "event goes out again" if done == 1 else "events go out again")

    @admin.action(description="Discard the selected dead events, for the reason given", permissions=["discard"])
    def discard(self, request: Any, queryset: Any) -> None:
        """End them, in the name of the user."""
        if not (reason := _reason_of(request)):
            self.message_user(request, "Nothing was discarded: say in the field Reason why.", messages.ERROR)
            return
        chosen = queryset.count()
        done = queryset.discard(by=request.user.get_username(), reason=reason)
        self._say(request, chosen, done, "event was discarded" if done == 1 else "events were discarded")

    def _say(self, request: Any, chosen: int, done: int, became: str) -> None:
        self.message_user(request, f"{done} {became}.", messages.SUCCESS)
        if done < chosen:
            self.message_user(request, f"{chosen - done} are not dead any more.", messages.WARNING)

    changelist_view = _explained(admin.ModelAdmin.changelist_view)
    change_view = _explained(admin.ModelAdmin.change_view)
