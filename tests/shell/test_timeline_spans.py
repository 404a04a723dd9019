"""The record as spans: what ran, what was prepared, what became of it; across daemons, and cut anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from daemon import past
from daemon.ctl.timeline_spans import Role, micros
from states.decision import Decision
from states.events import Cancel, Committed, Exited, Failed, Pause, Progress, Promoted, Quiesced, Ready, Resume, Tick
from states.notes import SessionMoved
from states.work import Tier
from tests.shell.recorded_life import START, Life
from tests.shell.timeline_stage import DAY, of, pieces, sample, spans, timeline

ACTIVE, STANDBY, RETIRING = Role.ACTIVE, Role.STANDBY, Role.RETIRING


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    made = Life(tmp_path / "state")
    yield made
    made.store.close()


def relay(life: Life, first: str = "a", second: str = "b") -> None:
    """One session hands over to the next, which is at its half then."""
    life.submit(first)
    life.submit(second)
    old = life.run_to(95)
    new = life.generation()
    life.feed(Ready(0.0, new, Tier.WARM, 0.5, total=100))
    life.feed(Quiesced(0.0, old, life.now + 1, 100, 0))
    life.feed(Promoted(0.0, new, life.now - 0.75))
    life.feed(Committed(0.0, old, 100))
    life.feed(Exited(0.0, old, 0))
    life.feed(Progress(0.0, new, 50, 50, 100))


def test_an_empty_record_is_an_empty_timeline(life: Life) -> None:
    made = timeline(life)
    assert (made.lanes, made.spans, made.handovers, made.samples, made.sessions) == ((), (), (), (), 0)


def test_the_next_session_is_prepared_while_one_runs_and_begins_where_it_ends(life: Life) -> None:
    relay(life)
    made = timeline(life)
    assert spans(made, "a") == [
        (STANDBY, False, None, False),
        (STANDBY, True, None, False),
        (ACTIVE, False, "done", False),
        (RETIRING, False, None, False),
    ]
    assert spans(made, "b") == [
        (STANDBY, False, None, False),
        (STANDBY, True, None, False),
        (ACTIVE, False, None, True),
    ]
    ran, prepared, runs = of(made, "a")[2], of(made, "b")[0], of(made, "b")[2]
    assert ran.begin < prepared.begin < ran.end, "beside it"
    assert of(made, "b")[1].end == runs.begin
    assert runs.end == micros(life.wall)
    assert (ran.told["items"], ran.told["total"]) == (100, 100)


def test_a_handover_is_drawn_as_long_as_it_was_measured(life: Life) -> None:
    """The daemon hears of the first item later than it is begun, and its record says when it heard."""
    relay(life)
    made = timeline(life)
    (handover,) = made.handovers
    assert (handover.told["from_session"], handover.told["session"]) == ("a", "b")
    assert 0 < handover.gap_us < 1_000_000, "between two decisions, which are a second apart"
    begun = of(made, "b")[2].begin
    assert begun - of(made, "a")[2].end == handover.gap_us
    assert handover.at == begun


def test_the_states_of_a_lane_follow_one_another_without_a_hole(life: Life) -> None:
    relay(life)
    made = timeline(life)
    for before, after in pairwise(made.states):
        assert before.end == after.begin
    assert [state.state for state in made.states][:3] == ["Idle", "Preloading", "Swapping"]
    assert [state.open for state in made.states] == [*[False] * (len(made.states) - 1), True]


def test_a_session_that_failed_or_was_cancelled_says_so(life: Life) -> None:
    life.submit("bad", max_attempts=1)
    generation = life.run_to(30)
    life.feed(Failed(0.0, generation, "input", "row 31 is not <what> it takes", 31))
    life.feed(Exited(0.0, generation, 1))
    life.submit("unwanted")
    generation = life.run_to(10)
    life.feed(Cancel(0.0, "unwanted"))
    life.feed(Quiesced(0.0, generation, life.now, 10, 90))
    life.feed(Committed(0.0, generation, 10))
    life.feed(Exited(0.0, generation, 0))
    made = timeline(life)
    failed = next(span for span in of(made, "bad") if span.role is ACTIVE)
    assert (failed.outcome, failed.told["reason"]) == ("failed", "row 31 is not <what> it takes")
    cancelled = next(span for span in of(made, "unwanted") if span.role is ACTIVE)
    assert (cancelled.outcome, cancelled.told["items"]) == ("cancelled", 10)
    assert not any(span.open for span in made.spans)


def test_a_crash_is_shown_as_one_that_is_tried_again(life: Life) -> None:
    life.submit("a")
    life.feed(Exited(0.0, life.run_to(30), -9))
    assert [outcome for role, _, outcome, _ in spans(timeline(life), "a") if role is ACTIVE] == ["tried again"]


def test_a_handover_in_the_middle_is_open_at_both_ends(life: Life) -> None:
    """The old one has computed its last item, the new one has not begun: nobody has the device."""
    life.submit("a")
    life.submit("b")
    old = life.run_to(95)
    life.feed(Ready(0.0, life.generation(), Tier.WARM, 0.5, total=100))
    life.feed(Quiesced(0.0, old, life.now, 100, 0))
    made = timeline(life)
    assert made.handovers == ()
    assert spans(made, "a")[-1] == (RETIRING, False, None, True)
    assert spans(made, "b")[-1] == (STANDBY, True, None, True)
    assert (made.states[-1].state, made.states[-1].open) == ("Swapping", True)


def test_a_daemon_that_went_away_leaves_a_hole_and_its_sessions_end_there(life: Life) -> None:
    life.store.samples.keep([], START)
    life.submit("a")
    life.run_to(30)
    gone = life.store.decisions()[-1].ts
    life.now += 500
    life.store.samples._life = []  # another daemon, of which the record knows only its own row
    life.store.samples.keep([], life.wall)
    back = life.wall
    life.feed(Pause(0.0, "cpu"))
    made = timeline(life)
    assert made.absent == ((micros(gone), micros(back)),)
    ran = of(made, "a")[-1]
    assert (ran.end, ran.open, ran.outcome) == (micros(gone), False, None)
    assert [(state.state, state.begin) for state in made.states][-1] == ("Idle", micros(back))


def test_a_daemon_that_stopped_is_not_there_until_the_end(life: Life) -> None:
    life.store.samples.keep([], START)
    life.store.samples.keep([], life.wall, ended=True)
    stopped = life.wall
    life.now += 100
    assert timeline(life).absent == ((micros(stopped), micros(life.wall)),)


def test_a_session_that_came_back_is_one_still(life: Life) -> None:
    """Handed back, or tried again, it has more runs; done and submitted anew, it is another session."""
    life.submit("a")
    life.hand_back(life.run_to(30), 30)
    life.feed(Resume(0.0, "cpu"))
    life.feed(Exited(0.0, life.run_to(40), -9))
    life.now += 100  # it is tried again after a wait
    life.feed(Tick(0.0))
    generation = life.run_to(60)
    assert timeline(life).sessions == 1
    assert len([span for span in of(timeline(life), "a") if span.role is ACTIVE]) == 3
    life.finish(generation)
    life.submit("a")
    life.run_to(10)
    assert timeline(life).sessions == 2


def test_what_ran_all_the_while_is_in_a_stretch_that_tells_nothing_of_it(life: Life) -> None:
    life.submit("a")
    life.run_to(30)
    life.now += 500
    since, until = life.wall - timedelta(seconds=200), life.wall - timedelta(seconds=100)
    made = timeline(life, since, until)
    assert spans(made, "a") == [(ACTIVE, False, None, True)]
    (ran,) = of(made, "a")
    assert (ran.begin, ran.end) == (micros(since), micros(until))
    assert [state.state for state in made.states] == ["Running"]


def test_a_stretch_has_no_session_that_ended_before_it_or_began_after(life: Life) -> None:
    relay(life)
    life.finish(life.generation())
    between = life.wall
    life.now += 100
    relay(life, "c", "d")
    assert {span.session for span in timeline(life, between + timedelta(seconds=1)).spans} == {"c", "d"}
    assert {span.session for span in timeline(life, START, between).spans} == {"a", "b"}


def test_the_memory_of_a_stretch_begins_before_it(life: Life) -> None:
    """What was so when it began is the sample before, which is a minute older at the most."""
    times = [START + timedelta(seconds=number) for number in (10, 200, 230)]
    life.store.samples.keep([sample(at, used=number) for number, at in enumerate(times)], times[-1])
    made = timeline(life, times[1] + timedelta(seconds=25), times[2] + timedelta(seconds=5))
    assert [each.ts for each in made.samples] == times[1:]


def test_a_lane_that_only_idled_says_so_while_a_daemon_was_there(life: Life) -> None:
    """What a lane without a session tells is its memory; one whose device cannot be read may have been lost."""
    keep = life.store.samples.keep
    began = life.wall
    unread = msgspec.structs.replace(sample(began, "gpu1"), total_bytes=0)
    keep([sample(began, "cpu"), sample(began, "gpu0"), unread], began)
    life.now += 50
    stopped = life.wall
    keep([sample(stopped, "gpu0")], stopped, ended=True)
    life.now += 50
    life.store.samples._life = []  # another daemon
    back = life.wall
    keep([sample(back, "cpu"), sample(back, "gpu0")], back)
    life.submit("a", device="cpu")
    life.run_to(30)
    made = timeline(life)
    idle = [(micros(began), micros(stopped), False), (micros(back), micros(life.wall), True)]
    assert [(s.begin, s.end, s.open) for s in made.only("gpu0").states] == idle
    assert {s.state for s in made.only("gpu0").states} == {"Idle"}
    assert made.only("gpu1").states == ()
    first, *told = made.only("cpu").states
    assert (first.begin, first.end) == idle[0][:2]
    assert [s.state for s in told] == ["Idle", "Preloading", "Swapping", "Running"]


def test_one_lane_of_several(life: Life) -> None:
    relay(life)
    life.store.samples.keep([sample(life.wall, "gpu0")], life.wall)
    made = timeline(life)
    assert made.lanes == ("cpu", "gpu0")
    assert {span.lane for span in made.only("cpu").spans} == {"cpu"}
    assert made.only("gpu0").spans == ()
    assert len(made.only("gpu0").samples) == 1


def test_a_decision_that_tells_very_much_is_told_in_parts(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone queued thousands of sessions at once: no line is longer than a line may be, and nothing is lost."""
    relay(life)
    notes = tuple(SessionMoved("b", float(place), 0) for place in range(100))
    life.store.record(Decision(life.world, life.world, Tick(1.0), notes=notes), life.wall)
    whole = timeline(life)
    monkeypatch.setattr(past, "PIECE_BYTES", 150)
    parts = pieces(life, START, life.wall)
    longest = max(len(bytes(told.notes)) for piece in parts for told in piece.decisions)
    assert longest < 1000, "a note, or two"
    assert timeline(life) == whole


