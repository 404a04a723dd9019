"""What the core tells of its decisions, for the record and the log. Each class is one event of the log.

The name in the log is the class attribute `event` (`noun.verb_past`); the fields are the dataclass's own, with
units in their names. `docs/events.md` and its schema are generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from states.work import Profile, Session


@dataclass(frozen=True, slots=True)
class SessionQueued:
    """A session is in the queue: submitted, or back at `session.cursor` for the reason given."""

    event: ClassVar[str] = "session.queued"
    level: ClassVar[str] = "info"
    session: Session
    reason: str
    lane: str | None = None


@dataclass(frozen=True, slots=True)
class SessionMoved:
    """A queued session was given another place."""

    event: ClassVar[str] = "session.moved"
    level: ClassVar[str] = "info"
    session: str
    order: float
    priority: int


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A session's first item was begun on the lane."""

    event: ClassVar[str] = "session.started"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    attempt: int
    cursor: int
    total: int | None


@dataclass(frozen=True, slots=True)
class SessionAdopted:
    """A session that an earlier daemon started runs on under this one; it was never interrupted."""

    event: ClassVar[str] = "session.adopted"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    cursor: int


@dataclass(frozen=True, slots=True)
class SessionCommitted:
    """A session's output is durable up to `cursor`; it is not at its end."""

    event: ClassVar[str] = "session.committed"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    cursor: int


@dataclass(frozen=True, slots=True)
class SessionFinished:
    """Every item of a session is computed and durable. `seconds`: from its first item to its last, in this run.

    `errors`: how many of the items were skipped, and gave no result.
    """

    event: ClassVar[str] = "session.finished"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    items: int
    seconds: float
    errors: int


@dataclass(frozen=True, slots=True)
class SessionPaused:
    """A session cannot write its output: the disk is full, or read-only. It keeps its place, and tries again."""

    event: ClassVar[str] = "session.paused"
    level: ClassVar[str] = "error"
    session: str
    lane: str
    generation: int
    reason: str
    cursor: int


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """A paused session goes on, after `waited_s`."""

    event: ClassVar[str] = "session.resumed"
    level: ClassVar[str] = "warning"
    session: str
    lane: str
    generation: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Someone asked for the end of a session that a worker has; its end follows, also under a later daemon."""

    event: ClassVar[str] = "cancel.asked"
    level: ClassVar[str] = "info"
    session: str
    lane: str


@dataclass(frozen=True, slots=True)
class SessionFailed:
    """A session ended without its work being done, and is not tried again."""

    event: ClassVar[str] = "session.failed"
    level: ClassVar[str] = "error"
    session: str
    lane: str | None
    kind: str
    reason: str
    item: int | None
    attempt: int


@dataclass(frozen=True, slots=True)
class SessionCancelled:
    """A session was ended because someone asked for it, or because one it waits for did not get done."""

    event: ClassVar[str] = "session.cancelled"
    level: ClassVar[str] = "info"
    session: str
    lane: str | None
    reason: str
    cursor: int


@dataclass(frozen=True, slots=True)
class SessionRetried:
    """A session failed in a way that may pass; it is tried again after `wait_s`."""

    event: ClassVar[str] = "session.retried"
    level: ClassVar[str] = "warning"
    session: str
    lane: str
    kind: str
    reason: str
    attempt: int
    max_attempts: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class LaneMoved:
    """A lane changed its state. `waited_s`: how long it was in the one it left."""

    event: ClassVar[str] = "lane.moved"
    level: ClassVar[str] = "info"
    lane: str
    from_state: str
    to_state: str
    cause: str
    guard: str
    session: str | None
    waited_s: float


@dataclass(frozen=True, slots=True)
class LaneHeld:
    """A lane was paused, or let go again."""

    event: ClassVar[str] = "lane.held"
    level: ClassVar[str] = "info"
    lane: str
    held: bool


@dataclass(frozen=True, slots=True)
class SwapAsked:
    """Someone asked for the lane to be handed over now."""

    event: ClassVar[str] = "swap.asked"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    to: str | None


@dataclass(frozen=True, slots=True)
class StandbyStarted:
    """A worker is being started for a session, to be prepared as far as `tier`; `held_back` says why no further."""

    event: ClassVar[str] = "standby.started"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    generation: int
    tier: str
    beside: str | None
    need_bytes: int
    free_bytes: int
    lead_s: float
    held_back: str | None = None


@dataclass(frozen=True, slots=True)
class StandbyAdvanced:
    """Memory allows the standby to be prepared further; `held_back` says why not still further."""

    event: ClassVar[str] = "standby.advanced"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    generation: int
    tier: str
    need_bytes: int
    free_bytes: int
    held_back: str | None = None


@dataclass(frozen=True, slots=True)
class MemoryWaited:
    """Nobody computed on the lane for `waited_s` because memory for the session was missing; now there is enough.

    `need_bytes`: what it needs for `tier` beyond what it has; `free_bytes`: what can be given out now.
    """

    event: ClassVar[str] = "memory.waited"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    waited_s: float
    tier: str
    need_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryShort:
    """Nobody has computed on the lane for `waited_s` because memory is missing, and it lasts. `reason` says who has it.

    It has no end of its own: memory is given out when it is free, and never on a guess.
    """

    event: ClassVar[str] = "memory.short"
    level: ClassVar[str] = "warning"
    lane: str
    session: str
    waited_s: float
    tier: str
    need_bytes: int
    free_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class StandbyReady:
    """The standby is prepared as far as it was asked, after `seconds`."""

    event: ClassVar[str] = "standby.ready"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    generation: int
    tier: str
    seconds: float
    peak_bytes: int
    total: int | None


@dataclass(frozen=True, slots=True)
class StandbyRaised:
    """The standby got its normal priority: the running session's end is `remaining_s` away (None: not known)."""

    event: ClassVar[str] = "standby.raised"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    generation: int
    phase: str
    remaining_s: float | None


