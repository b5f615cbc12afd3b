"""The unmanaged models: nothing is done in the database."""

from django.db import migrations, models


class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            name="DeadEvent",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("event_id", models.UUIDField()),
                ("message_id", models.UUIDField()),
                ("event_type", models.TextField()),
                ("aggregate_type", models.TextField()),
                ("aggregate_id", models.TextField()),
                ("payload", models.JSONField()),
                ("headers", models.JSONField(null=True)),
                ("attempts", models.IntegerField()),
                ("last_error", models.TextField(null=True)),
                ("occurred_at", models.DateTimeField()),
                ("died_at", models.DateTimeField()),
            ],
            options={
                "verbose_name": "dead event",
                "db_table": '"messaging"."dead_event"',
                "permissions": (
                    ("retry_deadevent", "Can retry dead events"),
                    ("discard_deadevent", "Can discard dead events"),
                    ("read_payload_deadevent", "Can read the payload of dead events"),
                ),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("event_id", models.UUIDField()),
                ("message_id", models.UUIDField()),
                ("event_type", models.TextField()),
                ("aggregate_type", models.TextField()),
                ("aggregate_id", models.TextField()),
                ("payload", models.JSONField()),
                ("headers", models.JSONField(null=True)),
                ("attempts", models.IntegerField()),
                ("last_error", models.TextField(null=True)),
                ("occurred_at", models.DateTimeField()),
                ("status", models.TextField()),
                ("next_run_at", models.DateTimeField()),
                ("sent_at", models.DateTimeField(null=True)),
                ("stream_id", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "event",
                "db_table": '"messaging"."message_outbox"',
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
