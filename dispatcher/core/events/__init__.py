"""Telemetry events: what just happened, as typed values. Metrics, log lines, readiness and tests all come from them.

CONTRIBUTING.md says all that a new one needs. None carries a payload, a header or a password: observers write them out.
Events of the outbox are rows: those are in `ops/outbox_events.py`.
"""

from dispatcher.core.events.base import *
from dispatcher.core.events.delivery import *
from dispatcher.core.events.handlers import *
from dispatcher.core.events.operators import *
from dispatcher.core.events.process import *
from dispatcher.core.events.servers import *
from dispatcher.core.events.slots import *
from dispatcher.core.events.upkeep import *
