"""The forecast against the simulation: where everything lasts as long as predicted, sessions begin as was forecast.

The simulation is another driver of the core: real records, readings, ticks and workers, each with the truth about its
work. Its chance is taken out here, so that what it was said to take is what it takes.
"""

from __future__ import annotations

from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from states.decision import Decision
from states.effects import StartStandby
from states.events import Queued
from states.forecast import forecast
from states.hindsight import Learned, Run
from states.notes import SessionStarted
from states.outlook import Planned
from states.snapshot import Limits, World
from states.work import Profile, Tier
from tests.simulation.plan import Job, LanePlan, Plan, Tells
from tests.simulation.shell import Shell
from tests.simulation.simulation import Simulation

GIB = 1 << 30
GAP_S = 0.005  # what a simulated worker takes from `go` to its first item
LOAD_S = 8.0
SLACK_S = 3.0  # a worker is born within a second; a second one may wait for a reading
APART_S = 4.0  # beginnings and ends nearer to each other than this could come in another order for a trifle
LEARNED = Profile(prepared_s=(LOAD_S,) * 3, alone_s=(LOAD_S,) * 3, peak_bytes=2 * GIB, host_peak_bytes=GIB // 4)


Begun: TypeAlias = tuple[str, float]  # lane and time


class Even(Random):
    """No chance: the factor 1, the first of a choice."""

    def uniform(self, a: float, b: float) -> float:
        return 1.0

    def choice(self, seq: Any) -> Any:
        return seq[0]


def job(name: str, seconds: float, **fields: Any) -> Job:
    """`seconds` of work, in items of a tenth of a second; told by what was learned, not by its own pace."""
    given: dict[str, Any] = {
        "id": name,
        "name": name,
        "at": 0.0,
        "items": int(seconds * 10),
        "batch": 20,
        "item_s": 0.1,
        "load_s": LOAD_S,
        "commit_s": 0.0,
        "checkpoint": 0,
        "hold_bytes": GIB,
        "guess_bytes": GIB,
        "profile": "m",
        "told_total": True,
    }
    return Job(**(given | fields))


def lane(number: int) -> LanePlan:
    return LanePlan(
        name=f"gpu{number}",
        device="gpu",
        index=number,
        total=16 * GIB,
        tiers=(Tier.IMPORTED, Tier.STAGED, Tier.WARM),
        imported_bytes=0,
        lag_s=0.0,
        context_bytes=GIB // 2,
        tells=Tells.BYTES,
    )


def gaps(lanes: int) -> dict[tuple[str, str], tuple[float, ...]]:
    return {(f"gpu{n}", tier): took for n in range(lanes) for tier, took in (("warm", (GAP_S,)), ("none", (LOAD_S,)))}


def enacted(jobs: list[Job], lanes: int) -> tuple[dict[str, Begun], World, float]:
    """Where and when the simulation began each session, in that order; and the world with all of them submitted."""
    plan = Plan(
        seed="exact",
        lanes=tuple(lane(number) for number in range(lanes)),
        jobs=tuple(jobs),
        mishaps=(),
        troubles=(),
        wishes=(),
        limits=Limits(headroom_bytes=GIB // 4),
        calm_at=0.0,
        patience_s=30.0,
        quiet_s=1.0,
        waiting_s=0.1,
        host_bytes=64 * GIB,
    )
    simulation = Exact(plan)
    simulation.run()
    began: dict[str, Begun] = {}
    submitted: tuple[World, float] | None = None
    for decision in (each for each in simulation.trace if isinstance(each, Decision)):
        if isinstance(decision.event, Queued):
            submitted = (decision.after, decision.event.at)
        for note in decision.notes:
            if isinstance(note, SessionStarted):
                began[note.session] = (note.lane, decision.event.at)
    assert submitted is not None
    return began, *submitted


class Exact(Simulation):
    """A simulation in which each thing takes its own time, and the daemon has learned that time."""

    def _boot(self) -> Shell:
        self.record.profiles["m@gpu"] = LEARNED
        return super()._boot()

    def _start(self, order: StartStandby) -> None:
        super()._start(order)
        for worker in self.workers[order.generation]:
            worker.chance = Even(0)


def apart(planned: tuple[Planned, ...], at: float) -> bool:
    """Whether no two moments at which something is decided on different lanes could change places for a trifle."""
    moments = [(each.lane, each.end.at) for each in planned]
    moments += [(each.lane, each.prepare_at) for each in planned if (each.prepare_at or 0.0) > at + APART_S]
    return all(
        abs((one or 0.0) - (other or 0.0)) >= APART_S
        for place, (here, one) in enumerate(moments)
        for there, other in moments[:place]
        if here != there
    )


@st.composite
def queues(draw: st.DrawFn, lanes: int) -> list[Job]:
    """Up to five sessions with priorities, devices and what they wait for."""
    count = draw(st.integers(2, 5))
    devices = ["any", *(f"gpu:{number}" for number in range(lanes))]
    return [
        job(
            f"s{number}",
            draw(st.integers(3, 12)) * 5.0 + number,
            priority=draw(st.integers(0, 2)),
            device=draw(st.sampled_from(devices)),
            waits_for=tuple(draw(st.sets(st.sampled_from([f"s{n}" for n in range(number)]), max_size=2)))
            if number
            else (),
        )
        for number in range(count)
    ]


def check(jobs: list[Job], lanes: int) -> None:
    began, world, at = enacted(jobs, lanes)
    runs = {"m@gpu": tuple(Run(each.items, each.items * each.item_s) for each in jobs)}
    planned = forecast(world, at, Learned(runs, gaps(lanes)))
    assume(apart(planned, at))
    for number in range(lanes):
        name = f"gpu{number}"
        assert [each.session for each in planned if each.lane == name] == [
            s for s, (on, _) in began.items() if on == name
        ]
    for each in planned:
        assert each.start.at == pytest.approx(began[each.session][1], abs=SLACK_S)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(queues(1))
def test_on_one_lane_sessions_begin_as_forecast(jobs: list[Job]) -> None:
    check(jobs, 1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(queues(2))
def test_on_two_lanes_sessions_begin_as_forecast(jobs: list[Job]) -> None:
    check(jobs, 2)


def test_a_standby_is_kept_though_something_of_higher_priority_gets_due() -> None:
    """The forecast has the policy's own turns, not those that a sorted queue would suggest."""
    began, world, at = enacted([job("s0", 60), job("urgent", 30, priority=2, waits_for=("s0",)), job("s2", 90)], 1)
    runs = {"m@gpu": (Run(600, 60.0),)}
    planned = forecast(world, at, Learned(runs, gaps(1)))
    assert [each.session for each in planned] == list(began) == ["s0", "s2", "urgent"]
