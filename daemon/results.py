"""What the control socket answers with: the results' fields, once. Data only; `wire` says which method gives which.

Clients ignore fields that they do not know.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Raw, Struct

from daemon.results_insight import PlanView, RunView

SessionState: TypeAlias = Literal[
    "queued", "preparing", "ready", "running", "draining", "committing", "ending", "done", "failed", "cancelled"
]


class Place(Struct, frozen=True, kw_only=True):
    """A session, and its place in the queue: 1 is the first, 0 says that a lane has taken it already."""

    name: str
    place: int


class SubmitResult(Struct, frozen=True, kw_only=True):
    """The sessions that were queued, in the order of the file.

    After a dry run none were: their places are those they would have, and `plan` is the queue's future with them.
    """

    sessions: tuple[Place, ...]
    plan: PlanView | None = None


class WorkerView(Struct, frozen=True, kw_only=True):
    """One worker. `done`, `total` and `cursor` (durable) count items, those before a resume included.

    `since_s`: how long it is in this phase. `remaining_s` is predicted; nine ends in ten lie within
    `remaining_spread_s` of it. `tier`: how far it is prepared; `aim`: how far it is being prepared. `errors`: of the
    items done, those that were skipped. `paused`: why it cannot write its output, null where it can. Of the device's
    memory `reserved_bytes` was given to it, `held_bytes` is what it was last seen to hold. `attempt`: the first is 1.
    """

    session: str
    generation: int
    phase: str
    tier: str | None
    aim: str
    since_s: float
    done: int
    total: int | None
    cursor: int
    rate_items_s: float | None
    remaining_s: float | None
    remaining_spread_s: float | None
    rss_bytes: int
    reserved_bytes: int
    held_bytes: int
    attempt: int
    errors: int
    paused: str | None


class NeedView(Struct, frozen=True, kw_only=True):
    """What the session that is next on a lane asks of its memory: to be prepared, or its standby to go on, to `tier`.

    `needed_bytes`: beyond what it was given already; 0: not known. `fits`: whether it can be given now.
    """

    session: str
    tier: str
    needed_bytes: int
    fits: bool


class MemoryView(Struct, frozen=True, kw_only=True):
    """A lane's memory as it was read last, what of it can be given out, how much is kept free.

    `spare_bytes` may be negative, and is null before there are enough readings. `next`: null where nobody needs more.
    """

    total_bytes: int
    free_bytes: int
    spare_bytes: int | None
    headroom_bytes: int
    next: NeedView | None


class LaneView(Struct, frozen=True, kw_only=True):
    """One lane: its state, for how long, and why, in words.

    `held`: paused. `lost`: why its device cannot be used. `leaving`: workers that were told to end.
    `memory`: its device's, null before it was read.
    """

    name: str
    device: str
    state: str
    since_s: float
    held: bool
    lost: str | None
    reason: str
    active: WorkerView | None
    standby: WorkerView | None
    retiring: tuple[WorkerView, ...]
    leaving: tuple[WorkerView, ...]
    memory: MemoryView | None


class QueueView(Struct, frozen=True, kw_only=True):
    """One queued session: its place, and why it is not running yet. `attempt`: the one to come; 0: it never began."""

    name: str
    place: int
    priority: int
    device: str
    cursor: int
    total: int | None
    attempt: int
    reason: str


class StatusResult(Struct, frozen=True, kw_only=True):
    """The daemon, its lanes, the queue as far as it was asked for. `seq`: the newest decision's number.

    `unrecorded`: why decisions cannot be recorded just now, and so nothing new is started; null where they can.
    `queued`: how many are in the whole queue.
    """

    version: str
    pid: int
    uptime_s: float
    stopping: bool
    unrecorded: str | None
    seq: int
    lanes: tuple[LaneView, ...]
    queued: int
    queue: tuple[QueueView, ...]


class Row(Struct, frozen=True, kw_only=True):
    """One session. `place` is set while it is queued, `lane` and what hangs on it while it has a worker.

    `reason`: why it waits, or why it ended so. `started_at` is its first item's time, in its latest run.
    `errors`: of the items done, those that were skipped (`on_error = "skip"`). `attempt`: the one that runs, that is
    to come, or that was the last; 0: it never began.
    """

    name: str
    state: SessionState
    lane: str | None = None
    lane_state: str | None = None
    place: int | None = None
    priority: int = 0
    done: int = 0
    total: int | None = None
    cursor: int = 0
    errors: int = 0
    rate_items_s: float | None = None
    remaining_s: float | None = None
    remaining_spread_s: float | None = None
    attempt: int = 0
    max_attempts: int = 0
    reason: str = ""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class ListResult(Struct, frozen=True, kw_only=True):
    """The sessions asked for. `next`: there are more ended ones; ask with `before` set to it."""

    sessions: tuple[Row, ...]
    next: int | None = None


class EventLine(Struct, frozen=True, kw_only=True):
    """One event, as the log has it: these keys, and beside them the event's own, which docs/events.md tells.

    `seq` numbers decisions; the events of one decision share it.
    """

    ts: datetime
    level: str
    event: str
    lane: str | None
    session: str | None
    seq: int | None
    schema: int


class Failure(Struct, frozen=True, kw_only=True):
    """What the worker of a session's latest failed attempt left. `attempt`: which, the first is 1; `history` tells why.

    `log_tail`: the last 16 KiB of what it printed, as it was; bytes that are no UTF-8 are shown as `\\xff`.
    `traceback`: the last Python traceback in that, with the whole chain that led to it.
    """

    attempt: int
    log_tail: str
    traceback: str | None


class ShowResult(Struct, frozen=True, kw_only=True):
    """One session: its row, its table of the session file with defaults, its events (oldest first) as in the log.

    `failure` is null where no attempt of it failed. `runs`: each against what was predicted of it.
    """

    session: Row
    spec: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    log_path: str | None
    failure: Failure | None = None
    runs: tuple[RunView, ...] = ()


class Refused(Struct, frozen=True, kw_only=True):
    """A session that it could not be done to, and why."""

    name: str
    reason: str


class CancelResult(Struct, frozen=True, kw_only=True):
    """The sessions whose end was asked for, and those that could not be cancelled any more."""

    cancelled: tuple[str, ...]
    refused: tuple[Refused, ...] = ()


class RetryResult(Place, frozen=True, kw_only=True):
    """The session's place in the queue, and the item it resumes at."""

    cursor: int


