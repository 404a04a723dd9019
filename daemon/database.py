"""The state directory: its lock, the database file, its soundness and its schema. Knows tables, not what they mean."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

DATABASE: Final = "batond.db"
LOCK: Final = "lock"
BUSY_MS: Final = 250  # someone may look into the file with sqlite3; the daemon's loop does not wait longer for them
CHECKPOINT_PAGES: Final = 4000  # 16 MB; in quiet moments the daemon checkpoints long before

MIGRATIONS: Final[Sequence[str]] = (  # each makes the next version of the schema; never change one that was released
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'active', 'done', 'failed', 'cancelled')),
        spec TEXT NOT NULL,         -- as submitted, JSON
        core TEXT NOT NULL,         -- as the core knows it, JSON; the columns below are newer
        place REAL NOT NULL,        -- among those of equal priority
        cursor INTEGER NOT NULL,    -- items whose output is durable
        total INTEGER,
        attempt INTEGER NOT NULL,
        begun INTEGER NOT NULL,     -- its output may hold rows of its own
        lane TEXT,
        kind TEXT,                  -- of the last failure
        reason TEXT NOT NULL,       -- why it is queued, or why it ended so
        item INTEGER,
        items INTEGER,              -- computed, once it is done
        submitted_at TEXT NOT NULL, -- RFC 3339, UTC
        started_at TEXT,            -- of the latest run
        ended_at TEXT,
        seq INTEGER NOT NULL        -- of the decision that queued it first
    );
    CREATE UNIQUE INDEX live_name ON sessions (name) WHERE state IN ('queued', 'active');
    CREATE INDEX session_name ON sessions (name, id);
    CREATE TABLE decisions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        ts TEXT NOT NULL,           -- RFC 3339, UTC
        at REAL NOT NULL,           -- the event's monotonic seconds
        event TEXT NOT NULL,        -- JSON
        notes TEXT NOT NULL,        -- JSON: the fields of each line of the log
        refused TEXT
    );
    CREATE INDEX decision_ts ON decisions (ts);
    CREATE TABLE mentions (
        name TEXT NOT NULL,         -- of a session
        seq INTEGER NOT NULL REFERENCES decisions (seq) ON DELETE CASCADE,
        PRIMARY KEY (name, seq)
    ) WITHOUT ROWID;
    CREATE INDEX mention_seq ON mentions (seq);
    CREATE TABLE workers (
        generation INTEGER PRIMARY KEY,
        session TEXT NOT NULL,
        pid INTEGER NOT NULL,
        started INTEGER NOT NULL,   -- clock ticks since boot, as the kernel tells it
        lane TEXT NOT NULL,
        promoted INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE profiles (key TEXT PRIMARY KEY, profile TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE log_tails (
        session INTEGER PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
        log_start INTEGER NOT NULL, -- bytes in its log when its latest worker was started
        attempt INTEGER,            -- the latest that failed; NULL: none has
        tail BLOB                   -- what that one's worker printed last
    );
    """,
    """
    CREATE TABLE samples (          -- of the devices' memory over time, in bytes
        id INTEGER PRIMARY KEY,
        ts TEXT NOT NULL,           -- RFC 3339, UTC
        lane TEXT NOT NULL,
        total_bytes INTEGER NOT NULL, -- 0: the device gave no readings from then on
        free_bytes INTEGER NOT NULL,
        active_bytes INTEGER NOT NULL,
        standby_bytes INTEGER NOT NULL,
        retiring_bytes INTEGER NOT NULL,
        foreign_bytes INTEGER NOT NULL,
        wanted_bytes INTEGER NOT NULL
    );
    CREATE INDEX sample_ts ON samples (ts);
    CREATE TABLE lives (            -- of daemons
        id INTEGER PRIMARY KEY,
        began_at TEXT NOT NULL,
        seen_at TEXT NOT NULL,      -- when it last wrote that it was there
        ended INTEGER NOT NULL DEFAULT 0 -- that was its last word
    );
    """,
    """
    CREATE TABLE runs (             -- of sessions' workers, from their first item on
        generation INTEGER PRIMARY KEY,
        session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        lane TEXT NOT NULL,
        model TEXT NOT NULL,        -- as what is learned of it is called
        begun_at TEXT NOT NULL,     -- RFC 3339, UTC
        cursor INTEGER NOT NULL,    -- items before it
        predicted_s REAL,           -- from its first item to its last, as predicted when it began; NULL: not known
        margin_s REAL,              -- nine in ten lie within it
        items INTEGER,              -- computed in it, once it is over
        seconds REAL,
        finished INTEGER NOT NULL DEFAULT 0 -- its session reached its end
    );
    CREATE INDEX run_model ON runs (model, generation);
    CREATE INDEX run_session ON runs (session);
    CREATE TABLE handovers (
        seq INTEGER PRIMARY KEY REFERENCES decisions (seq) ON DELETE CASCADE,
        lane TEXT NOT NULL,
        session TEXT NOT NULL,      -- the one that took over
        tier TEXT NOT NULL,
        gap_s REAL NOT NULL,
        line TEXT NOT NULL          -- JSON: all that was told of it
    );
    CREATE INDEX handover_lane ON handovers (lane, seq);
    CREATE INDEX handover_session ON handovers (session, seq);
    CREATE INDEX handover_gap ON handovers (gap_s);
    """,
    """
    CREATE INDEX session_ran ON sessions (started_at, ended_at);
    """,
)


