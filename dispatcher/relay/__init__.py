"""The relay and the handling: from a due row to a settled one, by way of the stream or of a handler."""

from dispatcher.relay.handling import Handling
from dispatcher.relay.lanes import Relay
from dispatcher.relay.policy import HandlingPolicy, RelayPolicy, Room
from dispatcher.relay.porter import Porter

__all__ = ["Handling", "HandlingPolicy", "Porter", "Relay", "RelayPolicy", "Room"]
