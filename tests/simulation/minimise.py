"""A plan that breaks a law, made smaller for as long as it breaks the same one. Draws nothing anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from tests.simulation.laws import Broken
from tests.simulation.plan import Plan
from tests.simulation.simulation import Simulation

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """A run, and the law that it broke with what says so; None where it kept them all."""

    simulation: Simulation
    law: str | None = None
    error: Exception | None = None


def tried(plan: Plan) -> Outcome:
    """Run the plan's world."""
    simulation = Simulation(plan)
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever the core raises is what is looked for
        return Outcome(simulation, law_of(error), error)
    return Outcome(simulation)


def law_of(error: Exception) -> str:
    """The law that an exception of a run stands for: two with the same one found the same thing."""
    return error.law if isinstance(error, Broken) else type(error).__name__


def minimise(plan: Plan, law: str, runs: int = 400) -> Plan:
    """The smallest plan found, in at most so many runs, that breaks `law` as this one does."""
    left = runs

    def still(candidate: Plan) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and tried(candidate).law == law

    size = plan.size + 1
    while left > 0 and plan.size < size:
        size = plan.size
        plan = _fewer(plan, lambda p: tuple(job.id for job in p.jobs), _keeping_jobs, still)
        plan = _fewer(plan, lambda p: p.troubles, lambda p, kept: replace(p, troubles=kept), still)
        plan = _fewer(plan, lambda p: p.mishaps, lambda p, kept: replace(p, mishaps=kept), still)
        plan = _fewer(plan, lambda p: p.wishes, lambda p, kept: replace(p, wishes=kept), still)
        plan = _fewer(plan, lambda p: tuple(lane.name for lane in p.lanes), _keeping_lanes, still)
    return plan


def _fewer(
    plan: Plan,
    parts: Callable[[Plan], tuple[T, ...]],
    keeping: Callable[[Plan, tuple[T, ...]], Plan],
    still: Callable[[Plan], bool],
) -> Plan:
    """Leave out halves, quarters, … of the parts, down to single ones, for as long as that is `still` so."""
    chunk = max(1, len(parts(plan)))
    while chunk:
        place = 0
        while place < len(all_ := parts(plan)):
            candidate = keeping(plan, (*all_[:place], *all_[place + chunk :]))
            if still(candidate):
                plan = candidate
            else:
                place += chunk
        chunk //= 2
    return plan


def _keeping_jobs(plan: Plan, kept: tuple[str, ...]) -> Plan:
    return plan.without_jobs({job.id for job in plan.jobs} - set(kept))


def _keeping_lanes(plan: Plan, kept: tuple[str, ...]) -> Plan:
    """Only where every job still has a lane to run on: else nothing would ever end, and that would be no find."""
    lanes = tuple(lane for lane in plan.lanes if lane.name in kept)
    devices = {"any", *(lane.device for lane in lanes)}
    if not lanes or not all(job.device in devices for job in plan.jobs):
        return plan
    return replace(
        plan,
        lanes=lanes,
        troubles=tuple(each for each in plan.troubles if each.lane in kept),
        wishes=tuple(each for each in plan.wishes if each.lane in kept),
    )
