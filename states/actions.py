"""What the rows of the table ask for. Each action changes the lane in hand and may request effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from states import gate, pauses, policy, reasons, waits
from states.draft import Draft
from states.effects import AdvanceStandby, DrainActive, EndWorker, Force, Promote, RaiseStandby, StartStandby
from states.estimate import lead_s, learn_peak
from states.events import Swap
from states.facts import expel
from states.notes import (
    HandoverCompleted,
    ProfileLearned,
    StandbyAdvanced,
    StandbyDiscarded,
    StandbyRaised,
    StandbyStarted,
    SwapAsked,
    WorkerEscalated,
)
from states.snapshot import Fate, Phase, Trouble, Worker, profile_key
from states.work import Session, Tier

Action: TypeAlias = Callable[[Draft], None]


# The standby


def start_standby(draft: Draft) -> None:
    """StartStandby at the highest tier that fits"""
    lane, limits = draft.lane, draft.limits
    session = policy.next_session(draft.world, lane, draft.at)
    tier = None if session is None else gate.fitting_tier(draft.world, lane, session)
    if session is None or tier is None:
        raise AssertionError("start_standby without next_fits")
    need, room = gate.given(draft.world, lane, session, tier), gate.spare(lane, limits) or 0
    waits.end(draft, session, tier, need, room)
    held_back = _held_back(draft, session, tier, None)
    pool = gate.pool_limit(draft.world, lane, session)
    draft.dequeue(session.name)
    for other in tuple(draft.lanes.values()):
        if other.reserved == session.name and other.name != lane.name:  # this one is free sooner
            draft.lanes[other.name] = replace(other, reserved=None)
    draft.generation += 1
    beside = lane.active is not None and lane.active.phase is not Phase.DRAINING
    worker = Worker(
        session=session,
        generation=draft.generation,
        phase=Phase.LOADING,
        aim=tier,
        reserved=need,
        pool_bytes=pool,
        host_reserved=gate.host_need(draft.world, lane, session, tier),
        since=draft.at,
        spawned_at=draft.at,
        beside=beside,
        low_priority=beside and not lane.swap_asked,
        hurried=beside and lane.swap_asked,
        deadline=draft.at + limits.prepare_timeout_s,
        start=session.cursor,
        cursor=session.cursor,
        done=session.cursor,
        errors=session.errors,
        total=session.total,
    )
    draft.change(standby=worker, reserved=None)
    draft.ask(StartStandby(lane.name, worker.generation, session, tier, worker.low_priority, pool))
    draft.note(
        StandbyStarted(
            lane.name,
            session.name,
            worker.generation,
            tier.label,
            lane.active.session.name if lane.active else None,
            need,
            room,
            lead_s(draft.profiles.get(profile_key(session, lane))),
            held_back,
        )
    )


def advance_standby(draft: Draft) -> None:
    """AdvanceStandby"""
    lane = draft.lane
    tier = policy.climbing_tier(draft.world, lane)
    if lane.standby is None or tier is None:
        raise AssertionError("advance_standby without climb")
    standby = lane.standby
    need, room = gate.given(draft.world, lane, standby.session, tier, standby), gate.spare(lane, draft.limits) or 0
    host_need = gate.host_need(draft.world, lane, standby.session, tier)
    waits.end(draft, standby.session, tier, need - standby.reserved, room)
    held_back = _held_back(draft, standby.session, tier, standby)
    draft.put(
        standby,
        phase=Phase.LOADING,
        aim=tier,
        reserved=max(need, standby.reserved),
        host_reserved=max(host_need, standby.host_reserved),
        since=draft.at,
        deadline=draft.at + draft.limits.prepare_timeout_s,
    )
    draft.ask(AdvanceStandby(lane.name, standby.generation, tier))
    draft.note(StandbyAdvanced(lane.name, standby.session.name, standby.generation, tier.label, need, room, held_back))


def _held_back(draft: Draft, session: Session, tier: Tier, standby: Worker | None) -> str | None:
    """Why it is prepared as far as `tier` and no further; None where that is as far as it goes."""
    lane = draft.lane
    above = next((each for each in lane.tiers if each > tier), None)
    return None if above is None else reasons.memory(draft.world, lane, session, above, standby, draft.at)


def raise_standby(draft: Draft) -> None:
    """the standby gets its normal priority back"""
    standby = draft.lane.standby
    if standby is None or not standby.low_priority:
        return
    left = policy.remaining(draft.lane, draft.at)
    draft.put(standby, low_priority=False, hurried=standby.hurried or standby.phase is Phase.LOADING)
    draft.ask(RaiseStandby(draft.name, standby.generation))
    draft.note(
        StandbyRaised(
            draft.name, standby.session.name, standby.generation, standby.phase.value, left.seconds if left else None
        )
    )


def _discard(draft: Draft, reason: str, fate: Fate) -> None:
    standby = draft.lane.standby
    if standby is None:
        return
    expel(draft, standby, Force.ASK, fate)
    draft.ask(EndWorker(draft.name, standby.generation, Force.ASK))
    draft.note(StandbyDiscarded(draft.name, standby.session.name, standby.generation, reason))


def discard_for_room(draft: Draft) -> None:
    """discard the standby: the active session needs the room"""
    standby, lane = draft.lane.standby, draft.lane
    if standby is not None and standby.held_bytes > standby.reserved:  # it is begun again with what it really takes
        key = profile_key(standby.session, lane)
        draft.learn(key, learn_peak(draft.profiles.get(key), standby.held_bytes))
        draft.note(ProfileLearned(key, draft.profiles[key]))
    _discard(draft, "the active session needs the room", Fate.REQUEUE)


def reserve_discarded(draft: Draft) -> None:
    """reserve the discarded one: it is next again as soon as its process is gone"""
    draft.change(near_at=draft.at, reserved=draft.lane.leaving[-1].session.name)


def discard_for_other(draft: Draft) -> None:
    """discard the standby: another session is swapped in"""
    _discard(draft, "another session is swapped in", Fate.REQUEUE)


def cancel_standby(draft: Draft) -> None:
    """end the standby's session"""
    _discard(draft, "its session was cancelled", Fate.CANCEL)


