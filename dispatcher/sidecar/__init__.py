"""The HTTP side: probes and metrics."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
