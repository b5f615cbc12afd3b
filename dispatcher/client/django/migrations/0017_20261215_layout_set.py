"""Runs sql/migrations/20261215_layout_set.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261215_layout_set", after="0016_20261214_replica_identity")
