"""Transactional outbox dispatcher: relays committed rows from Postgres to a Redis Stream."""

__version__ = "0.1.0"
