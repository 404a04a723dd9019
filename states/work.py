"""A session as the core knows it: its place, its limits, what is known of its model. No paths but in names."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum


class Tier(IntEnum):
    """How far a session is prepared before the device is its own. Ordered: higher is further."""

    IMPORTED = 1  # a process with TensorFlow imported; model files in the page cache
    STAGED = 2  # graph built, weights as host arrays
    WARM = 3  # weights on the device, first call made, first batch read

    @property
    def label(self) -> str:
        """As logs, commands and workers spell it."""
        return self.name.lower()


class Outcome(Enum):
    """How a session ended."""

    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Lead:
    """When the next session's preparation starts: `seconds` before the end, or at `fraction` of the total.

    Both None: learned (`auto`). Set on the session that *runs*: it says how late in it the next one begins.
    """

    seconds: float | None = None
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One piece of finite work, in the queue or in a worker's hands.

    `order` is its place among equals: lower runs sooner; it keeps it when it comes back.
    `profile` is the key of what is learned of its model. Where nothing is learned yet: `guess_bytes` is its need of
    host memory, `guess_device_bytes` that of a device with memory of its own, without the context of the process
    there, `least_bytes` what it surely takes of either. `stated_bytes`: what its need on its device was said to be.
    `submission` tells this session from others that had its name: it stays the same in every attempt, also in those
    of a `retry`; empty where an earlier version recorded the session.
    `waits_for` holds the names of sessions that must be committed first. `begun`: its output folder may hold rows
    of its own, to go on from. `errors`: of the items before `cursor`, those that were skipped.
    `out_of_memory`: how often it ran out of memory; from the first time on it gets a device of its own.
    `cancelled`: someone asked for its end while a worker had it.
    `prepares`: it can be begun before the device is its own. `stepwise`: tier by tier, and on a device with memory of
    its own under a limit; one that is not prepares all at once, and takes what it takes.
    """

    name: str
    order: float
    priority: int = 0
    device: str = "any"
    profile: str = ""
    guess_bytes: int = 0
    guess_device_bytes: int = 0
    least_bytes: int = 0
    stated_bytes: int | None = None
    total: int | None = None
    cursor: int = 0
    attempt: int = 0
    max_attempts: int = 3
    lead: Lead = field(default_factory=Lead)
    waits_for: frozenset[str] = frozenset()
    resumable: bool = True
    prepares: bool = True
    stepwise: bool = True
    begun: bool = False
    errors: int = 0
    out_of_memory: int = 0
    cancelled: bool = False
    not_before: float = 0.0
    queued_at: float = 0.0
    submission: str = ""

    @property
    def rank(self) -> tuple[int, float, str]:
        """The queue's order: priority first, then place."""
        return (-self.priority, self.order, self.name)


@dataclass(frozen=True, slots=True)
class Profile:
    """What was learned of one model on one device.

    `prepared_s`: seconds that preparing it beside a running session took, newest last; `alone_s`: the same on an
    idle device; `peak_bytes`: the highest need of the device's memory seen (0: never); `host_peak_bytes`: the same of
    host memory, where the device has its own.
    """

    prepared_s: tuple[float, ...] = ()
    alone_s: tuple[float, ...] = ()
    peak_bytes: int = 0
    host_peak_bytes: int = 0
