"""Runs sql/migrations/20261213_after_dead.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0014_20261212_held"),)
    operations = (RunFile("20261213_after_dead"),)
