"""Every state with every trigger: a row of the table, or a stated reason why it changes no state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from states import events as ev
from states.lifecycle import step
from states.snapshot import State, Worker, World
from states.triggers import Trigger
from states.work import Session, Tier
from tests.core.abstraction import ITEMS, NOW, PLENTY, SHORT
from tests.core.scopes import SCOPES
from tests.core.search import check, explored
from tests.core.watching import ROWS, watched

T = Trigger
IDLE, RUNNING, NEARING_END, PRELOADING, DRAINING, SWAPPING, STOPPED = State
EVERY_BUT_STOPPED = (IDLE, RUNNING, NEARING_END, PRELOADING, DRAINING, SWAPPING)
WITHOUT_STANDBY = (IDLE, RUNNING, NEARING_END, STOPPED)

# Triggers, states, why no row is needed. Whatever is new in the table's words must be added here by hand.
UNMOVED: tuple[tuple[tuple[T, ...], tuple[State, ...], str], ...] = (
    # Nothing is done on a lane whose device is lost or that was stopped; it leaves Stopped by DeviceBack alone.
    ((T.QUEUED, T.MEMORY, T.RESUME), (STOPPED,), "a stopped lane starts nothing"),
    ((T.STOP, T.KILL, T.DEVICE_LOST), (STOPPED,), "it is stopped already; its processes were told to end"),
    ((T.CANCEL_ACTIVE, T.LAST_BATCH, T.QUIESCED, T.PROGRESS, T.STALLED), (STOPPED,), "no active session is there"),
    ((T.ACTIVE_LOST, T.ACTIVE_GROWS, T.PROMOTED), (STOPPED,), "no active session is there"),
    ((T.RETIRING_GONE, T.RETIRING_LOST), (STOPPED,), "all its workers are leaving, none retires"),
    ((T.DRAIN_LANE,), (STOPPED,), "nothing is to be drained; the lane is held, and that is all"),
    # What is not there cannot change.
    ((T.CANCEL_STANDBY, T.READY, T.STANDBY_FAILED), WITHOUT_STANDBY, "no standby is there"),
    ((T.ACTIVE_GROWS,), (IDLE, RUNNING, NEARING_END, SWAPPING), "there is no standby, or no active session beside it"),
    ((T.CANCEL_ACTIVE, T.LAST_BATCH, T.QUIESCED, T.PROGRESS, T.STALLED, T.ACTIVE_LOST), (IDLE,), "no active session"),
    ((T.PROMOTED,), (IDLE, RUNNING, NEARING_END, PRELOADING), "nobody was told to go who has not begun"),
    ((T.PROMOTED,), (DRAINING,), "it was told to drain before it began: that it began is noted, and it drains"),
    ((T.LAST_BATCH, T.QUIESCED, T.PROGRESS, T.STALLED), (SWAPPING,), "the session that was told to go has not begun"),
    ((T.PROGRESS,), (DRAINING,), "the last batch is counted; no prediction hangs on it any more"),
    ((T.STALLED,), (DRAINING,), "one that drains has a deadline, and no stall clock"),
    ((T.LAST_BATCH,), (DRAINING,), "it drains already"),
    ((T.DEVICE_BACK,), EVERY_BUT_STOPPED, "the device is not lost"),
    # What is there already, or must wait.
    ((T.QUEUED,), (PRELOADING, SWAPPING), "the next session is chosen, and a prepared one is kept"),
    ((T.MEMORY,), (RUNNING,), "the reading is kept; nothing is to be given out before the end is near"),
    ((T.RESUME,), (RUNNING,), "nothing was held up: it computes, and the next is not due"),
    ((T.RESUME,), (PRELOADING, DRAINING), "the tick that follows each decision does what may be done now"),
    ((T.DRAIN_LANE,), (IDLE,), "nothing is to be drained; the lane is held, and that is all"),
    ((T.RETIRING_GONE,), (RUNNING, NEARING_END), "its memory is free, and the next reading or tick gives it out"),
    ((T.RETIRING_LOST,), (IDLE, RUNNING, NEARING_END, PRELOADING, SWAPPING), "its session is settled; a tick follows"),
)
# Commands that are refused with a sentence in these states, whoever runs there.
REFUSED: tuple[tuple[T, tuple[State, ...]], ...] = ((T.SWAP, (IDLE, DRAINING, SWAPPING, STOPPED)),)


def _listed() -> Iterator[tuple[State, T]]:
    for triggers, states, why in UNMOVED:
        assert why
        yield from ((state, trigger) for trigger in triggers for state in states)
    for trigger, states in REFUSED:
        yield from ((state, trigger) for state in states)


def test_every_pair_has_a_row_or_a_reason() -> None:
    """The table and the list of what changes nothing are each other's complement."""
    listed = list(_listed())
    assert sorted(map(str, listed)) == sorted(set(map(str, listed))), "a pair is listed twice"
    assert not set(listed) & ROWS.keys(), "a pair has a row, and a reason to have none"
    pairs = {(state, trigger) for state in State for trigger in T}
    assert pairs - ROWS.keys() - set(listed) == set(), "pairs without a row and without a reason"


