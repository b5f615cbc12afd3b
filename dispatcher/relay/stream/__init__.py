"""From a due row to an entry in the stream."""
