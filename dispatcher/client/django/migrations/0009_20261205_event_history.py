"""Runs sql/migrations/20261205_event_history.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261205_event_history", after="0008_20261201_streams")
