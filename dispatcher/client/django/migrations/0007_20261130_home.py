"""Runs sql/migrations/20261130_home.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261130_home", after="0006_20261130_due_at_once")
