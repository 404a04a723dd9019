"""The picture of a lane's memory: who has how much of it, what is free, what the next session needs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from daemon.ctl.screen import safe, size
from daemon.ctl.watch_line import Part, columns, fit, folded, joined, line
from daemon.results import LaneView, MemoryView, WorkerView

GROWTH, FREE = "▁", "·"  # given, and not taken yet; free
GLYPHS = {"active": "█", "standby": "▓", "retiring": "▒", "others": "░"}
COLOURS = {"active": "green", "standby": "cyan", "retiring": "yellow", "others": "bright_black"}
LEAST_SHARE = 0.005  # of the memory: what is smaller is rounding, not a process


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the memory: whose, what they are to the lane, bytes taken, bytes given and not yet taken."""

    whose: str
    role: str
    held: int
    promised: int = 0


def shares(lane: LaneView, memory: MemoryView) -> list[Share]:
    """Who has some of it. What is taken, and by none of batond's workers as far as it was seen, is others'."""
    found = [Share(lane.active.session, "active", *_taken(lane.active))] if lane.active else []
    found += [Share(lane.standby.session, "standby", *_taken(lane.standby))] if lane.standby else []
    found += [Share(each.session, "retiring", *_taken(each)) for each in (*lane.retiring, *lane.leaving)]
    rest = memory.total_bytes - memory.free_bytes - sum(share.held for share in found)
    if rest > memory.total_bytes * LEAST_SHARE:
        found.append(Share("others", "others", rest))
    return [share for share in found if share.held or share.promised]


def _taken(worker: WorkerView) -> tuple[int, int]:
    return worker.held_bytes, max(0, worker.reserved_bytes - worker.held_bytes)


def strip(lane: LaneView, memory: MemoryView, width: int) -> Text:
    """The bar: from the left what is taken and promised, the rest free."""
    found = shares(lane, memory)
    sizes = [each for share in found for each in (share.held, share.promised)]
    parts: list[Part] = []
    counts = columns(sizes, memory.total_bytes, width)
    for share, held, promised in zip(found, counts[::2], counts[1::2], strict=True):
        colour = COLOURS[share.role]
        parts += [(GLYPHS[share.role] * held, colour), (GROWTH * promised, colour)]
    return line(*parts, (FREE * (width - sum(counts)), "bright_black"))


def free(memory: MemoryView, *, short: bool = False) -> Text:
    """How much of it is free."""
    if short:
        return line(f"{size(memory.free_bytes) or '0 MiB'} free")
    return line(f"{size(memory.free_bytes) or '0 MiB'} of {size(memory.total_bytes)} free")


def legend(lane: LaneView, memory: MemoryView, width: int) -> list[Text]:
    """Whose each part is, and how much: on as many lines as that takes."""
    lines: list[Text] = []
    for share in shares(lane, memory):
        entry = _entry(share)
        if lines and lines[-1].cell_len + 3 + entry.cell_len <= width:
            lines[-1] = joined((lines[-1], entry), "   ")
        else:
            lines.append(fit(entry, min(width, entry.cell_len)))
    return lines


def _entry(share: Share) -> Text:
    colour, name = COLOURS[share.role], safe(share.whose)
    promised = f"{size(share.promised)} promised" if share.promised >= 1 << 20 else ""
    if not share.held:
        return line((GROWTH, colour), f" {name} ", promised)
    entry = line((GLYPHS[share.role], colour), f" {name} ", (size(share.held), "bold"))
    return line(entry, (f" {GROWTH}", colour), f" {promised}") if promised else entry


def need(memory: MemoryView, width: int) -> Text | None:
    """A ruler below the bar, as long as what the next session needs, from the right: it fits if all above is free."""
    wanted = memory.next
    if wanted is None or wanted.needed_bytes <= 0:
        return None
    style = "green" if wanted.fits else "yellow"
    whole = wanted.needed_bytes + memory.headroom_bytes
    (length,) = columns([min(whole, memory.total_bytes)], memory.total_bytes, width)
    label = f"{safe(wanted.session)} needs {size(wanted.needed_bytes)}"
    longer = f"{label}, {size(memory.headroom_bytes) or 'nothing'} is kept free"
    if max(length - 6, width - length - 1) >= cell_len(longer):
        label = longer
    if cell_len(label) + 6 <= length:
        side, rest = divmod(length - cell_len(label) - 4, 2)
        ruler = line((f"└{'─' * side} ", style), label, (f" {'─' * (side + rest)}┘", style))
    else:
        ruler = line(f"{_shortened(label, width - length - 1)} ", (f"└{'─' * max(0, length - 2)}┘"[-length:], style))
    return fit(ruler, width, right=True)


def _shortened(label: str, width: int) -> str:
    return (folded(label, width, 1) or [""])[0] if width > 0 else ""
