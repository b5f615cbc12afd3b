"""Redis: the connection that publishes, its pipelines, the search for entries in a stream."""
