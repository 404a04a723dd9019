"""The promises, held against what the core decides and what really happens. Changes nothing of either."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from states import notes as told
from states.decision import Decision
from states.effects import AdvanceStandby, StartStandby
from states.events import Cancel
from states.snapshot import World, invariants
from tests.simulation.laws import must
from tests.simulation.plan import EXCUSES, Job, Kind, Plan
from tests.simulation.room import Room

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
        self.tight: Counter[str] = Counter()  # jobs that needed more than their pool had
        self.room = Room(plan, house)
        self.cancelled: set[str] = set()  # jobs
        self.submissions: list[str] = []  # jobs
        self.moved_at = 0.0

    def submitted(self, job: Job) -> None:
        """The daemon has it."""
        self.submissions.append(job.id)
        self.moved_at = self.house.clock.now

    def excuse(self, kind: Kind, job: str) -> None:
        """A fault struck: it may end this job, or have it tried again alone."""
        if kind is Kind.POOL:
            self.tight[job] += 1
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
        self.room.check_waits(decision)

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
                        job.id in self.excused or job.id in self.tight or self._ended_with_daemon(decision, note),
                        "attempt",
                        f"{job.name} lost an attempt, and nothing was wrong: {note}",
                    )
                case told.MemoryWaited() | told.MemoryShort():
                    self.room.take(decision, note)
                case told.CountMismatched():
                    must(holds=False, law="count", what=f"these workers count right: {note}")
                case told.SessionAdopted():
                    self.house.report.adopted += 1
                case told.HandoverCompleted():
                    self._handover(note)
                case _:
                    pass
        for effect in decision.effects:
            if isinstance(effect, StartStandby):
                job = self._job(effect.session.name)
                must(
                    job.id not in self.cancelled, "cancel", f"{job.name} is started, and its cancellation was accepted"
                )
            if isinstance(effect, StartStandby | AdvanceStandby):
                self.room.check_grant(decision, effect)

    @staticmethod
    def _ended_with_daemon(decision: Decision, note: told.SessionRetried) -> bool:
        """It had no room to write, and a daemon that stops waits for that no longer than for all else."""
        return decision.after.stopping and note.kind == "timeout" and "write its output" in note.reason

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
            tried = self.tight[id_] > 0 and job.max_attempts == 1  # it would have fitted alone
            if ends != ["done"] and not tried and id_ not in self.excused and id_ not in self.cancelled:
                waited = any(self._not_done(name) for name in job.waits_for)
                must(waited, "untroubled", f"{job.name} ({id_}) is {ends[0]}, and nothing was wrong with it")

    def _not_done(self, name: str) -> bool:
        return any(self.ends[job.id] not in (["done"], []) for job in self.plan.jobs if job.name == name)
