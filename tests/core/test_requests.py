"""What a person may ask for: the refusals of a swap in a table, and the order of the queue."""

from __future__ import annotations

from typing import Any

import pytest

from states import reasons
from states.events import Move, Queued, Swap
from states.lifecycle import step
from states.snapshot import State, World
from states.work import Session
from tests.core.worlds import (
    lane,
    session,
    waiting,
    worker,
    world,
)

IN_HAND: dict[str, Any] = {"state": State.RUNNING, "active": worker()}
NEXT_UP = (session("next"), session("gpu-only", 1.0, device="gpu"), session("later", 2.0, not_before=30.0))
SWAPS: list[tuple[str, dict[str, Any], dict[str, Any], str | None]] = [
    ("to the next", {}, {}, None),
    ("to one that is named", {}, {"to": "next"}, None),
    (
        "to the one that is prepared, which is in no queue",
        {"state": State.PRELOADING, "standby": waiting()},
        {"to": "standby"},
        None,
    ),
    ("nobody computes", {"state": State.IDLE, "active": None}, {}, "it is Idle, and no session is computing on it"),
    (
        "the active one drains already",
        {"state": State.DRAINING},
        {},
        "it is Draining: active finishes the batch in flight",
    ),
    (
        "a lane without an active session, preparing",
        {"state": State.PRELOADING, "active": None, "standby": waiting()},
        {},
        "no session is computing",
    ),
    ("the lane is paused", {"held": True}, {}, "batonctl resume"),
    (
        "one that would lose its work",
        {"active": worker(session=session("once", resumable=False))},
        {},
        "once cannot resume",
    ),
    ("unless it is meant", {"active": worker(session=session("once", resumable=False))}, {"force": True}, None),
    ("to one that is nowhere", {}, {"to": "nobody"}, "no session nobody is queued"),
    ("to one for another device", {}, {"to": "gpu-only"}, "gpu-only asks for device gpu"),
    ("to one that is tried again later", {}, {"to": "later"}, "later is tried again in 20 s, not before"),
    ("to one that another lane will take", {}, {"to": "taken"}, "taken is reserved for another lane"),
    ("to one that waits for others", {}, {"to": "dependent"}, "dependent waits for x, y"),
]


@pytest.mark.parametrize(("why", "fields", "asked", "refusal"), SWAPS, ids=[row[0] for row in SWAPS])
def test_swap_refusal(why: str, fields: dict[str, Any], asked: dict[str, Any], refusal: str | None) -> None:
    here = lane(**(IN_HAND | fields))
    queue = (*NEXT_UP, session("taken", 3.0), session("dependent", 4.0, waits_for=frozenset({"y", "x"})))
    said = reasons.swap_refusal(
        world(here, lane("other", reserved="taken"), queue=queue), here, Swap(10.0, "cpu", **asked)
    )
    assert (said is None) == (refusal is None), said
    assert refusal is None or refusal in str(said)


def test_a_swap_to_nothing_is_refused() -> None:
    """To the next, and nothing is due."""
    here = lane(**IN_HAND)
    said = reasons.swap_refusal(world(here, queue=(session("later", not_before=30.0),)), here, Swap(10.0, "cpu"))
    assert said == "cannot swap lane cpu: no queued session is due that may run on it"


def queued(*sessions: Session) -> World:
    """A world with these sessions queued, on a paused lane."""
    here = world(lane(held=True))
    for each in sessions:
        here = step(here, Queued(0.0, each)).after
    return here


def names(here: World) -> list[str]:
    return [each.name for each in here.queue]


def test_the_queue_is_ordered_by_priority_then_place_then_name() -> None:
    """However they came."""
    here = queued(session("d", 2.0), session("b", 1.0), session("a", 9.0, priority=1), session("c", 1.0))
    assert names(here) == ["a", "b", "c", "d"]


def test_a_session_can_be_moved_between_the_same_two_for_ever() -> None:
    """Each move halves the gap; when a float has no room left in it, what follows makes room."""
    here = queued(*(session(name, float(place)) for place, name in enumerate("abxyz", 1)))
    for number in range(200):
        here = step(here, Move(0.0, "xy"[number % 2], before="b")).after
        if number:
            assert names(here) == ["a", "yx"[number % 2], "xy"[number % 2], "b", "z"], number


def test_room_is_made_where_two_share_a_place() -> None:
    """Sessions of one place stand by name; before the second of them is between the two, whatever the name."""
    alike = [session(name, 1.0) for name in "bcd"]
    here = queued(*alike, session("a", 2.0), session("z", 3.0), session("top", 1.0, priority=1))
    assert names(step(here, Move(0.0, "a", before="c")).after) == ["top", "b", "a", "c", "d", "z"]
    assert names(step(here, Move(0.0, "z", before="d")).after) == ["top", "b", "c", "z", "d", "a"]


def test_a_move_before_the_first_leaves_room() -> None:
    """Again and again: the places go down, and never meet those of another priority."""
    here = queued(session("a", 1.0), session("b", 2.0), session("top", 1.0, priority=9))
    for number in range(100):
        here = step(here, Move(0.0, "ba"[number % 2], before="ab"[number % 2])).after
        assert names(here) == ["top", "ba"[number % 2], "ab"[number % 2]]


def test_first_and_last_are_among_equals() -> None:
    """Priority is not given away by `first`, nor lost by `last`."""
    here = queued(session("high", 1.0, priority=1), session("a", 2.0), session("b", 3.0), session("c", 4.0))
    assert names(step(here, Move(0.0, "c")).after) == ["high", "c", "a", "b"]
    assert names(step(here, Move(0.0, "a", last=True)).after) == ["high", "b", "c", "a"]
    assert names(step(here, Move(0.0, "high", last=True)).after) == ["high", "a", "b", "c"]
    assert names(step(here, Move(0.0, "high", before="b")).after) == ["a", "high", "b", "c"]
