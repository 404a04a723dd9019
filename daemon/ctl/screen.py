"""What a person is shown of the answers: tables, bars, words. Imports rich, so only what prints imports this.

Everything that came from elsewhere is shown as text: no markup in it counts, and no control character gets through.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon.results import (
    DevicesResult,
    DeviceView,
    LaneView,
    ListResult,
    QueueView,
    Row,
    StatusResult,
    WorkerView,
)

PIPE_WIDTH = 400  # nothing is cut off or wrapped for a reader that is a program
BAR_WIDTH = 24
ROOMY_WIDTH = 120  # below, bars are shorter, and a list leaves out when sessions were submitted
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])"
)  # CSI, OSC, others: ECMA-48
LEVELS = {"debug": "dim", "info": "default", "warning": "yellow", "error": "bold red"}
STYLES = {
    "Running": "green",
    "running": "green",
    "computing": "green",
    "going": "green",
    "NearingEnd": "cyan",
    "Preloading": "cyan",
    "preparing": "cyan",
    "loading": "cyan",
    "ready": "bold cyan",
    "Draining": "yellow",
    "draining": "yellow",
    "Swapping": "magenta",
    "committing": "yellow",
    "committed": "yellow",
    "ending": "yellow",
    "queued": "default",
    "Idle": "default",
    "Stopped": "bold red",
    "done": "green",
    "failed": "bold red",
    "cancelled": "dim",
}


@functools.cache
def console(*, stderr: bool = False) -> Console:
    """Standard output (or error): as wide as the terminal, plain and wide in a pipe. Heeds NO_COLOR."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def put(*things: RenderableType) -> None:
    """Print them. In a pipe without the blanks that only make columns on a screen."""
    if sys.stdout.isatty():
        console().print(*things, sep="\n")
        return
    with console().capture() as captured:
        console().print(*things, sep="\n", soft_wrap=False)
    sys.stdout.write("".join(f"{text.rstrip()}\n" for text in captured.get().splitlines()))


def put_lines(lines: Iterable[Text]) -> None:
    """Print lines that are as wide as they are to be: none is wrapped; in a pipe without blanks at their ends."""
    terminal = sys.stdout.isatty()
    for line in lines:
        if not terminal:
            line.rstrip()
        console().print(line, soft_wrap=True)


# Words


def safe(text: str) -> str:
    """The text on one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in ESCAPES.sub("", text))


def word(text: str) -> Text:
    """A state or phase, in its colour."""
    return Text(safe(text), style=STYLES.get(text, "default"))


def duration(seconds: float | None) -> str:
    """As a person says it: 0.4 s, 12 s, 3 min 10 s, 2 h 05 min, 3 d 4 h."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: int | None) -> str:
    """Bytes as a person reads them."""
    if not count:
        return ""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def clock(moment: datetime | None) -> str:
    """A time in the reader's zone; with its day, where that is not today."""
    if moment is None:
        return ""
    here = moment.astimezone()
    today = datetime.now().astimezone().date()
    return here.strftime("%H:%M:%S" if here.date() == today else "%Y-%m-%d %H:%M")


def rate(items_s: float | None) -> str:
    """Items a second."""
    if items_s is None:
        return ""
    return f"{items_s:,.0f}/s" if items_s >= 100 else f"{items_s:.3g}/s"


def items(done: int, total: int | None, skipped: int = 0) -> str:
    """Done and total, and of the done those that gave no result."""
    count = f"{done}/{total}" if total is not None else (str(done) if done else "")
    return f"{count}, {skipped} skipped" if skipped else count


def left(seconds: float | None, spread: float | None) -> str:
    """A predicted time with its spread, where that says something."""
    if seconds is None:
        return ""
    return duration(seconds) + (f" ± {duration(spread)}" if spread is not None and spread >= 0.05 * seconds else "")


def bar(done: int, total: int | None, style: str) -> RenderableType:
    """A progress bar; nothing where no total is known."""
    if not total:
        return Text("")
    width = BAR_WIDTH if console().width >= ROOMY_WIDTH else BAR_WIDTH // 2
    return ProgressBar(total=total, completed=done, width=width, complete_style=style, finished_style=style)