def discard_for_drain(draft: Draft) -> None:
    """discard the standby: its session goes back in the queue"""
    _discard(draft, "the lane is drained", Fate.REQUEUE)


def promote_if_go(draft: Draft) -> None:
    """Promote if go"""
    if policy.go(draft.world, draft.lane):
        promote(draft)


def promote(draft: Draft) -> None:
    """Promote"""
    standby = draft.lane.standby
    if standby is None:
        raise AssertionError("promote without a standby")
    worker = replace(
        standby,
        low_priority=False,
        phase=Phase.GOING,
        since=draft.at,
        deadline=draft.at + draft.limits.start_timeout_s,
    )
    draft.change(active=worker, standby=None, swap_asked=False, reserved=None)
    draft.ask(Promote(draft.name, worker.generation))


# The active session


def reserve_next(draft: Draft) -> None:
    """reserve the next, if any"""
    session = policy.head(draft.world, draft.lane, draft.at)
    draft.change(near_at=draft.at, reserved=None if session is None else session.name)


def release(draft: Draft) -> None:
    """release the reservation"""
    draft.change(reserved=None, near_at=None)


def mark_swap(draft: Draft) -> None:
    """the swap is marked as asked for"""
    lane, event = draft.lane, draft.event
    to = event.to if isinstance(event, Swap) else None
    if lane.standby is None:
        session = policy.head(draft.world, lane, draft.at)
        draft.change(reserved=to or (session.name if session else None))
    draft.change(swap_asked=True, near_at=lane.near_at or draft.at)
    draft.note(SwapAsked(lane.name, lane.active.session.name if lane.active else "", to))


def _drain(draft: Draft, fate: Fate) -> None:
    active = draft.lane.active
    if active is None:
        return
    outcome = active.fate if active.fate is Fate.CANCEL else fate
    draft.put(
        active,
        fate=outcome,
        phase=Phase.DRAINING,
        since=draft.at,
        stall_at=None,
        deadline=draft.at + draft.limits.drain_timeout_s,
    )
    draft.change(drain_at=draft.at, reserved=draft.lane.reserved if draft.lane.swap_asked else None)
    draft.ask(DrainActive(draft.name, active.generation, outcome is Fate.CANCEL))
    raise_standby(draft)


def drain_to_requeue(draft: Draft) -> None:
    """DrainActive; its session goes back in the queue"""
    _drain(draft, Fate.REQUEUE)


def drain_to_cancel(draft: Draft) -> None:
    """DrainActive; its session is cancelled"""
    _drain(draft, Fate.CANCEL)


def drain_to_retry(draft: Draft) -> None:
    """DrainActive; its session is tried again"""
    if draft.lane.active is not None:
        seconds = draft.limits.stall_timeout_s
        draft.put(
            draft.lane.active,
            trouble=draft.lane.active.trouble or Trouble("stall", f"made no progress for {seconds:.0f} s"),
        )
    _drain(draft, Fate.RETRY)


