"""The tables of docs/performance.md, from bench/out/results.json. Measures nothing, and rounds only what it prints.

`python -m bench.document` writes them anew between its marks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import OUT, ROOT, Figures, kept

PAGE: Final = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin (make bench) -->", "<!-- figures: end -->"
FOR_P95, FOR_P99 = 20, 100  # so many at the least: of fewer, that quantile is the worst of them

Row = tuple[str, ...]  # as its table's columns


def write(results: Figures, page: Path = PAGE) -> None:
    """Replace what is between the marks."""
    try:
        text = page.read_text()
    except OSError as error:
        sys.exit(f"bench: cannot read {page}: {error.strerror}; the figures are kept: python -m bench.document")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"bench: {page} has lost its marks {BEGIN} and {END}")
    text = before + BEGIN + "\n\n" + tables(results) + "\n" + END + after
    try:
        page.write_text(text)
    except OSError as error:
        sys.exit(f"bench: cannot write {page}: {error.strerror}; the figures are kept: python -m bench.document")


def tables(results: Figures) -> str:
    """One a part; parts that were not measured are named."""
    lines: list[str] = []
    for name, part in PARTS.items():
        lines += [f"### {part.title}", "", *table(name, part, results.get(name)), ""]
    return "\n".join(lines).rstrip() + "\n"


def table(name: str, part: Part, measured: Figures | None) -> list[str]:
    """One part's lines, and where it was measured."""
    again = f".venv/bin/python -m bench {name}"
    if measured is None or measured["small"]:
        return [f"Not measured yet: `{again}`."]
    try:
        rows = list(part.rows_of(measured["figures"]))
    except KeyError as missing:  # of a run before this version of the part
        return [f"Not measured yet with {missing}: `{again}`."]
    where = measured["host"]
    return [
        *(f"| {' | '.join(cells)} |" for cells in (part.columns, ("---",) * len(part.columns), *rows)),
        "",
        f"`{again}`, {measured['at'][:10]}, {lasted(measured['took_s'])} on {where['cores']} cores "
        f"({where['processor']}, load {where['load_average']} before), Linux {where['kernel']}, "
        f"Python {where['python']}.",
    ]


def lasted(seconds: float) -> str:
    """How long a part took."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def ms(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 0:
        return f"−{ms(-seconds)}"
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.001 else f"{seconds * 1e6:.0f} µs"


def wide(each: Figures | None) -> str:
    """A spread of seconds: its median and how far it goes, as far as so many samples can tell."""
    if each is None:
        return "none was ready"
    count = each["n"]
    if count == 1:
        return ms(each["median"])
    told = [f"p95 {ms(each['p95'])}"] if count >= FOR_P95 else []
    told.append(f"p99 {ms(each['p99'])}" if count >= FOR_P99 else f"most {ms(each['max'])}")
    return f"{ms(each['median'])} ({', '.join(told)}, n = {count:,})"


def used(each: Figures) -> str:
    """What a process takes that is left alone."""
    return f"{each['core_percent']:.2f} % of a core, {each['rss_mb']} MB"


NAMES: Final = {
    "batond": "batond",
    "scripts": "`python a.py && python b.py`",
    "spooler": "task-spooler",
    "one_process": "one process, loads after",
    "thread": "one process, loads in a thread",
}
MISSING: Final = "not to be had here"


def gap(figures: Figures) -> Iterator[Row]:
    """Between sessions."""
    yield "gap, batond", wide(figures["gap_s"]["batond"]), "≤ 2 ms median, ≤ 10 ms p99"
    yield "the same, where the standby was ready", wide(figures["gap_where_ready_s"]), ""
    yield "ready in time", f"{figures['ready_in_time']} of {figures['handovers']}", "99 of 100"
    yield "idle standby, where it was ready", wide(figures["idle_standby_s"]), ""
    for name in ("scripts", "spooler", "one_process"):
        came = MISSING
        if name in figures["gap_s"]:
            came = f"{wide(figures['gap_s'][name])}; {figures['times_smaller_than'][name]:,g} times batond's"
        yield f"gap, {NAMES[name]}", came, "≥ 1,000 times" if name == "scripts" else ""
    yield f"gap, {NAMES['thread']}", wide(figures["gap_s"]["thread"]), ""
    later = figures["later_than_thread_s"]
    came = f"{ms(abs(later))} {'later' if later >= 0 else 'sooner'}"
    yield "batond's median, beside the thread's", came, "within 2 ms"
    late = f"{figures['thread_late']} of {figures['thread_handovers']}"
    yield "the thread had not loaded at the session's end", late, ""


def smallgap(figures: Figures) -> Iterator[Row]:
    """Between sessions that last longer than a lead: their preparations' beginning was a choice."""
    yield from gap(figures)
    early = figures["more_than_two_leads_early"]
    yield "ready more than two leads early", f"{early} of {figures['handovers']}", "none"