def _grid(*columns: str, title: bool = True) -> Table:
    """A table without lines; a column named `>x` is flush right, `!x` gives way last."""
    table = Table(box=None, show_header=title, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        right, keep = name.startswith(">"), name.startswith("!")
        heading = name.lstrip(">!")
        fold = heading in ("reason", "how")
        table.add_column(
            heading,
            justify="right" if right else "left",
            no_wrap=not fold,
            overflow="fold" if fold or keep else "ellipsis",
            ratio=1 if fold and sys.stdout.isatty() else None,
        )
    return table


# Status


def show_status(answer: StatusResult) -> None:
    """`batonctl status`."""
    stopping = "  STOPPING" if answer.stopping else ""
    head = (
        f"batond {safe(answer.version)}, pid {answer.pid}, up {duration(answer.uptime_s)}, event {answer.seq}{stopping}"
    )
    put(Text(head, style="dim" if not stopping else "yellow"))
    if answer.unrecorded is not None:
        put(Text(f"NOTHING NEW IS STARTED: {safe(answer.unrecorded)}", style="bold red"))
    for lane in answer.lanes:
        put(Group(Text(""), *_lane(lane)))
    if answer.queue:
        put("", _queue(answer.queue))
        if answer.queued > len(answer.queue):
            put(Text(f"and {answer.queued - len(answer.queue)} more; batonctl list shows all", style="dim"))
    else:
        put(Text("\nnothing is queued", style="dim"))


def _lane(lane: LaneView) -> list[RenderableType]:
    head = Text.assemble((safe(lane.name), "bold"), "  ", word(lane.state), (f"  for {duration(lane.since_s)}", "dim"))
    if lane.held and not lane.reason.startswith("paused"):
        head.append("  paused", style="bold yellow")
    if lane.device != lane.name:
        head.append(f"  {safe(lane.device)}", style="dim")
    head.append(f"  {safe(lane.reason)}")
    workers = [(role, worker) for role, worker in (("active", lane.active), ("standby", lane.standby)) if worker]
    workers += [("retiring", worker) for worker in lane.retiring] + [("leaving", worker) for worker in lane.leaving]
    if not workers:
        return [head]
    lines: list[RenderableType] = [head]
    for role, worker in workers:
        lines += [Padding(each, (0, 0, 0, 2)) for each in _worker(role, worker)]
    return lines


ROLE_WIDTH = len("retiring")


def _worker(role: str, worker: WorkerView) -> list[RenderableType]:
    """Who it is and what it does; below, for one that computes, how far it is. Fits 80 columns."""
    title = Text.assemble((f"{role:<{ROLE_WIDTH}}  ", "dim"), (safe(worker.session), "bold"), "  ", word(worker.phase))
    if role == "standby":
        title.append(f" {worker.tier}" if worker.tier and worker.phase == "ready" else f" to {worker.aim}")
        title.append(f"  {items(worker.done, worker.total)}", style="dim")
        return [title]
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_row(
        Text(" " * ROLE_WIDTH),
        bar(worker.done, worker.total, STYLES.get(worker.phase, "green")),
        Text(f"{100 * worker.done / worker.total:.0f} %" if worker.total else ""),
        Text(items(worker.done, worker.total)),
        Text(rate(worker.rate_items_s)),
        Text(left(worker.remaining_s, worker.remaining_spread_s)),
        Text(size(worker.rss_bytes), style="dim"),
    )
    return [title, line]


def _queue(queue: tuple[QueueView, ...]) -> Table:
    priorities = any(session.priority for session in queue)
    table = _grid(">#", "!queued", "device", *([">priority"] if priorities else []), ">items", "reason")
    for session in queue:
        priority = [Text(str(session.priority))] if priorities else []
        count = items(session.cursor, session.total) if session.cursor else str(session.total or "")
        table.add_row(
            Text(str(session.place), style="dim"),
            Text(safe(session.name)),
            Text(safe(session.device), style="dim"),
            *priority,
            Text(count, style="dim"),
            Text(safe(session.reason)),
        )
    return table


# Lists


def show_list(answer: ListResult) -> None:
    """`batonctl list`."""
    if not answer.sessions:
        put(Text("no sessions", style="dim"))
        return
    roomy = console().width >= ROOMY_WIDTH
    table = _grid("!session", "state", "lane", ">items", ">rate", ">left", ">try", "submitted", "ended", "reason")
    for row in answer.sessions:
        table.add_row(
            Text(safe(row.name)),
            word(row.state),
            Text(safe(row.lane or "")),
            Text(items(row.done, row.total, row.errors)),
            Text(rate(row.rate_items_s)),
            Text(left(row.remaining_s, None)),
            Text(f"{row.attempt}/{row.max_attempts}" if row.attempt > 1 else "", style="dim"),
            Text(clock(row.submitted_at) if roomy else "", style="dim"),
            Text(clock(row.ended_at), style="dim"),
            Text(safe(row.reason)),
        )
    put(_without_empty(table))
    if answer.next is not None:
        put(Text("there are more; --limit shows more of them", style="dim"))


def progress(visible: tuple[Row, ...], rows: tuple[Row, ...], remark: str) -> RenderableType:
    """`batonctl submit --wait`: a line for each visible session, with a bar once it computes; the counts of all."""
    table = _grid("!session", "state", "lane", "how", title=False)
    widths = [
        max((len(cell) for row in visible if _computes(row) for cell in [_cells(row)[i]]), default=0) for i in range(3)
    ]
    for row in visible:
        lane = Text(safe(row.lane or ""), style="dim")
        if row.lane_state is not None and row.lane_state.lower() != row.state:
            lane.append(" ").append_text(word(row.lane_state))
        table.add_row(
            Text(safe(row.name), style="bold" if row.state == "running" else "default"),
            word(row.state),
            lane,
            _bar_line(row, widths) if _computes(row) else _why(row),
        )
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    line = Text(", ".join(f"{count} {state}" for state, count in counts.items()), style="dim")
    return Group(table, line, *([Text(safe(remark), style="yellow")] if remark else []))


def _computes(row: Row) -> bool:
    return row.state in ("running", "draining", "committing", "done")


def _cells(row: Row) -> tuple[str, str, str]:
    return items(row.done, row.total, row.errors), rate(row.rate_items_s), left(row.remaining_s, row.remaining_spread_s)


def _bar_line(row: Row, widths: list[int]) -> RenderableType:
    """Bar, items, rate and what is left, in columns as wide as the widest of all rows."""
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column()
    for width in widths:
        line.add_column(justify="right", min_width=width, no_wrap=True)
    line.add_row(bar(row.done, row.total, STYLES.get(row.state, "default")), *map(Text, _cells(row)))
    return line


def _why(row: Row) -> Text:
    """Why it waits, on one line, as it changes; why it failed, in full."""
    if row.state == "failed":
        return Text(safe(row.reason), style="red", overflow="fold", no_wrap=False)
    return Text(safe(row.reason), style="dim", overflow="ellipsis", no_wrap=True)


def _without_empty(table: Table) -> Table:
    """The table without the columns that have nothing in them."""
    table.columns = [column for column in table.columns if any(str(cell) for cell in column.cells)]
    for index, column in enumerate(table.columns):
        column._index = index  # noqa: SLF001 rich finds the cells of a row by it, and offers no way to take one out
    return table


def show_devices(answer: DevicesResult) -> None:
    """`batonctl devices`: a row of figures for each, then for each what does not fit beside another's."""
    table = _grid(
        *("lane", "device", "!name", ">total", ">free", ">reserved", ">kept free", ">busy", ">heat", "sessions")
    )
    for device in answer.devices:
        table.add_row(*_device(device))
    put(_without_empty(table))
    for device in answer.devices:
        for text in _device_details(device):
            put(Text.assemble((f"{safe(device.lane)}  ", "bold"), text))
    if answer.no_gpu:
        put(Text(safe(answer.no_gpu), style="dim"))


def _device(device: DeviceView) -> list[RenderableType]:
    name = device.kind if device.index is None else f"{device.kind}:{device.index}"
    return [
        Text(safe(device.lane), style="bold"),
        Text(safe(name)),
        Text(safe(device.name or "")),
        Text(size(device.total_bytes)),
        Text(size(device.free_bytes)),
        Text(size(device.reserved_bytes)),
        Text(size(device.headroom_bytes), style="dim"),
        Text("" if device.utilisation_percent is None else f"{device.utilisation_percent} %"),
        Text("" if device.temperature_c is None else f"{device.temperature_c} °C"),
        Text(safe(", ".join(device.holders))),
    ]


def _device_details(device: DeviceView) -> Iterator[Text]:
    if not device.usable:
        yield Text(safe(f"lost: {device.reason}"), style="bold red")
    if device.trouble:
        yield Text(safe(device.trouble), style="yellow")
    about = [
        device.uuid,
        device.driver and f"driver {device.driver}",
        device.capability and f"compute capability {device.capability}",
        device.clocks and f"clocks: {', '.join(device.clocks)}",
    ]
    if any(about):
        yield Text(safe("  ".join(each for each in about if each)), style="dim")
    for process in device.processes or ():
        held = "an unknown size" if process.bytes is None else size(process.bytes)
        whose = f", of session {process.session}" if process.session else ""
        yield Text(safe(f"{held} held by {process.name} (pid {process.pid}{whose})"), style="dim")


# Events


def show_event(line: dict[str, Any]) -> None:
    """One event on one line: time, name, lane, session, then its own fields."""
    head = {"ts", "level", "event", "lane", "session", "seq", "schema"}
    fields = [(key, value) for key, value in line.items() if key not in head and value not in (None, "", [])]
    text = Text.assemble(
        (clock(datetime.fromisoformat(str(line["ts"]))), "dim"),
        (f" {line.get('seq') or '':>6} ", "dim"),
        (f"{safe(str(line['event'])):<20} ", LEVELS.get(str(line.get("level")), "default")),
        (f"{safe(str(line.get('lane') or '-')):<6} ", "default"),
        (f"{safe(str(line.get('session') or '')):<20} ", "bold"),
    )
    for key, value in fields:
        shown = f"{value:.3f}" if isinstance(value, float) else str(value)
        text.append(f" {safe(key)}=", style="dim")
        text.append(safe(shown))
    put_lines([text])
