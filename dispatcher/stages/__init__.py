"""The steps of a relay: doorbell (wake), claim, publish, settle."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
