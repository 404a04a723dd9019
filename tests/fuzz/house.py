"""A daemon without its control socket and nursery: real loop, record, log, crew and reception. Asserts each step."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon import adoption, results, views, wire
from daemon.adoption import Reception
from daemon.feed import Feed
from daemon.logs import Log
from daemon.loop import Loop
from daemon.perform import Performer
from daemon.sessionfile import SessionSpec
from daemon.store import Store
from daemon.workers import Alive, Crew
from states.decision import Decision
from states.events import Event, Exited, Failed, Memory, Queued
from states.notes import SessionCancelled, SessionFailed, SessionFinished
from states.restore import Remnant, restore
from states.snapshot import Lane, Limits, World
from states.work import Session
from tests.core.search import check
from tests.fuzz.puppets import Puppets

GIB = 1 << 30
LIMITS = Limits(
    prepare_timeout_s=10.0,
    start_timeout_s=10.0,
    stall_timeout_s=10.0,
    drain_timeout_s=10.0,
    commit_timeout_s=10.0,
    exit_timeout_s=1.0,
    grace_s=0.5,
    backoff_s=0.0,
)
PATIENCE_S = 5.0
MEMORY_INTERVAL_S = 0.01
INT64 = range(2**63)
REASON_LIMIT_CHARACTERS = 20_000  # 2,000, each of them written as an escape of ten


class House:
    """One life of a daemon, on a state directory that it shares with the lives before and after it."""

    def __init__(self, folder: Path, puppets: Puppets) -> None:
        self.ends: Counter[str] = Counter()
        self.finished: dict[str, int] = {}
        self.faults: dict[int, str] = {}
        self.facts: Counter[str] = Counter()
        self.turned_away = 0
        self.gone = False
        self.worker_socket = folder / "w.sock"
        self._log_fd = os.open(os.devnull, os.O_WRONLY)
        self._log = Log(self._log_fd, style="json")
        self._store = Store.open(folder / "state")
        self._exits = folder / "exits"
        self._exits.mkdir(exist_ok=True)
        loaded = self._store.load()
        self._feed = Feed(loaded.seq)
        self._specs: dict[str, SessionSpec] = dict(loaded.specs)
        self.crew = Crew(puppets, self._post, folder / "logs", born=self._born)
        now = time.monotonic()
        lanes = {"cpu": Lane("cpu", since=now)}
        queue = tuple(replace(session, not_before=0.0, queued_at=now) for session in loaded.queue)
        world = World(lanes, queue, loaded.profiles, LIMITS, loaded.generation)
        self.loop = Loop(
            restore(world, self._remnants(queue), now, PATIENCE_S),
            record=self._record,
            tell=self._tell,
            perform=Performer(self.crew, self._specs, lanes),
            blocked=self._blocked,
            unblocked=lambda *_: None,
        )
        self.reception = Reception(self.worker_socket, self.crew, self._turned_away)
        self.reception.open()
        self.loop.start()
        self._reading = asyncio.get_running_loop().create_task(self._read_memory())

    async def close(self) -> None:
        """Be gone, as by SIGKILL: nothing is told to anybody."""
        self.gone = True
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self.crew.post = lambda _: None
        self.loop.close()
        self.reception.close()
        self.crew.close()
        self._store.close()
        self._log.close()
        os.close(self._log_fd)

    async def queue(self, *names: str, prepares: bool, attempts: int = 2) -> None:
        """Queue sessions, as one decision."""
        for name in names:
            self._specs[name] = SessionSpec(name=name, run=("true",), prepare=prepares)
        orders = enumerate(names, int(views.next_order(self.loop.world)))
        first, *more = (
            Session(name, order=float(order), profile=name, max_attempts=attempts, prepares=prepares)
            for order, name in orders
        )
        decision = await self.loop.ask(Queued(time.monotonic(), first, tuple(more)))
        assert decision.refused is None, decision.refused

    def look(self) -> None:
        """Ask what `status` and `list` ask, and encode it."""
        now = views.Now(time.monotonic(), datetime.now(UTC))
        world = self.loop.world
        wire.encode_result(1, views.status(world, views.Daemon("0", 1, 0.0), self._feed.seq, now))
        rows = views.live_rows(world, now, {})
        wire.encode_result(1, results.ListResult(sessions=tuple(rows)))
        records = self._store.sessions(["done", "failed", "cancelled"], 5, before_id=1 << 62)
        wire.encode_result(1, results.ListResult(sessions=tuple(map(views.ended_row, records))))

    @property
    def bug(self) -> Exception | None:
        """What a decision raised, if one did."""
        return self.loop._bug

    def _remnants(self, queue: tuple[Session, ...]) -> list[Remnant]:
        sessions = {session.name: session for session in queue}
        remnants: list[Remnant] = []
        for left in adoption.left_behind(self._store.workers(), self._exits):
            record, session = left.record, sessions.get(left.record.session)
            if session is None or left.process is None:
                left.kill()
                self._store.worker_gone(record.generation)
                continue
            remnants.append(Remnant(record.lane, session, record.generation, record.promoted))
            who = Alive(record.session, record.generation, record.lane, record.pid, record.started)
            self.crew.expect(who, left.process)
        kept = {remnant.generation for remnant in remnants}
        for record in self._store.workers():
            if record.generation not in kept:
                self._store.worker_gone(record.generation)
        return remnants

    def _record(self, decision: Decision) -> int:
        if not isinstance(decision.event, Queued) or not decision.event.more:
            check(decision)
        specs = {}
        if isinstance(decision.event, Queued) and decision.refused is None:
            specs = {session.name: self._specs[session.name] for session in decision.event.sessions}
        return self._store.record(decision, datetime.now(UTC), specs)

    def _tell(self, decision: Decision, seq: int | None, _recorded_at: float) -> None:
        for note in decision.notes:
            self._log.emit(note, seq)
            self._feed.tell(note, seq, datetime.now(UTC))
            if isinstance(note, SessionFinished | SessionFailed | SessionCancelled):
                self.ends[note.session] += 1
                self._specs.pop(note.session, None)
            if isinstance(note, SessionFinished):
                self.finished[note.session] = note.items

    def _blocked(self, why: str) -> None:
        raise AssertionError(f"nothing can be recorded: {why}")

    def _post(self, event: Event) -> None:
        self.facts[type(event).__name__] += 1
        _credible(event)
        if isinstance(event, Failed) and "broke the protocol" in event.reason:
            assert event.generation not in self.faults, "a fault is told once"
            self.faults[event.generation] = event.reason
        if isinstance(event, Exited):
            self._store.worker_gone(event.generation)
        self.loop.post(event)

    def _born(self, worker: Alive) -> None:
        if worker.started is not None:
            self._store.worker_started(worker.generation, worker.session, worker.lane, worker.pid, worker.started)

    def _turned_away(self, reason: str) -> None:
        assert reason.isprintable(), reason
        assert len(reason) < 4000, reason[:300]
        self.turned_away += 1

    async def _read_memory(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                self.loop.post(Memory(time.monotonic(), "cpu", 64 * GIB, 64 * GIB))
                await asyncio.sleep(MEMORY_INTERVAL_S)


def _credible(event: Event) -> None:
    """What comes out of the crew is what the core may count with."""
    now = time.monotonic()
    for name in ("began_at", "ended_at", "at"):
        at = getattr(event, name, now)
        assert 0.0 <= at <= now, f"{type(event).__name__} at {at}"
    for name in ("done", "cursor", "total", "remaining", "errors", "rss_bytes", "peak_bytes"):
        count: Any = getattr(event, name, None)
        assert count is None or count in INT64, f"{name} = {count}"
    reason = getattr(event, "reason", "")
    assert len(reason) <= REASON_LIMIT_CHARACTERS
    assert reason.isprintable(), f"not one line: {reason[:200]!r}"
