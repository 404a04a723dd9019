"""Who plays which part on the lane, as the daemon's log tells it, and which process that is. Changes nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from tests.chaos import processes
from tests.chaos.lives import Event
from tests.chaos.place import Place
from tests.chaos.processes import SHIM, Found

ENDS = ("session.finished", "session.failed", "session.cancelled")


@dataclass
class Stage:
    """The parts by generation, followed event by event; figures of the whole run."""

    place: Place
    active: int | None = None
    standby: int | None = None
    retiring: int | None = None
    handovers: int = 0
    adoptions: int = 0
    ended: dict[str, str] = field(default_factory=dict)  # by session, how
    sessions: dict[int, str] = field(default_factory=dict)  # by generation

    def take(self, event: Event) -> None:
        """Follow one event."""
        generation = event.get("generation")
        if generation is not None and event.get("session"):
            self.sessions[generation] = event["session"]
        match event["event"]:
            case "daemon.started":  # whom it adopts it says next
                self.active = self.standby = self.retiring = None
            case "standby.started":
                self.standby = generation
            case "standby.discarded" if self.standby == generation:
                self.standby = None
            case "session.started" | "session.adopted":
                if self.active != generation:
                    self.retiring = self.active
                self.active = generation
                self.standby = None if self.standby == generation else self.standby
                self.adoptions += event["event"] == "session.adopted"
            case "lane.moved" if event["cause"] == "Quiesced":
                self.retiring, self.active = self.active, None
            case "handover.completed":
                self.handovers += 1
            case "worker.exited":
                for part in ("active", "standby", "retiring"):
                    if getattr(self, part) == generation:
                        setattr(self, part, None)
            case name if name in ENDS:
                self.ended[event["session"]] = name.partition(".")[2]

    def process(self, generation: int | None) -> Found | None:
        """The living process of a worker, by the daemon's own record."""
        return None if generation is None else self._recorded().get(generation)

    def shims(self) -> list[Found]:
        """The shims of programs."""
        return [found for found in self._recorded().values() if SHIM in found.command]

    def programs(self) -> list[Found]:
        """The programs below the shims."""
        return [program for shim in self.shims() for program in processes.children(shim.pid)]

    def fork_server(self, daemon: int | None) -> Found | None:
        """The daemon's fork server."""
        mine = processes.children(daemon) if daemon is not None else iter(())
        return next((found for found in mine if found.is_fork_server), None)

    def forked(self, daemon: int | None) -> list[Found]:
        """What the fork server forked that is no recorded worker: just born, inspecting, or kept in reserve."""
        server = self.fork_server(daemon)
        if server is None:
            return []
        recorded = {found.pid for found in self._recorded().values()}
        return [found for found in processes.children(server.pid) if found.pid not in recorded]

    def _recorded(self) -> dict[int, Found]:
        """Living workers by generation."""
        return dict(self._rows())

    def _rows(self) -> Iterator[tuple[int, Found]]:
        try:
            with closing(
                sqlite3.connect(f"file:{self.place.state}/batond.db?mode=ro", uri=True, timeout=0.1)
            ) as record:
                rows = record.execute("SELECT generation, pid, started FROM workers").fetchall()
        except sqlite3.Error:  # the disk is full, somebody holds it, or there is no daemon yet
            return
        for generation, pid, started in rows:
            found = processes.look(pid)
            if found is not None and found.started == started:
                yield generation, found
