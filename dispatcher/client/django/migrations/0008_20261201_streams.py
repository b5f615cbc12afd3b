"""Runs sql/migrations/20261201_streams.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261201_streams", after="0007_20261130_home")
