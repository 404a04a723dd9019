"""The whole picture of `batonctl watch`: what is known of the daemon in, exactly `height` lines of `width` out. Pure.

What does not fit gives way in this order: blank lines, the lanes' detail, events, the queue, the help line, lanes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from daemon.ctl.screen import LEVELS, clock, duration, safe, word
from daemon.ctl.watch_lane import NARROW, ROOMY, Detail, blocks
from daemon.ctl.watch_line import Part, cell, fit, folded, joined, line, spread
from daemon.results import LaneView, QueueView, StatusResult

KEYS = "q quit   space pause   ↑↓ queue   ? help"
KEYS_SHORT = "q quit  space pause  ? help"
HELP = (
    ("q, Ctrl-C", "leave; batond and its sessions go on"),
    ("space", "hold the picture still, and let it go on"),
    ("↑ ↓", "the queue, a line up or down"),
    ("page up, down", "the queue, a page up or down; home: its head"),
    ("?", "this, and back"),
    ("●●○", "a standby: prepared to staged (imported, staged, warm); ◐ is being prepared"),
    ("█ ▓ ▒", "memory of the active session, the standby, one that ends"),
    ("▁", "promised to it, and not taken yet"),
    ("░ ·", "others' memory, or the system's; free"),
    (
        "└────┘",
        "what the next session needs, from the right: it fits if all above it is free; some is always kept free",
    ),
)
SIGNS = 15  # columns of what is explained
KEYS_LEAST = 8  # lines of the whole picture, for one of them to be the keys'
SILENT_S = 2.0  # without an answer, before that is said
LEFT_OUT = {"lane.moved", "session.committed", "worker.exited"}  # the lane itself shows it, or it says nothing new
QUEUE_LEAST, EVENTS_LEAST = 3, 3  # lines that these should have before a lane is shown in full


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known: the last answer, how old it is, the newest events; why nobody answers now, and since when."""

    status: StatusResult
    events: tuple[Mapping[str, Any], ...]
    now: datetime
    age_s: float = 0.0
    lost: str = ""
    lost_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """How it is looked at. keys: there are some to press. first: the first of the queue that is shown, from 0."""

    keys: bool = True
    paused: bool = False
    helping: bool = False
    first: int = 0


def frame(scene: Scene, look: Look, width: int, height: int) -> list[Text]:
    """The picture."""
    status = scene.status
    top = _top(scene, look, width)
    bottom = [fit(line((KEYS if width >= cell_len(KEYS) else KEYS_SHORT, "dim")), width)]
    bottom = bottom if look.keys and height >= KEYS_LEAST else []
    room = max(0, height - len(top) - len(bottom))
    middle = _help(width) if look.helping else _middle(status, scene.events, look, width, room)
    filled = [fit(each, width) for each in [*top, *middle[:room]]]
    if scene.lost:
        for each in filled[len(top) :]:
            each.stylize("dim")
    filled += [fit(line(), width)] * (height - len(bottom) - len(filled))
    return [*filled, *bottom][:height]


