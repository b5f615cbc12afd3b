"""Runs sql/migrations/20261207_cheaper_events.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261207_cheaper_events", after="0010_20261206_postgres_upgrade")
