"""The advisory locks: the two integers of each, as SQL writes them. A test compares the literals in the SQL files.

The first integer is the ASCII of "outb", and of "outc" for the locks of the registry.
"""

from dispatcher.infra.migration_script import LOCK

DOORBELL = "1869968482, 1"  # exclusive: a dispatcher sleeps; shared: a writer commits (triggers/doorbell.sql)
MIGRATION = LOCK  # one process migrates; Django's migrations take it too
PRUNING = "1869968482, 3"  # one process prunes
INCARNATION = "1869968482, 4"  # exclusive: an audit; shared: rows are being settled as sent (messaging.holds_stream)
CRASH_SEARCH = "1869968482, 5"  # one dispatcher searches the stream after a crash of Postgres
PROVING = "1869968482, 6"  # one `dispatcher prove` at a time
HANDOVER = "1869968482, 7"  # one dispatcher at a time fences one that is frozen, with an order
REGISTRY = "1869968483"  # the second integer is messaging.dispatcher.id: the dispatcher lives, or is being taken over
