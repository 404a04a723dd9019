"""What is next and what is near, in tables; each row says why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from states import policy
from states.snapshot import Lane, Phase, Worker
from states.work import Lead, Profile, Session
from tests.core.worlds import (
    PROGRAM,
    computing,
    lane,
    session,
    waiting,
    worker,
    world,
)

# The queue

HEADS = [
    ("nothing is queued", (), lane(), None),
    ("the first in the queue's order", (session("a"), session("b", 1.0)), lane(), "a"),
    (
        "one that waits for another is passed over",
        (session("a", waits_for=frozenset({"x"})), session("b")),
        lane(),
        "b",
    ),
    ("one that is tried again later is passed over", (session("a", not_before=11.0), session("b")), lane(), "b"),
    ("at its time it is due", (session("a", not_before=10.0), session("b")), lane(), "a"),
    ("one for another kind of device is passed over", (session("a", device="gpu"), session("b")), lane(), "b"),
    ("any device is this one", (session("a", device="any"),), lane(device="gpu", index=0), "a"),
    ("this kind of device is this one", (session("a", device="gpu"),), lane(device="gpu", index=0), "a"),
    ("this very device", (session("a", device="gpu:1"),), lane(device="gpu", index=1), "a"),
    ("another of its kind is not this one", (session("a", device="gpu:1"),), lane(device="gpu", index=0), None),
    ("this device by its UUID", (session("a", device="GPU-7"),), lane(device="gpu", index=0, uuid="GPU-7"), "a"),
    ("a CPU has no index", (session("a", device="cpu:0"),), lane(index=0), None),
    ("the one that is reserved here comes first", (session("a"), session("b")), lane(reserved="b"), "b"),
    ("what is reserved here and gone is no reservation", (session("a"), session("b")), lane(reserved="x"), "a"),
    (
        "what is reserved here and not due lets others pass",
        (session("a"), session("b", not_before=99.0)),
        lane(reserved="b"),
        "a",
    ),
]


@pytest.mark.parametrize(("why", "queue", "here", "name"), HEADS, ids=[row[0] for row in HEADS])
def test_head(why: str, queue: tuple[Session, ...], here: Lane, name: str | None) -> None:
    found = policy.head(world(here, queue=queue), here, 10.0)
    assert (found.name if found else None) == name


def test_what_another_lane_reserved_is_not_next_here() -> None:
    """Only for those that compute, or still commit: on its own lane it is, and on one that is free now."""
    busy, other, free = lane("one", active=worker()), lane("two", reserved="a"), lane("three")
    done = lane("four", retiring=(worker(phase=Phase.COMMITTING),))
    all_ = world(busy, other, free, done, queue=(session("a"), session("b")))
    found = [policy.head(all_, each, 0.0) for each in (busy, other, free, done)]
    assert [each.name if each else None for each in found] == ["b", "a", "a", "b"]


def test_what_a_swap_is_asked_for_is_nobody_elses() -> None:
    free, swaps = lane("one"), lane("two", active=worker(), reserved="a", swap_asked=True)
    found = policy.head(world(free, swaps, queue=(session("a"), session("b"))), free, 0.0)
    assert found is not None
    assert found.name == "b"


NEXT = [
    ("an idle lane starts", {}, True),
    ("one that computes prepares the next", {"active": worker()}, True),
    ("one whose last session retires prepares the next", {"retiring": (worker(phase=Phase.COMMITTING),)}, True),
    ("there is a standby already", {"standby": waiting()}, False),
    ("a discarded one is not gone yet", {"leaving": (waiting(),)}, False),
    ("the lane is paused", {"held": True}, False),
    ("its device is lost", {"lost": "Xid 79"}, False),
]


@pytest.mark.parametrize(("why", "fields", "starts"), NEXT, ids=[row[0] for row in NEXT])
def test_next_session(why: str, fields: dict[str, Any], starts: bool) -> None:
    here = lane(**fields)
    assert (policy.next_session(world(here, queue=(session(),)), here, 0.0) is not None) is starts


def test_a_stopping_daemon_starts_nothing() -> None:
    """Whatever is queued."""
    assert policy.next_session(world(lane(), queue=(session(),), stopping=True), lane(), 0.0) is None


@pytest.mark.parametrize("busy", [{"active": worker()}, {"retiring": (worker(phase=Phase.COMMITTED),)}])
def test_a_program_that_cannot_prepare_waits_for_the_device(busy: dict[str, Any]) -> None:
    """It would compute as soon as it is started; and it is not overtaken either, or it would never be started."""
    queue = (PROGRAM, session("later", 1.0))
    here = lane(**busy)
    assert policy.next_session(world(here, queue=queue), here, 0.0) is None
    free = policy.next_session(world(lane(), queue=queue), lane(), 0.0)
    assert free is PROGRAM


def test_a_wait_that_is_over_is_no_wait() -> None:
    """The queue stays the same object where nothing became due: a queue of thousands is looked at each second."""
    queue = (session("a", not_before=5.0), session("b", not_before=9.0), session("c"))
    assert policy.due(queue, 4.9) is queue
    assert [each.not_before for each in policy.due(queue, 5.0)] == [0.0, 9.0, 0.0]


# The end of the active session

NEARS = [
    ("nobody computes", None, False),
    ("the total is not known: at once", computing(500.0, total=None), True),
    ("nothing is known of its pace yet", worker(total=100), False),
    ("a minute before the end, where nothing is known of the next", computing(60.0), True),
    ("the prediction's spread is on the safe side", computing(62.0), True),
    ("longer before it is not near", computing(64.0), False),
    ("an uneven pace is near sooner", computing(64.0, noise=1.0), True),
    ("its own seconds", computing(64.0, session=session(lead=Lead(seconds=61.0))), True),
    ("its own seconds, fewer", computing(30.0, session=session(lead=Lead(seconds=20.0))), False),
    ("no seconds at all: at its end", computing(0.01, session=session(lead=Lead(seconds=0.0))), False),
    ("its own fraction", computing(500.0, done=90, session=session(lead=Lead(fraction=0.9))), True),
    ("its own fraction, not reached", computing(1.0, done=89, session=session(lead=Lead(fraction=0.9))), False),
    (
        "its own fraction, before its pace is known",
        worker(done=95, total=100, session=session(lead=Lead(fraction=0.9))),
        True,
    ),
    ("one that drains is handed over already", replace(computing(1.0), phase=Phase.DRAINING), False),
    ("one that has not begun has no end yet", replace(computing(1.0), phase=Phase.GOING), False),
]


@pytest.mark.parametrize(("why", "active", "near"), NEARS, ids=[row[0] for row in NEARS])
def test_near(why: str, active: Worker | None, near: bool) -> None:
    here = lane(active=active)
    assert policy.near(world(here, queue=(session("next"),)), here, 0.0) is near


def test_what_stands_still_comes_no_nearer() -> None:
    """Four samples long (of a second here) it may be slow; then it is at a stop, and the clock says nothing."""
    here = lane(active=replace(computing(100.0), stall_at=900.0))
    assert here.active is not None
    assert here.active.pace is not None
    assert here.active.pace.stopped_at == 4.0
    left = [policy.remaining(here, at) for at in (0.0, 3.0, 4.0, 99.0)]
    assert [each.seconds for each in left if each is not None] == pytest.approx([100.0, 97.0, 96.0, 96.0])
    assert not policy.near(world(here, queue=(session("next"),)), here, 99.0)


def test_in_a_rehearsal_the_clock_alone_brings_the_end_nearer() -> None:
    """Nobody reports there, and nobody stalls."""
    for stall_at in (None, math.inf):
        here = lane(active=replace(computing(100.0), stall_at=stall_at))
        assert policy.near(world(here, queue=(session("next"),)), here, 99.0)


def test_the_lead_is_that_of_the_session_that_is_next_here() -> None:
    """What is learned on a GPU says nothing of the CPU; a session is known by its model, not by its name."""
    here = lane(active=computing(20.0))
    queue = (session("not-due", not_before=99.0, profile="slow"), session("next", 1.0, profile="quick"))
    profiles = {
        "quick@cpu": Profile(prepared_s=(5.0,)),
        "quick@gpu": Profile(prepared_s=(50.0,)),
        "slow@cpu": Profile(prepared_s=(50.0,)),
    }
    assert policy.lead(world(here, queue=queue, profiles=profiles), here, 0.0) == pytest.approx(6.5)
    assert policy.lead(world(here, queue=queue, profiles=profiles), here, 99.0) == pytest.approx(60.5)


FARS = [
    ("a quarter and a second beyond the lead is far", computing(20 * 1.25 + 1.0 + 2.0), True),
    ("beyond the lead, and not by so much: the prediction's unrest", computing(20 * 1.25), False),
    ("near is not far", computing(10.0), False),
    ("what cannot be predicted is not far", worker(total=100), False),
    ("a session without a total never is", computing(500.0, total=None), False),
    ("a share of the items does not move away", computing(500.0, session=session(lead=Lead(fraction=0.1))), False),
]


@pytest.mark.parametrize(("why", "active", "far"), FARS, ids=[row[0] for row in FARS])
def test_far(why: str, active: Worker, far: bool) -> None:
    if active.session.lead.fraction is None:
        active = replace(active, session=session(lead=Lead(seconds=20.0)))
    here = lane(active=active)
    assert policy.far(world(here), here, 0.0) is far


def test_near_and_far_leave_a_gap() -> None:
    """Between the two nothing happens: a prediction that trembles around the lead moves no lane."""
    for seconds in range(1, 60):
        here = lane(active=computing(float(seconds), session=session(lead=Lead(seconds=20.0))))
        near, far = policy.near(world(here), here, 0.0), policy.far(world(here), here, 0.0)
        assert not (near and far)
        assert (near, far) == ((seconds <= 21), (seconds >= 28)), seconds


KNOWN = {"standby@cpu": Profile(alone_s=(4.0,))}
LOADING = waiting(phase=Phase.LOADING, tier=None, low_priority=True)
URGENT = [
    ("as much is left as it takes at normal priority", computing(10.5), LOADING, KNOWN, True),
    ("more is left", computing(12.0), LOADING, KNOWN, False),
    ("nothing is known of it: five seconds", computing(5.0), LOADING, {}, True),
    ("nothing is known of it, and more is left", computing(7.0), LOADING, {}, False),
    ("it is ready already", computing(1.0), replace(LOADING, phase=Phase.READY), KNOWN, False),
    ("it has its normal priority already", computing(1.0), replace(LOADING, low_priority=False), KNOWN, False),
    ("the end cannot be predicted", worker(total=100), LOADING, KNOWN, False),
    ("there is nobody to be quicker for", None, LOADING, KNOWN, False),
]


@pytest.mark.parametrize(("why", "active", "standby", "profiles", "urgent"), URGENT, ids=[row[0] for row in URGENT])
def test_urgent(why: str, active: Worker | None, standby: Worker, profiles: dict[str, Profile], urgent: bool) -> None:
    here = lane(active=active, standby=standby)
    assert policy.urgent(world(here, profiles=profiles), here, 0.0) is urgent
