"""The relay and the handling: from a due row to a settled one, by way of the stream or of a handler."""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
from dispatcher.relay.handlers.relay import HandlerRelay
from dispatcher.relay.handlers.wake_loop import WakeLoop
from dispatcher.relay.policy import FlowControl, HandlerPolicy, RelayPolicy
from dispatcher.relay.stream.relay import StreamRelay

__all__ = ["FlowControl", "HandlerPolicy", "HandlerRelay", "RelayPolicy", "StreamRelay", "WakeLoop"]
