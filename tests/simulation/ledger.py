"""What is really written and really computed, kept by the fake workers themselves. Reads no state of the core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.simulation.laws import Broken, must
from tests.simulation.plan import Job, Stage

if TYPE_CHECKING:
    from tests.simulation.worker import Worker


class Output:
    """One session's output: row i belongs to item i. `durable` rows are on the disk, without a hole."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.durable = 0
        self.opened = False  # a worker that was told to go has been here: rows of this session may lie here

    def begin(self, worker: Worker, cursor: int, *, resume: bool) -> int:
        """A worker opens it, to go on at `cursor`; the item at which it will."""
        name = self.job.name
        must(
            cursor <= self.durable,
            "cursor",
            f"{name} is to go on at {cursor}, and only {self.durable} rows are durable (worker {worker.generation})",
        )
        if not resume:
            must(self.durable == 0, "resume", f"{name} is begun anew, and {self.durable} rows of its own lie there")
        if not self.job.resumable:
            return 0
        return self.durable if self.job.own_record else cursor

    def write(self, worker: Worker, start: int, end: int) -> None:
        """Rows become durable."""
        must(start <= self.durable, "hole", f"{worker} writes rows {start} to {end}, and {self.durable} are there")
        self.durable = max(self.durable, end)

    def check_done(self, items: int) -> None:
        """The core says that this session is done, with so many items."""
        job = self.job
        must(items == job.items, "items", f"{job.name} is done with {items} of {job.items} items")
        must(
            self.durable == job.items, "rows", f"{job.name} is done, and {self.durable} of {job.items} rows are durable"
        )


def check_go(worker: Worker, workers: Iterable[Worker]) -> None:
    """A worker was told to go: nobody else may compute on its lane, or write to its output."""
    committing = []
    for other in workers:
        if other is worker or not other.alive or not other.going:
            continue
        if other.output is worker.output:
            raise Broken("two writers", f"{worker} and {other} have one output")
        if other.lane != worker.lane:
            continue
        if other.on_device:
            raise Broken("two compute", f"{worker} is told to go while {other} has {worker.lane}")
        if other.stage is Stage.QUIESCED and not other.dismissed:
            committing.append(other)
    must(len(committing) <= 1, "retiring", f"{worker} is told to go while {len(committing)} commit on {worker.lane}")
