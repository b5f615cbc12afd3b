"""Runs sql/migrations/20261130_due_at_once.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0005_20261129_stream_life"),)
    operations = (RunFile("20261130_due_at_once"),)
