"""The gate's arithmetic in tables: what can be given out, what fits, what the active session needs back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from states import gate, policy
from states.effects import Force
from states.snapshot import Phase, Reading, Trouble, Worker
from states.work import Session, Tier
from tests.core.worlds import (
    GIB,
    IMPORTED,
    LIMITS,
    PROGRAM,
    lane,
    readings,
    session,
    waiting,
    worker,
    world,
)

HELD = worker(reserved=4 * GIB, held_bytes=4 * GIB)
SPARES: list[tuple[str, dict[str, Any], float | None]] = [
    ("no reading yet", {"readings": ()}, None),
    ("one reading is no reading", {"readings": readings(16)}, None),
    ("the least of the last two counts", {"readings": readings(8, 6)}, 6),
    ("one from before them does not", {"readings": readings(1, 8, 9)}, 8),
    (
        "what is reserved and not yet taken is not free",
        {"readings": readings(16, 16), "standby": waiting(reserved=4 * GIB)},
        12,
    ),
    ("what others hold is not free, whatever is reserved", {"readings": readings(3, 3), "active": HELD}, 3),
    (
        "the active session may grow into what it was given",
        {"readings": readings(14, 14), "active": replace(HELD, held_bytes=GIB)},
        11,
    ),
    (
        "one that holds more than it was given does not shrink",
        {"readings": readings(11, 11), "active": replace(HELD, held_bytes=5 * GIB)},
        11,
    ),
    ("one that retires holds its memory until it is gone", {"readings": readings(16, 16), "retiring": (HELD,)}, 12),
    ("so does one that was told to go", {"readings": readings(16, 16), "leaving": (HELD,)}, 12),
    (
        "all of them together; less than nothing is less than nothing",
        {
            "readings": readings(1, 1, total=10),
            "active": replace(HELD, held_bytes=GIB),
            "standby": waiting(reserved=4 * GIB),
            "retiring": (HELD,),
        },
        -2,
    ),
]


@pytest.mark.parametrize(("why", "fields", "spare"), SPARES, ids=[row[0] for row in SPARES])
def test_spare(why: str, fields: dict[str, Any], spare: float | None) -> None:
    assert gate.spare(lane(**fields), LIMITS) == (None if spare is None else spare * GIB)


FITS: list[tuple[str, tuple[Reading, ...], int, bool]] = [
    ("exactly its need and the headroom", readings(3, 3), 0, True),
    ("a byte less", (Reading(1.0, 16 * GIB, 3 * GIB - 1),) * 2, 0, False),
    ("what it holds already it need not be given", readings(2, 2), GIB, True),
    ("nothing was read", (), 0, False),
]


@pytest.mark.parametrize(("why", "seen", "held", "fits"), FITS, ids=[row[0] for row in FITS])
def test_fits(why: str, seen: tuple[Reading, ...], held: int, fits: bool) -> None:
    here = lane(readings=seen)
    standby = worker(reserved=held) if held else None
    assert gate.fits(world(here), here, session(), Tier.WARM, standby) is fits


TIERS: list[tuple[str, float, Session, Tier | None]] = [
    ("all of it fits", 3, session(), Tier.WARM),
    ("not all: as far as importing", 2, session(), Tier.IMPORTED),
    ("not even that", 1, session(), None),
    ("a program takes all or is not started", 2, PROGRAM, None),
    ("a program, and all fits", 3, PROGRAM, Tier.WARM),
]


@pytest.mark.parametrize(("why", "free", "wanted", "tier"), TIERS, ids=[row[0] for row in TIERS])
def test_fitting_tier(why: str, free: float, wanted: Session, tier: Tier | None) -> None:
    here = lane(readings=readings(free, free))
    assert gate.fitting_tier(world(here), here, wanted) is tier


CLIMBS: list[tuple[str, Worker | None, float, Tier | None]] = [
    ("there is room for the rest", IMPORTED, 3, Tier.WARM),
    ("what it holds counts as given", IMPORTED, 2.7, Tier.WARM),
    ("there is not", IMPORTED, 2.5, None),
    ("it is at the top", waiting(), 16, None),
    ("it is on its way already", replace(IMPORTED, phase=Phase.LOADING), 16, None),
    ("it was told to go", replace(IMPORTED, forced=Force.ASK), 16, None),
    ("it has failed", replace(IMPORTED, trouble=Trouble("crash", "")), 16, None),
    ("there is none", None, 16, None),
]


@pytest.mark.parametrize(("why", "standby", "free", "tier"), CLIMBS, ids=[row[0] for row in CLIMBS])
def test_climbing_tier(why: str, standby: Worker | None, free: float, tier: Tier | None) -> None:
    here = lane(standby=standby, readings=readings(free, free))
    assert policy.climbing_tier(world(here), here) is tier


def test_a_standby_climbs_as_far_as_fits() -> None:
    """Over a tier, where there is room for more."""
    here = lane(standby=IMPORTED, tiers=(Tier.IMPORTED, Tier.STAGED, Tier.WARM))
    assert policy.climbing_tier(world(here), here) is Tier.WARM


GROWS: list[tuple[str, tuple[Reading, ...], dict[str, Any], bool]] = [
    ("half of the headroom is gone, twice", readings(0.4, 0.4), {}, True),
    ("once", readings(2, 0.4), {}, False),
    ("and back", readings(0.4, 2), {}, False),
    ("half of it is still there", readings(0.5, 0.5), {}, False),
    ("one reading", readings(0.4), {}, False),
    ("seen before the standby was started", readings(0.4, 0.4), {"standby": waiting(spawned_at=1.0)}, False),
    ("the standby holds next to nothing", readings(0.4, 0.4), {"standby": replace(IMPORTED, aim=Tier.IMPORTED)}, False),
    ("nobody computes", readings(0.4, 0.4), {"active": None}, False),
    ("there is no standby", readings(0.4, 0.4), {"standby": None}, False),
]


@pytest.mark.parametrize(("why", "seen", "fields", "grows"), GROWS, ids=[row[0] for row in GROWS])
def test_grows_into_standby(why: str, seen: tuple[Reading, ...], fields: dict[str, Any], grows: bool) -> None:
    here = lane(**({"active": worker(), "standby": waiting()} | fields | {"readings": seen}))
    assert gate.grows_into_standby(world(here), here) is grows
