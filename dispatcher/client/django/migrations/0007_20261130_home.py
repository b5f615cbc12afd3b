"""Runs sql/migrations/20261130_home.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0006_20261130_due_at_once"),)
    operations = (RunFile("20261130_home"),)
