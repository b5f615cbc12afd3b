"""What an application imports: adding events in its own transaction, and reading the stream.

    from dispatcher.client import Event, add_event                  psycopg, and add_event_async, add_events
    from dispatcher.client.asyncpg import add_event                 asyncpg alone
    from dispatcher.client.sqlalchemy import add_event              sessions and connections, and add_event_async
    from dispatcher.client.django import add_event                  inside transaction.atomic
    from dispatcher.client.consumer import Consumer, AsyncConsumer  a consumer group of the stream

Nothing of the server is imported with it.
"""

from dispatcher.client.event import Event, NoTransaction
from dispatcher.client.outbox import add_event, add_event_async, add_events, add_events_async
from dispatcher.core.outages import is_outage

__all__ = ["Event", "NoTransaction", "add_event", "add_event_async", "add_events", "add_events_async", "is_outage"]
