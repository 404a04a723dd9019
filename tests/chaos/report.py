"""What is said of a run: `chaos.json`, a table, and what of it is a fault of the daemon's. Counts nothing itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chaos.judge import Verdict
from tests.chaos.story import Outcome


def summary(outcome: Outcome, verdict: Verdict) -> dict[str, Any]:
    """All figures, as `chaos.json` has them."""
    left = outcome.descriptors_after - outcome.descriptors_before
    return {
        "seed": outcome.seed,
        "seconds": outcome.seconds,
        "slowness": round(outcome.slowness, 2),
        "faults": dict(outcome.faults.most_common()),
        "faults_without_target": dict(outcome.missed),
        "not_possible": outcome.not_possible,
        "commands": outcome.books.commands,
        "submissions": len(outcome.books.submitted),
        "handovers": outcome.handovers,
        "items": verdict.rows.right,
        "sessions": {state: verdict.sessions[state] for state in ("done", "failed", "cancelled")},
        "lost": verdict.rows.lost,
        "duplicated": verdict.rows.duplicated,
        "foreign": verdict.rows.foreign,
        "misplaced": verdict.rows.misplaced,
        "unsound": verdict.unsound,
        "sessions_ended_twice": verdict.ended_twice,
        "sessions_never_ended": verdict.never_ended,
        "sessions_forgotten": verdict.forgotten,
        "sessions_refused_and_run": verdict.refused_and_run,
        "cancelled_unasked": verdict.cancelled_unasked,
        "failed_unexpectedly": verdict.failed_unexpectedly,
        "orphans": outcome.orphans,
        "descriptors_left": sum(left.values()),
        "descriptors": {
            "at_start": sum(outcome.descriptors_before.values()),
            "at_end": sum(outcome.descriptors_after.values()),
            "left": dict(left),
        },
        "rss": outcome.rss,
        "alarms": dict(verdict.alarms),
        "unlike_schema": dict(verdict.unlike_schema),
        "tracebacks": verdict.tracebacks,
        "daemon_restarts": outcome.daemon_restarts,
        "daemon_ended_by_itself": outcome.ended_by_itself,
        "daemon_refused_to_start": outcome.refused_to_start,
        "adoptions": outcome.adoptions,
        "drained": outcome.drained,
        "drain_seconds": round(outcome.drain_seconds, 1),
        "exit_status": outcome.exit_status,
    }


def faults(outcome: Outcome, verdict: Verdict) -> Iterator[str]:
    """What the daemon did wrong, a line each; nothing, where it kept its word."""
    rows = verdict.rows
    if rows.lost or rows.duplicated or rows.foreign or rows.misplaced:
        yield f"{rows.lost} rows lost, {rows.duplicated} doubled, {rows.foreign} foreign, {rows.misplaced} misplaced"
    yield from (f"rows of {name}: {why}" for name, why in verdict.unsound.items())
    yield from (f"ended twice: {what}" for what in verdict.ended_twice)
    yield from (f"never ended: {what}" for what in verdict.never_ended)
    yield from (f"accepted, and forgotten: {name}" for name in verdict.forgotten)
    yield from (f"refused, and queued all the same: {name}" for name in verdict.refused_and_run)
    yield from (f"cancelled, and nobody had asked: {name}" for name in verdict.cancelled_unasked)
    yield from (f"failed, with attempts left: {name}: {why}" for name, why in verdict.failed_unexpectedly.items())
    yield from (f"still there at the end: {process}" for process in outcome.orphans)
    yield from (f"the daemon ended by itself: {story}" for story in outcome.ended_by_itself)
    if verdict.tracebacks:
        yield f"{verdict.tracebacks} tracebacks in the daemon's standard error"
    yield from (f"{count} times in the log: {alarm}" for alarm, count in verdict.alarms.items())
    yield from (
        f"{count} lines of the log are not as its schema says: {what}" for what, count in verdict.unlike_schema.items()
    )
    left = outcome.descriptors_after - outcome.descriptors_before
    yield from (f"{count} more descriptors open than at the start: {what}" for what, count in left.items())
    if not outcome.drained:
        yield f"not drained after {outcome.drain_seconds:.0f} s without faults"
    if outcome.exit_status != 0:
        yield f"SIGTERM at the end: exit status {outcome.exit_status}, not 0"


def write(figures: dict[str, Any], path: Path) -> None:
    """As a file."""
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def table(figures: dict[str, Any]) -> str:
    """For a person."""
    lines = ["faults"]
    lines += [f"  {count:>5}  {kind}" for kind, count in figures["faults"].items()]
    lines += [f"      -  {kind} (not possible here: {why})" for kind, why in figures["not_possible"].items()]
    shown = {
        "sessions": ", ".join(f"{count} {how}" for how, count in figures["sessions"].items()),
        "items verified": figures["items"],
        "handovers": figures["handovers"],
        "daemon restarted": f"{figures['daemon_restarts']} times, {figures['adoptions']} workers adopted",
        "rows lost / doubled": f"{figures['lost']} / {figures['duplicated']}",
        "sessions ended twice": len(figures["sessions_ended_twice"]),
        "processes left": len(figures["orphans"]),
        "descriptors left": figures["descriptors_left"],
        "memory of the daemon": " → ".join(
            f"{figures['rss'].get(when, 0) / 2**20:.0f} MiB" for when in ("at_start", "at_end")
        ),
        "drained in": f"{figures['drain_seconds']} s",
    }
    return "\n".join([*lines, *(f"{name:<21} {value}" for name, value in shown.items())])
