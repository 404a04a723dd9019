"""The plan at its edges: where it ends, what begins nowhere, what no calendar has. The real record, worlds made up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from daemon import planning
from daemon.planning import Planner
from daemon.results_insight import PlanResult
from daemon.store import Store
from daemon.views import Now
from states.snapshot import State, World
from states.work import Tier
from tests.core import worlds
from tests.core.worlds import GIB


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store.open(tmp_path)) as opened:
        yield opened


def plan(store: Store, world: World, limit: int = 10, skip: int = 0) -> PlanResult:
    async def made() -> PlanResult:
        return await Planner(lambda: world, store.predictions).plan(limit, skip)

    return asyncio.run(made())


def queue(count: int) -> World:
    return worlds.world(worlds.lane(), queue=tuple(worlds.session(f"s{n}", n) for n in range(count)))


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, False), (3, False)])
def test_there_is_more_only_where_more_would_begin(store: Store, limit: int, more: bool) -> None:
    answer = plan(store, queue(2), limit)
    assert [run.session for run in answer.runs] == ["s0", "s1"][:limit]
    assert (answer.more, answer.hurried, answer.planned) == (more, False, min(limit, 2))


def test_a_plan_that_takes_too_long_is_as_far_as_it_came(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "BUDGET_S", 0.02)
    monkeypatch.setattr(planning, "SLICE_S", 0.01)
    answer = plan(store, queue(3000), limit=3000)
    assert answer.hurried
    assert answer.more
    assert len(answer.runs) < 3000


def test_a_standby_that_no_memory_lets_begin_is_told_with_its_reason(store: Store) -> None:
    """A stranger holds the device: it is prepared as far as it can be, and in the queue no more."""
    waiting = worlds.waiting(Tier.IMPORTED, reserved=GIB, session=worlds.session("s", guess_bytes=9 * GIB))
    held = worlds.readings(1.0, 1.0, 1.0)
    lane = worlds.lane(state=State.PRELOADING, standby=waiting, readings=held)
    answer = plan(store, worlds.world(lane, generation=9))
    assert [run.session for run in answer.runs] == []
    (told,) = answer.waiting
    assert told.session == "s"
    assert told.reason


def test_an_end_that_no_calendar_has_is_no_date(store: Store) -> None:
    active = worlds.computing(1e13, session=worlds.session("now"))
    world = worlds.world(worlds.lane(state=State.RUNNING, active=active), queue=(worlds.session("next", 1),))
    answer = plan(store, replace(world, generation=9))
    assert [run.session for run in answer.runs] == ["now", "next"]
    assert answer.runs[0].end.at is None


def test_a_moment_a_hundred_years_off_is_none() -> None:
    now = Now(0.0, datetime(2026, 1, 1, tzinfo=UTC))
    assert now.when(60.0) == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert now.when(200 * 365 * 86400.0) is None
    assert now.when(None) is None
