"""The gap: from the last item of one session to the first of the next, by batond and by what people run instead.

    python -m bench.gap         # half an hour: a hundred handovers by batond, twelve by each of the others

MobileNetV2 and ResNet50, 224 × 224, batches of 8; bench/smallgap.py has small models. The sessions of those who load
when the last has ended are short: their gaps do not depend on it. A thread's are as long as batond's: it loads beside
them, and what it has not done by their end is in its gap. To the others' favour, a model's first call, which is a
standby's work with batond, counts as computing with them. By turns, in one run.
"""

from __future__ import annotations

from typing import Final

from bench.figures import Figures, run, spread
from bench.house import House, house
from bench.relay import Relay, relay
from bench.rivals import Job, Rivals, available
from bench.samples import SMALL, TWO, Sample, samples

LASTS_S: Final = 9.0  # of each session that another is prepared beside
OTHERS_S: Final = 2.0
TURNS: Final = 4
HANDOVERS, OTHERS = 25, 3  # of batond, and of each of the others, a turn


def measure(*, small: bool) -> Figures:
    """Gaps between sessions of networks, by turns."""
    if small:
        return tiny()
    return handed_over(samples(TWO), available(), TURNS, HANDOVERS, OTHERS, LASTS_S)


def tiny() -> Figures:
    """One of each, of small models: whether it runs."""
    return handed_over(samples(SMALL), available(fetch=False), 1, 1, 1, 1.0)


def handed_over(
    models: list[Sample], rivals: Rivals, turns: int, handovers: int, others: int, lasts_s: float
) -> Figures:
    """So many handovers by batond in each turn, and by each of the others."""
    relays: list[Relay] = []
    gaps: dict[str, list[float]] = {name: [] for name in rivals}
    late = 0
    with house() as daemon:
        for _ in range(turns):
            relays.append(relay(daemon, alternating(models, handovers + 1, lasts_s)))
            daemon_rests(daemon)
            for name, rival in rivals.items():
                seconds = lasts_s if name == "thread" else min(lasts_s, OTHERS_S)
                ran = rival(alternating(models, others + 1, seconds))
                gaps[name] += ran.gaps_s
                late += ran.late if name == "thread" else 0
    told = [event for each in relays for event in each.handovers]
    assert len(told) == turns * handovers, f"{len(told)} handovers where there should be {turns * handovers}"
    ours = [event["gap_s"] for event in told]
    ready = [event for event in told if event["device_waited_s"] == 0.0 and event["tier"] == "warm"]
    leads_s = {event["session"]: event["lead_next_s"] for event in daemon.told("handover.checked")}
    return {
        "gap_s": {"batond": spread(ours), **{name: spread(each) for name, each in gaps.items()}},
        "gap_where_ready_s": spread([event["gap_s"] for event in ready]) if ready else None,
        "times_smaller_than": {name: round(_median(each) / _median(ours), 1) for name, each in gaps.items()},
        "later_than_thread_s": round(_median(ours) - _median(gaps["thread"]), 6),
        "thread_late": late,
        "thread_handovers": turns * others,
        "ready_in_time": len(ready),
        "handovers": len(told),
        "more_than_two_leads_early": sum(event["idle_standby_s"] > 2 * leads_s[event["session"]] for event in told),
        "idle_standby_s": spread([event["idle_standby_s"] for event in ready]) if ready else None,
    }


def alternating(models: list[Sample], count: int, seconds: float) -> list[Job]:
    """So many sessions, the models by turns, each about so long."""
    return [(model, model.items(seconds)) for model in (models * count)[:count]]


def daemon_rests(daemon: House) -> None:
    """Wait until nothing of it runs: the others have the host to themselves then."""
    daemon.wait(lambda event: event["event"] == "lane.moved" and event["to"] == "Idle", since=_last_start(daemon))


def _last_start(daemon: House) -> int:
    starts = [number for number, event in enumerate(daemon.events) if event["event"] == "session.started"]
    return starts[-1] if starts else 0


def _median(samples: list[float]) -> float:
    return float(spread(samples)["median"])


if __name__ == "__main__":
    run("gap", measure, takes="half an hour")
