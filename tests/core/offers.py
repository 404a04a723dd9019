"""What may happen next in a world of a search: every submission, word, fault, command and limit. Steps nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import cycle, islice

from states import events as ev
from states.snapshot import Lane, Phase, State, Worker, World
from states.work import Session, Tier
from tests.core.abstraction import (
    BASE,
    FAR,
    IMPORTED_BYTES,
    ITEMS,
    LEAD,
    LIMITS,
    NEAR,
    NOW,
    PLENTY,
    SHORT,
    TIGHT,
    UNLIMITED,
    URGENT,
    WARM_BYTES,
    normal,
)


class Kind(Enum):
    """The sorts of sessions that the table tells apart."""

    PLAIN = "prepares, can resume, knows its total"
    ENDLESS = "does not know its total"
    PROGRAM = "computes as soon as it is started"
    ONE_SHOT = "cannot resume"


class Part(Enum):
    """Who brings an event about: what a continuation may count on."""

    WORK = "workers that do what they are told"
    FAULT = "workers that fail, die or say a thing twice"
    DEATH = "the exit of a worker that got SIGKILL, or that nothing limits"
    TIME = "time passes a limit"
    MEMORY = "memory becomes free"
    CARE = "someone resumes the lane; the device comes back; a full disk has room"
    WHIM = "commands, submissions, losses"


@dataclass(frozen=True)
class Scope:
    """How much of everything a search offers."""

    sessions: int = 2
    lanes: int = 1
    kinds: tuple[Kind, ...] = (Kind.PLAIN,)
    attempts: int = 2
    tight: bool = True
    faults: bool = True
    limits: bool = True
    doubled: bool = True
    swaps: bool = True
    cancels: bool = True
    holds: bool = True
    endings: bool = True
    arrivals: bool = True
    coarse: bool = False
    after: bool = False
    disks: bool = False


Edge = tuple[Part, str, World, ev.Event]


def beginning(scope: Scope) -> World:
    """Idle lanes, no reading yet; nothing queued, or all there will ever be."""
    lanes = {name: Lane(name, imported_bytes=IMPORTED_BYTES, since=BASE) for name in "LM"[: scope.lanes]}
    queue: tuple[Session, ...] = ()
    if not scope.arrivals:
        kinds = islice(cycle(scope.kinds), scope.sessions)
        queue = tuple(_session(scope, kind, f"s{place}", place) for place, kind in enumerate(kinds))
    return normal(World(lanes, queue, limits=LIMITS))


def _session(scope: Scope, kind: Kind, name: str, place: int) -> Session:
    return Session(
        name=name,
        order=float(place),
        profile=kind.name,
        guess_bytes=WARM_BYTES,
        max_attempts=scope.attempts or UNLIMITED,
        lead=LEAD,
        resumable=kind is not Kind.ONE_SHOT,
        prepares=kind is not Kind.PROGRAM,
        stepwise=kind is not Kind.PROGRAM,
    )


def offered(world: World, scope: Scope) -> Iterator[Edge]:
    """Every event that may come next, each with the world made concrete for it."""
    yield from _submissions(world, scope)
    yield from _times(world, scope)
    for lane in world.lanes.values():
        readings = [(Part.MEMORY, "plenty", PLENTY)]
        if scope.tight:
            readings += [(Part.WHIM, "tight", TIGHT), (Part.WHIM, "short", SHORT)]
        for part, word, reading in readings:
            yield part, f"memory {word}", world, ev.Memory(NOW, lane.name, reading.total, reading.free)
        for worker in lane.workers():
            for part, label, event in (*_said(lane, worker, scope), *_disk(worker, scope)):
                yield part, f"{worker.session.name} {label}", world, event
        if scope.holds:
            yield Part.CARE, "resume", world, ev.Resume(NOW, lane.name)
            yield Part.WHIM, "pause", world, ev.Pause(NOW, lane.name)
            yield Part.WHIM, "drain lane", world, ev.DrainLane(NOW, lane.name)
        if lane.lost is not None:
            yield Part.CARE, "device back", world, ev.DeviceBack(NOW, lane.name)
        if scope.swaps:
            yield from _swaps(world, lane)
        if scope.endings and lane.lost is None:
            yield Part.WHIM, "device lost", world, ev.DeviceLost(NOW, lane.name, "gone")
    if scope.endings:
        yield Part.WHIM, "stop", world, ev.Stop(NOW)
        yield Part.WHIM, "kill", world, ev.Kill(NOW)
    if scope.cancels:
        for session in [*world.queue, *(w.session for w in owners(world))]:
            yield Part.WHIM, f"cancel {session.name}", world, ev.Cancel(NOW, session.name)
        if len(world.queue) > 1:
            yield Part.WHIM, "move", world, ev.Move(NOW, world.queue[-1].name)


def owners(world: World) -> list[Worker]:
    return [worker for lane in world.lanes.values() for worker in lane.workers() if not worker.settled]


def _submissions(world: World, scope: Scope) -> Iterator[Edge]:
    count = len(world.queue) + sum(1 for lane in world.lanes.values() for _ in lane.workers())
    if count >= scope.sessions or not scope.arrivals:
        return
    for kind in scope.kinds:
        session = _session(scope, kind, "new", count)
        yield Part.WHIM, f"queue {kind.name}", world, ev.Queued(NOW, session)
        present = names(world)
        if scope.after and present:
            first = min(present)
            yield (
                Part.WHIM,
                f"queue after {first}",
                world,
                ev.Queued(NOW, replace(session, waits_for=frozenset({first}))),
            )


def _times(world: World, scope: Scope) -> Iterator[Edge]:
    """Time passes nothing, or exactly one limit: in which order limits pass is left open."""
    tick = ev.Tick(NOW)
    yield Part.TIME, "tick", world, tick
    for place, session in enumerate(world.queue):
        if session.not_before:
            due = replace(session, not_before=BASE)
            yield Part.TIME, f"backoff of {session.name}", replace(world, queue=_put(world.queue, place, due)), tick
    for lane in world.lanes.values():
        for worker in lane.workers() if scope.limits else ():
            if worker.deadline is not None:
                yield Part.TIME, f"deadline of {worker.session.name}", _with(world, lane, worker, deadline=BASE), tick
            if worker.stall_at is not None and worker is lane.active:
                yield Part.TIME, f"stall of {worker.session.name}", _with(world, lane, worker, stall_at=BASE), tick


def paced(edges: Iterator[Edge]) -> Iterator[Edge]:
    """What is predicted may change at any moment: each event that asks for it comes with every prediction."""
    for part, label, concrete, event in edges:
        yield part, label, concrete, event
        if not isinstance(event, ev.Queued | ev.Memory | ev.Tick | ev.Resume | ev.Progress):
            continue
        for lane in concrete.lanes.values():
            active, standby = lane.active, lane.standby
            if active is None or active.phase is not Phase.COMPUTING or active.total is None:
                continue
            if not active.session.prepares and active.pace is None:
                continue  # it has reported nothing yet
            if lane.state in {State.RUNNING, State.NEARING_END}:
                yield part, f"{label}, end near", _with(concrete, lane, active, pace=NEAR), event
                yield part, f"{label}, end far", _with(concrete, lane, active, pace=FAR), event
            elif standby is not None and standby.low_priority and isinstance(event, ev.Progress | ev.Tick):
                yield part, f"{label}, end at hand", _with(concrete, lane, active, pace=URGENT), event


def _put(group: tuple[Session, ...], place: int, new: Session) -> tuple[Session, ...]:
    return (*group[:place], new, *group[place + 1 :])


def _with(world: World, lane: Lane, worker: Worker, **fields: object) -> World:
    changed = replace(worker, **fields)  # type: ignore[arg-type]
    parts = {
        "active": changed if lane.active is worker else lane.active,
        "standby": changed if lane.standby is worker else lane.standby,
        "retiring": tuple(changed if each is worker else each for each in lane.retiring),
        "leaving": tuple(changed if each is worker else each for each in lane.leaving),
    }
    return replace(world, lanes={**world.lanes, lane.name: replace(lane, **parts)})  # type: ignore[arg-type]


def _said(lane: Lane, worker: Worker, scope: Scope) -> Iterator[tuple[Part, str, ev.FromWorker]]:
    """What a worker may say in its phase, in the protocol's order; its faults; its death."""
    g, phase = worker.generation, worker.phase
    total = None if worker.session.profile == Kind.ENDLESS.name else ITEMS
    ready = ev.Ready(NOW, g, worker.aim, 1.0, total)
    quiesced = ev.Quiesced(NOW, g, NOW, ITEMS, 0)
    early = ev.Quiesced(NOW, g, NOW, ITEMS - 1, None if total is None else 1)
    match phase:
        case Phase.LOADING:
            yield Part.WORK, "ready", ready
        case Phase.GOING:
            yield Part.WORK, "started", ev.Promoted(NOW, g, NOW)
        case Phase.COMPUTING:
            yield Part.WORK, "progress", ev.Progress(NOW, g, 1, 0, total, WARM_BYTES)
            yield Part.WORK, "last batch", ev.LastBatch(NOW, g)
            yield Part.WORK, "quiesced", quiesced
            yield Part.FAULT, "quiesced early", early
        case Phase.DRAINING:
            if worker.began_at is None:
                yield Part.WORK, "started", ev.Promoted(NOW, g, NOW)
            else:
                yield Part.WORK, "quiesced", quiesced
                yield Part.WORK, "quiesced early", early
                yield Part.FAULT, "progress", ev.Progress(NOW, g, 2, 0, total)
        case Phase.COMMITTING:
            yield Part.WORK, "committed", ev.Committed(NOW, g, worker.done)
        case _:
            pass
    if phase is Phase.COMMITTED:
        yield Part.WORK, "exits", ev.Exited(NOW, g, 0)
    let_go = scope.coarse and worker in lane.retiring  # its deadline is pending: it is dead in the end
    if worker.forced is not None or let_go or (phase is Phase.COMPUTING and not worker.session.prepares):
        yield Part.DEATH, "is dead", ev.Exited(NOW, g, -9)
    elif scope.faults:
        yield Part.FAULT, "dies", ev.Exited(NOW, g, -9)
    if scope.faults and worker.trouble is None and not worker.settled and phase is not Phase.COMMITTED:
        yield Part.FAULT, "fails for good", ev.Failed(NOW, g, "model", "bad")
        if not scope.coarse:
            yield Part.FAULT, "fails", ev.Failed(NOW, g, "memory", "short")
    if scope.doubled:
        yield from _doubled(worker, ready, quiesced)


