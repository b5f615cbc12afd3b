"""Run by `manage.py test` in a test of ours: what a project's own tests may expect."""

import os
import uuid
from unittest import skipIf

from django.contrib.auth.models import Permission, User
from django.db import connection, connections, transaction
from django.test import Client, TestCase, TransactionTestCase
from shop.models import Order, place_order

from dispatcher.client import Event, NoTransaction
from dispatcher.client.django import add_event, add_events
from dispatcher.client.django.models import DeadEvent, OutboxEvent

WITHOUT_PSYCOPG = os.environ.get("DRIVER") == "psycopg2"
if not WITHOUT_PSYCOPG:
    from dispatcher.testing import published, relay_once

EVENT = Event(event_type="a", aggregate_id="1", payload={})


class InATransaction(TestCase):
    """Rolled back: each test begins with an empty outbox."""

    databases = ("default", "other")

    @classmethod
    def setUpTestData(cls) -> None:
        place_order("of all tests")

    def test_an_order_adds_its_event(self) -> None:
        order = place_order("ada")
        events = OutboxEvent.objects.filter(aggregate_id=str(order.pk))
        self.assertEqual([(event.event_type, event.payload, event.status) for event in events],
                         [("order.created", {"to": "ada"}, "pending")])  # fmt: skip
        self.assertEqual(OutboxEvent.objects.count(), 2)

    def test_an_order_that_is_rolled_back_adds_none(self) -> None:
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            place_order("ada")
            raise ZeroDivisionError
        self.assertEqual(OutboxEvent.objects.count(), 1)

    def test_the_transaction_of_the_test_is_not_one_of_the_code(self) -> None:
        with self.assertRaisesRegex(NoTransaction, "only the transaction of the TestCase"):
            add_event(EVENT)
        with self.assertRaises(NoTransaction):
            add_events([EVENT], using="other")

    def test_each_database_has_its_own(self) -> None:
        place_order("grace", using="other")
        self.assertEqual([OutboxEvent.objects.using(alias).count() for alias in ("default", "other")], [1, 1])

    def test_the_models_are_read_only(self) -> None:
        [event] = OutboxEvent.objects.all()
        for write in (event.save, event.delete, OutboxEvent.objects.all().delete, OutboxEvent.objects.create,
                      lambda: OutboxEvent.objects.update(status="sent"),
                      lambda: OutboxEvent.objects.bulk_create([event])):  # fmt: skip
            with self.assertRaisesRegex(TypeError, "read-only"):
                write()


class Committed(TransactionTestCase):
    """Commits; the database is emptied at the end of each test, the outbox too. Both tests expect to be the first."""

    databases = ("default", "other")

    def _all_of_it(self) -> None:
        for alias in self.databases:
            self.assertEqual([OutboxEvent.objects.using(alias).count(), Order.objects.using(alias).count()], [0, 0])
            place_order("ada", using=alias)
            self.assertFalse(connections[alias].in_atomic_block)
            self.assertEqual(OutboxEvent.objects.using(alias).count(), 1)
        with self.assertRaisesRegex(NoTransaction, "inside the `with transaction.atomic"):
            add_event(EVENT)
        with connections["default"].cursor() as cursor:  # the tables, the bookkeeping and the doorbell are there
            cursor.execute("SELECT count(*) FROM messaging.schema_migration WHERE name = 'doorbell'")
            self.assertEqual(cursor.fetchone(), (1,))

    def test_one(self) -> None:
        self._all_of_it()

    def test_another(self) -> None:
        self._all_of_it()


