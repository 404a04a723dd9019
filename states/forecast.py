"""The queue's future: the real core, driven through simulated time as if all went as earlier runs say. Pure.

No policy is here. Each event that a worker would cause is made at the time at which it is expected, and `step` decides
what follows, as it will. Nothing fails, a commit takes no time, and whoever is stopped by hand stays so.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from states import hindsight, policy, rehearsal
from states.effects import AdvanceStandby, DrainActive, Effect, EndWorker, Promote, StartStandby
from states.events import Committed, Event, Exited, Hello, Promoted, Queued, Quiesced, Ready, Tick
from states.hindsight import Learned, Run, Span
from states.lifecycle import step
from states.outlook import Bound, Moment, Planned
from states.snapshot import Fate, Lane, Phase, State, Worker, World, find, profile_key
from states.work import Session, Tier

TICKS_AT_ONCE = 50  # more would be a core that never rests
NEAR_S = 0.05  # how exactly the time is found at which an end is near


@dataclass
class _Tale:
    """What is known so far of a worker's run in the rehearsal. Mutable; it becomes a `Planned`."""

    session: Session
    lane: str
    prepare_at: float | None
    prepares: Span | None = None
    untimed: bool = False  # how long its preparation takes is not known
    ready_at: float | None = None
    swap: Moment | None = None
    tier: Tier | None = None
    gap: Span | None = None
    items: int | None = None
    start: Moment | None = None
    end: Moment | None = None
    per_item_s: float | None = None
    ends_at: float = math.inf  # of the rehearsal's own time
    unknown: tuple[str, ...] = ()
    anywhere: bool = False


