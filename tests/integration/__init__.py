"""Each part against real Postgres and Valkey."""
