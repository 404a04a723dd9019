"""What a handover is told to have begun with: what ended the old session, why nothing was prepared for the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from states import handovers
from states.events import Event, Exited, Promoted, Quiesced, Ready
from states.lifecycle import step
from states.notes import HandoverCompleted
from states.snapshot import Fate, Lane, Phase, State, Trouble, Worker
from states.work import Session, Tier
from tests.core.worlds import GIB, computing, lane, session, waiting, worker, world

AT = 100.0
ENDS = Quiesced(AT, 1, AT - 0.001, 100, 0)
DIES = Exited(AT, 1, -9)
NEXT = session("next", 1, total=100)
RUNS = lane(state=State.NEARING_END, active=computing(0.0, session=session("old", total=100), began_at=90.0))


def running(**fields: object) -> Lane:
    assert RUNS.active is not None
    return replace(RUNS, active=replace(RUNS.active, **fields))  # type: ignore[arg-type]


def active(of: Lane) -> Worker:
    assert of.active is not None
    return of.active


@pytest.mark.parametrize(
    ("of", "event", "words"),
    [
        (RUNS, ENDS, None),
        (running(fate=Fate.CANCEL), ENDS, "it was cancelled"),
        (replace(running(fate=Fate.REQUEUE), swap_asked=True), ENDS, "a swap was asked for"),
        (running(fate=Fate.REQUEUE), ENDS, "its lane was drained"),
        (
            running(fate=Fate.RETRY, trouble=Trouble("stall", "made no progress for 600 s")),
            ENDS,
            "it made no progress for 600 s",
        ),
        (RUNS, DIES, "it failed: its process was killed by signal 9 while computing"),
        (running(trouble=Trouble("program", "ValueError: no")), DIES, "it failed: ValueError: no"),
        (running(fate=Fate.CANCEL), DIES, "it was cancelled"),
        (running(fate=Fate.REQUEUE), DIES, "its worker ended"),
    ],
    ids=["end", "cancel", "swap", "drain", "stall", "killed", "failed", "killed-cancelled", "killed-drained"],
)
def test_what_ended_a_session_early_is_named(of: Lane, event: Event, words: str | None) -> None:
    decision = step(world(of, queue=(NEXT,), generation=9), event)
    assert handovers.ended_early(decision, of, active(of)) == words


def why(of: Lane, *queue: Session) -> str | None:
    decision = step(world(of, queue=queue, generation=9), ENDS)
    return handovers.unprepared(decision, of, active(of), NEXT)


def test_what_could_have_been_prepared_has_no_other_reason() -> None:
    """It was there, it fitted, nothing forbade it: only time was missing. So it is for one that came afterwards."""
    assert why(RUNS, NEXT) is None
    assert why(RUNS) is None
    assert why(replace(RUNS, state=State.PRELOADING, standby=waiting(session=NEXT))) is None


@pytest.mark.parametrize(
    ("of", "queue", "words"),
    [
        (
            running(reserved=10 * GIB),
            (replace(NEXT, stated_bytes=12 * GIB, stepwise=False),),
            "it waits for memory for next: warm needs 12.0 GiB",
        ),
        (RUNS, (replace(NEXT, waits_for=frozenset({"other"})),), "it came after other"),
        (RUNS, (replace(NEXT, prepares=False),), "it computes as soon as it is started"),
        (RUNS, (replace(NEXT, not_before=AT + 4),), "it was to be tried again 4.0 s later, not before"),
        (RUNS, (replace(NEXT, out_of_memory=1),), "it ran out of memory, and gets the device to itself"),
        (replace(RUNS, held=True), (NEXT,), "the lane was paused"),
        (RUNS, (session("first", 0), NEXT), "first was to be next"),
        (
            replace(RUNS, leaving=(worker(generation=2, session=session("gone"), forced=None, deadline=200.0),)),
            (NEXT,),
            "the worker of gone had not ended",
        ),
        (
            replace(RUNS, state=State.PRELOADING, standby=waiting(session=session("first"))),
            (NEXT,),
            "first was being prepared",
        ),
    ],
    ids=["memory", "after", "no-prepare", "backoff", "out-of-memory", "paused", "another", "leaving", "standby"],
)
def test_why_nothing_was_prepared_is_named(of: Lane, queue: tuple[Session, ...], words: str) -> None:
    said = why(of, *queue)
    assert said is not None
    assert said.startswith(words)


def test_the_session_that_had_just_ended_could_not_be_prepared() -> None:
    decision = step(world(RUNS, generation=9), ENDS)
    same = replace(NEXT, name="old")
    assert handovers.unprepared(decision, RUNS, active(RUNS), same) == "it is the session that had just ended"


def test_the_device_waits_from_the_word_of_the_end_on() -> None:
    """The time until the word is a part of the gap by itself: what the device waited is in the rest."""
    loading = waiting(None, session=NEXT, phase=Phase.LOADING, deadline=700.0)
    here = world(replace(RUNS, state=State.PRELOADING, standby=loading), generation=2)
    for event in (
        replace(ENDS, ended_at=AT - 0.2),
        Ready(AT + 0.3, 2, Tier.WARM, 1.0, 100),
        Promoted(AT + 1, 2, AT + 1),
    ):
        decision = step(here, event)
        here = decision.after
    (note,) = (note for note in decision.notes if isinstance(note, HandoverCompleted))
    assert note.gap_s == pytest.approx(1.2)
    assert note.device_waited_s == pytest.approx(0.3)
