"""Pure code: no server, no clock."""
