"""The living workers: what they say becomes facts, what is asked of them becomes lines, signals and priorities.

Decides nothing: which worker is started, told to go or ended is the core's. Starts none itself: the nursery does.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol, assert_never

from daemon import messages, priority, worklogs
from daemon.channel import Channel, ProtocolError
from daemon.plaintext import one_line
from daemon.processes import CannotStartError, Process
from daemon.sessionfile import DeviceAssignment, SessionSpec
from states.effects import Force, StartStandby
from states.events import (
    Committed,
    Event,
    Exited,
    Failed,
    Hello,
    LastBatch,
    Paused,
    Progress,
    Promoted,
    Quiesced,
    Ready,
    Resumed,
)
from states.work import Tier

PROGRESS_INTERVAL_S: Final = 0.05  # as the protocol promises: a worker that says more has only its newest word taken
CHATTER_LIMIT: Final = 1000  # lines other than progress at once; one in order sends about ten in its life
CHATTER_PER_S: Final = 10.0  # and then so many: it may find its disk full, and not full, again and again
REASON_LIMIT_CHARACTERS: Final = 2000
SILENT_EXIT_S: Final = 5.0  # between the end of a worker's channel and that of its process
PRIORITY_RETRY_S: Final = 0.1  # the kernel's own interval between two changes of an autogroup
PRIORITY_RETRIES: Final = 50
LOWERED_S: Final = 2.0  # of an inspector: beside two busy cores the lowest priority alone took it a minute
TRIM_INTERVAL_S: Final = 10.0
LOG_LIMIT_BYTES: Final = 16 << 20


class Starts(Protocol):
    """What gives birth to a process for a session; raises CannotStartError."""

    async def start(
        self, spec: SessionSpec, device: DeviceAssignment, generation: int, channel: socket.socket, log_fd: int
    ) -> Process: ...


@dataclass(eq=False)
class _Living:
    """One worker, from the order to start it until its exit is told."""

    session: str
    generation: int
    lane: str
    log: Path
    low: bool
    since: float
    channel: Channel | None = None
    process: Process | None = None
    wanted: signal.Signals | None = None  # sent as soon as there is a process
    greeted: bool = False
    finished: bool = False  # it said committed or failed: its channel may end
    chatter: float = 0.0
    chattered_at: float = 0.0
    progress: tuple[float, messages.Progress] | None = None  # when the newest came, not told yet
    told_at: float = float("-inf")
    timer: asyncio.TimerHandle | None = None


@dataclass(frozen=True)
class Alive:
    """A worker as it is seen from outside. `started`: clock ticks since boot; with `pid` its identity."""

    session: str
    generation: int
    lane: str
    pid: int
    started: int | None


@dataclass(frozen=True)
class Ears:
    """Who hears what comes by an adopted channel: its messages, its fault, its end."""

    take: Callable[[messages.FromWorker], None]
    fault: Callable[[str], None]
    ended: Callable[[], None]


@dataclass(eq=False)
class Crew:
    """Every worker of this daemon, by generation. What is asked of one that is gone does nothing: its exit was told.

    post: gets each fact, stamped, on the event loop. logs: the folder of the sessions' log files. born: told of each
    process as soon as there is one. trimmed: told of a session's log, and how many bytes were cut off its beginning.
    """

    nursery: Starts
    post: Callable[[Event], None]
    logs: Path
    born: Callable[[Alive], None] = field(default=lambda _: None)
    trimmed: Callable[[str, int], None] = field(default=lambda _, __: None)
    rejoin: messages.Rejoin | None = None
    log_limit_bytes: int = LOG_LIMIT_BYTES
    method: priority.Method = field(default_factory=priority.probe)
    _living: dict[int, _Living] = field(default_factory=dict, init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _trimming: asyncio.TimerHandle | None = field(default=None, init=False)

    # What is asked for

    def start(self, order: StartStandby, spec: SessionSpec, device: DeviceAssignment, *, resume: bool) -> None:
        """Start the worker that `order` asks for. Its words, or its exit, follow.

        resume: the output folder may hold this session's own rows, up to the cursor.
        """
        worker = _Living(
            order.session.name,
            order.generation,
            order.lane,
            self.log_path(spec.name),
            order.low_priority,
            time.monotonic(),
        )
        self._living[order.generation] = worker
        assignment = messages.Assign(
            session=order.session.name,
            generation=order.generation,
            tier=_tier_name(order.tier),
            cursor=order.session.cursor,
            resume=resume,
            submission=order.session.submission,
            device=device,
            spec=spec,
            rejoin=self.rejoin,
        )
        task = asyncio.get_running_loop().create_task(self._live(worker, assignment))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        if self._trimming is None:
            self._trim()

    def expect(self, found: Alive, process: Process) -> None:
        """Watch over a worker that an earlier daemon started. It may come back by `adopt`; its exit follows anyhow."""
        worker = _Living(
            found.session, found.generation, found.lane, self.log_path(found.session), low=False, since=0.0
        )
        worker.process = process
        self._living[found.generation] = worker
        task = asyncio.get_running_loop().create_task(self._watch(worker, process))
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def adopt(self, channel: Channel, hello: messages.Hello) -> Ears:
        """Take a worker's new channel: what it missed to say follows, and then what it says. Raises ProtocolError."""
        worker = self._living.get(hello.generation)
        if worker is None or worker.channel is not None:
            raise ProtocolError(f"no worker of generation {hello.generation} is waited for")
        self._greet(worker, hello)
        worker.channel = channel
        for fact in _missed(hello, worker, time.monotonic()):
            self.post(fact)
        worker.finished = hello.phase == "committed"
        return Ears(partial(self._take, worker), partial(self._fault, worker), partial(self._ended, worker))

    def advance(self, generation: int, tier: Tier) -> None:
        """Prepare further, to `tier`."""
        self._send(generation, messages.Advance(_tier_name(tier)))

    def go(self, generation: int) -> None:
        """The device is the worker's. The line is written within this call: the gap is counted from here."""
        self._send(generation, messages.Go())
        asyncio.get_running_loop().call_soon(self.raise_priority, generation)

    def drain(self, generation: int, *, cancelled: bool) -> None:
        """Finish the batch in flight, commit, exit."""
        self._send(generation, messages.Cancel() if cancelled else messages.Drain())

    def raise_priority(self, generation: int) -> None:
        """Give a worker that was started low the priority of any other process."""
        worker = self._living.get(generation)
        if worker is not None and worker.low:
            worker.low = False
            if worker.process is not None:
                self._prioritise(worker.process, lambda: worker.low)

    def lower(self, process: Process) -> None:
        """Give a process that is no worker, an inspector, a standby's priority, for a moment: somebody waits for it."""
        self._prioritise(process, lambda: True)
        asyncio.get_running_loop().call_later(LOWERED_S, self._prioritise, process, lambda: False)

    def end(self, generation: int, force: Force) -> None:
        """Ask, terminate or kill: the worker's whole process group."""
        worker = self._living.get(generation)
        if worker is None:
            return
        match force:
            case Force.ASK:
                self._send(generation, messages.Cancel())
            case Force.TERM:
                self._signal(worker, signal.SIGTERM)
            case Force.KILL:
                self._signal(worker, signal.SIGKILL)
            case _:
                assert_never(force)

    def kill_all(self) -> None:
        """Kill every worker at once; each exit follows."""
        for worker in self._living.values():
            self._signal(worker, signal.SIGKILL)

    def alive(self) -> tuple[Alive, ...]:
        """Every worker that has a process, and whose exit was not told."""
        return tuple(
            Alive(worker.session, worker.generation, worker.lane, worker.process.pid, worker.process.started)
            for worker in self._living.values()
            if worker.process is not None
        )

    def log_path(self, session: str) -> Path:
        """Where the session's standard output and error are, of all its attempts."""
        return worklogs.log_path(self.logs, session)

    def close(self) -> None:
        """Let go of all of them, at the daemon's end: no fact follows. Those still alive see their channel end."""
        for task in self._tasks:
            task.cancel()
        for worker in self._living.values():
            self._let_go(worker)
        self._living.clear()
        if self._trimming is not None:
            self._trimming.cancel()
            self._trimming = None

    # One worker's life

    async def _live(self, worker: _Living, assignment: messages.Assign) -> None:
        try:
            process = await self._begin(worker, assignment)
        except (CannotStartError, OSError) as error:
            self._gone(worker, None, f"cannot start {worker.session}: {error}")
            return
        worker.process = process
        self.born(Alive(worker.session, worker.generation, worker.lane, process.pid, process.started))
        if worker.wanted is not None:
            process.signal_group(worker.wanted)
        if worker.low:
            self._prioritise(process, lambda: worker.low)
        await self._watch(worker, process)

    async def _watch(self, worker: _Living, process: Process) -> None:
        status = await process.exited
        if worker.channel is not None:
            worker.channel.finish()  # what it said comes before its end, or a commit would be lost
        self._gone(worker, status, "")

    async def _begin(self, worker: _Living, assignment: messages.Assign) -> Process:
        log_fd = worklogs.open_log(worker.log)
        with open(log_fd, "ab"):  # noqa: ASYNC230, PTH123 - opened already; this closes it, nothing more
            ours, theirs = socket.socketpair()
            with theirs:
                worker.channel = Channel(
                    ours,
                    take=lambda message: self._take(worker, message),
                    fault=lambda what: self._fault(worker, what),
                    ended=lambda: self._ended(worker),
                )
                worker.channel.send(assignment)
                return await self.nursery.start(assignment.spec, assignment.device, worker.generation, theirs, log_fd)

    def _gone(self, worker: _Living, status: int | None, reason: str) -> None:
        self._tell_progress(worker)
        self._let_go(worker)
        del self._living[worker.generation]
        self._trim_log(worker)
        self.post(Exited(time.monotonic(), worker.generation, status, reason))

    def _let_go(self, worker: _Living) -> None:
        if worker.channel is not None:
            worker.channel.close()
        if worker.timer is not None:
            worker.timer.cancel()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.result()  # a bug must not end in silence: the loop's exception handler gets it

    # What it says

    def _take(self, worker: _Living, message: messages.FromWorker) -> None:
        """Turn a message into a fact. Raises ProtocolError."""
        now = time.monotonic()
        if isinstance(message, messages.Hello):
            self._greet(worker, message)
        elif not worker.greeted:
            raise ProtocolError(f"{type(message).__name__.lower()} before hello")
        if isinstance(message, messages.Progress):
            worker.progress = now, message
            self._owe_progress(worker, now)
            return
        worker.chatter = max(0.0, worker.chatter - CHATTER_PER_S * (now - worker.chattered_at)) + 1.0
        worker.chattered_at = now
        if worker.chatter > CHATTER_LIMIT:
            raise ProtocolError(f"more than {CHATTER_LIMIT} lines other than progress")
        fact = _fact(message, worker, now)
        if fact is not None:
            self._tell_progress(worker)
            self.post(fact)

    def _greet(self, worker: _Living, hello: messages.Hello) -> None:
        if hello.protocol != messages.PROTOCOL:
            raise ProtocolError(f"it speaks version {hello.protocol} of the protocol, the daemon {messages.PROTOCOL}")
        if (hello.session, hello.generation) != (worker.session, worker.generation):
            raise ProtocolError(f"it says that it is {hello.session}, generation {hello.generation}")
        worker.greeted = True

    def _owe_progress(self, worker: _Living, now: float) -> None:
        """Tell the newest progress, now or when its interval is over: a burst becomes one fact."""
        if worker.timer is None:
            delay = max(0.0, worker.told_at + PROGRESS_INTERVAL_S - now)
            worker.timer = asyncio.get_running_loop().call_later(delay, self._tell_progress, worker)

    def _tell_progress(self, worker: _Living) -> None:
        if worker.timer is not None:
            worker.timer.cancel()
            worker.timer = None
        if worker.progress is not None:
            (at, said), worker.progress = worker.progress, None
            worker.told_at = time.monotonic()  # not `at`: what waited in a burst would make its interval short
            done = max(said.done, said.cursor)  # a program may commit an item before it counts it
            self.post(Progress(at, worker.generation, done, said.cursor, said.total, said.rss_bytes, said.errors))

    def _fault(self, worker: _Living, what: str) -> None:
        """It broke the protocol: nothing it says is taken any more, and it is to end."""
        self._tell_progress(worker)
        worker.finished = True
        reason = f"the worker broke the protocol: {what}"[:REASON_LIMIT_CHARACTERS]
        self.post(Failed(time.monotonic(), worker.generation, "internal", reason))
        self._signal(worker, signal.SIGTERM)

    def _ended(self, worker: _Living) -> None:
        if not worker.finished:
            asyncio.get_running_loop().call_later(SILENT_EXIT_S, self._silent, worker)

    def _silent(self, worker: _Living) -> None:
        if self._living.get(worker.generation) is worker and not worker.finished:
            self._fault(worker, f"it closed its channel {SILENT_EXIT_S:.0f} s ago, without a commit, and did not exit")

    # What is done to it

    def _send(self, generation: int, message: messages.ToWorker) -> None:
        worker = self._living.get(generation)
        if worker is not None and worker.channel is not None:
            worker.channel.send(message)

    def _signal(self, worker: _Living, number: signal.Signals) -> None:
        if worker.process is not None:
            worker.process.signal_group(number)
        elif worker.wanted is not signal.SIGKILL:
            worker.wanted = number

    def _prioritise(self, process: Process, low: Callable[[], bool], tries: int = 0) -> None:
        """Make the process's priority what it should be by now; again in a moment where the kernel says so."""
        if process.exited.done():
            return
        done = priority.apply(process.pid, process.group(), self.method, low=low())
        if not done and tries < PRIORITY_RETRIES:
            asyncio.get_running_loop().call_later(PRIORITY_RETRY_S, self._prioritise, process, low, tries + 1)

    def _trim(self) -> None:
        for worker in self._living.values():
            self._trim_log(worker)
        self._trimming = asyncio.get_running_loop().call_later(TRIM_INTERVAL_S, self._trim) if self._living else None

    def _trim_log(self, worker: _Living) -> None:
        if cut_bytes := worklogs.trim(worker.log, self.log_limit_bytes):
            self.trimmed(worker.session, cut_bytes)


