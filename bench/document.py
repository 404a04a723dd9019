"""The table of docs/performance.md, from bench/out/results.json. Measures nothing, and rounds only what it prints.

`python -m bench.document` writes the table anew between its marks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.figures import OUT, ROOT, Figures

PAGE: Final = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin (make bench) -->", "<!-- figures: end -->"

Row = tuple[str, str, str]  # what, what it came to, the goal


def write(results: Figures, page: Path = PAGE) -> None:
    """Replace what is between the marks."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        sys.exit(f"bench: {page} has lost its marks {BEGIN} and {END}")
    page.write_text(before + BEGIN + "\n\n" + table(results) + "\n" + END + after)


def table(results: Figures) -> str:
    """One table a part; parts that were not measured are named."""
    lines: list[str] = []
    for name, (title, rows_of) in PARTS.items():
        part = results.get(name)
        lines += [f"### {title}", ""]
        if part is None or part["small"]:
            lines += [f"Not measured yet: `python -m bench.{name}`.", ""]
            continue
        where = part["host"]
        lines += ["| what | measured | goal |", "| --- | --- | --- |"]
        lines += [f"| {what} | {came} | {goal} |" for what, came, goal in rows_of(part["figures"])]
        lines += [
            "",
            f"`python -m bench.{name}`, {part['at'][:10]}, {lasted(part['took_s'])} on {where['cores']} cores "
            f"({where['processor']}, load {where['load_average']} before), Linux {where['kernel']}, "
            f"Python {where['python']}.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


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
    """A spread of seconds: its median and how far it goes."""
    if each is None:
        return "none was ready"
    return f"{ms(each['median'])} (p95 {ms(each['p95'])}, p99 {ms(each['p99'])}, n = {each['n']})"


NAMES: Final = {
    "batond": "batond",
    "scripts": "`python a.py && python b.py`",
    "spooler": "task-spooler",
    "one_process": "one process, loads after",
    "thread": "one process, loads in a thread",
}
GAP_GOALS: Final = {
    "networks": "≤ 2 ms median, ≤ 10 ms p99; ready in 99 of 100",
    "small": "the same",
}


def gap(figures: Figures) -> Iterator[Row]:
    """Between sessions."""
    for size, each in figures.items():
        yield f"{size}: gap, batond", wide(each["gap_s"]["batond"]), GAP_GOALS[size]
        for name, times in each["times_smaller_than"].items():
            goal = "≥ 1,000 times" if name == "scripts" else "within 2 ms" if name == "thread" else ""
            yield f"{size}: {NAMES[name]}", f"{wide(each['gap_s'][name])}; {times:g} times batond's", goal
        yield f"{size}: ready in time", f"{each['ready_in_time']} of {each['handovers']}", "99 of 100"
        if each["idle_standby_over_lead"] is not None:
            early = f"{each['more_than_two_leads_early']} of {each['ready_in_time']}"
            yield f"{size}: more than two leads early", early, "none"


def cost(figures: Figures) -> Iterator[Row]:
    """To the running session."""
    for name in ("batond", "thread"):
        each = figures[name]
        if each["preparations"]:
            pace, lost, took = each["pace_of_alone"], each["lost_s"], each["preparing_s"]
            goal = "≥ 0.90" if name == "batond" else ""
            yield f"pace while the next is prepared, {NAMES[name]}", f"{pace['median']:.2f} of alone", goal
            yield f"work lost a preparation, {NAMES[name]}", wide(lost), ""
            yield f"a preparation takes, {NAMES[name]}", wide(took), ""
    yield "late", f"{figures['late']} of {figures['handovers']}", "1 of 100"


def makespan(figures: Figures) -> Iterator[Row]:
    """Whole queues."""
    for queue, each in figures.items():
        yield f"{each['sessions']} {queue} sessions, batond", wide(each["seconds"]["batond"]), ""
        for name, times in each["times_as_long_as_batond"].items():
            goal = "≥ 1.00" if name == "one_process" else "≥ 1.25"
            yield f"the same, {NAMES[name]}", f"{times:.2f} times as long", goal


def prediction(figures: Figures) -> Iterator[Row]:
    """On traces."""
    for kind, each in figures["kinds"].items():
        late = ", ".join(f"{name} {one['late_percent']:.3g} %" for name, one in each.items())
        idle = ", ".join(f"{name} {one['idle_s']['median']:.1f} s" for name, one in each.items())
        early = ", ".join(f"{name} {one['more_than_two_leads_early_percent']:.3g} %" for name, one in each.items())
        text = kind.replace("_", " ")
        yield f"{text}: late", late, ""
        yield f"{text}: idle standby, median; more than two leads early", f"{idle}; {early}", ""


def idle(figures: Figures) -> Iterator[Row]:
    """The daemon by itself."""
    for name, title in (("processor_lane", "one lane"), ("ten_gpu_lanes", "ten stand-in GPUs")):
        each = figures[name]
        yield (
            f"{title}, nothing to do",
            f"{each['core_percent']:.2f} % of a core, {each['rss_mb']} MB",
            "≤ 0.3 %, ≤ 45 MB",
        )
        for state, asked in each["status"].items():
            came = f"{wide(asked['latency_s'])}, {asked['core_percent']:.0f} % of a core"
            yield f"{title}, 1,000 `status` a second, {state.replace('_', ' ')}", came, "≤ 5 ms p99"
    least = figures["bare_server"]
    yield (
        "a bare asyncio server, asked as much",
        f"{wide(least['latency_s'])}, {least['core_percent']:.0f} % of a core",
        "",
    )
    running = figures["ten_gpu_lanes"]["all_running"]
    yield "ten lanes, each with 20 reports a second", f"{running['core_percent']:.1f} % of a core", ""


def flood(figures: Figures) -> Iterator[Row]:
    """Much said."""
    yield "progress messages swallowed", f"{figures['swallowed_per_s']['median']:,.0f} a second", "20,000 a second"
    yield "gap on another lane, without them", wide(figures["quiet_gap_s"]), ""
    yield "gap on another lane, with them", wide(figures["flooded_gap_s"]), ""
    if (delay := figures["delay_s"]) is not None:
        yield "later by", f"{ms(delay['median'])} (p95 {ms(delay['p95'])})", "≤ 10 ms"


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
    yield "a restart", f"{figures['restart_s']:.2f} s", "≤ 3 s"
    yield "choose the next", wide(core["choose_the_next_s"]), "≤ 1 ms"
    yield "decide, and start it", wide(core["start_the_next_s"]), ""


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
        ("load_after_end", "load after the end"),
        ("bound", "the least there can be"),
    ):
        came = f"{many['idle_percent'][name]:.3f} % of the time, {many['idle_each_s'][name]:.2f} s a handover"
        yield f"{many['lanes']} lanes, {many['sessions']:,} sessions: devices wait, {title}", came, ""
    took = f"{many['core_s']:.0f} s of processor, {many['core_ms_a_session']} ms a session"
    pace = f"{many['steps_per_s']:,} steps a second, {many['peak_resident_mb']} MB at the most"
    yield "the core, over all of that", f"{took}, {pace}", ""
    yield "the core, with one lane", f"{figures['one_lane']['steps_per_s']:,} steps a second", ""


PARTS: Final[dict[str, tuple[str, Callable[[Any], Iterator[Row]]]]] = {
    "gap": ("The gap", gap),
    "cost": ("What it costs the running session", cost),
    "makespan": ("Whole queues", makespan),
    "prediction": ("Prediction", prediction),
    "idle": ("The daemon itself", idle),
    "flood": ("A flood of progress", flood),
    "longqueue": ("Ten thousand queued", longqueue),
    "startup": ("Start-up", startup),
    "cluster": ("A hundred lanes, simulated", cluster),
}


if __name__ == "__main__":
    write(json.loads(OUT.read_text()))
