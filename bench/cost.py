"""What preparing the next model costs the session that runs: its pace meanwhile, and the seconds of its work lost.

    python -m bench.cost        # ten minutes

MobileNetV2 and ResNet50 by turns on all cores of the host, prepared by batond at the kernel's lowest priority, and
beside it in one process that loads the next model in a thread, from a third of the session on. A session's pace alone
is its own, before and after: so a host that is busy with other things shows in both. batond prepares more than the
thread loads: its standby has made the first call, too.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final

from bench.figures import Figures, run, spread
from bench.gap import alternating
from bench.house import house
from bench.relay import Relay, relay
from bench.rivals import thread
from bench.samples import BATCH, SMALL, TWO, samples

LASTS_S: Final = 20.0
TURNS: Final = 2
SESSIONS: Final = 4  # a turn
LOADS_AFTER: Final = 1 / 3  # of a session, the thread
SETTLES_S: Final = 2.0  # of a session's start: its first calls are slow, its own doing

Pace = list[tuple[float, int]]  # when, how many items


def measure(*, small: bool) -> Figures:
    """The running session's pace while the next is prepared."""
    models = samples(SMALL if small else TWO)
    turns, sessions, lasts = (1, 2, 1.0) if small else (TURNS, SESSIONS, LASTS_S)
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
            theirs += of_thread(thread(alternating(models, sessions, lasts), LOADS_AFTER).sessions, small=small)
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
        found += compared(ran.progress.get(standby.active, []), standby.began, standby.ready, small=small)
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
    if len(settled) < 2:
        return []
    first, last = settled[0][0], settled[-1][0]
    since, until = max(first, began), min(last, ready)
    beside_s, alone_s = until - since, (last - first) - (until - since)
    if beside_s < least or alone_s < least:
        return []
    beside = items_at(settled, until) - items_at(settled, since)
    alone = settled[-1][1] - settled[0][1] - beside
    ratio = (beside / beside_s) / (alone / alone_s)
    return [{"pace": ratio, "preparing_s": ready - began, "lost_s": (1.0 - ratio) * beside_s}]


def items_at(pace: Pace, at: float) -> float:
    """How many were done then, between two reports as if evenly: what a load holds up is not to fall between them."""
    after = bisect_left(pace, at, 1, len(pace) - 1, key=lambda each: each[0])
    (t0, n0), (t1, n1) = pace[after - 1], pace[after]
    return n0 + (n1 - n0) * (at - t0) / (t1 - t0)


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
    run("cost", measure, takes="ten minutes")
