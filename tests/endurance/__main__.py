"""Runs a daemon through thousands of handovers; 1 where something grew that must not.

`python -m tests.endurance --handovers 2000` takes some minutes, and leaves its figures in endurance.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.endurance.figures import EARLY, RSS_KIB_PER_1000
from tests.endurance.marathon import Marathon


def main() -> int:
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__)
    parser.add_argument("--handovers", type=int, default=2000, help="go on until there were so many (default: 2000)")
    parser.add_argument("--every", type=int, default=EARLY, help="come to rest, and look, every so many")
    parser.add_argument("--items", type=int, default=10, help="of a session")
    parser.add_argument("--item-ms", type=float, default=2.0, help="of an item")
    parser.add_argument(
        "--programs", type=int, default=10, help="how many command lines there are among them; 0: each has its own"
    )
    parser.add_argument("--bound", type=float, default=RSS_KIB_PER_1000, help="KiB that may be gained per 1,000")
    parser.add_argument("--json", type=Path, default=Path("endurance.json"), help="where the figures go")
    parser.add_argument("--trace", type=Path, help="where to write what the daemon's heaps hold at each rest")
    parser.add_argument("--frames", type=int, default=0, help="with --trace: trace allocations too, with so much stack")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="batond-endurance-") as folder,
        Marathon(
            Path(folder),
            items=given.items,
            item_ms=given.item_ms,
            programs=given.programs,
            trace=given.trace,
            frames=given.frames,
        ) as run,
    ):
        goal = 0
        while goal < given.handovers:
            goal = min(goal + given.every, given.handovers)
            sample = run.on_to(goal)
            print(f"{sample.handovers} handovers, {sample.rss_kib} KiB", file=sys.stderr)
        account, alarms = run.account(), run.batond.alarms
    given.json.write_text(json.dumps(account.as_json() | {"alarms": alarms}, indent=1) + "\n")
    print(account.table())
    for alarm in alarms[:20]:
        print("alarm:", alarm)
    problems = account.problems(given.bound)
    for problem in problems:
        print("grew:", problem)
    return 1 if problems or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
