"""A daemon's life without a daemon: the real core, recorded decision by decision. For the tests of the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon.sessionfile import SessionSpec
from daemon.store import Store
from states.decision import Decision
from states.events import (
    Committed,
    DrainLane,
    Event,
    Exited,
    Memory,
    Progress,
    Promoted,
    Queued,
    Quiesced,
    Ready,
    Tick,
)
from states.lifecycle import step
from states.snapshot import Lane, World
from states.work import Lead, Session, Tier

GIB = 1 << 30
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def spec(name: str) -> SessionSpec:
    return SessionSpec(name=name, run=("true",), cwd="/", lead="90%", memory="1GiB")


class Life:
    """A daemon's life without a daemon: the real core, recorded decision by decision; one second each."""

    def __init__(self, folder: Path, world: World | None = None) -> None:
        self.store = Store.open(folder)
        self.now = 100.0
        self.world = world or World(lanes={"cpu": Lane("cpu")})
        for _ in range(2):
            self.feed(Memory(self.now, "cpu", 8 * GIB, 8 * GIB))

    @property
    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def feed(self, event: Event, specs: dict[str, SessionSpec] | None = None) -> Decision:
        self.now += 1
        event = replace(event, at=self.now)
        decision = step(self.world, event)
        if decision.matters:
            self.store.record(decision, self.wall, specs)
        self.world = decision.after
        if decision.matters and not isinstance(event, Tick):
            self.feed(Tick(self.now))
        return decision

    def submit(self, name: str, **more: object) -> None:
        session = Session(name, order=self.now, total=100, lead=Lead(fraction=0.9), **more)  # type: ignore[arg-type]
        self.feed(Queued(0.0, session), {name: spec(name)})

    def generation(self) -> int:
        return self.world.generation

    def run_to(self, cursor: int) -> int:
        """The session at the head is prepared, begun, and makes `cursor` items durable."""
        generation = self.generation()
        self.feed(Ready(0.0, generation, Tier.WARM, 0.5, total=100))
        self.feed(Promoted(0.0, generation, self.now))
        self.feed(Progress(0.0, generation, cursor, cursor, 100))
        return generation

    def finish(self, generation: int) -> None:
        self.feed(Quiesced(0.0, generation, self.now, 100, 0))
        self.feed(Committed(0.0, generation, 100))
        self.feed(Exited(0.0, generation, 0))

    def hand_back(self, generation: int, cursor: int) -> None:
        self.feed(DrainLane(0.0, "cpu"))
        self.feed(Quiesced(0.0, generation, self.now, cursor, 100 - cursor))
        self.feed(Committed(0.0, generation, cursor))
        self.feed(Exited(0.0, generation, 0))
