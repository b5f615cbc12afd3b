"""What it sells."""

from django.db import models, transaction

from dispatcher.client import Event
from dispatcher.client.django import add_event


class Order(models.Model):
    """An order. The label is that of its folder."""

    id = models.BigAutoField(primary_key=True)
    customer = models.TextField()

    class Meta:
        app_label = "shop"

    def __str__(self) -> str:
        return str(self.customer)


def place_order(customer: str, using: str = "default") -> Order:
    """Save an order and add its event, in one transaction."""
    with transaction.atomic(using=using):
        order = Order.objects.using(using).create(customer=customer)
        add_event(
            Event(event_type="order.created", aggregate_type="order", aggregate_id=order.pk, payload={"to": customer}),
            using=using,
        )
    return order