@pytest.fixture(scope="module")
def sorts() -> list[World]:
    """One world of each sort: by the lane's state, its workers' phases and troubles, and whether it stops."""
    scopes = (
        "two sessions that fail, stall, are swapped and cancelled",
        "two sessions; pauses, drained lanes, stops, kills and lost devices",
    )
    found: dict[object, World] = {}
    for scope in scopes:
        for world in explored(SCOPES[scope]).worlds:
            (lane,) = world.lanes.values()
            groups = [(w is lane.active, w is lane.standby, w in lane.retiring, w.phase) for w in lane.workers()]
            sort = (lane.state, tuple(groups), lane.held, world.stopping, lane.lost, lane.swap_asked)
            found.setdefault(sort, world)
    return list(found.values())


def test_every_event_in_every_sort_of_world(sorts: list[World]) -> None:
    """Whatever comes, in whatever order, the world stays sound: also what no worker that keeps to the protocol says."""
    count = 0
    with watched():
        for world in sorts:
            for event in _raw(world):
                decision = step(world, event)
                check(decision)
                again = step(decision.after, event)  # and said twice
                check(again)
                count += 2
    print(f"{len(sorts)} sorts of worlds, {count} events")
    assert {lane.state for world in sorts for lane in world.lanes.values()} == set(State)


def test_refused_commands_say_why(sorts: list[World]) -> None:
    """A command that a state does not allow is refused with a sentence, and nothing changes."""
    for world in sorts:
        (lane,) = world.lanes.values()
        commands: list[ev.Event] = [ev.Swap(NOW, "elsewhere"), ev.Cancel(NOW, "nobody"), ev.Move(NOW, "nobody")]
        for trigger, states in REFUSED:
            assert trigger is T.SWAP
            if lane.state in states:
                commands += [ev.Swap(NOW, lane.name), ev.Swap(NOW, lane.name, "s1", force=True)]
        for command in commands:
            decision = step(world, command)
            assert decision.refused, f"{command} in {lane.state.value}"
            assert len(decision.refused.split()) > 3, decision.refused
            assert decision.after is world
            assert not decision.effects


def test_the_gone_change_nothing(sorts: list[World]) -> None:
    """What comes from a generation that is gone changes nothing."""
    for world in sorts:
        for event in _from(world.generation + 7):
            decision = step(world, event)
            assert decision.after == world
            assert not decision.matters


def _raw(world: World) -> Iterator[ev.Event]:
    """Every kind of event there is, about everyone there."""
    (lane,) = world.lanes.values()
    name = lane.name
    yield from (ev.Tick(NOW), ev.Tick(NOW + 1e9), ev.Stop(NOW), ev.Kill(NOW))
    yield ev.Queued(NOW, Session("new", 99.0, guess_bytes=10))
    for reading in (PLENTY, SHORT):
        yield ev.Memory(NOW, name, reading.total, reading.free)
        yield ev.HostMemory(NOW, reading.total, reading.free)
        held = tuple((worker.generation, 5) for worker in lane.workers())
        yield ev.Memory(NOW, name, reading.total, reading.free, held, (ev.Holder(4000, "python3", None),))
    yield ev.Unread(NOW, name, "NVML says Unknown Error")
    yield from (ev.Pause(NOW, name), ev.Resume(NOW, name), ev.DrainLane(NOW, name))
    yield from (ev.Swap(NOW, name), ev.Swap(NOW, name, force=True))
    yield from (ev.DeviceLost(NOW, name, "gone"), ev.DeviceBack(NOW, name))
    for session in world.queue:
        yield from (ev.Cancel(NOW, session.name), ev.Swap(NOW, name, session.name), ev.Move(NOW, session.name))
    for worker in lane.workers():
        yield ev.Cancel(NOW, worker.session.name)
        yield from _from(worker.generation, worker)


def _from(generation: int, worker: Worker | None = None) -> Iterator[ev.FromWorker]:
    g = generation
    yield ev.Hello(NOW, g, 1)
    yield from (ev.Ready(NOW, g, tier, 1.0, ITEMS, 10) for tier in (Tier.IMPORTED, Tier.WARM))
    yield ev.Promoted(NOW, g, NOW)
    yield from (ev.Progress(NOW, g, 1, 0), ev.Progress(NOW, g, ITEMS, ITEMS, ITEMS, 20))
    yield ev.LastBatch(NOW, g)
    yield from (ev.Quiesced(NOW, g, NOW, ITEMS, 0), ev.Quiesced(NOW, g, NOW, 1, None), ev.Quiesced(NOW, g, NOW, 9, 9))
    yield from (ev.Committed(NOW, g, 1), ev.Committed(NOW, g, ITEMS))
    yield from (ev.Failed(NOW, g, kind, "why") for kind in ("model", "memory"))
    yield from (ev.Exited(NOW, g, status) for status in (0, 1, -9, None))
