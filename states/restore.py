"""The world as an earlier daemon left it: which recorded worker plays which part, until it speaks or is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from states import gate
from states.effects import Force
from states.snapshot import Fate, Lane, Phase, State, Worker, World
from states.work import Session


@dataclass(frozen=True, slots=True)
class Remnant:
    """A worker's process that was found alive. `promoted`: it had been told to go."""

    lane: str
    session: Session
    generation: int
    promoted: bool


def restore(world: World, remnants: Iterable[Remnant], at: float, patience_s: float) -> World:
    """Put the found workers on their lanes; their sessions leave the queue.

    The last one promoted has the device, those before it were committing. A standby ends by itself when it loses its
    daemon: it is waited for. Each has `patience_s` to be heard of. A lane that is there no more leaves its
    workers to end by themselves, and their sessions in the queue: not before their processes are gone, so
    the caller must name no such lane.
    """
    for remnant in sorted(remnants, key=lambda each: each.generation):
        lane = world.lanes[remnant.lane]
        queue = tuple(session for session in world.queue if session.name != remnant.session.name)
        world = replace(
            world, queue=queue, lanes={**world.lanes, lane.name: _with(world, lane, remnant, at, patience_s)}
        )
    return world


def _with(world: World, lane: Lane, remnant: Remnant, at: float, patience_s: float) -> Lane:
    worker = Worker(
        session=replace(remnant.session, begun=remnant.session.begun or remnant.promoted),
        generation=remnant.generation,
        phase=Phase.GOING,
        aim=lane.top,
        tier=lane.top,
        reserved=gate.given(world, lane, remnant.session, lane.top),
        host_reserved=gate.host_need(world, lane, remnant.session, lane.top),
        since=at,
        spawned_at=at,
        beside=False,
        deadline=at + patience_s,
        unheard=True,
        fate=Fate.CANCEL if remnant.session.cancelled else Fate.COMPLETE,
        start=remnant.session.cursor,
        cursor=remnant.session.cursor,
        done=remnant.session.cursor,
        errors=remnant.session.errors,
        total=remnant.session.total,
    )
    if not remnant.promoted:
        fate = Fate.CANCEL if remnant.session.cancelled else Fate.REQUEUE
        gone = replace(worker, phase=Phase.LOADING, fate=fate, forced=Force.ASK, unheard=False)
        return replace(lane, leaving=(*lane.leaving, gone))
    retiring = lane.retiring
    if lane.active is not None:
        retiring = (*retiring, replace(lane.active, phase=Phase.COMMITTING))
    return replace(lane, state=State.SWAPPING, since=at, active=worker, retiring=retiring)
