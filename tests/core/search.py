"""Every world the real table can come to, up to `abstraction.normal`, found by breadth-first search through `step`.

By hand, for bigger searches than the tests': `python -m tests.core.search --sessions 3`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import cycle, islice

from states import events as ev
from states import policy
from states.decision import Decision
from states.lifecycle import step
from states.notes import SessionCancelled, SessionFailed, SessionFinished
from states.snapshot import Lane, Phase, State, Worker, World, invariants
from states.table import TRANSITIONS
from states.work import Session, Tier
from tests.core.abstraction import (
    BASE,
    FAR,
    IMPORTED_BYTES,
    ITEMS,
    LEAD,
    LIMITS,
    NEAR,
    NOW,
    PLENTY,
    SHORT,
    TIGHT,
    UNLIMITED,
    URGENT,
    WARM_BYTES,
    key,
    normal,
)
from tests.core.watching import spelt, watched


class Kind(Enum):
    """The sorts of sessions that the table tells apart."""

    PLAIN = "prepares, can resume, knows its total"
    ENDLESS = "does not know its total"
    PROGRAM = "computes as soon as it is started"
    ONE_SHOT = "cannot resume"


class Part(Enum):
    """Who brings an event about: what a continuation may count on."""

    WORK = "workers that do what they are told"
    FAULT = "workers that fail, die or say a thing twice"
    DEATH = "the exit of a worker that got SIGKILL, or that nothing limits"
    TIME = "time passes a limit"
    MEMORY = "memory becomes free"
    CARE = "someone resumes the lane; the device comes back"
    WHIM = "commands, submissions, losses"


@dataclass(frozen=True)
class Scope:
    """How much of everything a search offers."""

    sessions: int = 2
    lanes: int = 1
    kinds: tuple[Kind, ...] = (Kind.PLAIN,)
    attempts: int = 2
    tight: bool = True
    faults: bool = True
    limits: bool = True
    doubled: bool = True
    swaps: bool = True
    cancels: bool = True
    holds: bool = True
    endings: bool = True
    arrivals: bool = True
    coarse: bool = False
    after: bool = False


Edge = tuple[Part, str, World, ev.Event]


@dataclass
class Graph:
    """What was found. `edges[n]`: for the nth world, who and to which world."""

    scope: Scope
    worlds: list[World] = field(default_factory=list)
    edges: list[list[tuple[Part, str, int]]] = field(default_factory=list)
    parents: list[tuple[int, str]] = field(default_factory=list)
    taken: Counter[int] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def story(self, number: int) -> str:
        """The events that lead to a world, from the beginning."""
        told: list[str] = []
        while number:
            number, label = self.parents[number]
            told.append(label)
        return " → ".join(reversed(told))

    def figures(self) -> str:
        """Size and time, for a person."""
        edges = sum(len(each) for each in self.edges)
        return f"{len(self.worlds)} worlds, {edges} edges, {self.seconds:.1f} s: {self.scope}"


def beginning(scope: Scope) -> World:
    """Idle lanes, no reading yet; nothing queued, or all there will ever be."""
    lanes = {name: Lane(name, imported_bytes=IMPORTED_BYTES, since=BASE) for name in "LM"[: scope.lanes]}
    queue: tuple[Session, ...] = ()
    if not scope.arrivals:
        kinds = islice(cycle(scope.kinds), scope.sessions)
        queue = tuple(_session(scope, kind, f"s{place}", place) for place, kind in enumerate(kinds))
    return normal(World(lanes, queue, limits=LIMITS))


def _session(scope: Scope, kind: Kind, name: str, place: int) -> Session:
    return Session(
        name=name,
        order=float(place),
        profile=kind.name,
        guess_bytes=WARM_BYTES,
        max_attempts=scope.attempts or UNLIMITED,
        lead=LEAD,
        resumable=kind is not Kind.ONE_SHOT,
        prepares=kind is not Kind.PROGRAM,
    )


def offered(world: World, scope: Scope) -> Iterator[Edge]:
    """Every event that may come next, each with the world made concrete for it."""
    yield from _submissions(world, scope)
    yield from _times(world, scope)
    for lane in world.lanes.values():
        readings = [(Part.MEMORY, "plenty", PLENTY)]
        if scope.tight:
            readings += [(Part.WHIM, "tight", TIGHT), (Part.WHIM, "short", SHORT)]
        for part, word, reading in readings:
            yield part, f"memory {word}", world, ev.Memory(NOW, lane.name, reading.total, reading.free)
        for worker in lane.workers():
            for part, label, event in _said(lane, worker, scope):
                yield part, f"{worker.session.name} {label}", world, event
        if scope.holds:
            yield Part.CARE, "resume", world, ev.Resume(NOW, lane.name)
            yield Part.WHIM, "pause", world, ev.Pause(NOW, lane.name)
            yield Part.WHIM, "drain lane", world, ev.DrainLane(NOW, lane.name)
        if lane.lost is not None:
            yield Part.CARE, "device back", world, ev.DeviceBack(NOW, lane.name)
        if scope.swaps:
            yield from _swaps(world, lane)
        if scope.endings and lane.lost is None:
            yield Part.WHIM, "device lost", world, ev.DeviceLost(NOW, lane.name, "gone")
    if scope.endings:
        yield Part.WHIM, "stop", world, ev.Stop(NOW)
        yield Part.WHIM, "kill", world, ev.Kill(NOW)
    if scope.cancels:
        for session in [*world.queue, *(w.session for w in _owners(world))]:
            yield Part.WHIM, f"cancel {session.name}", world, ev.Cancel(NOW, session.name)
        if len(world.queue) > 1:
            yield Part.WHIM, "move", world, ev.Move(NOW, world.queue[-1].name)


def _owners(world: World) -> list[Worker]:
    return [worker for lane in world.lanes.values() for worker in lane.workers() if not worker.settled]


def _submissions(world: World, scope: Scope) -> Iterator[Edge]:
    count = len(world.queue) + sum(1 for lane in world.lanes.values() for _ in lane.workers())
    if count >= scope.sessions or not scope.arrivals:
        return
    for kind in scope.kinds:
        session = _session(scope, kind, "new", count)
        yield Part.WHIM, f"queue {kind.name}", world, ev.Queued(NOW, session)
        names = _names(world)
        if scope.after and names:
            first = min(names)
            yield (
                Part.WHIM,
                f"queue after {first}",
                world,
                ev.Queued(NOW, replace(session, waits_for=frozenset({first}))),
            )


def _times(world: World, scope: Scope) -> Iterator[Edge]:
    """Time passes nothing, or exactly one limit: in which order limits pass is left open."""
    tick = ev.Tick(NOW)
    yield Part.TIME, "tick", world, tick
    for place, session in enumerate(world.queue):
        if session.not_before:
            due = replace(session, not_before=BASE)
            yield Part.TIME, f"backoff of {session.name}", replace(world, queue=_put(world.queue, place, due)), tick
    for lane in world.lanes.values():
        for worker in lane.workers() if scope.limits else ():
            if worker.deadline is not None:
                yield Part.TIME, f"deadline of {worker.session.name}", _with(world, lane, worker, deadline=BASE), tick
            if worker.stall_at is not None and worker is lane.active:
                yield Part.TIME, f"stall of {worker.session.name}", _with(world, lane, worker, stall_at=BASE), tick


def _paced(edges: Iterator[Edge]) -> Iterator[Edge]:
    """What is predicted may change at any moment: each event that asks for it comes with every prediction."""
    for part, label, concrete, event in edges:
        yield part, label, concrete, event
        if not isinstance(event, ev.Queued | ev.Memory | ev.Tick | ev.Resume | ev.Progress):
            continue
        for lane in concrete.lanes.values():
            active, standby = lane.active, lane.standby
            if active is None or active.phase is not Phase.COMPUTING or active.total is None:
                continue
            if not active.session.prepares and active.pace is None:
                continue  # it has reported nothing yet
            if lane.state in {State.RUNNING, State.NEARING_END}:
                yield part, f"{label}, end near", _with(concrete, lane, active, pace=NEAR), event
                yield part, f"{label}, end far", _with(concrete, lane, active, pace=FAR), event
            elif standby is not None and standby.low_priority and isinstance(event, ev.Progress | ev.Tick):
                yield part, f"{label}, end at hand", _with(concrete, lane, active, pace=URGENT), event


def _put(group: tuple[Session, ...], place: int, new: Session) -> tuple[Session, ...]:
    return (*group[:place], new, *group[place + 1 :])


def _with(world: World, lane: Lane, worker: Worker, **fields: object) -> World:
    changed = replace(worker, **fields)  # type: ignore[arg-type]
    parts = {
        "active": changed if lane.active is worker else lane.active,
        "standby": changed if lane.standby is worker else lane.standby,
        "retiring": tuple(changed if each is worker else each for each in lane.retiring),
        "leaving": tuple(changed if each is worker else each for each in lane.leaving),
    }
    return replace(world, lanes={**world.lanes, lane.name: replace(lane, **parts)})  # type: ignore[arg-type]


def _said(lane: Lane, worker: Worker, scope: Scope) -> Iterator[tuple[Part, str, ev.FromWorker]]:
    """What a worker may say in its phase, in the protocol's order; its faults; its death."""
    g, phase = worker.generation, worker.phase
    total = None if worker.session.profile == Kind.ENDLESS.name else ITEMS
    ready = ev.Ready(NOW, g, worker.aim, 1.0, total, WARM_BYTES if worker.aim is Tier.WARM else IMPORTED_BYTES)
    quiesced = ev.Quiesced(NOW, g, NOW, ITEMS, 0)
    early = ev.Quiesced(NOW, g, NOW, ITEMS - 1, None if total is None else 1)
    match phase:
        case Phase.LOADING:
            yield Part.WORK, "ready", ready
        case Phase.GOING:
            yield Part.WORK, "started", ev.Promoted(NOW, g, NOW)
        case Phase.COMPUTING:
            yield Part.WORK, "progress", ev.Progress(NOW, g, 1, 0, total)
            yield Part.WORK, "last batch", ev.LastBatch(NOW, g)
            yield Part.WORK, "quiesced", quiesced
            yield Part.FAULT, "quiesced early", early
        case Phase.DRAINING:
            if worker.began_at is None:
                yield Part.WORK, "started", ev.Promoted(NOW, g, NOW)
            else:
                yield Part.WORK, "quiesced", quiesced
                yield Part.WORK, "quiesced early", early
                yield Part.FAULT, "progress", ev.Progress(NOW, g, 2, 0, total)
        case Phase.COMMITTING:
            yield Part.WORK, "committed", ev.Committed(NOW, g, worker.done)
        case _:
            pass
    if phase is Phase.COMMITTED:
        yield Part.WORK, "exits", ev.Exited(NOW, g, 0)
    let_go = scope.coarse and worker in lane.retiring  # its deadline is pending: it is dead in the end
    if worker.forced is not None or let_go or (phase is Phase.COMPUTING and not worker.session.prepares):
        yield Part.DEATH, "is dead", ev.Exited(NOW, g, -9)
    elif scope.faults:
        yield Part.FAULT, "dies", ev.Exited(NOW, g, -9)
    if scope.faults and worker.trouble is None and not worker.settled and phase is not Phase.COMMITTED:
        yield Part.FAULT, "fails for good", ev.Failed(NOW, g, "model", "bad")
        if not scope.coarse:
            yield Part.FAULT, "fails", ev.Failed(NOW, g, "memory", "short")
    if scope.doubled:
        yield from _doubled(worker, ready, quiesced)


