"""`dispatcher prove`: sends proof events through the real servers, and says what was lost, doubled and late.

A proof event has an event type of its own, which no dispatcher claims (sql/statements/claim.sql), and goes to a stream
of its own. So this can run beside dispatchers and consumers that work.
"""

import dispatcher.core.server_extra  # noqa: F401 -- says what to install
