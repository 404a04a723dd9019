"""What the workers of failed attempts printed last, kept in the record with their sessions. Reads no log file itself.

The log file is trimmed, is appended to by later attempts and later sessions of the name, and may be removed: what is
kept here stays as long as its session does.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec


class Rows(Protocol):
    """Runs one statement of SQL, and gives its rows. Raises the store's error."""

    def __call__(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]: ...


class LogTail(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker of a session's latest failed attempt printed last. `attempt` counts from 1."""

    attempt: int
    tail: bytes

    @property
    def text(self) -> str:
        """The same as text: bytes that are no UTF-8 stand there as `\\xff`."""
        return self.tail.decode("utf-8", "backslashreplace")


class LogTails:
    """One row a session: where in its log its latest worker began to print, and the tail of its latest failure."""

    def __init__(self, rows: Rows, transaction: Callable[[str], AbstractContextManager[None]]) -> None:
        """rows, transaction: the store's own."""
        self._rows = rows
        self._transaction = transaction

    def begin(self, session: str, log_start: int) -> None:
        """Keep that a worker is about to be started for the session; its log has `log_start` bytes already."""
        with self._transaction("record where a log begins"):
            self._rows(
                "INSERT INTO log_tails (session, log_start) SELECT MAX(id), ? FROM sessions WHERE name = ? "
                "HAVING MAX(id) IS NOT NULL ON CONFLICT (session) DO UPDATE SET log_start = excluded.log_start",
                (log_start, session),
            )

    def keep(self, session: str, attempt: int, read: Callable[[int], bytes]) -> None:
        """Keep what the session's latest worker printed last; `read` gives it, told where in the log it began."""
        with self._transaction("record what a worker printed"):
            found = self._rows(
                "SELECT s.id, COALESCE(t.log_start, 0) FROM sessions s LEFT JOIN log_tails t ON t.session = s.id "
                "WHERE s.name = ? ORDER BY s.id DESC LIMIT 1",
                (session,),
            )
            for number, log_start in found:
                self._rows(
                    "INSERT OR REPLACE INTO log_tails (session, log_start, attempt, tail) VALUES (?, ?, ?, ?)",
                    (number, log_start, attempt, read(log_start)),
                )

    def of(self, number: int) -> LogTail | None:
        """The tail of the session of that number in the record; None where no attempt of it has failed."""
        sql = "SELECT attempt, tail FROM log_tails WHERE session = ? AND attempt IS NOT NULL"
        rows = self._rows(sql, (number,))
        return LogTail(attempt=rows[0][0], tail=rows[0][1]) if rows else None
