"""Runs sql/migrations/20261213_after_dead.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261213_after_dead", after="0014_20261212_held")