def page(height: int) -> int:
    """How many places a page of the queue is, about."""
    return max(1, height // 4)


def places(look: Look, height: int) -> int:
    """How many of the queue, from its head, are enough: each costs the daemon a look at why it waits."""
    return look.first + max(1, height // 2)


# Above and below


def _top(scene: Scene, look: Look, width: int) -> list[Text]:
    status = scene.status
    about = joined(
        (
            (f"batond {safe(status.version)}", "bold"),
            (f"up {duration(status.uptime_s)}", "dim"),
            ("STOPPING", "bold yellow") if status.stopping else "",
        )
    )
    time = joined(((" PAUSED ", "black on yellow") if look.paused else "", (scene.now.strftime("%H:%M:%S"), "dim")))
    lines = [spread(about, time, width)]
    if scene.lost:
        since = f" since {clock(scene.lost_since)}" if scene.lost_since else ""
        gone = f"batond is not there{since}; looking for it"
        lines.append(line((gone, "bold yellow"), (f"  {safe(scene.lost)}", "dim")))
    elif scene.age_s >= SILENT_S and not look.paused:
        lines.append(line((f"batond has not answered for {duration(scene.age_s)}", "bold yellow")))
    if status.unrecorded is not None:
        lines.append(line((f"NOTHING NEW IS STARTED: {safe(status.unrecorded)}", "bold red")))
    return lines


def _help(width: int) -> list[Text]:
    lines: list[Text] = []
    for sign, words in HELP:
        for number, each in enumerate(folded(words, max(1, width - SIGNS), len(words))):
            lines.append(line((f"{'' if number else sign:<{SIGNS}}", "bold"), each))
    return lines


# The lanes, the queue, the events


def _middle(
    status: StatusResult, events: tuple[Mapping[str, Any], ...], look: Look, width: int, room: int
) -> list[Text]:
    told = _told(events)
    shown, detail = _lanes(status, len(told), width, room)
    used = sum(map(len, shown))
    airy = detail is not Detail.LINE and room - used >= _least_below(status, len(told)) + len(shown) + 1
    lanes: list[Text] = []
    for each in shown:
        lanes += ([line()] if airy else []) + each
    rest = room - len(lanes)
    spaced = rest >= 6
    wanted = min(len(told), EVENTS_LEAST * 3) + (2 if spaced else 0)
    for_events = min(wanted, rest // 2) if status.queue else min(wanted, max(0, rest - 1 - spaced))
    below = _queue(status, look, width, rest - for_events, spaced=spaced)
    return lanes + below + _events(told, width, rest - len(below), spaced=spaced)


def _lanes(status: StatusResult, told: int, width: int, room: int) -> tuple[list[list[Text]], Detail]:
    """The lanes, all in the same detail: the most that leaves the queue and the events what they need."""
    least = {Detail.FULL: _least_below(status, told), Detail.BRIEF: 2}
    for detail, below in least.items():
        made = blocks(status.lanes, width, detail)
        if sum(map(len, made)) + below <= room:
            return made, detail
    made = blocks(status.lanes, width, Detail.LINE)
    if len(made) > max(1, room - 1):
        shown = max(1, room - 2)
        made = [*made[:shown], [_others(status.lanes[shown:])]]
    return made, Detail.LINE


def _others(lanes: Sequence[LaneView]) -> Text:
    """The lanes for which there is no line: how many are in which state."""
    states: dict[str, int] = {}
    for each in lanes:
        states[each.state] = states.get(each.state, 0) + 1
    counts = joined([line(f"{count} ", word(state)) for state, count in states.items()], ", ")
    return line((f"and {len(lanes)} more: ", "dim"), counts)


def _least_below(status: StatusResult, told: int) -> int:
    """Lines that the queue and the events should have, headings included."""
    return min(QUEUE_LEAST, status.queued) + min(EVENTS_LEAST, told) + 2


def _queue(status: StatusResult, look: Look, width: int, room: int, *, spaced: bool) -> list[Text]:
    """Its heading and as many of it as there is room for; in one line, where there is no more."""
    blank = [line()] if spaced else []
    if room <= 0:
        return []
    if not status.queued:
        return [*blank, line(("nothing is queued", "dim"))]
    room -= len(blank)
    if room < 2:
        names = ", ".join(safe(each.name) for each in status.queue[look.first :])
        return [*blank, line((f"{status.queued} queued", "bold"), (f": {names}", "dim"))]
    first = min(look.first, max(0, status.queued - 1))
    rows = status.queue[first : first + room - 1]
    behind = status.queued - first - len(rows)
    if behind > 0 and 1 < len(rows) >= room - 1:
        rows, behind = rows[:-1], behind + 1
    before = f"after {first} others" if first else ""
    heading = joined((("queue", "bold"), (str(status.queued), "dim"), (before, "dim")))
    numbers = len(str(status.queued))
    named = min(max((cell_len(safe(row.name)) for row in rows), default=0), max(10, width // 3))
    totals = max((len(str(row.total)) for row in rows if row.total is not None), default=0)
    made = [_place(row, numbers, named, totals if width >= ROOMY else 0) for row in rows]
    more = [line((f"  {'':>{numbers}}  and {behind} more", "dim"))] if behind > 0 and room > 2 else []
    return [*blank, heading, *made, *more]


def _place(row: QueueView, numbers: int, named: int, totals: int) -> Text:
    parts: list[Part] = [(f"  {row.place:>{numbers}}", "dim"), cell(row.name, named), (cell(row.device, 5), "dim")]
    parts.append((f"{row.total if row.total is not None else '':>{totals}}" if totals else "", "dim"))
    if row.priority:
        parts.append((f"priority {row.priority}", "cyan"))
    if row.cursor:
        parts.append((f"from item {row.cursor}", "dim"))
    return joined((*parts, (safe(row.reason), "dim")))


def _told(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those worth a line, oldest first. Of many alike in a row, as where many sessions are queued at once, the last."""
    told: list[Mapping[str, Any]] = []
    for each in events:
        if each["event"] in LEFT_OUT or each.get("level") == "debug":
            continue
        if told and _kind(told[-1]) == _kind(each):
            told[-1] = {**each, "times": told[-1].get("times", 1) + 1}
        else:
            told.append(each)
    return told


def _kind(told: Mapping[str, Any]) -> tuple[Any, ...]:
    return told["event"], told.get("lane"), _words(told)


def _events(told: list[Mapping[str, Any]], width: int, room: int, *, spaced: bool) -> list[Text]:
    """The newest ones, the last of them at the bottom."""
    head = [line(), line(("events", "bold"))] if spaced else []
    shown = told[-(room - len(head)) :] if room > len(head) else []
    lanes = max((cell_len(safe(str(each.get("lane") or ""))) for each in shown), default=0)
    named = min(max((cell_len(safe(str(each.get("session") or ""))) for each in shown), default=0), width // 4)
    return [*head, *(_event(each, lanes, named, width) for each in shown)] if shown else []


def _event(told: Mapping[str, Any], lanes: int, named: int, width: int) -> Text:
    level = str(told.get("level"))
    parts: list[Part] = [
        (datetime.fromisoformat(str(told["ts"])).astimezone().strftime("%H:%M:%S"), "dim"),
        (safe(str(told["event"])).ljust(18 if width >= NARROW else 0), LEVELS.get(level, "default")),
        (cell(str(told.get("lane") or ""), lanes), "dim") if width >= NARROW else "",
        cell(str(told.get("session") or ""), named) if width >= NARROW else safe(str(told.get("session") or "")),
        (_words(told), "yellow" if level in ("warning", "error") else "dim"),
        (f"×{told['times']}", "dim") if "times" in told else "",
    ]
    return line("  ", joined(parts)) if width >= NARROW else joined(parts)


def _words(told: Mapping[str, Any]) -> str:
    """What is said of an event beside its name."""
    match told["event"]:
        case "handover.completed":
            waited = f", the device waited {duration(told['device_waited_s'])}" if told["device_waited_s"] else ""
            return f"after {safe(str(told['from_session']))}, gap {_short(told['gap_s'])}{waited}"
        case "session.finished":
            return f"{told['items']} items in {duration(told['seconds'])}"
        case "standby.ready":
            return f"{told['tier']} after {duration(told['seconds'])}"
        case "standby.started" | "standby.advanced":
            return joined((f"to {told['tier']}", safe(str(told.get("held_back") or ""))), ": ").plain
        case "memory.waited" | "memory.short":
            return f"waited {duration(told['waited_s'])}"
        case _:
            return safe(str(told.get("reason") or ""))


def _short(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else duration(seconds)
