"""The promises about memory: of devices, of the host, and of what is told of waits. Changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from states import events as ev
from states import notes as told
from states.decision import Decision
from states.effects import AdvanceStandby, StartStandby
from states.snapshot import Worker as Known
from states.snapshot import World, find
from states.work import Tier
from tests.simulation.laws import must
from tests.simulation.memory import Device, Store
from tests.simulation.plan import Job, Plan, Stage, Tells
from tests.simulation.worker import IMPORTED_RSS_BYTES, Worker

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

Grant: TypeAlias = StartStandby | AdvanceStandby
_Waiting: TypeAlias = tuple[int, str, str, float]  # the daemon's life, the lane, the session, since when


class Room:
    """What it holds against the core's word is what workers really take, and come to take."""

    def __init__(self, plan: Plan, house: Simulation) -> None:
        self.plan = plan
        self.house = house
        self._waits: dict[str, _Waiting] = {}  # by lane: the last one seen
        self._short: set[_Waiting] = set()  # waits that were told as lasting

    # Whoever is let in has room

    def check_grant(self, decision: Decision, effect: Grant) -> None:
        """There must be room for it, whatever all others still come to hold; strangers that came since do not count."""
        device = self.house.devices[effect.lane]
        must(not device.told_unread, "unread", f"{effect} on a device that gives no reading")
        found = find(decision.after, effect.generation)
        job = self.house.outputs[found[1].session.name].job if found is not None else None
        if found is None or job is None:
            return
        self._check_device(decision.after, device, effect, found[1], job)
        if self.house.host is not None and device.plan.has_own_memory:
            self._check_host(decision.after, self.house.host, effect, job)

    def _check_device(self, world: World, device: Device, effect: Grant, known: Known, job: Job) -> None:
        lane = world.lanes[effect.lane]
        asking = _Asking(effect, job, device)
        readings = lane.readings[-self.plan.limits.readings :]
        if device.unreadable or not readings or device.clean >= readings[0].at or not asking.device_bytes:
            return
        if _takes_more(job, known) or device.doubtful or any(self.is_misjudged(worker) for worker in device.workers):
            return
        nobody_knows = device.plan.has_own_memory and not job.stepwise and not known.reserved
        if (nobody_knows or job_is_alone(known)) and (device.strangers or device.leaving):
            return  # how much it takes is not known, nor limited: it finds the device as it is
        others = 0
        for worker in device.workers:
            if worker.generation != effect.generation:
                doomed = worker.life != self.house.shell.life and not worker.going  # a standby without its daemon
                over = doomed or worker.stage in {Stage.QUIESCED, Stage.COMMITTED}  # it takes no more
                others += max(worker.hold_bytes, 0 if over else worker.most(worker.aim))
        room = device.total - device.idle - device.foreign - device.leaving - others
        must(
            room >= asking.device_bytes,
            "gate",
            f"{effect} is let in: it takes {asking.device_bytes >> 20} MiB, and {room >> 20} MiB are left of"
            f" {device.total >> 20} ({device.foreign >> 20} MiB are a stranger's, {device.leaving >> 20} not given back"
            f" yet); readings {readings}",
        )

    def is_misjudged(self, worker: Worker) -> bool:
        """Whether it is a program that nobody can know the need of: it lies, or grew between two looks at it.

        Where the driver tells nothing of processes, what it holds is put down to it by what is taken in all.
        """
        if worker.job.stepwise:
            return False
        found = find(self.house.shell.world, worker.generation)
        if worker.plan.has_own_memory and worker.plan.tells is not Tells.BYTES:
            return True
        return worker.job.lies or (found is not None and _takes_more(worker.job, found[1]))

    def _check_host(self, world: World, host: Store, effect: Grant, job: Job) -> None:
        readings = world.host[-self.plan.limits.readings :]
        if not readings or host.clean >= readings[0].at or not job.admits_host:
            return
        if not all(worker.job.admits_host for worker in host.workers):
            return
        others = 0
        for worker in host.workers:
            if worker.generation != effect.generation:
                doomed = worker.life != self.house.shell.life and not worker.going
                others += max(worker.rss_bytes, 0 if doomed else _host_bytes(worker.job, worker.aim))
        room = host.total - host.foreign - others
        mine = _host_bytes(job, effect.tier)
        must(
            room >= mine,
            "host",
            f"{effect} is let in: it takes {mine >> 20} MiB of the host, and {room >> 20} MiB are left of"
            f" {host.total >> 20} ({host.foreign >> 20} MiB are a stranger's); readings {readings}",
        )

    # Nobody ever holds more than there is

    def has_room(self, worker: Worker, size: int) -> bool:
        """Whether its device has so much for it. Where it has not, a stranger must have it, or nobody could know."""
        device = self.house.devices[worker.lane]
        if device.free >= size:
            return True
        found = find(self.house.shell.world, worker.generation)
        unknown = found is None or (not worker.job.stepwise and not found[1].reserved) or job_is_alone(found[1])
        excused = (
            device.foreign
            or device.doubtful
            or any(self.is_misjudged(each) for each in device.workers)
            or (device.leaving and (unknown or worker.life != self.house.shell.life))
        )
        must(
            excused,
            "memory",
            f"{worker} takes {size >> 20} MiB, and {device.plan.name} has {device.free >> 20} MiB left of"
            f" {device.total >> 20}; held: "
            + ", ".join(f"{each} {each.hold_bytes >> 20} MiB" for each in device.workers)
            + f", {device.leaving >> 20} MiB not given back yet",
        )
        return False

    def check_host(self) -> None:
        """The host is not overdrawn, where nobody takes more of it than is known of him."""
        host = self.house.host
        if host is None or host.strangers or not all(worker.job.admits_host for worker in host.workers):
            return
        held = ", ".join(f"{worker} {worker.rss_bytes >> 20} MiB" for worker in host.workers)
        must(host.free >= 0, "host", f"the host has {host.total >> 20} MiB; held: {held}")

    # A wait is told as it is

    def check_waits(self, decision: Decision) -> None:
        """A wait that begins has a cause, and one that lasts is told."""
        for name, lane in decision.after.lanes.items():
            wait = lane.wait
            if wait is None:
                continue
            seen: _Waiting = (self.house.shell.life, name, wait.session, wait.since)
            now = decision.event.at
            if self._waits.get(name) != seen:
                self._waits[name] = seen
                must(wait.since == now, "wait", f"a wait that begins at {now} is dated {wait}")
                must(lane.active is None, "wait", f"{name} waits for memory, and a session computes there")
                self._must_have_cause(decision, self.house.devices[name], f"{name} waits for memory: {wait}")
            due = wait.since + self.plan.limits.memory_alarm_s
            at_reading = isinstance(decision.event, ev.Memory) and decision.event.lane == name
            if at_reading and now >= due and not decision.notes and not self.house.shell.blocked:
                must(seen in self._short, "wait", f"{name} waits since {wait.since}, and at {now} nobody was told")

    def _must_have_cause(self, decision: Decision, device: Device, what: str) -> None:
        """Somebody had memory of the device or the host while the last readings were made, or there are none."""
        readings = decision.after.lanes[device.plan.name].readings
        host = decision.after.host[-self.plan.limits.readings :]
        if len(readings) < self.plan.limits.readings or device.unreadable or device.lost:
            return
        since = readings[-self.plan.limits.readings].at
        if not device.is_empty or device.busy >= since or device.workers:
            return
        store = self.house.host
        if store is not None and device.plan.has_own_memory:
            if len(host) < self.plan.limits.readings or not store.is_empty or store.busy >= host[0].at:
                return
            if store.workers:
                return
        must(holds=False, law="wait", what=f"{what}; nobody has any")

    def take(self, decision: Decision, note: told.MemoryWaited | told.MemoryShort) -> None:
        """What is told of a wait, in a decision that is recorded."""
        now, was = decision.event.at, decision.before.lanes[note.lane].wait
        must(was is not None and was.session == note.session, "wait", f"{note}, and it was {was} that was waited for")
        assert was is not None
        must(note.waited_s >= 0.0, "wait", f"less than nothing was waited: {note}")
        must(abs(now - was.since - note.waited_s) < 1e-6, "wait", f"at {now}: {note}, and it was {was}")
        if isinstance(note, told.MemoryShort):
            self._short.add((self.house.shell.life, note.lane, note.session, was.since))
            must(note.waited_s >= self.plan.limits.memory_alarm_s - 1e-6, "wait", f"told too soon: {note}")
            must(decision.after.lanes[note.lane].active is None, "wait", f"a session computes: {note}")


