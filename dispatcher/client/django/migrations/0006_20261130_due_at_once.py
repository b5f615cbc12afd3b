"""Runs sql/migrations/20261130_due_at_once.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261130_due_at_once", after="0005_20261129_stream_life")
