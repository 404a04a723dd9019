"""What is so, at one moment: workers, lanes, the world; and what must always hold of it. Frozen; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from states.effects import Force
from states.estimate import Pace
from states.events import Holder
from states.work import Profile, Session, Tier

MIB = 1 << 20


class State(Enum):
    """What a lane does."""

    IDLE = "Idle"  # no session computes and none is being prepared
    RUNNING = "Running"  # the active session computes; its end is not near
    NEARING_END = "NearingEnd"  # its end is near, or a swap was asked for; no standby yet
    PRELOADING = "Preloading"  # a standby is being prepared, or waits
    DRAINING = "Draining"  # the active session finishes what is in flight
    SWAPPING = "Swapping"  # the old session has computed its last item, the new one not begun its first
    STOPPED = "Stopped"  # nothing runs and nothing will: stopped, or the device is lost


class Phase(Enum):
    """Where a worker is in its life."""

    LOADING = "loading"
    READY = "ready"
    GOING = "going"  # told to go, first item not begun
    COMPUTING = "computing"
    DRAINING = "draining"  # no batch follows the one in flight
    COMMITTING = "committing"  # nothing in flight, output not yet durable
    COMMITTED = "committed"  # durable; the process is about to end


class Fate(Enum):
    """What a worker's end means for its session."""

    COMPLETE = "complete"  # it was left to run to its end
    CANCEL = "cancel"
    RETRY = "retry"  # spends an attempt
    REQUEUE = "requeue"  # spends none


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a worker failed. `permanent`: trying again would fail again."""

    kind: str
    reason: str
    item: int | None = None

    @property
    def permanent(self) -> bool:
        """True for a bad model, bad input or a program that raised."""
        return self.kind in {"model", "input", "program"}

    @property
    def out_of_memory(self) -> bool:
        """True where the worker says that an allocation failed."""
        return self.kind == "memory"


@dataclass(frozen=True, slots=True)
class Worker:
    """The process that runs one session. Times are monotonic seconds, memory is bytes.

    Of the device's memory: `reserved` was given to it, `held_bytes` is what it was last seen to hold (0: not seen),
    `peak_bytes` the most; `pool_bytes` is the limit that its framework's pool was started with. On a device with
    memory of its own, `host_reserved`, `rss_bytes` and `host_peak_bytes` are the same of the host's; where the
    device's memory is the host's, `host_reserved` and `host_peak_bytes` are 0.
    `start` is the cursor it resumed at; `done`, `cursor` and `total` count the items before it too.
    `hurried`: it got its normal priority before it was ready.
    `settled`: its session has ended already (its output is complete and durable); only the process remains.
    `unheard`: it is from an earlier life of the daemon, and has not said anything in this one; `adopted`: it has.
    `paused`: why it cannot write its output, since `paused_at`. `errors`: of the items `done`, those that were skipped.
    """

    session: Session
    generation: int
    phase: Phase
    aim: Tier
    reserved: int
    since: float
    spawned_at: float
    beside: bool
    tier: Tier | None = None
    low_priority: bool = False
    hurried: bool = False
    deadline: float | None = None
    stall_at: float | None = None
    forced: Force | None = None
    fate: Fate = Fate.COMPLETE
    trouble: Trouble | None = None
    settled: bool = False
    unheard: bool = False
    adopted: bool = False
    paused: str | None = None
    paused_at: float = 0.0
    cursor: int = 0
    done: int = 0
    start: int = 0
    errors: int = 0
    total: int | None = None
    remaining: int | None = None
    rss_bytes: int = 0
    held_bytes: int = 0
    peak_bytes: int = 0
    pool_bytes: int | None = None
    host_reserved: int = 0
    host_peak_bytes: int = 0
    pace: Pace | None = None
    prepared_s: float = 0.0
    ready_at: float | None = None
    began_at: float | None = None
    ended_at: float | None = None

    @property
    def has_limit(self) -> bool:
        """Whether something ends its wait: a deadline, the stall clock, or a stated reason to have neither.

        A prepared worker waits for the lane; a program that reports nothing may compute as long as it likes.
        """
        if self.deadline is not None or self.stall_at is not None or self.phase is Phase.READY:
            return True
        return self.phase is Phase.COMPUTING and not self.session.prepares and self.pace is None

    @property
    def complete(self) -> bool:
        """Every item is durable. Where the total is not known, the worker says that nothing remains."""
        if self.phase is not Phase.COMMITTED:
            return False
        return self.remaining == 0 if self.total is None else self.cursor >= self.total


@dataclass(frozen=True, slots=True)
class Reading:
    """A lane's device memory at one moment, in bytes."""

    at: float
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Wait:
    """That nobody computes on a lane because the gate holds: since when, for whom, and when it is told (again)."""

    since: float
    session: str
    told_at: float
    told_every_s: float


