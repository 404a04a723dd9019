"""What a simulated world is made of: lanes, jobs, commands, mishaps. Frozen values; draws nothing and runs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from states.snapshot import Limits
from states.work import Lead, Tier


class Stage(Enum):
    """How far a worker really is."""

    BORN = "before hello"
    LOADING = "loading"
    WAITING = "ready"
    GOING = "going"
    COMPUTING = "computing"
    DRAINING = "draining"
    QUIESCED = "quiesced"
    COMMITTED = "committed"


class Kind(Enum):
    """What may go wrong."""

    # in a worker, at a stage of its life
    DIE = "dies"
    HANG = "hangs (its reader still answers)"
    FREEZE = "freezes whole"
    FAIL = "fails, may pass"
    FAIL_FOR_GOOD = "fails for good"
    SLOW = "is slow for a time"
    DEAF = "ignores drain and cancel"
    STUBBORN = "ignores SIGTERM too"
    UNDYING = "dies late of SIGKILL"
    EARLY = "drains by itself"
    UNBORN = "cannot be started"
    LATE = "says a line late"
    DOUBLE = "says a line twice"
    NO_ROOM = "has no room to write for a time"
    LEAK = "leaves its memory taken for a time"
    # of its memory, as it turns out
    POOL = "needs more than its pool has"
    LIAR = "takes more than was stated for it"
    CROWDED = "finds the device full"
    # in the world, at a time
    RESTART = "the daemon is killed"
    STOP = "the daemon is stopped"
    KILL = "the daemon kills all"
    DISK_FULL = "nothing can be recorded"
    FOREIGN = "a foreign process holds memory"
    HOST = "a foreign process holds memory of the host"
    UNREADABLE = "memory cannot be read"
    DEVICE = "the device is lost"


class Tells(Enum):
    """What a driver tells of the processes that hold its device's memory."""

    NOTHING = "nothing"
    NAMES = "who they are"
    BYTES = "how much each holds"


class Point(Enum):
    """Where between two decisions a killed daemon was."""

    IDLE = "at rest"
    DECIDED = "before the record"
    RECORDED = "after the record, before any effect"
    MIDWAY = "after the first effect"
    ACTED = "after all effects"


# A session that met one of these may end otherwise than done. The others cost it nothing.
EXCUSES = {
    Kind.DIE,
    Kind.HANG,
    Kind.FREEZE,
    Kind.FAIL,
    Kind.FAIL_FOR_GOOD,
    Kind.SLOW,
    Kind.DEAF,
    Kind.EARLY,
    Kind.UNBORN,
    Kind.CROWDED,
}


@dataclass(frozen=True, slots=True)
class LanePlan:
    """A device. Bytes; `lag_s` is how long an ended worker's memory stays taken.

    Of a GPU: `context_bytes` is what a process takes before any weights, `idle_bytes` what its driver has.
    """

    name: str
    device: str
    index: int | None
    total: int
    tiers: tuple[Tier, ...]
    imported_bytes: int
    lag_s: float
    context_bytes: int = 0
    idle_bytes: int = 0
    tells: Tells = Tells.NOTHING

    @property
    def has_own_memory(self) -> bool:
        """Whether its memory is another than the host's."""
        return self.device == "gpu"


@dataclass(frozen=True, slots=True)
class Job:
    """A session and the truth about its work.

    `id` is its own, `name` the session's: a job with `again` is submitted under the name of one that has ended.
    `checkpoint` batches become durable at once, 0: only at its end.
    `own_record`: its worker resumes where its output ends, else at the cursor that it is told.
    Its memory: `hold_bytes` are what its worker really takes of its device at its most: of a GPU without the context,
    but all of it where it is a program (not `stepwise`). On a GPU it has `early` of them when it is prepared, all of
    them after half of its items, and `gaps` times what is in its tensors. `host_bytes`: what it takes of the host then.
    The rest is what its session says: two guesses, and what a person stated.
    """

    id: str
    name: str
    at: float
    items: int
    batch: int
    item_s: float
    load_s: float
    commit_s: float
    checkpoint: int
    hold_bytes: int
    guess_bytes: int
    profile: str
    guess_device_bytes: int = 0
    stated_bytes: int | None = None
    early: float = 1.0
    gaps: float = 1.0
    host_bytes: int = 0
    known: bool = True
    told_total: bool = False
    priority: int = 0
    device: str = "any"
    lead: Lead = field(default_factory=Lead)
    waits_for: tuple[str, ...] = ()
    resumable: bool = True
    prepares: bool = True
    stepwise: bool = True
    max_attempts: int = 3
    own_record: bool = True
    again: bool = False

    @property
    def lies(self) -> bool:
        """Whether it takes more than was stated, and nothing limits it."""
        return not self.stepwise and self.stated_bytes is not None and self.stated_bytes < self.hold_bytes

    @property
    def admits_host(self) -> bool:
        """Whether it takes no more of the host than is guessed. Of a program nothing is guessed."""
        return self.stepwise and self.guess_bytes >= self.host_bytes


@dataclass(frozen=True, slots=True)
class Mishap:
    """A fault of the `nth` worker of a job, at a stage: `share` of the way through it, for `seconds`."""

    kind: Kind
    job: str
    nth: int
    stage: Stage
    share: float = 0.5
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault of the world: from `at` on for `seconds`, on a lane or on all, of so many bytes."""

    kind: Kind
    at: float
    seconds: float
    lane: str = ""
    size: int = 0
    point: Point = Point.IDLE


@dataclass(frozen=True, slots=True)
class Wish:
    """A command of a person: verb, lane and sessions by name."""

    at: float
    verb: str
    lane: str = ""
    name: str = ""
    other: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One world, with all that will happen to it. From `calm_at` on it is left in peace.

    `quiet_s` is the seconds between two readings of a lane's memory, `waiting_s` where something waits for it.
    `host_bytes`: what the host has, where the devices have memory of their own.
    """

    seed: str
    lanes: tuple[LanePlan, ...]
    jobs: tuple[Job, ...]
    mishaps: tuple[Mishap, ...]
    troubles: tuple[Trouble, ...]
    wishes: tuple[Wish, ...]
    limits: Limits
    calm_at: float
    patience_s: float
    quiet_s: float
    waiting_s: float
    host_bytes: int = 0

    @property
    def size(self) -> int:
        """How much there is to read."""
        return len(self.lanes) + len(self.jobs) + len(self.mishaps) + len(self.troubles) + len(self.wishes)

    @property
    def has_full_disk(self) -> bool:
        """Whether there is a time in which nothing can be recorded."""
        return any(each.kind is Kind.DISK_FULL for each in self.troubles)

    def without_jobs(self, ids: set[str]) -> Plan:
        """The plan without those jobs and all that speaks of them."""
        kept = tuple(job for job in self.jobs if job.id not in ids)
        names = {job.name for job in kept}
        return replace(
            self,
            jobs=tuple(
                replace(
                    job,
                    waits_for=tuple(name for name in job.waits_for if name in names),
                    again=job.again and any(each.name == job.name and not each.again for each in kept),
                )
                for job in kept
            ),
            mishaps=tuple(each for each in self.mishaps if each.job not in ids),
            wishes=tuple(each for each in self.wishes if (each.name or None) in {*names, None}),
        )
