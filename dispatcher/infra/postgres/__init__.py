"""Postgres: sessions that are opened, watched and reopened; migrations; errors in plain words."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
