"""Runs sql/migrations/20261129_stream_life.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0004_20251201_slot_without_md5"),)
    operations = (RunFile("20261129_stream_life"),)
