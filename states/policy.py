"""Guards and arithmetic over a world: what is next, what is near, what is prepared, what is late. Pure and silent.

Every function may be asked at any time and changes nothing. `at` is monotonic seconds.
"""

from __future__ import annotations

import math
from dataclasses import replace

from states import gate
from states.estimate import Remaining, hurried_s, lead_s
from states.snapshot import Lane, Phase, State, Worker, World, profile_key
from states.work import Session, Tier

HYSTERESIS = 1.25  # NearingEnd is left only when this much more than the lead remains
HYSTERESIS_S = 1.0


# The queue


def head(world: World, lane: Lane, at: float) -> Session | None:
    """The session that is next on this lane: the one reserved for it, else the first that is due and not another's.

    One that can never fit here is left to the other lanes.
    """
    taken = {
        other.reserved
        for other in world.lanes.values()
        if other.reserved is not None and other.name != lane.name and _keeps(other, lane)
    }
    first = None
    for session in world.queue:
        if session.waits_for or session.not_before > at or session.name in taken or not lane.takes(session.device):
            continue
        if not gate.can_ever_fit(world, lane, session):
            continue
        if session.name == lane.reserved or lane.reserved is None:
            return session
        first = first or session
    return first


def _keeps(other: Lane, lane: Lane) -> bool:
    """Whether a lane's reservation holds against `lane`: not against one that is free now, whatever the other does.

    But for a swap: the session of that one makes room for it.
    """
    return other.swap_asked or lane.active is not None or bool(lane.retiring)


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
    if session is None or ((lane.active or lane.retiring) and needs_empty(world, lane, session)):
        return None
    return session


def needs_empty(world: World, lane: Lane, session: Session) -> bool:
    """Whether the session is begun only when the device is free of all others, or it is another one's alone.

    One that computes as soon as it is started; one that ran out of memory; and a program on a device with memory of its
    own, where its need is not known.
    """
    before = (*lane.retiring, *((lane.active,) if lane.active is not None else ()))
    alone = session.out_of_memory or any(worker.session.out_of_memory for worker in before)
    if alone or not session.prepares:
        return True
    return lane.has_own_memory and not gate.is_known(world, lane, session)


def swaps_alone(world: World, lane: Lane, at: float) -> bool:
    """Whether the session a swap was asked for can begin only when the active one has let the device go.

    It must fit then: an active session is not taken off its device for one that another process keeps waiting.
    """
    active, session = lane.active, head(world, lane, at)
    if active is None or session is None or not may_start(world, lane):
        return False
    if not needs_empty(world, lane, session) and gate.fitting_tier(world, lane, session) is not None:
        return False
    room = gate.spare(lane, world.limits)
    if room is None:
        return False
    room += gate.growth(lane) + active.held_bytes
    return room >= gate.given(world, lane, session, lane.top) + world.limits.headroom_bytes


# The end of the active session


def remaining(lane: Lane, at: float) -> Remaining | None:
    """The predicted remaining time of the active session; None where nothing can be predicted.

    Of one that stands still it does not shrink. (In a rehearsal nobody reports, and nobody stalls.)
    """
    active = lane.active
    if active is None or active.total is None or active.pace is None:
        return None
    if active.stall_at is not None and active.stall_at < math.inf:
        at = min(at, active.pace.stopped_at)
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


# Preparing further


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
    return next((tier for tier in above if gate.fits(world, lane, standby.session, tier, standby)), None)


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
    return gate.fitting_tier(world, lane, session) is None


def hands_over(world: World, lane: Lane, at: float) -> bool:
    """Whether the lane's device waits for what comes next: the shell then does nothing that could wait.

    Not where what comes next waits for memory that others hold: they may hold it for days.
    """
    if lane.state is State.SWAPPING:
        return not waits_for_memory(world, lane, at)
    return lane.state is State.DRAINING


def any_hands_over(world: World, at: float) -> bool:
    """Whether any lane does."""
    return any(hands_over(world, lane, at) for lane in world.lanes.values())


def next_tier(world: World, lane: Lane, at: float) -> tuple[Session, Tier] | None:
    """The session and tier that the gate holds back just now: the standby's next one, else the next session's first."""
    standby = lane.standby
    if standby is not None:
        if climbing_tier(world, lane) is not None:
            return None
        above = [tier for tier in lane.tiers if standby.tier is not None and tier > standby.tier]
        return (standby.session, above[0]) if above and waits(lane) else None
    session = next_session(world, lane, at)
    if session is None or gate.fitting_tier(world, lane, session) is not None:
        return None
    return session, lane.tiers[0] if session.stepwise else lane.top
