"""What the simulation found wrong in the core, each as the one step that decides it."""

from __future__ import annotations

from states import events as ev
from states.decision import Decision
from states.gate import spare
from states.lifecycle import step
from states.notes import SessionQueued, SessionRetried
from states.snapshot import Fate, Phase, Reading, State, Worker, World
from tests.core import worlds
from tests.core.worlds import GIB, LIMITS

FULL = (Reading(1.0, 16 * GIB, 16 * GIB), Reading(2.0, 16 * GIB, 16 * GIB))


def after_exit(worker: Worker, status: int | None, *, active: bool = False) -> Decision:
    """The worker, active or retiring on its lane, exits."""
    parts = {"state": State.DRAINING, "active": worker} if active else {"retiring": (worker,)}
    world = World({"cpu": worlds.lane(**parts)}, limits=LIMITS, generation=1)
    return step(world, ev.Exited(10.0, worker.generation, status))


def test_who_was_told_to_go_has_begun() -> None:
    """Drained and killed before it was heard to start: rows may lie there, and the next worker must know."""
    worker = worlds.worker(phase=Phase.DRAINING, fate=Fate.REQUEUE, deadline=20.0)
    decision = after_exit(worker, -9, active=True)
    assert [session.begun for session in decision.after.queue] == [True]


def test_an_adopted_worker_that_hands_back_nothing_new_costs_no_attempt() -> None:
    """The daemon before may have told it to drain: that is no failure of the session."""
    worker = worlds.worker(phase=Phase.COMMITTED, adopted=True, total=100, start=0, cursor=0, deadline=20.0)
    decision = after_exit(worker, None)
    assert [type(note) for note in decision.notes if isinstance(note, SessionRetried)] == []
    back = [note for note in decision.notes if isinstance(note, SessionQueued)]
    assert [(note.reason, note.session.attempt) for note in back] == [("handed back", 0)]


def test_a_reading_from_before_a_worker_counts_it_as_taken() -> None:
    """A stranger holds 8 of 16 GiB; the readings are older than the worker, and do not show its 4."""
    half = tuple(Reading(each.at, 16 * GIB, 8 * GIB) for each in FULL)
    worker = worlds.worker(reserved=4 * GIB, held_bytes=4 * GIB, ready_at=5.0, deadline=20.0)
    assert spare(worlds.lane(readings=half, retiring=(worker,)), LIMITS) == 4 * GIB


def test_memory_of_an_ended_worker_is_not_free_before_a_reading_shows_it() -> None:
    """The readings are older than the worker; how much of what it held is back, none of them can tell."""
    worker = worlds.worker(
        phase=Phase.COMMITTED, settled=True, reserved=4 * GIB, held_bytes=4 * GIB, ready_at=5.0, deadline=20.0
    )
    world = World({"cpu": worlds.lane(readings=FULL, retiring=(worker,))}, limits=LIMITS, generation=1)
    gone = step(world, ev.Exited(10.0, worker.generation, 0)).after
    assert spare(gone.lanes["cpu"], LIMITS) == 12 * GIB
    for at in (11.0, 12.0):
        gone = step(gone, ev.Memory(at, "cpu", 16 * GIB, 16 * GIB)).after
    assert spare(gone.lanes["cpu"], LIMITS) == 16 * GIB
