"""What an application's handlers are written with.

    from dispatcher.handlers import Dead, Event, Retry, handler

    @handler("order.created")
    def send_receipt(payload, event: Event): ...

`dispatcher run --handlers shop.handlers` calls it for each event of that type. A dict named HANDLERS, as Dispatchbox
has it, does as well. A handler may run twice for one event (a crash, a timeout): make it know `event.event_id` again.
"""

from dispatcher.handlers.event import Event
from dispatcher.handlers.exceptions import Dead, Retry
from dispatcher.handlers.registry import Handler, handler

__all__ = ["Dead", "Event", "Handler", "Retry", "handler"]
