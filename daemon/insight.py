"""The control methods that answer questions: why something is so, what will be, what a handover was spent on."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from daemon import explaining, obstacles, views, wire
from daemon.control import Handler, Peer
from daemon.planning import Planner
from daemon.results_insight import Because, ExplainResult, Handover, PlanResult, RunView, WhyResult
from daemon.store import SessionRecord, Store
from daemon.wire import Code, Refusal
from states import details, reasons
from states.snapshot import Lane, Worker, World

REMEDIES: Mapping[str, str] = {
    "model": "mend the model, or what the session file says of it",
    "input": 'mend the input, or have items like that left out with on_error = "skip"',
    "program": "mend the program; batonctl show prints the last of what it said",
    "memory": "give it more room: a smaller batch_size, memory = …, or another device",
    "stall": "see in its log what it waited for; limits.stall_timeout_s is how long it may",
}
EXPLAINED_AT_ONCE = 25  # handovers, before what workers say is heard again
LOOK_INTO = "see in its log what became of it (batonctl logs)"


class Insight:
    """These methods, by name in `table`. All run on the event loop's thread."""

    def __init__(self, *, world: Callable[[], World], store: Store, planner: Planner) -> None:
        self._now_world = world
        self._store = store
        self._planner = planner
        self._plans: set[int] = set()  # user ids that may only look, and have a plan made
        self.table: Mapping[str, Handler] = {"why": self.why, "plan": self.plan, "explain": self.explain}

    async def plan(self, params: wire.PlanParams, peer: Peer) -> PlanResult:
        """The queue's future."""
        if peer.may_act:
            return await self._planner.plan(params.limit, params.skip)
        if peer.uid in self._plans:  # plans are made one by one: many of theirs would stand before everybody else's
            why = f"batond makes a plan for user id {peer.uid} already, who may only look; ask again once that is there"
            raise Refusal(Code.REFUSED, why)
        self._plans.add(peer.uid)
        try:
            return await self._planner.plan(params.limit, params.skip)
        finally:
            self._plans.discard(peer.uid)

    # Why

    async def why(self, params: wire.WhyParams, _peer: Peer) -> WhyResult:
        """Reasons, with their figures."""
        world, now = self._now_world(), views.Now(time.monotonic(), datetime.now(UTC))
        name = params.name
        lanes = [lane for lane in world.lanes.values() if name in (None, lane.name)]
        answers = [self._of_lane(world, lane, now) for lane in lanes]
        if name is None:
            name = world.queue[0].name if world.queue else None
        if name is not None and (params.name is None or not lanes or self._store.session(name) is not None):
            answers.append(self._of_session(world, name, now))
        return WhyResult(answers=tuple(answers))

    def _of_lane(self, world: World, lane: Lane, now: views.Now) -> Because:
        pids = {record.generation: record.pid for record in self._store.workers()}
        return Because(
            about="lane",
            name=lane.name,
            state=lane.state.value,
            reason=reasons.reason(world, lane, now.at),
            details=tuple(details.of_lane(world, lane, now.at, pids)),
            since=now.when(lane.since),
        )

    def _of_session(self, world: World, name: str, now: views.Now) -> Because:
        for lane, worker in views.live_workers(world):
            if worker.session.name == name:
                return self._of_worker(world, lane, worker, now)
        record = self._store.session(name)
        for session in world.queue:
            if session.name == name:
                failed = () if record is None or not record.attempt else self._failed_before(record)
                return Because(
                    about="session",
                    name=name,
                    state="queued",
                    reason=obstacles.waiting_reason(world, session, now.at),
                    details=(*details.of_queued(world, session, now.at), *failed),
                    since=None if record is None else record.submitted_at,
                    until=now.when(session.not_before) if session.not_before > now.at else None,
                )
        if record is None:
            lanes = ", ".join(world.lanes)
            raise Refusal(
                Code.NOT_FOUND,
                f"there is no lane and no session {name}; the lanes are {lanes}, batonctl list --all shows sessions",
            )
        return Because(
            about="session",
            name=name,
            state=record.state,
            reason=_how_it_ended(record),
            details=tuple(self._ended(record)),
            since=record.ended_at,
        )

    def _of_worker(self, world: World, lane: Lane, worker: Worker, now: views.Now) -> Because:
        row = views.live_rows(world, now, {}, {worker.session.name})[0]
        return Because(
            about="session",
            name=worker.session.name,
            state=row.state,
            reason=f"on {lane.name}: {row.reason or reasons.reason(world, lane, now.at)}",
            details=(
                *details.of_worker(world, lane, worker, now.at),
                *(() if not row.reason else (f"{lane.name} is {lane.state.value}: {_why(world, lane, now)}",)),
            ),
            since=now.when(worker.paused_at if worker.paused is not None else worker.since),
        )

    def _failed_before(self, record: SessionRecord) -> tuple[str, ...]:
        said = [entry for entry in self._store.history(record.name) if entry.note["event"] == "session.retried"]
        if not said:
            return ()
        note = said[-1].note
        return (f"attempt {note['attempt']} failed ({note['kind']}): {note['reason']}",)

    def _ended(self, record: SessionRecord) -> Iterator[str]:
        """What it cost, or why it ended so and what would make it run."""
        if record.state == "failed":
            item = "" if record.item is None else f", at item {record.item}"
            yield f"attempt {record.attempt} of {record.core.max_attempts}, kind {record.kind}{item}"
            remedy = REMEDIES.get(record.kind or "", LOOK_INTO)
            yield f"{remedy}; then batonctl retry {record.name} goes on from item {record.cursor}"
        elif record.state == "cancelled":
            yield f"batonctl retry {record.name} queues it again, from item {record.cursor}"
        for run in self._store.predictions.runs_of(record.id):
            if run.seconds is not None:
                yield _ran(views.run_view(run))
        if record.started_at is not None and record.state == "done":
            waited = (record.started_at - record.submitted_at).total_seconds()
            yield f"its last run began {reasons.seconds(max(0.0, waited))} after it was submitted"
        for handover in self._handovers(session=record.name, since=record.seq):
            yield (
                f"the handover to it took {explaining.length(handover.gap_s)} (batonctl explain {handover.seq}):"
                f" {handover.from_session} → {handover.session}, {handover.tier}"
            )
        if record.core.errors:
            yield f"{record.core.errors} items were skipped; errors.jsonl in its output says which"

    # Handovers

    async def explain(self, params: wire.ExplainParams, _peer: Peer) -> ExplainResult:
        """Handovers in figures and words."""
        if (params.handover is not None) + (params.session is not None) + (params.worst is not None) > 1:
            raise Refusal(Code.INVALID_PARAMS, "explain: give one of handover, session and worst")
        if params.worst is not None:
            return ExplainResult(handovers=await self._worst(params.worst))
        found = tuple(self._handovers(seq=params.handover, session=params.session))
        if not found and params.handover is not None:  # a number may be a name, too
            found = tuple(self._handovers(session=str(params.handover)))
        if not found and params.handover is not None:
            why = f"decision {params.handover} completed no handover; batonctl explain --worst 20 lists some that did"
            raise Refusal(Code.NOT_FOUND, why)
        if not found and params.session is not None:
            if self._store.session(params.session) is None:
                why = f"there is no session {params.session}; batonctl list --all shows sessions"
            else:
                why = f"there was no handover to session {params.session}: nothing ran on its lane just before it"
            raise Refusal(Code.NOT_FOUND, why)
        return ExplainResult(handovers=found)

    async def _worst(self, limit: int) -> tuple[Handover, ...]:
        """Those with the longest gaps; whoever asks for very many must not keep the event loop from the workers."""
        found: list[Handover] = []
        for handover in self._handovers(worst=True, limit=limit):
            found.append(handover)
            if len(found) % EXPLAINED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return tuple(found)

    def _handovers(
        self,
        *,
        seq: int | None = None,
        session: str | None = None,
        worst: bool = False,
        limit: int = 1,
        since: int = 0,
    ) -> Iterator[Handover]:
        lines = self._store.predictions.handovers(seq=seq, session=session, worst=worst, limit=limit)
        began_at: tuple[datetime, ...] = ()  # when daemons did
        if lines:
            first = min(line["ts"] - timedelta(seconds=line["gap_s"]) for line in lines)
            began_at = self._store.samples.began(first, max(line["ts"] for line in lines))
        for line in lines:
            handover = msgspec.convert(line, Handover, strict=False)
            if handover.seq < since:
                continue
            began = handover.ts - timedelta(seconds=handover.gap_s)
            within = began_at[bisect_left(began_at, began) : bisect_right(began_at, handover.ts)]
            restarted_s = (within[-1] - began).total_seconds() if within else None
            yield msgspec.structs.replace(handover, because=explaining.explained(handover, restarted_s))


def _why(world: World, lane: Lane, now: views.Now) -> str:
    return reasons.reason(world, lane, now.at)


def _how_it_ended(record: SessionRecord) -> str:
    if record.state != "done":
        return record.reason or record.state
    return f"all of its {record.items} items are computed and durable" if record.items else "its program is through"


def _ran(run: RunView) -> str:
    lasted = f"{run.items or 0} items in {reasons.seconds(run.run_s or 0.0)} on {run.lane}"
    if run.predicted_s is None:
        return f"{lasted}; nothing was predicted: its model had not run there"
    margin = "" if run.margin_s is None else f" ± {reasons.seconds(run.margin_s)}"
    return f"{lasted}; predicted were {reasons.seconds(run.predicted_s)}{margin}"
