"""The shop's own tests: `python -m django test django_shop` in examples/ starts the servers that it needs."""

from decimal import Decimal

from dispatcher.client import Event
from dispatcher.client.django.models import OutboxEvent
from dispatcher.testing import published, relay_once, run_one
from django.conf import settings
from django.db import connection, transaction
from django.test import TestCase, TransactionTestCase

from django_shop.shop.billing import make_consumer
from django_shop.shop.models import Invoice, Order
from django_shop.shop.orders import place_order


class Orders(TestCase):
    """Nothing is committed, so nothing goes out."""

    def test_an_order_adds_its_event(self) -> None:
        order = place_order("ada", Decimal("42.50"))
        [event] = published(connection)
        self.assertEqual((event.event_type, event.aggregate_id), ("order.placed", str(order.pk)))
        self.assertEqual(event.json(parse_float=Decimal), {"total": Decimal("42.50")})

    def test_an_order_that_fails_adds_none(self) -> None:
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            place_order("ada", Decimal(1))
            raise ZeroDivisionError
        self.assertEqual(published(connection), [])

    def test_the_page_places_an_order(self) -> None:
        self.client.post("/", {"customer": "<ada>", "total": "42.50"})
        self.assertEqual(OutboxEvent.objects.get().event_type, "order.placed")
        self.assertContains(self.client.get("/"), "&lt;ada&gt;")
        self.assertContains(self.client.post("/", {"customer": "", "total": "-1"}), "greater than or equal to 0")

    def test_an_invoice_is_written_once(self) -> None:
        order = place_order("ada", Decimal(42))
        [event] = published(connection)
        for _ in range(2):  # an event may come twice
            self.assertEqual(run_one(make_consumer(), event), "handled")
        self.assertEqual([invoice.order for invoice in Invoice.objects.all()], [order])

    def test_other_events_are_ignored(self) -> None:
        event = Event(event_type="mail.sent", aggregate_id="1", payload={})
        self.assertEqual(run_one(make_consumer(), event), "ignored")


class AllTheWay(TransactionTestCase):
    """Committed, published into a real stream, consumed."""

    def test_from_the_order_to_the_invoice(self) -> None:
        place_order("ada", Decimal("42.50"))
        for event in relay_once(connection, settings.REDIS_URL):
            run_one(make_consumer(), event)
        self.assertEqual(Invoice.objects.get().total, Decimal("42.50"))
        self.assertEqual(Order.objects.get().invoices.count(), 1)
        self.assertEqual(OutboxEvent.objects.get().status, "sent")