def drain_requeues(draft: Draft) -> None:
    """the outcome changes: its session goes back in the queue"""
    active = draft.lane.active
    if active is not None and active.fate is Fate.RETRY:
        draft.put(active, fate=Fate.REQUEUE)


def drain_cancels(draft: Draft) -> None:
    """the outcome changes: its session is cancelled"""
    active = draft.lane.active
    if active is not None:
        draft.put(active, fate=Fate.CANCEL)
        draft.ask(DrainActive(draft.name, active.generation, cancelled=True))


def expect_end(draft: Draft) -> None:
    """the next session may take all of the device's time"""
    draft.change(drain_at=draft.at, reserved=None)
    raise_standby(draft)


def retire(draft: Draft) -> None:
    """Retire"""
    lane = draft.lane
    if lane.active is None:
        raise AssertionError("retire without an active session")
    draft.change(active=None, retiring=(*lane.retiring, lane.active), swap_asked=False, near_at=None, drain_at=None)


def await_next(draft: Draft) -> None:
    """the reserved session keeps its place at the head"""
    draft.change(near_at=None, drain_at=None)


def forget_active(draft: Draft) -> None:
    """requeue its session at its cursor, or fail it"""
    draft.change(swap_asked=False, reserved=None, near_at=None, drain_at=None)


def begin(draft: Draft) -> None:
    """tell the handover"""
    lane = draft.lane
    relay, active = lane.relay, lane.active
    draft.change(relay=None, near_at=None, drain_at=None, swap_asked=False, reserved=None)
    if relay is None or active is None or active.began_at is None:
        return
    ready_at = active.ready_at if active.ready_at is not None else active.began_at
    draft.note(
        HandoverCompleted(
            lane=lane.name,
            from_session=relay.session,
            session=active.session.name,
            generation=active.generation,
            gap_s=active.began_at - relay.ended_at,
            lead_s=relay.ended_at - active.spawned_at,
            idle_standby_s=max(0.0, relay.ended_at - ready_at),
            device_waited_s=max(0.0, ready_at - relay.told_at),
            tier="none" if relay.tier is None else relay.tier.label,
            preparing_s=active.prepared_s,
            draining_s=0.0 if relay.drain_at is None else max(0.0, relay.ended_at - relay.drain_at),
            swapping_s=active.began_at - max(relay.ended_at, min(ready_at, active.began_at)),
            items_in=relay.items_in,
            items_done=relay.items_done,
            items_returned=0 if relay.abandoned else relay.items_left,
            items_abandoned=relay.items_left if relay.abandoned else 0,
        )
    )


# Ending


def stop_workers(draft: Draft) -> None:
    """discard the standby, DrainActive"""
    _discard(draft, "batond stops", Fate.REQUEUE)
    draft.change(reserved=None, swap_asked=False)
    pauses.hurry(draft)
    active = draft.lane.active
    if active is not None and active.phase is not Phase.DRAINING:
        _drain(draft, Fate.REQUEUE)


def end_all(draft: Draft) -> None:
    """end all workers, requeue their sessions"""
    for worker in tuple(draft.lane.workers()):
        if worker in draft.lane.leaving:
            continue
        expel(draft, worker, Force.KILL, Fate.REQUEUE)
    for worker in draft.lane.leaving:
        draft.put(worker, forced=Force.KILL, deadline=draft.at + draft.limits.grace_s)
        draft.ask(EndWorker(draft.name, worker.generation, Force.KILL))
    draft.change(reserved=None, swap_asked=False, near_at=None, drain_at=None, relay=None)


def escalate(draft: Draft) -> None:
    """escalate: ask, SIGTERM to its group, SIGKILL"""
    limits = draft.limits
    for worker in policy.overdue(draft.lane, draft.at):
        force = _harder(worker)
        why = f"was {worker.phase.value} for {draft.at - worker.since:.0f} s"
        if worker.paused is not None:
            why = f"could not write its output for {draft.at - worker.paused_at:.0f} s: {worker.paused}"
        draft.put(
            worker,
            forced=force,
            deadline=draft.at + (limits.exit_timeout_s if force is Force.KILL else limits.grace_s),
            trouble=worker.trouble or (None if worker.forced or worker.settled else Trouble("timeout", why)),
        )
        draft.ask(EndWorker(draft.name, worker.generation, force))
        draft.note(WorkerEscalated(draft.name, worker.session.name, worker.generation, force.value, why))


def _harder(worker: Worker) -> Force:
    if worker.forced is None:
        return Force.ASK if worker.phase is Phase.LOADING else Force.TERM
    return Force.TERM if worker.forced is Force.ASK else Force.KILL