class _Asking:
    """What one that is let in will take more of its device."""

    def __init__(self, effect: Grant, job: Job, device: Device) -> None:
        if isinstance(effect, AdvanceStandby):
            mine = [each for each in device.workers if each.generation == effect.generation]
            self.device_bytes = mine[0].most(effect.tier) if mine else 0  # it has died, and nobody knows yet
            return
        wanted = need(device, job, effect.tier)
        if effect.pool_bytes is not None:
            wanted = min(wanted, device.plan.context_bytes + effect.pool_bytes)
        self.device_bytes = wanted


def need(device: Device, job: Job, tier: Tier) -> int:
    """Bytes of the device that a session really comes to take at a tier."""
    plan = device.plan
    if not plan.has_own_memory:
        return plan.imported_bytes if tier is Tier.IMPORTED else job.hold_bytes
    if tier is Tier.IMPORTED:
        return 0
    context = plan.context_bytes if job.stepwise else 0
    return context if tier is Tier.STAGED else context + job.hold_bytes


def _takes_more(job: Job, known: Known) -> bool:
    """Whether it is a program that takes more than was stated or measured, which nothing limits."""
    return not job.stepwise and 0 < known.reserved < job.hold_bytes


def _host_bytes(job: Job, tier: Tier) -> int:
    return IMPORTED_RSS_BYTES if tier is Tier.IMPORTED else max(IMPORTED_RSS_BYTES, job.host_bytes)


def job_is_alone(worker: Known) -> bool:
    """It ran out of memory once: it has the device to itself, and all of it."""
    return bool(worker.session.out_of_memory)
