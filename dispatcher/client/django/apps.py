"""The app: its migrations run our SQL, its checks say whether the outbox fits this release."""

from typing import Any

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate

LABEL = "outbox_dispatcher"


class OutboxConfig(AppConfig):
    """`manage.py migrate outbox_dispatcher`, and permissions such as `outbox_dispatcher.retry_deadevent`."""

    name = "dispatcher.client.django"
    label = LABEL
    verbose_name = "Outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, and what follows each `manage.py migrate` and `flush`: now settings can be read."""
        from dispatcher.client.django import checks as ours

        checks.register(ours.check_engine, checks.Tags.compatibility)
        checks.register(ours.check_schema, checks.Tags.database)
        post_migrate.connect(_after_migrate, sender=self, dispatch_uid=LABEL)


def _after_migrate(using: str, **about: Any) -> None:
    from dispatcher.client.django import schema

    if "plan" in about:
        schema.complete(using)
    else:  # after `manage.py flush`, also at the end of a TransactionTestCase: it empties the tables of models only
        schema.empty(using)
