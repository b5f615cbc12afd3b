"""Telemetry events: what just happened, as typed values. Metrics, log lines, readiness and tests all come from them.

A new event is a class in the module of its topic, its line in `telemetry/log_lines.py` and, if it counts something, its
metric in `telemetry/metrics.py`. No event carries a payload, a header or a password: observers write events out.
"""

from dispatcher.core.events.base import *
from dispatcher.core.events.delivery import *
from dispatcher.core.events.handlers import *
from dispatcher.core.events.operators import *
from dispatcher.core.events.process import *
from dispatcher.core.events.servers import *
from dispatcher.core.events.slots import *
from dispatcher.core.events.upkeep import *