def _doubled(worker: Worker, ready: ev.Ready, quiesced: ev.Quiesced) -> Iterator[tuple[Part, str, ev.FromWorker]]:
    g, phase = worker.generation, worker.phase
    if phase is not Phase.LOADING:
        yield Part.FAULT, "hello late", ev.Hello(NOW, g, 0)
        yield Part.FAULT, "ready twice", replace(ready, tier=worker.tier or Tier.WARM)
    if phase in {Phase.COMPUTING, Phase.DRAINING} and worker.began_at is not None:
        yield Part.FAULT, "started twice", ev.Promoted(NOW, g, NOW)
    if phase in {Phase.COMMITTING, Phase.COMMITTED}:
        yield Part.FAULT, "last batch late", ev.LastBatch(NOW, g)
        yield Part.FAULT, "quiesced twice", quiesced
        yield Part.FAULT, "progress late", ev.Progress(NOW, g, 1, 0)


def _swaps(world: World, lane: Lane) -> Iterator[Edge]:
    yield Part.WHIM, "swap", world, ev.Swap(NOW, lane.name)
    yield Part.WHIM, "swap by force", world, ev.Swap(NOW, lane.name, force=True)
    for session in world.queue:
        yield Part.WHIM, f"swap to {session.name}", world, ev.Swap(NOW, lane.name, session.name)


