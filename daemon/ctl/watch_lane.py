"""One lane as a block of lines, at three levels of detail. Pure: a lane in, lines of one width out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum

from rich.cells import cell_len
from rich.text import Text

from daemon.ctl import watch_memory
from daemon.ctl.screen import STYLES, duration, items, left, rate, safe, size, word
from daemon.ctl.watch_line import ELLIPSIS, Part, cell, fit, folded, joined, line, progress, spread
from daemon.results import LaneView, NeedView, WorkerView

NARROW = 60  # columns, below which rows have no headings
ROOMY = 100  # from which a lane on one line shows its memory
LABEL = 11  # columns of a row's heading
FIGURES, END = 24, 28  # columns of how far a session is, and of how long it still takes, beside its bar
NAME_SHARE, NAME_LEAST = 0.26, 13  # of the width, for a session's name; at least
REASON_LINES, REASON_LINES_ALONE = 2, 4  # at most; of a lane whose workers say the rest, and of one without
SMALL_BAR, SMALL_FREE = 14, 14  # columns of the memory of a lane on one line: its bar, what is free
TIERS = ("imported", "staged", "warm")
REACHED, AIMED, ABOVE = "●", "◐", "○"
MARKS = {"standby": "▸ ", "next": "▹ ", "retiring": "◂ ", "leaving": "◂ "}  # where rows have no headings
WORRIES = {"Idle", "NearingEnd", "Stopped", "Swapping", "Draining"}  # states whose reason is worth a line of its own


class Detail(Enum):
    """How much is shown of each lane."""

    FULL = 3
    BRIEF = 2
    LINE = 1


def blocks(lanes: Sequence[LaneView], width: int, detail: Detail) -> list[list[Text]]:
    """The lines of each lane; what is alike in them is in the same columns."""
    if detail is Detail.LINE:
        names = max((cell_len(safe(lane.name)) for lane in lanes), default=0)
        return [[_line(lane, width, min(names, width // 4))] for lane in lanes]
    room = _name_room(lanes, width)
    return [[fit(each, width) for each in _block(lane, width, detail, room)] for lane in lanes]


def _block(lane: LaneView, width: int, detail: Detail, room: int) -> Iterator[Text]:
    yield from _head(lane, width, detail)
    yield from _rows(lane, width, detail, room)
    yield from _memory(lane, width, detail)


# The parts of a block


def _head(lane: LaneView, width: int, detail: Detail) -> Iterator[Text]:
    head = line((safe(lane.name), "bold"), "  ", word(lane.state), (f" {duration(lane.since_s)}", "dim"))
    if lane.held and not lane.reason.startswith("paused"):  # which says it, and what to do
        head.append("  paused", style="bold yellow")
    room = width - head.cell_len - 3
    style = "red" if lane.lost else "default"
    if cell_len(safe(lane.reason)) <= room:
        yield line(head, "   ", (safe(lane.reason), style))
        return
    yield head
    if detail is Detail.FULL or lane.lost or lane.state in WORRIES:
        alone = REASON_LINES if lane.active or lane.standby else REASON_LINES_ALONE
        most = alone if detail is Detail.FULL else 1
        for each in folded(lane.reason, width - 2, most):
            yield line("  ", (each, style))


def _rows(lane: LaneView, width: int, detail: Detail, room: int) -> Iterator[Text]:
    if lane.active is not None:
        yield from _active(lane.active, width, detail, room)
    if lane.standby is not None:
        yield _row("standby", lane.standby.session, _standby(lane, lane.standby), width, room)
    elif detail is Detail.BRIEF and (wanted := _wanted(lane)) is not None:
        yield _row("next", wanted.session, _lacks(lane) or _needs(wanted), width, room)
    for role, workers in (("retiring", lane.retiring), ("leaving", lane.leaving)):
        for worker in workers:
            yield _row(role, worker.session, _ending(worker), width, room)


def _name_room(lanes: Sequence[LaneView], width: int) -> int:
    """How wide the names of sessions are in the lanes' rows."""
    named = [each for lane in lanes for each in (lane.active, lane.standby, *lane.retiring, *lane.leaving) if each]
    names = [each.session for each in named] + [each.session for each in map(_wanted, lanes) if each is not None]
    longest = max((cell_len(safe(each)) for each in names), default=0)
    return min(longest, max(NAME_LEAST, int(width * NAME_SHARE)))


