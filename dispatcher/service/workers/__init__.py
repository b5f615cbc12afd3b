"""Several processes: a supervisor and its workers."""