def explore(scope: Scope, limit: int = 10_000_000) -> Graph:
    """The graph of all worlds in reach; every step is checked on the way."""
    graph = Graph(scope)
    began = time.process_time()
    first = beginning(scope)
    numbers = {key(first): 0}
    graph.worlds.append(first)
    graph.parents.append((0, ""))
    todo = deque([0])
    with watched() as taken:
        while todo and len(graph.worlds) < limit:
            number = todo.popleft()
            edges: list[tuple[Part, str, int]] = []
            for part, label, concrete, event in _paced(offered(graph.worlds[number], scope)):
                try:
                    decision = step(concrete, event)
                    check(decision)
                except AssertionError as wrong:
                    raise AssertionError(f"{graph.story(number)} → {label}\n{wrong}") from wrong
                if decision.refused is not None:
                    graph.refused[type(event).__name__] += 1
                    continue
                if _same(decision):
                    continue
                form = normal(decision.after, coarse=scope.coarse)
                name = key(form)
                found = numbers.get(name)
                if found is None:
                    found = numbers[name] = len(graph.worlds)
                    graph.worlds.append(form)
                    graph.parents.append((number, label))
                    todo.append(found)
                if found != number:
                    edges.append((part, label, found))
            graph.edges.append(edges)
    graph.taken = taken
    graph.seconds = time.process_time() - began
    return graph


