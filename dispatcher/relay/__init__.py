"""The relay: from a due row to a settled one, lane by lane."""

from dispatcher.relay.lanes import Relay
from dispatcher.relay.policy import RelayPolicy, Room

__all__ = ["Relay", "RelayPolicy", "Room"]
