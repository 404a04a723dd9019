"""Why each queued session is not running yet, in words. Pure: reads no clock, asks nobody."""

from __future__ import annotations

from itertools import islice

from states import gate, policy, reasons
from states.reasons import never_fits, seconds
from states.snapshot import Fate, Lane, World
from states.work import Session


def waiting_reasons(world: World, at: float, most: int | None = None) -> dict[str, str]:
    """Why each queued session (the first `most`) is not running, in words. One pass: the queue may be long."""
    heads: dict[str, Lane] = {}
    for lane in world.lanes.values():
        head = None if lane.held or lane.lost or world.stopping else policy.head(world, lane, at)
        if head is not None:
            heads.setdefault(head.name, lane)
    reasons: dict[str, str] = {}
    ahead: dict[str, str] = {}  # by lane: the last one so far that only waits for its turn there
    for session in islice(world.queue, most):
        reason = obstacle(world, session, at)
        if reason is None:
            lanes = [lane.name for lane in world.lanes.values() if lane.takes(session.device)]
            before = next((ahead[name] for name in lanes if name in ahead), None)
            ahead.update(dict.fromkeys(lanes, session.name))
            if session.name in heads:
                reason = _next_on(world, heads[session.name], session, at)
            else:
                reason = f"behind {before}" if before else "waits for its turn"
        reasons[session.name] = reason
    return reasons


def waiting_reason(world: World, session: Session, at: float) -> str:
    """Why one queued session is not running: what `waiting_reasons` says of it, looking at few others."""
    if (kept := obstacle(world, session, at)) is not None:
        return kept
    lanes = [lane for lane in world.lanes.values() if lane.takes(session.device)]
    for lane in lanes:
        head = None if lane.held or lane.lost or world.stopping else policy.head(world, lane, at)
        if head is not None and head.name == session.name:
            return _next_on(world, lane, session, at)
    place = next(index for index, each in enumerate(world.queue) if each.name == session.name)
    for lane in lanes:
        for other in reversed(world.queue[:place]):
            if lane.takes(other.device) and obstacle(world, other, at) is None:
                return f"behind {other.name}"
    return "waits for its turn"


def obstacle(world: World, session: Session, at: float) -> str | None:
    """What keeps the session from running, other than those ahead of it."""
    if session.waits_for:
        return f"waits for {', '.join(sorted(session.waits_for))}"
    if world.stopping:
        return "batond is stopping"
    if session.not_before > at:
        attempt = f"attempt {session.attempt + 1} of {session.max_attempts}"
        return f"is tried again in {seconds(session.not_before - at)}, {attempt}"
    lanes = [lane for lane in world.lanes.values() if lane.takes(session.device)]
    if any(not lane.lost and not lane.held and gate.can_ever_fit(world, lane, session) for lane in lanes):
        return None
    if not lanes:
        return f"no lane has the device {session.device}; bring it back, or {_give_up(session)}"
    able = [lane for lane in lanes if gate.can_ever_fit(world, lane, session)]
    if not able:
        return f"can never fit: {never_fits(world, lanes, session)}; {_give_up(session)}"
    small = [lane.name for lane in lanes if lane not in able]
    elsewhere = f"; it can never fit on {', '.join(small)}" if small else ""
    usable = [lane for lane in able if not lane.lost]
    if not usable:
        return "; ".join(f"lane {lane.name}: the device is lost: {lane.lost}" for lane in able) + elsewhere
    return f"lane {', '.join(lane.name for lane in usable)} is paused; batonctl resume lets it go on{elsewhere}"


def _give_up(session: Session) -> str:
    return f"batonctl cancel {session.name} takes it out of the queue"


def _next_on(world: World, lane: Lane, session: Session, at: float) -> str:
    if lane.standby is None:
        return f"next on {lane.name}: {reasons.reason(world, lane, at)}"
    active = lane.active
    back = active is not None and (lane.swap_asked or active.fate is Fate.REQUEUE) and active.fate is not Fate.CANCEL
    if active is not None and back and active.session.rank < session.rank:
        first = f"{lane.standby.session.name} and {active.session.name}, which comes back to the queue before it"
        return f"next on {lane.name}, after {first}"
    return f"next on {lane.name}, after {lane.standby.session.name}"