class Forecast:
    """The queue played forward from a world, `most` beginnings far; `more` are queued first, as if submitted now.

    `advance` makes it in small pieces: each takes about a step of the core. Then `planned` has the runs in the order
    in which they begin, those that run already first. `world`, at `now`, is how things stand at the end of what was
    planned; `whole`: nothing more would begin after that.
    """

    def __init__(self, world: World, at: float, learned: Learned, more: tuple[Session, ...] = (), most: int = 100):
        self.now = at
        self.whole = False
        self._learned = learned
        self._most = most
        self._begun = 0
        self._profiles = world.profiles
        self._due: list[tuple[float, int, Event]] = []
        self._posted = 0
        self._tales: dict[int, _Tale] = {}
        self._order: list[int] = []
        self._ends: dict[str, Moment] = {}  # by session
        self._last: dict[str, Moment] = {}  # by lane: the end of the latest session there
        self._waited: dict[str, frozenset[str]] = {s.name: s.waits_for for s in (*world.queue, *more)}
        self._let_end: set[int] = set()
        self._adrift = False  # an end that nobody can predict was waited for: only the order is known from there on
        self._tempting: set[str] = set()  # lanes without a known end that would take work from others
        self._near: dict[str, tuple[object, float]] = {}
        self._memory = rehearsal.Memory(world)
        self.world = rehearsal.patient(world, most)
        for lane in self.world.lanes.values():
            for worker in lane.workers():
                self._take_up(lane, worker)
        if more:
            self._post(at, Queued(at, more[0], more[1:]))
        self._post(at, Tick(at))

    @property
    def planned(self) -> tuple[Planned, ...]:
        """The runs, those that run now first, then in the order in which they begin."""
        return tuple(self._tell(number, self._tales[number]) for number in self._order)

    def advance(self) -> bool:
        """Play one event; False where there is no more to play."""
        if self._begun >= self._most:
            return False
        wake = self._wake_at()
        if self._due and self._due[0][0] <= wake:
            self.now, _, event = heapq.heappop(self._due)
        elif wake < math.inf:
            self.now, event = wake, Tick(wake)
        elif (lost := self._without_end()) is not None:
            self._adrift = True
            self._let_end.add(lost.generation)
            event = self._quiesced(lost)
        else:
            self.whole = True
            return False
        self._play(event)
        return True

    # Time

    def _post(self, at: float, event: Event) -> None:
        self._posted += 1
        heapq.heappush(self._due, (max(at, self.now), self._posted, event))

    def _wake_at(self) -> float:
        """When time alone lets something happen: an end comes near, a wait is over."""
        times = [self._near_at(lane) for lane in self.world.lanes.values() if lane.state is State.RUNNING]
        times += [s.not_before for s in self.world.queue if s.not_before > self.now]
        return min(times, default=math.inf)

    def _near_at(self, lane: Lane) -> float:
        """When the core will find the active session's end near, as it is predicted now; found by asking it."""
        active = lane.active
        if active is None:
            return math.inf
        head = policy.head(self.world, lane, self.now)
        key = (active.generation, active.pace, active.done, None if head is None else head.name)
        known = self._near.get(lane.name)
        if known is not None and known[0] == key:
            return known[1] if known[1] > self.now else math.inf
        tale = self._tales[active.generation]
        early, late = self.now, tale.ends_at
        found = math.inf
        if late < math.inf and policy.near(self.world, lane, late):
            while late - early > NEAR_S:
                middle = (early + late) / 2
                if not early < middle < late:
                    break  # so far ahead that a float tells no finer
                early, late = (early, middle) if policy.near(self.world, lane, middle) else (middle, late)
            found = late
        self._near[lane.name] = (key, found)
        return found

    def _without_end(self) -> Worker | None:
        """Of the sessions that run and whose end is not known, the one that has run longest."""
        active = [lane.active for lane in self.world.lanes.values() if lane.active is not None]
        active = [worker for worker in active if worker.generation not in self._let_end]
        return min(active, key=lambda each: each.began_at or self.now, default=None)

    def _play(self, event: Event) -> None:
        for _ in range(TICKS_AT_ONCE):
            decision = step(self.world, event)
            # What was learned stays as it is: the rehearsal's own times are no measurements.
            self.world = replace(decision.after, profiles=self._profiles)
            for effect in decision.effects:
                self._act(effect)
            self._follow(event)
            if not decision.matters:
                return
            event = Tick(self.now)
        raise AssertionError("each tick brings about another")

    # Workers

    def _take_up(self, lane: Lane, worker: Worker) -> None:
        """A worker that is there: what it will say."""
        number, at = worker.generation, self.now
        tale = self._tales[number] = _Tale(worker.session, lane.name, worker.spawned_at, ready_at=worker.ready_at)
        if worker.unheard:
            self._post(at, Hello(at, number, worker.cursor, worker.done, worker.total, worker.remaining, worker.errors))
        if worker in lane.leaving:
            self._post(at, Exited(at, number, None))
        elif worker in lane.retiring:
            whole = worker.fate is Fate.COMPLETE and worker.total is not None
            self._commit(worker, worker.total if whole and worker.total else worker.done)
        elif worker is lane.standby and worker.phase is Phase.LOADING:
            self._prepare(lane, worker, worker.aim, worker.since)
        elif worker is lane.active:
            self._order.append(number)
            tale.start = Moment(worker.began_at, 0.0, Bound.ABOUT)
            if worker.phase is Phase.GOING:
                self._post(at, Promoted(at, number, at))
            elif worker.phase is Phase.DRAINING:
                tale.end = Moment(at, 0.0, Bound.ABOUT)
                self._post(at, self._quiesced(worker))
            else:
                self._compute(lane, worker)

    def _act(self, effect: Effect) -> None:
        found = find(self.world, effect.generation)
        if found is None:
            return
        lane, worker = found
        match effect:
            case StartStandby():
                self._tales[worker.generation] = _Tale(worker.session, lane.name, None if self._adrift else self.now)
                self._prepare(lane, worker, effect.tier, self.now)
            case AdvanceStandby():
                self._prepare(lane, worker, effect.tier, self.now)
            case Promote():
                self._promote(lane, worker)
            case DrainActive():
                self._post(self.now, self._quiesced(worker))
            case EndWorker():
                self._post(self.now, Exited(self.now, worker.generation, None))
            case _:
                pass  # a standby at its normal priority: when it is ready is known no better for that

    def _prepare(self, lane: Lane, worker: Worker, tier: Tier, since: float) -> None:
        """Only the whole of a preparation is known: the tiers below the last count as no time."""
        profile = self._profiles.get(profile_key(worker.session, lane))
        tale = self._tales[worker.generation]
        times = () if profile is None else (profile.prepared_s if worker.beside else profile.alone_s)
        tale.prepares = hindsight.expected(times) if worker.session.prepares else Span(0.0, 0.0)
        tale.untimed = tale.prepares is None
        seconds = 0.0 if tale.prepares is None or tier is not lane.top else tale.prepares.seconds
        at = max(self.now, since + seconds)
        self._memory.takes(worker, lane, tier)
        host = self._memory.host_of(worker, lane)
        # One that computes as soon as it is started says how many items it has with its first report, not before.
        total = self._total(lane, worker) if worker.session.prepares else worker.total
        self._post(at, Ready(at, worker.generation, tier, at - since, total, host))

    def _promote(self, lane: Lane, worker: Worker) -> None:
        tale, relay = self._tales[worker.generation], lane.relay
        at = self.now
        if relay is not None:
            tale.tier = relay.tier
            tier = "none" if relay.tier is None else relay.tier.label
            tale.gap = hindsight.expected(self._learned.gaps.get((lane.name, tier), ()))
            tale.swap = self._last.get(lane.name, Moment(relay.ended_at, 0.0, Bound.ABOUT))
            if tale.gap is not None:
                at = max(at, relay.ended_at + tale.gap.seconds)
        self._post(at, Promoted(at, worker.generation, at))

    def _follow(self, event: Event) -> None:
        """What a worker's word brings with it, besides what the core asks for."""
        found = find(self.world, getattr(event, "generation", 0))
        match event:
            case Ready() if found is not None:
                tale = self._tales[event.generation]
                tale.ready_at = None if self._adrift or tale.untimed else self.now
                self._read(found[0])
            case Promoted() if found is not None:
                self._begin(*found)
            case Quiesced() if found is not None:
                self._commit(found[1], event.done)
            case Exited():
                lane = self.world.lanes[self._tales[event.generation].lane]
                self._memory.gives_back(event.generation)
                self._read(lane)

    def _read(self, lane: Lane) -> None:
        for reading in self._memory.readings(lane, self.now, self.world.limits.readings):
            self._post(self.now, reading)

    def _begin(self, lane: Lane, worker: Worker) -> None:
        tale = self._tales[worker.generation]
        if worker.generation not in self._order:
            self._order.append(worker.generation)
            self._begun += 1
        if tale.start is None:
            tale.start = self._started(lane, worker, tale)
        self._compute(lane, worker)

    def _started(self, lane: Lane, worker: Worker, tale: _Tale) -> Moment:
        """When its first item is begun, how sure that is, and what is missing for more."""
        before = [self._ends[name] for name in self._waited.get(worker.session.name, ()) if name in self._ends]
        before += [] if tale.swap is None else [tale.swap]
        margin: float | None = 0.0
        bounds = {moment.bound for moment in before}
        for moment in before:
            margin = hindsight.later(margin, moment.margin_s)
        waited = tale.swap is None or (tale.ready_at or 0.0) > (tale.swap.at or 0.0)
        if tale.untimed:
            tale.unknown += ("how long it takes to prepare",)
            bounds.add(Bound.EARLIEST)
        elif waited and worker.session.prepares:
            margin = hindsight.both(margin, None if tale.prepares is None else tale.prepares.margin_s)
        if tale.swap is not None and tale.gap is None:
            tale.unknown += ("what a handover like this takes",)
            bounds.add(Bound.EARLIEST)
        if self._tempted(lane, worker):
            bounds.add(Bound.LATEST)
        tale.anywhere = (
            self._adrift and sum(each.takes(worker.session.device) for each in self.world.lanes.values()) > 1
        )
        return self._moment(self.now, margin, bounds)

    def _tempted(self, lane: Lane, worker: Worker) -> bool:
        """Whether a lane whose session may end at any time would take some of what is planned until here."""
        for other in self.world.lanes.values():
            if other is lane or other.active is None or self._tales[other.active.generation].ends_at < math.inf:
                self._tempting.discard(other.name)
            elif other.takes(worker.session.device):
                self._tempting.add(other.name)
        return bool(self._tempting)

    def _moment(self, at: float, margin: float | None, bounds: Iterable[Bound]) -> Moment:
        found = set(bounds) - {Bound.ABOUT}
        if self._adrift or Bound.UNKNOWN in found or found >= {Bound.EARLIEST, Bound.LATEST}:
            return Moment(None, None, Bound.UNKNOWN)
        return Moment(at, margin, found.pop() if found else Bound.ABOUT)

    # Computing

    def _total(self, lane: Lane, worker: Worker) -> int | None:
        return worker.total if worker.total is not None else hindsight.total(worker.session, self._runs(lane, worker))

    def _runs(self, lane: Lane, worker: Worker) -> tuple[Run, ...]:
        return tuple(self._learned.runs.get(profile_key(worker.session, lane), ()))

    def _compute(self, lane: Lane, worker: Worker) -> None:
        """What it will say until its end, where that is known."""
        tale = self._tales[worker.generation]
        runs, items = self._runs(lane, worker), self._total(lane, worker)
        tale.items = items
        left, per_item_s = rehearsal.remaining(worker, runs, items, self.now)
        tale.per_item_s = per_item_s
        start = tale.start or Moment(self.now, None, Bound.ABOUT)
        if worker.paused is not None or left is None:
            tale.unknown += (rehearsal.why_no_end(worker, items),)
            tale.end = Moment(None, None, Bound.UNKNOWN)
        else:
            tale.ends_at = self.now + left.seconds
            self._post(tale.ends_at, self._quiesced(worker, tale.ends_at))
            margin = (
                left.margin_s
                if start.at is not None and start.at < self.now
                else (hindsight.both(start.margin_s, left.margin_s))
            )
            tale.end = self._moment(tale.ends_at, margin, {start.bound})
        self._ends[worker.session.name] = self._last[lane.name] = tale.end
        host = self._memory.host_of(worker, lane)
        for progress in rehearsal.reports(worker, items, per_item_s, self.now, host):
            self._post(progress.at, progress)

    def _quiesced(self, worker: Worker, at: float | None = None) -> Quiesced:
        """Its last item is computed: all of them, or as many as are done when it is drained."""
        moment = self.now if at is None else at
        tale = self._tales[worker.generation]
        items = tale.items if tale.items is not None else worker.total
        done = worker.done if items is None else items
        if worker.fate is not Fate.COMPLETE and items is not None:
            since = worker.began_at if worker.pace is None else worker.pace.at
            past = 0 if since is None or not tale.per_item_s else int((moment - since) / tale.per_item_s)
            done = min(items, worker.done + max(0, past))
        remaining = 0 if items is None else items - done
        return Quiesced(moment, worker.generation, moment, done, remaining, worker.errors)

    def _commit(self, worker: Worker, cursor: int) -> None:
        self._post(self.now, Committed(self.now, worker.generation, cursor))
        self._post(self.now, Exited(self.now, worker.generation, 0))

    # The result

    def _tell(self, number: int, tale: _Tale) -> Planned:
        nowhere = Moment(None, None, Bound.UNKNOWN)
        return Planned(
            session=tale.session.name,
            generation=number,
            lane=None if tale.anywhere else tale.lane,
            prepare_at=tale.prepare_at,
            ready_at=tale.ready_at,
            swap_at=tale.swap,
            start=tale.start or nowhere,
            end=tale.end or nowhere,
            tier=tale.tier,
            gap=tale.gap,
            items=tale.items,
            unknown=tuple(dict.fromkeys(tale.unknown)),
        )


def forecast(
    world: World, at: float, learned: Learned, more: tuple[Session, ...] = (), most: int = 100
) -> tuple[Planned, ...]:
    """The whole of it at once."""
    rehearsed = Forecast(world, at, learned, more, most)
    while rehearsed.advance():
        pass
    return rehearsed.planned
