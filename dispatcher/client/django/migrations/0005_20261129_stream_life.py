"""Runs sql/migrations/20261129_stream_life.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261129_stream_life", after="0004_20251201_slot_without_md5")
