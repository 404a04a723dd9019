"""Small worlds for tables of tests: a session, a worker, a lane, made of what a row names. Decides nothing."""

from __future__ import annotations

from typing import Any

from states.estimate import Pace
from states.snapshot import Lane, Limits, Phase, Reading, Worker, World
from states.work import Session, Tier

GIB = 1 << 30
MIB = 1 << 20
LIMITS = Limits(headroom_bytes=GIB, readings=2)


def session(name: str = "s", order: float = 0.0, **fields: Any) -> Session:
    return Session(name, order, **({"guess_bytes": 2 * GIB} | fields))


def worker(**fields: Any) -> Worker:
    given: dict[str, Any] = {
        "session": session("active"),
        "generation": 1,
        "phase": Phase.COMPUTING,
        "aim": Tier.WARM,
        "reserved": 0,
        "since": 0.0,
        "spawned_at": 0.0,
        "beside": False,
    }
    return Worker(**(given | fields))


def waiting(tier: Tier | None = Tier.WARM, **fields: Any) -> Worker:
    given: dict[str, Any] = {"phase": Phase.READY, "session": session("standby"), "generation": 2, "tier": tier}
    return worker(**(given | fields))


def computing(seconds: float, *, done: int = 50, total: int | None = 100, noise: float = 0.0, **fields: Any) -> Worker:
    """An active session that has `seconds` to go; `noise` is the deviation of its samples, of a second each."""
    rate = seconds / (100 - done)
    pace = Pace(0.0, done, per_item_s=rate, variance=(noise * rate) ** 2, sample_s=1.0, weight=1.0)
    return worker(done=done, total=total, pace=pace, **fields)


def lane(name: str = "cpu", **fields: Any) -> Lane:
    given: dict[str, Any] = {"readings": (Reading(1.0, 16 * GIB, 16 * GIB),) * 2, "imported_bytes": 400 * MIB}
    return Lane(name, **(given | fields))


def world(*lanes: Lane, queue: tuple[Session, ...] = (), **fields: Any) -> World:
    return World({each.name: each for each in lanes}, queue, limits=LIMITS, **fields)


def readings(*free_gib: float, total: float = 16.0) -> tuple[Reading, ...]:
    return tuple(Reading(1.0 + n, int(total * GIB), int(free * GIB)) for n, free in enumerate(free_gib))


IMPORTED = waiting(Tier.IMPORTED, reserved=400 * MIB)
PROGRAM = session("p", prepares=False, stepwise=False)
