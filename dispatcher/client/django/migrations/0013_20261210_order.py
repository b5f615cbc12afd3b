"""Runs sql/migrations/20261210_order.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261210_order", after="0012_20261208_dead_event")
