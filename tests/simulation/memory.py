"""Memory as it really is, of a device or of the host: what workers hold, ended ones still hold, and strangers hold."""

from __future__ import annotations

from states.events import Holder
from tests.simulation.clock import Clock
from tests.simulation.plan import LanePlan, Tells
from tests.simulation.worker import Worker

FIRST_PID = 4000


class Store:
    """So many bytes, and who has them. `clean`: no stranger has taken any since; `busy`: when any was held last."""

    def __init__(self, total: int, idle: int, clock: Clock) -> None:
        self.total = total
        self.idle = idle  # the driver's own, or the system's
        self.clock = clock
        self.strangers: dict[int, int] = {}  # by process id
        self.workers: list[Worker] = []
        self.leaving = 0  # of workers that have ended
        self.doubtful = 0  # of these, how many had nobody knows how much
        self.clean = 0.0
        self.busy = 0.0
        self._pids = FIRST_PID

    def holds(self, worker: Worker) -> int:
        """Bytes that a worker has here."""
        return worker.rss_bytes

    @property
    def used(self) -> int:
        """Bytes of our workers, the ended ones not yet given back included."""
        return self.leaving + sum(self.holds(worker) for worker in self.workers)

    @property
    def foreign(self) -> int:
        """Bytes of strangers."""
        return sum(self.strangers.values())

    @property
    def free(self) -> int:
        """As a reading tells it; less than nothing where more was taken than there is."""
        return self.total - self.idle - self.foreign - self.used

    def take(self, size: int, seconds: float) -> None:
        """A stranger takes memory for a while, as much of it as there is."""
        self._pids += 1
        pid, size = self._pids, min(size, max(0, self.free))
        self.strangers[pid] = size
        self.clean = self.clock.now
        self.clock.after(seconds, lambda: self._leave(pid))

    def _leave(self, pid: int) -> None:
        self.busy = self.clock.now
        del self.strangers[pid]

    def end(self, worker: Worker, seconds: float, *, doubtful: bool = False) -> None:
        """A worker's process is gone; its memory comes back after a while. `doubtful`: nobody knew how much it had."""
        self.workers.remove(worker)
        self.busy = self.clock.now
        size = self.holds(worker)
        self.leaving += size
        self.doubtful += doubtful
        self.clock.after(seconds, lambda: self._release(size, doubtful=doubtful))

    def _release(self, size: int, *, doubtful: bool) -> None:
        self.leaving -= size
        self.doubtful -= doubtful
        self.busy = self.clock.now

    @property
    def is_empty(self) -> bool:
        """Nobody has any of it."""
        return not self.strangers and not self.leaving and not any(self.holds(worker) for worker in self.workers)


class Device(Store):
    """One lane's device."""

    def __init__(self, plan: LanePlan, clock: Clock) -> None:
        super().__init__(plan.total, plan.idle_bytes, clock)
        self.plan = plan
        self.unreadable = 0  # how many troubles make it so
        self.told_unread = False  # the daemon knows, and has had no reading since
        self.lost = 0

    def holds(self, worker: Worker) -> int:
        """Bytes of the device."""
        return worker.hold_bytes

    @property
    def held(self) -> tuple[tuple[int, int], ...]:
        """What each worker that the daemon knows holds, as far as the driver tells."""
        if self.plan.tells is not Tells.BYTES:
            return ()
        return tuple((each.generation, each.hold_bytes) for each in self.workers if each.recorded and each.hold_bytes)

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who else has some, as far as the driver tells."""
        if self.plan.tells is Tells.NOTHING:
            return ()
        told = self.plan.tells is Tells.BYTES
        return tuple(Holder(pid, "python3", size if told else None) for pid, size in self.strangers.items())


class Host(Store):
    """The host's memory, where the lanes' devices have their own."""
