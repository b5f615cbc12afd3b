"""Runs sql/migrations/20261214_replica_identity.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261214_replica_identity", after="0015_20261213_after_dead")
