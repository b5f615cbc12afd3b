"""`manage.py bill`: the consumer, until SIGTERM."""

import signal
from typing import Any

from dispatcher.client.django import forget
from django.core.management.base import BaseCommand

from django_shop.shop.billing import KEEP, make_consumer


class Command(BaseCommand):
    """Run as many as you like."""

    help = "Writes invoices for the orders that were placed."

    def handle(self, *args: Any, **options: Any) -> None:
        """Read until SIGTERM; then the event at hand is finished."""
        consumer = make_consumer()
        signal.signal(signal.SIGTERM, lambda *_: consumer.stop())
        consumer.on_start(lambda: forget(KEEP))  # what no event can ask for any more
        consumer.run()
