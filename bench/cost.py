"""What preparing the next model costs the session that runs: its pace meanwhile, and the seconds of its work lost.

    python -m bench.cost        # a quarter of an hour

MobileNetV2 and ResNet50 by turns on one processor, prepared by batond at the kernel's lowest priority, and beside it in
one process that loads the next model in a thread. A session's pace alone is its own, before and after: so a host that
is busy with other things shows in both. batond prepares more than the thread loads: its standby has made the first
call, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

from bench.figures import Figures, run, spread
from bench.gap import alternating
from bench.house import house
from bench.relay import Relay, relay
from bench.rivals import thread
from bench.samples import BATCH, SMALL, TWO, samples

LASTS_S: Final = 25.0
TURNS: Final = 3
SESSIONS: Final = 5  # a turn
SETTLES_S: Final = 2.0  # of a session's start: its first calls are slow, its own doing

Pace = list[tuple[float, int]]  # when, how many items


def measure(*, small: bool) -> Figures:
    """The running session's pace while the next is prepared."""
    models = samples(SMALL if small else TWO)
    turns, sessions, lasts = (1, 2, 3.0) if small else (TURNS, SESSIONS, LASTS_S)
    ours: list[Figures] = []
    theirs: list[Figures] = []
    idle: list[float] = []
    late = handovers = 0
    with house() as daemon:
        for _ in range(turns):
            ran = relay(daemon, alternating(models, sessions, lasts))
            ours += of_relay(ran, small=small)
            handovers += len(ran.handovers)
            late += sum(event["device_waited_s"] > 0.0 for event in ran.handovers)
            idle += [event["idle_standby_s"] for event in ran.handovers]
            theirs += of_thread(thread(alternating(models, sessions, lasts)).sessions, small=small)
    return {
        "batond": summed(ours),
        "thread": summed(theirs),
        "handovers": handovers,
        "late": late,
        "idle_standby_s": spread(idle) if idle else None,
    }


def of_relay(ran: Relay, *, small: bool) -> list[Figures]:
    """Of each preparation by batond."""
    found = []
    for standby in ran.standbys:
        pace = ran.progress.get(standby.active or "", [])
        found += compared(pace, standby.began, standby.ready, small=small)
    return found


def of_thread(sessions: Sequence[dict[str, Any]], *, small: bool) -> list[Figures]:
    """Of each load in a thread."""
    found = []
    for before, after in itertools.pairwise(sessions):
        pace = [(at, BATCH * (n + 1)) for n, at in enumerate(before["batches"])]
        found += compared(pace, *after["loaded"], small=small)
    return found


def compared(pace: Pace, began: float, ready: float, *, small: bool) -> list[Figures]:
    """The pace within [began, ready] and that of the rest of the session; nothing where either is too short to tell."""
    least = 0.05 if small else 0.5
    settled = [each for each in pace if small or each[0] >= pace[0][0] + SETTLES_S]
    within = [each for each in settled if began <= each[0] <= ready]
    before = [each for each in settled if each[0] < began]
    after = [each for each in settled if each[0] > ready]
    alone_s, alone = _summed(before, after)
    beside_s, beside = _summed(within)
    if beside_s < least or alone_s < least or alone == 0:
        return []
    ratio = (beside / beside_s) / (alone / alone_s)
    return [{"pace": ratio, "preparing_s": ready - began, "lost_s": (1.0 - ratio) * (ready - began)}]


def _summed(*stretches: Pace) -> tuple[float, int]:
    seconds, items = 0.0, 0
    for stretch in stretches:
        if len(stretch) > 1:
            seconds += stretch[-1][0] - stretch[0][0]
            items += stretch[-1][1] - stretch[0][1]
    return seconds, items


def summed(each: list[Figures]) -> Figures:
    """Of all preparations."""
    if not each:
        return {"preparations": 0}
    return {
        "preparations": len(each),
        "pace_of_alone": spread([one["pace"] for one in each]),
        "preparing_s": spread([one["preparing_s"] for one in each]),
        "lost_s": spread([one["lost_s"] for one in each]),
    }


if __name__ == "__main__":
    run("cost", measure, takes="a quarter of an hour")
