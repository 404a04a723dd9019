"""When a standby may go, who is late, and what waits for time or memory, in tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from states import policy
from states.effects import Force
from states.snapshot import Phase, State, Trouble
from states.work import Session
from tests.core.worlds import (
    IMPORTED,
    lane,
    readings,
    session,
    waiting,
    worker,
    world,
)

COMMITS = worker(phase=Phase.COMMITTING, generation=3)
GOES: list[tuple[str, dict[str, Any], bool]] = [
    ("it is warm, and nobody computes", {}, True),
    ("one may still commit beside it", {"retiring": (COMMITS,)}, True),
    ("not two", {"retiring": (COMMITS, replace(COMMITS, generation=4))}, False),
    ("somebody computes", {"active": worker()}, False),
    ("it is not at the top tier", {"standby": IMPORTED}, False),
    ("it is still being prepared", {"standby": waiting(phase=Phase.LOADING)}, False),
    ("it was told to go", {"standby": waiting(forced=Force.TERM)}, False),
    ("it has failed", {"standby": waiting(trouble=Trouble("crash", ""))}, False),
    ("the lane is paused", {"held": True}, False),
    ("there is none", {"standby": None}, False),
]


@pytest.mark.parametrize(("why", "fields", "goes"), GOES, ids=[row[0] for row in GOES])
def test_go(why: str, fields: dict[str, Any], goes: bool) -> None:
    here = lane(**({"standby": waiting()} | fields))
    assert policy.go(world(here), here) is goes


def test_a_stopping_daemon_promotes_nobody() -> None:
    """However ready."""
    here = lane(standby=waiting())
    assert not policy.go(world(here, stopping=True), here)


def test_late_is_at_the_deadline_and_after() -> None:
    """Of every worker of the lane; one without a deadline is never late."""
    here = lane(
        active=worker(deadline=5.0),
        standby=waiting(),
        retiring=(replace(COMMITS, deadline=6.0),),
        leaving=(replace(COMMITS, generation=5, deadline=4.0),),
    )
    late = [[each.generation for each in policy.overdue(here, at)] for at in (3.9, 4.0, 5.0, 6.0)]
    assert late == [[], [5], [1, 5], [1, 3, 5]]


def test_only_the_active_session_stalls() -> None:
    """At its time-out, and not before."""
    assert not policy.stalled(lane(active=worker(stall_at=5.0)), 4.9)
    assert policy.stalled(lane(active=worker(stall_at=5.0)), 5.0)
    assert not policy.stalled(lane(active=worker()), 1e9)
    assert not policy.stalled(lane(), 1e9)


DEADLINES: list[tuple[str, dict[str, Any], tuple[Session, ...], float | None]] = [
    ("nothing waits for time", {"standby": waiting()}, (session(),), None),
    ("a worker's deadline", {"standby": waiting(deadline=7.0)}, (), 7.0),
    ("that of one that was told to go", {"leaving": (waiting(deadline=7.0),)}, (), 7.0),
    ("the stall clock", {"active": worker(stall_at=6.0)}, (), 6.0),
    ("the sooner of the two", {"active": worker(stall_at=6.0, deadline=5.0)}, (), 5.0),
    ("a backoff", {}, (session(), session("later", not_before=4.0)), 4.0),
    ("the soonest of all", {"active": worker(stall_at=6.0)}, (session(not_before=8.0),), 6.0),
]


@pytest.mark.parametrize(("why", "fields", "queue", "due"), DEADLINES, ids=[row[0] for row in DEADLINES])
def test_next_deadline(why: str, fields: dict[str, Any], queue: tuple[Session, ...], due: float | None) -> None:
    assert policy.next_deadline(world(lane(**fields), lane("idle"), queue=queue)) == due


WAITS: list[tuple[str, dict[str, Any], bool]] = [
    ("nothing fits, and something is next", {"readings": readings(1, 1)}, True),
    ("nothing was read", {"readings": ()}, True),
    ("something fits: it starts by itself", {}, False),
    (
        "the end is not near: it is no matter yet",
        {"readings": readings(1, 1), "state": State.RUNNING, "active": worker()},
        False,
    ),
    ("a standby waits to climb", {"standby": IMPORTED}, True),
    ("a standby is as far as it goes", {"standby": waiting()}, False),
    ("a standby is on its way", {"standby": replace(IMPORTED, phase=Phase.LOADING)}, False),
    ("the lane is paused", {"readings": readings(1, 1), "held": True}, False),
]


@pytest.mark.parametrize(("why", "fields", "waits"), WAITS, ids=[row[0] for row in WAITS])
def test_waits_for_memory(why: str, fields: dict[str, Any], waits: bool) -> None:
    here = lane(**fields)
    assert policy.waits_for_memory(world(here, queue=(session(),)), here, 0.0) is waits


MOMENTS: list[tuple[str, dict[str, Any], bool]] = [
    ("the last batch is in flight", {"state": State.DRAINING, "active": worker(), "standby": waiting()}, True),
    ("nobody computes, the next one is warm", {"state": State.SWAPPING, "standby": waiting()}, True),
    ("it loads", {"state": State.SWAPPING, "standby": replace(IMPORTED, phase=Phase.LOADING)}, True),
    ("it waits for memory that others hold", {"state": State.SWAPPING, "standby": IMPORTED}, False),
    ("it waits while the last batch is in flight", {"state": State.DRAINING, "standby": IMPORTED}, True),
    ("a session computes", {"state": State.RUNNING, "active": worker()}, False),
    ("the next one is prepared", {"state": State.PRELOADING, "active": worker(), "standby": waiting()}, False),
]


@pytest.mark.parametrize(("why", "fields", "hands_over"), MOMENTS, ids=[row[0] for row in MOMENTS])
def test_hands_over(why: str, fields: dict[str, Any], hands_over: bool) -> None:
    here = lane(**fields)
    assert policy.hands_over(world(here), here, 0.0) is hands_over
