"""When the next model's preparation begins, and what that costs: by batond's prediction, and by the usual two.

    python -m bench.prediction  # about half a minute

`elapsed / done` is what most progress bars show; `smoothed` is tqdm's (an exponential mean over reports with its
default smoothing, 0.3: `tqdm.std.EMA`). All three get the same reports and the same lead: only the predicted end
differs. Late: the device waited for the standby. Idle: a ready standby waited for the device. Simulated: the times
are the traces' and nothing runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from bench.figures import Figures, run, spread
from bench.traces import Trace, drawn, recorded
from states.estimate import KEPT_SAMPLES, Pace, lead_s
from states.work import Profile

SEED = 1
UNREST = 0.15  # of preparation times from one to the next: their deviation, as a share
PREPARED_S = (2.0, 15.0)  # beside a running session; docs/performance.md has what was measured


class Predictor(Protocol):
    """What tells how long is left at the least, or None where it cannot say."""

    def heard(self, at: float, done: int, /) -> None: ...
    def left_s(self, at: float, total: int, /) -> float | None: ...


class ByPace:
    """batond's own: states/estimate.py."""

    def __init__(self) -> None:
        self._pace: Pace | None = None

    def heard(self, at: float, done: int) -> None:
        self._pace = Pace(at, done) if self._pace is None else self._pace.after(at, done)

    def left_s(self, at: float, total: int) -> float | None:
        left = None if self._pace is None else self._pace.remaining(at, total)
        return None if left is None else left.soonest_s


class ByElapsed:
    """Elapsed time over items done, times the items left."""

    def __init__(self) -> None:
        self._done = 0

    def heard(self, _at: float, done: int) -> None:
        self._done = done

    def left_s(self, at: float, total: int) -> float | None:
        return at / self._done * (total - self._done) if self._done else None


class BySmoothed:
    """tqdm's: exponential means of items and of seconds between reports, each with the start's bias divided out."""

    SMOOTHING = 0.3

    def __init__(self) -> None:
        self._at = self._items = self._seconds = 0.0
        self._done = 0

    def heard(self, at: float, done: int) -> None:
        if done > self._done:
            self._items += self.SMOOTHING * (done - self._done - self._items)
            self._seconds += self.SMOOTHING * (at - self._at - self._seconds)
            self._at, self._done = at, done

    def left_s(self, _at: float, total: int) -> float | None:
        # Both means have the same bias: it goes out with the division.
        return self._seconds / self._items * (total - self._done) if self._items else None


PREDICTORS: dict[str, Callable[[], Predictor]] = {"batond": ByPace, "elapsed": ByElapsed, "smoothed": BySmoothed}


@dataclass(frozen=True)
class Outcome:
    """Of one handover: seconds."""

    waited_s: float
    idle_s: float
    lead_s: float


def measure(*, small: bool) -> Figures:
    """What each prediction makes of the same sessions."""
    outcomes: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    again = [trace for trace in recorded() for _ in range(2 if small else 50)]  # each with other preparations
    for number, trace in enumerate((*again, *drawn(SEED, 3 if small else 200))):
        chance = Random(f"{SEED}/{number}")
        usual = chance.uniform(*PREPARED_S)
        times = [max(0.3, chance.gauss(usual, UNREST * usual)) for _ in range(KEPT_SAMPLES + 1)]
        lead, prepares_s = lead_s(Profile(prepared_s=tuple(times[:-1]))), times[-1]
        for name, predictor in PREDICTORS.items():
            outcome = handed_over(trace, predictor(), lead, prepares_s, at_once=name == "batond")
            outcomes[trace.kind][name].append(outcome)
            outcomes["all"][name].append(outcome)
    return {
        "kinds": {
            kind.replace(" ", "_"): {name: summed(each) for name, each in named.items()}
            for kind, named in outcomes.items()
        }
    }


def handed_over(trace: Trace, predictor: Predictor, lead: float, prepares_s: float, *, at_once: bool) -> Outcome:
    """One session's end. at_once: where no total is known, the next is prepared at once, else not at all."""
    begun = trace.ends_at
    for at, done in trace.reports:
        predictor.heard(at, done)
        left = None if trace.total is None else predictor.left_s(at, trace.total)
        if (left is not None and left <= lead) or (trace.total is None and at_once):
            begun = at
            break
    ready = begun + prepares_s
    return Outcome(max(0.0, ready - trace.ends_at), max(0.0, trace.ends_at - ready), lead)


def summed(outcomes: list[Outcome]) -> Figures:
    """Over many handovers."""
    count = len(outcomes)
    return {
        "handovers": count,
        "late_percent": round(100 * sum(each.waited_s > 0.0 for each in outcomes) / count, 2),
        "more_than_two_leads_early_percent": round(
            100 * sum(each.idle_s > 2 * each.lead_s for each in outcomes) / count, 2
        ),
        "waited_each_s": round(sum(each.waited_s for each in outcomes) / count, 4),
        "idle_s": spread([each.idle_s for each in outcomes]),
    }


if __name__ == "__main__":
    run("prediction", measure, takes="about half a minute")
