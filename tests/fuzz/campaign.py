"""Examples drawn from a seed and played in a lab, round after round; what came of them, as a table."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.lab import Lab, Outcome, Vitals
from tests.fuzz.lies import Do, Performance, performance
from tests.fuzz.requests import Conversation, conversation

ROUND = 200  # examples drawn at once; between two rounds the lab is at rest, and is looked at
SHOWN_BYTES = 200
SOCKETS: dict[str, tuple[Callable[[], st.SearchStrategy[Any]], str]] = {
    "control": (conversation, "answers"),
    "workers": (performance, "facts and faults"),
}


class _EnoughError(BaseException):
    """So many frames were sent. No Exception: hypothesis would take it for a failure."""


@dataclass
class Figures:
    """One campaign. `warm`: the lab after the first round; `first` and `last`: at rest, before and after all."""

    socket: str
    seed: int
    whole: Outcome = field(default_factory=Outcome)
    examples: int = 0
    seconds: float = 0.0
    vitals: list[Vitals] = field(default_factory=list)

    @property
    def rss_growth_kib(self) -> int:
        """The most that the lab's process gained over what it had after the first round."""
        warm = self.vitals[min(1, len(self.vitals) - 1)].rss_kib
        return max(each.rss_kib for each in self.vitals) - warm

    def table(self) -> str:
        """All of it, for a person."""
        first, last = self.vitals[0], self.vitals[-1]
        rows: list[tuple[str, object]] = [
            ("socket", f"{self.socket} (seed {self.seed})"),
            ("frames", self.whole.frames),
            ("conversations", self.examples),
            ("MiB sent", round(self.whole.sent_bytes / (1 << 20), 1)),
            ("RSS KiB, after the first round and last", f"{self.vitals[1].rss_kib} {last.rss_kib}"),
            ("RSS growth, max KiB", self.rss_growth_kib),
            ("descriptors before and after", f"{first.descriptors} {last.descriptors}"),
            ("tasks before and after", f"{first.tasks} {last.tasks}"),
            ("seconds", round(self.seconds)),
        ]
        lines = [f"{name:<40} {value}" for name, value in rows]
        for title, counted in (("frames", self.whole.kinds), (SOCKETS[self.socket][1], self.whole.answers)):
            lines.append(title)
            lines += [f"  {count:>8}  {name}" for name, count in counted.most_common()]
        return "\n".join(lines)


def fuzz(socket: str, frames: int, first_seed: int, *, told: Callable[[Figures], None] = lambda _: None) -> Figures:
    """Play until so many frames were sent. Raises AssertionError with the smallest example that breaks a promise."""
    figures = Figures(socket, first_seed)
    began = time.monotonic()
    with Lab(socket) as lab:
        figures.vitals.append(lab.vitals())
        number = 0
        while figures.whole.frames < frames:
            _round(lab, figures, frames, first_seed * 1_000_003 + number)
            number += 1
            figures.vitals.append(lab.vitals())
            figures.seconds = time.monotonic() - began
            told(figures)
    return figures


def _round(lab: Lab, figures: Figures, frames: int, number: int) -> None:
    broken: list[str] = []

    def example(drawn: Any) -> None:
        if figures.whole.frames >= frames and not broken:
            raise _EnoughError
        outcome = lab.play(drawn)
        figures.whole.add(outcome)
        figures.examples += 1
        if outcome.problem is not None:
            broken[:] = [f"{outcome.problem}\n{shown(drawn)}"]  # the last is the smallest
            raise AssertionError(outcome.problem)

    strategy, _ = SOCKETS[figures.socket]
    run = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(given(strategy())(example))
    try:
        seed(number)(run)()
    except _EnoughError:
        return
    except BaseException as error:
        if not broken:
            raise
        raise AssertionError(f"the {figures.socket} socket, seed {number}: {broken[0]}") from error


def shown(drawn: Conversation | Performance) -> str:
    """An example, a line each frame."""
    if isinstance(drawn, Conversation):
        cut = ((frame.kind, frame.data[:SHOWN_BYTES], len(frame.data)) for frame in drawn.frames)
        return "\n".join(
            [
                f"clients that are {', '.join(manner.value for manner in drawn.manners)}",
                *(f"  {k}: {d!r} ({n})" for k, d, n in cut),
            ]
        )
    lines = [f"prepares {drawn.prepares}, the liar first {drawn.liar_first}"]
    for life in drawn.lives:
        lines.append(f"a life that ends with {life.status}")
        lines += [f"  {act.what if isinstance(act, Do) else act.frame.data[:SHOWN_BYTES]!r}" for act in life.acts]
    lines += [f"a stranger: {[frame.data[:SHOWN_BYTES] for frame in each]}" for each in drawn.strangers]
    return "\n".join(lines)
