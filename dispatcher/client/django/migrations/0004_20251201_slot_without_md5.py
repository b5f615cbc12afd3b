"""Runs sql/migrations/20251201_slot_without_md5.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20251201_slot_without_md5", after="0003_20251130_own_rows_only")
