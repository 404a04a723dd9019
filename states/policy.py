"""Guards and arithmetic over a world: what is next, what is near, what fits, what is late. Pure and silent.

Every function may be asked at any time and changes nothing. `at` is monotonic seconds.
"""

from __future__ import annotations

from dataclasses import replace

from states.estimate import Remaining, hurried_s, lead_s, need_bytes
from states.events import Swap
from states.snapshot import Lane, Limits, Phase, Reading, State, Worker, World, profile_key
from states.work import Session, Tier

HYSTERESIS = 1.25  # NearingEnd is left only when this much more than the lead remains
HYSTERESIS_S = 1.0
IN_HAND = {State.RUNNING, State.NEARING_END, State.PRELOADING}


# The queue


def head(world: World, lane: Lane, at: float) -> Session | None:
    """The session that is next on this lane: the one reserved for it, else the first that is due and not another's."""
    taken = {other.reserved for other in world.lanes.values() if other.name != lane.name}
    first = None
    for session in world.queue:
        if session.waits_for or session.not_before > at or session.name in taken or not lane.takes(session.device):
            continue
        if session.name == lane.reserved or lane.reserved is None:
            return session
        first = first or session
    return first


def due(queue: tuple[Session, ...], at: float) -> tuple[Session, ...]:
    """The queue with no wait left in it that is over: a time that has passed is nothing to wait for."""
    if not any(0.0 < session.not_before <= at for session in queue):
        return queue
    return tuple(replace(each, not_before=0.0) if each.not_before <= at else each for each in queue)


def may_start(world: World, lane: Lane) -> bool:
    """Whether the lane may take a session at all: not held, stopping or lost, and its last standby is gone.

    Nor before every worker of an earlier life of the daemon has spoken, or is gone.
    """
    if lane.held or world.stopping or lane.lost or lane.standby or lane.leaving:
        return False
    return not any(worker.unheard for worker in lane.workers())


def next_session(world: World, lane: Lane, at: float) -> Session | None:
    """The session to prepare now. One that computes as soon as it is started waits until the device is free."""
    if not may_start(world, lane):
        return None
    session = head(world, lane, at)
    if session is None or ((lane.active or lane.retiring) and needs_empty(lane, session)):
        return None
    return session


def needs_empty(lane: Lane, session: Session) -> bool:
    """Whether the session is begun only when the device is free of all others, or it is the active one's alone.

    One that computes as soon as it is started; and one that ran out of memory gets the device to itself.
    """
    alone = session.out_of_memory or (lane.active is not None and lane.active.session.out_of_memory)
    return bool(alone) or not session.prepares


# The end of the active session


def remaining(lane: Lane, at: float) -> Remaining | None:
    """The predicted remaining time of the active session; None where nothing can be predicted."""
    active = lane.active
    if active is None or active.total is None or active.pace is None:
        return None
    return active.pace.remaining(at, active.total)


def lead(world: World, lane: Lane, at: float) -> float:
    """Seconds before the end at which the next preparation must begin: the active session's own, else learned."""
    if lane.active is not None and lane.active.session.lead.seconds is not None:
        return lane.active.session.lead.seconds
    session = head(world, lane, at)
    return lead_s(None if session is None else world.profiles.get(profile_key(session, lane)))


def near(world: World, lane: Lane, at: float) -> bool:
    """Whether the next session's preparation must begin now. Always, where the total is not known."""
    active = lane.active
    if active is None or active.phase is not Phase.COMPUTING:
        return False
    if active.total is None:
        return True
    if active.session.lead.fraction is not None:
        return active.done >= active.session.lead.fraction * active.total
    left = remaining(lane, at)
    return left is not None and left.soonest_s <= lead(world, lane, at)


def far(world: World, lane: Lane, at: float) -> bool:
    """Whether the end has moved away again, by more than the prediction's own unrest."""
    active = lane.active
    if active is None or active.total is None or active.session.lead.fraction is not None:
        return False
    left = remaining(lane, at)
    return left is not None and left.soonest_s > lead(world, lane, at) * HYSTERESIS + HYSTERESIS_S


def urgent(world: World, lane: Lane, at: float) -> bool:
    """Whether the standby, at low priority, would no longer be ready in time: its need of time goes first then."""
    standby, left = lane.standby, remaining(lane, at)
    if left is None or standby is None or standby.phase is not Phase.LOADING or not standby.low_priority:
        return False
    return left.soonest_s <= hurried_s(world.profiles.get(profile_key(standby.session, lane)))


# Memory


def growth(lane: Lane) -> int:
    """Bytes the active session may still grow by: what it was given less what it was seen to hold."""
    return 0 if lane.active is None else max(0, lane.active.reserved - lane.active.rss_bytes)


