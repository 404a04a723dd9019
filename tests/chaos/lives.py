"""The daemon, life after life: started, killed, started again as a service manager would; and its log, as it comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from tests.chaos.place import MARK, Place

ROOT: Final = Path(__file__).resolve().parents[2]
RESTART_S: Final = 1.0  # after an end that nobody wished for
STOP_S: Final = 120.0
SECOND_S: Final = 10.0  # for a second daemon to find that there is a first one
SETTINGS: Final = """\
cache_dir = "{run}/state/cache"
log_dir = "{run}/state/log"

[limits]
backoff_s = 0.1
backoff_cap_s = 1.0
exit_timeout_s = 5.0
grace_s = 1.0

[history]
size_bytes = "64MiB"

[log]
format = "json"
"""

Event = dict[str, Any]


class Lives:
    """One daemon at a time, in a process session of its own; its workers outlive its SIGKILL."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at: float | None = None
        self._read = 0  # of the life's log
        self._ours = False  # this end was wished for
        self._stop_by: float | None = None  # it was told to end, and has so long
        self._others: list[tuple[Path, subprocess.Popen[bytes], float]] = []
        self.count = 0
        self.seconds = 0
        self.ended_by_itself: list[str] = []
        self.refused_to_start: list[str] = []
        (place.run / "batond.toml").write_text(SETTINGS.format(run=place.run))

    @property
    def pid(self) -> int | None:
        """The living daemon's process."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.count - 1)

    def start(self) -> None:
        """Start it; it may end at once, as on a full disk."""
        self.count += 1
        self._read, self._ours, self._again_at, self._stop_by, self._told_started = 0, False, None, None, False
        with self._log.open("wb") as out, self._errors.open("wb") as err:
            self._process = self._started(out, err)

    def _started(self, out: IO[bytes] | int, err: IO[bytes]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "daemon", "--config", str(self._place.run / "batond.toml")]
        command += ["--state-dir", str(self._place.state), "--socket", str(self._place.control)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, MARK: str(self._place.run), "CUDA_VISIBLE_DEVICES": "-1"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )

    def kill(self, again_in_s: float) -> bool:
        """SIGKILL to the daemon alone; False where there is none. It is started again after that time."""
        if self._process is None or self.pid is None:
            return False
        self._ours = True
        self._process.kill()
        self._process.wait()
        self._again_at = time.monotonic() + again_in_s
        return True

    def restart(self, *, by_force: bool) -> bool:
        """SIGTERM, by force a second one; False where there is none. It is started again when it has ended."""
        if self._process is None or self.pid is None:
            return False
        self._ours = True
        self._stop_by = self._stop_by or time.monotonic() + STOP_S
        for _ in range(2 if by_force else 1):
            self._process.send_signal(signal.SIGTERM)
        return True

    def start_second(self) -> bool:
        """Start another one beside it, which must say in one line why it cannot be; False where there is none."""
        if self.pid is None:
            return False
        self.seconds += 1
        errors = self._place.logs / f"second-{self.seconds:03d}.err"
        with errors.open("wb") as err:
            self._others.append((errors, self._started(subprocess.DEVNULL, err), time.monotonic() + SECOND_S))
        return True

    def keep_alive(self) -> None:
        """Start it again where it is due; note the end that nobody wished for, or that does not come."""
        self._watch_others()
        if self._stop_by is not None and time.monotonic() > self._stop_by and self.kill(RESTART_S):
            self.ended_by_itself.append(f"life {self.count}: did not end within {STOP_S:.0f} s of SIGTERM, was killed")
        if self._process is not None and self._process.poll() is not None and self._again_at is None:
            self._again_at = time.monotonic() + RESTART_S
            if not self._ours or self._process.returncode not in (0, 1, -signal.SIGTERM):
                self._note_end(self._process.returncode)
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self.start()

    def news(self) -> list[Event]:
        """The whole lines that its log has since the last call. Before a new life: what the last one left."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            lines, _, _ = log.read().rpartition(b"\n")
        self._read += len(lines) + 1 if lines else 0
        events = [json.loads(line) for line in lines.splitlines()]
        self._told_started = self._told_started or any(event["event"] == "daemon.started" for event in events)
        return events

    def stop(self) -> int | None:
        """SIGTERM, and wait; its exit status, None where it had to be killed."""
        self._ours = True
        for _, other, _ in self._others:
            other.kill()
            other.wait()
        self._others.clear()
        if self._process is None:
            return None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # where the run was interrupted, it may be stopped
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    def _watch_others(self) -> None:
        for errors, process, until in tuple(self._others):
            if process.poll() is None and time.monotonic() < until:
                continue
            self._others.remove((errors, process, until))
            if process.poll() is None:  # the first one was killed meanwhile: this one took its place, rightly
                process.kill()
                process.wait()
                continue
            said = errors.read_text(errors="replace")
            if process.returncode != 1 or len(said.splitlines()) != 1:
                self.ended_by_itself.append(f"a second one: status {process.returncode}: {said.strip()[-500:]}")

    def _note_end(self, status: int) -> None:
        self.news()
        said = self._errors.read_text(errors="replace").strip().splitlines()
        story = f"life {self.count}: status {status}: {said[-1] if said else 'nothing said'}"
        (self.ended_by_itself if self._told_started else self.refused_to_start).append(story)

    @property
    def _log(self) -> Path:
        return self._place.logs / f"life-{self.count:03d}.jsonl"

    @property
    def _errors(self) -> Path:
        return self._place.logs / f"life-{self.count:03d}.err"


def logged(logs: Path) -> Iterator[Event]:
    """Every event of every life, in order. The last line of a life that was killed may be half."""
    for path in sorted(logs.glob("life-*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                yield json.loads(line)


def said(logs: Path) -> str:
    """All that the lives wrote to their standard error."""
    return "".join(path.read_text(errors="replace") for path in sorted(logs.glob("life-*.err")))
