"""What an earlier daemon left: who plays which part until it speaks, and what was promised of it and not yet done."""

from __future__ import annotations

from states import events as ev
from states.decision import Decision
from states.effects import DrainActive
from states.lifecycle import step
from states.notes import CancelAsked, SessionCancelled, SessionFinished, SessionQueued
from states.restore import Remnant, restore
from states.snapshot import Fate, Phase, State, World, invariants
from states.work import Session
from tests.core.worlds import lane, session, world

AT, PATIENCE_S = 100.0, 60.0


def left(*remnants: Remnant, queue: tuple[Session, ...] = ()) -> World:
    found = restore(world(lane(), queue=queue, generation=9), remnants, AT, PATIENCE_S)
    assert not invariants(found)
    return found


def told(found: World, *events: ev.Event) -> tuple[World, list[Decision]]:
    decisions = []
    for event in events:
        decisions.append(step(found, event))
        found = decisions[-1].after
        assert not invariants(found)
    return found, decisions


def notes(decisions: list[Decision], kind: type) -> list[object]:
    return [note for decision in decisions for note in decision.notes if isinstance(note, kind)]


def test_the_last_one_told_to_go_has_the_device_and_those_before_it_were_committing() -> None:
    """A standby ends by itself: it is waited for, and its session is not begun anywhere before."""
    found = left(
        Remnant("cpu", session("b", 2), 8, promoted=True),
        Remnant("cpu", session("c", 3), 9, promoted=False),
        Remnant("cpu", session("a", 1), 7, promoted=True),
        queue=(session("a", 1), session("b", 2), session("c", 3), session("d", 4)),
    )
    here = found.lanes["cpu"]
    assert here.active is not None
    assert (here.state, here.active.generation, here.active.unheard) == (State.SWAPPING, 8, True)
    assert [(each.generation, each.phase) for each in here.retiring] == [(7, Phase.COMMITTING)]
    assert [each.generation for each in here.leaving] == [9]
    assert [each.name for each in found.queue] == ["d"]


def test_a_cancel_is_kept_of_one_that_runs_on() -> None:
    """The daemon that promised it was killed before the worker heard of it."""
    found = left(Remnant("cpu", session("a", cancelled=True), 9, promoted=True))
    found, decisions = told(
        found,
        ev.Hello(101.0, 9, 10, 20, 100),
        ev.Promoted(101.0, 9, 50.0),
        ev.Progress(101.0, 9, 20, 10, 100),
        ev.Quiesced(102.0, 9, 102.0, 30, 70),
        ev.Committed(102.1, 9, 30),
        ev.Exited(102.2, 9, None),
    )
    assert decisions[0].effects == (DrainActive("cpu", 9, cancelled=True),)
    assert [note.cursor for note in notes(decisions, SessionCancelled)] == [30]  # type: ignore[attr-defined]
    assert found.queue == ()


def test_a_cancel_that_comes_too_late_leaves_a_session_that_is_done() -> None:
    """All its items are durable: nothing is thrown away."""
    found = left(Remnant("cpu", session("a", cancelled=True), 9, promoted=True))
    _, decisions = told(
        found,
        ev.Hello(101.0, 9, 90, 100, 100, 0),
        ev.Promoted(101.0, 9, 50.0),
        ev.Quiesced(101.0, 9, 99.0, 100, 0),
        ev.Committed(101.0, 9, 100),
        ev.Exited(101.1, 9, None),
    )
    assert len(notes(decisions, SessionFinished)) == 1
    assert notes(decisions, SessionCancelled) == []


def test_a_cancel_is_kept_of_a_standby_and_of_one_that_commits() -> None:
    """Neither comes back in the queue when its process is gone."""
    found = left(
        Remnant("cpu", session("a", 1, cancelled=True), 7, promoted=True),
        Remnant("cpu", session("b", 2), 8, promoted=True),
        Remnant("cpu", session("c", 3, cancelled=True), 9, promoted=False),
    )
    found, decisions = told(found, ev.Exited(101.0, 9, None), ev.Exited(101.0, 7, None))
    assert {note.session for note in notes(decisions, SessionCancelled)} == {"a", "c"}  # type: ignore[attr-defined]
    assert notes(decisions, SessionQueued) == []


def test_what_is_asked_of_one_that_cannot_hear_yet_is_asked_again() -> None:
    """The first order had no channel to go by."""
    found = left(Remnant("cpu", session("a"), 9, promoted=True))
    found, (asked,) = told(found, ev.DrainLane(101.0, "cpu"))
    assert asked.effects == (DrainActive("cpu", 9, cancelled=False),)
    found, (heard,) = told(found, ev.Hello(102.0, 9, 10, 20, 100))
    assert heard.effects == (DrainActive("cpu", 9, cancelled=False),)
    active = found.lanes["cpu"].active
    assert active is not None
    assert (active.phase, active.fate) == (Phase.DRAINING, Fate.REQUEUE)


def test_a_cancel_that_is_accepted_is_told_so_that_it_can_be_kept() -> None:
    """Of one in the queue the end is told at once."""
    found = left(Remnant("cpu", session("a"), 9, promoted=True), queue=(session("a"), session("b", 1)))
    found, decisions = told(found, ev.Cancel(101.0, "a"), ev.Cancel(101.0, "b"))
    assert decisions[0].notes[0] == CancelAsked("a", "cpu")
    assert notes(decisions[1:], CancelAsked) == []
    active = found.lanes["cpu"].active
    assert active is not None
    assert active.session.cancelled