def shows(reading: Reading, worker: Worker) -> bool:
    """Whether a reading can show all that the worker took: made when it was prepared as far as it is, or later.

    One of an earlier daemon was prepared before this one looked.
    """
    prepared_at = worker.spawned_at if worker.ready_at is None else worker.ready_at
    return worker.phase is not Phase.LOADING and reading.at >= prepared_at


def spare(lane: Lane, limits: Limits) -> int | None:
    """Bytes that can be given out: min(free, total − reservations) − growth, the least of the last readings.

    What a reading cannot show yet counts as taken in it. Signed. None before there are enough readings.
    """
    recent = lane.readings[-limits.readings :]
    if len(recent) < limits.readings:
        return None
    workers = tuple(lane.workers())
    reserved = sum(worker.reserved for worker in workers)
    room = min(
        min(
            reading.free - sum(worker.reserved for worker in workers if not shows(reading, worker)),
            reading.total - reserved,
        )
        for reading in recent
    )
    return room - growth(lane)


def need(world: World, lane: Lane, session: Session, tier: Tier) -> int:
    """Bytes the session needs on the lane's device at a tier."""
    return need_bytes(session, world.profiles.get(profile_key(session, lane)), tier, lane.imported_bytes)


def fits(world: World, lane: Lane, session: Session, tier: Tier, held: int = 0) -> bool:
    """The gate: whether the session may allocate what `tier` needs, given that it holds `held` already."""
    room = spare(lane, world.limits)
    return room is not None and room >= need(world, lane, session, tier) - held + world.limits.headroom_bytes


def fitting_tier(world: World, lane: Lane, session: Session) -> Tier | None:
    """The furthest tier that fits now; None when not even the first does."""
    if not session.prepares:
        return lane.top if fits(world, lane, session, lane.top) else None
    return next((tier for tier in reversed(lane.tiers) if fits(world, lane, session, tier)), None)


def waits(lane: Lane) -> bool:
    """Whether the standby is prepared as far as it was asked, and nothing is wrong with it."""
    standby = lane.standby
    return standby is not None and standby.phase is Phase.READY and not standby.forced and standby.trouble is None


def climbing_tier(world: World, lane: Lane) -> Tier | None:
    """The furthest tier above the waiting standby's own that fits now."""
    standby = lane.standby
    if standby is None or standby.tier is None or not waits(lane):
        return None
    above = [tier for tier in reversed(lane.tiers) if tier > standby.tier]
    return next((t for t in above if fits(world, lane, standby.session, t, standby.reserved)), None)


def grows_into_standby(lane: Lane, limits: Limits) -> bool:
    """Whether the active session needs the room that the standby took: the headroom is half gone, several times."""
    if lane.active is None or lane.standby is None or lane.standby.aim <= Tier.IMPORTED:
        return False
    recent = lane.readings[-limits.readings :]
    since = lane.standby.spawned_at
    return len(recent) == limits.readings and all(
        reading.free < limits.headroom_bytes // 2 and reading.at > since for reading in recent
    )


# Promotion, and what is late


def go(world: World, lane: Lane) -> bool:
    """Whether the standby may have the device: it is warm, nobody else computes, and nothing forbids it."""
    if lane.standby is None or lane.standby.tier is not lane.top or not waits(lane):
        return False
    return lane.active is None and not lane.held and not world.stopping and len(lane.retiring) <= 1


def overdue(lane: Lane, at: float) -> tuple[Worker, ...]:
    """Workers past their deadline."""
    return tuple(worker for worker in lane.workers() if worker.deadline is not None and worker.deadline <= at)


def stalled(lane: Lane, at: float) -> bool:
    """Whether the active session has made no progress for its time-out."""
    active = lane.active
    return active is not None and active.stall_at is not None and active.stall_at <= at


def next_deadline(world: World) -> float | None:
    """When time alone will next change something; None when nothing waits for it."""
    times = [worker.deadline for lane in world.lanes.values() for worker in lane.workers()]
    times += [lane.active.stall_at for lane in world.lanes.values() if lane.active]
    times += [session.not_before for session in world.queue if session.not_before > 0.0]
    return min((time for time in times if time is not None), default=None)


def waits_for_memory(world: World, lane: Lane, at: float) -> bool:
    """Whether a reading could let something happen: the shell then reads often."""
    if lane.standby is not None:
        return lane.standby.phase is Phase.READY and lane.standby.tier is not lane.top
    session = next_session(world, lane, at)
    if session is None or lane.state is State.RUNNING:
        return False
    return fitting_tier(world, lane, session) is None


# What a person is told


