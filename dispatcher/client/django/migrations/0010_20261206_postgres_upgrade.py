"""Runs sql/migrations/20261206_postgres_upgrade.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0009_20261205_event_history"),)
    operations = (RunFile("20261206_postgres_upgrade"),)
