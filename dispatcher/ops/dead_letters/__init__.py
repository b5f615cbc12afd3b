"""Dead events: finding them, putting them back. For the HTTP API and the command line."""
