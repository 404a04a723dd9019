"""One daemon's lives over one folder: each may be told the point at which it dies; the next goes on with its state.

Knows no story: what is submitted, and what is right in the end, is told elsewhere.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from daemon import wire
from daemon.ctl.client import Client, UnreachableError
from tests.e2e.batond import ROOT, TIMEOUT_S, Batond, Event

MARK: Final = "CRASHPOINTS_FOLDER"  # in the environment of all that a run starts
POLL_S: Final = 0.01
LEFT_S: Final = 30.0  # for processes to be gone that nobody needs any more

T = TypeVar("T", bound=msgspec.Struct)


class BrokenError(AssertionError):
    """Something that must hold of a run does not."""


@dataclass(frozen=True)
class Passed:
    """One point, and what it is an example of."""

    name: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Death:
    """The end of a life by a point: when, who had been told to go, and whom its record knew."""

    name: str
    at: float
    told: frozenset[int]
    workers: dict[int, str]  # those recorded as told to go, by generation


@dataclass(frozen=True)
class Session:
    """One row of the record."""

    name: str
    state: str
    cursor: int
    attempt: int


@dataclass(frozen=True)
class Record:
    """What the record holds: its sessions, and every note of every decision, in order."""

    sessions: tuple[Session, ...] = ()
    notes: tuple[tuple[int, Event], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Record:
        """Of a daemon that is dead or alive. Empty where none was made yet."""
        if not path.exists():
            return cls()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sessions'").fetchone():
                return cls()
            rows = db.execute("SELECT name, state, cursor, attempt FROM sessions ORDER BY id").fetchall()
            notes = db.execute("SELECT seq, notes FROM decisions ORDER BY seq").fetchall()
        return cls(
            tuple(Session(*row) for row in rows),
            tuple((seq, note) for seq, told in notes for note in json.loads(told)),
        )

    def told(self, name: str, session: str | None = None, since: int = 0) -> list[Event]:
        """The notes of that name, of one session or of all, after decision `since`."""
        return [
            note
            for seq, note in self.notes
            if seq > since and note["event"] == name and session in (None, note.get("session"))
        ]


class Lives(Batond):
    """A daemon that dies at `points`, one a life ("": none, points are only counted there); later ones are plain."""

    def __init__(
        self, folder: Path, points: Sequence[str], *options: str, settings: str = "", late: bool = False
    ) -> None:
        """late: the second life begins when all workers that the first one left have ended."""
        super().__init__(folder, *options, settings=settings)
        self.points = points
        self._late = late
        self.begun = 0
        self.deaths: list[Death] = []
        self._facts: set[tuple[str, str]] = set()  # (event, session) of the record of one that is dead

    # One life

    def start(self) -> Lives:
        """Start the next one; returns when it is up, or dead."""
        self._ended = False
        since = len(self.events)
        self.process = subprocess.Popen(
            [
                *(sys.executable, *self._program(), "--config", str(self.folder / "batond.toml")),
                *("--state-dir", str(self.folder / "state"), "--socket", str(self.socket)),
                *("--log-format", "json", *self._options),
            ],
            cwd=ROOT,
            env={**os.environ, MARK: str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr").open("ab"),
            text=True,
            start_new_session=True,
        )
        self.begun += 1
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ended or _up(self.events[since:]), TIMEOUT_S)
        return self

    def _program(self) -> Sequence[str]:
        if self.begun >= len(self.points):
            return ("-m", "daemon")
        (self.folder / "death").unlink(missing_ok=True)
        here = (str(self.folder / f"passed.{self.begun}"), str(self.folder / "death"), self.points[self.begun])
        return ("-m", "tests.crashpoints.daemon_that_dies", *here)

    def passed(self, life: int) -> list[Passed]:
        """The points that a life which counted them went by."""
        lines = (self.folder / f"passed.{life}").read_text().splitlines()
        return [Passed(each["name"], tuple(each["kinds"])) for each in map(json.loads, lines)]

    def record(self) -> Record:
        """What is recorded now."""
        return Record.read(self.folder / "state" / "batond.db")

    def revive(self) -> None:
        """See the daemon dead by its point, and start the next one."""
        self._bury()
        if self._late and self.begun == 1:
            self.open_gates()
            self.until_none_is_left()
        self.start()

    def _bury(self) -> None:
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        said = self.folder / "death"
        if status != -signal.SIGKILL or not said.exists():
            raise BrokenError(f"the daemon ended by itself, with status {status}: {self.said()}")
        death = json.loads(said.read_text())
        said.unlink()
        self.deaths.append(Death(death["name"], death["at"], frozenset(death["told"]), self._promoted()))
        self._facts |= {(note["event"], note.get("session", "")) for _, note in self.record().notes}

    def _promoted(self) -> dict[int, str]:
        path = self.folder / "state" / "batond.db"
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return dict(db.execute("SELECT generation, session FROM workers WHERE promoted AND session != ''"))
        return {}  # it died before there was a table

    def said(self) -> str:
        """Its standard error, the end of it."""
        return (self.folder / "stderr").read_text()[-2000:]

    # What is done to it

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for a fact, over as many lives as it takes."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            if self.process.poll() is not None:
                self.revive()
            if time.monotonic() > deadline:
                raise BrokenError(f"it never came that {what}")
            time.sleep(POLL_S)

    def happened(self, session: str, *names: str) -> bool:
        """Whether one of these was told of the session, in the log or in the record of one who could not log it."""
        return any(self.left_recorded(session, name) or self.told(name, session=session) for name in names)

    def left_recorded(self, session: str, name: str) -> bool:
        """Whether a daemon that is dead had recorded this of the session."""
        return (name, session) in self._facts

    def ask(self, method: str, params: wire.Params, result: type[T]) -> T | None:
        """The daemon's answer, or None where it died without one: the next one is up then. Raises wire.Refusal."""
        try:
            with Client(str(self.socket)) as client:
                return client.call(method, params, result)
        except UnreachableError:
            self.revive()
            return None

    def finish(self) -> None:
        """Have it end in peace; what dies of its point on the way there is started once more."""
        while True:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            if self.process.wait(TIMEOUT_S) == 0:
                self._reader.join(TIMEOUT_S)
                return
            self.revive()

    def left(self) -> list[int]:
        """The processes that the run started, and that are still there."""
        mark = f"{MARK}={self.folder}\0".encode()
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if mark in _environment(path)]

    def open_gates(self) -> None:
        """Let the workers go on that wait for a swap."""
        (self.folder / "swapped").touch()

    def until_none_is_left(self) -> None:
        """Wait until nothing of the run is there: workers have ended, or have seen that nobody needs them."""
        deadline = time.monotonic() + LEFT_S
        while left := self.left():
            if time.monotonic() > deadline:
                commands = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode() for pid in left]
                raise BrokenError(f"{LEFT_S:.0f} s after the daemon's end processes are left: {commands}")
            time.sleep(POLL_S)

    def told_so_far(self) -> str:
        """The log of all lives, and what went to their standard error."""
        return "\n".join(json.dumps(event)[:400] for event in self.events) + "\n" + self.said()

    def close(self) -> None:
        """Whatever came of it: nothing of the run stays."""
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _up(events: Sequence[Event]) -> bool:
    return any(event["event"] == "daemon.started" for event in events)


def _environment(path: Path) -> bytes:
    try:
        return b"" if b" Z " in (path / "stat").read_bytes() else (path / "environ").read_bytes()
    except OSError:  # it has ended, or is another user's
        return b""
