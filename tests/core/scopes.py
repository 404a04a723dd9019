"""The searches that the tests make: each small in all but one or two ways."""

from __future__ import annotations

from tests.core.offers import Kind, Scope

UNCOUNTED = 0  # attempts without limit: a graph of any number of retries is smaller than one that counts them

SCOPES = {
    "one session, with everything that may befall it": Scope(sessions=1, attempts=2),
    "one session whose disk is full": Scope(sessions=1, attempts=UNCOUNTED, disks=True, doubled=False),
    "two sessions whose disks are full": Scope(
        attempts=UNCOUNTED,
        disks=True,
        tight=False,
        faults=False,
        doubled=False,
        holds=False,
        endings=False,
        coarse=True,
    ),
    "two sessions that fail, stall, are swapped and cancelled": Scope(
        attempts=UNCOUNTED, after=True, tight=False, doubled=False, holds=False, endings=False, coarse=True
    ),
    "two sessions that share too little memory": Scope(
        attempts=UNCOUNTED, faults=False, limits=False, doubled=False, holds=False, endings=False, coarse=True
    ),
    "two sessions; pauses, drained lanes, stops, kills and lost devices": Scope(
        attempts=UNCOUNTED, tight=False, faults=False, limits=False, doubled=False, coarse=True
    ),
    "three sessions that are swapped": Scope(
        sessions=3,
        attempts=UNCOUNTED,
        tight=False,
        faults=False,
        limits=False,
        doubled=False,
        cancels=False,
        holds=False,
        endings=False,
        coarse=True,
    ),
    "every kind of session after every other": Scope(
        kinds=tuple(Kind),
        attempts=UNCOUNTED,
        tight=False,
        faults=False,
        limits=False,
        doubled=False,
        cancels=False,
        holds=False,
        endings=False,
        coarse=True,
    ),
    "two lanes and one queue": Scope(
        lanes=2,
        attempts=UNCOUNTED,
        tight=False,
        faults=False,
        doubled=False,
        cancels=False,
        holds=False,
        endings=False,
        coarse=True,
    ),
}