def dead(event_type: str, pruned: bool = False) -> int:
    """An event that failed for the last time; `pruned`: only its copy is there."""
    name, row = uuid.uuid4(), 0
    with transaction.atomic(), connections["default"].cursor() as cursor:
        add_event(Event(event_type=event_type, aggregate_id="7", payload={"secret": 1.10}, event_id=name))
        cursor.execute(
            "UPDATE messaging.message_outbox SET status = 'dead', attempts = 3, last_error = 'refused <b>' "
            "WHERE event_id = %s RETURNING id",
            [name],
        )
        [row] = cursor.fetchone()
        cursor.execute(
            "INSERT INTO messaging.message_dlq (outbox_id, event_id, message_id, event_type, aggregate_type, "
            "aggregate_id, payload, attempts, last_error, occurred_at) SELECT id, event_id, message_id, event_type, "
            "aggregate_type, aggregate_id, payload, attempts, last_error, occurred_at "
            "FROM messaging.message_outbox WHERE id = %s",
            [row],
        )
        if pruned:
            cursor.execute("DELETE FROM messaging.message_outbox WHERE id = %s", [row])
    return row


PAGE = "/admin/outbox_dispatcher/deadevent/"


def client_of(*permissions: str) -> Client:
    """Logged in as one of the staff with these permissions."""
    user = User.objects.create_user(f"u{len(permissions)}", password="p", is_staff=True)
    found = Permission.objects.filter(codename__in=permissions, content_type__app_label="outbox_dispatcher")
    assert len(found) == len(permissions)
    user.user_permissions.set(found)
    client = Client()
    client.force_login(user)
    return client


class InTheAdmin(TestCase):
    """Who may see what, and retry."""

    def test_who_has_no_permission_sees_nothing(self) -> None:
        row = dead("mail.sent")
        client = client_of()
        for path in (PAGE, f"{PAGE}{row}/change/"):
            self.assertEqual(client.get(path).status_code, 403)

    def test_who_may_look_sees_no_payload_and_changes_nothing(self) -> None:
        row = dead("mail.sent")
        client = client_of("view_deadevent")
        self.assertContains(client.get(PAGE), "mail.sent")
        self.assertContains(client.get(f"{PAGE}?q=7"), "mail.sent")
        self.assertNotContains(client.get(f"{PAGE}?event_type=other"), f">{row}<")
        shown = client.get(f"{PAGE}{row}/change/")
        self.assertContains(shown, "refused &lt;b&gt;")
        self.assertNotContains(shown, "secret")
        self.assertEqual(client.get(f"{PAGE}add/").status_code, 403)
        self.assertEqual(client.post(f"{PAGE}{row}/change/", {"event_type": "x"}).status_code, 403)
        self.assertEqual(client.get(f"{PAGE}{row}/delete/").status_code, 403)
        client.post(PAGE, {"action": "retry", "_selected_action": [row]})
        self.assertEqual(DeadEvent.objects.count(), 1)

    def test_who_may_retry_retries(self) -> None:
        rows = [dead("mail.sent"), dead("mail.sent", pruned=True), dead("mail.sent")]
        client = client_of("view_deadevent", "retry_deadevent")
        self.assertContains(client.get(PAGE), "Retry the selected dead events")
        said = client.post(PAGE, {"action": "retry", "_selected_action": rows[:2], "reason": "it is back"}, follow=True)
        self.assertContains(said, "2 events go out again.")
        self.assertEqual([event.pk for event in DeadEvent.objects.all()], rows[2:])
        self.assertEqual([(event.status, event.attempts) for event in OutboxEvent.objects.filter(pk__in=rows[:2])],
                         [("pending", 0)] * 2)  # fmt: skip
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT actor, error FROM messaging.message_history WHERE what = 'retried'")
            self.assertEqual(cursor.fetchall(), [("u2", "it is back")] * 2)
            cursor.execute("UPDATE messaging.message_outbox SET status = 'dead' WHERE id = %s", [rows[0]])
        self.assertContains(client.get(f"{PAGE}{rows[0]}/change/"), "retried")

    def test_who_may_discard_discards_with_a_reason(self) -> None:
        rows = [dead("mail.sent"), dead("mail.sent", pruned=True), dead("mail.sent")]
        asked = {"action": "discard", "_selected_action": rows[:2], "reason": " a test <b>order "}
        client_of("view_deadevent", "retry_deadevent").post(PAGE, asked)
        self.assertEqual(DeadEvent.objects.count(), 3)
        client = client_of("view_deadevent", "discard_deadevent", "read_payload_deadevent")
        page = client.get(PAGE)
        self.assertContains(page, "Discard the selected dead events")
        self.assertContains(page, 'name="reason"')
        self.assertNotContains(page, "Retry the selected dead events")
        said = client.post(PAGE, asked | {"reason": " "}, follow=True)
        self.assertContains(said, "Nothing was discarded")
        self.assertEqual(DeadEvent.objects.count(), 3)
        said = client.post(PAGE, asked, follow=True)
        self.assertContains(said, "2 events were discarded.")
        self.assertEqual([event.pk for event in DeadEvent.objects.all()], rows[2:])
        self.assertEqual(OutboxEvent.objects.filter(pk__in=rows[:2]).count(), 0)
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT outbox_id, actor, error FROM messaging.message_history WHERE what = 'discarded'")
            self.assertEqual(sorted(cursor.fetchall()), [(row, "u3", "a test <b>order") for row in rows[:2]])
            cursor.execute("SELECT count(*) FROM messaging.message_dlq WHERE discarded_at IS NOT NULL")
            self.assertEqual(cursor.fetchone(), (2,), "the copies stay")
        self.assertEqual(DeadEvent.objects.filter(pk__in=rows[:2]).retry(), 0)
        with self.assertRaisesRegex(ValueError, "reason"):
            DeadEvent.objects.all().discard(reason="")

    def test_who_may_read_payloads_sees_them_as_they_are(self) -> None:
        row = dead("mail.sent")
        shown = client_of("view_deadevent", "read_payload_deadevent").get(f"{PAGE}{row}/change/")
        self.assertContains(shown, "{&quot;secret&quot;: 1.1}")

    def test_retrying_twice_counts_once(self) -> None:
        dead("mail.sent")
        chosen = DeadEvent.objects.filter(event_type="mail.sent")
        self.assertEqual([chosen.retry(by="ada", reason="it is back"), chosen.retry()], [1, 0])


