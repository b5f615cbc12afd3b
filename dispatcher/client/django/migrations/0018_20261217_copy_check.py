"""Runs sql/migrations/20261217_copy_check.sql. Written by `make schema`."""

from dispatcher.client.django.operations import run_file

Migration = run_file("20261217_copy_check", after="0017_20261215_layout_set")
