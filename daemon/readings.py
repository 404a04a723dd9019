"""When the devices and the host's memory are read, and which events that makes. Decides nothing else.

The reading is done on a thread of its own, since a call of NVML may hang for as long as a sick driver likes. The
event loop is never kept waiting for it, nor is the daemon's end. In quiet each lane is read every `interval_s`; one
that waits for memory every `handover_interval_s`, but only so often that its readings take a hundredth of a core, and
less often when the wait is no longer young.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from daemon import config, hostmemory
from daemon.devices import Devices, Listing, Lost, Process, Read, Unreadable
from states import policy
from states.events import DeviceBack, DeviceLost, Event, Holder, HostMemory, Memory, Unread
from states.snapshot import World

T = TypeVar("T")

SHARE: Final = 100  # of the time, one part may go into readings
# A wait is watched closely while it is young: memory comes back within a second or two of an exit. Then it costs more
# than it is worth, since each reading also makes an event, and that a decision.
YOUNG_S: Final = 3.0
OLD_INTERVAL_S: Final = 0.3
FEW: Final = 5  # readings whose cost is remembered
HUNG_S: Final = 2.0  # a call takes milliseconds, but a driver may wake first; until then the last readings count
LOOK_S: Final = 1.0  # how often it is looked whether a call hangs
HANGS: Final = f"NVML has not answered for {HUNG_S:.0f} s; see `dmesg`, and whether `nvidia-smi` answers"
LISTING_WAIT_S: Final = 2.0
SAME_S: Final = 5.0  # of readings that all are the same, where nothing is to be run, one so often is a fact
BEFORE_WAIT_S: Final = HUNG_S + 2.0  # by then it is known that a call hangs
FIRST_WAIT_S: Final = 5.0
CLOSE_WAIT_S: Final = 0.5
# After trouble: NVML is opened anew so often, ever less until the second figure (it is not cheap, and other devices
# are read through it), and a device is trusted again after so many good readings in a row, this far apart.
REOPEN_S: Final = 5.0
REOPEN_CAP_S: Final = 60.0
GOOD_IN_A_ROW: Final = 3
RECOVERY_S: Final = 0.25


@dataclass
class _Cost:
    """What one reading takes: its time on the processor, and, for calls that wait in the driver, by the clock.

    By the clock it is the least of the last few: on a busy machine most of the time is others'.
    """

    processor_s: deque[float] = field(default_factory=lambda: deque(maxlen=FEW))
    clock_s: deque[float] = field(default_factory=lambda: deque(maxlen=FEW))

    def add(self, processor_s: float, clock_s: float) -> None:
        self.processor_s.append(processor_s)
        self.clock_s.append(clock_s)

    @property
    def seconds(self) -> float:
        if not self.clock_s:
            return 0.0
        return max(sum(self.processor_s) / len(self.processor_s), min(self.clock_s))


@dataclass
class _Source:
    """What is read: a lane's device, or the host. Touched by the reading thread only."""

    name: str
    cost: _Cost = field(default_factory=_Cost)
    read_at: float = float("-inf")
    trouble: Lost | Unreadable | None = None
    good: int = 0  # readings in a row, since there was trouble

    def due_at(self, pace: config.Memory, waits_since: float | None, waiting: int) -> float:
        """When it is read next. waits_since: since when something waits for it; waiting: for how many, in all."""
        if self.good:
            return self.read_at + min(RECOVERY_S, pace.interval_s)
        if waits_since is None:
            return self.read_at + pace.interval_s
        often_s = max(pace.handover_interval_s, SHARE * self.cost.seconds)
        if time.monotonic() - waits_since > YOUNG_S:
            often_s = max(often_s, OLD_INTERVAL_S * waiting)
        return self.read_at + min(pace.interval_s, often_s)


@dataclass(frozen=True)
class _Since:
    """Since when a lane waits, as it is: another worker gone, or another state, is another wait."""

    at: float
    scene: tuple[object, ...]


@dataclass(frozen=True)
class _Seen:
    """A good reading of a lane's device, on its way to the event loop, where it is known whose the processes are."""

    at: float
    lane: str
    read: Read


