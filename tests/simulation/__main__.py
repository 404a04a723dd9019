"""Runs worlds from a seed on, tells what came of them; of the first broken law, the smallest world that breaks it.

`python -m tests.simulation --runs 1000 --seed 7` runs the worlds 7, 8, … 1006; `--only 42` tells all of one.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.core.scenario import written
from tests.simulation.draw import draw
from tests.simulation.minimise import minimise, tried
from tests.simulation.plan import Plan
from tests.simulation.simulation import Report
from tests.simulation.telling import scenario, trace

TELL_S = 10.0


def main() -> int:
    """As the command line says; 1 where a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=200, help="how many worlds (default: 200)")
    parser.add_argument("--handovers", type=int, default=0, help="go on until there were so many (default: no matter)")
    parser.add_argument("--seed", type=int, default=0, help="the first world's (default: 0)")
    parser.add_argument("--only", type=int, help="run this world alone, and print all of it")
    given = parser.parse_args()
    if given.only is not None:
        return _only(draw(str(given.only)))
    began = told = time.monotonic()
    whole, runs = Report("all"), 0
    while runs < given.runs or whole.handovers < given.handovers:
        plan = draw(str(given.seed + runs))
        outcome = tried(plan)
        runs += 1
        whole.add(outcome.simulation.report)
        if outcome.law is not None:
            print(f"seed {plan.seed} breaks the law “{outcome.law}”: {outcome.error}\n")
            print(explained(plan, outcome.law))
            return 1
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            print(f"{runs} worlds, {whole.handovers} handovers", file=sys.stderr)
    print(figures(whole, runs, time.monotonic() - began))
    return 0


def explained(plan: Plan, law: str) -> str:
    """The smallest world found that breaks the same law: what it is made of, and how it goes."""
    small = minimise(plan, law)
    outcome = tried(small)
    parts = [f"the smallest world that breaks it: {outcome.error}", *map(str, small.lanes), *map(str, small.jobs)]
    parts += [str(each) for each in (*small.mishaps, *small.troubles, *small.wishes)]
    text = scenario(outcome.simulation, law)
    if text is None:
        return "\n".join([*parts, "", trace(outcome.simulation)])
    try:
        text = written(text)
    except Exception as wrong:  # noqa: BLE001 - the scenario's own laws are broken too: then it stands without answers
        text += f"# {wrong}\n"
    return "\n".join([*parts, "", "as a scenario (tests/core/scenarios):", text])


def figures(whole: Report, runs: int, seconds: float) -> str:
    """What was run, in lines."""
    lines = [
        f"worlds                {runs}",
        f"handovers             {whole.handovers}",
        f"decisions             {whole.steps}",
        f"sessions              {', '.join(f'{count} {how}' for how, count in whole.ends.most_common())}",
        f"adopted by a new daemon {whole.adopted}",
        f"simulated             {whole.seconds / 3600:.1f} h",
        f"took                  {seconds:.0f} s, {whole.steps / seconds:.0f} decisions a second",
        "faults",
    ]
    return "\n".join([*lines, *(f"  {count:>7}  {kind}" for kind, count in whole.faults.most_common())])


def _only(plan: Plan) -> int:
    outcome = tried(plan)
    print(trace(outcome.simulation))
    print("keeps every law" if outcome.law is None else f"breaks the law “{outcome.law}”: {outcome.error}")
    return 0 if outcome.law is None else 1


if __name__ == "__main__":
    sys.exit(main())
