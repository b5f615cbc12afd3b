"""Runs sql/migrations/20261217_first_layout.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261217_first_layout", after="0018_20261217_copy_check")
