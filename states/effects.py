"""Requests the core makes of the shell. Frozen, imperative; each names the lane and the worker's generation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from states.work import Session, Tier


class Force(Enum):
    """How a worker is ended that does not end by itself."""

    ASK = "ask"  # `cancel` on its channel
    TERM = "SIGTERM"
    KILL = "SIGKILL"


@dataclass(frozen=True, slots=True)
class StartStandby:
    """Start a worker for `session` at low priority and prepare it as far as `tier`.

    `pool_bytes`: what its framework may take of a device with memory of its own, in all; None: no limit is set.
    """

    lane: str
    generation: int
    session: Session
    tier: Tier
    low_priority: bool
    pool_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class AdvanceStandby:
    """Prepare the waiting standby further, to `tier`."""

    lane: str
    generation: int
    tier: Tier


@dataclass(frozen=True, slots=True)
class RaiseStandby:
    """Give the standby its normal priority: the running session is about to end."""

    lane: str
    generation: int


@dataclass(frozen=True, slots=True)
class Promote:
    """Tell the standby that the device is its own: `go`, at normal priority from then on."""

    lane: str
    generation: int


@dataclass(frozen=True, slots=True)
class DrainActive:
    """Ask the active worker to finish its batch, commit and exit; `cancelled` tells it why."""

    lane: str
    generation: int
    cancelled: bool


@dataclass(frozen=True, slots=True)
class EndWorker:
    """End a worker that must go: ask, SIGTERM to its group, or SIGKILL to its group. Its exit is the answer."""

    lane: str
    generation: int
    force: Force


Effect: TypeAlias = StartStandby | AdvanceStandby | RaiseStandby | Promote | DrainActive | EndWorker
