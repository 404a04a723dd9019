"""What becomes of a session when its worker is done with it: done, failed, cancelled, or back in the queue.

Every session leaves its worker through here, exactly once.
"""

from __future__ import annotations

import zlib
from dataclasses import replace

from states.draft import Draft
from states.notes import SessionCancelled, SessionFailed, SessionFinished, SessionQueued, SessionRetried
from states.snapshot import Fate, Limits, Phase, Trouble, Worker
from states.work import Session


def finish(draft: Draft, worker: Worker) -> None:
    """Every item is durable: the session is done, and those that wait for it are one step nearer."""
    name = worker.session.name
    seconds = (worker.ended_at or draft.at) - (worker.began_at or draft.at)
    draft.note(SessionFinished(name, draft.name, worker.generation, worker.cursor, seconds, worker.errors))
    draft.queue = tuple(
        replace(each, waits_for=each.waits_for - {name}) if name in each.waits_for else each for each in draft.queue
    )


def settle(draft: Draft, worker: Worker, status: int | None, reason: str) -> None:
    """The worker's process is gone: decide what that means for its session."""
    if worker.settled:
        return
    begun = worker.session.begun or worker.phase not in {Phase.LOADING, Phase.READY}  # told to go, heard of or not
    cursor = worker.cursor if worker.session.resumable else 0  # what it begins anew, it begins at its first item
    session = replace(worker.session, cursor=cursor, total=worker.total, begun=begun, errors=worker.errors)
    if worker.fate is Fate.CANCEL:
        cancel(draft, session, draft.name, "cancelled")
    elif draft.lane.lost is not None and worker.fate is Fate.REQUEUE:
        requeue(
            draft, session, f"its device was lost: {draft.lane.lost}"
        )  # whatever it said: it was the device's fault
    elif draft.lane.unread is not None and worker.trouble is not None and worker.trouble.permanent:
        _retry(draft, session, worker.trouble)  # its device may be going: what it says is not believed for good
    elif worker.trouble is not None and worker.trouble.permanent:
        _fail(draft, session, worker.trouble)
    elif worker.unheard:
        requeue(draft, session, "its worker ended while no batond watched it")
    elif worker.fate is Fate.REQUEUE or _handed_back(worker, status):
        requeue(draft, session, "handed back")
    else:
        _retry(draft, session, worker.trouble or _crash(worker, status, reason))


def cancel(draft: Draft, session: Session, lane: str | None, why: str) -> None:
    """End a session that is in nobody's hands, and those that wait for it."""
    draft.note(SessionCancelled(session.name, lane, why, session.cursor))
    _drop_dependents(draft, session.name, "was cancelled")


def requeue(draft: Draft, session: Session, why: str) -> None:
    """Put a session back at its place and cursor."""
    draft.enqueue(session)
    draft.note(SessionQueued(session, why, draft.name))


def _handed_back(worker: Worker, status: int | None) -> bool:
    """Whether the worker drained by itself and committed what it had: its session goes on where it stopped.

    One that was adopted may have been told to drain by the daemon before, with nothing new to commit.
    """
    durable = worker.phase is Phase.COMMITTED and (worker.cursor > worker.start or worker.adopted)
    return durable and worker.fate is Fate.COMPLETE and status in (0, None)


def _crash(worker: Worker, status: int | None, reason: str) -> Trouble:
    if reason:
        return Trouble("crash", reason)
    if worker.forced is not None:
        return Trouble("timeout", f"was ended by force while {worker.phase.value}")
    if status is None:
        return Trouble("crash", f"its process ended while {worker.phase.value}")
    if status < 0:
        return Trouble("crash", f"its process was killed by signal {-status} while {worker.phase.value}")
    return Trouble("crash", f"its process exited with status {status} while {worker.phase.value}")


def _retry(draft: Draft, session: Session, trouble: Trouble) -> None:
    tried = replace(session, attempt=session.attempt + 1)
    if trouble.out_of_memory:
        if session.out_of_memory:
            _fail(draft, session, replace(trouble, reason=f"{trouble.reason} (again, with the device to itself)"))
            return
        tried = replace(tried, out_of_memory=1)
    if tried.attempt >= tried.max_attempts:
        _fail(draft, session, trouble)
        return
    wait = _backoff(draft.limits, tried)
    draft.note(
        SessionRetried(session.name, draft.name, trouble.kind, trouble.reason, tried.attempt, tried.max_attempts, wait)
    )
    requeue(draft, replace(tried, not_before=draft.at + wait), "tried again")


def _backoff(limits: Limits, session: Session) -> float:
    """Seconds until the next attempt: doubled each time, the second half of them spread over the sessions by name.

    So those that failed of one cause do not all come back at one moment ("equal jitter"; M. Brooker, "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015). The spread is a hash: the same session waits as long again.
    """
    longest = min(limits.backoff_s * 2.0 ** (session.attempt - 1), limits.backoff_cap_s)
    share = zlib.crc32(f"{session.name}/{session.attempt}".encode()) / (1 << 32)
    return longest * (0.5 + 0.5 * share)


def _fail(draft: Draft, session: Session, trouble: Trouble) -> None:
    draft.note(SessionFailed(session.name, draft.name, trouble.kind, trouble.reason, trouble.item, session.attempt + 1))
    _drop_dependents(draft, session.name, "failed")


def _drop_dependents(draft: Draft, name: str, what: str) -> None:
    for each in draft.queue:
        if name in each.waits_for and any(queued.name == each.name for queued in draft.queue):
            draft.dequeue(each.name)
            cancel(draft, each, None, f"it waits for {name}, which {what}")
