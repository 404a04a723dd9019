"""Every world the real table can come to, up to `abstraction.normal`, found by breadth-first search through `step`.

By hand, for bigger searches than the tests': `python -m tests.core.search --sessions 3`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from states import events as ev
from states import gate, policy, reasons
from states.decision import Decision
from states.lifecycle import step
from states.notes import SessionCancelled, SessionFailed, SessionFinished
from states.snapshot import Lane, Phase, State, World, invariants
from states.table import TRANSITIONS
from tests.core.abstraction import key, normal
from tests.core.offers import Kind, Part, Scope, beginning, names, offered, paced
from tests.core.watching import spelt, watched


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


@cache
def explored(scope: Scope) -> Graph:
    """The whole graph, searched once for all tests of a run; cut off where it grows without end, which a test sees."""
    return explore(scope, 20_000)


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
            for part, label, concrete, event in paced(offered(graph.worlds[number], scope)):
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
    had, has = names(before), names(after)
    if isinstance(decision.event, ev.Queued):
        had.append(decision.event.session.name)
    assert sorted(had) == sorted(has + ended), f"sessions {sorted(had)} became {sorted(has)}, ended: {ended}"
    for lane in after.lanes.values():
        if lane.state not in {State.IDLE, State.STOPPED}:
            limited = any(w.deadline is not None or w.stall_at is not None for w in lane.workers())
            assert limited or reasons.reason(after, lane, decision.event.at), (
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
    if session is None or gate.fitting_tier(world, lane, session) is None:
        return None
    return f"{session.name} may be started"


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
