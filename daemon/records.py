"""What the store gives back, and how it is written in SQLite: rows, times, JSON. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from daemon.plaintext import plain
from daemon.sessionfile import SessionSpec
from states.events import Event
from states.snapshot import Lane
from states.work import Profile, Session

SessionState: TypeAlias = Literal["queued", "active", "done", "failed", "cancelled"]


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One session, live or ended.

    `core`: as the core would take it up again. `seq`: of the decision that queued it first. `started_at`: of its
    latest run.
    """

    id: int
    name: str
    state: SessionState
    spec: SessionSpec
    core: Session
    lane: str | None
    cursor: int
    total: int | None
    attempt: int
    kind: str | None
    reason: str
    item: int | None
    items: int | None
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    seq: int


class DecisionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: the event as JSON, and the fields of each line of the log (`stories.fields`)."""

    seq: int
    ts: datetime
    at: float
    event: msgspec.Raw
    notes: tuple[dict[str, Any], ...]
    refused: str | None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was told of a session."""

    seq: int
    ts: datetime
    note: dict[str, Any]


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that was started and not seen to end. `started`: clock ticks since boot, with the pid its identity.

    `promoted`: it was told to go.
    """

    generation: int
    session: str
    pid: int
    started: int
    lane: str
    promoted: bool


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier life left: the queue in its order, what was learned, and the last generation given out.

    `unreadable` are sessions whose record makes no sense, with the reason; they are failed now. `gpus` are the lanes on
    GPUs that it had.
    """

    queue: tuple[Session, ...]
    specs: Mapping[str, SessionSpec]
    profiles: Mapping[str, Profile]
    held: frozenset[str]
    generation: int
    seq: int
    gpus: tuple[Lane, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken out, and how many bytes the rest has. `more`: there is more to take out; call again.

    `forgotten`: the names of which no session is left.
    """

    decisions: int
    sessions: int
    samples: int
    forgotten: tuple[str, ...]
    size_bytes: int
    more: bool


SESSION_COLUMNS = ", ".join((*SessionRecord.__struct_fields__, "place", "begun"))


def session_record(row: Sequence[Any]) -> SessionRecord:
    """One row of SESSION_COLUMNS. What cannot be decoded raises msgspec's DecodeError."""
    *own, place, begun = row
    values = dict(zip(SessionRecord.__struct_fields__, own, strict=True))
    values["spec"] = msgspec.json.decode(values["spec"], type=SessionSpec)
    core = msgspec.json.decode(values["core"], type=Session)
    values["core"] = replace(core, order=place, cursor=values["cursor"], total=values["total"], begun=bool(begun))
    for key in ("submitted_at", "started_at", "ended_at"):
        values[key] = None if values[key] is None else from_text(values[key])
    return SessionRecord(**values)


def to_text(at: datetime) -> str:
    """RFC 3339 in UTC; sorts as text as it does in time."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_text(text: str) -> datetime:
    """The time that `to_text` wrote."""
    return datetime.fromisoformat(text)


def to_json(value: object) -> str:
    """As SQLite keeps it. Text that is no UTF-8 (a file's name in a reason) is kept with escapes."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return msgspec.json.encode(plain(msgspec.to_builtins(value))).decode()


def event_json(event: Event) -> str:
    """The event with its class's name as `type`."""
    return to_json({"type": type(event).__name__, **msgspec.to_builtins(event)})
