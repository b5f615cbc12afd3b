"""Runs sql/migrations/20250203_message_outbox.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20250203_message_outbox", after="0001_models")
