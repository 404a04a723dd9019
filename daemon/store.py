"""What is kept: sessions, decisions in order, learned profiles, workers; in SQLite. Decides nothing, logs nothing.

One transaction a decision: what it tells of (its notes) is applied to the tables with it, so that the queue that is
read back is always the queue some decision left. Times are UTC; what is monotonic is forgotten with the host's boot.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from daemon.database import DATABASE, SetAside, StoreError, StoreLockedError, boot_id, lock, open_database
from daemon.logtails import LogTails
from daemon.past import Past
from daemon.plaintext import plain
from daemon.predictions import Predictions
from daemon.recording import LIVE, Recording, get_meta, set_meta
from daemon.records import (
    SESSION_COLUMNS,
    DecisionRecord,
    HistoryEntry,
    Loaded,
    Pruned,
    SessionRecord,
    SessionState,
    WorkerRecord,
    event_json,
    from_text,
    session_record,
    to_json,
    to_text,
)
from daemon.samples import Samples
from daemon.sessionfile import SessionSpec
from daemon.stories import fields
from states.decision import Decision
from states.effects import Promote
from states.notes import SessionQueued
from states.snapshot import Lane, find
from states.work import Profile, Session

__all__ = [
    "DecisionRecord",
    "HistoryEntry",
    "Loaded",
    "Pruned",
    "RecordError",
    "SessionRecord",
    "SessionState",
    "SetAside",
    "Store",
    "StoreError",
    "StoreLockedError",
    "WorkerRecord",
]

PRUNE_ROWS: Final = 2000  # at one call: some milliseconds


class RecordError(Exception):
    """Something could not be written (or read): the disk is full, or fails. What was asked for has not happened."""


class Store:
    """The database of one daemon. For one thread; every method is one transaction and raises `RecordError`."""

    def __init__(self, folder: Path, lock_fd: int, connection: sqlite3.Connection, set_aside: SetAside | None) -> None:
        self.folder = folder
        self.set_aside = set_aside  # the damaged database that was found at the start; to be said loudly
        self._lock_fd = lock_fd
        self._db = connection
        self.log_tails = LogTails(self._rows, self._transaction)
        self.samples = Samples(self._rows, self._transaction)
        self.past = Past(self._rows)
        self.predictions = Predictions(self._rows, self._transaction)
        self._generation = -1
        self._inode = (folder / DATABASE).stat().st_ino

    @classmethod
    def open(cls, folder: Path) -> Store:
        """Take the state directory. Raises `StoreLockedError` where another daemon has it, else `StoreError`."""
        lock_fd = lock(folder)
        try:
            connection, set_aside = open_database(folder, datetime.now(UTC))
            store = cls(folder, lock_fd, connection, set_aside)
            store._begin_life()
        except RecordError as error:
            os.close(lock_fd)
            raise StoreError(f"cannot use the state directory {folder}: {error}; mend that") from error
        except BaseException:  # whatever it is goes on: only the lock must not be left held
            os.close(lock_fd)
            raise
        return store

    def close(self) -> None:
        """Give the state directory free. Once is enough, twice does no harm."""
        self._db.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def record(self, decision: Decision, at: datetime, specs: Mapping[str, SessionSpec] | None = None) -> int:
        """Keep one decision and all that it tells of; returns its number.

        `specs`: what was submitted, by name, for every session that the decision queues for the first time.
        """
        self._check_there()
        ts = to_text(at)
        notes = [fields(note) for note in decision.notes]
        names = {note[key] for note in notes for key in ("session", "from_session") if note.get(key) is not None}
        changed = _changed(decision)
        with self._transaction("record a decision"):
            seq = self._db.execute(
                "INSERT INTO decisions (ts, at, event, notes, refused) VALUES (?, ?, ?, ?, ?)",
                (ts, decision.event.at, event_json(decision.event), to_json(notes), plain(decision.refused)),
            ).lastrowid
            assert seq is not None
            self._db.executemany("INSERT INTO mentions (name, seq) VALUES (?, ?)", [(name, seq) for name in names])
            recording = Recording(self._db, seq, ts, specs or {})
            for note in decision.notes:
                recording.apply(note)
            for session in changed:
                recording.keep(session)
            for effect in decision.effects:
                if isinstance(effect, Promote) and (found := find(decision.after, effect.generation)):
                    recording.begun(found[1].session.name, effect.generation)
            if decision.after.generation != self._generation:
                set_meta(self._db, "generation", decision.after.generation)
        self._generation = decision.after.generation
        return seq

    def _check_there(self) -> None:
        """A database that was deleted would take every record, and keep none."""
        try:
            there = (self.folder / DATABASE).stat().st_ino == self._inode
        except OSError:
            there = False
        if not there:
            raise RecordError(f"{self.folder / DATABASE} was removed or replaced under the daemon; restart it")

    def keep_gpus(self, lanes: Iterable[Lane]) -> None:
        """Have the next daemon know which GPUs this one had. Raises RecordError."""
        known = [
            {
                "name": lane.name,
                "index": lane.index,
                "uuid": lane.uuid,
                "model": lane.model,
                "shares_memory": lane.shares_memory,
            }
            for lane in lanes
            if lane.device == "gpu"
        ]
        with self._transaction("keep the list of GPUs"):
            set_meta(self._db, "gpus", known)

    def load(self) -> Loaded:
        """What an earlier life left. Sessions that a worker had come back as queued, at their recorded cursor."""
        queue: list[Session] = []
        specs: dict[str, SessionSpec] = {}
        unreadable: list[tuple[str, str]] = []
        with self._transaction("read the queue"):
            sql = f"SELECT {SESSION_COLUMNS} FROM sessions WHERE state IN (?, ?)"  # noqa: S608 - no value in it
            for row in self._db.execute(sql, LIVE).fetchall():
                try:
                    record = session_record(row)
                except msgspec.DecodeError as error:
                    unreadable.append((row[1], f"its record cannot be read: {error}; submit it again"))
                    self._give_up(row[0], unreadable[-1][1])
                    continue
                queue.append(record.core)
                specs[record.name] = record.spec
            profiles = self._profiles()
            seq = self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM decisions").fetchone()[0]
        return Loaded(
            queue=tuple(sorted(queue, key=lambda session: session.rank)),
            specs=specs,
            profiles=profiles,
            held=frozenset(get_meta(self._db, "held", [])),
            gpus=tuple(Lane(device="gpu", **known) for known in get_meta(self._db, "gpus", [])),
            generation=int(get_meta(self._db, "generation", 0)),
            seq=seq,
            unreadable=tuple(unreadable),
        )

    def session(self, name: str) -> SessionRecord | None:
        """The latest session of that name, live or ended."""
        sql = f"SELECT {SESSION_COLUMNS} FROM sessions WHERE name = ? ORDER BY id DESC LIMIT 1"  # noqa: S608 - no value in it
        rows = self._rows(sql, (name,))
        return session_record(rows[0]) if rows else None

    def sessions(
        self,
        states: Collection[SessionState] = (),
        limit: int = 100,
        after_id: int = 0,
        *,
        before_id: int | None = None,
    ) -> tuple[SessionRecord, ...]:
        """Sessions in these states (none given: in any), oldest first; with `before_id`, the newest before it first."""
        clauses, values = ["id > ?"], [after_id]
        if states:
            clauses.append(f"state IN ({', '.join('?' * len(states))})")
        if before_id is not None:
            clauses.append("id < ?")
        where = " AND ".join(clauses)
        order = "ASC" if before_id is None else "DESC"
        rows = self._rows(
            f"SELECT {SESSION_COLUMNS} FROM sessions WHERE {where} ORDER BY id {order} LIMIT ?",  # noqa: S608 - no value in it
            (*values, *states, *(() if before_id is None else (before_id,)), limit),
        )
        return tuple(session_record(row) for row in rows)

    def submitted(self) -> dict[str, datetime]:
        """When each session was submitted that has not ended, by name."""
        sql = "SELECT name, submitted_at FROM sessions WHERE state IN (?, ?)"
        return {name: from_text(text) for name, text in self._rows(sql, LIVE)}

    def history(self, name: str, limit: int = 1000) -> tuple[HistoryEntry, ...]:
        """What was told of the latest session of that name, oldest first; of more than `limit` decisions the newest."""
        rows = self._rows(
            "SELECT d.seq, d.ts, d.notes FROM mentions m JOIN decisions d ON d.seq = m.seq WHERE m.name = ? "
            "AND m.seq >= (SELECT seq FROM sessions WHERE name = m.name ORDER BY id DESC LIMIT 1) "
            "ORDER BY d.seq DESC LIMIT ?",
            (name, limit),
        )
        return tuple(
            HistoryEntry(seq=seq, ts=from_text(ts), note=note)
            for seq, ts, notes in reversed(rows)
            for note in msgspec.json.decode(notes)
            if name in (note.get("session"), note.get("from_session"))
        )

    def decisions(self, since_seq: int = 0, limit: int = 1000) -> tuple[DecisionRecord, ...]:
        """The decisions after number `since_seq`, in their order."""
        rows = self._rows(
            "SELECT seq, ts, at, event, notes, refused FROM decisions WHERE seq > ? ORDER BY seq LIMIT ?",
            (since_seq, limit),
        )
        return tuple(
            DecisionRecord(
                seq=seq,
                ts=from_text(ts),
                at=at,
                event=msgspec.Raw(event),
                notes=tuple(msgspec.json.decode(notes)),
                refused=refused,
            )
            for seq, ts, at, event, notes, refused in rows
        )

    def worker_started(self, generation: int, session: str, lane: str, pid: int, started: int) -> None:
        """Keep that a worker's process is there, before it is told anything."""
        with self._transaction("record a worker"):
            self._db.execute(
                "INSERT OR REPLACE INTO workers (generation, session, pid, started, lane) VALUES (?, ?, ?, ?, ?)",
                (generation, session, pid, started, lane),
            )

    def worker_gone(self, generation: int) -> None:
        """Forget a worker whose process was seen to end."""
        with self._transaction("forget a worker"):
            self._db.execute("DELETE FROM workers WHERE generation = ?", (generation,))

    def workers(self) -> tuple[WorkerRecord, ...]:
        """Every worker that was started, on this boot of the host, and not seen to end."""
        sql = "SELECT generation, session, pid, started, lane, promoted FROM workers ORDER BY generation"
        rows = self._rows(sql, ())
        return tuple(
            WorkerRecord(
                generation=generation, session=session, pid=pid, started=started, lane=lane, promoted=bool(promoted)
            )
            for generation, session, pid, started, lane, promoted in rows
        )

    def prune(self, days: float, size_bytes: int, at: datetime) -> Pruned:
        """Take out what is older than `days`, then the oldest of what is more than `size_bytes`, a bit at a time."""
        cutoff = to_text(at - timedelta(days=days))
        with self._transaction("prune the history"):
            gone = self._delete("decisions", "seq", "ts < ?", (cutoff,), PRUNE_ROWS)
            ended = self._delete_ended("ended_at < ?", (cutoff,), PRUNE_ROWS)
            samples = self.samples.prune(cutoff, PRUNE_ROWS)
            while (size := self._size()) > size_bytes and gone + len(ended) + samples < PRUNE_ROWS:
                some = self._delete("decisions", "seq", "1", (), PRUNE_ROWS // 8)
                gone += some
                without = self.samples.prune(self._first_decision(), PRUNE_ROWS // 8)
                samples += without
                if not some and not without:
                    names = self._delete_ended("ended_at IS NOT NULL", (), PRUNE_ROWS // 8)
                    ended += names
                    if not names:
                        break
            known = "SELECT 1 FROM sessions WHERE name = ?"
            forgotten = [name for name in sorted(set(ended)) if self._db.execute(known, (name,)).fetchone() is None]
        self._give_back()
        return Pruned(
            decisions=gone,
            sessions=len(ended),
            samples=samples,
            forgotten=tuple(forgotten),
            size_bytes=size,
            more=gone + len(ended) + samples >= PRUNE_ROWS,
        )

    def _give_back(self) -> None:
        """Give the file system back what was freed. A script, for a statement without columns is stepped only once."""
        try:
            self._db.executescript("PRAGMA incremental_vacuum")
        except sqlite3.DatabaseError as error:
            raise self._failed("prune the history", error) from error

    def checkpoint(self) -> None:
        """Write the journal into the database file, as far as no one reads it. For moments when no handover is near."""
        self._rows("PRAGMA wal_checkpoint(PASSIVE)", ())

    def _begin_life(self) -> None:
        """Forget what only an earlier boot of the host gave a meaning: monotonic times, process ids."""
        with self._transaction("begin"):
            self._generation = get_meta(self._db, "generation", 0)
            if get_meta(self._db, "boot", None) == boot_id():
                return
            self._db.execute("DELETE FROM workers")
            self._db.execute(
                "UPDATE sessions SET core = json_set(core, '$.not_before', 0.0, '$.queued_at', 0.0) "
                "WHERE state IN (?, ?) AND json_valid(core)",
                LIVE,
            )
            set_meta(self._db, "boot", boot_id())

    def _give_up(self, number: int, reason: str) -> None:
        """Fail a session whose record makes no sense: its name gets free, and what is there can be looked at."""
        self._db.execute(
            "UPDATE sessions SET state = 'failed', kind = 'internal', reason = ?, ended_at = ? WHERE id = ?",
            (reason, to_text(datetime.now(UTC)), number),
        )

    def _profiles(self) -> dict[str, Profile]:
        """What was learned; a profile that makes no sense is learned again."""
        found: dict[str, Profile] = {}
        for key, profile in self._db.execute("SELECT key, profile FROM profiles"):
            with contextlib.suppress(msgspec.DecodeError):
                found[key] = msgspec.json.decode(profile, type=Profile)
        return found

    def _delete(self, table: str, key: str, where: str, values: tuple[object, ...], limit: int) -> int:
        sql = f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {where} ORDER BY {key} LIMIT ?)"  # noqa: S608 - no value in it
        return self._db.execute(sql, (*values, limit)).rowcount

    def _first_decision(self) -> str | None:
        found = self._db.execute("SELECT ts FROM decisions ORDER BY seq LIMIT 1").fetchone()
        return None if found is None else str(found[0])

    def _delete_ended(self, where: str, values: tuple[object, ...], limit: int) -> list[str]:
        """Delete the first sessions of which it holds; their names."""
        chosen = f"SELECT id FROM sessions WHERE {where} ORDER BY id LIMIT ?"  # noqa: S608 - no value in it
        rows = self._db.execute(f"DELETE FROM sessions WHERE id IN ({chosen}) RETURNING name", (*values, limit))  # noqa: S608
        return [name for (name,) in rows.fetchall()]

    def _size(self) -> int:
        """The bytes that rows and indexes take; what was freed and not given back yet does not count."""
        pages, free, page = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page)

    def _rows(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._failed("read", error) from error

    @contextlib.contextmanager
    def _transaction(self, what: str) -> Iterator[None]:
        """All of it or nothing. A full or failing disk is a RecordError; what is wrong with us is raised as it is."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.OperationalError):  # SQLite has rolled back by itself
                    self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.DatabaseError):
                raise self._failed(what, error) from error
            raise

    def _failed(self, what: str, error: sqlite3.DatabaseError) -> Exception:
        if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.NotSupportedError):
            return error  # a bug of ours
        return RecordError(
            f"cannot {what} in {self.folder / DATABASE}: {error}; see to the disk, or to who holds the file"
        )


def _changed(decision: Decision) -> list[Session]:
    """The sessions of the queue that are not as they were before, and that no SessionQueued note holds as they are.

    By identity: a queue of thousands is gone through at each change of it, and what is kept is kept as it is.
    """
    before, after = decision.before.queue, decision.after.queue
    if before is after:
        return []
    known = {id(session) for session in before}
    known |= {id(note.session) for note in decision.notes if isinstance(note, SessionQueued)}
    return [session for session in after if id(session) not in known]
