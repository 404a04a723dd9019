"""A worker's line to its daemon: in order, some late, some twice, none after the end. Knows no meaning of a word."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from states import events as ev
from tests.simulation.plan import Kind, Stage

if TYPE_CHECKING:
    from tests.simulation.worker import Worker

LINES: dict[type[ev.FromWorker], Stage] = {
    ev.Hello: Stage.BORN,
    ev.Ready: Stage.LOADING,
    ev.Promoted: Stage.GOING,
    ev.Progress: Stage.COMPUTING,
    ev.LastBatch: Stage.DRAINING,
    ev.Paused: Stage.COMPUTING,
    ev.Resumed: Stage.COMPUTING,
    ev.Quiesced: Stage.QUIESCED,
    ev.Committed: Stage.COMMITTED,
}


class Line:
    """Words on their way do not pass one another. They reach the daemon that was there when they were said, or none."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._free_at = 0.0

    def say(self, event: ev.FromWorker) -> None:
        """Say it, with what goes wrong in saying it."""
        worker, stage = self.worker, LINES[type(event)]
        wait = worker.chance.choice([0.001, 0.002, 0.01])
        late, double = worker.mishaps.get((Kind.LATE, stage)), worker.mishaps.get((Kind.DOUBLE, stage))
        if late is not None:
            worker.house.struck(Kind.LATE, worker.job.id)
            wait += late.seconds
        self.deliver(event, wait)
        if double is not None:
            worker.house.struck(Kind.DOUBLE, worker.job.id)
            life = worker.life
            worker.later(wait + double.seconds, lambda: self._again(event, life))

    def deliver(self, event: ev.FromWorker, wait: float) -> None:
        """On its way, for so long."""
        worker, life = self.worker, self.worker.life
        if not life:
            return
        clock = worker.clock
        moment = max(clock.now + wait, self._free_at)
        self._free_at = clock.at(moment, lambda: worker.house.hear(worker, life, replace(event, at=clock.now)))

    def open_anew(self) -> None:
        """To another daemon: what was on its way is lost."""
        self._free_at = self.worker.clock.now

    def heard_by(self) -> float:
        """When everything that was said has arrived: its end is seen after that."""
        return max(self.worker.clock.now + 0.002, self._free_at)

    def _again(self, event: ev.FromWorker, life: int) -> None:
        if self.worker.life == life:
            self.deliver(event, 0.001)
