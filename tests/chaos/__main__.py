"""Runs one: `python -m tests.chaos --seconds 60 --seed 7 --out chaos/out`. Exit status 1 where anything was wrong.

The seed is printed first: the same one draws the same faults and sessions, though what they meet is up to the clock.
On a host that is slow at first, by load, all faults come more seldom: else nothing would ever get done between them.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from pathlib import Path

from tests.chaos import report
from tests.chaos.judge import judge, recorded, unlike_schema
from tests.chaos.lives import ROOT, logged, said
from tests.chaos.place import Place
from tests.chaos.plan import GAP_S
from tests.chaos.story import CannotRunError, Story

TELL_S = (2.0, 10.0)  # on a terminal, elsewhere


def main() -> int:
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults come (default: 60)")
    parser.add_argument("--seed", type=int, help="what goes wrong and when (default: drawn)")
    parser.add_argument("--out", type=Path, default=ROOT / "chaos" / "out", help="folder to work in; emptied first")
    parser.add_argument("--gap", type=float, default=GAP_S, help=f"seconds between two faults, on average ({GAP_S})")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the daemon is stopped on the way out
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    print(f"chaos: SEED={seed}, {given.seconds:.0f} s of faults", flush=True)
    try:
        return run(given.out.resolve(), seed, given.seconds, given.gap)
    except (CannotRunError, ValueError) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("chaos: interrupted; the daemon is stopped", file=sys.stderr)
        return 130


def run(out: Path, seed: int, seconds: float, gap_s: float) -> int:
    """A whole run: 0 where nothing was wrong."""
    place = Place(out, seconds)
    try:
        outcome = Story(place, seed, seconds, gap_s, Teller()).run()
        books, record = outcome.books, recorded(place.state / "batond.db")
        verdict = judge(books, record, logged(place.logs), said(place.logs), place.outputs, place.rows)
        verdict.unlike_schema = unlike_schema(logged(place.logs))
        figures = report.summary(outcome, verdict)
        wrong = list(report.faults(outcome, verdict))
        report.write(figures | {"wrong": wrong}, out / "chaos.json")
        if wrong:
            place.keep_evidence([*verdict.unsound, *verdict.failed_unexpectedly])
    finally:
        place.remove()
    print(report.table(figures))
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"chaos: {len(wrong)} things wrong; SEED={seed}; {out / 'chaos.json'}")
    return 1 if wrong else 0


class Teller:
    """Prints how it stands every few seconds."""

    def __init__(self) -> None:
        self._every_s = TELL_S[0] if sys.stdout.isatty() else TELL_S[1]
        self._told_at = 0.0

    def __call__(self, line: str) -> None:
        if time.monotonic() - self._told_at >= self._every_s:
            self._told_at = time.monotonic()
            print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
