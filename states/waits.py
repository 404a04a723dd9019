"""A lane's wait for memory while nobody computes on it: its beginning, its alarm, its end. Moves no lane."""

from __future__ import annotations

from dataclasses import replace

from states import gate, policy, reasons
from states.draft import Draft
from states.notes import MemoryShort, MemoryWaited
from states.snapshot import Wait
from states.work import Session, Tier

ALARM_FACTOR = 2.0  # each alarm of one wait comes as much later than the one before
LONGEST_ALARM_S = 3600.0


def look(draft: Draft) -> None:
    """Whether the lane in hand waits for memory by now, still, or no more; told again and again where it lasts."""
    lane = draft.lane
    held_back = None if lane.active is not None or draft.stopping else policy.next_tier(draft.world, lane, draft.at)
    if held_back is None or lane.held:
        if lane.wait is not None and not _begins(draft, lane.wait):
            draft.change(wait=None)
        return
    if lane.wait is None and gate.spare(lane, draft.limits) is None:
        return  # it was hardly looked at yet: that is no wait for memory
    session, tier = held_back
    if lane.wait is None or lane.wait.session != session.name:
        alarm_s = draft.limits.memory_alarm_s
        draft.change(wait=Wait(draft.at, session.name, draft.at + alarm_s, alarm_s))
    elif draft.at >= lane.wait.told_at:
        every_s = min(lane.wait.told_every_s * ALARM_FACTOR, LONGEST_ALARM_S)
        _tell(draft, lane.wait, session, tier)
        draft.change(wait=replace(lane.wait, told_at=draft.at + every_s, told_every_s=every_s))


def end(draft: Draft, session: Session, tier: Tier, need: int, room: int) -> None:
    """The gate passes for the session: the wait is told, if there was one."""
    wait = draft.lane.wait
    if wait is None:
        return
    draft.change(wait=None)
    if wait.session == session.name:
        draft.note(MemoryWaited(draft.name, session.name, draft.at - wait.since, tier.label, need, room))


def _begins(draft: Draft, wait: Wait) -> bool:
    """Whether the session waited for may be started now: `end` tells the wait when it is."""
    standby = draft.lane.standby
    if draft.lane.active is not None:
        return False
    if standby is not None:
        return standby.session.name == wait.session and policy.climbing_tier(draft.world, draft.lane) is not None
    session = policy.next_session(draft.world, draft.lane, draft.at)
    return session is not None and session.name == wait.session


def _tell(draft: Draft, wait: Wait, session: Session, tier: Tier) -> None:
    lane, world = draft.lane, draft.world
    standby = lane.standby
    draft.note(
        MemoryShort(
            lane.name,
            session.name,
            draft.at - wait.since,
            tier.label,
            gate.asked(world, lane, session, tier, standby),
            gate.spare(lane, world.limits) or 0,
            reasons.memory(world, lane, session, tier, standby, draft.at),
        )
    )
