"""Benchmarks: one scenario a file, each with its target. `python -m bench --help`."""
