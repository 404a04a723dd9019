"""The gap between sessions of small models, of batches of a quarter of a millisecond; beside what bench/gap.py has.

    python -m bench.smallgap    # 25 minutes

Here nothing but the handover itself takes long: what stands between two sessions shows in full. And these sessions last
longer than what is known as the lead of the next: so it shows, too, whether each preparation began at the right time.
"""

from __future__ import annotations

from typing import Final

from bench.figures import Figures, run
from bench.gap import HANDOVERS, OTHERS, TURNS, handed_over, tiny
from bench.rivals import available
from bench.samples import SMALL, samples

LASTS_S: Final = 4.0  # of its batches alone: of each session some ten, with reading and writing


def measure(*, small: bool) -> Figures:
    """Gaps between sessions of small models, by turns."""
    if small:
        return tiny()
    return handed_over(samples(SMALL), available(), TURNS, HANDOVERS, OTHERS, LASTS_S)


if __name__ == "__main__":
    run("smallgap", measure, takes="25 minutes")
