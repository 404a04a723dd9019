"""A device's memory as it really is: what workers hold, what the ended ones still hold, what strangers hold."""

from __future__ import annotations

from collections.abc import Iterable

from tests.simulation.clock import Clock
from tests.simulation.plan import LanePlan
from tests.simulation.worker import Worker


class Device:
    """One lane's device. `clean`: no stranger has taken memory since that moment."""

    def __init__(self, plan: LanePlan, clock: Clock) -> None:
        self.plan = plan
        self.clock = clock
        self.workers: list[Worker] = []
        self.foreign = 0
        self.leaving = 0  # of workers that have ended
        self.unreadable = 0  # how many troubles make it so
        self.lost = 0
        self.clean = 0.0

    def end(self, worker: Worker) -> None:
        """A worker's process is gone; its memory comes back after a while."""
        self.workers.remove(worker)
        size = worker.hold_bytes
        self.leaving += size
        self.clock.after(self.plan.lag_s, lambda: self._release(size))

    def _release(self, size: int) -> None:
        self.leaving -= size

    def take(self, size: int) -> None:
        """A stranger takes memory (negative: gives it back)."""
        self.foreign += size
        if size > 0:
            self.clean = self.clock.now

    @property
    def used(self) -> int:
        """Bytes of our workers, the ended ones not yet given back included."""
        return self.leaving + sum(worker.hold_bytes for worker in self.workers)

    @property
    def free(self) -> int:
        """As a reading tells it."""
        return max(0, self.plan.total - self.foreign - self.used) if not self.unreadable else 0


def overdrawn(devices: Iterable[Device]) -> str | None:
    """Which device's workers hold more than it has, in words."""
    for device in devices:
        if device.used > device.plan.total:
            held = ", ".join(f"{worker} {worker.hold_bytes >> 20} MiB" for worker in device.workers)
            return (
                f"{device.plan.name} has {device.plan.total >> 20} MiB; held: {held}, "
                f"{device.leaving >> 20} MiB not given back yet"
            )
    return None
