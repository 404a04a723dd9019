"""What one session's program has come to, by its own words or by what is said for it. No socket, no process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import baton

Failure: TypeAlias = tuple[str, str, int | None]  # `failed`'s kind, reason and item
PHASES: Final = (("started", "computing"), ("quiesced", "draining"), ("committed", "committed"))


@dataclass
class Account:
    """Counts, times and words. `said`: by the program; `passed`: to the daemon, the program's words or the shim's."""

    cursor: int = 0
    done: int = 0
    total: int | None = None
    errors: int = 0
    paused: str | None = None
    began_at: float | None = None
    ended_at: float | None = None
    remaining: int | None = None
    failure: Failure | None = None
    said: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)

    @property
    def counts(self) -> bool:
        """Whether the program says how far it is; one that does not is one item of work."""
        return bool(self.said & {"progress", "last_batch", "quiesced"})

    def hear(self, message: dict[str, Any]) -> None:
        """Note one message of the program: only what is of the right type, the rest is the daemon's to judge."""
        kind = str(message.get("type"))
        self.said.add(kind)
        if kind in ("progress", "quiesced", "committed"):
            self.done = _number(message.get("done"), self.done)
            self.cursor = _number(message.get("cursor"), self.cursor)
            self.errors = _number(message.get("errors"), self.errors)
        if kind in ("ready", "progress"):
            total = message.get("total")
            self.total = total if type(total) is int and total >= 0 else self.total
        if kind in ("paused", "resumed"):
            reason = message.get("reason")
            self.paused = reason if isinstance(reason, str) else None
        if kind == "started":
            self.began_at = _time(message.get("at"))
        if kind == "quiesced":
            self.ended_at = _time(message.get("at"))
            remaining = message.get("remaining")
            self.remaining = remaining if type(remaining) is int and remaining >= 0 else None
        if kind == "failed":
            item = message.get("item")
            self.failure = (
                str(message.get("kind")),
                str(message.get("reason")),
                item if isinstance(item, int) else None,
            )

    def settle(self, *, done: bool) -> None:
        """Count for a program that never did: all the items it told of, else one, are done, or to be done again."""
        if self.total is None:
            self.total, self.cursor = 1, 0
        self.done = self.cursor = self.total if done else self.cursor

    def close(self, *, cut_short: bool) -> None:
        """It ended as it should, and did not say itself that nothing is in flight.

        cut_short: it was to end before its own end, so that what remains is known only where the total is.
        """
        self.ended_at = time.monotonic()
        if self.total is not None:
            self.remaining = max(self.total - self.done, 0)
        else:
            self.remaining = None if cut_short else 0

    def hello(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """The protocol's `hello`: all that a daemon may have missed."""
        phase = "loading"
        for word, then in PHASES:
            phase = then if word in self.passed else phase
        return {
            "protocol": baton.PROTOCOL,
            "session": assignment["session"],
            "generation": assignment["generation"],
            "pid": os.getpid(),
            "phase": phase,
            "tier": None if phase == "loading" else "warm",
            "cursor": self.cursor,
            "done": self.done,
            "total": self.total,
            "errors": self.errors,
            "began_at": self.began_at,
            "ended_at": self.ended_at,
            "remaining": self.remaining,
            "paused": self.paused,
            "tensorflow": False,
        }

    def keep(
        self, path: Path, assignment: dict[str, Any], status: int, *, asked_to_end: bool, committed: bool
    ) -> str | None:
        """Leave the exit record: whole or not at all, for a daemon that was not there. None, or why it cannot be kept.

        status: of the program, a code or −N for signal N. asked_to_end: by SIGTERM. committed: whether its output is
        durable up to the cursor. Its times are of the wall clock: it may be read after the host was started again.
        daemon/adoption.py reads it.
        """
        record = {
            "session": assignment["session"],
            "generation": assignment["generation"],
            "pid": os.getpid(),
            "status": status,
            "asked_to_end": asked_to_end,
            "committed": committed,
            "failure": self.failure,
            "done": self.done,
            "cursor": self.cursor,
            "total": self.total,
            "remaining": self.remaining,
            "errors": self.errors,
            "began": _since_epoch(self.began_at),
            "ended": _since_epoch(self.ended_at),
        }
        partial = path.with_name(path.name + ".partial")
        try:
            try:
                with partial.open("w") as file:
                    file.write(json.dumps(record) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            except OSError:
                partial.unlink(missing_ok=True)  # nobody would look for it, and it holds the room that is missing
                raise
        except OSError as error:
            return f"cannot keep the exit record {path}: {error.strerror}"
        return None


def _since_epoch(at: float | None) -> float | None:
    """A time of the monotonic clock in seconds since 1970."""
    return None if at is None else time.time() - (time.monotonic() - at)


def _number(value: object, before: int) -> int:
    return value if type(value) is int and value >= 0 else before


def _time(value: object) -> float | None:
    return value if isinstance(value, int | float) and value >= 0 else None