def cost(figures: Figures) -> Iterator[Row]:
    """To the running session."""
    for name in ("batond", "thread"):
        each, goal = figures[name], "≥ 0.90" if name == "batond" else ""
        if not each["preparations"]:
            yield f"pace while the next is prepared, {NAMES[name]}", "none could be told", goal
            continue
        yield f"pace while the next is prepared, {NAMES[name]}", slowed(each["pace_of_alone"]), goal
        yield f"work lost a preparation, {NAMES[name]}", wide(each["lost_s"]), ""
        yield f"a preparation takes, {NAMES[name]}", wide(each["preparing_s"]), ""
    yield "late, batond", f"{figures['late']} of {figures['handovers']}", "none"
    yield "idle standby", wide(figures["idle_standby_s"]), ""


def slowed(pace: Figures) -> str:
    """A spread of paces, as shares of the pace alone: here the lowest are the worst."""
    if pace["n"] == 1:
        return f"{pace['median']:.2f} of alone"
    worst = "least" if pace["n"] <= FOR_P95 else "p05"
    return f"{pace['median']:.2f} of alone ({worst} {pace['p05']:.2f}, n = {pace['n']:,})"


def makespan(figures: Figures) -> Iterator[Row]:
    """Whole queues."""
    for queue, each in figures.items():
        ours, alone = each["seconds"]["batond"], each["computing_s"]
        least, most = each["computing_each_s"]["least"], each["computing_each_s"]["most"]
        yield f"{each['sessions']} {queue} sessions, batond", wide(ours), ""
        for name in ("scripts", "spooler", "one_process"):
            came = MISSING
            if name in each["seconds"]:
                came = f"{wide(each['seconds'][name])}; {each['times_as_long_as_batond'][name]:.2f} times batond's"
            yield f"the same {queue} ones, {NAMES[name]}", came, "≥ 1.00" if name == "one_process" else "≥ 1.25"
        share = f"{100 * alone['median'] / ours['median']:.0f} % of batond's time"
        came = f"{wide(alone)}; {share}; each session {ms(least)} to {ms(most)}"
        yield f"the same {queue} ones, computing alone", came, ""


def worker(figures: Figures) -> Iterator[Row]:
    """Items a second."""
    for name, each in figures["cases"].items():
        speeds = (f"{each[f'{which}_items_per_s']:,}" for which in ("bare", "worker"))
        yield name, *speeds, f"{each['ratio_items']:.2f}", "≥ 0.95", f"{each['ratio_whole']:.2f}"


def prediction(figures: Figures) -> Iterator[Row]:
    """On traces."""
    traces = figures["traces"]
    for kind, each in figures["kinds"].items():
        counts = {one["handovers"] for one in each.values()}
        assert len(counts) == 1, f"{kind}: not each predictor had the same traces: {counts}"
        text = f"{kind.replace('_', ' ')} (n = {counts.pop()})"
        if kind == "recorded":
            text = f"recorded ({traces['recorded']} traces, {traces['times_each_recorded']} times each)"
        for title, told in (
            ("late", {name: f"{one['late_percent']:.3g} %" for name, one in each.items()}),
            ("idle standby, median", {name: ms(one["idle_s"]["median"]) for name, one in each.items()}),
            (
                "more than two leads early",
                {name: f"{one['more_than_two_leads_early_percent']:.3g} %" for name, one in each.items()},
            ),
        ):
            yield f"{text}: {title}", ", ".join(f"{name} {came}" for name, came in told.items()), ""


def idle(figures: Figures) -> Iterator[Row]:
    """The daemon by itself."""
    for name, title in (("processor_lane", "one lane"), ("ten_gpu_lanes", "ten stand-in GPUs")):
        each = figures[name]
        yield f"{title}, nothing to do", used(each), "≤ 0.3 %, ≤ 45 MB"
        for state, asked in each["status"].items():
            yield f"{title}, 50 clients ask for `status`, {state.replace('_', ' ')}", answers(asked), "≤ 5 ms p99"
    yield "a bare asyncio server, asked as much", answers(figures["bare_server"]), ""
    yield "ten lanes, each with 20 reports a second", used(figures["ten_gpu_lanes"]["all_running"]), ""
    yield "the fork server beside it, nothing to do", used(figures["fork_server"]), ""


def answers(asked: Figures) -> str:
    """To many requests."""
    return (
        f"{asked['answered_per_s']:,.0f} answers a second, each {wide(asked['latency_s'])}; "
        f"{asked['core_percent']:.0f} % of a core"
    )


