"""What the core once got wrong, a test each: found by the search, the random worlds, or reading the table aloud."""

from __future__ import annotations

import pytest

from states import events as ev
from states.decision import Decision
from states.effects import DrainActive, EndWorker, Promote, StartStandby
from states.lifecycle import step
from states.notes import HandoverCompleted
from states.policy import next_deadline
from states.snapshot import Lane, Limits, Phase, State, World
from states.work import Lead, Session, Tier
from tests.core.search import check

GIB = 1 << 30


class Told:
    """A lane of plenty, and what it is told; a tick follows only where a test says so."""

    def __init__(self, *sessions: Session) -> None:
        self.world = World({"cpu": Lane("cpu", imported_bytes=GIB // 2)}, limits=Limits(readings=1))
        self.memory(0, 16)
        for session in sessions:
            self.tell(ev.Queued(0, session))

    def tell(self, event: ev.Event) -> Decision:
        decision = step(self.world, event)
        check(decision)
        self.world = decision.after
        return decision

    def memory(self, at: float, free: float) -> Decision:
        return self.tell(ev.Memory(at, "cpu", 16 * GIB, round(free * GIB)))

    @property
    def lane(self) -> Lane:
        return self.world.lanes["cpu"]

    def compute(self, generation: int, at: float, *, done: int = 50) -> None:
        """Ready, promoted, half way through a hundred items, a tenth of a second each."""
        self.tell(ev.Ready(at, generation, Tier.WARM, 1.0, 100, GIB))
        self.tell(ev.Promoted(at, generation, at))
        self.tell(ev.Progress(at + 1, generation, done - 10, 0, 100, GIB))
        self.tell(ev.Progress(at + 2, generation, done, 0, 100, GIB))
        self.tell(ev.Tick(at + 2))


def session(name: str, order: float = 0.0, *, lead: float | None = None, gib: int = 1) -> Session:
    return Session(name, order, guess_bytes=gib * GIB, lead=Lead(seconds=lead))


def test_a_report_while_draining_starts_no_stall_clock() -> None:
    """It muted the tick: one jump of time past both, and the worker's deadline was never acted on again."""
    told = Told(session("a"))
    told.compute(1, 1)
    told.tell(ev.DrainLane(4, "cpu"))
    told.tell(ev.Progress(5, 1, 60, 50, 100))
    assert any(isinstance(effect, EndWorker) for effect in told.tell(ev.Tick(10_000)).effects)


def test_a_wait_that_is_over_is_no_deadline() -> None:
    """A session back from its wait, but not begun, kept the loop's timer in the past: the daemon span."""
    told = Told(session("a"), session("b", 1))
    told.tell(ev.Pause(0, "cpu"))
    told.tell(ev.Exited(1, 1, -9))
    due = next_deadline(told.world)
    assert due is not None
    assert 2.0 < due <= 3.0
    told.tell(ev.Tick(due))
    assert next_deadline(told.world) is None


def test_who_is_discarded_for_room_keeps_its_place() -> None:
    """The next in the queue was reserved while the discarded one's process ended, and overtook it."""
    told = Told(session("a", 0), session("b", 1), session("c", 2))
    told.compute(1, 1)
    assert told.lane.standby is not None
    assert told.memory(4, 0.1).after.lanes["cpu"].state is State.NEARING_END
    told.tell(ev.Exited(5, 2, 0))
    told.memory(6, 16)
    assert told.lane.standby is not None
    assert told.lane.standby.session.name == "b"


def test_a_swap_is_not_lost_to_a_reading() -> None:
    """Asked for while the standby could still climb; then a reading came that no longer allowed it."""
    told = Told(session("a", 0, gib=4), session("b", 1, gib=2))
    told.memory(0, 4)
    told.tell(ev.Tick(0))
    told.tell(ev.Ready(1, 1, Tier.IMPORTED, 1.0, 100))
    told.memory(1, 16)
    told.memory(1, 4)
    told.compute(1, 2)
    told.memory(5, 4)  # less the 3 GiB that the active session may still grow by
    told.tell(ev.Tick(5))
    told.tell(ev.Ready(6, 2, Tier.IMPORTED, 1.0, 9))
    told.tell(ev.Progress(7, 1, 60, 0, 100, 3 * GIB))  # it holds 3 GiB: 3 of the 4 may be given out
    told.tell(ev.Swap(7, "cpu"))
    assert told.lane.state is State.PRELOADING, "the standby is about to climb, and then the swap is done"
    told.memory(7, 1.2)  # it cannot climb any more
    told.tell(ev.Tick(7))
    assert told.lane.state is State.DRAINING


def test_a_paused_lane_drains_nobody() -> None:
    """A swap was asked for, the lane paused, the standby ready: what ran was drained, and the device stood idle."""
    told = Told(session("a", 0))
    told.compute(1, 1)
    told.tell(ev.Queued(4, session("b", 1)))
    told.tell(ev.Swap(4, "cpu"))
    told.tell(ev.Tick(4))
    told.tell(ev.Pause(5, "cpu"))
    assert not any(isinstance(effect, DrainActive) for effect in told.tell(ev.Ready(6, 2, Tier.WARM, 1.0, 9)).effects)
    told.tell(ev.Tick(6))
    assert told.lane.state is State.PRELOADING
    told.tell(ev.Resume(7, "cpu"))
    assert any(isinstance(effect, DrainActive) for effect in told.tell(ev.Tick(7)).effects)


def test_quiesced_before_started_is_not_heard() -> None:
    """It left a lane in Swapping with an active session that was committing."""
    told = Told(session("a"))
    told.tell(ev.Ready(1, 1, Tier.WARM, 1.0, 100, GIB))
    assert told.lane.state is State.SWAPPING
    told.tell(ev.Quiesced(2, 1, 2, 100, 0))
    assert told.lane.active is not None
    assert told.lane.active.phase is Phase.GOING


def test_a_late_hello_takes_nothing_back() -> None:
    """It set done and cursor back to what they were at the beginning."""
    told = Told(session("a"))
    told.compute(1, 1)
    told.tell(ev.Hello(4, 1, 0))
    assert told.lane.active is not None
    assert told.lane.active.done == 50


@pytest.mark.parametrize("kind", ["model", "memory"])
def test_a_standby_that_failed_is_not_promoted(kind: str) -> None:
    """It was ready, said that its session cannot go on, and was given the device all the same."""
    told = Told(session("a", 0), session("b", 1))
    told.compute(1, 1)
    told.tell(ev.Ready(4, 2, Tier.WARM, 1.0, 100, GIB))
    told.tell(ev.Failed(5, 2, kind, "bad luck"))
    decision = told.tell(ev.Quiesced(6, 1, 6, 100, 0))
    assert not any(isinstance(effect, Promote) for effect in decision.effects)


def test_what_a_failed_session_leaves_is_abandoned() -> None:
    """Items of a session that had failed for good were counted as handed back."""
    told = Told(session("a", 0), session("b", 1))
    told.compute(1, 1)
    told.tell(ev.Failed(4, 1, "program", "ValueError"))
    told.tell(ev.Exited(5, 1, 1))
    told.tell(ev.Ready(6, 2, Tier.WARM, 1.0, 100, GIB))
    decision = told.tell(ev.Promoted(7, 2, 7))
    (note,) = (note for note in decision.notes if isinstance(note, HandoverCompleted))
    assert (note.items_in, note.items_returned, note.items_abandoned) == (100, 0, 100)


def test_ready_said_twice_is_heard_once() -> None:
    """The second, of the lower tier, made the worker wait that was on its way to the higher one."""
    told = Told()
    told.memory(0, 1)
    assert any(isinstance(e, StartStandby) for e in told.tell(ev.Queued(0, session("a", gib=2))).effects)
    told.tell(ev.Ready(1, 1, Tier.IMPORTED, 1.0))
    assert told.memory(2, 16).effects
    told.memory(3, 0.1)
    told.tell(ev.Ready(3, 1, Tier.IMPORTED, 1.0))
    assert told.lane.standby is not None
    assert told.lane.standby.phase is Phase.LOADING
    assert any(isinstance(e, Promote) for e in told.tell(ev.Ready(4, 1, Tier.WARM, 1.0)).effects)
