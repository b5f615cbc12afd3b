"""Redis: the connection that publishes, its pipelines, the search for entries in a stream."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