class MoveResult(Place, frozen=True, kw_only=True):
    """The session's new place in the queue."""


class SwapResult(Struct, frozen=True, kw_only=True):
    """The lane, its state after the swap was asked for, the session it takes over from, and to which."""

    lane: str
    state: str
    session: str
    to: str | None


class LanesResult(Struct, frozen=True, kw_only=True):
    """The lanes that it was done to."""

    lanes: tuple[str, ...]


class LogsResult(Struct, frozen=True, kw_only=True):
    """The text of the bytes from `offset` to `next_offset`.

    `offset` is not the one asked for where the log was trimmed or begun anew. `ended`: the session has ended, and
    nothing follows.
    """

    text: str
    offset: int
    next_offset: int
    ended: bool


class DeviceProcess(Struct, frozen=True, kw_only=True):
    """A process that holds memory of a device. `session`: of batond; null for one that is not its. `bytes` may be null.

    Its name is "?" where it cannot be seen: in a container the process ids may be the host's.
    """

    pid: int
    name: str
    bytes: int | None
    session: str | None


class DeviceView(Struct, frozen=True, kw_only=True):
    """One device, by its lane. `reserved_bytes` is given out to sessions of batond. null: the device does not tell.

    `usable`: not lost; `reason`: why it is. `trouble`: why it cannot be read just now, or what is to be known of it.
    `clocks`: why they are as they are.
    """

    lane: str
    kind: str
    name: str | None
    index: int | None
    uuid: str | None
    driver: str | None
    capability: str | None
    usable: bool
    reason: str | None
    trouble: str | None
    total_bytes: int | None
    free_bytes: int | None
    reserved_bytes: int
    headroom_bytes: int
    utilisation_percent: int | None
    temperature_c: int | None
    clocks: tuple[str, ...] | None
    holders: tuple[str, ...]
    processes: tuple[DeviceProcess, ...] | None


