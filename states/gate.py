"""The gate: what a session needs of a lane's memory, what can be given out, whether it fits. Pure; knows no queue.

Bytes, absolute and signed: min(free − growth(active), total − Σ reservations) ≥ need + headroom, in several readings in
a row. What a session may still grow by is in its reservation, so it is taken from what is free, and not once more from
the rest of the total. On a device with memory of its own the host's memory is asked the same question.
"""

from __future__ import annotations

from collections.abc import Iterable

from states.estimate import GUESS_SHARE, IMPORTED_BYTES, context_bytes, device_need_bytes, need_bytes
from states.snapshot import Lane, Limits, Phase, Reading, Worker, World, context_key, profile_key
from states.work import Session, Tier

LEAST_LIMIT_BYTES = 64 << 20  # TensorFlow's pool is given no less, however little a session was said to need


# What is needed


def is_known(world: World, lane: Lane, session: Session) -> bool:
    """Whether the session's need of the device was stated, or measured; of a built-in one it can be guessed."""
    profile = world.profiles.get(profile_key(session, lane))
    return session.stepwise or session.stated_bytes is not None or bool(profile and profile.peak_bytes)


def need(world: World, lane: Lane, session: Session, tier: Tier) -> int:
    """Bytes the session needs on the lane's device at a tier. 0 where nothing is known of it."""
    profile = world.profiles.get(profile_key(session, lane))
    if not lane.has_own_memory:
        guess = session.guess_bytes + (session.guess_device_bytes if lane.shares_memory else 0)
        return need_bytes(session, profile, tier, lane.imported_bytes, guess, _most(world, lane.readings))
    if tier is Tier.IMPORTED:
        return 0
    context = context_bytes(world.profiles.get(context_key(lane)))
    if tier is Tier.STAGED:
        return context
    return device_need_bytes(session, profile, context, _most(world, lane.readings))


def host_need(world: World, lane: Lane, session: Session, tier: Tier) -> int:
    """Bytes of host memory that the session needs at a tier; 0 where the device's memory is the host's."""
    if not lane.has_own_memory:
        return 0
    if tier is Tier.IMPORTED:
        return IMPORTED_BYTES
    profile = world.profiles.get(profile_key(session, lane))
    measured = profile.host_peak_bytes if profile else 0
    if measured or not session.stepwise:
        return measured
    most = _most(world, world.host)
    return max(IMPORTED_BYTES, session.guess_bytes if most is None else min(session.guess_bytes, most))


def pool_limit(world: World, lane: Lane, session: Session) -> int | None:
    """Bytes that a built-in session's pool may take of a device with memory of its own; None: no limit is set.

    One that ran out of memory has the device to itself, and may take all that no other process is seen to hold: what a
    session before it has not given back yet is waited for.
    """
    if not lane.has_own_memory or not session.stepwise:
        return None
    context = context_bytes(world.profiles.get(context_key(lane)))
    whole = need(world, lane, session, lane.top)
    most = _most(world, lane.readings)
    if session.out_of_memory and most is not None:
        whole = max(whole, most - sum(holder.size or 0 for holder in lane.foreign))
    return max(LEAST_LIMIT_BYTES, whole - context)


def given(world: World, lane: Lane, session: Session, tier: Tier, standby: Worker | None = None) -> int:
    """Bytes of the device that a session is given at a tier: what it needs, and all that its pool may take.

    standby: its worker, where it has one already: the limit that this was started with stays.
    """
    wanted = need(world, lane, session, tier)
    limit = pool_limit(world, lane, session) if standby is None else standby.pool_bytes
    if tier is not lane.top:
        limit = None
    return wanted if limit is None else max(wanted, limit + context_bytes(world.profiles.get(context_key(lane))))


def _most(world: World, readings: tuple[Reading, ...]) -> int | None:
    """What a guess may ask for at the most: a wrong one is not to wait for ever. None before there is a reading."""
    return max(1, int(readings[-1].total * GUESS_SHARE) - world.limits.headroom_bytes) if readings else None


def least(world: World, lane: Lane, session: Session) -> int:
    """Bytes that the session surely needs of the device: what is stated, or weighs so much on disk.

    Not what was measured: it has run with that on such a device, however near to all of it that was.
    """
    profile = world.profiles.get(profile_key(session, lane))
    if profile is not None and profile.peak_bytes:
        return session.least_bytes
    return max(need(world, lane, session, lane.top), session.least_bytes)


def can_ever_fit(world: World, lane: Lane, session: Session) -> bool:
    """Whether the session would fit if the device were empty. True where the device was not read yet."""
    if not lane.readings:
        return True
    return least(world, lane, session) + world.limits.headroom_bytes <= lane.readings[-1].total


# What can be given out


def shows(reading: Reading, worker: Worker) -> bool:
    """Whether a reading can show all that the worker took: made when it was prepared as far as it is, or later.

    One of an earlier daemon was prepared before this one looked.
    """
    prepared_at = worker.spawned_at if worker.ready_at is None else worker.ready_at
    return worker.phase is not Phase.LOADING and reading.at >= prepared_at


