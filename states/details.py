"""The figures behind a reason, a line each: of a lane, of a session in it or in the queue. Words; decides nothing.

`pids`: the processes of our workers by generation, as far as they are known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from states import estimate, gate, policy
from states.hindsight import from_pace
from states.reasons import amount, never_fits, others, seconds
from states.snapshot import Fate, Lane, Phase, State, Worker, World, profile_key
from states.work import Profile, Session

AHEAD_NAMED = 3  # of those that are before a session in the queue


# A lane


def of_lane(world: World, lane: Lane, at: float, pids: Mapping[int, int]) -> Iterator[str]:
    """What the lane's workers are at, what comes next and when, and who has its memory."""
    active, standby = lane.active, lane.standby
    if active is not None:
        yield from of_worker(world, lane, active, at)
    if standby is not None:
        yield from of_worker(world, lane, standby, at)
    elif active is not None and lane.state in (State.RUNNING, State.NEARING_END):
        yield from _next(world, lane, at)
    yield from _books(world, lane, at, pids)


def _next(world: World, lane: Lane, at: float) -> Iterator[str]:
    if lane.held or world.stopping:
        yield "the lane is paused: nothing follows" if lane.held else "batond is stopping: nothing follows"
        return
    session = policy.head(world, lane, at)
    if session is None:
        yield "nothing that is due may follow on this lane"
        return
    if policy.needs_empty(world, lane, session):
        yield f"{session.name} is next, and begins when the device is free"
        return
    before = lane.active.session if lane.active else None
    if before is not None and before.lead.fraction is not None:
        yield f"{session.name} is next; {before.name} has it prepared from {before.lead.fraction:.0%} of its items on"
        return
    why = _lead_words(world.profiles.get(profile_key(session, lane)))
    if before is not None and before.lead.seconds is not None:
        why = f"{before.name} says so, with lead = …"
    yield (
        f"{session.name} is next; its preparation begins {seconds(policy.lead(world, lane, at))} before the end ({why})"
    )


def _lead_words(profile: Profile | None) -> str:
    if profile is not None and profile.prepared_s:
        longest = estimate.quantile(profile.prepared_s, estimate.LEAD_QUANTILE)
        count = len(profile.prepared_s)
        return f"beside another session it took up to {seconds(longest)} in {count} preparations, and a margin"
    if profile is not None and profile.alone_s:
        longest = estimate.quantile(profile.alone_s, estimate.LEAD_QUANTILE)
        return f"alone it took up to {seconds(longest)}, beside another session it may take several times that"
    return "it was never prepared here"


def _books(world: World, lane: Lane, at: float, pids: Mapping[int, int]) -> Iterator[str]:
    """The memory of the device, and who of ours has what of it."""
    if not lane.readings:
        yield "its memory was not read yet" if lane.lost is None else "its memory cannot be read: the device is lost"
        return
    last, spare = lane.readings[-1], gate.spare(lane, world.limits)
    out = "" if spare is None else f", {amount(max(0, spare))} can be given out"
    headroom = amount(world.limits.headroom_bytes)
    yield f"memory: {amount(last.total)}, {amount(last.free)} free{out}, {headroom} are kept free"
    for worker in lane.workers():
        text = f"{_who(lane, worker, pids)} holds {amount(worker.held_bytes)}"
        text += f" of {amount(worker.reserved)} that were given to it" if worker.reserved else ": its need is not known"
        if worker.deadline is not None:
            text += f"; it is ended by force in {seconds(worker.deadline - at)} if it lasts"
        yield text
    if lane.has_own_memory:
        yield from others(lane)


def _who(lane: Lane, worker: Worker, pids: Mapping[int, int]) -> str:
    """By its process. A program's is the parent of those that hold the memory, and that the device names."""
    name, role = worker.session.name, _role(lane, worker)
    if worker.generation not in pids:
        return f"{name} ({role})"
    started = "" if worker.session.stepwise else " with what it started"
    return f"pid {pids[worker.generation]}{started} ({name}, {role})"


def _role(lane: Lane, worker: Worker) -> str:
    if worker is lane.active:
        return "active"
    if worker is lane.standby:
        return "standby"
    return "retiring" if worker in lane.retiring else "leaving"


# A session


