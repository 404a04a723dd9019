"""A daemon that is killed at a point of every kind: each session ends once, with every row once, and goes on meanwhile.

All points, not a choice of them: `python -m tests.crashpoints --all` (docs/reliability.md).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.crashpoints.judge import Reference
from tests.crashpoints.lives import Passed
from tests.crashpoints.models import make
from tests.crashpoints.stories import RELAY, UNCOUNTED, batches
from tests.crashpoints.trial import FIRSTS, NOWHERE, Fall, Outcome, Undisturbed, choose, survey, trials

JOBS: Final = min(4, 2 * (os.cpu_count() or 1))  # they wait as much as they compute

# What there must have been a death before, and after, whatever else there is in the story today.
EVERY_KIND: Final = frozenset(
    {
        "effect DrainActive",
        "effect EndWorker",
        "effect Promote",
        "effect RaiseStandby",
        "effect StartStandby",
        "listening for workers",
        "note of a process",
        "reading the record",
        "record handover.completed",
        "record lane.moved",
        "record session.adopted",
        "record session.cancelled",
        "record session.committed",
        "record session.finished",
        "record session.queued",
        "record session.started",
        "record standby.discarded",
        "record standby.raised",
        "record standby.ready",
        "record standby.started",
        "record swap.asked",
        "record worker.exited",
        "reply to cancel",
        "reply to submit",
        "reply to swap",
        "the first decision",
    }
)


def explained(outcomes: Sequence[Outcome]) -> str:
    """Of each run with a problem, what it is; of the first, its log too."""
    bad = [outcome for outcome in outcomes if outcome.problems]
    lines = [f"killed {outcome.fall}: {problem}" for outcome in bad for problem in outcome.problems]
    return "\n".join([*lines, *(outcome.log for outcome in bad[:1])])


def test_killed_at_a_point_of_every_kind_it_loses_nothing_and_doubles_nothing() -> None:
    """In its first life, in the one that adopts what that left, and in one that finds it ended."""
    surveys = [survey(RELAY, first) for first in FIRSTS]
    falls = choose(surveys, every=False)
    outcomes = list(trials(RELAY, falls, surveys[0].reference, JOBS))
    assert not explained(outcomes), explained(outcomes)
    died = kinds_of(surveys, [outcome.fall for outcome in outcomes if outcome.hit])
    missed = {f"{when} {kind}" for when in ("before", "after") for kind in EVERY_KIND} - died
    assert not missed, f"nobody died {', '.join(sorted(missed))} ({len(outcomes)} runs)"
    assert sum(outcome.adopted for outcome in outcomes) > 0
    assert sum(outcome.rows.lost + outcome.rows.doubled for outcome in outcomes) == 0


def kinds_of(surveys: Sequence[Undisturbed], falls: Sequence[Fall]) -> set[str]:
    """What the last points of these falls are examples of."""
    points = {
        Fall((*survey.first.points, point.name), late=survey.first.late): point.kinds
        for survey in surveys
        for point in survey.points
    }
    return {kind for fall in falls for kind in points[fall]}


def test_a_session_of_unknown_total_is_not_taken_for_done_where_it_was_drained() -> None:
    """Nor is one that never began: what its program left behind says how much remains."""
    points = ("after effect DrainActive long", "before effect Promote long")
    falls = [Fall((point,), late=True) for point in points]
    outcomes = list(trials(UNCOUNTED, falls, survey(UNCOUNTED).reference, JOBS))
    assert not explained(outcomes), explained(outcomes)
    assert all(outcome.hit for outcome in outcomes)


@pytest.mark.tensorflow
def test_tensorflow_sessions_lose_nothing_either(tmp_path: Path) -> None:
    """A few of the points at which more than a line is at stake; `--workers tensorflow --all` takes them all."""
    make(tmp_path)
    story = batches(tmp_path)
    points = (
        "after effect Promote long",
        "before record session.finished short",
        "before record Draining>Swapping",  # the swap itself
    )
    outcomes = list(trials(story, [Fall((point,)) for point in points], survey(story).reference, JOBS))
    assert not explained(outcomes), explained(outcomes)
    assert all(outcome.hit for outcome in outcomes)
    assert sum(outcome.adopted for outcome in outcomes) > 0


def test_the_choice_has_a_point_of_every_kind() -> None:
    """Few of them: one that is an example of several kinds stands for all. Of a later life, what is new in it."""
    nothing = Reference({}, {})
    points = [Passed("a", ("x",)), Passed("b", ("x", "y")), Passed("c", ("z",)), Passed("d", ("z",))]
    first = Undisturbed(NOWHERE, nothing, points, 1.0)
    second = Undisturbed(
        Fall(("a",)), nothing, [Passed(*each) for each in (("b", ("y",)), ("e", ("w",)), ("f", ("x",)))], 1.0
    )
    assert choose([first, second], every=False) == [Fall(("b",)), Fall(("c",)), Fall(("a", "e"))]
    every = [Fall((name,)) for name in "abcd"] + [Fall(("a", name)) for name in "be"]
    assert choose([first, second], every=True) == every
