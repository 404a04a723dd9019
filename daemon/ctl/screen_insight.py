"""What `why`, `plan` and `explain` print. Shows what the socket said; works nothing out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from daemon.ctl.screen import ROOMY_WIDTH, clock, console, duration, put, safe, word
from daemon.results_insight import (
    Because,
    ExplainResult,
    Handover,
    PlanMoment,
    PlanRun,
    PlanScore,
    PlanView,
    WhyResult,
)

BOUNDS = {"about": "", "earliest": "≥ ", "latest": "≤ "}
NEXT_TIME = timedelta(hours=20)
LEAST_MARGIN_S = 0.05  # a narrower one is shown as none
NOWHERE = "the first lane that is free"


def brief(seconds: float | None) -> str:
    """A length that may be very short: 1.6 ms, 0.42 s, then as any other."""
    if seconds is None:
        return "unknown"
    if abs(seconds) < 0.1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if abs(seconds) < 10 else duration(seconds)


def _table(*headings: str, title: bool = True) -> Table:
    """A table without lines; a column named `>x` is flush right, the last one folds."""
    table = Table(box=None, show_header=title, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        last = place == len(headings) - 1
        table.add_column(
            heading.lstrip(">"),
            justify="right" if heading.startswith(">") else "left",
            no_wrap=not last,
            overflow="fold",
        )
    return table


# Why


def show_why(answer: WhyResult) -> None:
    """`batonctl why`."""
    for place, each in enumerate(answer.answers):
        if place:
            put("")
        _show_because(each)


def _show_because(because: Because) -> None:
    head = Text.assemble((safe(because.name), "bold"), "  ", word(because.state))
    if because.since is not None:
        head.append(f"  since {clock(because.since)}", style="dim")
    if because.until is not None:
        head.append(f"  until {clock(because.until)}", style="dim")
    put(head, Padding(Text(safe(because.reason)), (0, 0, 0, 2)))
    for line in because.details:
        put(Padding(Text(safe(line), style="dim"), (0, 0, 0, 2)))


# Plan


def show_plan(answer: PlanView) -> None:
    """`batonctl plan`, and what a dry run adds to it."""
    put(Text(_head(answer), style="dim"))
    if any(run.submitted for run in answer.runs) or any(each.submitted for each in answer.waiting):
        put(Text("+ is of this file, and not queued", style="cyan"))
    for lane in dict.fromkeys(run.lane for run in answer.runs):
        put("", Text(safe(lane) if lane is not None else f"on {NOWHERE}, in this order", style="bold"))
        put(Padding(_runs([run for run in answer.runs if run.lane == lane], answer.now), (0, 0, 0, 2)))
    unknown = list(_unknown(answer.runs))
    if unknown:
        put("", *(Text(safe(line), style="dim") for line in unknown))
    if answer.waiting:
        put("", Text("beginning nowhere, as things stand", style="bold"))
        table = _table("session", "reason", title=False)
        for waiting in answer.waiting:
            table.add_row(_name(waiting.session, submitted=waiting.submitted), Text(safe(waiting.reason)))
        put(Padding(table, (0, 0, 0, 2)))
    if answer.more:
        put("", Text(_more(answer), style="dim"))


def _head(answer: PlanView) -> str:
    known = _count(answer.queued, "session queued", "sessions queued")
    return f"as of {clock(answer.now)}: {known}, {answer.planned} planned; {_score(answer.score)}"


def _count(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _score(score: PlanScore) -> str:
    if not score.judged:
        return "no prediction was held against a run yet"
    their = "its" if score.judged == 1 else "their"
    return f"{score.within} of the last {_count(score.judged, 'session', 'sessions')} ended within {their} margin"


def _more(answer: PlanView) -> str:
    shown = answer.skipped + len(answer.runs)
    if answer.hurried:
        return f"the first {shown}; the rest was not planned, for it took too long"
    return f"the first {shown}; more with --skip {shown}"


def _name(name: str, *, submitted: bool) -> Text:
    return Text.assemble(("+ ", "cyan"), safe(name)) if submitted else Text(safe(name))


def _runs(runs: list[PlanRun], now: datetime) -> Table:
    """A row each; on a narrow screen the margin stands at the end only, which is known no better than the beginning."""
    roomy = console().width >= ROOMY_WIDTH
    table = _table("session", "prepared", "begins", "ends", "tier", "gap")
    for run in runs:
        table.add_row(
            _name(run.session, submitted=run.submitted),
            Text("" if run.running else _time(run.prepare_at, now), style="dim"),
            Text("running", style="green") if run.running else _moment(run.start, now, margin=roomy),
            _moment(run.end, now, margin=True),
            Text(safe(run.tier or ""), style="dim"),
            Text(brief(run.gap_s) if run.swap_at is not None and not run.running else "", style="dim"),
        )
    return table


def _time(moment: datetime | None, now: datetime) -> str:
    """In the reader's zone; without its day, where that can only be the next one to come."""
    if moment is None:
        return "unknown"
    here = moment.astimezone()
    return here.strftime("%H:%M:%S" if abs(moment - now) < NEXT_TIME else "%Y-%m-%d %H:%M")


