"""The consumer: writes an invoice for each order, once, however often its event comes."""

from datetime import timedelta
from decimal import Decimal

import redis
from dispatcher.client.consumer import Consumer, Group, Received
from dispatcher.client.django import first_time
from django.conf import settings
from django.db import transaction

from django_shop.shop.models import Invoice

STREAM = "sanctum:messages"  # the default name of the dispatcher's stream


def make_consumer() -> Consumer:
    """A consumer of the group `billing`; more of them share the work."""
    consumer = Consumer(redis.Redis.from_url(settings.REDIS_URL), Group(stream=STREAM, group="billing"))

    @consumer.on("order.placed")
    def write_invoice(event: Received) -> None:
        with transaction.atomic():
            if first_time("billing", event.event_id):  # remembered in the transaction that does the work
                total = event.json(parse_float=Decimal)["total"]
                Invoice.objects.create(order_id=int(event.aggregate_id), total=total)

    return consumer


KEEP = timedelta(days=30)  # longer than the stream and the outbox keep an event
