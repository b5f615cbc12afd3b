"""What a person does, from the command line or over HTTP: status, pause, replay, prune, dead letters, doctor."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
