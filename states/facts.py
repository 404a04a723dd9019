"""What a fact changes in the books, whatever state the lane is in: workers, readings, queue, profiles.

Each handler files its fact and says which trigger of which lane the table is then asked about. It moves no lane.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, assert_never

from states import fate, gate, pauses
from states.draft import Draft
from states.effects import DrainActive, Force
from states.estimate import Pace, context_bytes, learn_peak, learn_preparation, pool_need_bytes
from states.events import (
    Committed,
    Exited,
    Failed,
    FromWorker,
    Hello,
    LastBatch,
    Paused,
    Progress,
    Promoted,
    Quiesced,
    Ready,
    Resumed,
)
from states.notes import (
    CountMismatched,
    ProfileLearned,
    SessionAdopted,
    SessionCommitted,
    SessionStarted,
    StandbyReady,
    WorkerExited,
)
from states.snapshot import Fate, Lane, Phase, Reading, Relay, Trouble, Worker, context_key, find, profile_key
from states.triggers import Trigger
from states.work import Profile


def file_worker(draft: Draft, event: FromWorker) -> Iterator[tuple[str, Trigger]]:
    """File what a worker said, or what was seen of it. Of one that is gone, nothing."""
    found = find(draft.before, event.generation)
    if found is None:
        return
    lane, worker = found
    draft.name = lane.name
    trigger = _file(draft, lane, worker, event)
    if trigger is not None:
        yield lane.name, trigger


def _file(draft: Draft, lane: Lane, worker: Worker, event: FromWorker) -> Trigger | None:
    match event:
        case Hello() if worker.unheard:
            return _heard_again(draft, lane, worker, event)
        case Hello():
            if worker.phase is Phase.LOADING:  # said again later, it would undo what was counted since
                draft.put(worker, cursor=event.cursor, start=event.cursor, done=event.cursor)
            return None
        case Ready():
            return _ready(draft, lane, worker, event)
        case Promoted():
            return _promoted(draft, lane, worker, event)
        case Progress():
            return _progress(draft, lane, worker, event)
        case LastBatch():
            return _last_batch(draft, lane, worker)
        case Paused():
            pauses.pause(draft, worker, event)
            return None
        case Resumed():
            pauses.resume(draft, worker)
            return None
        case Quiesced():
            return _quiesced(draft, lane, worker, event)
        case Committed():
            return _committed(draft, worker, event)
        case Failed():
            draft.put(
                worker,
                trouble=worker.trouble or Trouble(event.kind, event.reason, event.item),
                deadline=worker.deadline if worker.forced else draft.at + draft.limits.exit_timeout_s,
            )
            return None
        case Exited():
            return _exited(draft, lane, worker, event)
        case _:
            assert_never(event)


def _heard_again(draft: Draft, lane: Lane, worker: Worker, event: Hello) -> Trigger | None:
    """A worker of an earlier life of the daemon is there. What else it says replays as the facts that were missed.

    What it was asked before it could hear it is asked again.
    """
    cursor = max(worker.cursor, event.cursor)
    deadline = draft.at + draft.limits.commit_timeout_s
    draft.put(
        worker,
        unheard=False,
        adopted=True,
        cursor=cursor,
        done=max(event.done, cursor),
        errors=max(worker.errors, event.errors),
        total=event.total if event.total is not None else worker.total,
        remaining=event.remaining,
        deadline=deadline,
    )
    draft.note(SessionAdopted(worker.session.name, lane.name, worker.generation, cursor))
    if worker is not lane.active:
        return None
    if worker.phase is Phase.DRAINING:
        draft.ask(DrainActive(lane.name, worker.generation, worker.fate is Fate.CANCEL))
        return None
    return Trigger.CANCEL_ACTIVE if worker.fate is Fate.CANCEL else None


def _ready(draft: Draft, lane: Lane, worker: Worker, event: Ready) -> Trigger | None:
    if worker is not lane.standby or worker.phase is not Phase.LOADING or worker.forced or worker.trouble:
        return None
    if worker.tier is not None and event.tier <= worker.tier:  # said before: it was told to go further since
        return None
    prepared = worker.prepared_s + event.seconds
    now = draft.put(
        _measured(draft, worker, event.peak_bytes, event.device_peak_bytes),
        phase=Phase.READY,
        tier=event.tier,
        since=draft.at,
        deadline=None,
        ready_at=draft.at,
        prepared_s=prepared,
        total=event.total if event.total is not None else worker.total,
    )
    draft.note(
        StandbyReady(
            lane.name,
            worker.session.name,
            worker.generation,
            event.tier.label,
            event.seconds,
            now.peak_bytes,
            event.total,
        )
    )
    key = profile_key(worker.session, lane)
    if event.tier is lane.top and worker.session.prepares:
        profile = learn_preparation(draft.profiles.get(key), prepared, beside=worker.beside, hurried=worker.hurried)
        if profile.peak_bytes:  # the first is of a whole run: what it takes up to here may be less than was guessed
            profile = learn_peak(profile, now.peak_bytes, now.host_peak_bytes)
        draft.learn(key, profile)
        draft.note(ProfileLearned(key, profile))
    return Trigger.READY


def _promoted(draft: Draft, lane: Lane, worker: Worker, event: Promoted) -> Trigger | None:
    if worker is not lane.active or worker.began_at is not None:
        return None
    if not worker.adopted:
        draft.note(
            SessionStarted(
                worker.session.name,
                lane.name,
                worker.generation,
                worker.session.attempt + 1,
                worker.start,
                worker.total,
            )
        )
    if worker.phase is not Phase.GOING:
        draft.put(worker, began_at=event.began_at)
        return None
    reports = worker.session.prepares or worker.pace is not None  # it said how far it is, before this even
    stall = draft.at + draft.limits.stall_timeout_s if reports else None
    draft.put(
        worker,
        phase=Phase.COMPUTING,
        since=draft.at,
        began_at=event.began_at,
        deadline=worker.deadline if worker.forced else None,
        stall_at=stall,
    )
    return Trigger.PROMOTED


def _progress(draft: Draft, lane: Lane, worker: Worker, event: Progress) -> Trigger | None:
    active = worker is lane.active
    if event.done > worker.done:
        worker = pauses.resume(draft, worker)
    pace = worker.pace
    pace = Pace(event.at, event.done) if pace is None else pace.after(event.at, event.done)
    moved = event.done > worker.done or worker.pace is None
    computing = worker.phase is Phase.COMPUTING  # one that drains has a deadline, and no second clock
    draft.put(
        _measured(draft, worker, event.rss_bytes, None),
        done=max(worker.done, event.done),
        cursor=max(worker.cursor, event.cursor),
        errors=max(worker.errors, event.errors),
        total=event.total if event.total is not None else worker.total,
        pace=pace,
        stall_at=event.at + draft.limits.stall_timeout_s if moved and computing else worker.stall_at,
    )
    return Trigger.PROGRESS if active and computing else None


def _last_batch(draft: Draft, lane: Lane, worker: Worker) -> Trigger | None:
    if worker is not lane.active or worker.phase is not Phase.COMPUTING:
        return None
    draft.put(
        worker,
        phase=Phase.DRAINING,
        since=draft.at,
        stall_at=None,
        deadline=pauses.deadline(draft, worker, draft.limits.stall_timeout_s),
    )
    return Trigger.LAST_BATCH


def _quiesced(draft: Draft, lane: Lane, worker: Worker, event: Quiesced) -> Trigger | None:
    if worker is not lane.active or worker.phase is Phase.GOING:  # `started` comes first, always
        return None
    left = event.remaining
    if left is None:
        left = 0 if worker.total is None else worker.total - event.done
    if worker.total is not None and event.done + left != worker.total:
        draft.note(CountMismatched(lane.name, worker.session.name, worker.generation, worker.total, event.done, left))
    now = draft.put(
        worker,
        phase=Phase.COMMITTING,
        since=draft.at,
        done=event.done,
        errors=max(worker.errors, event.errors),
        remaining=event.remaining,
        ended_at=event.ended_at,
        stall_at=None,
        deadline=draft.at + draft.limits.grace_s
        if worker.forced
        else pauses.deadline(draft, worker, draft.limits.commit_timeout_s),
    )
    remember(draft, now, event.ended_at, event.done + left, event.done, left)
    return Trigger.QUIESCED


def _committed(draft: Draft, worker: Worker, event: Committed) -> Trigger | None:
    now = draft.put(
        _measured(draft, worker, event.peak_bytes, event.device_peak_bytes),
        phase=Phase.COMMITTED if worker.phase is Phase.COMMITTING else worker.phase,
        cursor=max(worker.cursor, event.cursor),
        errors=max(worker.errors, event.errors),
        paused=None,
        deadline=worker.deadline if worker.forced else draft.at + draft.limits.exit_timeout_s,
    )
    lane = draft.lane
    if now.complete or draft.profiles.get(profile_key(now.session, lane), Profile()).peak_bytes:
        _learn_peak(draft, now)
    if now.complete and not now.settled:
        fate.finish(draft, now)
        draft.put(now, settled=True)
    elif not now.settled:
        draft.note(SessionCommitted(now.session.name, lane.name, now.generation, now.cursor))
    return None


def _measured(draft: Draft, worker: Worker, rss_bytes: int, tensors_bytes: int | None) -> Worker:
    """The worker with what it says of its memory. rss_bytes: of the host; tensors_bytes: its framework's own count,
    0 where it has none, None where it did not say.

    Where the device has memory of its own, a built-in worker's need is counted from its tensors: its pool grows up to
    the limit it is given, so that what it holds says little. Of any other worker what it was seen to hold is its need.
    """
    lane = draft.lane
    if not lane.has_own_memory:
        rss_bytes = rss_bytes or worker.rss_bytes
        peak = max(worker.peak_bytes, rss_bytes)
        return draft.put(worker, rss_bytes=rss_bytes, held_bytes=rss_bytes, peak_bytes=peak)
    peak = worker.peak_bytes
    if tensors_bytes == 0:
        peak = max(peak, worker.held_bytes)
    elif tensors_bytes is not None:
        context = context_bytes(draft.profiles.get(context_key(lane)))
        peak = max(peak, pool_need_bytes(context, tensors_bytes))
    host_peak = max(worker.host_peak_bytes, rss_bytes)
    return draft.put(worker, rss_bytes=rss_bytes or worker.rss_bytes, peak_bytes=peak, host_peak_bytes=host_peak)


def _learn_peak(draft: Draft, worker: Worker) -> None:
    key = profile_key(worker.session, draft.lane)
    known = draft.profiles.get(key) or Profile()
    if not worker.session.prepares and not draft.lane.has_own_memory:
        return  # of a program that reports nothing, nothing was measured
    if worker.peak_bytes > known.peak_bytes or worker.host_peak_bytes > known.host_peak_bytes:
        draft.learn(key, learn_peak(known, worker.peak_bytes, worker.host_peak_bytes))
        draft.note(ProfileLearned(key, draft.profiles[key]))


def _exited(draft: Draft, lane: Lane, worker: Worker, event: Exited) -> Trigger:
    draft.note(WorkerExited(lane.name, worker.session.name, worker.generation, event.status))
    if worker is lane.active:
        draft.change(active=None)
        total = worker.total if worker.total is not None else worker.done
        remember(draft, worker, draft.at, total, worker.cursor, total - worker.cursor)
        trigger = Trigger.ACTIVE_LOST
    elif worker is lane.standby:
        draft.change(standby=None)
        trigger = Trigger.STANDBY_FAILED
    elif worker in lane.retiring:
        draft.change(retiring=tuple(each for each in lane.retiring if each is not worker))
        trigger = Trigger.RETIRING_GONE if worker.phase is Phase.COMMITTED else Trigger.RETIRING_LOST
    else:
        draft.change(leaving=tuple(each for each in lane.leaving if each is not worker))
        trigger = Trigger.TICK
    draft.change(readings=tuple(_with_unreturned(each, worker) for each in draft.lane.readings))
    if worker.trouble is not None and worker.trouble.out_of_memory and worker.tier is lane.top:
        _learn_peak(draft, worker)  # what it is let in with the next time
    fate.settle(draft, worker, event.status, event.reason)
    relay = draft.lane.relay
    if relay is not None and relay.generation == worker.generation and not worker.settled:
        back = any(session.name == worker.session.name for session in draft.queue)
        draft.change(relay=replace(relay, abandoned=not back))  # only now is it known how the session ended
    return trigger


def _with_unreturned(reading: Reading, worker: Worker) -> Reading:
    """A reading that did not show all that an ended worker took would take for free what is not given back yet."""
    if worker.reserved == 0 and not worker.session.stepwise:
        return replace(reading, free=0)  # nobody knows what it took
    seen = worker.held_bytes if worker.session.prepares and gate.shows(reading, worker) else 0
    return replace(reading, free=reading.free - max(0, worker.reserved - seen))


def remember(draft: Draft, worker: Worker, ended_at: float, total: int, done: int, left: int) -> None:
    """Keep what the lane hands over from, for the count and the gap that are told when the next one begins."""
    standby = draft.lane.standby
    ready = standby is not None and standby.phase is Phase.READY
    draft.change(
        relay=Relay(
            session=worker.session.name,
            generation=worker.generation,
            near_at=draft.lane.near_at,
            drain_at=draft.lane.drain_at,
            ended_at=ended_at,
            told_at=draft.at,
            abandoned=worker.fate is Fate.CANCEL,
            tier=standby.tier if standby is not None and ready else None,
            items_in=total - worker.start,
            items_done=done - worker.start,
            items_left=left,
        )
    )


def expel(draft: Draft, worker: Worker, force: Force, outcome: Fate) -> None:
    """Take a worker out of its role; it is waited for among those leaving, and its session with it."""
    lane = draft.lane
    roles: dict[str, Any] = {"retiring": tuple(each for each in lane.retiring if each is not worker)}
    for role in ("active", "standby"):
        if getattr(lane, role) is worker:
            roles[role] = None
    gone = replace(
        worker,
        fate=worker.fate if worker.fate is Fate.CANCEL else outcome,
        forced=force,
        stall_at=None,
        deadline=draft.at + draft.limits.grace_s,
    )
    draft.change(leaving=(*lane.leaving, gone), **roles)
