"""Runs sql/migrations/20250203_message_outbox.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0001_models"),)
    operations = (RunFile("20250203_message_outbox"),)
