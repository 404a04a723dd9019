"""What the forecast makes up of the world around the core: its patience, its memory, what a worker reports. No order.

Everything here is an event or a world that the core is given; what follows from it, the core decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from states import gate, hindsight
from states.estimate import PACE_WINDOW_S
from states.events import HostMemory, Progress
from states.events import Memory as Reading
from states.hindsight import Run, Span
from states.snapshot import Lane, Worker, World
from states.work import Session, Tier


def patient(world: World, most: int) -> World:
    """The world without deadlines, for nothing is late in a forecast; and without the queue's far end.

    Of the queue so much is kept as `most` beginnings may reach: a lane takes the first that is due, so that behind
    enough that wait for nothing no other is looked at. A lane that nobody in the queue asks for takes no part.
    """
    queue = reach(world, most)
    limits = replace(
        world.limits,
        prepare_timeout_s=math.inf,
        start_timeout_s=math.inf,
        stall_timeout_s=math.inf,
        drain_timeout_s=math.inf,
        commit_timeout_s=math.inf,
        pause_timeout_s=math.inf,
        exit_timeout_s=math.inf,
        memory_alarm_s=math.inf,
    )
    return replace(
        world, queue=queue, limits=limits, lanes={name: _patient(lane) for name, lane in world.lanes.items()}
    )


def _patient(lane: Lane) -> Lane:
    def calm(worker: Worker) -> Worker:
        return replace(worker, deadline=None, stall_at=None)

    return replace(
        lane,
        active=None if lane.active is None else calm(lane.active),
        standby=None if lane.standby is None else calm(lane.standby),
        retiring=tuple(map(calm, lane.retiring)),
        leaving=tuple(map(calm, lane.leaving)),
    )


def reach(world: World, most: int) -> tuple[Session, ...]:
    """The part of the queue that may be looked at until `most` sessions have begun; what a lane reserves is in it."""
    missing = {lane.name: most for lane in world.lanes.values()}
    reserved = {lane.reserved for lane in world.lanes.values()} & {session.name for session in world.queue}
    suited: dict[tuple[object, ...], tuple[str, ...]] = {}  # by all that counts for where a session can ever run
    for count, session in enumerate(world.queue, 1):
        reserved.discard(session.name)
        if not session.waits_for and not session.not_before:
            kind = (session.device, session.profile, session.stepwise, session.prepares, _needs(session))
            names = suited.get(kind)
            if names is None:
                names = suited[kind] = _suited(world, session)
            for name in names:
                if name in missing:
                    missing[name] -= 1
                    if not missing[name]:
                        del missing[name]
        if not missing and not reserved:
            return world.queue[:count]
    return world.queue


def _needs(session: Session) -> tuple[int | None, ...]:
    guesses = session.guess_bytes, session.guess_device_bytes, session.least_bytes
    return (session.out_of_memory, session.stated_bytes, *guesses)


def _suited(world: World, session: Session) -> tuple[str, ...]:
    lanes = world.lanes.values()
    return tuple(lane.name for lane in lanes if lane.takes(session.device) and gate.can_ever_fit(world, lane, session))


class Memory:
    """The devices' memory and the host's, as it will be read: what others hold stays as it is now.

    A worker holds what it was given from the moment on at which it is being prepared; an ended one's is back at once.
    """

    def __init__(self, world: World) -> None:
        self._held: dict[int, tuple[str, int, int]] = {}  # by generation: lane, of the device, of the host
        self._host_total = world.host[-1].total if world.host else 0
        host_used = self._host_total - world.host[-1].free if world.host else 0
        self._totals: dict[str, int] = {}
        self._others: dict[str, int] = {}  # of each device, what no worker of ours holds
        for lane in world.lanes.values():
            for worker in lane.workers():
                host = worker.rss_bytes if lane.has_own_memory else 0
                self._held[worker.generation] = (lane.name, worker.held_bytes, host)
                host_used -= host
            if lane.readings:
                last = lane.readings[-1]
                ours = sum(worker.held_bytes for worker in lane.workers())
                self._totals[lane.name] = last.total
                self._others[lane.name] = max(0, last.total - last.free - ours)
        self._host_others = max(0, host_used)

    def takes(self, worker: Worker, lane: Lane, tier: Tier) -> None:
        """It is prepared as far as `tier`, with all that it was given."""
        held = worker.reserved if worker.session.prepares or tier is lane.top else 0
        self._held[worker.generation] = (lane.name, held, worker.host_reserved)

    def gives_back(self, generation: int) -> None:
        """Its process is gone."""
        self._held.pop(generation, None)

    def host_of(self, worker: Worker, lane: Lane) -> int:
        """What it says that it holds of the host: where that is the lane's memory, what it holds of that."""
        _, device, host = self._held.get(worker.generation, (lane.name, worker.held_bytes, worker.rss_bytes))
        return host if lane.has_own_memory else device

    def readings(self, lane: Lane, at: float, count: int) -> Iterator[Reading | HostMemory]:
        """As many as the gate wants, of the lane and, where that has its own memory, of the host."""
        if lane.name not in self._totals or lane.unread is not None:
            return
        here = [(number, size) for number, (name, size, _) in self._held.items() if name == lane.name]
        total = self._totals[lane.name]
        free = total - self._others[lane.name] - sum(size for _, size in here)
        for _ in range(count):
            yield Reading(at, lane.name, total, free, tuple(here) if lane.has_own_memory else (), lane.foreign)
        if lane.has_own_memory and self._host_total:
            used = self._host_others + sum(host for _, _, host in self._held.values())
            for _ in range(count):
                yield HostMemory(at, self._host_total, self._host_total - used)


def remaining(worker: Worker, runs: Sequence[Run], items: int | None, at: float) -> tuple[Span | None, float | None]:
    """How long it still computes, and its seconds an item: by its own pace, else by earlier runs. None: not known."""
    if worker.pace is not None and items is not None:
        left = worker.pace.remaining(at, items)
        if left is not None:
            return hindsight.from_pace(left), worker.pace.per_item_s
    whole = hindsight.run_length(runs, items, worker.start)
    if whole is None:
        return None, None
    rate = hindsight.per_item(runs) if items is not None else None
    past = 0.0 if worker.began_at is None else max(0.0, at - worker.began_at)
    return Span(max(0.0, whole.seconds - past), whole.margin_s), None if rate is None else rate.seconds


def why_no_end(worker: Worker, items: int | None) -> str:
    """Why the end of its run cannot be predicted."""
    if worker.paused is not None:
        return "when it can write its output again"
    if items is None:
        return "how many items it has"
    return "how fast it is: it has not run here before"


def reports(
    worker: Worker, items: int | None, per_item_s: float | None, at: float, rss_bytes: int
) -> Iterator[Progress]:
    """The reports of progress that the core needs: two for a pace where it has none, one where a lead is a share.

    A program that reports nothing counts as one item, and will report nothing again.
    """
    if items is None or not per_item_s or not (worker.session.prepares or items > 1):
        return
    if worker.pace is None or worker.pace.weight == 0.0:
        window = max(1, math.ceil(PACE_WINDOW_S / per_item_s))
        yield Progress(at, worker.generation, worker.done, worker.cursor, items, rss_bytes)
        if worker.done + window < items:
            done = worker.done + window
            yield Progress(at + window * per_item_s, worker.generation, done, worker.cursor, items, rss_bytes)
    fraction = worker.session.lead.fraction
    if fraction is not None:
        due = min(items, math.ceil(fraction * items))
        if due > worker.done:
            after = at + (due - worker.done) * per_item_s
            yield Progress(after, worker.generation, due, worker.cursor, items, rss_bytes)
