"""The commands of the command line, one file each."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
