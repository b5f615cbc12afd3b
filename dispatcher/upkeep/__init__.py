"""What runs beside the loop: registry, takeover, gauges."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
