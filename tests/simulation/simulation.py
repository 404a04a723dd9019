"""A whole world from a plan, run to its end: the core's daemon, its workers, devices, people, faults; and the laws."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from states import events as ev
from states.decision import Decision
from states.effects import Effect, EndWorker, Force, StartStandby
from states.restore import Remnant, restore
from states.snapshot import Lane, World, find
from states.work import Session
from tests.simulation import ledger
from tests.simulation.clock import Clock
from tests.simulation.judge import Judge
from tests.simulation.laws import Broken, must
from tests.simulation.ledger import Output
from tests.simulation.memory import Device, Host
from tests.simulation.people import People
from tests.simulation.plan import Job, Kind, Mishap, Plan, Point, Trouble
from tests.simulation.record import Found, Record
from tests.simulation.shell import Shell
from tests.simulation.worker import Worker

REJOIN_MARGIN_S = 6.0
STUCK_S = 240.0  # in peace, and nothing began or ended for so long
DOWN_S = 0.3  # before somebody starts a daemon that was stopped again


@dataclass
class Report:
    """What a run came to. `adopted`: sessions that ran on under a new daemon; `faults` by kind, as they struck."""

    seed: str
    steps: int = 0
    handovers: int = 0
    adopted: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # simulated

    def add(self, other: Report) -> None:
        """Count another run's figures in."""
        self.steps += other.steps
        self.handovers += other.handovers
        self.adopted += other.adopted
        self.ends.update(other.ends)
        self.faults.update(other.faults)
        self.seconds += other.seconds


