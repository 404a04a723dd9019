"""A world, and the records of sessions, as the control socket shows them. Pure: reads no clock, asks nobody.

Times on the wire are UTC; the core's are monotonic seconds, so each view is given both clocks of one moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from daemon import obstacles
from daemon.devices import Listing, Process
from daemon.logtails import LogTail
from daemon.predictions import RunRecord
from daemon.results import (
    DeviceProcess,
    DeviceView,
    Failure,
    LaneView,
    MemoryView,
    NeedView,
    QueueView,
    Row,
    SessionState,
    StatusResult,
    WorkerView,
)
from daemon.results_insight import RunView
from daemon.store import SessionRecord
from daemon.tracebacks import last_traceback
from states import gate, hindsight, policy, reasons
from states.snapshot import Fate, Lane, Phase, Worker, World
from states.work import Session

HORIZON_S = 100 * 365.25 * 86400


@dataclass(frozen=True, slots=True)
class Now:
    """One moment: `at` in monotonic seconds, `utc` by the wall clock."""

    at: float
    utc: datetime

    def when(self, at: float | None) -> datetime | None:
        """The wall time of a monotonic one; None also for one so far off that no calendar need have it."""
        if at is None or abs(at - self.at) > HORIZON_S:
            return None
        return self.utc - timedelta(seconds=self.at - at)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What status tells of the daemon itself."""

    version: str
    pid: int
    started_at: float


FEW = 8  # sessions, of which each is asked about by itself: of more, all of the queue is gone through once

_WORDS: dict[Phase, SessionState] = {
    Phase.LOADING: "preparing",
    Phase.READY: "ready",
    Phase.GOING: "running",
    Phase.COMPUTING: "running",
    Phase.DRAINING: "draining",
    Phase.COMMITTING: "committing",
    Phase.COMMITTED: "committing",
}


def live_workers(world: World) -> Iterator[tuple[Lane, Worker]]:
    """Every worker whose session has not ended, active ones first."""
    for lane in world.lanes.values():
        for worker in lane.workers():
            if not worker.settled:
                yield lane, worker


def live_names(world: World) -> list[str]:
    """Every session that has not ended: those with a worker, then the queue in its order."""
    return [worker.session.name for _, worker in live_workers(world)] + [session.name for session in world.queue]


def place(world: World, name: str) -> int:
    """The place in the queue, 1 is next; 0 when it is not queued."""
    return next((index for index, session in enumerate(world.queue, 1) if session.name == name), 0)


def next_order(world: World) -> float:
    """The order of a session that comes after all others of its priority."""
    orders = [session.order for session in world.queue]
    orders += [worker.session.order for lane in world.lanes.values() for worker in lane.workers()]
    return max(orders, default=0.0) + 1.0


# Status


def status(
    world: World, daemon: Daemon, seq: int, now: Now, unrecorded: str | None = None, most: int | None = None
) -> StatusResult:
    """The daemon, its lanes, and the queue (its first `most`). unrecorded: why decisions cannot be recorded."""
    return StatusResult(
        version=daemon.version,
        pid=daemon.pid,
        uptime_s=now.at - daemon.started_at,
        stopping=world.stopping,
        unrecorded=unrecorded,
        seq=seq,
        lanes=tuple(lane_view(world, lane, now) for lane in world.lanes.values()),
        queued=len(world.queue),
        queue=queue_views(world, now.at, most),
    )


def lane_view(world: World, lane: Lane, now: Now) -> LaneView:
    """One lane with its workers."""
    return LaneView(
        name=lane.name,
        device=device_name(lane),
        state=lane.state.value,
        since_s=max(0.0, now.at - lane.since),
        held=lane.held,
        lost=lane.lost,
        reason=reasons.reason(world, lane, now.at),
        active=worker_view(lane.active, now) if lane.active else None,
        standby=worker_view(lane.standby, now) if lane.standby else None,
        retiring=tuple(worker_view(worker, now) for worker in lane.retiring),
        leaving=tuple(worker_view(worker, now) for worker in lane.leaving),
        memory=memory_view(world, lane, now.at),
    )


def memory_view(world: World, lane: Lane, at: float) -> MemoryView | None:
    """A lane's memory, and what the next session needs of it."""
    if not lane.readings:
        return None
    return MemoryView(
        total_bytes=lane.readings[-1].total,
        free_bytes=lane.readings[-1].free,
        spare_bytes=gate.spare(lane, world.limits),
        headroom_bytes=world.limits.headroom_bytes,
        next=_need(world, lane, at),
    )


