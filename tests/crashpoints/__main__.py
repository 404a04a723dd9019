"""Kills the daemon at every point of a story, and tells what came of it: what `make test` does at a few.

`python -m tests.crashpoints` takes a point of each kind, `--all` every one; `--only POINT` one, and prints its log.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.crashpoints.models import make
from tests.crashpoints.stories import RELAY, UNCOUNTED, Story, batches
from tests.crashpoints.trial import FIRSTS, Outcome, choose, survey, trial, trials

TELL_S = 15.0
LIFE = "with --only: 1 in the first, 2 in the one that adopts what it left, 3 in one that finds its workers ended (1)"


def main() -> int:
    """As the command line says; 1 where something was lost, doubled, or not ended once."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description=__doc__)
    workers = ["programs", "uncounted", "tensorflow"]
    parser.add_argument("--workers", choices=workers, default=workers[0], help="(default: programs)")
    parser.add_argument("--all", action="store_true", help="every point, not one of each kind")
    parser.add_argument("--only", metavar="POINT", help="die there alone")
    parser.add_argument("--life", type=int, default=1, choices=[1, 2, 3], help=LIFE)
    parser.add_argument("--jobs", type=int, help="runs side by side (default: 3, with TensorFlow 2)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also then what runs is ended, and nothing left behind
    if given.workers != "tensorflow":
        return _all(RELAY if given.workers == "programs" else UNCOUNTED, given, given.jobs or 3)
    with tempfile.TemporaryDirectory(prefix="batond-models-") as folder:
        make(Path(folder))
        return _all(batches(Path(folder)), given, given.jobs or 2)


def _all(story: Story, given: argparse.Namespace, jobs: int) -> int:
    began = time.monotonic()
    if given.only:
        first = FIRSTS[given.life - 1]
        return _tell_one(trial(story, replace(first, points=(*first.points, given.only)), survey(story).reference))
    surveys = [survey(story, first) for first in FIRSTS]
    chosen = choose(surveys, every=given.all)
    outcomes: list[Outcome] = []
    told = time.monotonic()
    with suppress(KeyboardInterrupt):  # then it tells what it has
        for outcome in trials(story, chosen, surveys[0].reference, jobs):
            outcomes.append(outcome)
            if outcome.problems:
                _tell_one(outcome)
            if time.monotonic() - told > TELL_S:
                told = time.monotonic()
                print(f"{len(outcomes)} of {len(chosen)} runs", file=sys.stderr)
    print(figures(story, outcomes, len(chosen), surveys[0].seconds, time.monotonic() - began))
    return 1 if any(outcome.problems for outcome in outcomes) else 0


def figures(story: Story, outcomes: Sequence[Outcome], chosen: int, undisturbed_s: float, seconds: float) -> str:
    """What was run, in lines."""
    hit = [outcome for outcome in outcomes if outcome.hit]
    twice = sum(len(outcome.fall.points) > 1 for outcome in outcomes)
    lines = [
        f"workers               {story.name}",
        f"points                {len(outcomes)} of {chosen}, {twice} in a second life, amid what the first one left",
        f"deaths                {sum(len(outcome.died) for outcome in outcomes)}",
        f"points not come to    {len(outcomes) - len(hit)}",
        f"sessions              {sum(outcome.sessions for outcome in outcomes)}",
        f"adopted               {sum(outcome.adopted for outcome in outcomes)}",
        f"rows                  {sum(outcome.rows.found for outcome in outcomes)}",
        f"rows lost             {sum(outcome.rows.lost for outcome in outcomes)}",
        f"rows doubled          {sum(outcome.rows.doubled for outcome in outcomes)}",
        f"runs with a problem   {sum(bool(outcome.problems) for outcome in outcomes)}",
        f"took                  {seconds:.0f} s; undisturbed, the story takes {undisturbed_s:.1f} s",
    ]
    missed = [str(outcome.fall) for outcome in outcomes if not outcome.hit]
    return "\n".join([*lines, *(f"  not come to: {each}" for each in missed)])


def _tell_one(outcome: Outcome) -> int:
    print(f"\nkilled {' and then '.join(outcome.died) or 'nowhere'} (chosen: {outcome.fall}):")
    print("\n".join(f"  {each}" for each in outcome.problems or ["nothing is wrong"]))
    print(outcome.log)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
