"""Runs sql/migrations/20261212_held.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261212_held", after="0013_20261210_order")
