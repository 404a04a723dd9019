"""The forecast: what is predicted of a queue, how sure it is, and what stays unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from states import hindsight
from states.forecast import Forecast, forecast
from states.hindsight import Learned, Run
from states.outlook import Bound, Planned
from states.snapshot import Lane, State, World
from states.work import Lead, Profile, Session, Tier
from tests.core import worlds
from tests.core.worlds import GIB

AT = 100.0
STEADY = (Run(100, 10.0), Run(100, 10.0), Run(100, 10.0))  # a tenth of a second an item
PREPARED = Profile(prepared_s=(4.0, 4.0, 4.0), alone_s=(2.0, 2.0, 2.0), peak_bytes=2 * GIB)
GAPS = {("cpu", "warm"): (0.5, 0.5, 0.5), ("cpu", "none"): (3.0, 3.0, 3.0)}
LEARNED = Learned(runs={"m@cpu": STEADY}, gaps=GAPS)


def queued(name: str, order: float = 0.0, **fields: object) -> Session:
    return worlds.session(name, order, **({"profile": "m", "total": 100} | fields))


def running(seconds: float, **fields: object) -> Lane:
    """A lane whose session has so long to go, exactly."""
    active = worlds.computing(seconds, began_at=AT - 10, session=queued("now", profile="other"), **fields)
    pace = active.pace
    assert pace is not None
    return worlds.lane(state=State.RUNNING, active=replace(active, pace=replace(pace, at=AT)))


def told(*sessions: Session, lane: Lane | None = None, learned: Learned = LEARNED, **more: object) -> list[Planned]:
    lanes = (worlds.lane(),) if lane is None else (lane,)
    world = worlds.world(*lanes, queue=sessions, profiles={"m@cpu": PREPARED}, generation=5)
    return list(forecast(world, AT, learned, **more))  # type: ignore[arg-type]


def times(plan: Planned) -> tuple[float | None, float | None]:
    return (None if plan.start.at is None else round(plan.start.at - AT, 1)), (
        None if plan.end.at is None else round(plan.end.at - AT, 1)
    )


def test_sessions_follow_each_other_by_what_was_learned() -> None:
    """Two seconds to prepare the first alone, ten a run, half a second a handover; the next is prepared beside."""
    first, second, third = told(queued("a", 1), queued("b", 2), queued("c", 3))
    assert [times(each) for each in (first, second, third)] == [(2.0, 12.0), (12.5, 22.5), (23.0, 33.0)]
    assert second.swap_at == first.end
    assert (second.tier, second.gap and second.gap.seconds) == (Tier.WARM, 0.5)
    assert second.prepare_at is not None
    assert second.ready_at == pytest.approx(second.prepare_at + 4.0)
    lead = 4.0 * 1.2 + 0.5  # the core's own: the highest of the samples, and its margin
    assert AT + 12.0 - second.prepare_at == pytest.approx(lead, abs=0.5)
    assert [each.unknown for each in (first, second, third)] == [(), (), ()]
    assert {each.start.bound for each in (first, second, third)} == {Bound.ABOUT}


def test_margins_grow_along_the_queue() -> None:
    runs = {"m@cpu": (Run(100, 9.0), Run(100, 11.0), Run(100, 10.0))}
    first, second, third = told(queued("a", 1), queued("b", 2), queued("c", 3), learned=Learned(runs, GAPS))
    margins = [each.end.margin_s for each in (first, second, third)]
    assert all(margin is not None for margin in margins)
    assert margins == sorted(margins, key=lambda margin: margin or 0.0)
    alone = hindsight.expected((9.0, 11.0, 10.0))
    assert alone is not None
    assert first.end.margin_s == pytest.approx(hindsight.both(alone.margin_s, first.start.margin_s))


def test_the_running_session_ends_by_its_own_pace() -> None:
    now, after = told(queued("a", 1), lane=running(30.0))
    assert now.session == "now"
    assert times(now) == (-10.0, 30.0)
    assert times(after) == (30.5, 40.5)


def test_one_earlier_run_gives_a_time_and_no_margin() -> None:
    (plan,) = told(queued("a", 1), learned=Learned({"m@cpu": (Run(100, 10.0),)}, GAPS))
    assert times(plan) == (2.0, 12.0)
    assert plan.end.margin_s is None


def test_what_never_ran_has_no_end_and_only_an_order_follows() -> None:
    first, second, third = told(queued("a", 1), queued("new", 2, profile="x"), queued("c", 3))
    assert times(first) == (2.0, 12.0)
    assert second.start.bound is Bound.EARLIEST  # nobody knows how long it takes to prepare
    assert second.end.at is None
    assert second.unknown == ("how long it takes to prepare", "how fast it is: it has not run here before")
    assert (times(third), third.start.bound) == ((None, None), Bound.UNKNOWN)
    assert (third.prepare_at, third.ready_at) == (None, None)


def test_a_program_without_a_total_is_as_long_as_it_was_before() -> None:
    """The same command line took 30 s three times."""
    program = queued("p", 1, total=None, prepares=False, stepwise=False)
    whole = Learned({"m@cpu": (Run(0, 30.0), Run(0, 30.0), Run(0, 30.0))}, GAPS)
    (plan,) = told(program, learned=whole)
    assert times(plan) == (0.0, 30.0)
    (never,) = told(program, learned=Learned({}, GAPS))
    assert never.end.at is None
    assert never.unknown == ("how many items it has",)


@pytest.mark.parametrize("items", [60, 1], ids=["reports", "silent"])
def test_beside_a_program_that_is_not_prepared_the_next_is(items: int) -> None:
    """How many items it has it says once it computes, if ever: until then its end may be near."""
    program = queued("p", 1, profile="e", total=None, prepares=False, stepwise=False)
    learned = Learned({"e@cpu": (Run(items, 30.0),) * 3, "m@cpu": STEADY}, GAPS)
    first, second = told(program, queued("f", 2), learned=learned)
    assert times(first) == (0.0, 30.0)
    assert (second.tier, second.gap and second.gap.seconds) == (Tier.WARM, 0.5)
    assert second.unknown == ()
    assert second.prepare_at == pytest.approx(AT, abs=1.0)
    assert times(second) == (30.5, 40.5)


def test_the_reports_of_a_program_that_is_not_prepared_are_rehearsed() -> None:
    program = queued("p", 1, profile="e", total=None, prepares=False, stepwise=False)
    learned = Learned({"e@cpu": (Run(60, 30.0),) * 3, "m@cpu": STEADY}, GAPS)
    world = worlds.world(worlds.lane(), queue=(program,), profiles={"m@cpu": PREPARED}, generation=5)
    rehearsed = Forecast(world, AT, learned)
    paced = False
    while rehearsed.advance():
        active = rehearsed.world.lanes["cpu"].active
        paced = paced or (active is not None and active.total == 60 and active.pace is not None)
    assert paced


def test_a_gap_that_was_never_seen_is_unknown_and_what_follows_begins_no_sooner() -> None:
    _, second = told(queued("a", 1), queued("b", 2), learned=Learned({"m@cpu": STEADY}))
    assert second.gap is None
    assert second.start.bound is Bound.EARLIEST
    assert second.unknown == ("what a handover like this takes",)


def test_after_is_kept_whatever_the_priority() -> None:
    plans = told(queued("last", 1, priority=9, waits_for=frozenset({"first"})), queued("first", 2), queued("second", 3))
    # `second` is prepared by the time `first` ends, and a standby is kept.
    assert [plan.session for plan in plans] == ["first", "second", "last"]


def test_priority_goes_before_place() -> None:
    plans = told(queued("urgent", 2, priority=5), queued("a", 1))
    assert [plan.session for plan in plans] == ["urgent", "a"]


def test_a_wait_before_the_next_attempt_is_waited() -> None:
    plans = told(queued("again", 1, not_before=AT + 50.0), queued("b", 2))
    assert [(plan.session, times(plan)[0]) for plan in plans] == [("b", 2.0), ("again", 52.0)]


def test_a_held_lane_begins_nothing() -> None:
    world = worlds.world(worlds.lane(held=True), queue=(queued("a", 1),), profiles={"m@cpu": PREPARED})
    rehearsed = Forecast(world, AT, LEARNED)
    while rehearsed.advance():
        pass
    assert rehearsed.planned == ()
    assert rehearsed.whole
    assert [session.name for session in rehearsed.world.queue] == ["a"]


def test_what_does_not_fit_beside_is_begun_when_there_is_room() -> None:
    """Two of 9 GiB on 16: the second is prepared as far as allowed, and the rest once the first is gone."""
    large = Profile(prepared_s=(4.0, 4.0), alone_s=(2.0, 2.0), peak_bytes=9 * GIB)
    world = worlds.world(worlds.lane(), queue=(queued("a", 1), queued("b", 2)), profiles={"m@cpu": large})
    first, second = forecast(world, AT, Learned({"m@cpu": STEADY}, GAPS))
    assert first.end.at is not None
    assert second.tier is not Tier.WARM
    assert second.start.at is not None
    assert second.start.at > first.end.at + 1.0


def test_two_lanes_take_from_one_queue() -> None:
    lanes = [
        worlds.lane(f"gpu{n}", device="gpu", index=n, tiers=(Tier.IMPORTED, Tier.STAGED, Tier.WARM)) for n in (0, 1)
    ]
    runs = {"m@gpu": STEADY}
    queue = (queued("a", 1), queued("b", 2), queued("only1", 3, device="gpu:1"), queued("d", 4))
    world = World({lane.name: lane for lane in lanes}, queue, {"m@gpu": PREPARED}, limits=worlds.LIMITS)
    plans = forecast(world, AT, Learned(runs, {("gpu0", "warm"): (0.5,), ("gpu1", "warm"): (0.5,)}))
    places = {plan.session: plan.lane for plan in plans}
    assert places == {"a": "gpu0", "b": "gpu1", "only1": "gpu1", "d": "gpu0"}


def test_beside_a_lane_without_a_known_end_times_are_the_latest() -> None:
    """gpu0's session may end at any time, and would take one of the two that wait."""
    one = worlds.lane("gpu0", device="gpu", index=0)
    endless = worlds.worker(session=queued("endless", profile="x", total=None), began_at=AT - 5, total=None)
    busy = replace(one, state=State.RUNNING, active=replace(endless, reserved=GIB))
    other = worlds.lane("gpu1", device="gpu", index=1)
    world = World(
        {"gpu0": busy, "gpu1": other},
        (queued("a", 1), queued("b", 2)),
        {"m@gpu": PREPARED},
        limits=worlds.LIMITS,
        generation=1,
    )
    plans = forecast(world, AT, Learned({"m@gpu": STEADY}, {("gpu1", "warm"): (0.5, 0.5)}))
    bounds = {plan.session: plan.start.bound for plan in plans}
    assert bounds["b"] in (Bound.LATEST, Bound.UNKNOWN)
    assert all(plan.end.at is None for plan in plans if plan.session == "endless")


