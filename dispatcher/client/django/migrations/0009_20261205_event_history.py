"""Runs sql/migrations/20261205_event_history.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0008_20261201_streams"),)
    operations = (RunFile("20261205_event_history"),)
