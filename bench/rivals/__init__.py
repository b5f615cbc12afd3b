"""Peers that do the same relay work: row to XADD, then marked done. `python -m bench.rivals <name>` runs one.

A module each, with `INSTALLED` (its distribution), `CHANGES` (what was set, after its own documentation),
`prepare(url)` (its tables), `insert()` (the SQL its producer runs for one event, $1 to $6 as in
`demo.messages.COLUMNS`), `FILL` (a backlog), `LEFT` (how much is left to do), `EMPTY`, and
`relay(url, redis_url, stream)` (relay until cancelled).
"""

from bench.rivals import faststream_outbox, pgqueuer, procrastinate

RIVALS = {"PgQueuer": pgqueuer, "faststream-outbox": faststream_outbox, "procrastinate": procrastinate}
