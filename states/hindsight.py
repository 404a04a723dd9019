"""What earlier runs and handovers came to, and what that predicts of the next one. Arithmetic; knows no lanes' states.

A margin is that of a prediction: nine ends in ten lie within it, before or after. None: too little is known for one.
What is not known is None, and stays None in what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from states.estimate import DRIFT, SPREAD_Z, Remaining
from states.work import Session

# The 0.95 quantile of Student's t distribution by degrees of freedom, from 1 on: of a normal one beyond the last.
T_QUANTILES = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75, 1.75, 1.74)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a model that was left to run: `seconds` from its first item to its last of `items`.

    `whole`: it began at the session's first item, and reached its last.
    """

    items: int
    seconds: float
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Learned:
    """What earlier runs came to, by profile key; and the gaps of earlier handovers, by lane and tier. Newest last."""

    runs: Mapping[str, Sequence[Run]] = field(default_factory=dict)
    gaps: Mapping[tuple[str, str], Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A predicted length in seconds, and its margin."""

    seconds: float
    margin_s: float | None

    def __add__(self, other: Span) -> Span:
        """One after the other. Their errors are taken to have nothing to do with each other."""
        return Span(self.seconds + other.seconds, both(self.margin_s, other.margin_s))


def both(one: float | None, other: float | None) -> float | None:
    """The margin of a sum."""
    return None if one is None or other is None else math.hypot(one, other)


def later(one: float | None, other: float | None) -> float | None:
    """The margin of what waits for both: the wider one."""
    return None if one is None or other is None else max(one, other)


def expected(samples: Sequence[float]) -> Span | None:
    """The next of some samples: their mean, and the 90 % prediction interval of a normal distribution.

    mean ± t(0.95, n−1) · s · √(1 + 1/n) (G. J. Hahn, W. Q. Meeker, "Statistical Intervals", 1991, §4.7). Not narrower
    than what rates are taken to drift by; one sample alone has no margin.
    """
    if not samples:
        return None
    count = len(samples)
    mean = sum(samples) / count
    if count == 1:
        return Span(mean, None)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in samples) / (count - 1))
    t = T_QUANTILES[count - 2] if count - 2 < len(T_QUANTILES) else SPREAD_Z
    return Span(mean, max(t * deviation * math.sqrt(1 + 1 / count), least_margin(mean)))


def least_margin(seconds: float) -> float:
    """The margin that a time has even where everything was always the same: rates drift."""
    return SPREAD_Z * DRIFT * seconds


def from_pace(left: Remaining) -> Span:
    """A remaining time that the running session's own pace predicts."""
    return Span(left.seconds, SPREAD_Z * left.spread_s)


def total(session: Session, runs: Sequence[Run]) -> int | None:
    """How many items the session has: as it is known, else as many as every whole run of the same had."""
    if session.total is not None:
        return session.total
    had = {run.items for run in runs if run.whole and run.items}
    return had.pop() if len(had) == 1 else None


def per_item(runs: Sequence[Run]) -> Span | None:
    """Seconds an item, by earlier runs."""
    return expected([run.seconds / run.items for run in runs if run.items])


def run_length(runs: Sequence[Run], items: int | None, done: int) -> Span | None:
    """Seconds from the item `done` to the last of `items`, by earlier runs of the same model; None: not known.

    One that does not count its items takes as long as it took before, from the beginning only.
    """
    if items is not None:
        rate, left = per_item(runs), max(0, items - done)
        if rate is None:
            return None
        return Span(rate.seconds * left, None if rate.margin_s is None else rate.margin_s * left)
    return expected([run.seconds for run in runs if run.whole]) if done == 0 else None