def swap_refusal(world: World, lane: Lane, event: Swap) -> str | None:
    """Why the lane cannot be handed over now; None when it can."""
    active = lane.active
    where = f"cannot swap lane {lane.name}: "
    if lane.state not in IN_HAND or active is None:
        return where + f"it is {lane.state.value}, and no session is computing on it"
    if lane.held or world.stopping:
        return where + ("batond is stopping" if world.stopping else "it is paused; batonctl resume lets it go on")
    if not active.session.resumable and not event.force:
        return where + f"{active.session.name} cannot resume and would start again from its first item; use --force"
    prepared = lane.standby.session.name if lane.standby else None
    if event.to is not None and event.to != prepared:
        wanted = next((session for session in world.queue if session.name == event.to), None)
        if wanted is None:
            return where + f"no session {event.to} is queued"
        if wanted.waits_for:
            return where + f"{event.to} waits for {', '.join(sorted(wanted.waits_for))}"
        if not lane.takes(wanted.device):
            return where + f"{event.to} asks for device {wanted.device}"
        if any(other.reserved == event.to for other in world.lanes.values() if other.name != lane.name):
            return where + f"{event.to} is reserved for another lane"
        if wanted.not_before > event.at:
            return where + f"{event.to} is tried again in {wanted.not_before - event.at:.0f} s, not before"
    elif prepared is None and head(world, lane, event.at) is None:
        return where + "no queued session is due that may run on it"
    return None


def gib(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / (1 << 30):.1f} GiB"


def _memory_reason(world: World, lane: Lane, session: Session, tier: Tier, held: int) -> str:
    room = spare(lane, world.limits)
    if room is None:
        return f"waits for memory readings of the device before {session.name} is prepared"
    wanted = need(world, lane, session, tier) - held
    owners = ", ".join(f"{worker.session.name} {gib(worker.reserved)}" for worker in lane.workers())
    return (
        f"waits for memory for {session.name}: {tier.label} needs {gib(wanted)} and {gib(world.limits.headroom_bytes)}"
        f" are kept free, {gib(room)} can be given out"
        + (f"; reserved: {owners}" if owners else "; no session of batond holds any")
    )


def _paused(worker: Worker, at: float) -> str:
    return f"has had no room to write for {at - worker.paused_at:.0f} s and tries again: {worker.paused}"


def _idle_reason(world: World, lane: Lane, at: float) -> str:
    unheard = [worker.session.name for worker in lane.workers() if worker.unheard]
    if unheard:
        return f"waits for word of {', '.join(unheard)}, whose worker was left by an earlier batond"
    if lane.leaving:
        return f"waits for the end of {', '.join(worker.session.name for worker in lane.leaving)}"
    if lane.held:
        return "paused; batonctl resume lets it go on"
    session = head(world, lane, at)
    if session is not None:
        if (lane.active or lane.retiring) and needs_empty(lane, session):
            return f"{session.name} starts when the device is free"
        if fitting_tier(world, lane, session) is None:
            return _memory_reason(world, lane, session, lane.tiers[0], 0)
        return f"{session.name} is next"
    waiting = [each for each in world.queue if lane.takes(each.device)]
    if not waiting:
        return "nothing is queued"
    first = waiting[0]
    if first.waits_for:
        return f"{first.name} waits for {', '.join(sorted(first.waits_for))}"
    if first.not_before > at:
        return f"{first.name} is tried again in {first.not_before - at:.0f} s"
    return f"{first.name} is reserved for another lane"


def reason(world: World, lane: Lane, at: float) -> str:
    """Why the lane is in its state, in words and figures."""
    active, standby = lane.active, lane.standby
    if active is not None and active.paused is not None:
        return f"{active.session.name} {_paused(active, at)}"
    match lane.state:
        case State.IDLE:
            return _idle_reason(world, lane, at)
        case State.STOPPED:
            return f"the device is lost: {lane.lost}" if lane.lost else "stopped"
        case State.RUNNING:
            left = remaining(lane, at)
            if left is None:
                return "its end cannot be predicted yet"
            return f"{left.seconds:.0f} s remain; the next is prepared {lead(world, lane, at):.0f} s before the end"
        case State.NEARING_END:
            asked = "a swap was asked for; " if lane.swap_asked else ""
            return asked + _idle_reason(world, lane, at)
        case State.DRAINING:
            name = active.session.name if active else "the last session"
            return f"{name} finishes the batch in flight" + (", then batond stops" if world.stopping else "")
        case State.PRELOADING | State.SWAPPING:
            if active is not None and active.unheard:
                return f"waits for word of {active.session.name}, whose worker was left by an earlier batond"
            if standby is None:
                return f"{active.session.name} begins its first item" if active else "nothing to swap to"
            if standby.phase is Phase.LOADING:
                return f"{standby.session.name} is being prepared ({standby.aim.label})"
            if standby.tier is not lane.top:
                return _memory_reason(world, lane, standby.session, lane.top, standby.reserved)
            if lane.held:
                return f"{standby.session.name} is prepared; the lane is paused; batonctl resume lets it go on"
            if active is not None:
                return f"{standby.session.name} is prepared and waits for {active.session.name} to end"
            last = ", ".join(w.session.name + (f" ({_paused(w, at)})" if w.paused else "") for w in lane.retiring)
            return f"{standby.session.name} waits for {last} to commit"
