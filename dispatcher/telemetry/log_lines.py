"""The line of the log for each telemetry event: level, name, text and fields. `logs.py` decides which are written.

`name` is what the runbook greps for. No line holds a payload or a password.
"""

from collections.abc import Sequence
from typing import NamedTuple

from dispatcher.core import events
from dispatcher.telemetry.loguru_setup import Fields


class Line(NamedTuple):
    """`text` is for people. `same_as`: lines with the same one are written at most every few seconds."""

    level: str
    name: str
    text: str
    fields: Fields
    same_as: str | None = None


def line_of(event: events.TelemetryEvent) -> Line | None:
    """None: the event has no line, or only one of details, at DEBUG."""
    match event:
        case (
            events.Woke() | events.Slept() | events.InHand() | events.Claimed() | events.Published() | events.Sampled()
            | events.Ticked("ok") | events.Settled(lost=0) | events.LayoutChanged(None, first=True)
        ):  # fmt: skip
            return None
        case events.Settled(lost=lost):
            text = "Claims were lost: another dispatcher had taken these rows when they were to be settled"
            return Line("WARNING", "claims_lost", text, {"rows": lost})
        case events.Ticked(_, duration_s, error):
            fields: Fields = {"error": error or "unknown", "duration_s": round(duration_s, 6)}
            return Line(
                "ERROR", "dispatcher_tick_error", "A turn of the relay's loop failed", fields, error or "unknown"
            )
        case events.Handled():
            return _handled(event)
        case events.HandlerOutage(event_type, None):
            text = "Events of this type are handled again"
            return Line("INFO", "handler_outage_over", text, {"event_type": event_type})
        case events.HandlerOutage(event_type, error):
            text = "A server that a handler needs is away; events of this type wait, at no cost"
            return Line("WARNING", "handler_outage", text, {"event_type": event_type, "error": error})
        case events.StuckHandlers(True, stuck, _):
            text = "Every place is taken by a handler that does not end; restart the process to free them"
            return Line("ERROR", "handlers_stuck", text, {"stuck": stuck})
        case events.StuckHandlers():
            return Line("INFO", "handlers_free", "A stuck handler ended; events are handed out again", {})
        case events.Buried(rows):
            ids, errors = [row_id for row_id, _ in rows], sorted({error for _, error in rows})
            fields = {"rows": len(rows), "ids": ids, "errors": errors}
            text = "Rows are dead: their attempts are used up, or they can never be sent as things are"
            return Line("ERROR", "outbox_rows_buried_after_max_attempts", text, fields)
        case events.ClosedConnection(row, size, server):
            text = "Redis, or a proxy before it, closes the connection on this row; it waits for its next attempt"
            if server:
                text = "Redis itself ends each time that this row is sent; it waits for its next attempt"
            return Line("WARNING", "row_closes_connection", text, {"id": row, "bytes": size, "redis_ended": server})
        case events.DeadDiscarded(ids, by, reason):
            text = "Dead events were discarded: nobody needs them"
            return Line("INFO", "dead_events_discarded", text, _decision(ids, by) | {"reason": reason})
        case events.HeldSkipped(ids, by, reason):
            text = "Events were skipped: the later ones of their aggregates go out without them"
            return Line("INFO", "held_events_skipped", text, _decision(ids, by) | {"reason": reason})
        case events.RetriedNow(ids, by):
            text = "Events that failed, or hold their aggregates, were made due at once"
            return Line("INFO", "events_retried_now", text, _decision(ids, by))
        case events.DeadRetried(ids, by):
            return Line("INFO", "dead_events_retried", "Dead events were put back to be published", _decision(ids, by))
        case events.TakenOver(taken, owner):
            text = "Rows of a dead or overdue claim were taken over"
            if not taken:
                text = "A dispatcher ended without signing off; it had no rows"
            return Line("WARNING", "claims_taken_over", text, {"rows": taken, "owner": owner})
        case events.Reconciled(found, missing):
            text = "Rows whose reply was lost, or that were taken over, were looked for in the stream"
            return Line("INFO", "replies_reconciled", text, {"found": found, "missing": missing})
        case events.Pruned(outbox, dlq):
            fields = {"message_outbox": outbox, "message_dlq": dlq}
            return Line("INFO", "outbox_pruned", "Deleted what was older than is kept", fields)
        case events.PruneRefused(reason):
            return Line("WARNING", "prune_refused", "Postgres refused to delete what is too old", {"reason": reason})
        case events.Republished(lost, why, True):
            text = "Entries are gone from the stream though Redis ran on; their rows are published again"
            return Line("WARNING", "stream_audited", text, {"rows": lost, "why": why})
        case events.Republished(0, why):
            return Line(
                "INFO", "stream_audited", "Another incarnation of Redis holds the stream; it lost none", {"why": why}
            )
        case events.Republished(lost, why):
            text = "Another incarnation of Redis holds the stream; rows whose entries it lost are published again"
            return Line("WARNING", "stream_audited", text, {"rows": lost, "why": why})
        case events.CrashAudited(found, looked_at):
            text = "Postgres crashed, failed over or was restored; rows found in the stream are sent, claiming goes on"
            return Line("WARNING", "postgres_crash_audited", text, {"found": found, "looked_at": looked_at})
        case events.AuditChanged(True):
            return Line("INFO", "stream_audit_on", "Entries that Redis loses will be published again", {})
        case events.AuditChanged(_, reason):
            return Line(
                "WARNING", "stream_audit_off", "Entries that Redis loses will not be noticed", {"reason": reason}
            )
        case events.LayoutChanged(None):
            return Line("INFO", "layout_agrees", "The layout of the streams is ours; claiming goes on", {})
        case events.LayoutChanged(reason):
            text = "The streams that events go to are others than in our settings; nothing is claimed for them"
            return Line("ERROR", "layout_differs", text, {"reason": reason})
        case events.SlotsChanged(owned, ranges, gained, released, revoked):
            fields = {"owned": owned, "ranges": ranges, "gained": gained, "released": released, "revoked": revoked}
            if revoked:
                text = "Slots were taken from this dispatcher: another one took it for dead or frozen"
                return Line("WARNING", "slots_lost", text, fields)
            return Line("INFO", "slots_changed", "This dispatcher owns other slots than before", fields)
        case events.SlotsWithoutOwner(0):
            return Line("INFO", "slots_owned_again", "All slots have an owner", {})
        case events.SlotsWithoutOwner(slots):
            text = "Nobody owns some of the slots, so their events wait; the others go on"
            return Line("ERROR", "slots_without_owner", text, {"slots": slots})
        case events.SlotsRevoked(slots, owner):
            text = "The slots of a dead or frozen dispatcher were revoked; others own them once it is fenced"
            return Line("WARNING", "slots_revoked", text, {"slots": slots, "owner": owner})
        case events.SlotsFreed(slots):
            text = "Slots that were revoked may be owned again: nothing of them is in hand"
            return Line("INFO", "slots_freed", text, {"slots": slots})
        case events.BackpressureChanged(on, group, unread):
            fields = {"group": group, "unread": unread}
            if on:
                text = "Claiming waits: a consumer group is about to lose what it has not read to MAXLEN"
                return Line("WARNING", "backpressure_on", text, fields)
            return Line("INFO", "backpressure_off", "Claiming goes on: the slowest consumer group moved", fields)
        case events.BackpressureBlind(None):
            return Line("INFO", "backpressure_sees", "What each consumer group has to read can be told", {})
        case events.BackpressureBlind(reason):
            text = "MAXLEN may trim what a consumer group has not read: how much that is cannot be told"
            return Line("WARNING", "backpressure_blind", text, {"reason": reason})
        case events.PauseChanged(paused, by, reason):
            fields = {"by": by, "reason": reason}
            if paused:
                text = "Paused, like all dispatchers: nothing is taken until `dispatcher resume`"
                return Line("WARNING", "dispatcher_paused", text, fields)
            return Line("INFO", "dispatcher_resumed", "Resumed: rows are taken again", fields)
        case events.BreakerChanged("open", reason):
            return Line("WARNING", "breaker_opened", "Redis takes no entries; claiming pauses", {"reason": reason})
        case events.BreakerChanged():
            return Line("INFO", "breaker_closed", "Redis takes entries again", {})
        case events.ShardsChanged(_, None):
            return Line("INFO", "shards_back", "All shards take entries again", {})
        case events.ShardsChanged(shards, first):
            text, fields = "Some shards take no entries; the others go on", {"shards": shards, "first": first}
            return Line("WARNING", "shards_away", text, fields, "shards")
        case events.ListenerChanged(True):
            return Line("INFO", "listener_up", "Writers can wake the dispatcher", {})
        case events.ListenerChanged(_, reason):
            text = "Writers cannot wake the dispatcher; it polls on its tick"
            return Line("WARNING", "listener_down", text, {"reason": reason})
        case events.SessionMissing(session, None):
            return Line("INFO", "session_back", "A session to Postgres that was missing is open", {"session": session})
        case events.SessionMissing(session, reason, without):
            text = "Postgres has no connection left for a session; the rest of the dispatcher works"
            fields = {"session": session, "without": without, "reason": reason}
            return Line("WARNING", "session_missing", text, fields)
        case events.StatementRefused(statement, _, None):
            return Line("INFO", "statement_allowed", "Postgres does again what it refused", {"what": statement})
        case events.StatementRefused(statement, _, error):
            text = "Postgres refuses a statement again and again; it is tried on, and nothing is published twice"
            return Line("ERROR", "statement_refused", text, {"what": statement, "error": error})
        case events.NotificationQueueChanged(filling, usage):
            fields = {"usage": round(usage, 3)}
            if filling:
                text = "The notification queue fills up: no writer is asked to ring, the dispatcher looks on its tick"
                return Line("WARNING", "notification_queue_filling", text, fields)
            text = "The notification queue is calm again: writers wake the dispatcher"
            return Line("INFO", "notification_queue_calm", text, fields)
        case events.DatabaseChanged(True):
            return Line("INFO", "database_up", "Postgres is connected", {})
        case events.DatabaseChanged(_, reason):
            text = "Postgres is not connected; connecting again"
            return Line("ERROR", "database_down", text, {"reason": reason})
        case events.StillAway(server_name, reason):
            text, fields = (
                "A server is still away, for another reason than before",
                {"server": server_name, "reason": reason},
            )
            return Line("WARNING", "still_away", text, fields, f"{server_name} {reason}")
        case events.SpansDropped(spans, reason):
            text, fields = "Spans were not exported; events go out as before", {"spans": spans, "reason": reason}
            return Line("WARNING", "spans_dropped", text, fields, f"spans {reason}")
        case events.WorkerStarted(worker):
            return Line("INFO", "worker_started", "A worker was started", {"started": worker})
        case events.WorkerEnded(worker, code, _, None):
            return Line("INFO", "worker_ended", "A worker ended", {"ended": worker, "code": code})
        case events.WorkerEnded(worker, code, _, float(again_in_s)):
            fields = {"ended": worker, "code": code, "again_in_s": round(again_in_s, 3)}
            return Line("WARNING", "worker_ended", "A worker ended; another takes its place", fields)
        case events.WorkerStuck(worker, silent_s):
            text = "A worker says nothing any more: its loop is stuck, or it is frozen; it is killed"
            return Line("ERROR", "worker_stuck", text, {"stuck": worker, "silent_s": round(silent_s, 1)})
        case events.Started(name, enabled, _, handlers):
            text, fields = "Started", {"dispatcher": name, "enabled": enabled}
            if not enabled:
                text += "; takes no row: DISPATCHER_ENABLED is false; set it to true, or give --enabled"
            if handlers:
                fields["handlers"] = list(handlers)
            return Line("INFO", "dispatcher_started", text, fields)
        case events.SidecarUp(host, port, probe_port):
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            text, fields = f"The sidecar listens: http://{address}/", {"host": host, "port": port}
            if probe_port is not None:
                text += f"; probes also at port {probe_port}"
                fields["probe_port"] = probe_port
            return Line("INFO", "sidecar_up", text, fields)
        case events.Stopping(reason):
            return Line("INFO", "dispatcher_stopping", "Stopping: nothing new is taken", {"reason": reason})
        case events.Stopped(released):
            return Line("INFO", "dispatcher_stopped", "Stopped", {"given_back": released})
    return None


def _handled(event: events.Handled) -> Line | None:
    if event.handled in ("done", "outage"):  # an outage is told once, for its type
        return None
    level, name, text = "WARNING", "handler_failed", "A handler failed"
    match event.handled:
        case "wait":
            level, name = "INFO", "handler_waits"
            text = "A handler asked to be called later; the event waits at no cost"
        case "timeout":
            text = "A handler did not end in time"
        case "lost":
            text = "The process of a handler ended, or was taken for dead, while it ran"
    fields: Fields = {"event_type": event.event_type, "id": event.row_id, "error": event.error}
    fields |= {"where": event.where, "duration_s": round(event.duration_s, 6)}
    return Line(level, name, text, fields, f"{event.event_type} {event.error}")


def _decision(ids: Sequence[int], by: str) -> Fields:
    return {"rows": len(ids), "ids": list(ids), "by": by}
