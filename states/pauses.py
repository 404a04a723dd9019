"""A worker that has no room to write its output in: its clocks stand, and go on. Moves no lane, ends no session."""

from __future__ import annotations

from states.draft import Draft
from states.events import Paused
from states.notes import SessionPaused, SessionResumed
from states.snapshot import Fate, Phase, Worker


def pause(draft: Draft, worker: Worker, event: Paused) -> None:
    """It waits for room: that is no stall, and not its fault. Its clocks stand, up to a limit."""
    if worker.paused is not None or worker.phase not in {Phase.COMPUTING, Phase.DRAINING, Phase.COMMITTING}:
        return
    now = draft.put(worker, paused=event.reason, paused_at=draft.at, stall_at=None)
    if not worker.forced and worker.fate is not Fate.CANCEL:
        left = 0.0 if worker.deadline is None else worker.deadline - draft.at
        draft.put(now, deadline=deadline(draft, now, left))
    draft.note(SessionPaused(worker.session.name, draft.name, worker.generation, event.reason, worker.cursor))


def resume(draft: Draft, worker: Worker) -> Worker:
    """There is room: the clock of what it does begins anew. The worker as it is now."""
    if worker.paused is None:
        return worker
    draft.note(SessionResumed(worker.session.name, draft.name, worker.generation, draft.at - worker.paused_at))
    now = draft.put(worker, paused=None)
    if worker.forced:
        return now
    limits = draft.limits
    match worker.phase:
        case Phase.COMPUTING:
            reports = worker.session.prepares or worker.pace is not None
            return draft.put(now, deadline=None, stall_at=draft.at + limits.stall_timeout_s if reports else None)
        case Phase.DRAINING:
            seconds = limits.stall_timeout_s if worker.fate is Fate.COMPLETE else limits.drain_timeout_s
            return draft.put(now, deadline=draft.at + seconds)
        case _:
            return draft.put(now, deadline=draft.at + limits.commit_timeout_s)


def deadline(draft: Draft, worker: Worker, seconds: float) -> float:
    """In so many seconds; of one that waits for room, not before its pause is too long.

    A daemon that stops does not wait for a disk: what is durable is kept, and the rest is done again.
    """
    patient = worker.paused is not None and not draft.stopping
    return draft.at + (max(seconds, draft.limits.pause_timeout_s) if patient else seconds)


def hurry(draft: Draft) -> None:
    """The daemon stops: those of the lane that wait for room have the time of any commit, from now on."""
    latest = draft.at + draft.limits.commit_timeout_s
    for worker in tuple(draft.lane.workers()):
        if worker.paused is not None and worker.deadline is not None and worker.deadline > latest:
            draft.put(worker, deadline=latest)
