"""Why a queued session is not running: what keeps it on the lanes that could ever hold it, and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daemon import obstacles
from states.snapshot import Fate, Lane, Phase, State, World
from states.work import Session
from tests.core.worlds import GIB, computing, lane, readings, session, waiting, world

SMALL = lane("gpu0", device="gpu", index=0, readings=readings(16, 16, total=16))
LARGE = lane("gpu1", device="gpu", index=1, readings=readings(24, 24, total=24))
LOST = replace(LARGE, lost="it fell off the bus", readings=())
HUGE = session("huge", device="any", stated_bytes=22 * GIB, prepares=False, stepwise=False)
BACK = "batonctl resume lets it go on"
CANCEL = "batonctl cancel huge takes it out of the queue"


def reason(wanted: Session, *lanes: Lane) -> str:
    here: World = world(*lanes, queue=(wanted,))
    said = obstacles.waiting_reason(here, wanted, 0.0)
    assert said == obstacles.waiting_reasons(here, 0.0)[wanted.name]
    return said


@pytest.mark.parametrize(
    ("lanes", "words"),
    [
        ((SMALL, replace(LARGE, held=True)), f"lane gpu1 is paused; {BACK}; it can never fit on gpu0"),
        ((SMALL, LOST), "lane gpu1: the device is lost: it fell off the bus; it can never fit on gpu0"),
        (
            (SMALL,),
            f"can never fit: it needs 22.0 GiB, and 1.0 GiB are kept free; gpu0 has 16.0 GiB; {CANCEL}",
        ),
        (
            (replace(SMALL, held=True), LARGE),
            "next on gpu1: huge is next",
        ),
        ((LOST, replace(LARGE, name="gpu2", held=True)), f"lane gpu2 is paused; {BACK}"),
    ],
    ids=["paused", "lost", "too-large", "free", "lost-and-paused"],
)
def test_a_session_is_kept_by_what_keeps_the_lanes_that_could_hold_it(lanes: tuple[Lane, ...], words: str) -> None:
    assert reason(HUGE, *lanes) == words


def test_a_device_that_no_lane_has_comes_with_what_to_do() -> None:
    wanted = replace(HUGE, device="gpu:7")
    assert reason(wanted, SMALL) == f"no lane has the device gpu:7; bring it back, or {CANCEL}"


@pytest.mark.parametrize(
    ("asked", "fate", "order", "words"),
    [
        (True, Fate.COMPLETE, 0.0, "after cold and zero, which comes back to the queue before it"),
        (False, Fate.REQUEUE, 0.0, "after cold and zero, which comes back to the queue before it"),
        (True, Fate.COMPLETE, 5.0, "after cold"),
        (True, Fate.CANCEL, 0.0, "after cold"),
        (False, Fate.COMPLETE, 0.0, "after cold"),
    ],
    ids=["swap", "drained", "comes-back-behind", "cancelled", "no-swap"],
)
def test_a_session_that_is_swapped_out_comes_back_before_those_behind_it(
    asked: bool, fate: Fate, order: float, words: str
) -> None:
    active = computing(30.0, session=session("zero", order), fate=fate)
    standby = waiting(None, session=session("cold", 1.0), phase=Phase.LOADING)
    here = lane(state=State.PRELOADING, active=active, standby=standby, swap_asked=asked)
    assert reason(session("third", 2.0), here) == f"next on cpu, {words}"