@dataclass(frozen=True, slots=True)
class Relay:
    """What the lane remembers of the session it hands over from, until the next one begins.

    `ended_at`: its last item, `told_at`: when that was known here. `abandoned`: the session ends without the items that
    are left; else they are handed back with it.
    """

    session: str
    generation: int
    near_at: float | None
    drain_at: float | None
    ended_at: float
    told_at: float
    abandoned: bool
    tier: Tier | None
    items_in: int
    items_done: int
    items_left: int


@dataclass(frozen=True, slots=True)
class Lane:
    """One device with its workers. `device` is `cpu` or `gpu`; `index` and `uuid` name a GPU, `model` its kind.

    `shares_memory`: a GPU whose memory is the host's. `imported_bytes`: what a process takes of the lane's memory that
    has only imported TensorFlow.

    `retiring` have computed their last item and commit; `leaving` were told to end, and are waited for.
    `lost`: why the device cannot be used; `unread`: why it cannot be read, since `unread_at`. `idle_bytes`: what was
    taken of it when last no worker was there. `foreign`: who else holds some, as far as the device tells.
    """

    name: str
    device: str = "cpu"
    index: int | None = None
    uuid: str | None = None
    model: str = ""
    tiers: tuple[Tier, ...] = (Tier.IMPORTED, Tier.WARM)
    imported_bytes: int = 0
    shares_memory: bool = False
    state: State = State.IDLE
    since: float = 0.0
    active: Worker | None = None
    standby: Worker | None = None
    retiring: tuple[Worker, ...] = ()
    leaving: tuple[Worker, ...] = ()
    held: bool = False
    lost: str | None = None
    unread: str | None = None
    unread_at: float = 0.0
    swap_asked: bool = False
    reserved: str | None = None
    readings: tuple[Reading, ...] = ()
    idle_bytes: int = 0
    foreign: tuple[Holder, ...] = ()
    wait: Wait | None = None
    near_at: float | None = None
    drain_at: float | None = None
    relay: Relay | None = None

    @property
    def has_own_memory(self) -> bool:
        """Whether the device's memory is another than the host's."""
        return self.device == "gpu" and not self.shares_memory

    @property
    def top(self) -> Tier:
        """The furthest a standby goes on this lane."""
        return self.tiers[-1]

    def workers(self) -> Iterator[Worker]:
        """Every process of the lane that is not known to be gone."""
        if self.active is not None:
            yield self.active
        if self.standby is not None:
            yield self.standby
        yield from self.retiring
        yield from self.leaving

    def takes(self, device: str) -> bool:
        """Whether a session that asks for `device` may run here."""
        if device in ("any", self.device):
            return True
        if self.device != "gpu":
            return False
        return device == f"gpu:{self.index}" or (self.uuid is not None and device == self.uuid)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is configured of the core's patience and caution: seconds, bytes, counts."""

    prepare_timeout_s: float = 600.0
    start_timeout_s: float = 120.0
    stall_timeout_s: float = 600.0
    drain_timeout_s: float = 120.0
    commit_timeout_s: float = 300.0
    pause_timeout_s: float = 660.0  # without room to write; the built-in worker gives up by itself after 600
    exit_timeout_s: float = 10.0
    grace_s: float = 5.0  # between asking, SIGTERM and SIGKILL
    backoff_s: float = 2.0  # before the second attempt; doubles
    backoff_cap_s: float = 300.0
    headroom_bytes: int = 256 * MIB
    readings: int = 2  # in a row that must agree before memory is given out
    memory_alarm_s: float = 30.0  # that nobody computes because the gate holds, before it is told as a warning


