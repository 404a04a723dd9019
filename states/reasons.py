"""What a person is told: why a lane is in its state, or cannot be handed over. Words and figures; decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from states import gate, policy
from states.events import Swap
from states.snapshot import Lane, Phase, State, Worker, World
from states.work import Session, Tier

IN_HAND = {State.RUNNING, State.NEARING_END, State.PRELOADING}
NAMED_HOLDERS = 3  # processes of others that are named in a reason; the rest are counted
UNEXPLAINED_SHARE = 0.05  # of a device, below which what nobody is named for is the driver's own


def swap_refusal(world: World, lane: Lane, event: Swap) -> str | None:
    """Why the lane cannot be handed over now; None when it can."""
    active = lane.active
    where = f"cannot swap lane {lane.name}: "
    if active is None:
        return where + f"it is {lane.state.value}, and no session is computing on it"
    if lane.state not in IN_HAND:
        name = active.session.name
        doing = "begins its first item" if active.phase is Phase.GOING else "finishes the batch in flight already"
        return where + f"it is {lane.state.value}: {name} {doing}"
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
            return where + f"{event.to} is tried again in {seconds(wanted.not_before - event.at)}, not before"
        if not gate.can_ever_fit(world, lane, wanted):
            return where + f"{event.to} can never fit: {never_fits(world, (lane,), wanted)}"
    elif prepared is None and policy.head(world, lane, event.at) is None:
        return where + "no queued session is due that may run on it"
    return None


def amount(size: int) -> str:
    """Bytes as a person reads them, as on every screen."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


def seconds(time: float) -> str:
    """Seconds as a person reads them."""
    return f"{time:.0f} s" if time >= 9.95 else f"{max(time, 0.1):.1f} s"


def never_fits(world: World, lanes: Sequence[Lane], session: Session) -> str:
    """That the session is more than any of these devices has, in figures."""
    needs = {lane.name: gate.least(world, lane, session) for lane in lanes}
    least = min(needs.values())
    others = "".join(f", {amount(needs[lane.name])} on {lane.name}" for lane in lanes if needs[lane.name] > least)
    have = ", ".join(f"{lane.name} has {amount(lane.readings[-1].total)}" for lane in lanes)
    return f"it needs {amount(least)}{others}, and {amount(world.limits.headroom_bytes)} are kept free; {have}"


def memory(world: World, lane: Lane, session: Session, tier: Tier, standby: Worker | None, at: float) -> str:
    """Why the gate holds: what is needed, what can be given out, who holds the rest, and since when."""
    if lane.unread is not None:
        return f"waits for the device to be read again, for {session.name}: {lane.unread}"
    room = gate.spare(lane, world.limits)
    if room is None:
        return f"waits for memory readings of the device before {session.name} is prepared"
    headroom = world.limits.headroom_bytes
    needed = gate.asked(world, lane, session, tier, standby)
    where, holders = "", tuple(_holders(lane, at))
    takes_none = lane.has_own_memory and tier is Tier.IMPORTED
    if lane.has_own_memory and world.host and (takes_none or room >= needed + headroom):
        host = gate.host_spare(world)
        if host is None:
            return f"waits for memory readings of the host before {session.name} is prepared"
        room, where = host, " of the host's memory"
        needed = gate.host_need(world, lane, session, tier) - (standby.host_reserved if standby else 0)
        holders = tuple(
            f"{worker.session.name} {amount(max(worker.host_reserved, worker.rss_bytes))}"
            for each in world.lanes.values()
            for worker in each.workers()
        )
    text = (
        f"waits for memory for {session.name}: {tier.label} needs {amount(needed)}{where} and"
        f" {amount(headroom)} are kept free, {amount(max(room, 0))} can be given out"
    )
    text += f"; {'; '.join(holders)}" if holders else "; no session of batond holds any"
    return text + (f"; {seconds(at - lane.wait.since)} so far" if lane.wait is not None else "")


def _holders(lane: Lane, at: float) -> Iterator[str]:
    """Who has memory of the device: our workers by what they do, others by process, and what nobody is named for."""
    for worker in lane.workers():
        size = max(worker.reserved, worker.held_bytes)
        what = _doing(lane, worker)
        grows = gate.growth(lane) if worker is lane.active else 0
        text = f"{worker.session.name} ({what}) has {amount(size)}"
        if worker.reserved == 0 and grows:
            held = amount(worker.held_bytes)
            text = f"{worker.session.name} ({what}) has {held}, and may take more: its need is not known"
        if worker not in (lane.active, lane.standby) and worker.deadline is not None:
            text += f" and is ended by force in {seconds(worker.deadline - at)}"
        yield text
    yield from others(lane)


