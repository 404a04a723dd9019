"""Who submits sessions and gives commands, as a plan says; they wait for a daemon that is down. Judges nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from states import events as ev
from tests.simulation.plan import Job, Plan, Wish

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

PATIENCE_S = 0.5  # before a submission is tried again
AGAIN_S = 0.3  # after the end of a session, before another of its name is submitted


class People:
    """All of them."""

    def __init__(self, plan: Plan, house: Simulation) -> None:
        self.plan = plan
        self.house = house
        self.clock = house.clock
        self._wanted = {job.id for job in plan.jobs}
        self._known: set[str] = set()  # names that were submitted
        self._let_go = False

    @property
    def satisfied(self) -> bool:
        """Nothing is left that somebody wants to ask for."""
        return not self._wanted and self._let_go

    def begin(self) -> None:
        """From here on they ask, each at his time."""
        for job in self.plan.jobs:
            self.clock.at(job.at, lambda each=job: self._submit(each))  # type: ignore[misc]
        for wish in self.plan.wishes:
            self.clock.at(wish.at, lambda each=wish: self._ask(each))  # type: ignore[misc]

    def let_go(self) -> None:
        """Resume every lane, and ask for nothing more."""
        if not self.house.shell.alive or self.house.shell.blocked or self.house.shell.world.stopping:
            self.clock.after(PATIENCE_S, self.let_go)
            return
        for name, lane in self.house.shell.world.lanes.items():
            if lane.held:
                self.house.shell.take(ev.Resume(self.clock.now, name))
        held = any(lane.held for lane in self.house.shell.world.lanes.values())
        if held or not self.house.shell.alive:
            self.clock.after(PATIENCE_S, self.let_go)
            return
        self._let_go = True

    def _submit(self, job: Job) -> None:
        record = self.house.record
        ready = self.house.shell.alive and not self.house.shell.blocked
        ready = ready and (not job.again or job.name in record.ended) and job.name not in record.live
        if self._hopeless(job):
            self._wanted.discard(job.id)
            return
        if ready and all(name in record.live or name in record.ended for name in job.waits_for):
            earlier = self.house.outputs.get(job.name) if job.again else None
            if earlier is not None and self.house.judge.ends[earlier.job.id] == ["done"]:
                earlier = None  # it is submitted anew, and its output made anew
            if self.house.submit(job, earlier):
                self._known.add(job.name)
                self._wanted.discard(job.id)
                return
        self.clock.after(AGAIN_S if job.again else PATIENCE_S, lambda: self._submit(job))

    def _hopeless(self, job: Job) -> bool:
        """It waits for one that did not get done, or for one that nobody submits any more."""
        record, judge = self.house.record, self.house.judge
        for name in job.waits_for:
            over = name in record.ended and name not in record.live
            if over and judge.ends[self.house.outputs[name].job.id] != ["done"]:
                return True
        named = {each.name for each in self.plan.jobs if each.id in self._wanted and not each.again}
        needed = {*job.waits_for, *((job.name,) if job.again else ())}
        return any(name not in self._known and name not in named for name in needed)

    def _ask(self, wish: Wish) -> None:
        now, shell = self.clock.now, self.house.shell
        if not shell.alive or shell.blocked:
            return
        match wish.verb:
            case "cancel":
                shell.take(ev.Cancel(now, wish.name))
            case "swap" | "swap_to":
                shell.take(ev.Swap(now, wish.lane, wish.name or None, wish.force))
            case "pause":
                shell.take(ev.Pause(now, wish.lane))
            case "resume":
                shell.take(ev.Resume(now, wish.lane))
            case "drain":
                shell.take(ev.DrainLane(now, wish.lane))
            case "move":
                before = None if wish.other in {"", "last"} else wish.other
                shell.take(ev.Move(now, wish.name, before, wish.other == "last"))
            case _:
                raise ValueError(f"nobody asks to {wish.verb}")
