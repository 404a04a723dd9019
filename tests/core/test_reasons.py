"""What a person is told of a world: each sentence, and each figure behind it, is so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from states import details, reasons
from states.events import Holder, Swap
from states.snapshot import Fate, Lane, Phase, State, Worker
from states.work import Profile
from tests.core import worlds

AT = 0.0


def of_active(lane: Lane) -> str:
    """What is said of the session that computes."""
    assert lane.active is not None
    (line,) = details.of_worker(worlds.world(lane), lane, lane.active, AT)
    return line


def test_an_end_is_told_as_far_as_it_can_be_known() -> None:
    """With a total and a pace when; with a total only, not yet; without one, never."""
    paced = worlds.computing(30.0, done=106, total=200)
    assert of_active(worlds.lane(state=State.RUNNING, active=paced)).startswith("active: 106 of 200 items done; ")
    assert " to go" in of_active(worlds.lane(state=State.RUNNING, active=paced))
    unpaced = worlds.worker(done=0, total=200)
    assert of_active(worlds.lane(state=State.RUNNING, active=unpaced)) == "active: 0 of 200 items done; no pace yet"
    endless = worlds.lane(state=State.NEARING_END, active=replace(paced, total=None))
    assert of_active(endless) == ("active: 106 items done, of how many is not known; its end cannot be predicted")


LOADING = worlds.waiting(None, phase=Phase.LOADING)


def swapped(state: State, **fields: object) -> Lane:
    """A lane whose session is to make room for the one that is being prepared."""
    return worlds.lane(state=state, active=worlds.computing(30.0, **fields), standby=LOADING, swap_asked=True)


def test_a_swap_that_was_asked_for_is_told_until_it_is_done() -> None:
    preparing = swapped(State.PRELOADING)
    assert reasons.reason(worlds.world(preparing), preparing, AT) == (
        "a swap was asked for; standby is being prepared (warm)"
    )
    assert of_active(preparing).endswith("; it goes back to the queue as soon as the next one is prepared")
    cancelled = swapped(State.PRELOADING, fate=Fate.CANCEL)
    assert of_active(cancelled).endswith("; it is being cancelled")
    draining = swapped(State.DRAINING, phase=Phase.DRAINING, fate=Fate.REQUEUE)
    assert reasons.reason(worlds.world(draining), draining, AT) == (
        "a swap was asked for; active finishes the batch in flight"
    )
    assert of_active(draining).endswith("; it goes back to the queue")


@pytest.mark.parametrize(
    ("state", "active", "words"),
    [
        (State.DRAINING, worlds.worker(phase=Phase.DRAINING), "Draining: active finishes the batch in flight already"),
        (State.SWAPPING, worlds.worker(phase=Phase.GOING), "Swapping: active begins its first item"),
        (State.IDLE, None, "Idle, and no session is computing on it"),
    ],
    ids=["draining", "beginning", "idle"],
)
def test_a_swap_is_refused_with_what_the_lane_does(state: State, active: Worker | None, words: str) -> None:
    here = worlds.lane(state=state, active=active)
    said = reasons.swap_refusal(worlds.world(here), here, Swap(AT, "cpu"))
    assert said == f"cannot swap lane cpu: it is {words}"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (
            15 * worlds.GIB + 600 * worlds.MIB,
            "on cpu it can never fit: it needs 15.6 GiB, and 1.0 GiB are kept free; cpu has 16.0 GiB",
        ),
        (
            3 * worlds.GIB + 600 * worlds.MIB,
            "on cpu it needs 3.6 GiB (as stated) and 1.0 GiB are kept free; 4.0 GiB can be given out,"
            " 600 MiB too little just now",
        ),
        (
            800 * worlds.MIB,
            "on cpu it needs 800 MiB (as stated) and 1.0 GiB are kept free; 4.0 GiB can be given out, which fits now",
        ),
    ],
    ids=["never", "too-little", "fits"],
)
def test_what_a_session_needs_adds_up(stated: int, words: str) -> None:
    """What is needed and what is kept free, less what there is, is what is missing."""
    wanted = worlds.session(stated_bytes=stated, stepwise=False)
    here = worlds.lane(readings=worlds.readings(4, 4), imported_bytes=0)
    assert words in tuple(details.of_queued(worlds.world(here, queue=(wanted,)), wanted, AT))


def test_the_memory_of_a_device_adds_up() -> None:
    """Ours by the process that is recorded, those of others by theirs, and what nobody is named for."""
    gib = worlds.GIB
    program = worlds.computing(30.0, session=worlds.session("p", stepwise=False), held_bytes=5 * gib, reserved=6 * gib)
    built_in = replace(worlds.waiting(session=worlds.session("b")), held_bytes=4 * gib, reserved=4 * gib)
    gpu = worlds.lane(
        "gpu0",
        device="gpu",
        state=State.PRELOADING,
        active=program,
        standby=built_in,
        readings=worlds.readings(1, 1),
        foreign=(Holder(812, "python3", 2 * gib),),
    )
    lines = tuple(details.of_lane(worlds.world(gpu), gpu, AT, {1: 4711, 2: 4712}))
    assert "memory: 16.0 GiB, 1.0 GiB free, 0 MiB can be given out, 1.0 GiB are kept free" in lines
    assert lines[-4:] == (
        "pid 4711 with what it started (p, active) holds 5.0 GiB of 6.0 GiB that were given to it",
        "pid 4712 (b, standby) holds 4.0 GiB of 4.0 GiB that were given to it",
        "pid 812 (python3), which is not batond's, holds 2.0 GiB",
        "3.0 GiB are taken, and no process is named for them",
    )


def test_short_times_are_told_with_their_tenths() -> None:
    here = worlds.lane(state=State.RUNNING, active=worlds.computing(2.84))
    queue = (worlds.session("next", profile="m"),)
    profiles = {"m@cpu": Profile(prepared_s=(0.05,))}
    said = reasons.reason(worlds.world(here, queue=queue, profiles=profiles), here, AT)
    assert said == "2.8 s remain; the next is prepared 0.6 s before the end"
