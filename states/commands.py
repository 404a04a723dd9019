"""What people ask for: why it cannot be done, or what it changes in the books. It moves no lane.

A command that cannot be carried out is refused with a sentence: what, why, what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from states import fate, reasons
from states.draft import Draft
from states.events import Cancel, DrainLane, Move, Pause, Queued, Resume, Swap
from states.notes import CancelAsked, LaneHeld, SessionMoved, SessionQueued
from states.snapshot import Fate, World
from states.triggers import Trigger


def refusal(world: World, event: Queued | Cancel | Swap | Pause | Resume | DrainLane | Move) -> str | None:
    """Why this cannot be done now; None when it can."""
    match event:
        case Queued():
            return _queue_refusal(world, event)
        case Cancel(name=name):
            return _cancel_refusal(world, name)
        case Move():
            return _move_refusal(world, event)
        case Swap(lane=name):
            lane = world.lanes.get(name)
            return _no_lane(world, name) if lane is None else reasons.swap_refusal(world, lane, event)
        case Pause(lane=name) | Resume(lane=name) | DrainLane(lane=name):
            return _no_lane(world, name) if name not in world.lanes else None


def _queue_refusal(world: World, event: Queued) -> str | None:
    if world.stopping:
        return f"cannot queue {event.session.name}: batond is stopping"
    queued = {session.name for session in world.queue}
    names: set[str] = set()
    for session in event.sessions:
        place = "queued" if session.name in queued else _place(world, session.name, in_queue=False)
        if place is not None or session.name in names:
            return f"cannot queue {session.name}: a session of that name is {place or 'submitted with it'}"
        names.add(session.name)
    return None


def _no_lane(world: World, name: str) -> str:
    return f"there is no lane {name} (there is: {', '.join(world.lanes)})"


def _place(world: World, name: str, *, in_queue: bool = True) -> str | None:
    if in_queue and any(session.name == name for session in world.queue):
        return "queued"
    for lane in world.lanes.values():
        if any(worker.session.name == name and not worker.settled for worker in lane.workers()):
            return f"on lane {lane.name}"
    return None


def _cancel_refusal(world: World, name: str) -> str | None:
    if _place(world, name) is None:
        return f"cannot cancel {name}: no session of that name is queued or running"
    for lane in world.lanes.values():
        for worker in lane.workers():
            if worker.session.name != name or worker.settled:
                continue
            if worker.fate is Fate.CANCEL:
                return f"cannot cancel {name}: it is being cancelled already"
            if worker in lane.retiring and worker.fate is Fate.COMPLETE:
                return f"cannot cancel {name}: its last item is computed, and its output is being committed"
    return None


def _move_refusal(world: World, event: Move) -> str | None:
    names = {session.name for session in world.queue}
    for name in (event.name, event.before):
        if name is not None and name not in names:
            return f"cannot move {event.name}: no session {name} is queued"
    if event.before == event.name:
        return f"cannot move {event.name} before itself"
    return None


def file_queued(draft: Draft, event: Queued) -> Iterator[tuple[str, Trigger]]:
    """Take what was submitted into the queue; every lane may look at it."""
    sessions = tuple(replace(session, queued_at=draft.at) for session in event.sessions)
    draft.enqueue(*sessions)
    for session in sessions:
        draft.note(SessionQueued(session, "submitted"))
    for name in draft.lanes:
        yield name, Trigger.QUEUED


def file_cancel(draft: Draft, event: Cancel) -> Iterator[tuple[str, Trigger]]:
    """End a session: out of the queue at once, out of a worker's hands by its drain or end."""
    if any(session.name == event.name for session in draft.queue):
        fate.cancel(draft, draft.dequeue(event.name), None, "cancelled")
        return
    for lane in draft.before.lanes.values():
        for worker in lane.workers():
            if worker.session.name != event.name or worker.settled:
                continue
            draft.name = lane.name
            worker = draft.put(worker, session=replace(worker.session, cancelled=True))
            draft.note(CancelAsked(event.name, lane.name))
            lane = draft.lane
            if worker is lane.active:
                yield lane.name, Trigger.CANCEL_ACTIVE
            elif worker is lane.standby:
                yield lane.name, Trigger.CANCEL_STANDBY
            else:
                draft.put(worker, fate=Fate.CANCEL)


def file_hold(draft: Draft, event: Pause | Resume | DrainLane) -> Iterator[tuple[str, Trigger]]:
    """Hold a lane, or let it go; a drained one is held as well."""
    draft.name = event.lane
    held = not isinstance(event, Resume)
    draft.change(held=held)
    draft.note(LaneHeld(event.lane, held))
    if isinstance(event, Resume):
        yield event.lane, Trigger.RESUME
    elif isinstance(event, DrainLane):
        yield event.lane, Trigger.DRAIN_LANE


def file_move(draft: Draft, event: Move) -> None:
    """Give a queued session another place; before one of another priority, it takes that priority too."""
    session = draft.dequeue(event.name)
    if event.before is not None:
        order, priority = _place_before(draft, event.before)
    else:
        peers = [each.order for each in draft.queue if each.priority == session.priority] or [session.order]
        order, priority = (max(peers) + 1 if event.last else min(peers) - 1), session.priority
    moved = replace(session, order=order, priority=priority)
    draft.enqueue(moved)
    draft.note(SessionMoved(moved.name, moved.order, moved.priority))


def _place_before(draft: Draft, name: str) -> tuple[float, int]:
    """A place in the queue just before a session, and that one's priority."""
    index = next(i for i, each in enumerate(draft.queue) if each.name == name)
    target = draft.queue[index]
    peers = [each for each in draft.queue[:index] if each.priority == target.priority]
    below = peers[-1].order if peers else target.order - 2
    middle = (below + target.order) / 2
    if below < middle < target.order:
        return middle, target.priority
    # Fifty halvings of one gap use up a float: those from the target on make room.
    draft.queue = tuple(
        replace(each, order=each.order + 1) if each.priority == target.priority and i >= index else each
        for i, each in enumerate(draft.queue)
    )
    return below + 0.5, target.priority