def test_it_stops_after_as_many_as_were_asked_for() -> None:
    world = worlds.world(
        worlds.lane(), queue=tuple(queued(f"s{n}", n) for n in range(50)), profiles={"m@cpu": PREPARED}
    )
    rehearsed = Forecast(world, AT, LEARNED, most=3)
    while rehearsed.advance():
        pass
    assert [plan.session for plan in rehearsed.planned] == ["s0", "s1", "s2"]
    assert not rehearsed.whole


def test_what_can_never_fit_takes_no_place_in_what_is_looked_at() -> None:
    huge = tuple(queued(f"huge{n}", n, least_bytes=99 * GIB) for n in range(5))
    world = worlds.world(worlds.lane(), queue=(*huge, queued("ok", 9)), profiles={"m@cpu": PREPARED})
    rehearsed = Forecast(world, AT, LEARNED, most=3)
    while rehearsed.advance():
        pass
    assert [plan.session for plan in rehearsed.planned] == ["ok"]


def test_what_a_lane_reserves_is_looked_at_wherever_it_stands() -> None:
    queue = tuple(queued(f"s{n}", n) for n in range(20))
    world = worlds.world(worlds.lane(reserved="s19"), queue=queue, profiles={"m@cpu": PREPARED})
    assert forecast(world, AT, LEARNED, most=2)[0].session == "s19"


