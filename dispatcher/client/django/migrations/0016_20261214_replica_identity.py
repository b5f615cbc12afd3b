"""Runs sql/migrations/20261214_replica_identity.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0015_20261213_after_dead"),)
    operations = (RunFile("20261214_replica_identity"),)
