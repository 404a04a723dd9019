"""A handover's beginning in words: what ended the old session early, why nothing was prepared. Decides nothing.

Both look at the decision with which the old session's last item was known: its `before` is how things stood.
"""

from __future__ import annotations

from states import gate, policy, reasons
from states.decision import Decision
from states.events import Exited
from states.notes import SessionCancelled, SessionFailed, SessionRetried
from states.snapshot import Fate, Lane, Worker, World
from states.work import Session


def ended_early(ended: Decision, lane: Lane, old: Worker) -> str | None:
    """What ended the session before its last item; None where it came to its end by itself."""
    if isinstance(ended.event, Exited):
        for note in ended.notes:
            if isinstance(note, SessionFailed | SessionRetried) and note.session == old.session.name:
                return f"it failed: {note.reason}"
            if isinstance(note, SessionCancelled) and note.session == old.session.name:
                return "it was cancelled"
        return "its worker ended"
    match old.fate:
        case Fate.CANCEL:
            return "it was cancelled"
        case Fate.RETRY:
            return f"it {old.trouble.reason}" if old.trouble is not None else "it is tried again"
        case Fate.REQUEUE:
            return "a swap was asked for" if lane.swap_asked else "its lane was drained"
        case Fate.COMPLETE:
            return None


def unprepared(ended: Decision, lane: Lane, old: Worker, session: Session) -> str | None:
    """Why nothing was being prepared for the session that followed; None where it could have been, had time allowed."""
    world, at = ended.before, ended.event.at
    if lane.standby is not None:
        other = lane.standby.session.name
        return None if other == session.name else f"{other} was being prepared"
    queued = next((each for each in world.queue if each.name == session.name), None)
    if queued is None:
        return _not_queued(world, old, session)
    if queued.waits_for:
        return f"it came after {', '.join(sorted(queued.waits_for))}"
    if queued.not_before > at:
        return f"it was to be tried again {reasons.seconds(queued.not_before - at)} later, not before"
    if lane.held:
        return "the lane was paused"
    if lane.leaving:
        return f"the worker of {', '.join(worker.session.name for worker in lane.leaving)} had not ended"
    head = policy.head(world, lane, at)
    if head is not None and head.name != session.name:
        return f"{head.name} was to be next"
    if policy.needs_empty(world, lane, queued):
        return _alone(world, lane, old, queued)
    if gate.fitting_tier(world, lane, queued) is None:
        first = lane.tiers[0] if queued.stepwise else lane.top
        return f"it {reasons.memory(world, lane, queued, first, None, at)}"
    return None


def _not_queued(world: World, old: Worker, session: Session) -> str | None:
    if old.session.name == session.name:
        return "it is the session that had just ended"
    workers = (worker for each in world.lanes.values() for worker in each.workers())
    held = any(worker.session.name == session.name for worker in workers)
    return "its worker before this one had not ended" if held else None


def _alone(world: World, lane: Lane, old: Worker, session: Session) -> str:
    """Why it is begun only on a device that is free of all others."""
    if not session.prepares:
        return (
            "it computes as soon as it is started, so it waits until the device is free; prepare = true lets a program"
            " that calls session.ready() be prepared before"
        )
    if session.out_of_memory:
        return "it ran out of memory, and gets the device to itself"
    if not gate.is_known(world, lane, session):
        return "its need of memory is not known; memory = … lets it be prepared beside another"
    return f"{old.session.name} ran out of memory once, and had the device to itself"