@dataclass(frozen=True, slots=True)
class World:
    """All that is decided on: the lanes, the queue in its order, what was learned.

    `host`: the last readings of the host's memory; none where the lanes' own readings are of it.
    The mappings are never changed in place: a step makes new ones of those it changes.
    """

    lanes: Mapping[str, Lane]
    queue: tuple[Session, ...] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    generation: int = 0
    stopping: bool = False
    host: tuple[Reading, ...] = ()


def profile_key(session: Session, lane: Lane) -> str:
    """Under which name what is learned of the session's model on the lane's kind of device is kept."""
    return f"{session.profile or session.name}@{lane.model or lane.device}"


def context_key(lane: Lane) -> str:
    """Under which name is kept what a process takes of the lane's kind of device before any weights."""
    return f"context@{lane.model or lane.device}"


def find(world: World, generation: int) -> tuple[Lane, Worker] | None:
    """The worker of that generation and its lane; None when it is gone."""
    for lane in world.lanes.values():
        for worker in (lane.active, lane.standby, *lane.retiring, *lane.leaving):
            if worker is not None and worker.generation == generation:
                return lane, worker
    return None


_COMPUTES = {State.RUNNING, State.NEARING_END}
_MAY_HAVE_ACTIVE = {*_COMPUTES, State.PRELOADING, State.DRAINING, State.SWAPPING}
_MAY_HAVE_STANDBY = {State.PRELOADING, State.DRAINING, State.SWAPPING}


def invariants(world: World) -> list[str]:
    """Every way in which this world is impossible, in words; empty when it is sound."""
    wrong: list[str] = []
    places: dict[str, str] = {}

    def stands(name: str, place: str) -> None:
        if name in places:
            wrong.append(f"session {name} is both {places[name]} and {place}")
        places[name] = place

    for session in world.queue:
        stands(session.name, "queued")
    if list(world.queue) != sorted(world.queue, key=lambda s: s.rank):
        wrong.append("the queue is out of order")
    generations: set[int] = set()
    for lane in world.lanes.values():
        for worker in lane.workers():
            if worker.generation in generations or worker.generation > world.generation:
                wrong.append(f"generation {worker.generation} is not one worker's own")
            generations.add(worker.generation)
            if not worker.settled:
                stands(worker.session.name, f"in worker {worker.generation} of {lane.name}")
        wrong += [f"{lane.name}: {text}" for text in _lane_invariants(lane)]
    return wrong


def _lane_invariants(lane: Lane) -> Iterator[str]:
    if lane.active is not None and lane.state not in _MAY_HAVE_ACTIVE:
        yield f"{lane.state.value} with an active session"
    if lane.active is None and lane.state in _COMPUTES:
        yield f"{lane.state.value} without an active session"
    if lane.standby is not None and lane.state not in _MAY_HAVE_STANDBY:
        yield f"{lane.state.value} with a standby"
    if lane.state is State.PRELOADING and lane.standby is None:
        yield "Preloading without a standby"
    if lane.state is State.SWAPPING and lane.active is None and lane.standby is None:
        yield "Swapping with nothing to swap to"
    if lane.state is State.SWAPPING and lane.active is not None and lane.active.phase is not Phase.GOING:
        yield f"Swapping with an active session that is {lane.active.phase.value}"
    if lane.state is State.STOPPED and (lane.active or lane.standby or lane.retiring):
        yield "Stopped with a worker"
    computing = [
        w for w in lane.workers() if w.phase in {Phase.GOING, Phase.COMPUTING, Phase.DRAINING} and not w.forced
    ]
    if len(computing) > 1:
        yield f"{len(computing)} workers compute at once"
    if lane.active is not None and lane.active.phase not in {Phase.GOING, Phase.COMPUTING, Phase.DRAINING}:
        yield f"the active worker is {lane.active.phase.value}"
    if lane.standby is not None and lane.standby.phase not in {Phase.LOADING, Phase.READY}:
        yield f"the standby is {lane.standby.phase.value}"
    for worker in lane.workers():
        if not worker.has_limit:
            yield f"worker {worker.generation} ({worker.phase.value}) has no deadline"
    if lane.reserved is not None and lane.state in {State.STOPPED, State.RUNNING}:
        yield f"{lane.state.value} with {lane.reserved} reserved"
