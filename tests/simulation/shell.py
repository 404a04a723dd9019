"""One life of the daemon, as its loop leads it: inbox, step, record, perform, tick; and how it ends midway."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Protocol

from states import events as ev
from states.decision import Decision
from states.effects import Effect
from states.lifecycle import step
from states.policy import next_deadline, waits_for_memory
from states.snapshot import State, World
from tests.simulation.clock import Clock
from tests.simulation.laws import must
from tests.simulation.memory import Device, Host
from tests.simulation.plan import Kind, Point, Trouble
from tests.simulation.record import Record

REGULAR_TICK_S = 1.0
RETRY_RECORD_S = 1.0
TICKS_AT_ONCE = 40  # at one moment; more is a loop that never sleeps


class Around(Protocol):
    """What is around the daemon."""

    clock: Clock
    record: Record
    devices: dict[str, Device]
    host: Host | None
    disk_full: int
    quiet_s: float
    waiting_s: float

    def decided(self, decision: Decision) -> None: ...
    def recorded(self, decision: Decision) -> None: ...
    def perform(self, effect: Effect) -> None: ...
    def died(self, *, clean: bool) -> None: ...
    def struck(self, kind: Kind, job: str = "") -> None: ...


class Shell:
    """A daemon. `ending` is the trouble that will kill it at its next decision that asks for something."""

    def __init__(self, around: Around, world: World, life: int) -> None:
        self.around = around
        self.clock = around.clock
        self.world = world
        self.life = life
        self.alive = True
        self.blocked = False
        self.ending: Trouble | None = None
        self._inbox: deque[ev.Event] = deque()
        self._busy = False
        self._timer = 0
        self._ticks: tuple[float, int] = (0.0, 0)
        self._polling = False

    def start(self, readings: int) -> None:
        """Look at memory and at the time, as the service does at its start."""
        for _ in range(readings):
            self._read(all_lanes=True)
        self._quiet_reading()
        self.take(ev.Tick(self.clock.now))

    def take(self, event: ev.Event) -> Decision | None:
        """Decide on an event; the decision where it was made at once."""
        if not self.alive:
            return None
        if self.blocked and isinstance(event, ev.Stop | ev.Kill):
            self.blocked = False
            self._inbox.appendleft(event)
            return None if self._busy else self._drain()
        if self.blocked:
            if isinstance(event, ev.Command | ev.Queued):
                return None  # refused
            first = self._inbox[0] if self._inbox else None
            self._inbox = deque(each for each in self._inbox if each is first or not _supersedes(event, each))
        self._inbox.append(event)
        if self._busy or self.blocked:
            return None
        return self._drain()

    def die(self, *, clean: bool = False) -> None:
        """Nothing more is decided or done."""
        if self.alive:
            self.alive = False
            self._inbox.clear()
            self.around.died(clean=clean)

    def _drain(self) -> Decision | None:
        self._busy = True
        first: Decision | None = None
        looked = False
        while self._inbox and self.alive:
            event = self._inbox[0]
            self._count_ticks(event)
            decision = step(self.world, event)
            self.around.decided(decision)
            first = first or decision
            if decision.matters and not self._record(decision):
                break
            self._inbox.popleft()
            self.world = decision.after
            looked = looked or decision.matters or isinstance(event, ev.Tick)
            if decision.matters:
                self._act(decision)
        self._busy = False
        if self.alive and looked:
            self._set_timer()
            self._poll_soon()
            if self.world.stopping and all(_stopped(self.world, name) for name in self.world.lanes):
                self.die(clean=True)
        return first

    def _record(self, decision: Decision) -> bool:
        if self._meets(decision, Point.DECIDED):
            return False
        if self.around.disk_full:
            if not self.blocked:
                self.around.struck(Kind.DISK_FULL)
            if decision.after.stopping:
                return True  # the end is not held up: what is done the outputs prove
            self.blocked = True
            if isinstance(decision.event, ev.Command | ev.Queued):
                self._inbox.popleft()
            self.clock.after(RETRY_RECORD_S, self._try_again)
            return False
        self.around.record.apply(decision)
        self.around.recorded(decision)
        return not self._meets(decision, Point.RECORDED)

    def _act(self, decision: Decision) -> None:
        for place, effect in enumerate(decision.effects):
            if place == 1 and self._meets(decision, Point.MIDWAY):
                return
            self.around.perform(effect)
        if self._meets(decision, Point.ACTED):
            return
        if decision.refused is None:
            self._inbox.append(ev.Tick(self.clock.now))

    def _meets(self, decision: Decision, point: Point) -> bool:
        """Whether it is killed here."""
        if self.ending is None or not decision.effects or self.ending.point is not point:
            return False
        self.around.struck(Kind.RESTART, f"{point.value}")
        self.die()
        return True

    def _try_again(self) -> None:
        if self.alive:
            self.blocked = False
            waiting = [event for event in self._inbox if not isinstance(event, ev.Tick)]
            self._inbox = deque(replace(event, at=self.clock.now) for event in waiting)
            self._inbox.append(ev.Tick(self.clock.now))
            self._drain()

    # Time and memory

    def _count_ticks(self, event: ev.Event) -> None:
        if not isinstance(event, ev.Tick):
            self._ticks = (self.clock.now, 0)
        else:
            at, count = self._ticks
            count = count + 1 if at == self.clock.now else 0
            must(count < TICKS_AT_ONCE, "busy", f"{count} ticks at {self.clock.now}, and time does not pass")
            self._ticks = (self.clock.now, count)

    def _set_timer(self) -> None:
        due = next_deadline(self.world)
        if any(lane.active is not None for lane in self.world.lanes.values()):
            regular = self.clock.now + REGULAR_TICK_S
            due = regular if due is None else min(due, regular)
        self._timer += 1
        number = self._timer
        if due is not None:
            late = 0.001 if due > self.clock.now else 0.0
            self.clock.at(due + late, lambda: self._tick(number))

    def _tick(self, number: int) -> None:
        if number == self._timer:
            self.take(ev.Tick(self.clock.now))

    def _quiet_reading(self) -> None:
        if self.alive:
            self._read(all_lanes=True)
            self.clock.after(self.around.quiet_s, self._quiet_reading)

    def _poll_soon(self) -> None:
        if not self._polling and self._waiting():
            self._polling = True
            self.clock.after(self.around.waiting_s, self._poll)

    def _poll(self) -> None:
        self._polling = False
        if self.alive:
            self._read(all_lanes=False)
            self._poll_soon()

    def _waiting(self) -> list[str]:
        world = self.world
        return [name for name, lane in world.lanes.items() if waits_for_memory(world, lane, self.clock.now)]

    def _read(self, *, all_lanes: bool) -> None:
        names = list(self.world.lanes) if all_lanes else self._waiting()
        for name in names:
            if self.alive:
                self.take(self._reading(self.around.devices[name]))
        host = self.around.host
        if host is not None and names and self.alive:
            self.take(ev.HostMemory(self.clock.now, host.total, host.free))

    def _reading(self, device: Device) -> ev.Event:
        now, name = self.clock.now, device.plan.name
        if device.lost:
            return ev.DeviceLost(now, name, "fell off the bus")
        if device.unreadable:
            return ev.Unread(now, name, "NVML says Unknown Error")
        return ev.Memory(now, name, device.total, device.free, device.held, device.holders)


def _supersedes(new: ev.Event, old: ev.Event) -> bool:
    match new, old:
        case (ev.Tick(), ev.Tick()):
            return True
        case (ev.Memory(lane=lane), ev.Memory(lane=other)) | (ev.Unread(lane=lane), ev.Unread(lane=other)):
            return lane == other
        case (ev.HostMemory(), ev.HostMemory()):
            return True
        case (ev.Progress(generation=generation), ev.Progress(generation=other)):
            return generation == other
        case _:
            return False


def _stopped(world: World, name: str) -> bool:
    lane = world.lanes[name]
    return lane.state is State.STOPPED and not any(lane.workers())
