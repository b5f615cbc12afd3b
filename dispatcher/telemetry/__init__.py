"""What the dispatcher tells the world about itself: metrics and logs, both fed by events."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
