"""What runs beside the relays: registry, takeover, audits, backpressure, retention, pause, gauges."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