def _need(world: World, lane: Lane, at: float) -> NeedView | None:
    """Of the standby, to go one tier further than it is being prepared; where there is none, of the next in whole."""
    standby = lane.standby
    if standby is not None:
        tier = next((tier for tier in lane.tiers if tier > standby.aim), None)
        session: Session | None = standby.session
    else:
        tier = lane.top
        session = None if lane.held or lane.lost or world.stopping else policy.head(world, lane, at)
    if session is None or tier is None:
        return None
    return NeedView(
        session=session.name,
        tier=tier.label,
        needed_bytes=gate.asked(world, lane, session, tier, standby),
        fits=gate.fits(world, lane, session, tier, standby),
    )


def worker_view(worker: Worker, now: Now) -> WorkerView:
    """One worker."""
    rate, remaining, margin = _pace(worker, now)
    return WorkerView(
        session=worker.session.name,
        generation=worker.generation,
        phase=worker.phase.value,
        tier=worker.tier.label if worker.tier else None,
        aim=worker.aim.label,
        since_s=max(0.0, now.at - worker.since),
        done=max(worker.done, worker.session.cursor),
        total=_total(worker),
        cursor=max(worker.cursor, worker.session.cursor),
        rate_items_s=rate,
        remaining_s=remaining,
        remaining_spread_s=margin,
        rss_bytes=worker.rss_bytes,
        reserved_bytes=worker.reserved,
        held_bytes=worker.held_bytes,
        attempt=worker.session.attempt + 1,
        errors=max(worker.errors, worker.session.errors),
        paused=worker.paused,
    )


def _total(worker: Worker) -> int | None:
    return worker.session.total if worker.total is None else worker.total


def _pace(worker: Worker, now: Now) -> tuple[float | None, float | None, float | None]:
    """Items a second, predicted remaining seconds, their margin; None where it is not known, or nothing computes."""
    pace, total = worker.pace, _total(worker)
    if pace is None or pace.per_item_s <= 0 or worker.phase not in {Phase.COMPUTING, Phase.DRAINING}:
        return None, None, None
    rate = 1.0 / pace.per_item_s
    left = pace.remaining(now.at, total) if total is not None and worker.fate is Fate.COMPLETE else None
    span = None if left is None else hindsight.from_pace(left)
    return (rate, None, None) if span is None else (rate, span.seconds, span.margin_s)


def queue_views(world: World, at: float, most: int | None = None) -> tuple[QueueView, ...]:
    """The queued sessions (the first `most`) in their order, and why each waits."""
    reasons = obstacles.waiting_reasons(world, at, most)
    return tuple(
        QueueView(
            name=session.name,
            place=number,
            priority=session.priority,
            device=session.device,
            cursor=session.cursor,
            total=session.total,
            attempt=_attempt(session),
            reason=reasons[session.name],
        )
        for number, session in enumerate(islice(world.queue, most), 1)
    )


def _attempt(session: Session) -> int:
    """Which attempt a queued session is at: the one to come, where one failed, or that it goes on with; else 0."""
    return session.attempt + 1 if session.attempt or session.begun else 0


def device_name(lane: Lane) -> str:
    """As a session asks for it: `cpu`, `gpu:0`."""
    return lane.device if lane.index is None else f"{lane.device}:{lane.index}"


def device_view(
    lane: Lane, headroom_bytes: int, listing: Listing, owner: Callable[[Process], int | None]
) -> DeviceView:
    """A lane's device, its memory and who holds it. owner: the generation of the worker whose process it is."""
    reading = lane.readings[-1] if lane.readings else None
    sessions = {worker.generation: worker.session.name for worker in lane.workers()}
    return DeviceView(
        lane=lane.name,
        kind=lane.device,
        name=listing.name,
        index=lane.index,
        uuid=lane.uuid,
        driver=listing.driver,
        capability=listing.capability,
        usable=lane.lost is None,
        reason=lane.lost,
        trouble=None if lane.lost else lane.unread or listing.trouble,
        total_bytes=listing.total_bytes if reading is None else reading.total,
        free_bytes=listing.free_bytes if reading is None else reading.free,
        reserved_bytes=sum(worker.reserved for worker in lane.workers()),
        headroom_bytes=headroom_bytes,
        utilisation_percent=listing.utilisation_percent,
        temperature_c=listing.temperature_c,
        clocks=listing.clocks,
        holders=tuple(worker.session.name for worker in lane.workers()),
        processes=None
        if listing.processes is None
        else tuple(
            DeviceProcess(pid=each.pid, name=each.name, bytes=each.size, session=sessions.get(owner(each) or 0))
            for each in listing.processes
        ),
    )


