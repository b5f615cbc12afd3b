"""The thin edges: Postgres sessions, the Redis connection, the SQL files."""
