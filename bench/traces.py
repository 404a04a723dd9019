"""Progress of sessions over time, to predict their ends from: made from a seed, or recorded. Predicts nothing.

    python -m bench.traces MobileNetV2 60   # record one, of about so many seconds, into bench/traces

A trace is the items done at each tenth of a second, from the moment the device was the session's. Every kind is
a way in which rates of real sessions are uneven: the first calls are slow, rates drift, inputs come in bursts, a
disk or a neighbour stalls all.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from bench.rivals import one_process
from bench.samples import BATCH, samples

STEP_S: Final = 0.1
RECORDED: Final = Path(__file__).resolve().parent / "traces"
SHORTEST_S, LONGEST_S = 30.0, 300.0
ITEMS_PER_S: Final = 400.0

Rate = Callable[[float], float]  # items a second, by seconds since the start


@dataclass(frozen=True)
class Trace:
    """One session: what was done, when; its total as it announced it, None where it did not."""

    kind: str
    reports: tuple[tuple[float, int], ...]
    total: int | None

    @property
    def ends_at(self) -> float:
        """When its last item was done."""
        return self.reports[-1][0]


def drawn(seed: int, each: int) -> Iterator[Trace]:
    """So many of each kind."""
    for kind, rate_of in KINDS.items():
        for number in range(each):
            chance = Random(f"{seed}/{kind}/{number}")
            seconds = math.exp(chance.uniform(math.log(SHORTEST_S), math.log(LONGEST_S)))
            known = kind != "unknown total"
            yield walked(kind, rate_of(chance, seconds), int(seconds * ITEMS_PER_S), chance, known=known)


def walked(kind: str, rate: Rate, items: int, chance: Random, *, known: bool) -> Trace:
    """The trace of a session with that rate, and a tenth of noise in each step, until all items are done."""
    at, done, reports = 0.0, 0.0, [(0.0, 0)]
    while done < items:
        at += STEP_S
        done += rate(at) * STEP_S * max(0.0, chance.gauss(1.0, 0.1))
        if int(done) > reports[-1][1]:
            reports.append((round(at, 3), min(int(done), items)))
    return Trace(kind, tuple(reports), items if known else None)


def recorded() -> Iterator[Trace]:
    """Those that were recorded of real sessions (bench/traces)."""
    for path in sorted(RECORDED.glob("*.json")):
        reports = tuple((float(at), int(done)) for at, done in json.loads(path.read_text()))
        yield Trace("recorded", reports, reports[-1][1])


def record(name: str, seconds: float) -> Path:
    """Run a model for about so long, and keep when its items were done, to a tenth of a second."""
    (sample,) = samples((name,))
    (ran,) = one_process([(sample, sample.items(seconds))]).sessions
    reports: list[tuple[float, int]] = [(0.0, 0)]
    for number, at in enumerate(ran["batches"], 1):
        after = round(at - ran["began"], 3)
        if after >= reports[-1][0] + STEP_S or number == len(ran["batches"]):
            reports.append((after, number * BATCH))
    RECORDED.mkdir(exist_ok=True)
    path = next(free for n in itertools.count(1) if not (free := RECORDED / f"{name}-{n}.json").exists())
    path.write_text(json.dumps(reports) + "\n")
    return path


def _steady(_chance: Random, _seconds: float) -> Rate:
    return lambda _at: ITEMS_PER_S


def _slow_first(chance: Random, _seconds: float) -> Rate:
    first_s, slow_s = chance.uniform(1.0, 5.0), chance.uniform(2.0, 15.0)
    slow = chance.uniform(0.1, 0.5)
    return lambda at: 1.0 if at < first_s else ITEMS_PER_S * (slow if at < first_s + slow_s else 1.0)


def _drift(chance: Random, seconds: float) -> Rate:
    to = chance.choice((0.4, 0.6, 1.5, 2.5))
    return lambda at: ITEMS_PER_S * to ** min(1.0, at / seconds)


def _bursts(chance: Random, seconds: float) -> Rate:
    edges, at = [], 0.0
    while at < 10 * seconds:
        at += chance.uniform(1.0, 20.0)
        edges.append((at, chance.uniform(0.3, 2.0)))

    def rate(now: float) -> float:
        while len(edges) > 1 and now >= edges[0][0]:
            del edges[0]
        return ITEMS_PER_S * edges[0][1]

    return rate


def _stalls(chance: Random, seconds: float) -> Rate:
    stalls = []
    for _ in range(chance.randint(1, 3)):
        begins = chance.uniform(0.2, 1.0) * seconds
        stalls.append((begins, begins + chance.uniform(5.0, 30.0)))
    return lambda at: 0.0 if any(begins <= at < ends for begins, ends in stalls) else ITEMS_PER_S


KINDS: Final[dict[str, Callable[[Random, float], Rate]]] = {
    "steady": _steady,
    "slow first items": _slow_first,
    "drift": _drift,
    "bursts": _bursts,
    "stalls": _stalls,
    "unknown total": _steady,
}


if __name__ == "__main__":
    print(record(sys.argv[1], float(sys.argv[2])))
