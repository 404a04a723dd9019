"""What `batonctl show` prints: one session, what became of its attempts, and why the last that failed did.

What a worker printed is text here, as all that came from elsewhere: no colour, no moved cursor, no endless line.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from daemon.ctl.screen import ESCAPES, LEVELS, clock, console, duration, items, left, put, rate, safe, show_event, word
from daemon.results import Failure, Row, ShowResult
from daemon.results_insight import RunView

TAIL_LINES = 20  # of what was printed last, where there is no traceback in it
LINE_CHARACTERS = 1000
REWRITTEN = re.compile(r"[\r\x08]+")  # what stands before it on its line, as of a progress bar, was written over
OUTCOMES = {"session.finished": "done", "session.cancelled": "cancelled"}


def show_session(answer: ShowResult) -> None:
    """`batonctl show`: the session, its events; at the end, next to the prompt, why it failed."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _facts(answer.session, answer.log_path):
        table.add_row(key, word(value) if key == "state" else Text(safe(value)))
    hidden = ["name", "safe_mode"]
    if answer.spec.get("run"):
        hidden.append("batch_size")
    for key, value in answer.spec.items():
        if value not in (None, [], False) and key not in hidden:
            table.add_row(
                key,
                Text(
                    safe(
                        " ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)
                    )
                ),
            )
    if answer.spec.get("safe_mode") is False:
        table.add_row("safe_mode", "no")
    for run in answer.runs:
        if run.predicted_s is not None:
            table.add_row("predicted", Text(_prediction(run)))
    put(table)
    for line in answer.history:
        show_event(line)
    if answer.failure is not None:
        _show_failure(answer.failure, _outcomes(answer.history))


def _facts(row: Row, log_path: str | None) -> list[tuple[str, str]]:
    facts = [
        ("session", row.name),
        ("state", row.state),
        ("why", row.reason),
        ("lane", f"{row.lane} ({row.lane_state})" if row.lane and row.lane_state else row.lane or ""),
        ("place", str(row.place or "")),
        ("items", items(row.done, row.total) + (f", {row.cursor} of them durable" if row.done else "")),
        ("skipped", f"{row.errors} items, see errors.jsonl in its output" if row.errors else ""),
        ("rate", rate(row.rate_items_s)),
        ("left", left(row.remaining_s, row.remaining_spread_s)),
        ("attempt", f"{row.attempt} of {row.max_attempts}" if row.attempt else ""),
        ("submitted", clock(row.submitted_at)),
        ("started", clock(row.started_at)),
        ("ended", clock(row.ended_at)),
        ("log", log_path or ""),
    ]
    return [(key, value) for key, value in facts if value]


def _prediction(run: RunView) -> str:
    """How long a run was to take, and what became of that."""
    said = f"{duration(run.predicted_s)} from {clock(run.begun_at)} on"
    said += f" ± {duration(run.margin_s)}" if run.margin_s is not None else ""
    if run.run_s is None or run.predicted_s is None:
        return said
    error = run.run_s - run.predicted_s
    much = f"{duration(abs(error))} {'longer' if error > 0 else 'shorter'}"
    return f"{said}; it took {duration(run.run_s)}, {much}" + ("" if run.finished else ", and was not at its end")


# Attempts


def _outcomes(history: tuple[dict[str, Any], ...]) -> dict[int, tuple[str, str]]:
    """When each attempt ended, and how, by its number: from the session's events."""
    found: dict[int, tuple[str, str]] = {}
    running = 1
    for line in history:
        event = line["event"]
        if event == "session.started":
            running = line["attempt"]
        elif event in ("session.retried", "session.failed"):
            found[line["attempt"]] = (line["ts"], f"failed ({line['kind']}): {line['reason']}")
            running = line["attempt"] + 1
        elif event in OUTCOMES:
            found[running] = (line["ts"], OUTCOMES[event])
    return found


def _show_failure(failure: Failure, outcomes: dict[int, tuple[str, str]]) -> None:
    _print("")
    if len(outcomes) > 1:
        for attempt, (ts, outcome) in outcomes.items():
            _print(f"attempt {attempt}  {clock(datetime.fromisoformat(ts))}  {outcome}")
        _print("")
    _, outcome = outcomes.get(failure.attempt, ("", "failed"))  # its event may be out of the history
    _print(f"attempt {failure.attempt} {outcome}", LEVELS["error"])
    if failure.traceback is not None:
        _print("its last traceback:", "dim")
        _print_lines(failure.traceback.split("\n"))
    elif failure.log_tail.strip():
        _print("what it printed last:", "dim")
        _print_lines(failure.log_tail.rstrip().split("\n")[-TAIL_LINES:])
    else:
        _print("it printed nothing", "dim")


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        _print(_as_on_screen(line))


def _as_on_screen(line: str) -> str:
    """What a terminal would show of it in the end, and not more than can be read."""
    shown = REWRITTEN.split(ESCAPES.sub("", line.rstrip("\r")))[-1].expandtabs()
    if len(shown) <= LINE_CHARACTERS:
        return shown
    return f"{shown[:LINE_CHARACTERS]}… ({len(shown) - LINE_CHARACTERS} more characters; --json has them all)"


def _print(text: str, style: str = "default") -> None:
    console().print(Text(safe(text).rstrip(), style=style), soft_wrap=True)
