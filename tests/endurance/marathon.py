"""A real daemon in a process of its own, sessions without end, and samples of it at work and at rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from daemon.database import DATABASE
from tests.e2e.batond import TIMEOUT_S, Batond
from tests.endurance.figures import Account, Sample
from tests.shell.control_stage import Line

WORKER = Path(__file__).with_name("worker.py")
BATCH = (
    20  # sessions in one submission; the next follows when half of it is left: within a leg the queue is never empty
)
ENDS = ("session.finished", "session.failed", "session.cancelled")
SETTLED_LOOKS = 3


class Counted(Batond):
    """A daemon of which only counts are kept: its log would be the largest thing here."""

    def __init__(self, folder: Path, *options: str, settings: str = "") -> None:
        super().__init__(folder, *options, settings=settings)
        self.counts: Counter[str] = Counter()
        self.alarms: list[str] = []

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            with self._changed:
                self.counts[event["event"]] += 1
                if event["event"] in ("daemon.started", "daemon.stopped"):
                    self.events.append(event)
                if event["level"] in ("warning", "error"):
                    self.alarms.append(line.strip()[:500])
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def done(self) -> int:
        """Sessions that have ended."""
        return sum(self.counts[name] for name in ENDS)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds of the counts."""
        with self._changed:
            came = self._changed.wait_for(lambda: holds() or self._ended, TIMEOUT_S)
        assert came, f"nothing more comes: {dict(self.counts)}"
        assert not self._ended, "the daemon has ended"


class Marathon:
    """`with Marathon(folder) as run: run.on_to(200)`."""

    def __init__(
        self,
        folder: Path,
        *,
        items: int = 10,
        item_ms: float = 2.0,
        programs: int = 10,
        batch: int = BATCH,
        trace: Path | None = None,
        frames: int = 0,
    ) -> None:
        """programs: how many different command lines there are; what is learned is kept by command line.

        trace: where the daemon writes what its heaps hold, at each rest; frames: of each allocation's stack, if traced.
        """
        self.folder = folder
        self.batond = Counted(folder, "--launcher", "exec")
        self._trace = trace
        if trace is not None:
            self.batond.module = "tests.endurance.traced"
            os.environ |= {"BATOND_TRACE": str(trace.absolute()), "BATOND_TRACE_FRAMES": str(frames)}
        self.samples: list[Sample] = []
        self._items, self._item_ms, self._programs = items, item_ms, programs
        self._batch, self._submitted = batch, 0
        self._began = time.monotonic()

    def __enter__(self) -> Marathon:
        self.batond.start()
        self._process = psutil.Process(self.batond.process.pid)
        self._line = Line(self.batond.socket)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()
        self.batond.__exit__(kind, error, trace)

    @property
    def handovers(self) -> int:
        """Completed so far."""
        return self.batond.counts["handover.completed"]

    def on_to(self, handovers: int) -> Sample:
        """Run to that many handovers in all, with one sample at work, and come to rest; the sample there."""
        half = (self.handovers + handovers) // 2
        while self.handovers < handovers:
            self._submit()
            self.batond.until(lambda: self._submitted - self.batond.done <= self._batch // 2)
            if self.handovers >= half:
                self._sample(at_rest=False)
                half = 1 << 62
        return self.rest()

    def rest(self) -> Sample:
        """Wait until everything that was submitted has ended, and every process is gone; sample that."""
        self.batond.until(lambda: self.batond.done >= self._submitted)
        deadline = time.monotonic() + TIMEOUT_S
        looks = 0
        while looks < SETTLED_LOOKS:  # the last worker's exit is told a moment after its session's end
            looks = looks + 1 if not self._process.children(recursive=True) else 0
            assert time.monotonic() < deadline, f"still there: {self._process.children(recursive=True)}"
            time.sleep(0.05)
        if self._trace is not None:
            self._process.send_signal(signal.SIGUSR1)
        return self._sample(at_rest=True)

    def sessions(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """The rows of these sessions."""
        rows: list[dict[str, Any]] = self._line.ask("list", names=list(names))["result"]["sessions"]
        return rows

    def account(self) -> Account:
        """All of it."""
        ended = {name: self.batond.counts[name] for name in ENDS if self.batond.counts[name]}
        return Account(tuple(self.samples), self.handovers, ended, time.monotonic() - self._began, self._programs)

    def _submit(self) -> None:
        text = "".join(self._sessions())
        answer = self._line.ask("submit", text=text, base=str(self.folder))
        assert "result" in answer, answer

    def _sessions(self) -> Iterator[str]:
        for _ in range(self._batch):
            self._submitted += 1
            program = self._submitted % self._programs if self._programs else self._submitted
            run = [sys.executable, "-S", str(WORKER), str(self._items), str(self._item_ms), f"--program={program}"]
            yield (
                f'[[session]]\nname = "s{self._submitted:06d}"\n'
                f"run = {json.dumps(run)}\nprepare = true\ncwd = {json.dumps(str(self.folder))}\n"
            )

    def _sample(self, *, at_rest: bool) -> Sample:
        status = self._line.ask("status")["result"]
        live = len(status["queue"]) + sum(
            len(lane["retiring"]) + len(lane["leaving"]) + sum(lane[role] is not None for role in ("active", "standby"))
            for lane in status["lanes"]
        )
        memory = self._process.memory_full_info()
        logs = [path for path in (self.folder / "logs").rglob("*") if path.is_file()]
        state = self.folder / "state"
        sample = Sample(
            at_rest=at_rest,
            seconds=time.monotonic() - self._began,
            handovers=self.handovers,
            ended=self.batond.done,
            live=live,
            rss_kib=memory.rss >> 10,
            pss_kib=memory.pss >> 10,
            uss_kib=memory.uss >> 10,
            descriptors=self._process.num_fds(),
            threads=self._process.num_threads(),
            children=len(self._process.children(recursive=True)),
            database_kib=(state / DATABASE).stat().st_size >> 10,
            journal_kib=(state / f"{DATABASE}-wal").stat().st_size >> 10,
            state_files=sum(path.is_file() for path in state.rglob("*")),
            log_files=len(logs),
            log_kib=sum(path.stat().st_size for path in logs) >> 10,
            exit_files=len(list((state / "exits").iterdir())),
        )
        self.samples.append(sample)
        return sample
