"""Runs sql/migrations/20261207_cheaper_events.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0010_20261206_postgres_upgrade"),)
    operations = (RunFile("20261207_cheaper_events"),)