class Simulation:
    """One run. `trace` holds each event with the time it was decided at, and a line where the daemon died or began."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.clock = Clock()
        self.record = Record()
        self.patience_s = plan.patience_s
        self.quiet_s, self.waiting_s = plan.quiet_s, plan.waiting_s
        self.disk_full = 0
        self.devices = {lane.name: Device(lane, self.clock) for lane in plan.lanes}
        self.host = Host(plan.host_bytes, 0, self.clock) if plan.host_bytes else None
        self.workers: dict[int, list[Worker]] = {}  # by generation; more than one where a daemon lost its count
        self.outputs: dict[str, Output] = {}  # of the live session of a name
        self.started: Counter[str] = Counter()  # workers, by job
        self._missed: list[ev.FromWorker] = []
        self.trace: list[Decision | str] = []
        self.report = Report(plan.seed)
        self.judge = Judge(plan, self)
        self.people = People(plan, self)
        self.shell = self._boot()
        self._mishaps: dict[tuple[str, int], list[Mishap]] = {}
        for mishap in plan.mishaps:
            self._mishaps.setdefault((mishap.job, mishap.nth), []).append(mishap)

    def run(self) -> Report:
        """To the end of everything queued. Raises Broken, and what the core raises."""
        for trouble in self.plan.troubles:
            self.clock.at(trouble.at, lambda each=trouble: self._begin(each))  # type: ignore[misc]
        self.people.begin()
        self.clock.at(self.plan.calm_at, self.people.let_go)
        self.shell.start(self.plan.limits.readings)
        while not self._over():
            must(self.clock.turn(), "stuck", "nothing is left to happen, and not all has ended")
            if self.clock.now > max(self.plan.calm_at, self.judge.moved_at) + STUCK_S:
                raise Broken("stuck", f"nothing ends any more: {self.judge.waiting()}")
        self.judge.conclude()
        self.report.seconds = self.clock.now
        return self.report

    def _over(self) -> bool:
        if self.clock.now < self.plan.calm_at or not self.people.satisfied or not self.shell.alive:
            return False
        return not self.record.live and not any(device.workers for device in self.devices.values())

    # The daemon's lives

    def _boot(self) -> Shell:
        now = self.clock.now
        lanes = {
            lane.name: Lane(
                lane.name,
                device=lane.device,
                index=lane.index,
                tiers=lane.tiers,
                imported_bytes=lane.imported_bytes,
                since=now,
                held=lane.name in self.record.held,
            )
            for lane in self.plan.lanes
        }
        world = World(
            lanes=lanes,
            queue=tuple(replace(session, not_before=0.0, queued_at=now) for session in self.record.queue()),
            profiles=dict(self.record.profiles),
            limits=self.plan.limits,
            generation=self.record.generation,
        )
        remnants = self._remnants()
        world = restore(world, remnants, now, self.plan.patience_s + REJOIN_MARGIN_S)
        life = 1 if not self.trace else self.shell.life + 1
        self.judge.check_world(world)
        for device in self.devices.values():
            device.told_unread = False
        self.trace.append(f"daemon {life} begins at {now}, and finds {remnants}")
        return Shell(self, world, life)

    def _remnants(self) -> list[Remnant]:
        remnants: list[Remnant] = []
        for found in list(self.record.workers.values()):
            worker = self._living(found.generation)
            session = self.record.live.get(found.session)
            left = self._left_by(found) if worker is None else []
            if session is None or (worker is None and not left):
                del self.record.workers[found.generation]
                if worker is not None:
                    worker.orphan()
                continue
            remnants.append(Remnant(found.lane, session, found.generation, found.promoted))
            if left:
                self._missed += [*left, ev.Exited(self.clock.now, found.generation, 0)]
        return remnants

    def _left_by(self, found: Found) -> list[ev.FromWorker]:
        """The exit record of a program that ended while no daemon watched."""
        workers = [each for each in self.workers.get(found.generation, ()) if each.recorded and found.promoted]
        return workers[0].exit_record(self.clock.now) if workers else []

    def _living(self, generation: int) -> Worker | None:
        return next((each for each in self.workers.get(generation, ()) if each.alive and each.recorded), None)

    def _again(self) -> None:
        self.shell = self._boot()
        missed, self._missed = self._missed, []
        for fact in missed:
            self._forget(fact.generation if isinstance(fact, ev.Exited) else 0)
            self.shell.take(fact)
        for session in self.shell.world.queue:
            if session.cancelled:
                self.shell.take(ev.Cancel(self.clock.now, session.name))
        self.shell.start(self.plan.limits.readings)

    def _forget(self, generation: int) -> None:
        self.record.workers.pop(generation, None)

    def died(self, *, clean: bool) -> None:
        """The daemon is gone; another one is started after a while."""
        ending = self.shell.ending
        self.trace.append(f"daemon {self.shell.life} ends at {self.clock.now}")
        for device in self.devices.values():
            for worker in device.workers:
                worker.lose_daemon()
        self.clock.after(DOWN_S if ending is None else ending.seconds, self._again)

    # What the daemon's loop tells of

    def decided(self, decision: Decision) -> None:
        """A decision, not yet recorded."""
        self.report.steps += 1
        self.trace.append(decision)
        self._look_at_readings(decision.event)
        self.judge.check_decision(decision)

    def _look_at_readings(self, event: ev.Event) -> None:
        if isinstance(event, ev.Unread | ev.Memory | ev.DeviceLost):
            self.devices[event.lane].told_unread = isinstance(event, ev.Unread)

    def recorded(self, decision: Decision) -> None:
        """A decision that will be acted on, or was, when the daemon died."""
        self.judge.take(decision)

    def perform(self, effect: Effect) -> None:
        """What the core asks for, on its way."""
        if isinstance(effect, StartStandby):
            self._start(effect)
            return
        signalled = isinstance(effect, EndWorker) and effect.force is not Force.ASK
        for worker in self.workers.get(effect.generation, ()):
            if worker.life == self.shell.life or (signalled and worker.recorded):
                self.clock.after(0.001, lambda each=worker: each.take(effect))  # type: ignore[misc]

    def _start(self, order: StartStandby) -> None:
        output = self.outputs[order.session.name]
        job = output.job
        nth = self.started[job.id]
        self.started[job.id] += 1
        mishaps = self._mishaps.get((job.id, nth), [])
        chance = Random(f"{self.plan.seed}/{job.id}/{nth}")
        device = self.devices[order.lane]
        worker = Worker(self, order, output, chance, mishaps, self.shell.life, device.plan)
        self.workers.setdefault(order.generation, []).append(worker)
        unborn = next((each for each in mishaps if each.kind is Kind.UNBORN), None)
        if unborn is not None:
            self.struck(Kind.UNBORN, job.id)
            worker.over = True
            self._tell_end(worker, self.shell.life, None, "cannot start it")
        else:
            device.workers.append(worker)
            if self.host is not None and device.plan.has_own_memory:
                self.host.workers.append(worker)
            self.clock.after(chance.choice([0.01, 0.1, 1.0]), lambda: self._born(worker, order))

    def _born(self, worker: Worker, order: StartStandby) -> None:
        if self.shell.alive and worker.life == self.shell.life:
            worker.recorded = True
            self.record.workers[order.generation] = Found(order.generation, order.session.name, order.lane)
        else:
            worker.life = 0
        worker.be_born()

    # What workers ask of the house

    def hear(self, worker: Worker, life: int, event: ev.FromWorker) -> None:
        """A worker's line has arrived."""
        if life == self.shell.life and worker.life == life:
            self.shell.take(event)

    def gone(self, worker: Worker, status: int) -> None:
        """A worker's process has ended. What it said comes before."""
        device = self.devices[worker.lane]
        leak = next((each for (kind, _), each in worker.mishaps.items() if kind is Kind.LEAK), None)
        if leak is not None and worker.hold_bytes:
            self.struck(Kind.LEAK, worker.job.id)
        lag_s = device.plan.lag_s + (leak.seconds if leak is not None else 0.0)
        device.end(worker, lag_s, doubtful=self.judge.room.is_misjudged(worker))
        if self.host is not None and worker in self.host.workers:
            self.host.end(worker, 0.0)
        self.judge.moved_at = self.clock.now
        adopted = self.shell.life != worker.first_life
        self._tell_end(worker, self.shell.life, None if adopted else status, "")

    def _tell_end(self, worker: Worker, life: int, status: int | None, reason: str) -> None:
        self.clock.at(worker.line.heard_by(), lambda: self._ended(worker, life, status, reason))

    def _ended(self, worker: Worker, life: int, status: int | None, reason: str) -> None:
        if self.shell.life == life and self.shell.alive and find(self.shell.world, worker.generation) is not None:
            self._forget(worker.generation)
            self.devices[worker.lane].busy = self.clock.now  # as far as the daemon can know
            for fact in worker.exit_record(self.clock.now) if worker.first_life != life else ():
                self.shell.take(fact)
            self.shell.take(ev.Exited(self.clock.now, worker.generation, status, reason))

    def rejoin(self, worker: Worker) -> bool:
        """A worker looks for a daemon; True where it found one."""
        if not self.shell.alive:
            return False
        if worker.recorded and find(self.shell.world, worker.generation) is not None:
            worker.greet_again(self.shell.life)
        else:
            worker.draining = True  # turned away
        return True

    def may_go(self, worker: Worker) -> None:
        """A worker has read that the device is its own."""
        self.judge.moved_at = self.clock.now
        ledger.check_go(worker, (each for group in self.workers.values() for each in group))

    def has_room(self, worker: Worker, size: int) -> bool:
        """A worker takes so much more of its device, and has taken what it takes of the host."""
        self.judge.room.check_host()
        return self.judge.room.has_room(worker, size)

    def struck(self, kind: Kind, job: str = "") -> None:
        """A fault has had its moment."""
        self.report.faults[kind.value if kind is not Kind.RESTART else f"{kind.value} {job}"] += 1
        self.judge.excuse(kind, job)

    # What goes wrong with the world

    def _begin(self, trouble: Trouble) -> None:
        device = self.devices.get(trouble.lane)
        match trouble.kind:
            case Kind.RESTART if self.shell.alive and self.shell.ending is None:
                self.shell.ending = trouble
                if trouble.point is Point.IDLE:
                    self.struck(Kind.RESTART, trouble.point.value)
                    self.shell.die()
            case Kind.STOP | Kind.KILL if self.shell.alive:
                self._stop(trouble.kind)
            case Kind.DISK_FULL:
                self.disk_full += 1
                self.clock.after(trouble.seconds, self._disk_has_room)
            case Kind.FOREIGN if device is not None:
                self.struck(trouble.kind)
                device.take(trouble.size, trouble.seconds)
            case Kind.HOST if self.host is not None:
                self.struck(trouble.kind)
                self.host.take(trouble.size, trouble.seconds)
            case Kind.UNREADABLE if device is not None and device.plan.has_own_memory:
                self.struck(trouble.kind)
                device.unreadable += 1
                self.clock.after(trouble.seconds, lambda: _readable(device))
            case Kind.DEVICE if device is not None and device.plan.has_own_memory:
                self.struck(trouble.kind)
                device.lost += 1
                self.clock.after(trouble.seconds, lambda: self._device_back(device))
            case _:
                pass

    def _stop(self, kind: Kind) -> None:
        self.struck(kind)
        life = self.shell.life
        self.shell.take(ev.Stop(self.clock.now) if kind is Kind.STOP else ev.Kill(self.clock.now))
        if kind is Kind.STOP:  # nobody waits longer: a second signal
            self.clock.after(20.0, lambda: self._insist(life))

    def _insist(self, life: int) -> None:
        if self.shell.life == life:
            self.shell.take(ev.Kill(self.clock.now))

    def _disk_has_room(self) -> None:
        self.disk_full -= 1

    def _device_back(self, device: Device) -> None:
        device.lost -= 1
        if not device.lost:
            self.shell.take(ev.DeviceBack(self.clock.now, device.plan.name))

    # Sessions

    def submit(self, job: Job, earlier: Output | None) -> bool:
        """A person submits a job, or has its session of the same name tried again (`earlier`); whether it was taken."""
        now = self.clock.now
        record = self.record.ended.get(job.name) if earlier is not None else None
        order = max((each.order for each in self.record.live.values()), default=0.0) + 1
        live = set(self.record.live)
        session = Session(
            name=job.name,
            order=order,
            priority=job.priority,
            device=job.device,
            profile=job.profile,
            guess_bytes=job.guess_bytes,
            guess_device_bytes=job.guess_device_bytes,
            stated_bytes=job.stated_bytes,
            total=job.items if job.told_total else None,
            cursor=record.cursor if record is not None and job.resumable else 0,
            max_attempts=job.max_attempts,
            lead=job.lead,
            waits_for=frozenset(name for name in job.waits_for if name in live),
            resumable=job.resumable,
            prepares=job.prepares,
            stepwise=job.stepwise,
            begun=record is not None and record.begun,
        )
        before = self.outputs.get(job.name), earlier and earlier.job
        output = self.outputs[job.name] = earlier or Output(job)
        output.job = job
        self.shell.take(ev.Queued(now, session))
        if job.name in self.record.live or self.judge.ends[job.id]:
            self.judge.submitted(job)
            return True
        if before[0] is None:
            del self.outputs[job.name]
        else:
            self.outputs[job.name] = before[0]
            before[0].job = before[1] or before[0].job
        return False


def _readable(device: Device) -> None:
    device.unreadable -= 1
