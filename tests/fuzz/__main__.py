"""Lets hostile peers loose on the two sockets, from a seed; 1 where a promise was broken, with the smallest case.

`python -m tests.fuzz --frames 100000 --seed 7` sends so many frames to each.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.fuzz.campaign import SOCKETS, Figures, fuzz

TELL_S = 15.0


class Teller:
    """Says now and then how far it is."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def __call__(self, figures: Figures) -> None:
        if time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            print(f"{figures.socket}: {figures.whole.frames} frames", file=sys.stderr)


def main() -> int:
    """As the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=10_000, help="to each socket (default: 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--socket", choices=sorted(SOCKETS), help="this one alone")
    given = parser.parse_args()
    for socket in [given.socket] if given.socket else sorted(SOCKETS):
        try:
            print(fuzz(socket, given.frames, given.seed, told=Teller()).table(), end="\n\n", flush=True)
        except AssertionError as broken:
            print(broken)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
