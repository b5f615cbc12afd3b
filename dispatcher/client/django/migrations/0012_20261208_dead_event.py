"""Runs sql/migrations/20261208_dead_event.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261208_dead_event", after="0011_20261207_cheaper_events")
