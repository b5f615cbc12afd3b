"""A writer of the doorbell's model: one transaction, in the steps of Postgres's commit and of triggers/doorbell.sql."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

WriterFlaw = Literal["K released before the row is visible", "a rolled-back savepoint uses up the ring"]


class Writer(NamedTuple):
    """A producer's transaction."""

    at: Literal["begin", "inserted", "decided", "visible", "over"] = "begin"
    rung: bool = False  # the setting dispatcher.doorbell is "rang": the transaction has called pg_notify
    queued: bool = False  # the deferred call of ring_doorbell()
    shares_key: bool = False  # K, shared, until the transaction ends
    notifies: bool = False  # pg_notify was called; the notification goes out at the end of the commit
    row: bool = False  # visible and unclaimed


class WriterStep(NamedTuple):
    """What is done, the writer after it, and whether it rings every session that listens."""

    what: str
    after: Writer
    rings: bool = False


def writer_steps(writer: Writer, sleeper: bool, flaw: str | None) -> Iterator[WriterStep]:
    """What the writer may do next. `sleeper`: some dispatcher's session holds K exclusively."""
    match writer.at:
        case "begin":
            # Before its commit nobody sees anything of a writer, so all it does there is one step.
            inserted = writer._replace(at="inserted", queued=True)
            yield WriterStep("inserts", inserted)
            if sleeper:  # SET CONSTRAINTS ... IMMEDIATE; what it did there is undone, the mark with it
                rung = flaw == "a rolled-back savepoint uses up the ring"
                what = "rings in a savepoint, rolls back to it, inserts again"
                yield WriterStep(what, inserted._replace(rung=rung))
        case "inserted":
            decided = writer._replace(at="decided", queued=False, rung=False)
            if writer.rung:
                yield WriterStep("begins its commit: has rung already, says the mark", decided)
            elif sleeper:
                yield WriterStep("begins its commit: K is taken, NOTIFY", decided._replace(notifies=True))
            else:
                yield WriterStep("begins its commit: gets K shared, silent", decided._replace(shares_key=True))
        case "decided" if writer.shares_key and flaw == "K released before the row is visible":
            yield WriterStep("releases K, its row not yet visible", writer._replace(shares_key=False))
        case "decided":
            more = writer.shares_key or writer.notifies
            yield WriterStep("makes its row visible", writer._replace(at="visible" if more else "over", row=True))
            yield WriterStep("aborts", Writer(at="over"))
        case "visible" if writer.notifies:
            yield WriterStep("ends its commit: the ring goes out", writer._replace(at="over", notifies=False), True)
        case "visible":
            yield WriterStep("ends its commit: releases K", writer._replace(at="over", shares_key=False))
        case "over":
            return