def _same(decision: Decision) -> bool:
    before, after = decision.before, decision.after
    same = after.queue is before.queue and after.stopping is before.stopping
    return same and all(lane is before.lanes[name] for name, lane in after.lanes.items())


def check(decision: Decision) -> None:
    """What must hold of every single step."""
    before, after = decision.before, decision.after
    wrong = invariants(after)
    assert not wrong, f"{decision.event}: {'; '.join(wrong)}"
    if decision.refused is not None:
        assert after is before, "a refusal changes nothing"
        assert not decision.effects, "a refusal asks for nothing"
        return
    ended = [n.session for n in decision.notes if isinstance(n, SessionFinished | SessionFailed | SessionCancelled)]
    had, has = _names(before), _names(after)
    if isinstance(decision.event, ev.Queued):
        had.append(decision.event.session.name)
    assert sorted(had) == sorted(has + ended), f"sessions {sorted(had)} became {sorted(has)}, ended: {ended}"
    for lane in after.lanes.values():
        if lane.state not in {State.IDLE, State.STOPPED}:
            limited = any(w.deadline is not None or w.stall_at is not None for w in lane.workers())
            assert limited or policy.reason(after, lane, decision.event.at), (
                f"{lane.state.value} waits for nothing that it could name"
            )
    if isinstance(decision.event, ev.Tick) and not decision.matters:
        for lane in after.lanes.values():
            left = _missed(after, lane, decision.event.at)
            assert left is None, f"{lane.state.value}: {left}, and a tick does nothing about it"
    if not decision.notes and not decision.effects:
        states = [(old.state, after.lanes[name].state) for name, old in before.lanes.items()]
        assert all(old is new for old, new in states), "a lane moved and nobody was told"


