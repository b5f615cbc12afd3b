"""Runs sql/migrations/20261206_postgres_upgrade.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261206_postgres_upgrade", after="0009_20261205_event_history")
