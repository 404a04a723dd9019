"""Lines of a fixed width, and what they are made of: bars, cells, folded words. Knows no daemon and no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from daemon.ctl.screen import safe

Part: TypeAlias = str | tuple[str, str] | Text  # words; with their style; or made already
ELLIPSIS = "…"
DONE, HALF, LEFT = "━", "╸", "─"


def line(*parts: Part) -> Text:
    """The parts side by side."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis", end="")


def fit(text: Text, width: int, *, right: bool = False) -> Text:
    """Exactly so wide: cut off with an ellipsis, or filled up with blanks (on the left, where it is flush right)."""
    if width <= 0:
        return Text("", end="")
    missing = width - text.cell_len
    if missing >= 0:
        return line(" " * missing, text) if right else line(text, " " * missing)
    cut = text.copy()
    cut.truncate(width, overflow="ellipsis")
    return line(cut, " " * (width - cut.cell_len))  # a wide character is not cut in two


def cell(words: str, width: int) -> str:
    """Words from elsewhere, exactly so wide."""
    shown = safe(words)
    return set_cell_size(shown, width) if cell_len(shown) <= width else set_cell_size(shown, width - 1) + ELLIPSIS


def spread(left: Text, right: Text, width: int) -> Text:
    """One at each edge. What is on the right stays whole, as long as it leaves room for a word on the left."""
    room = width - right.cell_len - 1
    if not right.cell_len or room < min(8, left.cell_len):
        return fit(left, width)
    return line(fit(left, room), " ", right)


def folded(words: str, width: int, most: int) -> list[str]:
    """Broken between words into lines; the last of so many ends with an ellipsis where there would be more."""
    lines: list[str] = []
    for each in safe(words).split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(each) <= width:
            lines[-1] += f" {each}"
        else:
            lines.append(each)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])] if most else []
    return [each if cell_len(each) <= width else cell(each, width) for each in lines]


def progress(share: float | None, width: int, style: str) -> Text:
    """A bar of progress; dotted where nobody knows the end."""
    if share is None:
        return line(("┄" * width, "dim"))
    halves = min(2 * width, max(0, int(share * 2 * width)))
    done = DONE * (halves // 2) + (HALF if halves % 2 else "")
    return line((done, style), (LEFT * (width - len(done)), "bright_black"))


def columns(sizes: Sequence[float], whole: float, width: int) -> list[int]:
    """How many columns each size takes of `width`, when `whole` takes all: what is there at all has at least one."""
    if whole <= 0 or width <= 0:
        return [0] * len(sizes)
    wanted = [max(1, round(size / whole * width)) if size > 0 else 0 for size in sizes]
    while sum(wanted) > width and max(wanted) > 1:
        wanted[wanted.index(max(wanted))] -= 1
    for index, each in enumerate(wanted):  # more of them than columns: the first ones are shown
        wanted[index] = min(each, width - sum(wanted[:index]))
    return wanted


def joined(parts: Iterable[Part], gap: str = "  ") -> Text:
    """Those that are not empty, with a gap between them."""
    made = [each if isinstance(each, Text) else line(each) for each in parts if each]
    return Text(gap, end="").join(each for each in made if each.cell_len)
