"""A real daemon below one folder, and what a test asks of it: start, stop, kill, commands, the events of its log."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.logs.conforming import assert_conforming

TIMEOUT_S = 90.0  # for a fact to come true on a busy machine; nothing is concluded from how long it took
ROOT = Path(__file__).resolve().parents[2]
STAND_IN = ROOT / "tests" / "fake_worker.py"

# Settings of a daemon that waits less long than usual.
HASTE = """
[limits]
exit_timeout_s = 2.0
grace_s = 1.0
backoff_s = 0.1
"""

Event = dict[str, Any]


class Batond:
    """`python -m daemon` with its own state, socket, cache and logs. Its log lines are collected as they come."""

    module = "daemon"  # what is run

    def __init__(self, folder: Path, *options: str, settings: str = "") -> None:
        self.folder = folder
        self.socket = folder / "s.sock"
        self._options = options
        (folder / "batond.toml").write_text(
            f'cache_dir = "{folder / "cache"}"\nlog_dir = "{folder / "logs"}"\n' + settings
        )
        self.events: list[Event] = []
        self.errors = ""
        self._changed = threading.Condition()
        self._ended = False
        self._held = 0  # events that were held against the schema

    def start(self) -> Batond:
        """Start it, and wait until its socket answers."""
        self._ended = False
        self.errors = ""
        begun = len(self.events)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", self.module, "--config", str(self.folder / "batond.toml")),
                *("--state-dir", str(self.folder / "state"), "--socket", str(self.socket)),
                *("--log-format", "json", *self._options),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr").open("ab"),
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        self.wait(lambda event: event["event"] == "daemon.started", since=begun)
        return self

    def __enter__(self) -> Batond:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(TIMEOUT_S)
        if value is not None:
            value.add_note("the daemon's log:\n" + "\n".join(json.dumps(event)[:400] for event in self.events[-60:]))
            value.add_note("its standard error: " + (self.folder / "stderr").read_text()[-2000:])
        else:
            self._conform()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break  # it was killed within the line
            with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, holds: Callable[[Event], bool], since: int = 0, times: int = 1) -> Event:
        """The `times`-th event, from the log's line `since` on, of which this holds; waits for it."""

        def found() -> list[Event]:
            return [event for event in self.events[since:] if holds(event)]

        with self._changed:
            came = self._changed.wait_for(lambda: len(found()) >= times or self._ended, TIMEOUT_S)
            if not came or len(found()) < times:
                raise AssertionError(f"no such event; the daemon {'has ended' if self._ended else 'goes on'}")
            return found()[times - 1]

    def event(self, name: str, times: int = 1, **fields: Any) -> Event:
        """Wait for the `times`-th event of that name with these fields."""
        return self.wait(
            lambda event: event["event"] == name and all(event.get(key) == value for key, value in fields.items()),
            times=times,
        )

    def told(self, name: str, **fields: Any) -> list[Event]:
        """The events so far of that name with these fields."""
        return [
            event
            for event in list(self.events)
            if event["event"] == name and all(event.get(key) == value for key, value in fields.items())
        ]

    def ended(self, *names: str) -> None:
        """Wait until each of these sessions has ended, in whatever way."""
        for name in names:
            self.wait(partial(_ends, name))

    def ctl(self, *arguments: str, status: int = 0) -> Any:
        """What `batonctl … --json` answers; its exit status must be the one given. Errors come back as text."""
        done = subprocess.run(
            [sys.executable, "-m", "daemon.cli", "--socket", str(self.socket), *arguments, "--json"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == status, f"batonctl {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr if status else json.loads(done.stdout)

    def submit(self, text: str, status: int = 0) -> Any:
        """Submit the text of a session file that lies in the daemon's folder."""
        path = self.folder / "sessions.toml"
        path.write_text(text)
        return self.ctl("submit", str(path), status=status)

    def stop(self) -> int:
        """SIGTERM; its exit status, when it is gone."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        self._conform()
        return status

    def kill(self) -> None:
        """SIGKILL to the daemon alone."""
        self.process.kill()
        self.process.wait()
        self._reader.join(TIMEOUT_S)

    def _conform(self) -> None:
        """Hold what it logged against the published schema: every line of every daemon that a test starts."""
        held, self._held = self._held, len(self.events)
        assert_conforming(self.events[held:])

    def rows(self, name: str) -> list[int]:
        """The items that the stand-in session left, in the order of its file."""
        path = self.folder / f"{name}.rows"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def recorded(self, session: str) -> list[int]:
        """The processes of a session's workers, as the daemon's own record has them."""
        with closing(sqlite3.connect(f"file:{self.folder}/state/batond.db?mode=ro", uri=True)) as record:
            return [pid for (pid,) in record.execute("SELECT pid FROM workers WHERE session = ?", (session,))]

    def workers(self) -> list[int]:
        """The processes of stand-in sessions, their shims included."""
        return [
            pid
            for pid in (_leader(path) for path in Path("/proc").glob("[0-9]*"))
            if pid is not None and self._owns(pid)
        ]

    def _owns(self, pid: int) -> bool:
        try:
            return f"{self.folder}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != self.process.pid
        except OSError:
            return False


def _ends(name: str, event: Event) -> bool:
    ends = ("session.finished", "session.failed", "session.cancelled")
    return event["session"] == name and event["event"] in ends


def _leader(path: Path) -> int | None:
    try:
        return None if b" Z " in (path / "stat").read_bytes() else int(path.name)
    except OSError:
        return None


def stand_in(name: str, folder: Path, *flags: str, items: int = 20, **keys: Any) -> str:
    """A `[[session]]` table that runs the stand-in worker, with its rows in `<folder>/<name>.rows`."""
    command = [sys.executable, str(STAND_IN), "--items", str(items), "--out", str(folder / f"{name}.rows"), *flags]
    table = {"name": name, "run": command, "prepare": True} | keys
    return "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        return b" Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def wait_gone(pid: int) -> None:
    """Wait until a process that is not our child is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], TIMEOUT_S)[0], f"process {pid} is still there"
    finally:
        os.close(pidfd)
