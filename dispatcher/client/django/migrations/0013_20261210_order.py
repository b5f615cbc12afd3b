"""Runs sql/migrations/20261210_order.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0012_20261208_dead_event"),)
    operations = (RunFile("20261210_order"),)