def _heading(role: str, width: int) -> Text:
    if width < NARROW:
        return line((MARKS.get(role, "  "), "dim"))
    return line((f"  {role:<{LABEL - 2}}", "dim"))


def _row(role: str, name: str, what: Text, width: int, room: int) -> Text:
    style = "bold" if role == "active" else "default"
    return line(_heading(role, width), (cell(name, room), style), "  ", what)


def _active(worker: WorkerView, width: int, detail: Detail, room: int) -> Iterator[Text]:
    """Its bar; how far it is in figures, below it, or beside it where there is no line for that."""
    share = worker.done / worker.total if worker.total else None
    percent = f"{100 * share:4.0f} %" if share is not None else ""
    style = "red" if worker.paused else STYLES.get(worker.phase, "green")
    figures, end = _figures(worker), _end(worker, width)
    beside = width >= NARROW and detail is Detail.BRIEF
    tail = line(percent)
    if beside:
        more = [fit(figures, FIGURES, right=True)] if width >= ROOMY else []
        tail = joined((percent, *more, fit(end, END, right=True)))
    before = _row("active", worker.session, Text(), width, room)
    long = width - before.cell_len - tail.cell_len - 1
    yield line(before, progress(share, max(4, long), style), " ", tail)
    if not beside:
        indent = before.cell_len if width >= NARROW else 2
        yield line(" " * indent, spread(figures, end, width - indent))


def _figures(worker: WorkerView) -> Text:
    parts: list[Part] = []
    if worker.paused:
        parts.append((f"no room to write: {safe(worker.paused)}", "bold red"))
    if worker.phase != "computing":
        parts.append(word(worker.phase))
    parts += [items(worker.done, worker.total), rate(worker.rate_items_s)]
    if worker.errors:
        parts.append((f"{worker.errors} skipped", "yellow"))
    if worker.attempt > 1:
        parts.append((f"attempt {worker.attempt}", "yellow"))
    return joined(parts)


def _end(worker: WorkerView, width: int) -> Text:
    if width < NARROW:
        return line((duration(worker.remaining_s), "bold"))
    remaining = left(worker.remaining_s, worker.remaining_spread_s)
    return line((remaining, "bold"), " left") if remaining else line()


def ladder(worker: WorkerView) -> Text:
    """How far a standby is prepared, and how far it is being prepared."""
    reached = TIERS.index(worker.tier) if worker.tier in TIERS else -1
    aim = TIERS.index(worker.aim) if worker.aim in TIERS else reached
    marks = (REACHED if i <= reached else AIMED if i <= aim else ABOVE for i in range(len(TIERS)))
    return line(("".join(marks), "bold cyan" if worker.phase == "ready" else "cyan"))


def _standby(lane: LaneView, worker: WorkerView) -> Text:
    if worker.phase == "ready":
        lacks = _lacks(lane)
        said = line(f"{worker.tier}; ", lacks) if lacks else line(f"{worker.tier}", _for(worker))
    elif worker.phase == "loading":
        said = line(f"{worker.tier}, goes on" if worker.tier else "loading", f" to {worker.aim}", _for(worker))
    else:
        said = line(word(worker.phase), _for(worker))
    return joined((ladder(worker), said))


def _for(worker: WorkerView) -> tuple[str, str]:
    return f" for {duration(worker.since_s)}", "dim"


def _wanted(lane: LaneView) -> NeedView | None:
    return lane.memory.next if lane.memory is not None else None


