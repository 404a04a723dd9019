"""The gap: from the last item of one session to the first of the next, by batond and by what people run instead.

    python -m bench.gap         # 45 minutes: a hundred handovers of each size by batond, twelve by each of the others

Two sizes: networks (MobileNetV2 and ResNet50, 224 × 224, batches of 8) and small ones. The others' sessions are short:
their gaps do not depend on it. To their favour, a model's first call, which is a standby's work with batond, counts as
computing with them. By turns, in one run.
"""

from __future__ import annotations

from typing import Final

from bench.figures import Figures, run, spread
from bench.house import House, house
from bench.relay import Relay, relay
from bench.rivals import Job, available
from bench.samples import SMALL, TWO, Sample, samples

LASTS_S: Final = {"networks": 14.0, "small": 6.0}  # of each of batond's sessions: longer than a preparation beside it
OTHERS_S: Final = 2.0
TURNS: Final = 4


def measure(*, small: bool) -> Figures:
    """Gaps between sessions, by turns."""
    sizes = {"small": SMALL} if small else {"networks": TWO, "small": SMALL}
    turns, handovers, others = (1, 1, 1) if small else (TURNS, 25, 3)
    return {size: handed_over(size, samples(names), turns, handovers, others) for size, names in sizes.items()}


def handed_over(size: str, models: list[Sample], turns: int, handovers: int, others: int) -> Figures:
    """So many handovers by batond in each turn, and by each of the others."""
    relays: list[Relay] = []
    rivals = available()
    gaps: dict[str, list[float]] = {name: [] for name in rivals}
    with house() as daemon:
        for _ in range(turns):
            seconds = LASTS_S[size] if handovers > 1 else 1.0
            relays.append(relay(daemon, alternating(models, handovers + 1, seconds)))
            daemon_rests(daemon)
            for name, rival in rivals.items():
                gaps[name] += rival(alternating(models, others + 1, OTHERS_S if handovers > 1 else 0.5)).gaps_s
    told = [event for each in relays for event in each.handovers]
    ours = [event["gap_s"] for event in told]
    ready = [event for event in told if event["device_waited_s"] == 0.0 and event["tier"] == "warm"]
    early = [event["idle_standby_s"] / event["lead_s"] for event in ready if event["lead_s"]]
    return {
        "gap_s": {"batond": spread(ours), **{name: spread(each) for name, each in gaps.items()}},
        "gap_where_ready_s": spread([event["gap_s"] for event in ready]) if ready else None,
        "times_smaller_than": {name: round(_median(each) / _median(ours), 1) for name, each in gaps.items()},
        "ready_in_time": len(ready),
        "handovers": len(told),
        "idle_standby_over_lead": spread(early) if early else None,
        "more_than_two_leads_early": sum(each > 2.0 for each in early),
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
    run("gap", measure, takes="45 minutes")