class StoreError(Exception):
    """The state directory cannot be used. Says which, why, and what to do."""


class StoreLockedError(StoreError):
    """Another daemon uses the state directory; `pid` is its process, where it is known."""

    def __init__(self, message: str, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


@dataclass(frozen=True, slots=True)
class SetAside:
    """Where a damaged database lies now, and what was found."""

    path: Path
    reason: str


def lock(folder: Path) -> int:
    """Take the state directory for this process; the file descriptor returned holds it.

    The lock ends with the process, however it ends; what is in the file afterwards means nothing.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot use the state directory {folder}: {error.strerror} ({error.filename}); "
            f"give user {os.geteuid()} the right to write there, or set state_dir"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        held = os.pread(fd, 32, 0).strip()
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise StoreError(f"cannot lock the state directory {folder}: {error.strerror}; mend that") from error
        pid = int(held) if held.isdigit() else None
        who = "another batond" if pid is None else f"batond with pid {pid}"
        raise StoreLockedError(
            f"cannot use the state directory {folder}: {who} uses it; stop that one, or set another state_dir", pid
        ) from error
    return fd


def open_database(folder: Path, at: datetime) -> tuple[sqlite3.Connection, SetAside | None]:
    """The database, sound and of this version's schema. A damaged one is set aside, and a new one begun."""
    path = folder / DATABASE
    try:
        return _open(path), None
    except sqlite3.Error as error:
        if not _is_damage(error):
            raise _unusable(path, error) from error
        aside = _set_aside(path, str(error), at)
    try:
        return _open(path), aside
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: sqlite3.Error) -> StoreError:
    return StoreError(f"cannot use the database {path}: {error}; mend that, or set another state_dir")


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is wrong; a full disk, a missing right or a lock are not that."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _check(connection: sqlite3.Connection) -> None:
    found = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if found != "ok":
        error = sqlite3.DatabaseError(" ".join(found.split()))
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT  # what SQLite itself says where it cannot even look
        raise error


def _open(path: Path) -> sqlite3.Connection:
    # Our own BEGIN and COMMIT: sqlite3's implicit ones begin late, and would let a busy writer in between.
    connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
    try:
        _check(connection)  # before anything that writes: what is damaged is to be set aside as it was found
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts only before the first table is made
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        _migrate(connection, path)
    except BaseException:  # whatever it is goes on: only the connection must not be left open
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise StoreError(
            f"cannot use the database {path}: a newer batond wrote it (schema {version}, this one knows "
            f"{len(MIGRATIONS)}); install that version, or set another state_dir"
        )
    for number in range(version, len(MIGRATIONS)):
        # One script, one transaction: a daemon killed in between finds the version before.
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]}; PRAGMA user_version = {number + 1}; COMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _set_aside(path: Path, reason: str, at: datetime) -> SetAside:
    """Rename the database with its journal; whoever wants to rescue something from it needs both."""
    stem = f"{path.name}.damaged-{at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
    aside = path.with_name(stem)
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{stem}-{number}")
    try:
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    except OSError as error:
        raise StoreError(
            f"cannot set the damaged database {path} aside ({reason}): {error.strerror}; move it away yourself"
        ) from error
    return SetAside(aside, reason)


def boot_id() -> str:
    """Which start of this host we are in: monotonic times and process ids of another one mean nothing here."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