def _disk(worker: Worker, scope: Scope) -> Iterator[tuple[Part, str, ev.FromWorker]]:
    """Between its start and its end a worker may find its disk full, and then not."""
    begun = worker.began_at is not None or worker.phase is Phase.COMMITTING
    if not scope.disks or worker.settled or not begun:
        return
    if worker.phase in {Phase.COMPUTING, Phase.DRAINING, Phase.COMMITTING}:
        yield Part.FAULT, "paused", ev.Paused(NOW, worker.generation, "full")
    if worker.paused is not None:
        yield Part.CARE, "resumed", ev.Resumed(NOW, worker.generation)


def _doubled(worker: Worker, ready: ev.Ready, quiesced: ev.Quiesced) -> Iterator[tuple[Part, str, ev.FromWorker]]:
    g, phase = worker.generation, worker.phase
    if phase is Phase.LOADING and worker.tier is not None:
        yield Part.FAULT, "ready twice", replace(ready, tier=worker.tier)
    if phase is not Phase.LOADING:
        yield Part.FAULT, "hello late", ev.Hello(NOW, g, 0)
        yield Part.FAULT, "ready twice", replace(ready, tier=worker.tier or Tier.WARM)
    if phase in {Phase.COMPUTING, Phase.DRAINING} and worker.began_at is not None:
        yield Part.FAULT, "started twice", ev.Promoted(NOW, g, NOW)
    if phase in {Phase.COMMITTING, Phase.COMMITTED}:
        yield Part.FAULT, "last batch late", ev.LastBatch(NOW, g)
        yield Part.FAULT, "quiesced twice", quiesced
        yield Part.FAULT, "progress late", ev.Progress(NOW, g, 1, 0)


def _swaps(world: World, lane: Lane) -> Iterator[Edge]:
    yield Part.WHIM, "swap", world, ev.Swap(NOW, lane.name)
    yield Part.WHIM, "swap by force", world, ev.Swap(NOW, lane.name, force=True)
    for session in world.queue:
        yield Part.WHIM, f"swap to {session.name}", world, ev.Swap(NOW, lane.name, session.name)


def names(world: World) -> list[str]:
    return [session.name for session in world.queue] + [worker.session.name for worker in owners(world)]