def flood(figures: Figures) -> Iterator[Row]:
    """Much said."""
    yield "progress messages swallowed", f"{figures['swallowed_per_s']['median']:,.0f} a second", "20,000 a second"
    for kind, title in (("quiet", "without them"), ("flooded", "with them")):
        ready = f"{figures['ready_of_each'][kind]} of {figures['handovers_of_each']}"
        yield f"handovers on another lane that found a standby ready, {title}", ready, ""
        yield f"their gap, {title}", wide(figures[f"{kind}_gap_s"]), ""
    if (delay := figures["delay_s"]) is not None:
        came = f"median {ms(delay['median'])}, p95 {ms(delay['p95'])}, worst {ms(delay['max'])}"
        yield "later with them by: difference of medians, of p95s, of the worst", came, "≤ 10 ms, the worst"


def longqueue(figures: Figures) -> Iterator[Row]:
    """Many queued."""
    full, core, submit = figures["full"], figures["core"], figures["submit"]
    yield (
        f"submit {figures['sessions']:,} sessions",
        f"{submit['seconds']:.1f} s; the last {ms(submit['last_each_s'])} each",
        "",
    )
    yield "`status` with 50 of the queue", wide(full["status_of_a_page_s"]), ""
    yield "`status` with all of it", wide(full["status_of_all_s"]), ""
    yield "`list`, all rows", wide(full["list_of_all_s"]), ""
    yield "the first `list` of a daemon", ms(figures["first_list_s"]), ""
    yield "a stop", f"{figures['stop_s']:.2f} s", ""
    yield "a restart, without the stop: until it says how many are queued", f"{figures['restart_s']:.2f} s", "≤ 3 s"
    for name, title, goal in (
        ("choose_the_next_s", "choose the next, the first is due", "≤ 1 ms"),
        ("choose_the_last_as_no_other_is_due_s", "choose the next, only the last is due", "≤ 1 ms"),
        ("start_the_next_s", "decide, and start it", ""),
    ):
        yield f"{title}: processor time", wide(core[name]), goal


def startup(figures: Figures) -> Iterator[Row]:
    """Commands."""
    yield "`batonctl status`", wide(figures["batonctl_status_for_a_person_s"]), "≤ 150 ms"
    yield "`batonctl status --json`", wide(figures["batonctl_status_json_s"]), ""
    yield "a Python that does nothing", wide(figures["python_that_does_nothing_s"]), ""
    yield "`batond`, until it answers", wide(figures["batond_until_it_answers_s"]), ""


def cluster(figures: Figures) -> Iterator[Row]:
    """Simulated."""
    many = figures["many"]
    for name, title in (
        ("batond", "batond"),
        ("load_after_end", "each loaded after the end"),
        ("must_load_alone", "only what does not fit beside"),
    ):
        share = many["idle_percent_without_longest_hundredth"][name]
        came = f"{many['idle_each_s'][name]:.2f} s on average; {share:.2f} % of the time without the longest hundredth"
        yield f"a device waits at a handover, {title}", came, ""
    yield "batond's gaps", wide(many["gap_s"]), ""
    tiers = sorted(many["handovers_by_tier"].items(), key=lambda item: -item[1])
    yield "its standbys at a handover", ", ".join(f"{count:,} {tier}" for tier, count in tiers), ""
    took = f"{many['core_s']:.0f} s of processor, {many['core_ms_a_session']} ms a session"
    sizes = f"{many['lanes']} lanes, {many['sessions']:,} sessions"
    yield f"the core, {sizes}", f"{took}, {many['steps_per_s']:,} steps a second", ""
    yield "the core, one lane", f"{figures['one_lane']['steps_per_s']:,} steps a second", ""
    yield "memory of the whole simulation, at the most", f"{many['simulator_peak_mb']} MB", ""


@dataclass(frozen=True)
class Part:
    """One part's table."""

    title: str
    rows_of: Callable[[Any], Iterator[Row]]
    columns: Row = ("what", "measured", "goal")


WORKER: Final = ("case", "bare loop, items/s", "worker, items/s", "ratio", "goal", "ratio, output written")

PARTS: Final = {
    "gap": Part("The gap between networks", gap),
    "smallgap": Part("The gap between small models", smallgap),
    "cost": Part("What it costs the running session", cost),
    "makespan": Part("Whole queues", makespan),
    "worker": Part("The built-in worker", worker, WORKER),
    "prediction": Part("Prediction", prediction),
    "idle": Part("The daemon itself", idle),
    "flood": Part("A flood of progress", flood),
    "longqueue": Part("Ten thousand queued", longqueue),
    "startup": Part("Start-up", startup),
    "cluster": Part("A hundred lanes, simulated", cluster),
}


if __name__ == "__main__":
    if not OUT.exists():
        sys.exit("bench: nothing is measured yet: python -m bench")
    write(kept(OUT))
