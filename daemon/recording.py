"""A decision's notes applied to the tables. Inside the caller's transaction; decides nothing, reads no clock."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, Final, assert_never

import msgspec

from daemon.plaintext import plain
from daemon.records import to_json
from daemon.sessionfile import SessionSpec
from states import notes as told
from states.work import Session

LIVE: Final = ("queued", "active")


class Recording:
    """One decision while it is being written: its number, its time, and what was submitted with it."""

    def __init__(self, db: sqlite3.Connection, seq: int, ts: str, specs: Mapping[str, SessionSpec]) -> None:
        self._db, self._seq, self._ts, self._specs = db, seq, ts, specs

    def apply(self, note: told.Note) -> None:
        """Bring the tables up to what the note tells. Raises LookupError where they cannot have been right before."""
        match note:
            case told.SessionQueued():
                self._queued(note)
            case told.SessionMoved():
                self._change(note.session, place=note.order)
            case told.SessionStarted():
                self._change(
                    note.session,
                    state="active",
                    lane=note.lane,
                    attempt=note.attempt,
                    cursor=note.cursor,
                    **({} if note.total is None else {"total": note.total}),
                    started_at=self._ts,
                )
            case told.SessionAdopted():
                self._change(note.session, state="active", lane=note.lane, cursor=note.cursor)
            case told.SessionCommitted():
                self._change(note.session, cursor=note.cursor)
            case told.CancelAsked():
                self._mark(note.session, cancelled=True)
            case told.SessionFinished():
                self._mark(note.session, errors=note.errors)
                self._change(
                    note.session,
                    state="done",
                    lane=note.lane,
                    items=note.items,
                    cursor=note.items,
                    reason="",
                    ended_at=self._ts,
                )
                # The worker has only to exit: a later session of that name is none of its business.
                self._db.execute("UPDATE workers SET session = '' WHERE generation = ?", (note.generation,))
            case told.SessionFailed():
                self._change(
                    note.session,
                    state="failed",
                    kind=note.kind,
                    reason=note.reason,
                    item=note.item,
                    attempt=note.attempt,
                    ended_at=self._ts,
                )
            case told.SessionCancelled():
                self._change(note.session, state="cancelled", reason=note.reason, cursor=note.cursor, ended_at=self._ts)
            case told.SessionRetried():
                self._change(note.session, state="queued", kind=note.kind, reason=note.reason, attempt=note.attempt)
            case told.StandbyReady():
                if note.total is not None:
                    self._change(note.session, total=note.total)
            case told.WorkerExited():
                # Together with what came of it: one that is forgotten sooner is never asked what it left.
                self._db.execute("DELETE FROM workers WHERE generation = ?", (note.generation,))
            case told.ProfileLearned():
                self._db.execute("INSERT OR REPLACE INTO profiles VALUES (?, ?)", (note.key, to_json(note.profile)))
            case told.LaneHeld():
                held = set(get_meta(self._db, "held", [])) - {note.lane}
                set_meta(self._db, "held", sorted(held | {note.lane} if note.held else held))
            case (
                told.LaneMoved()
                | told.SessionPaused()
                | told.SessionResumed()
                | told.SwapAsked()
                | told.StandbyStarted()
                | told.StandbyAdvanced()
                | told.MemoryWaited()
                | told.MemoryShort()
                | told.StandbyRaised()
                | told.StandbyDiscarded()
                | told.WorkerEscalated()
                | told.HandoverCompleted()
                | told.CountMismatched()
                | told.DeviceChanged()
                | told.DeviceUnread()
                | told.DeviceRead()
                | told.CommandRefused()
            ):
                pass  # kept with the decision
            case _:
                assert_never(note)

    def keep(self, session: Session) -> None:
        """Bring a queued session up to date where no note tells all of its change, as what it still waits for."""
        self._change(session.name, state="queued", **_columns(session))

    def begun(self, name: str, generation: int) -> None:
        """The session is told to go: from here on its output may hold rows, whether or not it says so any more."""
        self._change(name, begun=True)
        self._db.execute("UPDATE workers SET promoted = 1 WHERE generation = ?", (generation,))

    def _queued(self, note: told.SessionQueued) -> None:
        session = note.session
        now = {"state": "queued", "lane": note.lane, "reason": note.reason, **_columns(session)}
        if self._change_live(session.name, now):
            return
        if session.name not in self._specs:
            raise LookupError(f"session {session.name!r} is queued for the first time, and its spec was not given")
        now |= {
            "name": session.name,
            "spec": to_json(self._specs[session.name]),
            "submitted_at": self._ts,
            "seq": self._seq,
        }
        columns = f"({', '.join(now)}) VALUES ({', '.join('?' * len(now))})"
        self._db.execute(f"INSERT INTO sessions {columns}", tuple(map(_bound, now.values())))

    def _mark(self, name: str, **fields: object) -> None:
        """Change fields of what the core would take up again, where no later note will tell of all of it."""
        patch = to_json(fields)
        sql = "UPDATE sessions SET core = json_patch(core, ?) WHERE name = ? AND state IN (?, ?)"
        self._db.execute(sql, (patch, name, *LIVE))

    def _change(self, name: str, **values: object) -> None:
        if not self._change_live(name, values):
            raise LookupError(f"a decision tells of session {name!r}, and no live session of that name is recorded")

    def _change_live(self, name: str, values: Mapping[str, object]) -> bool:
        assignments = ", ".join(f"{column} = ?" for column in values)
        sql = f"UPDATE sessions SET {assignments} WHERE name = ? AND state IN (?, ?)"  # noqa: S608 - no value in it
        return self._db.execute(sql, (*map(_bound, values.values()), name, *LIVE)).rowcount == 1


def _columns(session: Session) -> dict[str, Any]:
    return {
        "core": to_json(session),
        "place": session.order,
        "cursor": session.cursor,
        "total": session.total,
        "attempt": session.attempt,
        "begun": session.begun,
    }


def _bound(value: object) -> Any:
    return plain(value) if isinstance(value, str) else value


def get_meta(db: sqlite3.Connection, key: str, default: Any) -> Any:
    """One value of the store's own."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return default if row is None else msgspec.json.decode(row[0])


def set_meta(db: sqlite3.Connection, key: str, value: object) -> None:
    """Keep one value of the store's own."""
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, to_json(value)))
