"""The daemon's end without its sessions': which workers go on and which end with it. Decides nothing of a session.

As when it is killed, but in order: the next daemon finds no half of a standby, and a record that is written back.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from daemon.workers import Crew
from states.effects import Force
from states.events import Event, Exited
from states.snapshot import World


@dataclass(eq=False)
class Departure:
    """One departure, from the moment it is asked for. `back_by`: when the workers give up looking for a daemon.

    `sessions` go on; `handed_back` were being prepared, or about to end, and are in the queue of the next daemon.
    """

    sessions: tuple[str, ...]
    handed_back: tuple[str, ...]
    back_by: datetime
    _ending: set[int]
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def from_world(cls, world: World, back_by: datetime) -> Departure:
        """Active and retiring workers go on. A standby has nothing yet; those leaving were told to end anyhow."""
        staying = [worker for lane in world.lanes.values() for worker in (lane.active, *lane.retiring) if worker]
        ending = [worker for lane in world.lanes.values() for worker in (lane.standby, *lane.leaving) if worker]
        return cls(
            sessions=tuple(worker.session.name for worker in staying if not worker.settled),
            handed_back=tuple(worker.session.name for worker in ending if not worker.settled),
            back_by=back_by,
            _ending={worker.generation for worker in ending},
        )

    def begin(self, crew: Crew) -> None:
        """Kill the workers that end: they hold nothing that is not durable. One that is not born yet is not spared."""
        for generation in self._ending:
            crew.end(generation, Force.KILL)
        self._look()

    def withholds(self, event: Event) -> bool:
        """Whether the event is of a worker that ends: it says nothing about its session, which is not to blame."""
        ends = getattr(event, "generation", None) in self._ending
        if ends and isinstance(event, Exited):
            self._ending.discard(event.generation)
            self._look()
        return ends

    def hasten(self) -> None:
        """Wait for nobody's end any more."""
        self._over.set()

    async def over(self, patience_s: float) -> None:
        """Wait until those that end are gone, and not longer than that."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), patience_s)

    def _look(self) -> None:
        if not self._ending:
            self._over.set()
