"""One worker as it really is: loads, computes, drains, commits, ends, or does not. Decides nothing; asks no core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Protocol

from states import events as ev
from states.effects import AdvanceStandby, DrainActive, Effect, EndWorker, Force, Promote, StartStandby
from states.work import Tier
from tests.simulation.clock import Clock
from tests.simulation.laws import must
from tests.simulation.ledger import Output
from tests.simulation.line import Line
from tests.simulation.plan import Kind, LanePlan, Mishap, Stage

EXIT_DAEMON_LOST = 75
REJOIN_INTERVAL_S = 0.2
PERMANENT = ("model", "input", "program")
PASSING = ("memory", "crash", "memory")
IMPORTED_RSS_BYTES = 200 << 20
WHOLE_MARGIN_BYTES = 1 << 30  # the headroom and a context, rounded up


class House(Protocol):
    """What is around a worker."""

    clock: Clock
    patience_s: float

    def hear(self, worker: Worker, life: int, event: ev.FromWorker) -> None: ...
    def gone(self, worker: Worker, status: int) -> None: ...
    def rejoin(self, worker: Worker) -> bool: ...
    def may_go(self, worker: Worker) -> None: ...
    def struck(self, kind: Kind, job: str) -> None: ...
    def has_room(self, worker: Worker, size: int) -> bool: ...


class Worker:
    """A process. `life` is the daemon's that it is connected to, 0: none."""

    def __init__(
        self,
        house: House,
        order: StartStandby,
        output: Output,
        chance: Random,
        mishaps: Iterable[Mishap],
        life: int,
        lane: LanePlan,
    ) -> None:
        self.house = house
        self.clock = house.clock
        self.output = output
        self.job = output.job
        self.lane = order.lane
        self.generation = order.generation
        self.life = life
        self.mishaps = {(each.kind, each.stage): each for each in mishaps}
        self.kinds = {each.kind for each in mishaps}
        self.chance = chance
        self.plan = lane
        self.pool_bytes = order.pool_bytes
        self.tried_alone = bool(order.session.out_of_memory)
        self.alive = False  # a process is there
        self.over = False  # and is not any more
        self.recorded = False  # the record has its process
        self.first_life = life
        self.stage = Stage.BORN
        self.line = Line(self)
        self.stuck = False  # its main thread does nothing any more
        self.frozen = False  # nor does any other
        self.dismissed = False  # it was told to go by force
        self.going = False
        self.draining = False
        self.on_device = False
        self.hold_bytes = 0  # of its device
        self.rss_bytes = 0  # of the host, where that is another's memory
        self.most_bytes = 0  # of its device, so far
        self.cursor = order.session.cursor
        self.resume = order.session.begun
        self.aim = order.tier
        self.done = self.cursor
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.remaining: int | None = None
        self._orders: deque[AdvanceStandby | Promote] = deque()
        self._early: list[Effect] = []
        self._batches = 0
        self._warm = False
        self._with_room: Callable[[], None] | None = None  # what it does as soon as there is room to write

    def __str__(self) -> str:
        return f"worker {self.generation} ({self.job.name}, {self.stage.value}{'' if self.alive else ', dead'})"

    @property
    def total(self) -> int | None:
        """As it tells it."""
        return self.job.items if self.job.known else None

    # Its life

    def be_born(self) -> None:
        """The process is there."""
        self.alive = True
        if self.life == 0:
            self.later(0.01, lambda: self._exit(EXIT_DAEMON_LOST))
            return
        self._enter(Stage.BORN)
        early, self._early = self._early, []
        for order in early:
            self.take(order)
        self._soon(0.02, self._greet)

    def _greet(self) -> None:
        self.line.say(ev.Hello(self.clock.now, self.generation, self.cursor, self.done))
        self._load()

    def _load(self) -> None:
        self._enter(Stage.LOADING)
        share = 1.0 if self.aim is Tier.WARM else 0.2
        seconds = 0.01 if self._warm else self.job.load_s * share * self.chance.uniform(0.8, 2.0)
        if not self.plan.has_own_memory:
            self._take(self.plan.imported_bytes)
        self.rss_bytes = max(self.rss_bytes, IMPORTED_RSS_BYTES if self.plan.has_own_memory else 0)
        began = self.clock.now
        self._soon(seconds / 2, self._allocate)
        self._soon(seconds, lambda: self._loaded(self.clock.now - began))

    def _allocate(self) -> None:
        if self.aim is Tier.IMPORTED or not self.job.prepares:
            return
        if self.plan.has_own_memory:
            self.rss_bytes = max(self.rss_bytes, self.job.host_bytes)
            self.house.has_room(self, 0)
        self._take(self.share(self.aim, self.job.early))

    def share(self, tier: Tier, part: float) -> int:
        """Bytes of the device that it wants at a tier, with that part of what it has at its most."""
        if not self.plan.has_own_memory:
            return self.plan.imported_bytes if tier is Tier.IMPORTED else self.job.hold_bytes
        if tier is Tier.IMPORTED:
            return 0
        context = self.plan.context_bytes if self.job.stepwise else 0
        return context if tier is Tier.STAGED else context + round(self.job.hold_bytes * part)

    def most(self, tier: Tier) -> int:
        """Bytes of the device that it may come to hold, prepared as far as a tier: nobody passes his pool's limit."""
        wanted = self.share(tier, 1.0)
        return wanted if self.pool_bytes is None else min(wanted, self.plan.context_bytes + self.pool_bytes)

    def _take(self, size: int) -> None:
        """Hold so much of the device; fail where its pool or the device has no more."""
        more = size - self.hold_bytes
        if more <= 0 or self.over or self.stuck:
            return
        if size > self.most(Tier.WARM):
            self._out_of_memory(Kind.CROWDED if self.shares_again else Kind.POOL)
        elif not self.house.has_room(self, more):
            self._out_of_memory(Kind.CROWDED)
        else:
            self.hold_bytes = size
            self.most_bytes = max(self.most_bytes, size)
            if self.job.lies and size > (self.job.stated_bytes or 0):
                self.house.struck(Kind.LIAR, self.job.id)

    @property
    def shares_again(self) -> bool:
        """It ran out of memory before, and is not given all of the device this time: others had some of it."""
        whole = self.plan.total - self.plan.idle_bytes - WHOLE_MARGIN_BYTES
        return self.tried_alone and (self.pool_bytes or 0) < whole

    def _out_of_memory(self, kind: Kind) -> None:
        self.house.struck(kind, self.job.id)
        self._fail("memory")

    @property
    def _tensors(self) -> int:
        """As its framework counts, at its most. A program has none."""
        if not self.plan.has_own_memory or not self.job.stepwise:
            return 0
        return round(max(0, self.most_bytes - self.plan.context_bytes) / self.job.gaps)

    @property
    def _host_peak(self) -> int:
        return self.rss_bytes if self.plan.has_own_memory else self.hold_bytes

    def _loaded(self, seconds: float) -> None:
        if self.aim is Tier.WARM and not self._warm:
            self._warm = True
            self.done = self.output.begin(self, self.cursor, resume=self.resume)
            self.cursor = self.done
        peak = self._host_peak if self.job.prepares else 0
        self._enter(Stage.WAITING)
        at, g, total = self.clock.now, self.generation, self.total
        self.line.say(ev.Ready(at, g, self.aim, round(seconds, 3), total, peak, self._tensors))
        self._next_order()

    def _next_order(self) -> None:
        if self.stage is not Stage.WAITING or not self._orders:
            return
        order = self._orders.popleft()
        if isinstance(order, AdvanceStandby):
            self.aim = max(self.aim, order.tier)
            self._load()
            return
        must(self._warm, "cold go", f"{self} is told to go at {self.aim.label}")
        self._enter(Stage.GOING)
        self._soon(0.005, self._start)

    def _start(self) -> None:
        if not self.job.prepares:
            self.rss_bytes = max(self.rss_bytes, self.job.host_bytes if self.plan.has_own_memory else 0)
            self.house.has_room(self, 0)
            self._take(self.share(Tier.WARM, self.job.early))
            self.later(self.job.item_s * self.job.items * 0.3, self._grow)
            if self.stuck:
                return
        self.started_at = self.clock.now
        self.output.opened = True
        self.line.say(ev.Promoted(self.clock.now, self.generation, self.clock.now))
        self._enter(Stage.COMPUTING)
        self._batch()

    def _grow(self) -> None:
        if self.stage in {Stage.COMPUTING, Stage.DRAINING}:
            self._take(self.share(Tier.WARM, 1.0))

    def _batch(self) -> None:
        left = self.job.items - self.done
        if left == 0 or (self.draining and Kind.DEAF not in self.kinds):
            self._quiesce()
            return
        count = min(self.job.batch, left)
        if count == left and self.job.known:
            self._enter(Stage.DRAINING)
            self.line.say(ev.LastBatch(self.clock.now, self.generation))
        self._soon(count * self.job.item_s * self.chance.uniform(0.7, 1.3), lambda: self._computed(count))

    def _computed(self, count: int) -> None:
        if not self.job.resumable and self.draining:
            self._quiesce()  # a program that says nothing is ended by SIGTERM: its one item is to be done again
            return
        self.done += count
        self._batches += 1
        if self.job.prepares and self.plan.has_own_memory:
            part = min(1.0, 2 * self.done / max(1, self.job.items))
            self._take(self.share(Tier.WARM, max(self.job.early, part)))
            if self.stuck:
                return
        due = self.job.checkpoint and self._batches % self.job.checkpoint == 0
        if due and self._pauses(self._checkpointed):
            return
        self._counted(write=bool(due))

    def _checkpointed(self) -> None:
        self._counted(write=True)

    def _counted(self, *, write: bool) -> None:
        if write:
            self._write()
        if self.job.resumable:
            self._tell_progress()
        else:
            self._write()  # its parent speaks for it, once it has ended
        self._batch()

    def _tell_progress(self) -> None:
        self.line.say(ev.Progress(self.clock.now, self.generation, self.done, self.cursor, self.total, self._host_peak))

    def _pauses(self, then: Callable[[], None]) -> bool:
        """Whether there is no room to write: `then` is done when there is, or what it is told makes of it meanwhile."""
        mishap = self.mishaps.pop((Kind.NO_ROOM, self.stage), None)
        if mishap is None:
            return False
        self.house.struck(Kind.NO_ROOM, self.job.id)
        self._with_room = then
        self.line.say(ev.Paused(self.clock.now, self.generation, "the disk is full"))
        self._soon(mishap.seconds, self._room)
        return True

    def _room(self) -> None:
        then, self._with_room = self._with_room, None
        if then is not None:
            self.line.say(ev.Resumed(self.clock.now, self.generation))
            then()

    def _told_while_paused(self, *, cancelled: bool) -> None:
        """With nothing in flight it quiesces at once; what it could not write it keeps, unless nobody wants it."""
        if self.stage is Stage.COMPUTING:
            self._say_quiesced()
            self._with_room = self._commit
        if cancelled:
            self._with_room = None
            self.done = self.cursor
            self._soon(0.01, self._commit)

    def _quiesce(self) -> None:
        self._say_quiesced()
        self._soon(self.job.commit_s * self.chance.uniform(0.5, 1.5), self._commit)

    def _say_quiesced(self) -> None:
        left = self.job.items - self.done
        self.on_device = False
        self.ended_at = self.clock.now
        self.remaining = left if self.job.known or not left or not self.job.resumable else None
        if not self.job.resumable:
            self.line.say(ev.Progress(self.clock.now, self.generation, self.done, self.cursor, 1))
        self._enter(Stage.QUIESCED)
        self.line.say(ev.Quiesced(self.clock.now, self.generation, self.clock.now, self.done, self.remaining))

    def _commit(self) -> None:
        if self._pauses(self._commit):
            return
        self._write()
        self._enter(Stage.COMMITTED)
        said = ev.Committed(self.clock.now, self.generation, self.cursor, self._host_peak)
        self.line.say(replace(said, device_peak_bytes=self._tensors))
        self._soon(self.chance.choice([0.01, 0.2, 1.0]), lambda: self._exit(0))

    def _write(self) -> None:
        self.output.write(self, self.cursor, self.done)
        self.cursor = self.done

    def _exit(self, status: int) -> None:
        if self.over:
            return
        self.alive, self.over, self.on_device = False, True, False
        self.house.gone(self, status)

    # What it is told

    def take(self, order: Effect) -> None:
        """A line or a signal of the daemon has arrived."""
        if self.over:
            return
        if not self.alive:
            self._early.append(order)
            return
        match order:
            case AdvanceStandby() | Promote():
                if not self.frozen:
                    self._ordered(order)
            case DrainActive(cancelled=cancelled):
                self._asked()
                if self._with_room is not None and not self.frozen and Kind.DEAF not in self.kinds:
                    self._told_while_paused(cancelled=cancelled)
            case EndWorker(force=Force.ASK):
                self.dismissed = True
                self._asked()
            case EndWorker(force=force):
                self.signalled(force)
            case _:
                pass

    def _ordered(self, order: AdvanceStandby | Promote) -> None:
        if isinstance(order, Promote):
            must(not self.going, "go twice", f"{self} is told to go a second time")
            self.house.may_go(self)
            self.going = self.on_device = True
        self._orders.append(order)
        if not self.stuck:
            self._next_order()

    def _asked(self) -> None:
        """To drain or to cancel: before `go` these are one."""
        if self.frozen:
            return
        if Kind.DEAF in self.kinds:
            self.house.struck(Kind.DEAF, self.job.id)
        if self.going:
            if not self.draining and self.stage is Stage.COMPUTING:
                self._enter(Stage.DRAINING)
            self.draining = True
        elif Kind.DEAF not in self.kinds:
            self._exit(0)

    def signalled(self, force: Force) -> None:
        """SIGTERM or SIGKILL."""
        self.dismissed = True
        if force is Force.TERM and Kind.STUBBORN in self.kinds:
            self.house.struck(Kind.STUBBORN, self.job.id)
            return
        wait = 0.01
        if force is Force.KILL and Kind.UNDYING in self.kinds:
            self.house.struck(Kind.UNDYING, self.job.id)
            wait = 7.0
        self.stuck = self.frozen = True
        self.later(wait, lambda: self._exit(-15 if force is Force.TERM else -9))

    def orphan(self) -> None:
        """A new daemon finds it, and its session has ended."""
        self.signalled(Force.KILL)

    # The daemon is gone, and another one is there

    def lose_daemon(self) -> None:
        """End of file on the socket."""
        if self.life == 0:
            return  # it is looking for another one already
        self.life = 0
        if not self.alive or self.frozen:
            return
        if not self.going:
            self.later(0.01, self._unless_joined)
            return
        until = self.clock.now + self.house.patience_s
        self.later(REJOIN_INTERVAL_S, lambda: self._look(until))

    def _unless_joined(self) -> None:
        if not self.going and not self.frozen:
            self._exit(EXIT_DAEMON_LOST)

    def _look(self, until: float) -> None:
        if self.frozen or self.life or self.house.rejoin(self):
            return
        if self.clock.now >= until:
            self.draining = True
            if self._with_room is not None:
                self._told_while_paused(cancelled=False)
            return
        self.later(REJOIN_INTERVAL_S, lambda: self._look(until))

    def story(self, now: float) -> list[ev.FromWorker]:
        """What its greeting tells to a daemon that it rejoins, as that one takes it."""
        g = self.generation
        facts: list[ev.FromWorker] = [ev.Hello(now, g, self.cursor, self.done, self.total, self.remaining)]
        if self.started_at is not None:
            facts += [ev.Promoted(now, g, self.started_at), ev.Progress(now, g, self.done, self.cursor, self.total)]
        if self.ended_at is not None:
            facts.append(ev.Quiesced(now, g, self.ended_at, self.done, self.remaining))
        if self._with_room is not None:
            facts.append(ev.Paused(now, g, "the disk is full"))
        if self.stage is Stage.COMMITTED:
            facts.append(ev.Committed(now, g, self.cursor))
        return facts

    def exit_record(self, now: float) -> list[ev.FromWorker]:
        """What a program's parent left to be read when it had ended as it should, as a daemon takes it."""
        if self.job.resumable or not self.over or self.stage is not Stage.COMMITTED:
            return []
        g, left = self.generation, self.job.items - self.done
        return [
            ev.Hello(now, g, self.cursor, self.done, self.job.items),
            ev.Promoted(now, g, now),
            ev.Quiesced(now, g, now, self.done, left),
            ev.Committed(now, g, self.cursor),
        ]

    def greet_again(self, life: int) -> None:
        """The new daemon has it."""
        self.life = life
        self.line.open_anew()
        for fact in self.story(self.clock.now):
            self.line.deliver(fact, 0.002)

    # Time

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Whatever its main thread does."""
        self.clock.after(seconds, lambda: None if self.over else action())

    def _soon(self, seconds: float, action: Callable[[], None]) -> None:
        """As its main thread does it, unless that does nothing any more."""
        if slow := self.mishaps.pop((Kind.SLOW, self.stage), None):
            self.house.struck(Kind.SLOW, self.job.id)
            seconds += slow.seconds
        self.clock.after(seconds, lambda: None if self.over or self.stuck else action())

    # What goes wrong

    def _enter(self, stage: Stage) -> None:
        self.stage = stage
        for kind in (Kind.DIE, Kind.HANG, Kind.FREEZE, Kind.FAIL, Kind.FAIL_FOR_GOOD, Kind.EARLY):
            if mishap := self.mishaps.pop((kind, stage), None):
                self._await(mishap)

    def _await(self, mishap: Mishap) -> None:
        spans = {
            Stage.LOADING: self.job.load_s,
            Stage.COMPUTING: self.job.item_s * self.job.items,
            Stage.DRAINING: self.job.item_s * self.job.batch,
            Stage.QUIESCED: self.job.commit_s,
            Stage.WAITING: 1.0,
        }
        seconds = spans.get(mishap.stage, 0.004) * mishap.share
        self.later(seconds, lambda: self._strike(mishap))

    def _strike(self, mishap: Mishap) -> None:
        if self.stage is not mishap.stage or self.stuck or not self.alive:
            return
        self.house.struck(mishap.kind, self.job.id)
        match mishap.kind:
            case Kind.DIE:
                self._exit(-9)
            case Kind.HANG:
                self.stuck = True
            case Kind.FREEZE:
                self.stuck = self.frozen = True
            case Kind.EARLY:
                self.draining = True
            case _:
                self._fail((PASSING if mishap.kind is Kind.FAIL else PERMANENT)[self.generation % 3])

    def _fail(self, kind: str) -> None:
        self.line.deliver(ev.Failed(self.clock.now, self.generation, kind, f"{kind} is wrong"), 0.002)
        self.stuck = True
        self.on_device = False
        self.later(0.05, lambda: self._exit(1))
