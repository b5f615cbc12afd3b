"""The tests: unit (pure), integration (real servers), faults, acceptance. Fixtures live in tests/fixtures."""