def others(lane: Lane) -> Iterator[str]:
    """Who has memory of the device and is not ours: by process, and what nobody is named for."""
    known = [holder for holder in lane.foreign if holder.size is not None]
    ranked = sorted(lane.foreign, key=lambda holder: -(holder.size or 0))
    for holder in ranked[:NAMED_HOLDERS]:
        holds = "memory" if holder.size is None else amount(holder.size)
        yield f"pid {holder.pid} ({holder.name}), which is not batond's, holds {holds}"
    if len(ranked) > NAMED_HOLDERS:
        yield f"{len(ranked) - NAMED_HOLDERS} other processes hold more"
    if lane.has_own_memory and lane.readings and len(known) == len(lane.foreign) and lane.readings[-1].free >= 0:
        last = lane.readings[-1]
        ours = sum(max(worker.reserved, worker.held_bytes) for worker in lane.workers())
        rest = last.total - last.free - ours - sum(holder.size or 0 for holder in known)
        if rest > last.total * UNEXPLAINED_SHARE:
            yield f"{amount(rest)} are taken, and no process is named for them"


def _doing(lane: Lane, worker: Worker) -> str:
    if worker in lane.retiring:
        return "commits"
    if worker in lane.leaving:
        return "ends"
    return "running" if worker is lane.active else "standby"


def _paused(worker: Worker, at: float) -> str:
    return f"has had no room to write for {at - worker.paused_at:.0f} s and tries again: {worker.paused}"


def _idle(world: World, lane: Lane, at: float) -> str:
    unheard = [worker.session.name for worker in lane.workers() if worker.unheard]
    if unheard:
        return f"waits for word of {', '.join(unheard)}, whose worker was left by an earlier batond"
    if lane.leaving:
        return f"waits for the end of {', '.join(worker.session.name for worker in lane.leaving)}"
    if lane.held:
        return "paused; batonctl resume lets it go on"
    session = policy.head(world, lane, at)
    if session is not None:
        if (lane.active or lane.retiring) and policy.needs_empty(world, lane, session):
            return f"{session.name} starts when the device is free{_why_alone(world, lane, session)}"
        if gate.fitting_tier(world, lane, session) is None:
            first = lane.tiers[0] if session.stepwise else lane.top
            return memory(world, lane, session, first, None, at)
        return f"{session.name} is next"
    waiting = [each for each in world.queue if lane.takes(each.device)]
    if not waiting:
        return "nothing is queued"
    first_waiting = waiting[0]
    if first_waiting.waits_for:
        return f"{first_waiting.name} waits for {', '.join(sorted(first_waiting.waits_for))}"
    if first_waiting.not_before > at:
        return f"{first_waiting.name} is tried again in {seconds(first_waiting.not_before - at)}"
    if not gate.can_ever_fit(world, lane, first_waiting):
        why = never_fits(world, (lane,), first_waiting)
        return f"{first_waiting.name} can never fit here, and is left to another lane: {why}"
    return f"{first_waiting.name} is reserved for another lane"


def _why_alone(world: World, lane: Lane, session: Session) -> str:
    if session.out_of_memory:
        return ": it ran out of memory, and gets the device to itself"
    if session.prepares and not gate.is_known(world, lane, session):
        return ": its need of memory is not known; memory = … lets it be prepared beside another"
    return ""


def reason(world: World, lane: Lane, at: float) -> str:
    """Why the lane is in its state, in words and figures."""
    active = lane.active
    if active is not None and active.paused is not None:
        return f"{active.session.name} {_paused(active, at)}"
    asked = "a swap was asked for; " if lane.swap_asked else ""
    match lane.state:
        case State.IDLE:
            return _idle(world, lane, at)
        case State.STOPPED:
            return f"the device is lost: {lane.lost}" if lane.lost else "stopped"
        case State.RUNNING:
            left = policy.remaining(lane, at)
            if left is None:
                return "its end cannot be predicted yet"
            lead = policy.lead(world, lane, at)
            return f"{seconds(left.seconds)} remain; the next is prepared {seconds(lead)} before the end"
        case State.NEARING_END:
            return asked + _idle(world, lane, at)
        case State.DRAINING:
            name = active.session.name if active else "the last session"
            return f"{asked}{name} finishes the batch in flight" + (", then batond stops" if world.stopping else "")
        case State.PRELOADING | State.SWAPPING:
            return asked + _handing_over(world, lane, at)


def _handing_over(world: World, lane: Lane, at: float) -> str:
    active, standby = lane.active, lane.standby
    if active is not None and active.unheard:
        return f"waits for word of {active.session.name}, whose worker was left by an earlier batond"
    if standby is None:
        return f"{active.session.name} begins its first item" if active else "nothing to swap to"
    name = standby.session.name
    if standby.phase is Phase.LOADING:
        return f"{name} is being prepared ({standby.aim.label})"
    held_back = policy.next_tier(world, lane, at)
    if held_back is not None:
        ready = f"{name} is prepared ({standby.tier.label if standby.tier else ''}); "
        return ready + memory(world, lane, held_back[0], held_back[1], standby, at)
    if lane.held:
        return f"{name} is prepared; the lane is paused; batonctl resume lets it go on"
    if active is not None:
        return f"{name} is prepared and waits for {active.session.name} to end"
    last = ", ".join(w.session.name + (f" ({_paused(w, at)})" if w.paused else "") for w in lane.retiring)
    return f"{name} waits for {last} to commit"
