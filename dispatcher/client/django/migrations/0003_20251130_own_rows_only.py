"""Runs sql/migrations/20251130_own_rows_only.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20251130_own_rows_only", after="0002_20250203_message_outbox")
