"""The relays: from a due row to a settled one, by way of the stream or of a handler."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
