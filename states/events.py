"""Facts that happened, as the core is told them. Frozen, each stamped `at`; no fact is a request.

`at` is monotonic seconds of the host. An event that answers an effect carries the `generation` of the worker
it is about; one from a generation that is gone changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from states.work import Session, Tier


@dataclass(frozen=True, slots=True)
class Queued:
    """A session was submitted, and `more` together with it: all of them are queued, or none."""

    at: float
    session: Session
    more: tuple[Session, ...] = ()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All of them, in their order."""
        return (self.session, *self.more)


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; deadlines may have expired."""

    at: float


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds memory of a device and is no worker of ours. `size`: bytes, None where nobody tells."""

    pid: int
    name: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """A reading of a lane's device memory, in bytes.

    `total` is the most that sessions may use, `free` what is free now. As far as the device tells who holds the rest:
    `held`, by the generation of a worker of ours, what all of its processes hold; `foreign`, everybody else.
    """

    at: float
    lane: str
    total: int
    free: int
    held: tuple[tuple[int, int], ...] = ()
    foreign: tuple[Holder, ...] = ()


@dataclass(frozen=True, slots=True)
class HostMemory:
    """A reading of the host's memory, in bytes, where the lanes' devices have memory of their own."""

    at: float
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Unread:
    """A lane's device gave no reading, for this reason. It may pass; the session that runs there is not concerned."""

    at: float
    lane: str
    reason: str


# What a worker says, or what is seen of it.


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is up and knows its session; its output holds `cursor` durable items.

    One that an earlier daemon started says how far it is: `done`, `total`, `remaining`, `errors` as in its other words.
    """

    at: float
    generation: int
    cursor: int = 0
    done: int = 0
    total: int | None = None
    remaining: int | None = None
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is prepared as far as `tier` and waits. `seconds` is what that step of preparing took.

    `peak_bytes`: the most host memory it held so far; `device_peak_bytes`: of its device's, as its framework counts.
    """

    at: float
    generation: int
    tier: Tier
    seconds: float
    total: int | None = None
    peak_bytes: int = 0
    device_peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Promoted:
    """The promoted worker began its first item, at `began_at`."""

    at: float
    generation: int
    began_at: float


@dataclass(frozen=True, slots=True)
class Progress:
    """Items computed and items durable so far, the ones before the cursor it resumed at included.

    `errors`: how many of the computed ones were skipped, and gave no result.
    """

    at: float
    generation: int
    done: int
    cursor: int
    total: int | None = None
    rss_bytes: int = 0
    errors: int = 0


@dataclass(frozen=True, slots=True)
class LastBatch:
    """No batch follows the one in flight."""

    at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The worker cannot write its output for now, for this reason. It keeps its place and tries again."""

    at: float
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """What the worker paused for is over."""

    at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Quiesced:
    """Nothing is in flight in the worker any more; its last item was computed at `ended_at`."""

    at: float
    generation: int
    ended_at: float
    done: int
    remaining: int | None
    errors: int = 0


@dataclass(frozen=True, slots=True)
class Committed:
    """The worker's output is durable up to `cursor`. The peaks are as in `Ready`."""

    at: float
    generation: int
    cursor: int
    peak_bytes: int = 0
    errors: int = 0
    device_peak_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker says that its session cannot go on. Its exit follows, and decides."""

    at: float
    generation: int
    kind: str
    reason: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker's process is gone. `status` is its exit code, −N for signal N, None where nobody could wait for it."""

    at: float
    generation: int
    status: int | None
    reason: str = ""


# What a person asks for.


@dataclass(frozen=True, slots=True)
class Cancel:
    """End the session `name`, wherever it is."""

    at: float
    name: str


@dataclass(frozen=True, slots=True)
class Swap:
    """Hand the lane over now, to the session `to` or to the next in the queue."""

    at: float
    lane: str
    to: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Start no further session on the lane; what runs goes on."""

    at: float
    lane: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the lane start sessions again."""

    at: float
    lane: str


@dataclass(frozen=True, slots=True)
class DrainLane:
    """Pause the lane and put its sessions back in the queue at their cursors."""

    at: float
    lane: str


@dataclass(frozen=True, slots=True)
class Move:
    """Give the queued session `name` another place: first, last, or before another one."""

    at: float
    name: str
    before: str | None = None
    last: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain every lane and end."""

    at: float


@dataclass(frozen=True, slots=True)
class Kill:
    """End every worker at once."""

    at: float


# What becomes of a device.


@dataclass(frozen=True, slots=True)
class DeviceLost:
    """The lane's device cannot be used any more."""

    at: float
    lane: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceBack:
    """The lane's device can be used again."""

    at: float
    lane: str


Event: TypeAlias = (
    Queued
    | Tick
    | Memory
    | HostMemory
    | Unread
    | Hello
    | Ready
    | Promoted
    | Progress
    | LastBatch
    | Paused
    | Resumed
    | Quiesced
    | Committed
    | Failed
    | Exited
    | Cancel
    | Swap
    | Pause
    | Resume
    | DrainLane
    | Move
    | Stop
    | Kill
    | DeviceLost
    | DeviceBack
)

FromWorker: TypeAlias = (
    Hello | Ready | Promoted | Progress | LastBatch | Paused | Resumed | Quiesced | Committed | Failed | Exited
)
Command: TypeAlias = Cancel | Swap | Pause | Resume | DrainLane | Move