def _moment(moment: PlanMoment, now: datetime, *, margin: bool) -> Text:
    if moment.at is None or moment.bound == "unknown":
        return Text("unknown", style="yellow")
    known = margin and moment.margin_s is not None and moment.margin_s >= LEAST_MARGIN_S
    return Text(f"{BOUNDS[moment.bound]}{_time(moment.at, now)}" + (f" ± {duration(moment.margin_s)}" if known else ""))


def _unknown(runs: tuple[PlanRun, ...]) -> Iterator[str]:
    for run in runs:
        if run.unknown:
            yield f"{run.session}: unknown is {', and '.join(run.unknown)}"


# Handovers


def show_handovers(answer: ExplainResult) -> None:
    """`batonctl explain`: each in full."""
    if not answer.handovers:
        put(Text("there was no handover yet", style="dim"))
    for handover in answer.handovers:
        _show_handover(handover)


def _show_handover(handover: Handover) -> None:
    head = Text.assemble(
        (f"handover {handover.seq}", "bold"),
        (f"  {clock(handover.ts)}  {safe(handover.lane)}  ", "dim"),
        f"{safe(handover.from_session)} → {safe(handover.session)}",
    )
    put(head)
    table = _table("", ">", "", title=False)
    for key, value, remark in _figures(handover):
        table.add_row(Text(key, style="dim"), Text(value), Text(safe(remark), style="dim"))
    put(Padding(table, (0, 0, 0, 2)), *(Padding(Text(safe(line)), (0, 0, 0, 2)) for line in handover.because))


def _figures(handover: Handover) -> Iterator[tuple[str, str, str]]:
    old, new = handover.from_session, handover.session
    yield "gap", brief(handover.gap_s), f"{old}'s last item to {new}'s first; prepared: {handover.tier}"
    yield "  told", brief(handover.told_s), "until its last item was known here"
    yield "  waited", brief(handover.waited_s), "until the next was told to go"
    if handover.device_waited_s >= 0.0005:
        yield "    for it", brief(handover.device_waited_s), "of that, to be prepared"
    if handover.memory_waited_s:
        yield "    memory", brief(handover.memory_waited_s), "of that, for memory"
    yield "  recorded", brief(handover.recorded_s), "to write that down"
    yield "  begun", brief(handover.begun_s), "until its first item"
    side = "before" if handover.lead_s >= 0 else "after"
    yield "lead", brief(abs(handover.lead_s)), f"its preparation began so long {side} the end"
    yield "idle", brief(handover.idle_standby_s), "it was ready so long before the end"
    if handover.draining_s:
        yield "drained", brief(handover.draining_s), f"from {old}'s last batch, or the order to stop, to its end"


def show_worst(answer: ExplainResult) -> None:
    """`batonctl explain --worst`: a row each."""
    if not answer.handovers:
        put(Text("there was no handover yet", style="dim"))
        return
    table = _table(">#", "when", "lane", "tier", ">gap", ">late", ">memory", "from → to")
    for each in answer.handovers:
        table.add_row(
            Text(str(each.seq), style="dim"),
            Text(clock(each.ts), style="dim"),
            Text(safe(each.lane)),
            Text(safe(each.tier)),
            Text(brief(each.gap_s), style="bold"),
            Text(brief(each.device_waited_s) if each.device_waited_s >= 0.0005 else ""),
            Text(brief(each.memory_waited_s) if each.memory_waited_s else ""),
            Text(f"{safe(each.from_session)} → {safe(each.session)}"),
        )
    put(table)
