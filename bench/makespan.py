"""How long a queue of sessions takes in all: twenty short ones, and six longer ones, of six models.

    python -m bench.makespan    # 30 minutes

By batond, by scripts one after another, by task-spooler, and by one process that loads each model after the last.
batond's daemon is up before, as a service is, and has learned the models' preparation from a session of each.
"""

from __future__ import annotations

from random import Random
from typing import Final

from bench.figures import Figures, run, spread
from bench.gap import daemon_rests
from bench.house import house
from bench.relay import relay
from bench.rivals import Job, available
from bench.samples import SIX, SMALL, Sample, samples

ROUNDS: Final = 1
SHORT_S: Final = (3.0, 10.0)
LONG_S: Final = 15.0
OTHERS: Final = ("scripts", "spooler", "one_process")
FEW: Final = ("one_process",)


def measure(*, small: bool) -> Figures:
    """The same queue by each way, one after another."""
    models = samples(SMALL if small else SIX)
    if small:
        return {"short": run_through(short(models, 2, (0.3, 0.3)), FEW, learn=False)}
    queues = {"short": short(models, 20, SHORT_S), "long": [(model, model.items(LONG_S)) for model in models]}
    return {name: run_through(jobs, OTHERS, learn=True) for name, jobs in queues.items()}


def short(models: list[Sample], count: int, lasts_s: tuple[float, float]) -> list[Job]:
    """So many, of a few seconds of computing each; the models by turns."""
    chance = Random(1)
    seconds = [chance.uniform(*lasts_s) for _ in range(count)]
    return [(model, model.items(each)) for model, each in zip((models * count)[:count], seconds, strict=True)]


def run_through(jobs: list[Job], others: tuple[str, ...], *, learn: bool) -> Figures:
    """Seconds of each way, and how many times as long as batond's each other one is."""
    rivals = available(*others)
    taken: dict[str, list[float]] = {name: [] for name in ("batond", *rivals)}
    computing: list[float] = []
    each_s: list[float] = []
    with house() as daemon:
        if learn:
            relay(daemon, jobs[: len({sample.name for sample, _ in jobs})])
            daemon_rests(daemon)
        for _ in range(ROUNDS):
            taken["batond"].append(relay(daemon, jobs).seconds)
            daemon_rests(daemon)
            for name, rival in rivals.items():
                ran = rival(jobs)
                taken[name].append(ran.seconds)
                lasted = [each["ended"] - each["began"] for each in ran.sessions]
                computing.append(sum(lasted))
                each_s += lasted
    medians = {name: spread(each)["median"] for name, each in taken.items()}
    return {
        "sessions": len(jobs),
        "seconds": {name: spread(each) for name, each in taken.items()},
        "computing_s": spread(computing),
        "computing_each_s": {"least": round(min(each_s), 3), "most": round(max(each_s), 3)},
        "times_as_long_as_batond": {name: round(medians[name] / medians["batond"], 3) for name in rivals},
    }


if __name__ == "__main__":
    run("makespan", measure, takes="30 minutes")
