"""Runs sql/migrations/20261212_held.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0013_20261210_order"),)
    operations = (RunFile("20261212_held"),)