def test_without_a_time_it_is_a_day_or_fifty_sessions(life: Life) -> None:
    life.submit("a")
    life.finish(life.run_to(50))
    begun = life.store.session("a")
    assert begun is not None
    week = life.wall + 7 * DAY
    assert life.store.past.usual_beginning(week) == begun.started_at
    assert life.store.past.usual_beginning(life.wall) == life.wall - DAY


def test_a_later_session_of_the_same_name_changes_nothing_of_the_one_before(life: Life) -> None:
    life.submit("a")
    life.finish(life.run_to(50))
    life.feed(Pause(0.0, "cpu"))
    life.submit("a")
    life.feed(Cancel(0.0, "a"))
    (ran,) = [span for span in of(timeline(life), "a") if span.role is ACTIVE]
    assert (ran.outcome, ran.told["items"], ran.told.get("reason")) == ("done", 100, None)


def test_a_clock_set_back_between_two_daemons_makes_no_time_without_one(life: Life) -> None:
    """The first was there until 300, the second from 210 on: what the first decided at 290 is still its own."""
    life.store.samples.keep([], START)
    life.submit("a")
    life.run_to(30)
    life.now = 290.0
    life.feed(Pause(0.0, "cpu"))
    life.store.samples.keep([], START + timedelta(seconds=300), ended=True)
    life.store.samples._life = []  # another daemon, that knows the same of the world
    life.now = 210.0
    life.store.samples.keep([], life.wall)
    life.feed(Resume(0.0, "cpu"))
    life.now = 900.0
    life.store.samples.keep([], life.wall)
    made = timeline(life)
    assert made.absent == ()
    assert of(made, "a")[-1].end == micros(START + timedelta(seconds=300))
