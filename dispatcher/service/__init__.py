"""The service: opens everything, owns the signals and the stop, and ends when any part of it dies."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
from dispatcher.service.lifecycle import Service, run
from dispatcher.service.workers.supervisor import supervise

__all__ = ["Service", "run", "supervise"]
