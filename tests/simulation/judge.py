"""The promises, held against what the core decides and what really happens. Changes nothing of either."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from states import notes as told
from states.decision import Decision
from states.effects import AdvanceStandby, StartStandby
from states.events import Cancel
from states.snapshot import Lane, World, invariants
from states.work import Tier
from tests.simulation.laws import must
from tests.simulation.memory import Device, overdrawn
from tests.simulation.plan import EXCUSES, Job, Kind, Plan

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


class Judge:
    """Of one run. `moved_at`: when something began or ended last."""

    def __init__(self, plan: Plan, house: Simulation) -> None:
        self.plan = plan
        self.house = house
        self.jobs = {job.id: job for job in plan.jobs}
        self.ends: defaultdict[str, list[str]] = defaultdict(list)  # by job
        self.excused: set[str] = set()  # jobs
        self.cancelled: set[str] = set()  # jobs
        self.submissions: list[str] = []  # jobs
        self.moved_at = 0.0

    def submitted(self, job: Job) -> None:
        """The daemon has it."""
        self.submissions.append(job.id)
        self.moved_at = self.house.clock.now

    def excuse(self, kind: Kind, job: str) -> None:
        """A fault struck: it may end this job."""
        if kind in EXCUSES:
            self.excused.add(job)

    # The core's own word

    def check_world(self, world: World) -> None:
        """It is one that can be."""
        wrong = invariants(world)
        must(not wrong, "invariants", "; ".join(wrong))

    def check_decision(self, decision: Decision) -> None:
        """What must hold of it whether or not it comes to be recorded."""
        world = decision.after
        self.check_world(world)
        known = {worker.generation for lane in world.lanes.values() for worker in lane.workers()}
        asked = {effect.generation for effect in decision.effects}
        must(asked <= known, "effects", f"asks something of worker {asked - known}, which is gone")
        for device in self.house.devices.values():
            for worker in device.workers:
                forgotten = worker.alive and worker.recorded and worker.generation not in known
                must(
                    not forgotten or worker.dismissed, "forgotten", f"{worker} is alive, and the core does not know it"
                )
        over = overdrawn(self.house.devices.values())
        must(over is None, "memory", over or "")

    def take(self, decision: Decision) -> None:
        """A decision that is recorded."""
        if isinstance(decision.event, Cancel) and decision.refused is None:
            self.cancelled.add(self._job(decision.event.name).id)
        for note in decision.notes:
            match note:
                case told.SessionFinished():
                    self.house.outputs[note.session].check_done(note.items)
                    self._ended(note.session, "done")
                case told.SessionFailed():
                    self._ended(note.session, "failed")
                case told.SessionCancelled():
                    self._ended(note.session, "cancelled")
                case told.SessionRetried():
                    job = self._job(note.session)
                    must(
                        job.id in self.excused, "attempt", f"{job.name} lost an attempt, and nothing was wrong: {note}"
                    )
                case told.CountMismatched():
                    must(holds=False, law="count", what=f"these workers count right: {note}")
                case told.SessionAdopted():
                    self.house.report.adopted += 1
                case told.HandoverCompleted():
                    self._handover(note)
                case _:
                    pass
        for effect in decision.effects:
            if isinstance(effect, StartStandby | AdvanceStandby):
                self._gate(decision.after.lanes[effect.lane], effect)

    def _job(self, name: str) -> Job:
        return self.house.outputs[name].job

    def _ended(self, name: str, how: str) -> None:
        job = self._job(name)
        self.ends[job.id].append(how)
        must(len(self.ends[job.id]) == 1, "ended twice", f"{name} ended as {', then as '.join(self.ends[job.id])}")
        self.house.report.ends[how] += 1
        self.moved_at = self.house.clock.now

    def _handover(self, note: told.HandoverCompleted) -> None:
        parts = (note.items_done, note.items_returned, note.items_abandoned)
        must(note.items_in == sum(parts) and min(parts) >= 0, "handover", f"the items do not add up: {note}")
        most = max(job.items for job in self.plan.jobs if job.name == note.from_session)
        must(note.items_in <= most, "handover", f"{note.from_session} has {most} items: {note}")
        must(note.gap_s >= 0.0, "handover", f"the next one began before the last one ended: {note}")
        self.house.report.handovers += 1

    # What is really so

    def _gate(self, lane: Lane, effect: StartStandby | AdvanceStandby) -> None:
        """There must be room for it, whatever all others still come to hold; strangers that came since do not count."""
        device = self.house.devices[effect.lane]
        if isinstance(effect, StartStandby):
            job = self._job(effect.session.name)
            mine = self._need(device, job, effect.tier)
            must(
                job.id not in self.cancelled,
                "cancel",
                f"{job.name} is started, and its cancellation was accepted",
            )
        else:
            mine = 0
        readings = lane.readings[-self.plan.limits.readings :]
        if device.unreadable or not readings or device.clean >= readings[0].at:
            return
        others = 0
        for worker in device.workers:
            tier = effect.tier if worker.generation == effect.generation else worker.aim
            doomed = worker.life != self.house.shell.life and not worker.going  # a standby without its daemon
            others += max(worker.hold_bytes, 0 if doomed else self._need(device, worker.job, tier))
        room = device.plan.total - device.foreign - device.leaving - others
        must(
            room >= mine,
            "gate",
            f"{effect} is let in: it takes {mine >> 20} MiB, and {room >> 20} MiB are left of {device.plan.total >> 20}"
            f" ({device.foreign >> 20} MiB are a stranger's); readings {readings}",
        )

    @staticmethod
    def _need(device: Device, job: Job, tier: Tier) -> int:
        return device.plan.imported_bytes if tier is Tier.IMPORTED else job.hold_bytes

    def waiting(self) -> str:
        """What has not ended, for a person."""
        return f"{sorted(self.house.record.live)}; {self.house.shell.world.lanes}"

    def conclude(self) -> None:
        """All has ended: each once, and what nothing was wrong with is done."""
        for id_ in self.submissions:
            job, ends = self.jobs[id_], self.ends[id_]
            must(len(ends) == 1, "ended once", f"{job.name} ({id_}) ended {len(ends)} times")
            if id_ in self.cancelled:
                must(ends != ["failed"] or id_ in self.excused, "cancel", f"{job.name} ({id_}) is {ends[0]}")
            if ends != ["done"] and id_ not in self.excused and id_ not in self.cancelled:
                waited = any(self._not_done(name) for name in job.waits_for)
                must(waited, "untroubled", f"{job.name} ({id_}) is {ends[0]}, and nothing was wrong with it")

    def _not_done(self, name: str) -> bool:
        return any(self.ends[job.id] not in (["done"], []) for job in self.plan.jobs if job.name == name)
