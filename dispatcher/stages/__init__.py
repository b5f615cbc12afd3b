"""The steps of the loop, one file a step: wake, claim, publish, settle."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
