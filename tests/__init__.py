"""The tests: unit (pure), integration (real servers), faults, deploy. What they share is in tests/support."""
