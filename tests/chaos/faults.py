"""Does what was drawn: kills, stops, fills, lies, commands. A fault that finds no target yet is tried again a while."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from tests.chaos import garbage
from tests.chaos.lives import Event, Lives
from tests.chaos.people import People
from tests.chaos.place import Place
from tests.chaos.plan import Mishap
from tests.chaos.processes import Found, look
from tests.chaos.stage import Stage

TARGET_S: Final = 10.0  # for a target to be there
RETRY_S: Final = 0.1
LONGEST_DOWN_S: Final = 3.0
SILENT_STRANGERS: Final = 80  # more than the worker socket has places for
GREEDY_CLIENTS: Final = 12


class Faults:
    """Faults under way: what is armed, and what is to be undone. `work` is called again and again."""

    def __init__(self, place: Place, lives: Lives, stage: Stage, people: People) -> None:
        self._place, self._lives, self._stage, self._people = place, lives, stage, people
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._armed: list[tuple[float, Callable[[Event], bool]]] = []
        self._stopped: dict[int, int] = {}  # pid → when that process started
        self._killed: set[bytes] = set()
        self._full_until: dict[str, float] = {}
        self._strangers: list[socket.socket] = []
        self._holding: sqlite3.Connection | None = None
        self.done: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()  # no target came
        self.last = ""

    def begin(self, mishap: Mishap) -> None:
        """Do it now, or as soon as there is what it needs."""
        self._try(mishap, random.Random(mishap.dice), time.monotonic() + TARGET_S)

    def work(self, events: list[Event]) -> None:
        """Do what is due by now, and what was armed for one of these events."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        for name, until in self._full_until.items():
            if now < until:
                self._place.disks[name].fill()
        for event in events:
            self._armed = [(until, act) for until, act in self._armed if now < until and not act(event)]

    def end(self) -> None:
        """Undo all that lasts: nothing is stopped, full, held or armed any more."""
        self._due.clear()
        self._armed.clear()
        self._full_until.clear()
        for disk in self._place.disks.values():
            disk.free()
        for pid, started in self._stopped.items():
            self._signal(look(pid), signal.SIGCONT, started)
        self._stopped.clear()
        self._release_database()
        self._dismiss(self._strangers)

    def _tell(self, story: str) -> None:
        """Beside the daemon's own log, to be read with it."""
        with (self._place.logs / "faults.txt").open("a") as log:
            log.write(f"{datetime.now(UTC):%H:%M:%S.%f} {story}\n")

    # One fault

    def _try(self, mishap: Mishap, rng: random.Random, until: float) -> None:
        if self._do(mishap, rng):
            self.done[mishap.kind] += 1
            self.last = mishap.kind
            self._tell(f"{mishap.kind}, {mishap.seconds:.1f} s")
        elif time.monotonic() < until:
            self._later(RETRY_S, lambda: self._try(mishap, rng, until))
        else:
            self.missed[mishap.kind] += 1

    def _do(self, mishap: Mishap, rng: random.Random) -> bool:
        """Whether it was done, or is armed."""
        stage, lives, people = self._stage, self._lives, self._people
        match mishap.kind.split():
            case ["kill", "the", "daemon"]:  # while somebody computes, who is to go on
                return stage.active is not None and lives.kill(rng.uniform(0.0, LONGEST_DOWN_S))
            case ["kill", "the", "daemon", "in", "a", "handover"]:
                return self._arm_daemon(rng)
            case ["restart", "the", "daemon", *how]:
                return lives.restart(by_force=bool(how))
            case ["start", "a", "second", "daemon"]:
                return lives.start_second()
            case ["kill", "the", "retiring", "worker"]:
                return self._arm_retiring()
            case ["kill", "the", part, "worker"] | ["kill", "the", "standby" as part]:
                return self._signal(stage.process(getattr(stage, part)), signal.SIGKILL)
            case ["kill", "a", "shim"]:
                return self._signal(_some(rng, stage.shims()), signal.SIGKILL)
            case ["kill", "a", "program"]:
                return self._kill_program(_some(rng, stage.programs()))
            case ["kill", "the", "fork", "server"]:
                return self._signal(stage.fork_server(lives.pid), signal.SIGKILL)
            case ["kill", "a", "child", *_]:
                return self._signal(_some(rng, stage.forked(lives.pid)), signal.SIGKILL)
            case ["stop", "the", "daemon"]:
                return lives.pid is not None and self._stop(look(lives.pid), mishap.seconds)
            case ["stop", "the", part, *_]:
                return self._stop(stage.process(getattr(stage, part)), mishap.seconds)
            case ["fill", "both", _]:
                return self._fill(tuple(self._place.disks), mishap.seconds)
            case ["fill", "the", "disk", "of", "the", name]:
                return self._fill((name,), mishap.seconds)
            case ["hold", "the", "database"]:
                return self._hold_database(mishap.seconds)
            case ["garbage", "on", "the", "control", "socket"]:
                content = rng.choice((garbage.noise(rng), garbage.wrong_types(rng, self._some_session(rng)[0])))
                return self._throw(content, rng, self._place.control, mishap.seconds)
            case ["garbage", "on", "the", "worker", "socket"]:
                return self._throw(garbage.noise(rng), rng, self._place.workers, mishap.seconds)
            case ["a", "false", "hello"]:
                content = garbage.lies(rng, *self._some_session(rng))
                return self._throw(content, rng, self._place.workers, mishap.seconds)
            case ["clients", *_]:
                clients = [garbage.greedy(self._place.control, rng) for _ in range(GREEDY_CLIENTS)]
                return self._keep(clients, mishap.seconds)
            case ["strangers", *_]:
                address = rng.choice((self._place.control, self._place.workers))
                clients = [garbage.throw(address, b"", half_open=False) for _ in range(SILENT_STRANGERS)]
                return self._keep(clients, mishap.seconds)
            case ["pause" | "drain" as command]:
                people.do(command)
                self._later(mishap.seconds, people.resume)
                return True
            case ["swap"]:
                people.do("swap")
                return True
            case ["cancel"]:
                return people.cancel(rng)
            case ["move"]:
                return people.move(rng)
            case _:
                raise AssertionError(f"nobody knows how to {mishap.kind}")

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._order), act))

    # Processes

    def _arm_daemon(self, rng: random.Random) -> bool:
        """Kill it right after it told of some step of a handover: before, between or after what it then does."""
        word = rng.choice(("lane.moved", "standby.started", "standby.ready", "session.finished", "worker.exited"))
        down_s = rng.uniform(0.0, LONGEST_DOWN_S)

        def act(event: Event) -> bool:
            killed = event["event"] == word and self._lives.kill(down_s)
            if killed:
                self._tell(f"SIGKILL to the daemon at {word}")
            return killed

        return self._arm(act)

    def _arm_retiring(self) -> bool:
        """It is there for the moment between its last item and its exit: killed when the log says so."""
        worker, generation = self._stage.process(self._stage.active), self._stage.active
        if worker is None:
            return False

        def act(event: Event) -> bool:
            retires = event["event"] == "lane.moved" and event["cause"] == "Quiesced"
            return retires and self._stage.retiring == generation and self._signal(worker, signal.SIGKILL)

        return self._arm(act)

    def _kill_program(self, program: Found | None) -> bool:
        """SIGKILL; to one of a session whose program had it before, SIGTERM.

        Killed twice is taken for a program that has too little memory though it is alone, and that fails the session.
        """
        if program is None:
            return False
        again = program.command in self._killed
        self._killed.add(program.command)
        return self._signal(program, signal.SIGTERM if again else signal.SIGKILL)

    def _arm(self, act: Callable[[Event], bool]) -> bool:
        self._armed.append((time.monotonic() + TARGET_S, act))
        return True

    def _stop(self, found: Found | None, seconds: float) -> bool:
        if found is None or not self._signal(found, signal.SIGSTOP):
            return False
        self._stopped[found.pid] = found.started
        self._later(seconds, lambda: self._go_on(found))
        return True

    def _go_on(self, found: Found) -> None:
        self._stopped.pop(found.pid, None)
        self._signal(found, signal.SIGCONT)

    def _signal(self, found: Found | None, number: signal.Signals, started: int | None = None) -> bool:
        """Send it, where that very process is still there."""
        if found is None or (now := look(found.pid)) is None or now.started != (started or found.started):
            return False
        try:
            os.kill(found.pid, number)
        except ProcessLookupError:
            return False
        self._tell(f"{number.name} to {found}")
        return True

    # Disks and the record

    def _fill(self, names: tuple[str, ...], seconds: float) -> bool:
        until = time.monotonic() + seconds
        for name in names:
            self._full_until[name] = max(until, self._full_until.get(name, 0.0))
            self._place.disks[name].fill()
            self._later(seconds, partial(self._free, name))
        return True

    def _free(self, name: str) -> None:
        if time.monotonic() >= self._full_until.get(name, 0.0):
            self._full_until.pop(name, None)
            self._place.disks[name].free()

    def _hold_database(self, seconds: float) -> bool:
        """As a person would who writes into it by hand, and goes for a coffee."""
        if self._holding is not None:
            return False
        path = self._place.state / "batond.db"
        try:
            record = sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=0.5, isolation_level=None)
        except sqlite3.Error:
            return False
        try:
            record.execute("BEGIN IMMEDIATE")
        except sqlite3.Error:
            record.close()
            return False
        self._holding = record
        self._later(seconds, self._release_database)
        return True

    def _release_database(self) -> None:
        if self._holding is not None:
            with suppress(sqlite3.Error):
                self._holding.execute("ROLLBACK")
            self._holding.close()
            self._holding = None

    # Strangers

    def _some_session(self, rng: random.Random) -> tuple[str, int, int]:
        """A real one, with its generation and the process of its worker."""
        generation = self._stage.active or self._stage.standby or 1
        found = self._stage.process(generation)
        pid = os.getpid() if found is None or rng.random() < 0.3 else found.pid
        return self._stage.sessions.get(generation, "nobody"), generation, pid

    def _throw(self, content: bytes, rng: random.Random, address: Path, seconds: float) -> bool:
        client = garbage.throw(address, content, half_open=rng.random() < 0.3)
        return self._keep([client], rng.choice((0.0, seconds)))

    def _keep(self, clients: list[socket.socket | None], seconds: float) -> bool:
        """Hold these connections so long. False where nobody was there to connect to."""
        there = [client for client in clients if client is not None]
        self._strangers += there
        self._later(seconds, lambda: self._dismiss(there))
        return bool(there)

    def _dismiss(self, clients: list[socket.socket]) -> None:
        for client in tuple(clients):
            client.close()
            if client in self._strangers:
                self._strangers.remove(client)


def _some(rng: random.Random, found: list[Found]) -> Found | None:
    return rng.choice(found) if found else None
