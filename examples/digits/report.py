"""What a run of the demo amounts to: the daemon's log and the verdicts, judged, as a table and as summary.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MOST_GAP_S = 0.05  # between one session's last item and the next one's first


@dataclass(frozen=True)
class SessionResult:
    """One session: what the daemon said of it, and what its output holds."""

    name: str
    items: int  # in the input
    seconds: float | None  # None: it did not finish
    accuracy: float
    mismatches: int


@dataclass(frozen=True)
class Handover:
    """One handover.completed line of the log."""

    from_session: str
    to_session: str
    gap_s: float
    lead_s: float | None
    tier: str
    items_in: int
    items_done: int
    items_returned: int


@dataclass
class Report:
    """The results, and everything that is not as it should be."""

    sessions: list[SessionResult] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The daemon's log, one object a line."""
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
    return lines


def handovers(log: list[dict[str, Any]]) -> list[Handover]:
    """The handovers, in the order in which they were made."""
    return [_handover(line) for line in log if line["event"] == "handover.completed"]


def _handover(line: dict[str, Any]) -> Handover:
    try:
        return Handover(
            from_session=line["from_session"],
            to_session=line["session"],
            gap_s=line["gap_s"],
            lead_s=line["lead_s"],
            tier=line["tier"],
            items_in=line["items_in"],
            items_done=line["items_done"],
            items_returned=line["items_returned"],
        )
    except KeyError as error:
        raise ValueError(f"a handover.completed line of the log has no {error}") from error


def finished_seconds(log: list[dict[str, Any]]) -> dict[str, float]:
    """How long each finished session took, by its name."""
    return {line["session"]: line["seconds"] for line in log if line["event"] == "session.finished"}


def handover_faults(made: list[Handover], sessions: int) -> list[str]:
    """What is wrong with the handovers of so many sessions."""
    faults = []
    if len(made) < sessions - 1:
        faults.append(f"{len(made)} handovers were logged, {sessions - 1} expected")
    for handover in made:
        pair = f"{handover.from_session} → {handover.to_session}"
        if handover.tier != "warm":
            faults.append(f"{pair}: the standby was {handover.tier}, not warm")
        if handover.gap_s >= MOST_GAP_S:
            faults.append(f"{pair}: the gap was {handover.gap_s:.3f} s, {MOST_GAP_S} s at most expected")
        if handover.items_in != handover.items_done + handover.items_returned:
            faults.append(
                f"{pair}: {handover.items_in} items in, "
                f"but {handover.items_done} done and {handover.items_returned} returned"
            )
    return faults


def session_faults(result: SessionResult, log: list[dict[str, Any]]) -> list[str]:
    """What is wrong with one session."""
    faults = []
    if result.seconds is None:
        reasons = [
            str(line.get("reason"))
            for line in log
            if line["event"] == "session.failed" and line["session"] == result.name
        ]
        faults.append(f"{result.name}: not finished ({'; '.join(reasons) or 'no reason in the log'})")
    said = [line["items"] for line in log if line["event"] == "session.finished" and line["session"] == result.name]
    faults += [
        f"{result.name}: {items} items finished, {result.items} in the input" for items in said if items != result.items
    ]
    if result.mismatches:
        faults.append(f"{result.name}: {result.mismatches} mismatches")
    return faults


def judge(items: dict[str, int], log: list[dict[str, Any]], verdicts: dict[str, dict[str, Any]]) -> Report:
    """Bring together what was prepared, what the daemon said, and what was found in the outputs."""
    report = Report(handovers=handovers(log))
    seconds = finished_seconds(log)
    for name, count in items.items():
        verdict = verdicts[name]
        result = SessionResult(name, count, seconds.get(name), verdict["accuracy"], verdict["mismatches"])
        report.sessions.append(result)
        report.faults += session_faults(result, log)
        if verdict["fault"]:
            report.faults.append(f"{name}: {verdict['fault']}")
    report.faults += handover_faults(report.handovers, len(items))
    return report


def write_summary(report: Report, path: Path) -> None:
    """Write summary.json."""
    summary = {
        "sessions": [vars(result) for result in report.sessions],
        "items": sum(result.items for result in report.sessions),
        "mismatches": sum(result.mismatches for result in report.sessions),
        "handovers": [
            {
                "from": handover.from_session,
                "to": handover.to_session,
                "gap_s": handover.gap_s,
                "tier": handover.tier,
                "lead_s": handover.lead_s,
            }
            for handover in report.handovers
        ],
        "faults": report.faults,
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def show(report: Report, console: Console) -> None:
    """Print the tables, and each fault on a line."""
    sessions = Table(title="sessions", title_justify="left")
    for heading in ("session", "items", "seconds", "accuracy", "mismatches"):
        sessions.add_column(heading, justify="left" if heading == "session" else "right")
    for result in report.sessions:
        took = "not finished" if result.seconds is None else f"{result.seconds:.1f}"
        sessions.add_row(result.name, f"{result.items:,}", took, f"{result.accuracy:.1%}", f"{result.mismatches:,}")
    console.print(sessions)
    made = Table(title="handovers", title_justify="left")
    for heading in ("from", "to", "gap", "lead", "standby"):
        made.add_column(heading, justify="right" if heading in ("gap", "lead") else "left")
    for handover in report.handovers:
        lead = "" if handover.lead_s is None else f"{handover.lead_s:.1f} s"
        made.add_row(handover.from_session, handover.to_session, f"{handover.gap_s * 1000:.1f} ms", lead, handover.tier)
    console.print(made)
    for fault in report.faults:
        console.print(f"[red]fault:[/red] {fault}", highlight=False)
