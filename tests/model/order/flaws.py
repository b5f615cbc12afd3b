"""What can be left out of the protocol, by name. Each has a counterexample (tests/unit/test_order_model.py)."""

from typing import Literal

HandoverFlaw = Literal[
    "given up while a batch is in flight",
    "no revocation before the fence",
    "no fence in Postgres",
    "no fence in Redis",
    "not adopted before the slot is free",
    "adopted rows are given back without a look",
    "looked for before the fence",
    "freed while a row of the slot is claimed",
    "a revoked slot counts as free",
    "adopted from one that owns the slot again",
    "the claim does not ask for the owner",
    "the claim asks for the owner, not for the epoch",
    "held aggregates are not loaded with the slot",
]
RelayFlaw = Literal[
    "two batches of a slot in flight",
    "no MULTI",
    "no held set",
    "one held row an aggregate",
    "a row that failed goes before one that was given back",
    "what follows a refused row in its batch goes out",
    "given back after a cut without a look",
    "looked before the old connection was ended",
    "claimed for a connection that broke, written to the next",
    "a slot is claimed again while a claim of it has no answer",
    "the session of a lost claim is not ended before its rows are given back",
    "a locked head is passed over",
    "a claim from behind the cursor overtakes what was held as it began",
]
LivenessFlaw = Literal[
    "who was frozen waits to be fenced",
    "a takeover is due for owners only",
    "nothing before a held row goes out",
]
Flaw = HandoverFlaw | RelayFlaw | LivenessFlaw
# With these a slot is freed whether or not a row of it is claimed, or the guard would hide what was left out.
UNGUARDED: tuple[Flaw, ...] = (
    "not adopted before the slot is free",
    "freed while a row of the slot is claimed",
    "looked for before the fence",
)