def of_worker(world: World, lane: Lane, worker: Worker, at: float) -> Iterator[str]:
    """How far a session in a worker's hands is, and how long that takes."""
    name = worker.session.name
    if worker is lane.active:
        yield f"{name}: {_progress(worker)}; {_left(lane, at)}"
    elif worker.phase is Phase.LOADING:
        profile = world.profiles.get(profile_key(worker.session, lane)) or Profile()
        took = profile.prepared_s if worker.beside else profile.alone_s
        mean = f"; earlier ones took {seconds(sum(took) / len(took))} (mean of {len(took)})" if took else ""
        beside = "beside the running session" if worker.beside else "with the device to itself"
        yield f"{name}: prepared to {worker.aim.label} for {seconds(at - worker.since)} so far, {beside}{mean}"
    elif worker.phase is Phase.READY and worker.ready_at is not None:
        tier = "" if worker.tier is None else f" ({worker.tier.label})"
        yield f"{name}: prepared{tier} in {seconds(worker.prepared_s)}, and waiting for {seconds(at - worker.ready_at)}"
    else:
        yield f"{name}: {worker.phase.value} for {seconds(at - worker.since)}; {_progress(worker)}"


def _progress(worker: Worker) -> str:
    if worker.total is None:
        return f"{worker.done} items done, of how many is not known" if worker.done else "its progress is not known"
    return f"{worker.done} of {worker.total} items done"


def _left(lane: Lane, at: float) -> str:
    active = lane.active
    if active is not None and active.fate is Fate.CANCEL:
        return "it is being cancelled"
    if active is not None and active.fate is Fate.REQUEUE:
        return "it goes back to the queue"
    if lane.swap_asked:
        return "it goes back to the queue as soon as the next one is prepared"
    left = policy.remaining(lane, at)
    if left is None:
        counted = active is not None and active.total is not None
        return "no pace yet" if counted else "its end cannot be predicted"
    span = from_pace(left)
    return f"{seconds(span.seconds)} ± {seconds(span.margin_s or 0.0)} to go"


def of_queued(world: World, session: Session, at: float) -> Iterator[str]:
    """Who is before it, what it waits for, where it may run, and what it needs there."""
    lanes = [lane for lane in world.lanes.values() if lane.takes(session.device)]
    yield from _ahead(world, session, lanes)
    for name in sorted(session.waits_for):
        yield f"it comes after {name}: {_whereabouts(world, name, at)}"
    names = ", ".join(lane.name for lane in lanes)
    yield f"device {session.device}: {names}" if lanes else f"device {session.device}: no lane has it"
    for lane in lanes:
        yield f"on {lane.name} {_need(world, lane, session)}"
    if session.out_of_memory:
        yield "it ran out of memory once, and gets a device to itself"
    if session.attempt:
        yield f"attempt {session.attempt + 1} of {session.max_attempts}"
    if session.cursor:
        yield f"it goes on at item {session.cursor}" + ("" if session.total is None else f" of {session.total}")


def _ahead(world: World, session: Session, lanes: list[Lane]) -> Iterator[str]:
    ahead: list[str] = []
    place = 0
    for other in world.queue:
        place += 1
        if other.name == session.name:
            break
        if any(lane.takes(other.device) for lane in lanes):
            ahead.append(other.name)
    count = f"place {place} of {len(world.queue)}"
    if not ahead:
        yield count
        return
    named, more = ", ".join(ahead[:AHEAD_NAMED]), len(ahead) - AHEAD_NAMED
    yield f"{count}; before it on the same lanes: {named}" + (f" and {more} more" if more > 0 else "")


def _whereabouts(world: World, name: str, at: float) -> str:
    for place, other in enumerate(world.queue, 1):
        if other.name == name:
            return f"queued, at place {place}"
    for lane in world.lanes.values():
        for worker in lane.workers():
            if worker.session.name == name:
                left = f"; {_left(lane, at)}" if worker is lane.active else ""
                return f"{worker.phase.value} on {lane.name}{left}"
    return "not committed yet"


def _need(world: World, lane: Lane, session: Session) -> str:
    if not gate.is_known(world, lane, session):
        return "it gets the device to itself: its need of memory is not known"
    profile = world.profiles.get(profile_key(session, lane))
    source = "guessed from its files"
    if profile is not None and profile.peak_bytes:
        source = "measured"
    elif session.stated_bytes is not None:
        source = "as stated"
    if not gate.can_ever_fit(world, lane, session):
        return f"it can never fit: {never_fits(world, (lane,), session)}"
    need, room = gate.need(world, lane, session, lane.top), gate.spare(lane, world.limits)
    if room is None:
        return f"it needs {amount(need)} ({source}); what can be given out is not known yet"
    headroom = world.limits.headroom_bytes
    lacks = need + headroom - room
    fits = "which fits now" if lacks <= 0 else f"{amount(lacks)} too little just now"
    wanted = f"it needs {amount(need)} ({source}) and {amount(headroom)} are kept free"
    return f"{wanted}; {amount(max(0, room))} can be given out, {fits}"
