"""Runs sql/migrations/20251201_slot_without_md5.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0003_20251130_own_rows_only"),)
    operations = (RunFile("20251201_slot_without_md5"),)
