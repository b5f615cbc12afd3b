"""Events to log lines: one JSON object each in production, readable text on a terminal.

`event` is the name the runbook greps for. No line holds a payload or a password.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import TextIO

from dispatcher.core import events
from dispatcher.telemetry import loguru_setup as lines
from dispatcher.telemetry.loguru_setup import Fields, write
from dispatcher.telemetry.throttle import Throttle

PRUNED_S = 60.0  # while there is more to delete, a line at most this often


def configure(
    level: str = "INFO", format: lines.Format | None = None, *, stream: TextIO | None = None, worker: str | None = None
) -> "Logs":
    """Send log lines to `stream` (standard error) and return the observer that writes them. May be called again.

    Without a format: text on a terminal, else JSON. `worker`: the name every line bears, where there are several.
    """
    return Logs(debug=lines.configure(level, format, stream=stream, worker=worker))


class Logs:
    """An observer that writes log lines. Its fields are written by the event loop's thread only."""

    def __init__(self, *, debug: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._debug = debug
        self._clock = clock
        self._repeats = Throttle(clock)
        self._down: dict[str, str | None] = {}  # what is down, and the reason that was written
        self._pruned: tuple[int, int, float] | None = None  # rows, copies, since when; not written yet

    def __call__(self, event: events.TelemetryEvent) -> None:
        match event:
            case (
                events.Woke()
                | events.Slept()
                | events.InHand()
                | events.Claimed()
                | events.Published()
                | events.Sampled()
            ):
                if self._debug:
                    self._write_detail(event)
            case events.Ticked("ok"):
                pass
            case events.Ticked(_, duration_s, error):
                self._write_tick_error(error or "unknown", duration_s)
            case events.Handled():
                self._write_handled(event)
            case events.HandlerOutage(event_type, error):
                if error is not None:
                    text = "A server that a handler needs is away; events of this type wait, at no cost"
                    write("WARNING", "handler_outage", text, {"event_type": event_type, "error": error})
                else:
                    text = "Events of this type are handled again"
                    write("INFO", "handler_outage_over", text, {"event_type": event_type})
            case events.StuckHandlers(on, stuck):
                if on:
                    text = "Every handler slot is taken by one that does not end; restart the process to free them"
                    write("ERROR", "handlers_stuck", text, {"stuck": stuck})
                else:
                    write("INFO", "handlers_free", "A stuck handler ended; events are handed out again", {})
            case events.Settled(lost=lost):
                if self._debug:
                    self._write_detail(event)
                if lost:
                    text = "Claims were lost: another dispatcher had taken these rows when they were to be settled"
                    write("WARNING", "claims_lost", text, {"rows": lost})
            case events.Buried(rows):
                text = "Rows went to the dead-letter queue"
                ids, errors = [row_id for row_id, _ in rows], sorted({error for _, error in rows})
                fields: Fields = {"rows": len(rows), "ids": ids, "errors": errors}
                write("ERROR", "outbox_rows_buried_after_max_attempts", text, fields)
            case events.ClosedConnection(row, size, server):
                text = "Redis, or a proxy before it, closes the connection on this row; it waits for its next attempt"
                if server:
                    text = "Redis itself ends each time that this row is sent; it waits for its next attempt"
                write("WARNING", "row_closes_connection", text, {"id": row, "bytes": size, "redis_ended": server})
            case events.DeadDiscarded(ids, by, reason):
                text = "Dead events were discarded: nobody needs them"
                fields = {"rows": len(ids), "ids": list(ids), "by": by, "reason": reason}
                write("INFO", "dead_events_discarded", text, fields)
            case events.HeldSkipped(ids, by, reason):
                text = "Events were skipped: the later ones of their aggregates go out without them"
                fields = {"rows": len(ids), "ids": list(ids), "by": by, "reason": reason}
                write("INFO", "held_events_skipped", text, fields)
            case events.HeldRetried(ids, by):
                text = "Events that hold their aggregates were made due at once"
                write("INFO", "held_events_retried", text, {"rows": len(ids), "ids": list(ids), "by": by})
            case events.DeadRetried(ids, by):
                text = "Dead events were put back to be published"
                write("INFO", "dead_events_retried", text, {"rows": len(ids), "ids": list(ids), "by": by})
            case events.TakenOver(rows, owner):
                text = "Rows of a dead or overdue claim were taken over"
                write("WARNING", "claims_taken_over", text, {"rows": rows, "owner": owner})
            case events.Reconciled(found, missing):
                text = "Rows whose reply was lost, or that were taken over, were looked for in the stream"
                write("INFO", "replies_reconciled", text, {"found": found, "missing": missing})
            case events.Pruned():
                self._write_pruned(event)
            case events.PruneRefused(reason):
                write("WARNING", "prune_refused", "Postgres refused to delete what is too old", {"reason": reason})
            case events.Republished(rows, why, True):
                text = "Entries are gone from the stream though Redis ran on; their rows are published again"
                write("WARNING", "stream_audited", text, {"rows": rows, "why": why})
            case events.Republished(rows, why):
                text = "Another run of Redis holds the stream; rows whose entries it lost are published again"
                if rows:
                    write("WARNING", "stream_audited", text, {"rows": rows, "why": why})
                else:
                    write("INFO", "stream_audited", "Another run of Redis holds the stream; it lost none", {"why": why})
            case events.CrashAudited(found, looked_at):
                text = (
                    "Postgres crashed, failed over or was restored; rows found in the stream are sent, claiming goes on"
                )
                write("WARNING", "postgres_crash_audited", text, {"found": found, "looked_at": looked_at})
            case events.AuditChanged(on, reason):
                if on:
                    write("INFO", "stream_audit_on", "Entries that Redis loses will be published again", {})
                else:
                    text = "Entries that Redis loses will not be noticed"
                    write("WARNING", "stream_audit_off", text, {"reason": reason})
            case events.LayoutChanged(reason):
                if reason is not None:
                    text = "The streams that events go to are others than in our settings; nothing is claimed for them"
                    write("ERROR", "layout_differs", text, {"reason": reason})
                else:
                    write("INFO", "layout_agrees", "The layout of the streams is ours; claiming goes on", {})
            case events.SlotsChanged(owned, ranges, gained, released, revoked):
                fields = {"owned": owned, "ranges": ranges, "gained": gained, "released": released, "revoked": revoked}
                if revoked:
                    text = "Slots were taken from this dispatcher: another one took it for dead or frozen"
                    write("WARNING", "slots_lost", text, fields)
                else:
                    write("INFO", "slots_changed", "This dispatcher owns other slots than before", fields)
            case events.SlotsWithoutOwner(0):
                write("INFO", "slots_owned_again", "All slots have an owner", {})
            case events.SlotsWithoutOwner(slots):
                text = "Nobody owns some of the slots, so their events wait; the others go on"
                write("ERROR", "slots_without_owner", text, {"slots": slots})
            case events.SlotsRevoked(slots, owner):
                text = "The slots of a dead or frozen dispatcher were revoked; others own them once it is fenced"
                write("WARNING", "slots_revoked", text, {"slots": slots, "owner": owner})
            case events.SlotsFreed(slots):
                text = "Slots that were revoked may be owned again: nothing of them is in hand"
                write("INFO", "slots_freed", text, {"slots": slots})
            case events.BackpressureChanged(on, group, unread):
                fields = {"group": group, "unread": unread}
                if on:
                    text = "Claiming waits: a consumer group is about to lose what it has not read to MAXLEN"
                    write("WARNING", "backpressure_on", text, fields)
                else:
                    write("INFO", "backpressure_off", "Claiming goes on: the slowest consumer group moved", fields)
            case events.PauseChanged(paused, by, reason):
                fields = {"by": by, "reason": reason}
                if paused:
                    text = "Paused, like all dispatchers: nothing is taken until `dispatcher resume`"
                    write("WARNING", "dispatcher_paused", text, fields)
                else:
                    write("INFO", "dispatcher_resumed", "Resumed: rows are taken again", fields)
            case events.BackpressureBlind(None):
                write("INFO", "backpressure_sees", "What each consumer group has to read can be told", {})
            case events.BackpressureBlind(reason):
                text = "MAXLEN may trim what a consumer group has not read: how much that is cannot be told"
                write("WARNING", "backpressure_blind", text, {"reason": reason})
            case events.BreakerChanged(state, reason):
                if state == "open":
                    write("WARNING", "breaker_opened", "Redis takes no entries; claiming pauses", {"reason": reason})
                else:
                    write("INFO", "breaker_closed", "Redis takes entries again", {})
            case events.ShardsChanged(_, None):
                write("INFO", "shards_back", "All shards take entries again", {})
            case events.ShardsChanged(shards, first):
                if (suppressed := self._repeats.suppressed("shards")) is not None:
                    left_out: Fields = {"shards": shards, "first": first, "suppressed": suppressed}
                    write("WARNING", "shards_away", "Some shards take no entries; the others go on", left_out)
            case events.ListenerChanged(up, reason):
                text = (
                    "Writers can wake the dispatcher"
                    if up
                    else "Writers cannot wake the dispatcher; it polls on its tick"
                )
                self._write_change("listener", up, text, reason, "WARNING")
            case events.SessionMissing(session, None):
                write("INFO", "session_back", "A session to Postgres that was missing is open", {"session": session})
            case events.SessionMissing(session, reason, without):
                text = "Postgres has no connection left for a session; the rest of the dispatcher works"
                fields = {"session": session, "without": without, "reason": reason}
                write("WARNING", "session_missing", text, fields)
            case events.StatementRefused(what, _, None):
                write("INFO", "statement_allowed", "Postgres does again what it refused", {"what": what})
            case events.StatementRefused(what, _, error):
                text = "Postgres refuses a statement again and again; it is tried on, and nothing is published twice"
                write("ERROR", "statement_refused", text, {"what": what, "error": error})
            case events.NotificationQueueChanged(filling, usage):
                fields = {"usage": round(usage, 3)}
                if filling:
                    text = (
                        "The notification queue fills up: no writer is asked to ring, the dispatcher looks on its tick"
                    )
                    write("WARNING", "notification_queue_filling", text, fields)
                else:
                    text = "The notification queue is calm again: writers wake the dispatcher"
                    write("INFO", "notification_queue_calm", text, fields)
            case events.DatabaseChanged(up, reason):
                text = "Postgres is connected" if up else "Postgres is not connected; connecting again"
                self._write_change("database", up, text, reason, "ERROR")
            case events.StillAway(server, reason):
                if (suppressed := self._repeats.suppressed(f"{server} {reason}")) is not None:
                    away: Fields = {"server": server, "reason": reason, "suppressed": suppressed}
                    write("WARNING", "still_away", "A server is still away, for another reason than before", away)
            case events.SpansDropped(spans, reason):
                if (suppressed := self._repeats.suppressed(f"spans {reason}")) is not None:
                    unsent: Fields = {"spans": spans, "reason": reason, "suppressed": suppressed}
                    write("WARNING", "spans_dropped", "Spans were not exported; events go out as before", unsent)
            case events.WorkerStarted(worker):
                write("INFO", "worker_started", "A worker was started", {"started": worker})
            case events.WorkerEnded(worker, code, _, again_in_s):
                fields = {"ended": worker, "code": code}
                if again_in_s is None:
                    write("INFO", "worker_ended", "A worker ended", fields)
                else:
                    fields["again_in_s"] = round(again_in_s, 3)
                    write("WARNING", "worker_ended", "A worker ended; another takes its place", fields)
            case events.WorkerStuck(worker, silent_s):
                text = "A worker says nothing any more: its loop is stuck, or it is frozen; it is killed"
                write("ERROR", "worker_stuck", text, {"stuck": worker, "silent_s": round(silent_s, 1)})
            case events.Started(name, enabled):
                text = (
                    "Started"
                    if enabled
                    else "Started; takes no row: DISPATCHER_ENABLED is false; set it to true, or give --enabled"
                )
                write("INFO", "dispatcher_started", text, {"dispatcher": name, "enabled": enabled})
            case events.SidecarUp(host, port, probe_port):
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                text, fields = f"The sidecar listens: http://{address}/", {"host": host, "port": port}
                if probe_port is not None:
                    text += f"; probes also at port {probe_port}"
                    fields["probe_port"] = probe_port
                write("INFO", "sidecar_up", text, fields)
            case events.Stopping(reason):
                write("INFO", "dispatcher_stopping", "Stopping: nothing new is taken", {"reason": reason})
            case events.Stopped(given_back):
                write("INFO", "dispatcher_stopped", "Stopped", {"given_back": given_back})

    def _write_handled(self, event: events.Handled) -> None:
        if self._debug:
            self._write_detail(event)
        if event.handled == "done":
            return
        if (suppressed := self._repeats.suppressed(f"{event.event_type} {event.error}")) is None:
            return
        if event.handled in ("wait", "outage"):  # an outage is told once, for its type
            if event.handled == "wait":
                text = "A handler asked to be called later; the event waits at no cost"
                write("INFO", "handler_waits", text, self._handled_fields(event, suppressed))
            return
        text = {
            "timeout": "A handler did not end in time",
            "lost": "The process of a handler ended, or was taken for dead, while it ran",
        }.get(event.handled, "A handler failed")
        write("WARNING", "handler_failed", text, self._handled_fields(event, suppressed))

    @staticmethod
    def _handled_fields(event: events.Handled, suppressed: int) -> Fields:
        fields: Fields = {"event_type": event.event_type, "id": event.row_id, "error": event.error}
        fields |= {"where": event.where, "duration_s": round(event.duration_s, 6)}
        if suppressed:
            fields["suppressed"] = suppressed
        return fields

    def _write_tick_error(self, error: str, duration_s: float) -> None:
        if (suppressed := self._repeats.suppressed(error)) is None:
            return
        fields: Fields = {"error": error, "duration_s": round(duration_s, 6)}
        if suppressed:
            fields["suppressed"] = suppressed
        write("ERROR", "dispatcher_tick_error", "A turn of the relay's loop failed", fields)

    def _write_pruned(self, event: events.Pruned) -> None:
        """Write what was deleted once there is no more, or once a minute: not each batch."""
        rows, copies, since = self._pruned or (0, 0, self._clock())
        rows, copies = rows + event.outbox, copies + event.dlq
        if rows + copies == 0:
            return
        self._pruned = (rows, copies, since)
        if not event.more or self._clock() - since >= PRUNED_S:
            self._pruned = None
            text = "Deleted what was older than is kept"
            write("INFO", "outbox_pruned", text, {"message_outbox": rows, "message_dlq": copies})

    def _write_change(self, what: str, up: bool, text: str, reason: str | None, level: str) -> None:
        """Write that something went up or down once, not at every attempt to reach it."""
        if up:
            self._down.pop(what, None)
            write("INFO", f"{what}_up", text, {})
        elif what not in self._down or self._down[what] != reason:
            self._down[what] = reason
            write(level, f"{what}_down", text, {"reason": reason})

    def _write_detail(self, event: events.TelemetryEvent) -> None:
        names = [field.name for field in dataclasses.fields(event) if field.name not in ("ages_s", "dispatchers")]
        fields: Fields = {name: getattr(event, name) for name in names}
        write("DEBUG", type(event).__name__.lower(), type(event).__name__, fields)