def test_an_end_beyond_all_time_is_found_and_not_looked_for_for_ever() -> None:
    """Where two neighbouring floats are further apart than what is looked for."""
    endless = worlds.computing(1e17, began_at=AT - 10, session=queued("now", profile="other"))
    assert endless.pace is not None
    active = replace(endless, pace=replace(endless.pace, at=AT))
    first, _ = told(queued("a", 1), lane=worlds.lane(state=State.RUNNING, active=active))
    assert first.end.at is not None
    assert first.end.at > 1e16


def test_what_is_submitted_in_thought_only_is_planned_at_its_place() -> None:
    plans = told(queued("a", 1), more=(queued("b", 2), queued("first", 3, priority=1)))
    assert [plan.session for plan in plans] == ["first", "a", "b"]


def test_a_lead_that_is_a_share_is_kept() -> None:
    half = queued("a", 1, lead=Lead(fraction=0.2))
    _, second = told(half, queued("b", 2))
    assert second.prepare_at == pytest.approx(AT + 2.0 + 2.0)


def test_an_interval_is_as_wide_as_the_samples_allow() -> None:
    """By hand: of 9, 10 and 11 the mean is 10, the deviation 1, t(0.95, 2) is 2.92, times √(4/3)."""
    span = hindsight.expected((9.0, 10.0, 11.0))
    assert span is not None
    assert span.seconds == pytest.approx(10.0)
    assert span.margin_s == pytest.approx(2.92 * (4 / 3) ** 0.5)
    same = hindsight.expected((10.0, 10.0))
    assert same is not None
    assert same.margin_s == pytest.approx(hindsight.least_margin(10.0))
    assert hindsight.expected(()) is None