# Rows of sessions


def live_rows(
    world: World,
    now: Now,
    submitted: Mapping[str, datetime],
    only: Collection[str] | None = None,
    *,
    queued: bool = True,
) -> list[Row]:
    """The sessions that have not ended (of these names `only`): those with a worker, then, if `queued`, the queue.

    `submitted`: when each was.
    """
    rows = [
        _worker_row(lane, worker, now, submitted)
        for lane, worker in live_workers(world)
        if only is None or worker.session.name in only
    ]
    waiting = [
        (number, session)
        for number, session in enumerate(world.queue if queued else (), 1)
        if only is None or session.name in only
    ]
    reasons = obstacles.waiting_reasons(world, now.at) if len(waiting) > FEW else {}
    for number, session in waiting:
        rows.append(
            Row(
                name=session.name,
                state="queued",
                place=number,
                priority=session.priority,
                done=session.cursor,
                total=session.total,
                cursor=session.cursor,
                errors=session.errors,
                attempt=_attempt(session),
                max_attempts=session.max_attempts,
                reason=reasons.get(session.name) or obstacles.waiting_reason(world, session, now.at),
                submitted_at=submitted.get(session.name),
            )
        )
    return rows


def ended_row(record: SessionRecord) -> Row:
    """A session that has ended, from its record."""
    return Row(
        name=record.name,
        state="running" if record.state == "active" else record.state,
        lane=record.lane,
        priority=record.core.priority,
        done=record.cursor if record.items is None else record.items,
        total=record.total,
        cursor=record.cursor,
        errors=record.core.errors,
        attempt=record.attempt,
        max_attempts=record.core.max_attempts,
        reason=record.reason,
        submitted_at=record.submitted_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
    )


def failure(kept: LogTail | None) -> Failure | None:
    """What the worker of a failed attempt left, from the record."""
    if kept is None:
        return None
    return Failure(attempt=kept.attempt, log_tail=kept.text, traceback=last_traceback(kept.text))


def run_view(run: RunRecord) -> RunView:
    """A run against its prediction, from its record."""
    return RunView(
        lane=run.lane,
        begun_at=run.begun_at,
        cursor=run.cursor,
        predicted_s=run.predicted_s,
        margin_s=run.margin_s,
        items=run.items,
        run_s=run.seconds,
        finished=run.finished,
    )


def _worker_row(lane: Lane, worker: Worker, now: Now, submitted: Mapping[str, datetime]) -> Row:
    view, session = worker_view(worker, now), worker.session
    leaving = worker in lane.leaving
    return Row(
        name=session.name,
        state="ending" if leaving else _WORDS[worker.phase],
        lane=lane.name,
        lane_state=lane.state.value,
        priority=session.priority,
        done=view.done,
        total=view.total,
        cursor=view.cursor,
        errors=view.errors,
        rate_items_s=view.rate_items_s,
        remaining_s=view.remaining_s,
        remaining_spread_s=view.remaining_spread_s,
        attempt=view.attempt,
        max_attempts=session.max_attempts,
        reason=_doing(lane, worker),
        submitted_at=submitted.get(session.name),
        started_at=now.when(worker.began_at),
    )


def _doing(lane: Lane, worker: Worker) -> str:
    if worker.trouble is not None:
        return worker.trouble.reason
    if worker.paused is not None:
        return f"has no room to write, and tries again: {worker.paused}"
    if worker.fate is Fate.CANCEL:
        return "is being cancelled"
    if worker in lane.leaving or worker.fate is Fate.REQUEUE:
        return "comes back to the queue"
    if worker.fate is Fate.RETRY:
        return "is tried again"
    if worker is lane.standby:
        return f"prepared to {worker.tier.label}" if worker.tier else f"being prepared to {worker.aim.label}"
    return ""