def _missed(world: World, lane: Lane, at: float) -> str | None:
    """What could be done on the lane now, by its guards; None when nothing can."""
    active = lane.active
    computing = active is not None and active.phase is Phase.COMPUTING
    if policy.go(world, lane):
        return "the standby may have the device"
    if policy.climbing_tier(world, lane) is not None and not world.stopping:
        return "the standby may go further"
    if lane.swap_asked and computing and not lane.held and policy.waits(lane):
        return "a swap was asked for, and the next session is prepared"
    if lane.state not in {State.IDLE, State.NEARING_END, State.DRAINING} or world.stopping:
        return None  # Running has no need of it yet, and one that swaps has its next already
    session = policy.next_session(world, lane, at)
    if session is None or policy.fitting_tier(world, lane, session) is None:
        return None
    return f"{session.name} may be started"


def _names(world: World) -> list[str]:
    return [session.name for session in world.queue] + [worker.session.name for worker in _owners(world)]


def at_rest(world: World) -> bool:
    """Nothing is left to do: no process, and no session unless batond is stopping."""
    if any(True for lane in world.lanes.values() for _ in lane.workers()):
        return False
    if world.stopping:
        return all(lane.state is State.STOPPED for lane in world.lanes.values())
    return not world.queue and all(lane.state in {State.IDLE, State.STOPPED} for lane in world.lanes.values())


def stuck(graph: Graph, parts: set[Part], also: Callable[[World], bool] | None = None) -> list[int]:
    """The worlds from which no continuation by those parts alone comes to rest."""
    back: list[list[int]] = [[] for _ in graph.worlds]
    for number, edges in enumerate(graph.edges):
        for part, _, to in edges:
            if part in parts:
                back[to].append(number)
    reached = {n for n, world in enumerate(graph.worlds) if at_rest(world) or (also is not None and also(world))}
    todo = list(reached)
    while todo:
        for number in back[todo.pop()]:
            if number not in reached:
                reached.add(number)
                todo.append(number)
    return [number for number in range(len(graph.worlds)) if number not in reached]


FAIR = {Part.WORK, Part.DEATH, Part.TIME, Part.MEMORY, Part.CARE}
SILENT = {Part.DEATH, Part.TIME, Part.MEMORY, Part.CARE}


def main() -> None:
    """Search from the command line and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=3)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=[kind.name for kind in Kind], default=["PLAIN"])
    parser.add_argument("--attempts", type=int, default=2)
    parser.add_argument(
        "--without",
        nargs="*",
        choices=["tight", "faults", "limits", "doubled", "swaps", "cancels", "holds", "endings"],
        default=[],
    )
    parser.add_argument("--closed", action="store_true", help="all sessions are queued at the beginning")
    parser.add_argument("--after", action="store_true")
    parser.add_argument("--coarse", action="store_true")
    parser.add_argument("--limit", type=int, default=2_000_000, help="stop after so many worlds")
    given = parser.parse_args()
    scope = Scope(
        sessions=given.sessions,
        lanes=given.lanes,
        kinds=tuple(Kind[name] for name in given.kinds),
        attempts=given.attempts,
        arrivals=not given.closed,
        after=given.after,
        coarse=given.coarse,
        **dict.fromkeys(given.without, False),  # type: ignore[arg-type]
    )
    graph = explore(scope, given.limit)
    print(graph.figures())
    for word, parts in (("fair", FAIR), ("silent", SILENT)):
        if len(graph.edges) < len(graph.worlds):
            print("cut short: not searched for stuck worlds")
            break
        numbers = stuck(graph, parts)
        print(f"{len(numbers)} worlds stuck under a {word} continuation")
        for number in numbers[:3]:
            print("   ", graph.story(number), "\n      ", graph.worlds[number])
    for place, row in enumerate(TRANSITIONS):
        print(f"{graph.taken[place]:8d}  {spelt(row)}")
    states = Counter(lane.state.value for world in graph.worlds for lane in world.lanes.values())
    print(dict(states))


if __name__ == "__main__":
    sys.exit(main())
