"""The demo, and the load generator and consumer that the benchmarks measure with."""
