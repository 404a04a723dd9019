"""What the core asks for, done: the only `match` on effects. Each is one call of the crew; none is waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from daemon.sessionfile import DeviceAssignment, DeviceKind, SessionSpec
from daemon.workers import Crew
from states.effects import AdvanceStandby, DrainActive, Effect, EndWorker, Promote, RaiseStandby, StartStandby
from states.snapshot import Lane


class Performer:
    """Performs effects. `specs` holds what was submitted of every live session, by name."""

    def __init__(self, crew: Crew, specs: Mapping[str, SessionSpec], lanes: Mapping[str, Lane]) -> None:
        self._crew = crew
        self._specs = specs
        self._lanes = lanes

    def __call__(self, effect: Effect) -> None:
        match effect:
            case StartStandby(lane=lane, session=session, pool_bytes=pool):
                device = assignment(self._lanes[lane], pool)
                self._crew.start(effect, self._specs[session.name], device, resume=session.begun)
            case AdvanceStandby(generation=generation, tier=tier):
                self._crew.advance(generation, tier)
            case RaiseStandby(generation=generation):
                self._crew.raise_priority(generation)
            case Promote(generation=generation):
                self._crew.go(generation)
            case DrainActive(generation=generation, cancelled=cancelled):
                self._crew.drain(generation, cancelled=cancelled)
            case EndWorker(generation=generation, force=force):
                self._crew.end(generation, force)
            case _:
                assert_never(effect)


def assignment(lane: Lane, pool_bytes: int | None) -> DeviceAssignment:
    """The lane's device as a worker is told of it. pool_bytes: what its framework may take there; None: no limit."""
    kind: DeviceKind = "gpu" if lane.device == "gpu" else "cpu"
    return DeviceAssignment(kind=kind, index=lane.index, uuid=lane.uuid, memory_limit_bytes=pool_bytes)
