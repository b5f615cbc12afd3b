"""Runs sql/migrations/20261208_dead_event.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0011_20261207_cheaper_events"),)
    operations = (RunFile("20261208_dead_event"),)
