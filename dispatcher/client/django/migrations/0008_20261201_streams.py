"""Runs sql/migrations/20261201_streams.sql. Written by `make schema`."""

from django.db import migrations

from dispatcher.client.django.operations import RunFile


class Migration(migrations.Migration):
    atomic = False  # RunFile has a transaction of its own
    dependencies = (("outbox_dispatcher", "0007_20261130_home"),)
    operations = (RunFile("20261201_streams"),)