class Readings:
    """Reads the devices until closed. All methods are for the event loop's thread."""

    def __init__(
        self,
        devices: Devices,
        *,
        pace: Callable[[], config.Memory],
        world: Callable[[], World],
        owners: Callable[[], Mapping[int, int]],
        post: Callable[[Event], None],
    ) -> None:
        """pace: how often, as configured now. owners: the generation of each worker, by its process id."""
        self._devices = devices
        self._pace = pace
        self._world = world
        self._owners = owners
        self._post = post
        self._gpus = frozenset(lane.name for lane in devices.discover() if lane.device == "gpu")
        self._lanes = [_Source(lane.name) for lane in devices.discover()]
        self._host = _Source("host")
        self._own_memory: set[str] = set()  # the lanes whose devices have some
        self._waiting: Mapping[str, _Since] = {}  # replaced by the event loop, read by the thread
        self._changed = threading.Condition()
        self._closing = False
        self._listings: deque[asyncio.Future[tuple[Listing, ...]]] = deque()
        self._wanted: deque[tuple[str, Callable[[], None]]] = deque()  # lanes to be read now, and what follows
        self._asked_at: float | None = None  # since when a call of NVML has not returned
        self._reopen_at = float("inf")
        self._reopen_every_s = REOPEN_S
        self._told_hung = False
        self._last: dict[str, _Seen] = {}  # by lane, the last that was posted
        self._first = 1
        self._events = asyncio.get_running_loop()
        self._begun: asyncio.Future[None] = self._events.create_future()
        self._bug: asyncio.Future[None] = self._events.create_future()
        self._thread = threading.Thread(target=self._run, name="readings", daemon=True)

    @property
    def why_no_gpu(self) -> str | None:
        """Why there is no GPU, where that is so."""
        return self._devices.why_no_gpu

    async def start(self, readings: int) -> None:
        """Begin; goes on when each device was read so often, or some call hangs."""
        self._first = readings
        self._thread.start()
        await asyncio.wait({self._begun, self._bug}, timeout=FIRST_WAIT_S, return_when=asyncio.FIRST_COMPLETED)

    async def watch(self) -> None:
        """Tell when NVML hangs. Raises what a bug in the reading thread raised."""
        while True:
            await asyncio.wait({self._bug}, timeout=LOOK_S)
            if self._bug.done():
                self._bug.result()
            self._look_for_hang(time.monotonic())

    def look(self, world: World) -> None:
        """Look which lanes wait for memory in this world: these are read often, from now on."""
        now = time.monotonic()
        waiting: dict[str, _Since] = {}
        for name, lane in world.lanes.items():
            if policy.waits_for_memory(world, lane, now):
                scene = (lane.state, *(worker.generation for worker in lane.workers()))
                before = self._waiting.get(name)
                waiting[name] = before if before is not None and before.scene == scene else _Since(now, scene)
        if waiting != self._waiting:
            fresh = any(self._waiting.get(name) is not since for name, since in waiting.items())
            self._waiting = waiting
            if fresh:
                with self._changed:
                    self._changed.notify()

    def before(self, lane: str, then: Callable[[], None]) -> None:
        """Call `then` when the lane's device was read once more, and that was posted; or seen to hang."""
        called = False

        def once() -> None:
            nonlocal called
            if not called:
                called = True
                then()

        self._events.call_later(BEFORE_WAIT_S, once)
        self._wanted.append((lane, once))
        with self._changed:
            self._changed.notify()

    async def listing(self) -> tuple[Listing, ...]:
        """What a person is told of each device; what is known without NVML, where that does not answer."""
        answer: asyncio.Future[tuple[Listing, ...]] = asyncio.get_running_loop().create_future()
        self._listings.append(answer)
        with self._changed:
            self._changed.notify()
        try:
            return await asyncio.wait_for(answer, LISTING_WAIT_S)
        except TimeoutError:
            return self._devices.labels(f"NVML has not answered for {LISTING_WAIT_S:.0f} s; see `dmesg`")

    def owner(self, process: Process) -> int | None:
        """The generation of the worker that the process belongs to; None for one that is not ours."""
        return _owner(process, self._owners())

    def close(self) -> None:
        """Read nothing more. A call that hangs is left to hang: it ends with the process. May be called twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._changed.notify()
        if self._thread.ident is None:
            self._devices.close()
        else:
            self._thread.join(CLOSE_WAIT_S)

    # On the event loop

    def _deliver(self, facts: tuple[_Seen | Event, ...]) -> None:
        self._told_hung = False
        owners = self._owners()
        for fact in facts:
            match fact:
                case _Seen():
                    if self._is_news(fact):
                        self._last[fact.lane] = fact
                        self._post(_memory(fact, owners))
                case DeviceLost(lane=name) if self._world().lanes[name].lost is not None:
                    pass
                case _:
                    self._post(fact)
        self.look(self._world())  # time alone may have made a lane wait: a session that is due again

    def _is_news(self, seen: _Seen) -> bool:
        """Whether something may hang on it: each reading is a decision, and of idle lanes there may be many."""
        world, last = self._world(), self._last.get(seen.lane)
        lane = world.lanes[seen.lane]
        if last is None or last.read != seen.read or seen.at - last.at >= SAME_S:
            return True
        known = lane.unread is None and len(lane.readings) >= world.limits.readings
        return not known or bool(world.queue) or any(True for _ in lane.workers())

    def _look_for_hang(self, now: float) -> None:
        asked_at = self._asked_at
        if self._told_hung or asked_at is None or now - asked_at < HUNG_S:
            return
        self._told_hung = True
        for name in sorted(self._gpus):
            if self._world().lanes[name].lost is None:
                self._post(Unread(now, name, HANGS))

    def _begin(self) -> None:
        if not self._begun.done():
            self._begun.set_result(None)

    def _fail(self, bug: Exception) -> None:
        if not self._bug.done():
            self._bug.set_exception(bug)

    def _give(self, answers: list[asyncio.Future[tuple[Listing, ...]]], listing: tuple[Listing, ...]) -> None:
        for answer in answers:
            if not answer.done():
                answer.set_result(listing)

    # On the thread

    def _run(self) -> None:
        try:
            for _ in range(self._first):
                self._round(all_of_them=True)
            self._call(self._begin)
            while not self._closing:
                self._round()
                self._read_wanted()
                self._answer()
                self._sleep()
        except Exception as bug:  # noqa: BLE001 - any at all: `watch` raises it, and it ends the daemon
            self._call(self._fail, bug)
        finally:
            self._devices.close()

    def _call(self, act: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the event loop has ended: nobody is there to be told
            self._events.call_soon_threadsafe(act, *arguments)

    def _sleep(self) -> None:
        with self._changed:
            if not self._closing and not self._listings and not self._wanted:
                due = min([*(self._due_at(each) for each in self._sources()), self._reopen_at])
                self._changed.wait(max(0.0, due - time.monotonic()))

    def _sources(self) -> list[_Source]:
        return [*self._lanes, self._host] if self._own_memory else self._lanes

    def _due_at(self, source: _Source) -> float:
        waiting = self._waiting
        if source is self._host:
            since = max((each.at for each in waiting.values()), default=None)
        else:
            since = waiting[source.name].at if source.name in waiting else None
        return source.due_at(self._pace(), since, len(waiting))

    def _round(self, *, all_of_them: bool = False) -> None:
        """Read what is due."""
        now = time.monotonic()
        if now >= self._reopen_at:
            self._reopen()
        facts: list[_Seen | Event] = []
        for source in self._lanes:
            if not self._closing and (all_of_them or self._due_at(source) <= now):
                facts += self._read(source)
        if self._own_memory and (all_of_them or self._due_at(self._host) <= now):
            facts.append(self._read_host())
        if facts:
            self._call(self._deliver, tuple(facts))

    def _read_wanted(self) -> None:
        while self._wanted:
            name, then = self._wanted.popleft()
            for source in self._lanes:
                if source.name == name and (facts := self._read(source)):
                    self._call(self._deliver, tuple(facts))
            self._call(then)

    def _asking(self, ask: Callable[[], T]) -> T | None:
        """What a call of NVML gives; None where it came so late that nothing is to be made of it."""
        began = self._asked_at = time.monotonic()
        try:
            answer = ask()
        finally:
            self._asked_at = None
        if not self._gpus or time.monotonic() - began < HUNG_S:
            return answer
        for source in self._lanes:
            source.good = 0
            source.trouble = source.trouble or Unreadable(HANGS)
        self._expect_trouble()
        return None

    def _read_host(self) -> HostMemory:
        with _measured(self._host) as began:
            host = hostmemory.read()
        return HostMemory(began, host.total, host.free)

    def _read(self, source: _Source) -> list[_Seen | Event]:
        """A lane's device, stamped with when it was begun: of what is taken meanwhile nobody knows whether it shows."""
        device = self._devices.device(source.name)
        with _measured(source) as began:
            found = self._asking(device.read)
        match found:
            case None:
                return []
            case Read():
                if found.own:
                    self._own_memory.add(source.name)
                return self._well(source, _Seen(began, source.name, found))
            case Lost() | Unreadable():
                return self._badly(source, began, found)

    def _well(self, source: _Source, seen: _Seen) -> list[_Seen | Event]:
        trouble = source.trouble
        if trouble is None:
            return [seen]
        source.good += 1
        if source.good < GOOD_IN_A_ROW:
            return []
        source.trouble, source.good = None, 0
        if not any(each.trouble for each in self._lanes):
            self._reopen_at, self._reopen_every_s = float("inf"), REOPEN_S
        return [DeviceBack(seen.at, source.name), seen] if isinstance(trouble, Lost) else [seen]

    def _badly(self, source: _Source, at: float, found: Lost | Unreadable) -> list[_Seen | Event]:
        source.good = 0
        self._expect_trouble()
        if isinstance(source.trouble, Lost) or source.trouble == found:
            return []
        source.trouble = found
        kind = DeviceLost if isinstance(found, Lost) else Unread
        return [kind(at, source.name, found.reason)]

    def _expect_trouble(self) -> None:
        if self._reopen_at == float("inf"):
            self._reopen_at = time.monotonic() + self._reopen_every_s

    def _reopen(self) -> None:
        self._asking(self._devices.reopen)
        self._reopen_every_s = min(self._reopen_every_s + REOPEN_S, REOPEN_CAP_S)
        self._reopen_at = time.monotonic() + self._reopen_every_s
        for source in self._lanes:
            if source.trouble is not None:
                source.read_at = float("-inf")

    def _answer(self) -> None:
        answers: list[asyncio.Future[tuple[Listing, ...]]] = []
        while self._listings:
            answers.append(self._listings.popleft())
        if answers:
            listing = self._asking(self._devices.listing)
            self._call(self._give, answers, self._devices.labels(HANGS) if listing is None else listing)


@contextmanager
def _measured(source: _Source) -> Iterator[float]:
    """Measure one reading of it; gives when it was begun."""
    began, used = time.monotonic(), time.thread_time()
    yield began
    source.read_at = began
    source.cost.add(time.thread_time() - used, time.monotonic() - began)


def _memory(seen: _Seen, owners: Mapping[int, int]) -> Memory:
    held: dict[int, list[int | None]] = {}
    foreign: list[Holder] = []
    for process in seen.read.processes or ():
        generation = _owner(process, owners)
        if generation is None:
            foreign.append(Holder(process.pid, process.name, process.size))
        else:
            held.setdefault(generation, []).append(process.size)
    told = tuple((each, sum(size or 0 for size in sizes)) for each, sizes in held.items() if None not in sizes)
    return Memory(seen.at, seen.lane, seen.read.total, seen.read.free, told, tuple(foreign))


def _owner(process: Process, owners: Mapping[int, int]) -> int | None:
    """Of a worker are the processes of its session, and those that descend from it."""
    return next((owners[pid] for pid in process.kin if pid in owners), None)
