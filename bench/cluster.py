"""A hundred lanes and a hundred thousand sessions through the real core, in simulated time: how long devices wait.

    python -m bench.cluster     # about half an hour for 100,000 sessions; --sessions, --lanes

A session is as long as a task of a production cluster stayed there, by a trace that is published (bench/openb.py says
which). From it are the sizes of models, too, on devices of 16 GiB: a task that asked for a share of a GPU has a model
that takes that share of its memory. Of one that asked for a whole GPU, as more than half did, the trace does not tell
how much it used: its model has 0.5 to 14 GiB, log-uniform.

All else is assumed, in the constants below. How long loading takes, alone and beside a running session, on the scale
that was measured of TensorFlow (bench/tiers.py), and always the same for one model; how long an exit takes, and how
long after it the memory shows as free; how long an order takes to reach a worker. A running session is not slowed by
the preparation of the next, nor lanes by one another; its progress is even; nothing fails. The decisions are the
core's own, and what they cost is measured.

The queue always holds some sessions, so that a device that waits does so for a handover. The figure to look at is
seconds a handover (`idle_each_s`). A share of the time depends on the lengths: the longest hundredth of the sessions,
up to 145 days each, takes several times as long as all the others together. It is left out of the computing time that
the share is of, while its handovers count (`idle_percent_without_longest_hundredth`).

Beside it, for the same sessions in the order in which they ran on each lane, without a core: `load_after_end`, each
session's process started when the one before has ended; `must_load_alone`, a perfect prediction and no loss: what then
remains is the loading of what does not fit beside the session before it. In another order that may be less.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from bench import openb
from bench.figures import OUT, OUT_SMALL, Figures, quantile, spread, take
from bench.house import GIB
from states import events as ev
from states import policy
from states.effects import AdvanceStandby, Effect, Promote, StartStandby
from states.lifecycle import step
from states.snapshot import Lane, Limits, Worker, World, find
from states.work import Profile, Session, Tier

MODELS: Final = 200
SMALLEST, LARGEST = GIB // 2, 14 * GIB
DEVICE, CONTEXT, HEADROOM = 16 * GIB, GIB // 2, GIB // 4
TIERS: Final = (Tier.IMPORTED, Tier.STAGED, Tier.WARM)
FORK_S, IMPORT_S = 0.05, 3.0  # a worker of the fork server; a Python that imports TensorFlow
GRAPH_S, BYTES_PER_S, FIRST_CALL_S = 1.0, 2e9, 0.5  # alone on the host
BESIDE: Final = 2.5  # times as long, at low priority beside a running session
HOP_S, COMMIT_S, EXIT_S, LAG_S = 0.001, 0.1, 0.3, 0.5  # LAG_S: between an exit and its memory
READING_S: Final = 0.02
AHEAD: Final = 2  # sessions in the queue for each lane
ITEMS: Final = 1_000_000
FOR_EVER: Final = 1e12


@dataclass(frozen=True)
class Model:
    """What one model takes: bytes of its device; seconds from `imported` to `staged`, from there to `warm`."""

    size: int
    staged_s: float
    warm_s: float


def models(chance: Random) -> list[Model]:
    """All there are."""
    sizes = [_size(chance) for _ in range(MODELS)]
    return [Model(size, GRAPH_S, (size - CONTEXT / 2) / BYTES_PER_S + FIRST_CALL_S) for size in sizes]


def _size(chance: Random) -> int:
    if chance.random() < openb.PART:
        return max(SMALLEST, min(LARGEST, int(openb.share(chance) * DEVICE)))
    return int(math.exp(chance.uniform(math.log(SMALLEST), math.log(LARGEST))))


@dataclass
class Job:
    """One session: which model, how long it computes."""

    model: Model
    seconds: float


@dataclass
class Cluster:
    """The simulated shell around the core, and its clock."""

    lanes: int
    sessions: int
    seed: int = 1
    jobs: dict[str, Job] = field(default_factory=dict)
    ran: dict[str, list[Job]] = field(default_factory=dict)  # by lane, in their order
    gaps: list[float] = field(default_factory=list)
    tiers: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    core_s: float = 0.0

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)
        self._models = models(self._chance)
        self._names = itertools.count()
        self._tick = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._ended: dict[str, float] = {}
        self._held: dict[int, int] = {}  # bytes, by the generation that took them
        self._where: dict[int, str] = {}
        self.now = 0.0
        lanes = {
            f"gpu{n}": Lane(f"gpu{n}", device="gpu", index=n, uuid=f"GPU-{n}", model="sim", tiers=TIERS)
            for n in range(self.lanes)
        }
        profiles = {f"model{n}@sim": self._profile(model) for n, model in enumerate(self._models)}
        limits = Limits(
            prepare_timeout_s=FOR_EVER, stall_timeout_s=FOR_EVER, start_timeout_s=FOR_EVER, headroom_bytes=HEADROOM
        )
        self.world = World(lanes, (), profiles | {"context@sim": Profile(peak_bytes=CONTEXT)}, limits)

    def _profile(self, model: Model) -> Profile:
        alone = FORK_S + model.staged_s + model.warm_s
        return Profile((alone * BESIDE,) * 3, (alone,) * 3, model.size)

    def run(self) -> None:
        """To the end of the last session."""
        for name in self.world.lanes:
            self._settle(name)
        for _ in range(min(self.sessions, AHEAD * self.lanes)):
            self._queue()
        while self._due:
            self.now, _, act = heapq.heappop(self._due)
            act()

    # Sessions

    def _queue(self) -> None:
        number = next(self._names)
        if number >= self.sessions:
            return
        which = self._chance.randrange(MODELS)
        name = f"s{number}"
        self.jobs[name] = Job(self._models[which], openb.length_s(self._chance))
        self.take(ev.Queued(self.now, Session(name, float(number), profile=f"model{which}", total=ITEMS)))

    # The loop

    def take(self, event: ev.Event) -> None:
        """As daemon/loop.py: what matters is followed by a look at what has become possible."""
        inbox: list[ev.Event] = [event]
        for each in inbox:
            began = time.thread_time()
            decision = step(self.world, each)
            self.core_s += time.thread_time() - began
            self.steps += 1
            self.world = decision.after
            for effect in decision.effects:
                self._perform(effect)
            if decision.matters:
                inbox.append(ev.Tick(self.now))

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._tick), act))

    def _post(self, seconds: float, make: Callable[[float], ev.Event]) -> None:
        self._after(seconds, lambda: self.take(make(self.now)))

    def _perform(self, effect: Effect) -> None:
        match effect:
            case StartStandby():
                self._where[effect.generation] = effect.lane
                self._after(0.0, self._queue)  # the queue stays as long as it was
                self._post(FORK_S, lambda at: ev.Hello(at, effect.generation))
                self._prepare(effect.generation, effect.session.name, None, effect.tier, FORK_S)
            case AdvanceStandby():
                found = find(self.world, effect.generation)
                assert found is not None
                self._prepare(effect.generation, found[1].session.name, found[1].tier, effect.tier, 0.0)
            case Promote():
                self._after(HOP_S, lambda: self._begin(effect.lane, effect.generation))
            case _:
                pass  # nothing is ended or drained here; a standby in a hurry goes on as it was

    # A worker

    def _prepare(self, generation: int, name: str, had: Tier | None, tier: Tier, seconds: float) -> None:
        job, lane = self.jobs[name], self.world.lanes[self._where[generation]]
        if (had or Tier.IMPORTED) < Tier.STAGED <= tier:
            seconds += job.model.staged_s
            self._held[generation] = CONTEXT
        if (had or Tier.IMPORTED) < Tier.WARM <= tier:
            seconds += job.model.warm_s
            self._held[generation] = job.model.size
        seconds *= BESIDE if lane.active is not None else 1.0
        self._post(seconds, lambda at: ev.Ready(at, generation, tier, seconds, ITEMS))
        self._after(seconds, lambda: self._settle(lane.name))

    def _begin(self, lane: str, generation: int) -> None:
        found = find(self.world, generation)
        assert found is not None
        began, worker = self.now, found[1]
        job = self.jobs[worker.session.name]
        relay = self.world.lanes[lane].relay
        if lane in self._ended:
            self.gaps.append(began - self._ended[lane])
            tier = relay.tier.label if relay is not None and relay.tier is not None else "none"
            self.tiers[tier] = self.tiers.get(tier, 0) + 1
        self.ran.setdefault(lane, []).append(job)
        self.take(ev.Promoted(began, generation, began))
        self._report(generation, began, job.seconds)
        self._after(job.seconds, lambda: self._end(lane, generation))

    def _report(self, generation: int, began: float, seconds: float) -> None:
        """Its progress; again when a decision may hang on it: a rate that is even tells nothing in between."""
        found = find(self.world, generation)
        if found is None or self.now >= began + seconds:
            return
        lane, _ = found
        done = int(ITEMS * (self.now - began) / seconds)
        self.take(ev.Progress(self.now, generation, done, 0, ITEMS))
        lane = self.world.lanes[lane.name]
        if lane.standby is not None:
            return
        left = policy.remaining(lane, self.now)
        wait = 0.3 if left is None else 0.9 * (left.soonest_s - policy.lead(self.world, lane, self.now))
        self._after(max(0.3, wait), lambda: self._report(generation, began, seconds))

    def _end(self, lane: str, generation: int) -> None:
        self._ended[lane] = self.now
        self.take(ev.LastBatch(self.now, generation))
        self.take(ev.Quiesced(self.now, generation, self.now, ITEMS, 0))
        self._post(COMMIT_S, lambda at: ev.Committed(at, generation, ITEMS))
        self._post(EXIT_S, lambda at: ev.Exited(at, generation, 0))
        self._after(EXIT_S + LAG_S, lambda: self._let_go(lane, generation))

    def _let_go(self, lane: str, generation: int) -> None:
        self._held.pop(generation, None)
        del self._where[generation]
        self._settle(lane)

    # Its device's memory

    def _settle(self, lane: str) -> None:
        """What changed shows in two readings."""
        for n in (1, 2):
            self._after(n * READING_S, lambda: self._read(lane))

    def _read(self, lane: str) -> None:
        workers: list[Worker] = list(self.world.lanes[lane].workers())
        held = tuple((w.generation, self._held[w.generation]) for w in workers if w.generation in self._held)
        taken = sum(size for generation, size in self._held.items() if self._where[generation] == lane)
        self.take(ev.Memory(self.now, lane, DEVICE, DEVICE - taken, held=held))


def after_end(_before: Job, job: Job) -> float:
    """Seconds that the device waits where the next process starts when the one before has ended."""
    return IMPORT_S + EXIT_S + job.model.staged_s + job.model.warm_s


def must_load_alone(before: Job, job: Job) -> float:
    """The same with all that fits beside the running session prepared in time."""
    fits = before.model.size + job.model.size + HEADROOM <= DEVICE
    return 0.0 if fits else EXIT_S + LAG_S + job.model.warm_s


def measured(lanes: int, sessions: int) -> Figures:
    """One simulation."""
    began = time.monotonic()
    cluster = Cluster(lanes, sessions)
    cluster.run()
    jobs = list(cluster.jobs.values())
    left = sum(1 for lane in cluster.world.lanes.values() for _ in lane.workers())
    assert not cluster.world.queue, f"{len(cluster.world.queue)} sessions were never begun"
    assert left == 0, f"{left} workers never ended"

    lengths = [job.seconds for job in jobs]
    longest_s = quantile(lengths, 0.99)
    computed_s = sum(each for each in lengths if each <= longest_s)
    handovers = [pair for ran in cluster.ran.values() for pair in itertools.pairwise(ran)]
    assert len(handovers) == len(cluster.gaps)
    idle_s = {
        "batond": sum(cluster.gaps),
        "load_after_end": sum(after_end(*pair) for pair in handovers),
        "must_load_alone": sum(must_load_alone(*pair) for pair in handovers),
    }
    return {
        "lanes": lanes,
        "sessions": sessions,
        "length_s": spread(lengths),
        "idle_each_s": {name: round(each / len(handovers), 4) for name, each in idle_s.items()},
        "idle_percent_without_longest_hundredth": {
            name: round(100 * each / (each + computed_s), 4) for name, each in idle_s.items()
        },
        "gap_s": spread(cluster.gaps),
        "handovers_by_tier": cluster.tiers,
        "steps": cluster.steps,
        "core_s": round(cluster.core_s, 1),
        "steps_per_s": round(cluster.steps / cluster.core_s),
        "core_ms_a_session": round(1000 * cluster.core_s / sessions, 3),
        "took_s": round(time.monotonic() - began, 1),
        "simulator_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, 1),
    }


def measure(*, small: bool, lanes: int = 100, sessions: int = 100_000) -> Figures:
    """Simulated lanes on the real core: one lane, and very many."""
    return {
        "one_lane": measured(1, 30 if small else 2000),
        "many": measured(*((5, 60) if small else (lanes, sessions))),
    }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=measure.__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--lanes", type=int, default=100)
    parser.add_argument("--sessions", type=int, default=100_000)
    options = parser.parse_args()
    if not 1 <= options.lanes < options.sessions:
        parser.error("there is no handover to look at: --lanes must be 1 at the least, and --sessions more than that")
    measured_here = partial(measure, lanes=options.lanes, sessions=options.sessions)
    out = options.out or (OUT_SMALL if options.small else OUT)
    figures = take("cluster", measured_here, out, small=options.small)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
