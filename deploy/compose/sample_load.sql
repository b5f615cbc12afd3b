-- Run by psql as an application would be: one event, committed, five times a second.
INSERT INTO messaging.message_outbox (event_type, aggregate_type, aggregate_id, payload)
VALUES (
    (ARRAY['order.created', 'order.paid', 'order.shipped'])[1 + floor(random() * 3)::int],
    'order',
    floor(random() * 100)::int,
    jsonb_build_object('total', round((random() * 100)::numeric, 2))
)
\watch interval=0.2
