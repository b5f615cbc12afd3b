"""For applications that write handlers.

    from dispatcher.handlers import Dead, Event, Retry, Wait, handler

    @handler("order.created")
    def send_receipt(payload, event: Event): ...

`dispatcher run --handlers shop.handlers` calls it for each event of that type. A dict named HANDLERS, as Dispatchbox
has it, works too. A handler may run twice for one event (a crash, a timeout): make it recognize `event.event_id`.
"""

from dispatcher.handlers.event import Event
from dispatcher.handlers.exceptions import Dead, Retry, Wait
from dispatcher.handlers.outages import Outages
from dispatcher.handlers.registry import Handler, handler

__all__ = ["Dead", "Event", "Handler", "Outages", "Retry", "Wait", "handler"]
