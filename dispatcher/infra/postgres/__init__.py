"""Postgres: sessions that are opened, watched and reopened; migrations; errors in plain words."""
