"""Runs sql/migrations/20251130_own_rows_only.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0002_20250203_message_outbox"),)
    operations = (RunFile("20251130_own_rows_only"),)
