"""The demo, and the load generator and consumer that the benchmarks measure with."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
