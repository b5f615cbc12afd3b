"""Which statements are tried, and with which parameters. How they are tried, and what a refusal means: `trials.py`.

A new trial is one line of TRIALS; its parameters are those of `parameters()`.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import uuid4

from dispatcher.core.incarnation import ANOTHER_INCARNATION
from dispatcher.infra.sqlfiles import client, load

NOBODY = 2_147_483_647  # an id in the registry that no dispatcher has
DUE = "0001-01-01 00:00:00+00"  # the earliest time that the table allows: nothing else is due then
STREAM = "dispatcher: a trial"


@dataclass(frozen=True, slots=True)
class Trial:
    """Statements that are run one after the other on the claimed row, then undone; `keep`: not undone.

    `rows`: what the last of them has to return at least. `expect`: the SQLSTATE that it has to raise. `needed`: a
    dispatcher that cannot do it publishes what it never settles, or nothing: it does not start. `at_start`: else only
    `doctor` tries it. A name of a statement that begins with `client:` is one of sql/client.
    """

    name: str
    statements: tuple[str, ...]
    rows: int = 1
    expect: str | None = None
    changes: Mapping[str, object] = field(default_factory=dict)  # other parameters than those of `parameters()`
    needed: bool = True
    at_start: bool = True
    keep: bool = False

    def texts(self) -> list[str]:
        """The statements themselves."""
        return [
            client(name.removeprefix("client:")) if name.startswith("client:") else load(name)
            for name in self.statements
        ]


TRIALS = (
    Trial("add-event", ("client:add_event",), rows=0, needed=False, at_start=False),
    Trial("insert", ("trial_insert",), keep=True),  # fires the doorbell as well
    Trial("claim", ("claim",), changes={"now": DUE}, keep=True),
    Trial("renew", ("renew_claims",)),
    Trial("settle-sent", ("settle_sent", "trial_settled"), changes={"stream": None, "run_id": None, "replid": None}),
    Trial("settle-in-stream", ("settle_sent",), expect=ANOTHER_INCARNATION),  # so holds_stream can be called
    Trial("settle-retry", ("settle_retry",)),
    Trial("bury", ("settle_dead",)),
    Trial("release", ("release",)),
    Trial("take-over", ("adopt",)),
    Trial("fence", ("dead_dispatchers", "fence"), rows=0, needed=False, at_start=False),
    Trial("enrol", ("enrol_again", "deregister"), rows=0, changes={"id": NOBODY}),
    Trial("retry-dead", ("settle_dead", "dead_retry"), needed=False),
    Trial("prune", ("settle_sent", "prune_outbox", "prune_dlq"), needed=False, changes={"run_id": None}),
    Trial("pause", ("pause_acknowledge",), rows=0),
    Trial("note-newest", ("note_newest", "mark_unbroken")),
    Trial("audit", ("saw_stream", "audit_stream")),  # last: settling waits for its lock
)


def of_row(row_id: int) -> dict[str, object]:
    """The parameters that name the row that is tried on."""
    return {"id": row_id, "ids": [row_id], "after_id": row_id - 1}


# The parameters of the statements, by what they are about; those of one trial alone are in its `changes`.
_EVENT: Mapping[str, object] = {
    "event_ids": None,
    "event_type": "dispatcher.trial",
    "aggregate_type": "dispatcher",
    "aggregate_id": "trial",
    "payload": "{}",
    "headers": None,
    "next_run_at": None,
    "due": DUE,
    "now": None,
}
_CLAIM: Mapping[str, object] = {
    "after_time": DUE.removesuffix("+00"),
    "dispatcher": NOBODY,
    "floor": None,
    "mark": None,
    "slots": 256,
    "limit": 1,
    "most_bytes": 1_048_576,
    "layout": "",
}
_TAKEOVER: Mapping[str, object] = {
    "self": NOBODY,
    "owner": NOBODY,
    "still_claims": [],
    "still_at": [],
    "picked_without_claim": False,
    "left_out": [],
    "escaped": False,
}
_SETTLE: Mapping[str, object] = {
    "stream_ids": ["0-1"],
    "delays": [1.0],
    "costs": [1],
    "errors": ["a trial"],
    "places": [None],
    "by": None,
    "reason": None,
    "marks": [0],
}
_STREAM: Mapping[str, object] = {
    "stream": STREAM,
    "streams": [STREAM],
    "is_default": True,
    "run_id": "",
    "replid": "",
    "several": False,
    "may_fall": False,
    "last_id": "0-0",
    "life": None,
    "below": None,
    "newest_id": "0-0",
    "added": None,
    "why": None,
    "so_far": 0,
    "window_s": 0.0,
    "at_most": 1,
}
_RETENTION: Mapping[str, object] = {"window": 1, "batch": 1, "older_than_s": 3_153_600_000.0, "ours": "infinity"}
_REGISTRY: Mapping[str, object] = {
    "name": STREAM,
    "token": "nobody's",
    "host": None,
    "pid": None,
    "version": None,
    "generation": 0,
    "in_flight": 0,
    "condition": None,
}


def parameters() -> dict[str, object]:
    """The parameters of every statement that is tried: they fit the row of the trial, and no other."""
    claim_id = str(uuid4())
    return {
        **of_row(-1 - secrets.randbelow(2**62)),
        "event_id": str(uuid4()),
        "message_id": str(uuid4()),
        "claim_id": claim_id,
        "claim_ids": [claim_id],
        "claims": [claim_id],
        **_EVENT,
        **_CLAIM,
        **_TAKEOVER,
        **_SETTLE,
        **_STREAM,
        **_RETENTION,
        **_REGISTRY,
    }