def unseen(reading: Reading, worker: Worker, given: int, held: int) -> int:
    """Bytes that a worker may have taken, and that a reading was too early to show.

    One that computes is not in it: it may take what it was given at any time (see `growth`).
    """
    ended = worker.phase in {Phase.COMMITTING, Phase.COMMITTED} and reading.at < worker.since
    if ended and given == 0 and not worker.session.stepwise:
        return reading.total  # nobody knows what it took
    if not shows(reading, worker):
        return given
    return max(0, given - held) if ended else 0


def growth(lane: Lane) -> int:
    """Bytes the active session may still grow by: what it was given less what it was seen to hold.

    All of a device with memory of its own, where nothing is known of its need.
    """
    active = lane.active
    if active is None:
        return 0
    if active.reserved == 0 and lane.has_own_memory:
        return max((reading.total for reading in lane.readings), default=0)
    return max(0, active.reserved - active.held_bytes)


def spare(lane: Lane, limits: Limits) -> int | None:
    """Bytes that can be given out: min(free − growth, total − reservations), the least of the last readings.

    What a reading cannot show yet counts as taken in it. Signed. None before there are enough readings.
    """
    workers = tuple(lane.workers())
    takings = tuple((worker, worker.reserved, worker.held_bytes) for worker in workers)
    return _room(lane.readings, limits, takings, growth(lane))


def host_spare(world: World) -> int | None:
    """The same of the host's memory, for all lanes whose devices have their own; here every worker may still grow."""
    workers = [worker for lane in world.lanes.values() if lane.has_own_memory for worker in lane.workers()]
    takings = tuple((worker, worker.host_reserved, worker.rss_bytes) for worker in workers)
    grows = sum(max(0, given - held) for worker, given, held in takings if worker.phase is not Phase.LOADING)
    return _room(world.host, world.limits, takings, grows)


def _room(
    readings: tuple[Reading, ...], limits: Limits, takings: Iterable[tuple[Worker, int, int]], grows: int
) -> int | None:
    """min(free − grows, total − reservations) in the last readings; takings: what each was given, what it holds."""
    recent = readings[-limits.readings :]
    if len(recent) < limits.readings:
        return None
    takings = tuple(takings)
    taken = sum(max(given, held) for _, given, held in takings)
    return min(
        min(
            reading.free - sum(unseen(reading, worker, given, held) for worker, given, held in takings) - grows,
            reading.total - taken,
        )
        for reading in recent
    )


# Whether it fits


def fits(world: World, lane: Lane, session: Session, tier: Tier, standby: Worker | None = None) -> bool:
    """The gate: whether the session may allocate what `tier` needs, given what its `standby` was given already."""
    room, headroom = spare(lane, world.limits), world.limits.headroom_bytes
    if room is None:
        return False
    wanted = asked(world, lane, session, tier, standby)
    takes_none = lane.has_own_memory and tier is Tier.IMPORTED
    return (takes_none or room >= wanted + headroom) and _host_has_room(world, lane, session, tier, standby)


def asked(world: World, lane: Lane, session: Session, tier: Tier, standby: Worker | None = None) -> int:
    """Bytes that must be there for the session to be given a tier, beyond what its `standby` was given already.

    On an otherwise empty device no more than a guess may ask for: drivers keep some of it, and nobody else will come.
    """
    wanted = given(world, lane, session, tier, standby)
    most = _most(world, lane.readings)
    if most is not None and all(worker is standby for worker in lane.workers()):
        wanted = min(wanted, most)
    return wanted - (0 if standby is None else standby.reserved)


def _host_has_room(world: World, lane: Lane, session: Session, tier: Tier, standby: Worker | None) -> bool:
    if not lane.has_own_memory or not world.host:
        return True
    room = host_spare(world)
    wanted = host_need(world, lane, session, tier) - (0 if standby is None else standby.host_reserved)
    return room is not None and room >= wanted + world.limits.headroom_bytes


def fitting_tier(world: World, lane: Lane, session: Session) -> Tier | None:
    """The furthest tier that fits now; None when not even the first does."""
    if not session.stepwise:
        return lane.top if fits(world, lane, session, lane.top) else None
    return next((tier for tier in reversed(lane.tiers) if fits(world, lane, session, tier)), None)


def is_short(readings: tuple[Reading, ...], limits: Limits, since: float) -> bool:
    """Whether half of the headroom is gone, in several readings in a row after `since`."""
    recent = readings[-limits.readings :]
    return len(recent) == limits.readings and all(
        reading.free < limits.headroom_bytes // 2 and reading.at > since for reading in recent
    )


def grows_into_standby(world: World, lane: Lane) -> bool:
    """Whether the active session needs the room that the standby took, on the device or the host."""
    if lane.active is None or lane.standby is None or lane.standby.aim <= Tier.IMPORTED:
        return False
    since = lane.standby.spawned_at
    if is_short(lane.readings, world.limits, since):
        return True
    if lane.standby.held_bytes > lane.standby.reserved:  # it took more than it was given: perhaps what was promised
        promised, recent = growth(lane), lane.readings[-world.limits.readings :]
        if promised and all(reading.at > since and reading.free < promised for reading in recent):
            return True
    return lane.has_own_memory and is_short(world.host, world.limits, since)
