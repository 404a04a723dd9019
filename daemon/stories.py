"""What the shell itself has to tell, as events of the log; and how any event becomes the fields of a line. No output.

Each class is one event, in the manner of `states.notes`: `event` is its name in the log, `level` its weight, its
fields are the dataclass's own. What the record keeps, what the log says and what clients are sent are these fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar, TypeAlias, get_args

from daemon.plaintext import plain
from states.notes import LaneMoved, Note, ProfileLearned, SessionQueued


@dataclass(frozen=True, slots=True)
class DaemonStarted:
    """The daemon is ready. `sessions`: how many it found queued, from earlier; `no_gpu`: why GPUs are no lanes."""

    event: ClassVar[str] = "daemon.started"
    level: ClassVar[str] = "info"
    version: str
    pid: int
    lanes: tuple[str, ...]
    sessions: int
    launcher: str
    state_dir: str
    socket: str
    config: str | None
    no_gpu: str | None


@dataclass(frozen=True, slots=True)
class DaemonStopping:
    """The daemon was asked to end; it waits for `sessions` to hand back what they have."""

    event: ClassVar[str] = "daemon.stopping"
    level: ClassVar[str] = "info"
    reason: str
    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DaemonStopped:
    """The daemon ends now. `stopping_s`: since it was asked to; `left`: sessions still in the queue.

    `left_running`: sessions whose workers go on without it, and look for the next daemon.
    """

    event: ClassVar[str] = "daemon.stopped"
    level: ClassVar[str] = "info"
    stopping_s: float
    left: int
    left_running: int = 0


@dataclass(frozen=True, slots=True)
class DaemonBroke:
    """A fault of batond's own ended it. Its workers commit what they have and exit; `trace` belongs into a report."""

    event: ClassVar[str] = "daemon.broke"
    level: ClassVar[str] = "error"
    reason: str
    trace: str


@dataclass(frozen=True, slots=True)
class ConfigReloaded:
    """The configuration was read again, and counts from now on. `changed`: the keys that have another value."""

    event: ClassVar[str] = "config.reloaded"
    level: ClassVar[str] = "info"
    changed: tuple[str, ...]
    config: str | None


@dataclass(frozen=True, slots=True)
class ConfigRefused:
    """The configuration cannot be read again, or not be used, for these reasons; the old one still counts, whole."""

    event: ClassVar[str] = "config.refused"
    level: ClassVar[str] = "error"
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClientRefused:
    """Someone at the control socket may not do what was asked, or spoke out of turn.

    Told at most once a second for each user and method. `left_out`: so many more like it since the one told before.
    """

    event: ClassVar[str] = "client.refused"
    level: ClassVar[str] = "warning"
    method: str | None
    reason: str
    uid: int | None
    pid: int | None
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class StoreSetAside:
    """The database was damaged. It lies at `path` now; what it knew of queue and history is not in the new one."""

    event: ClassVar[str] = "store.set_aside"
    level: ClassVar[str] = "error"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class StorePruned:
    """What is older or more than the configuration keeps was taken out of the history."""

    event: ClassVar[str] = "store.pruned"
    level: ClassVar[str] = "debug"
    decisions: int
    sessions: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RecordFailed:
    """A decision could not be recorded. Until it can be, nothing new is started or promoted."""

    event: ClassVar[str] = "record.failed"
    level: ClassVar[str] = "error"
    reason: str


@dataclass(frozen=True, slots=True)
class RecordResumed:
    """Decisions can be recorded again; those that were held back are."""

    event: ClassVar[str] = "record.resumed"
    level: ClassVar[str] = "warning"
    decisions: int
    waited_s: float


@dataclass(frozen=True, slots=True)
class SessionUnreadable:
    """A session's own record makes no sense; it is failed, for it cannot be run."""

    event: ClassVar[str] = "session.unreadable"
    level: ClassVar[str] = "error"
    session: str
    reason: str


@dataclass(frozen=True, slots=True)
class LauncherFellBack:
    """Workers are started in another way than configured or preferred: slower, and just as sound."""

    event: ClassVar[str] = "launcher.fell_back"
    level: ClassVar[str] = "warning"
    wanted: str
    used: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerFound:
    """A worker of an earlier daemon is still there. `action`: what is done with it."""

    event: ClassVar[str] = "worker.found"
    level: ClassVar[str] = "warning"
    session: str
    generation: int
    pid: int
    action: str


@dataclass(frozen=True, slots=True)
class WorkerTurnedAway:
    """Somebody at the worker socket is no worker of this daemon's; it was told to drain."""

    event: ClassVar[str] = "worker.turned_away"
    level: ClassVar[str] = "warning"
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerOutput:
    """A line that a session's worker printed, on standard output or error. Its log file has the newest, uncut."""

    event: ClassVar[str] = "worker.output"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class WorkerNoise:
    """A line that TensorFlow or its libraries logged in a worker, at their levels of information or warning."""

    event: ClassVar[str] = "worker.noise"
    level: ClassVar[str] = "debug"
    session: str
    lane: str
    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class WorkerTraceback:
    """A worker printed a Python traceback. `exception`: the last one's type and text; `trace`: all of it.

    That it was printed does not say that the session failed: a program may catch what it prints.
    """

    event: ClassVar[str] = "worker.traceback"
    level: ClassVar[str] = "warning"
    session: str
    lane: str
    generation: int
    exception: str
    trace: str