def _tier_name(tier: Tier) -> messages.TierName:
    match tier:
        case Tier.IMPORTED:
            return "imported"
        case Tier.STAGED:
            return "staged"
        case Tier.WARM:
            return "warm"
        case _:
            assert_never(tier)


def _fact(
    message: messages.Hello
    | messages.Advanced
    | messages.Ready
    | messages.Started
    | messages.LastBatch
    | messages.Paused
    | messages.Resumed
    | messages.Quiesced
    | messages.Committed
    | messages.Failed,
    worker: _Living,
    now: float,
) -> Event | None:
    """The fact in a message; None where there is none that anybody acts on."""
    generation = worker.generation
    match message:
        case messages.Hello(cursor=cursor, errors=errors):
            return Hello(now, generation, cursor, errors=errors)
        case messages.Advanced():
            return None
        case messages.Ready(tier=tier, seconds=seconds, total=total, peak_bytes=peak, device_peak_bytes=on_device):
            return Ready(now, generation, Tier[tier.upper()], seconds, total, peak, on_device)
        case messages.Started(at=at):
            return Promoted(now, generation, _credible(at, worker, now))
        case messages.LastBatch():
            return LastBatch(now, generation)
        case messages.Paused(reason=reason):
            return Paused(now, generation, one_line(reason, REASON_LIMIT_CHARACTERS))
        case messages.Resumed():
            return Resumed(now, generation)
        case messages.Quiesced(at=at, done=done, remaining=remaining, errors=errors):
            return Quiesced(now, generation, _credible(at, worker, now), done, remaining, errors)
        case messages.Committed(cursor=cursor, peak_bytes=peak, errors=errors, device_peak_bytes=on_device):
            worker.finished = True
            return Committed(now, generation, cursor, peak, errors, on_device)
        case messages.Failed(kind=kind, reason=reason, item=item):
            worker.finished = True
            return Failed(now, generation, kind, one_line(reason, REASON_LIMIT_CHARACTERS), item)
        case _:
            assert_never(message)


def _missed(hello: messages.Hello, worker: _Living, now: float) -> list[Event]:
    """What a worker said while no daemon listened, as far as its greeting tells."""
    generation = hello.generation
    done = max(hello.done, hello.cursor)
    facts: list[Event] = [Hello(now, generation, hello.cursor, done, hello.total, hello.remaining, hello.errors)]
    if hello.began_at is not None:
        facts.append(Promoted(now, generation, _credible(hello.began_at, worker, now)))
        facts.append(Progress(now, generation, done, hello.cursor, hello.total, errors=hello.errors))
    if hello.ended_at is not None:
        ended_at = _credible(hello.ended_at, worker, now)
        facts.append(Quiesced(now, generation, ended_at, hello.done, hello.remaining, hello.errors))
    if hello.paused is not None:
        facts.append(Paused(now, generation, one_line(hello.paused, REASON_LIMIT_CHARACTERS)))
    if hello.phase == "committed":
        facts.append(Committed(now, generation, hello.cursor))
    return facts


def _credible(at: float, worker: _Living, now: float) -> float:
    """A worker's own time, between its start and now: its clock is the host's, unless it says nonsense."""
    return min(max(at, worker.since), now)
