"""From a due row to a call of its handler."""
