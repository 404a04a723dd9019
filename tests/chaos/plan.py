"""What goes wrong, and when: drawn from the seed alone, before anything runs. Does nothing, knows no process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

QUIET_S: Final = 2.0  # for the first session to begin
GAP_S: Final = 1.1  # between two faults, on average
LAST_LIFE_S: Final = 60.0  # the last daemon lives at least so long, where the run does: what it leaks is seen in it
LAST_LIFE_SHARE: Final = 0.25

KILL_DAEMON: Final = "kill the daemon"
RESTART_DAEMON: Final = "restart the daemon"
# How often each is in the deck, which is dealt to its end before it is shuffled anew: so each comes in every run that
# is long enough.
DECK: Final = {
    KILL_DAEMON: 2,
    "kill the daemon in a handover": 2,
    RESTART_DAEMON: 1,
    "restart the daemon by force": 1,
    "start a second daemon": 1,
    "kill the active worker": 2,
    "kill the standby": 2,
    "kill the retiring worker": 3,
    "kill a shim": 2,
    "kill a program": 2,
    "kill the fork server": 1,
    "kill a child of the fork server": 2,
    "stop the daemon": 2,
    "stop the active worker": 2,
    "stop the standby": 2,
    "fill the disk of the outputs": 2,
    "fill the disk of the state": 2,
    "fill both disks": 1,
    "hold the database": 1,
    "garbage on the control socket": 3,
    "garbage on the worker socket": 3,
    "a false hello": 3,
    "clients that never read": 1,
    "strangers that say nothing": 1,
    "swap": 4,
    "pause": 2,
    "drain": 1,
    "cancel": 2,
    "move": 1,
}
NEEDS_DISKS: Final = frozenset({"fill the disk of the outputs", "fill the disk of the state", "fill both disks"})


@dataclass(frozen=True, slots=True)
class Mishap:
    """One fault: when it is due, for how long where it lasts, and the seed of what else is chance in it."""

    at: float
    kind: str
    seconds: float
    dice: int


def draw(seed: int, seconds: float, gap_s: float = GAP_S) -> list[Mishap]:
    """The faults of a run of so many seconds, in their order. The same seed gives the same ones."""
    rng = random.Random(f"mishaps {seed}")
    last_end_at = seconds - min(LAST_LIFE_S, seconds * LAST_LIFE_SHARE)
    deck = _deal(rng)
    mishaps: list[Mishap] = []
    at = QUIET_S
    while (at := at + rng.expovariate(1 / gap_s)) < seconds:
        kind = next(deck)
        while ends_daemon(kind) and at > last_end_at:
            kind = next(deck)
        mishaps.append(Mishap(at, kind, rng.uniform(0.5, 4.0), rng.getrandbits(32)))
    return mishaps


def ends_daemon(kind: str) -> bool:
    """Whether another life of the daemon follows."""
    return kind.startswith((KILL_DAEMON, RESTART_DAEMON))


def _deal(rng: random.Random) -> Iterator[str]:
    while True:
        deck = [kind for kind, times in DECK.items() for _ in range(times)]
        rng.shuffle(deck)
        yield from deck
