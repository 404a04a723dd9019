"""The plan: the core's own future of the queue, rehearsed in slices beside the daemon's work. Decides nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from daemon import obstacles, views
from daemon.predictions import Predictions
from daemon.results_insight import PlanMoment, PlanResult, PlanRun, PlanScore, PlanWaiting
from states import reasons
from states.forecast import Forecast
from states.hindsight import Learned
from states.outlook import Moment, Planned
from states.rehearsal import reach
from states.snapshot import World, profile_key
from states.work import Session

SLICE_S: Final = 0.002  # at once, before what workers say is heard again
BUDGET_S: Final = 8.0  # of one plan, in all
MODELS_AT_ONCE: Final = 25  # looked up in the record between two slices


class Planner:
    """Makes plans, one at a time: a second one asked for meanwhile waits."""

    def __init__(self, world: Callable[[], World], kept: Predictions) -> None:
        self._world = world
        self._kept = kept
        self._one = asyncio.Lock()

    async def plan(self, limit: int, skip: int = 0, more: tuple[Session, ...] = ()) -> PlanResult:
        """The runs to come; `more` are sessions that are not queued, as if they were."""
        async with self._one:
            world, now = self._world(), views.Now(time.monotonic(), datetime.now(UTC))
            most = skip + limit
            learned = await self._learned(world, most, more)
            rehearsed = Forecast(world, now.at, learned, more, most + 1)  # whether there is one more to be asked for
            hurried = await _play(rehearsed)
            new = {session.name for session in more}
            active = {lane.active.generation for lane in world.lanes.values() if lane.active is not None}
            planned = rehearsed.planned
            queued = {session.name for session in (*world.queue, *more)}
            score = self._kept.score()
            return PlanResult(
                now=now.utc,
                runs=tuple(
                    _run(each, now, running=each.generation in active, submitted=each.session in new)
                    for each in planned[skip:most]
                ),
                waiting=tuple(_waiting(rehearsed, limit, new)) if skip == 0 else (),
                queued=len(queued),
                planned=len({each.session for each in planned[:most]} & queued),
                skipped=min(skip, len(planned)),
                more=not rehearsed.whole or len(planned) > most,
                hurried=hurried,
                score=PlanScore(judged=score.judged, within=score.within),
            )

    async def _learned(self, world: World, most: int, more: tuple[Session, ...]) -> Learned:
        """What the record has of the models and lanes that the plan is about."""
        workers = [(lane, worker.session) for lane in world.lanes.values() for worker in lane.workers()]
        sessions = (*reach(world, most), *more)
        workers += [(lane, each) for each in sessions for lane in world.lanes.values() if lane.takes(each.device)]
        models = list(dict.fromkeys(profile_key(session, lane) for lane, session in workers))
        learned = self._kept.learned((), world.lanes)
        runs = dict(learned.runs)
        for begin in range(0, len(models), MODELS_AT_ONCE):
            runs |= self._kept.learned(models[begin : begin + MODELS_AT_ONCE], ()).runs
            await asyncio.sleep(0)
        return Learned(runs, learned.gaps)


async def _play(rehearsed: Forecast) -> bool:
    """Play it to the end; True where it took too long, and was left as far as it was."""
    spent = 0.0
    while spent < BUDGET_S:
        began = time.perf_counter()
        while (used := time.perf_counter() - began) < SLICE_S:
            if not rehearsed.advance():
                return False
        spent += used
        await asyncio.sleep(0)
    return True


def _run(planned: Planned, now: views.Now, *, running: bool, submitted: bool) -> PlanRun:
    gap = planned.gap
    return PlanRun(
        session=planned.session,
        lane=planned.lane,
        running=running,
        submitted=submitted,
        prepare_at=now.when(planned.prepare_at),
        ready_at=now.when(planned.ready_at),
        swap_at=None if planned.swap_at is None else _moment(planned.swap_at, now),
        start=_moment(planned.start, now),
        end=_moment(planned.end, now),
        tier=None if planned.swap_at is None else "none" if planned.tier is None else planned.tier.label,
        gap_s=None if gap is None else gap.seconds,
        gap_margin_s=None if gap is None else gap.margin_s,
        items=planned.items,
        unknown=planned.unknown,
    )


def _moment(moment: Moment, now: views.Now) -> PlanMoment:
    return PlanMoment(at=now.when(moment.at), margin_s=moment.margin_s, bound=moment.bound.value)


def _waiting(rehearsed: Forecast, most: int, new: set[str]) -> Iterator[PlanWaiting]:
    """Those that begin nowhere: all that are left where nothing more would begin, else those that no time helps."""
    world, at = rehearsed.world, rehearsed.now
    if rehearsed.whole:
        begun = {planned.generation for planned in rehearsed.planned}
        for lane in world.lanes.values():
            standby = lane.standby
            if standby is not None and standby.generation not in begun:
                reason = reasons.reason(world, lane, at)
                yield PlanWaiting(session=standby.session.name, reason=reason, submitted=standby.session.name in new)
        for name, reason in obstacles.waiting_reasons(world, at, most).items():
            yield PlanWaiting(session=name, reason=reason, submitted=name in new)
        return
    for session in world.queue[:most]:
        if session.waits_for or session.not_before > at:
            continue
        obstacle = obstacles.obstacle(world, session, at)
        if obstacle is not None:
            yield PlanWaiting(session=session.name, reason=obstacle, submitted=session.name in new)