@dataclass(frozen=True, slots=True)
class StandbyDiscarded:
    """The standby was told to go, for the reason given."""

    event: ClassVar[str] = "standby.discarded"
    level: ClassVar[str] = "warning"
    lane: str
    session: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerEscalated:
    """A worker did not do in time what was due; it is ended by force."""

    event: ClassVar[str] = "worker.escalated"
    level: ClassVar[str] = "warning"
    lane: str
    session: str
    generation: int
    force: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A worker's process is gone. `status`: exit code, −N for signal N, None where nobody could wait for it."""

    event: ClassVar[str] = "worker.exited"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    generation: int
    status: int | None


@dataclass(frozen=True, slots=True)
class HandoverCompleted:
    """The device went from one session to the next.

    `gap_s`: last item computed by the old to first item begun by the new. `lead_s`: how long before the old one's
    end the new one's preparation began (negative: after it). `idle_standby_s`: how long the new one was ready and
    waited; `device_waited_s`: how long the device waited for it, from when the old one's end was known. `tier`: how far
    it was prepared when the old one ended (`none`: not at all). `preparing_s`, `draining_s` and `swapping_s` are the
    phases' lengths.
    `items_in` = `items_done` + `items_returned` + `items_abandoned`, all of the old session's.
    """

    event: ClassVar[str] = "handover.completed"
    level: ClassVar[str] = "info"
    lane: str
    from_session: str
    session: str
    generation: int
    gap_s: float
    lead_s: float
    idle_standby_s: float
    device_waited_s: float
    tier: str
    preparing_s: float
    draining_s: float
    swapping_s: float
    items_in: int
    items_done: int
    items_returned: int
    items_abandoned: int


@dataclass(frozen=True, slots=True)
class CountMismatched:
    """The items of a session do not add up: its output must not be trusted before it is looked at."""

    event: ClassVar[str] = "count.mismatched"
    level: ClassVar[str] = "error"
    lane: str
    session: str
    generation: int
    items_in: int
    items_done: int
    items_left: int


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    """A lane's device was lost, or is back."""

    event: ClassVar[str] = "device.changed"
    level: ClassVar[str] = "warning"
    lane: str
    usable: bool
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceUnread:
    """A lane's device gives no readings. Nothing new is begun there until it does; what runs goes on."""

    event: ClassVar[str] = "device.unread"
    level: ClassVar[str] = "warning"
    lane: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceRead:
    """A lane's device gives readings again, after `waited_s`."""

    event: ClassVar[str] = "device.read"
    level: ClassVar[str] = "info"
    lane: str
    waited_s: float


@dataclass(frozen=True, slots=True)
class ProfileLearned:
    """Something was measured of a model on a kind of device; later predictions use it."""

    event: ClassVar[str] = "profile.learned"
    level: ClassVar[str] = "debug"
    key: str
    profile: Profile


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """What was asked for cannot be done, and why."""

    event: ClassVar[str] = "command.refused"
    level: ClassVar[str] = "warning"
    command: str
    reason: str


Note: TypeAlias = (
    SessionQueued
    | SessionMoved
    | SessionStarted
    | SessionAdopted
    | SessionCommitted
    | SessionFinished
    | SessionPaused
    | SessionResumed
    | SessionFailed
    | SessionCancelled
    | SessionRetried
    | LaneMoved
    | LaneHeld
    | SwapAsked
    | CancelAsked
    | StandbyStarted
    | StandbyAdvanced
    | MemoryWaited
    | MemoryShort
    | StandbyReady
    | StandbyRaised
    | StandbyDiscarded
    | WorkerEscalated
    | WorkerExited
    | HandoverCompleted
    | CountMismatched
    | DeviceChanged
    | DeviceUnread
    | DeviceRead
    | ProfileLearned
    | CommandRefused
)
