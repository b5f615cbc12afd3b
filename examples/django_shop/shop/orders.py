"""The business part: an order and its event are saved together, or not at all."""

from decimal import Decimal

from dispatcher.client import Event
from dispatcher.client.django import add_event
from django.db import transaction

from django_shop.shop.models import Order


def place_order(customer: str, total: Decimal) -> Order:
    """Save an order. Its event goes out when the transaction commits."""
    with transaction.atomic():
        order = Order.objects.create(customer=customer, total=total)
        add_event(
            Event(event_type="order.placed", aggregate_type="order", aggregate_id=order.pk, payload={"total": total})
        )
    return order