class InTheAdminWithoutRights(TransactionTestCase):
    """Each statement in its own transaction: one that the database refuses ends no other."""

    def test_a_role_without_rights_is_named(self) -> None:
        row = dead("mail.sent")
        client = client_of("view_deadevent", "retry_deadevent")
        with connections["default"].cursor() as cursor:
            role = f"reader_{uuid.uuid4().hex}"
            cursor.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA messaging, public TO {role}")
            cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}; GRANT UPDATE ON django_session, "
                           f"auth_user TO {role}; SET ROLE {role}")  # fmt: skip
            self.assertContains(client.get(PAGE, follow=True), "GRANT outbox_dispatcher to it")
            cursor.execute(f"RESET ROLE; GRANT SELECT ON messaging.dead_event TO {role}; SET ROLE {role}")
            said = client.post(PAGE, {"action": "retry", "_selected_action": [row]}, follow=True)
            self.assertContains(said, "GRANT outbox_dispatcher to it")
            cursor.execute("RESET ROLE")


@skipIf(WITHOUT_PSYCOPG, "dispatcher.testing works with psycopg")
class WithOurTools(TestCase):
    """dispatcher.testing on Django's connection."""

    def test_what_this_transaction_added(self) -> None:
        self.assertEqual(published(connection), [])
        place_order("ada")
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            place_order("of a savepoint that is rolled back")
            raise ZeroDivisionError
        with transaction.atomic():
            place_order("grace")
        self.assertEqual([event.json() for event in published(connection)], [{"to": "ada"}, {"to": "grace"}])
        self.assertEqual(len(published(connections["default"])), 2)


@skipIf(WITHOUT_PSYCOPG, "dispatcher.testing works with psycopg")
class WithOurToolsCommitted(TransactionTestCase):
    """The test database is found through the connection."""

    def test_what_is_committed_is_published(self) -> None:
        place_order("ada")
        with self.assertRaisesRegex(NoTransaction, "relay_once"):
            published(connection)
        if "REDIS_URL" in os.environ:
            for expected in ([{"to": "ada"}], []):
                found = relay_once(connection, os.environ["REDIS_URL"], stream=f"shop-{os.getpid()}")
                self.assertEqual([event.json() for event in found], expected)