@dataclass(frozen=True, slots=True)
class WorkerSuppressed:
    """A worker printed more than the log takes of one: at least so many lines are left out here, of so many bytes."""

    event: ClassVar[str] = "worker.suppressed"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    lines: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OutputLost:
    """The disk of the workers' log files is full: what this worker prints may be in no file, until there is room again.

    Told once, and anew where there was room in between.
    """

    event: ClassVar[str] = "output.lost"
    level: ClassVar[str] = "error"
    session: str
    lane: str
    generation: int
    folder: str


@dataclass(frozen=True, slots=True)
class PredictionChecked:
    """A session has ended whose run was predicted when it began. `error_s`: how much longer it ran than predicted.

    Nine in ten are within `margin_s` of `predicted_s`; `within`: this one is. Both null: too few earlier runs for that.
    """

    event: ClassVar[str] = "prediction.checked"
    level: ClassVar[str] = "info"
    session: str
    lane: str
    generation: int
    predicted_s: float
    margin_s: float | None
    run_s: float
    error_s: float
    within: bool | None


@dataclass(frozen=True, slots=True)
class HandoverChecked:
    """A handover held against what was predicted of it, and its gap by what filled it; null: not known.

    `lead_predicted_s`: how long the old session was thought to go on when the new one's preparation began, `lead_s` how
    long it did. The gap: `told_s` from the last item to its word, `waited_s` until the new one was told to go,
    `recorded_s` to write that down, `begun_s` until its first item. `memory_waited_s`: of `waited_s`, for memory.
    `lead_next_s`: how long before an end this model's preparation begins from now on. `held_back`: why the new one was
    prepared no further; `unprepared`: why it was not being prepared at all when the old one ended. `ended_by`: what
    ended the old one before its last item. `queued_s`: how long before that end the new one was submitted (negative:
    after it); null: under an earlier batond.
    """

    event: ClassVar[str] = "handover.checked"
    level: ClassVar[str] = "info"
    lane: str
    session: str
    generation: int
    gap_s: float
    gap_predicted_s: float | None
    gap_margin_s: float | None
    lead_s: float
    lead_predicted_s: float | None
    lead_margin_s: float | None
    told_s: float | None
    waited_s: float | None
    recorded_s: float | None
    begun_s: float | None
    memory_waited_s: float
    lead_next_s: float
    held_back: str | None
    unprepared: str | None = None
    ended_by: str | None = None
    queued_s: float | None = None


@dataclass(frozen=True, slots=True)
class LogDropped:
    """Whoever reads the log was too slow or not there, or its disk was full: `lines` lines before this one are lost.

    As the first line of a batond: of the one before it at least so many of the last ones.
    """

    event: ClassVar[str] = "log.dropped"
    level: ClassVar[str] = "warning"
    lines: int


@dataclass(frozen=True, slots=True)
class LibrarySpoke:
    """Something that batond is built on logged a warning or an error."""

    event: ClassVar[str] = "library.spoke"
    level: ClassVar[str] = "warning"
    logger: str
    message: str
    trace: str | None


Story: TypeAlias = (
    DaemonStarted
    | DaemonStopping
    | DaemonStopped
    | DaemonBroke
    | ConfigReloaded
    | ConfigRefused
    | ClientRefused
    | StoreSetAside
    | StorePruned
    | RecordFailed
    | RecordResumed
    | SessionUnreadable
    | LauncherFellBack
    | WorkerFound
    | WorkerTurnedAway
    | WorkerOutput
    | WorkerNoise
    | WorkerTraceback
    | WorkerSuppressed
    | OutputLost
    | PredictionChecked
    | HandoverChecked
    | LogDropped
    | LibrarySpoke
)

EVENTS: tuple[type[Note | Story], ...] = (*get_args(Note), *get_args(Story))
RENAMED: dict[type, dict[str, str]] = {LaneMoved: {"from_state": "from", "to_state": "to"}}  # `from` is no Python name

_OWN: dict[type, tuple[tuple[str, str], ...]] = {
    cls: tuple((f.name, RENAMED.get(cls, {}).get(f.name, f.name)) for f in dataclass_fields(cls)) for cls in EVENTS
}


def fields(note: Note | Story) -> dict[str, Any]:
    """The note as a line's fields: `event`, `level`, `lane` and `session` (None where there is none), then its own.

    Plain values only: any JSON writer takes them. Seconds are rounded to microseconds.
    """
    line: dict[str, Any] = {"event": note.event, "level": note.level, "lane": None, "session": None}
    match note:
        case SessionQueued(session=session):
            line |= {"lane": note.lane, "session": session.name, "reason": plain(note.reason)}
            line |= {"cursor": session.cursor, "total": session.total, "attempt": session.attempt}
            line |= {"priority": session.priority, "device": session.device}
        case ProfileLearned(profile=profile):
            line |= {"key": plain(note.key), "prepared_s": plain(profile.prepared_s)}
            line |= {"alone_s": plain(profile.alone_s)}
            line |= {"peak_bytes": profile.peak_bytes, "host_peak_bytes": profile.host_peak_bytes}
        case _:
            for name, said in _OWN[type(note)]:
                line[said] = plain(getattr(note, name))
    return line
