"""How long tasks stay on a real GPU cluster, and how much of a GPU they ask for. A table, and the way it was made.

How long: from when a task was scheduled to when it was deleted. What it did in that time, whether it computed at all,
the trace does not tell: it is no measure of how long a computation takes.

The tasks of a production cluster of Alibaba's that were published with Weng et al., "Beware of Fragmentation:
Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent", USENIX ATC '23: `openb_pod_list_default.csv` of
https://github.com/alibaba/clusterdata, folder cluster-trace-gpu-v2023. Of its 8,152 tasks those 6,129 that asked for
one GPU, were scheduled, and ended. The tables again, from that file:

    python -m bench.openb openb_pod_list_default.csv
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Final

# Percentiles of their lengths, from scheduled to deleted, in seconds.
LENGTHS_S: Final = {
    0: 4,
    1: 20,
    5: 48,
    10: 67,
    15: 97,
    20: 144,
    25: 184,
    30: 218,
    35: 278,
    40: 367,
    45: 512,
    50: 655,
    55: 845,
    60: 1036.4,
    65: 1280.2,
    70: 1686.2,
    75: 2280,
    80: 3255.6,
    85: 4266.8,
    90: 7232.8,
    95: 16067.6,
    99: 135622.2,
    99.9: 8792879,
    100: 12537496,
}
# Percentiles of the share that those asked for who wanted less than a whole GPU, in thousandths: PART of the tasks.
PART: Final = 0.42
SHARES_MILLI: Final = {
    0: 50,
    1: 154.4,
    5: 220,
    10: 320,
    15: 320,
    20: 320,
    25: 460,
    30: 470,
    35: 470,
    40: 470,
    45: 470,
    50: 590,
    55: 650,
    60: 650,
    65: 810,
    70: 810,
    75: 810,
    80: 810,
    85: 810,
    90: 810,
    95: 810,
    99: 810,
    99.9: 810,
    100: 810,
}
PERCENTILES: Final = (0.0, 1.0, *map(float, range(5, 100, 5)), 99.0, 99.9, 100.0)


def length_s(chance: Random) -> float:
    """One task's length: between two percentiles of the table the logarithm is linear."""
    return math.exp(_at(chance.random() * 100, {p: math.log(each) for p, each in LENGTHS_S.items()}))


def share(chance: Random) -> float:
    """What one task takes of a GPU, of those that took less than all of it."""
    return _at(chance.random() * 100, SHARES_MILLI) / 1000


def _at(percent: float, table: dict[float, float]) -> float:
    for (below, least), (above, most) in pairwise(table.items()):
        if percent <= above:
            return least + (most - least) * (percent - below) / (above - below)
    raise AssertionError(percent)


def tables(file: Path) -> tuple[dict[float, float], dict[float, float], float]:
    """Of the lengths in seconds; of the shares in thousandths; and how many asked for a share, of all."""
    with file.open() as stream:
        tasks = [task for task in csv.DictReader(stream) if task["num_gpu"] == "1"]
    ended = [task for task in tasks if task["scheduled_time"] and task["deletion_time"]]
    lengths = [float(task["deletion_time"]) - float(task["scheduled_time"]) for task in ended]
    shares = [float(task["gpu_milli"]) for task in ended if float(task["gpu_milli"]) < 1000]
    return _percentiles(lengths), _percentiles(shares), len(shares) / len(ended)


def _percentiles(values: list[float]) -> dict[float, float]:
    cuts = [min(values), *statistics.quantiles(values, n=1000, method="inclusive"), max(values)]
    return {percent: round(cuts[round(10 * percent)], 1) for percent in PERCENTILES}


def main() -> None:
    """See above."""
    lengths, shares, part = tables(Path(sys.argv[1]))
    for table in (lengths, shares):
        print(", ".join(f"{percent:g}: {value:.12g}" for percent, value in table.items()))
    print(f"{100 * part:.1f} % asked for less than a whole GPU")


if __name__ == "__main__":
    main()