def _lacks(lane: LaneView) -> Text:
    """What keeps the next session from being given more, where that is memory."""
    memory, wanted = lane.memory, _wanted(lane)
    if memory is None or wanted is None or wanted.fits:
        return line()
    if wanted.needed_bytes <= 0:
        return line(("its need is not known", "dim"))
    available = max(0, (memory.spare_bytes or 0) - memory.headroom_bytes)
    return line((f"{wanted.tier} needs {size(wanted.needed_bytes)}, {size(available) or 'none'} available", "yellow"))


def _needs(wanted: NeedView) -> Text:
    return line((f"needs {size(wanted.needed_bytes)}", "dim") if wanted.needed_bytes > 0 else "")


def _ending(worker: WorkerView) -> Text:
    said = line(word(worker.phase), _for(worker))
    if worker.paused:
        said.append(f" no room to write: {safe(worker.paused)}", style="bold red")
    return joined((said, (items(worker.done, worker.total), "dim")))


def _memory(lane: LaneView, width: int, detail: Detail) -> Iterator[Text]:
    memory = lane.memory
    if memory is None:
        return
    heading = _heading("memory", width)
    tail = watch_memory.free(memory, short=width < NARROW)
    long = max(4, width - heading.cell_len - tail.cell_len - 1)
    yield line(heading, watch_memory.strip(lane, memory, long), " ", tail)
    if detail is not Detail.FULL:
        return
    indent = " " * heading.cell_len
    ruler = watch_memory.need(memory, long)
    if ruler is not None:
        yield line(indent, ruler)
    for each in watch_memory.legend(lane, memory, width - heading.cell_len):
        yield line(indent, each)


# A lane on one line


def _line(lane: LaneView, width: int, names: int) -> Text:
    state = "paused" if lane.held and lane.state == "Idle" else lane.state
    head = line((cell(lane.name, names), "bold"), " ", (cell(state, 10), _state_style(lane)), " ")
    tail = _small_memory(lane) if width >= ROOMY else line()
    room = width - head.cell_len - tail.cell_len
    if lane.active is None and lane.standby is None:
        return line(head, fit(line((safe(lane.reason), "red" if lane.lost else "dim")), room), tail)
    return line(head, fit(_pair(lane, room), room), tail)


def _small_memory(lane: LaneView) -> Text:
    if lane.memory is None:
        return line(" " * (SMALL_BAR + SMALL_FREE + 2))
    free = watch_memory.free(lane.memory, short=True)
    return line(" ", watch_memory.strip(lane, lane.memory, SMALL_BAR), " ", fit(free, SMALL_FREE, right=True))


def _state_style(lane: LaneView) -> str:
    return "bold yellow" if lane.held else STYLES.get(lane.state, "default")


def _pair(lane: LaneView, room: int) -> Text:
    """The active session and the standby, in columns that are the same for every lane of this width."""
    named = max(6, int(room * 0.22))
    standby = line()
    if lane.standby is not None:
        standby = line("▸ ", (cell(lane.standby.session, named), "default"), " ", ladder(lane.standby))
    beside = named + 6 if room >= 50 else 0
    worker = lane.active
    if worker is None:
        return standby
    share = worker.done / worker.total if worker.total else None
    percent = f"{100 * share:3.0f} %" if share is not None else "     "
    end = cell(_brief(worker), 10) if room >= 40 else ""
    bar = room - named - 1 - 6 - (cell_len(end) + 1 if end else 0) - (beside + 1 if beside else 0)
    style = "red" if worker.paused else STYLES.get(worker.phase, "green")
    made = line((cell(worker.session, named), "bold"), " ", progress(share, max(2, bar), style), " ", percent)
    if end:
        made = line(made, " ", end)
    return line(made, " ", standby) if beside else made


def _brief(worker: WorkerView) -> str:
    if worker.paused:
        return "no room" + ELLIPSIS
    return duration(worker.remaining_s) if worker.remaining_s is not None else worker.phase