class DevicesResult(Struct, frozen=True, kw_only=True):
    """The devices. `no_gpu`: why there is none among them, where that is so."""

    devices: tuple[DeviceView, ...]
    no_gpu: str | None


class TensorView(Struct, frozen=True, kw_only=True):
    """One input or output of a signature: the batch first in its shape, null for a free size, or for a free rank."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


class SignatureView(Struct, frozen=True, kw_only=True):
    """What a model takes and gives under one name; where it cannot be used, `problem` says why, and nothing else does.

    `parameters` are the values of its variables; null where the files do not tell, and `parameter_bytes` is their size
    then. `need_bytes` is a first guess of the host's memory that a session takes with a CPU as its device,
    `device_bytes` one of a GPU's; what is measured takes the place of either.
    """

    name: str
    inputs: tuple[TensorView, ...] = ()
    outputs: tuple[TensorView, ...] = ()
    parameters: int | None = None
    parameter_bytes: int | None = None
    need_bytes: int | None = None
    device_bytes: int | None = None
    problem: str | None = None


class InspectResult(Struct, frozen=True, kw_only=True):
    """A model on disk. `model`: its path, with the version, where it is one of several; `version` is that one's number.

    `size_bytes`: of its files. `tensorflow`: the version that looked. `batch_size`: what the needs were guessed for.
    """

    model: str
    kind: str
    version: int | None
    fingerprint: str
    size_bytes: int
    tensorflow: str
    batch_size: int
    signatures: tuple[SignatureView, ...]


class EventsResult(Struct, frozen=True, kw_only=True):
    """The newest decision's number: events up to it are past, later ones new."""

    seq: int


class TimelineResult(Struct, frozen=True, kw_only=True):
    """The stretch of time that is told, as far as it was not given. `now`: the daemon's time."""

    since: datetime
    until: datetime
    now: datetime


class Life(Struct, frozen=True, kw_only=True):
    """One daemon: since when, when it last wrote that it was there, and whether that was its last word (`ended`)."""

    began_at: datetime
    seen_at: datetime
    ended: bool


class Told(Struct, frozen=True, kw_only=True):
    """One decision, or a part of one that tells very much: its number, its time, its events as docs/events.md has them.

    Of each event what it has beside `ts`, `seq` and `schema`.
    """

    seq: int
    ts: datetime
    notes: Raw


class Sample(Struct, frozen=True, kw_only=True):
    """A lane's device memory at one moment; `total_bytes` 0: it gave no readings from then on.

    Of what is taken: by the active session, the standby, those that commit or were told to end, as far as it is known
    of each; `foreign_bytes` by processes of others, as far as the device names them. `wanted_bytes`: what the next
    step of what waits for memory needs, 0 where nothing waits.
    """

    ts: datetime
    lane: str
    total_bytes: int
    free_bytes: int
    active_bytes: int
    standby_bytes: int
    retiring_bytes: int
    foreign_bytes: int
    wanted_bytes: int


class TimelinePiece(Struct, frozen=True, kw_only=True):
    """A piece of the record, of one kind, in the order of time: first the daemons' lives, then decisions, then memory.

    Before the decisions of the stretch come those that tell of the sessions which were alive when it began. The one
    that is `last` is empty, and the daemon ends the connection; without it, something is missing.
    """

    lives: tuple[Life, ...] = ()
    decisions: tuple[Told, ...] = ()
    samples: tuple[Sample, ...] = ()
    last: bool = False


class ReloadResult(Struct, frozen=True, kw_only=True):
    """The keys that have another value now. `config`: the file that was read; null: there is none."""

    changed: tuple[str, ...]
    config: str | None


class ShutdownResult(Struct, frozen=True, kw_only=True):
    """The sessions that batond waits for before it ends.

    `left_running`: those that go on without it; they drain where no daemon is back by `back_by`.
    """

    waits_for: tuple[str, ...]
    left_running: tuple[str, ...] = ()
    back_by: datetime | None = None


class VersionResult(Struct, frozen=True, kw_only=True):
    """The daemon's version, the protocol's, the daemon's process id."""

    version: str
    protocol: int
    pid: int
