"""Worlds up to what decides: times, names, generations and sizes brought down to their roles. Decides nothing.

Two worlds with the same normal form answer every event alike, up to the same renaming. What is let go: absolute times
(a deadline is pending or not), what only notes carry (`since`, `near_at`, the relay), what was learned, counts of items
that no guard reads. What is kept: phases, fates, tiers, reservations, the order of the queue, attempts, backoff.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from states.effects import Force
from states.estimate import Pace
from states.snapshot import Fate, Lane, Limits, Phase, Reading, State, Trouble, Worker, World
from states.work import Lead, Session, Tier

BASE = 1000.0  # every time in a normal world that is not in the future
NOW = 1001.0  # when the next event happens
LATER = 1e6  # a deadline that is pending
ITEMS = 2
IMPORTED_BYTES, WARM_BYTES, HEADROOM = 1, 10, 4

PLENTY = Reading(BASE, 1000, 1000)
TIGHT = Reading(BASE, 40, 20)  # one warm; a second imported only, until the first is seen to have its own
SHORT = Reading(BASE, 1000, 1)  # nothing fits, and an active session that grows needs the room
URGENT = Pace(BASE, 1, per_item_s=2.0, weight=1.0)  # less is left than an unknown model's hurried preparation
NEAR = Pace(BASE, 1, per_item_s=10.0, weight=1.0)
FAR = Pace(BASE, 1, per_item_s=1000.0, weight=1.0)
LEAD = Lead(seconds=20.0)
UNLIMITED = 1000  # attempts: then they are not counted
LIMITS = Limits(headroom_bytes=HEADROOM, readings=1)
NOBODY = Session(name="-", order=-1.0)

_PREPARING = {Phase.LOADING, Phase.READY, Phase.GOING, Phase.COMPUTING, Phase.DRAINING}


def normal(world: World, *, coarse: bool = False) -> World:
    """The representative of all worlds that behave as this one does.

    `coarse`: how far a retiring worker's end is forced already is let go too; no guard reads it.
    """
    present = ([] if world.stopping else list(world.queue)) + [
        w.session for lane in world.lanes.values() for w in lane.workers() if not w.settled
    ]
    present.sort(key=lambda session: session.rank)
    names = {session.name: f"s{number}" for number, session in enumerate(present)}
    places = {session.name: float(number) for number, session in enumerate(present)}
    lanes: dict[str, Lane] = {}
    generation = 0
    over = world.stopping  # nothing is begun any more: what would let it begin is alike
    for name, lane in world.lanes.items():
        parts: dict[str, Worker | None] = {}
        for role in ("active", "standby"):
            worker: Worker | None = getattr(lane, role)
            if worker is not None:
                generation += 1
                worker = _worker(worker, generation, names, places, role=role)
            parts[role] = worker
        groups: dict[str, tuple[Worker, ...]] = {}
        for role in ("retiring", "leaving"):
            told = "retired" if coarse and role == "retiring" else role
            forms = [_worker(w, 0, names, places, role=told) for w in getattr(lane, role)]
            forms.sort(key=_place)
            groups[role] = tuple(replace(form, generation=generation + n) for n, form in enumerate(forms, 1))
            generation += len(forms)
        lanes[name] = Lane(
            name=name,
            tiers=lane.tiers,
            imported_bytes=IMPORTED_BYTES,
            state=lane.state,
            since=BASE,
            held=lane.held and not over,
            lost=None if lane.lost is None else "lost",
            swap_asked=lane.swap_asked,
            reserved=names.get(lane.reserved or ""),
            readings=() if over or lane.state is State.STOPPED else _readings(lane),
            **parts,  # type: ignore[arg-type]
            **groups,  # type: ignore[arg-type]
        )
    queue = () if over else tuple(_session(session, names, places) for session in world.queue)
    return World(lanes, queue, {}, LIMITS, generation, world.stopping)


def key(form: World) -> tuple[object, ...]:
    """What tells two normal worlds apart; lanes are alike, so their order does not."""
    if len(form.lanes) == 1:
        return (form.queue, form.stopping, *form.lanes.values())
    return (form.queue, form.stopping, frozenset((_bare(lane), lane.reserved) for lane in form.lanes.values()))


def _bare(lane: Lane) -> tuple[object, ...]:
    workers = [
        (w.session, w.phase, w.aim, w.tier, w.deadline, w.stall_at, w.forced, w.fate, w.trouble, w.low_priority)
        for w in lane.workers()
    ]
    extra = [(w.settled, w.cursor, w.done, w.pace, w.began_at) for w in lane.workers()]
    shape = (lane.active is None, lane.standby is None, len(lane.retiring), len(lane.leaving))
    return (lane.state, lane.held, lane.lost, lane.swap_asked, lane.readings, tuple(workers), tuple(extra), shape)


def _time(limit: float | None) -> float | None:
    """A limit that has passed stays passed: what nobody acts on then is never acted on."""
    return None if limit is None else LATER if limit > NOW else BASE


def _readings(lane: Lane) -> tuple[Reading, ...]:
    """The last reading. Where nothing fits it is like none: only growth tells them apart, and it asks new ones."""
    if not lane.readings:
        return ()
    last = lane.readings[-1]
    if last.free >= PLENTY.free - 100:  # all that may ever be taken here is less
        return (PLENTY,)
    if last.free < IMPORTED_BYTES + HEADROOM:
        return ()
    return (replace(last, at=BASE),)


def _session(session: Session, names: dict[str, str], places: dict[str, float]) -> Session:
    waits_for = frozenset(names[name] for name in session.waits_for if name in names)
    return _plain_session(session, names[session.name], places[session.name], waits_for)


@lru_cache(maxsize=1 << 16)
def _plain_session(session: Session, name: str, order: float, waits_for: frozenset[str]) -> Session:
    return replace(
        session,
        name=name,
        order=order,
        priority=0,
        total=None,
        cursor=0,
        attempt=0 if session.max_attempts == UNLIMITED else session.attempt,
        begun=False,
        errors=0,
        cancelled=False,  # its worker's fate says so
        waits_for=waits_for,
        not_before=LATER if session.not_before > NOW else 0.0,
        queued_at=0.0,
    )


def _worker(worker: Worker, generation: int, names: dict[str, str], places: dict[str, float], *, role: str) -> Worker:
    session = NOBODY if worker.settled else replace(_session(worker.session, names, places), not_before=0.0)
    return _plain_worker(worker, generation, session, role)


@lru_cache(maxsize=1 << 16)
def _plain_worker(worker: Worker, generation: int, session: Session, role: str) -> Worker:
    gone = role == "leaving"
    settled = worker.settled
    phase = worker.phase
    forced = None if worker.forced is None or role == "retired" else Force.KILL
    if settled:
        phase = Phase.COMMITTED
    elif gone and phase in _PREPARING:
        phase = Phase.LOADING
    counted = worker.total is None and not settled and not (gone and phase is Phase.LOADING)
    trouble = worker.trouble
    if settled or trouble is None or worker.fate is Fate.CANCEL:
        trouble = None
    elif trouble.permanent or (trouble.out_of_memory and session.out_of_memory):
        trouble = Trouble("model", "")
    elif trouble.out_of_memory:
        trouble = Trouble("memory", "")
    else:  # the session comes back either way; only a standby may do less for it
        trouble = Trouble("crash", "") if role == "standby" else None
    return Worker(
        session=session,
        generation=generation,
        phase=phase,
        aim=worker.aim if phase in {Phase.LOADING, Phase.READY} and not gone else Tier.WARM,
        reserved=worker.reserved,
        since=BASE,
        spawned_at=BASE,
        beside=False,
        low_priority=worker.low_priority and phase is Phase.LOADING and role == "standby",
        tier=worker.tier if role == "standby" else None,
        deadline=_time(worker.deadline),
        stall_at=_time(worker.stall_at) if role == "active" else None,
        forced=forced,
        fate=Fate.COMPLETE if settled else worker.fate,
        trouble=trouble,
        settled=settled,
        paused=None if worker.paused is None or settled or phase is Phase.LOADING else "full",
        cursor=worker.cursor if phase is Phase.COMMITTED and not settled and worker.fate is Fate.COMPLETE else 0,
        done=worker.done if phase is Phase.COMMITTING and not settled else 0,
        total=None if settled or worker.total is None or (gone and phase is Phase.LOADING) else ITEMS,
        remaining=worker.remaining if counted else None,
        held_bytes=worker.held_bytes if role == "active" or phase is Phase.READY else 0,
        pace=None if worker.pace is None or phase is not Phase.COMPUTING or worker.session.prepares else NEAR,
        began_at=BASE if worker.began_at is not None and phase in {Phase.COMPUTING, Phase.DRAINING} else None,
    )


def _place(worker: Worker) -> tuple[object, ...]:
    return (worker.settled, worker.session.order, worker.phase.value, worker.forced is None, worker.reserved)
