"""When the next model's preparation begins, and what that costs: by batond's prediction, and by the usual two.

    python -m bench.prediction  # about ten seconds

`elapsed / done` is what most progress bars show; `smoothed` is tqdm's (an exponential mean over reports with its
default smoothing, 0.3: `tqdm.std.EMA`). All three get the same reports and the same lead, and prepare when what they
say is left is no more than the lead. What they say is not of one kind: the usual two tell what they expect, batond an
early bound, which one end in twenty undercuts. That is to be late less often, at the price of standbys that wait
longer: both are figures. Late: the device waited for the standby. Idle: a ready standby waited for the device.

Where no total is known, there is no end to predict: batond prepares at the first report, the others would never. That
kind has a row of batond's alone, and is not part of `all`. Simulated: the times are the traces' and nothing runs.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from bench.figures import Figures, run, spread
from bench.traces import Trace, drawn, recorded
from daemon.loop import REGULAR_TICK_S
from states.estimate import KEPT_SAMPLES, Pace, lead_s
from states.work import Profile

SEED = 1
DRAWN, AGAIN = 200, 50  # traces of each kind; how often a recorded one is used, each time with other preparations
NO_TOTAL = "unknown_total_the_others_cannot_predict"
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
        if self._pace is None:
            return None
        left = self._pace.remaining(min(at, self._pace.stopped_at), total)  # as states.policy does
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
    each_kind, times_each = (3, 2) if small else (DRAWN, AGAIN)
    outcomes: dict[str, dict[str, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    real = list(recorded())
    again = [trace for trace in real for _ in range(times_each)]
    for number, trace in enumerate((*again, *drawn(SEED, each_kind))):
        chance = Random(f"{SEED}/{number}")
        usual = chance.uniform(*PREPARED_S)
        times = [max(0.3, chance.gauss(usual, UNREST * usual)) for _ in range(KEPT_SAMPLES + 1)]
        lead, prepares_s = lead_s(Profile(prepared_s=tuple(times[:-1]))), times[-1]
        if trace.total is None:
            outcomes[NO_TOTAL]["batond"].append(handed_over(trace, trace.reports[0][0], lead, prepares_s))
            continue
        for name, predictor in PREDICTORS.items():
            outcome = handed_over(trace, begins_at(trace, trace.total, predictor(), lead), lead, prepares_s)
            outcomes[trace.kind.replace(" ", "_")][name].append(outcome)
            outcomes["all"][name].append(outcome)
    return {
        "traces": {"recorded": len(real), "times_each_recorded": times_each, "drawn_of_each_kind": each_kind},
        "kinds": {kind: {name: summed(each) for name, each in named.items()} for kind, named in outcomes.items()},
    }


def begins_at(trace: Trace, total: int, predictor: Predictor, lead: float) -> float:
    """When the next one's preparation begins: once no more than the lead is left, by a report or by the clock.

    As the daemon does, all look at each report, and where none comes once a second. At the end it begins in any case.
    """
    for (at, done), (until, _) in itertools.pairwise((*trace.reports, (trace.ends_at, total))):
        predictor.heard(at, done)
        while True:
            left = predictor.left_s(at, total)
            if left is not None and left <= lead:
                return at
            at += REGULAR_TICK_S
            if at >= until:
                break
    return trace.ends_at


def handed_over(trace: Trace, begun: float, lead: float, prepares_s: float) -> Outcome:
    """One session's end, where the next one's preparation began then."""
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
    run("prediction", measure, takes="about ten seconds")
