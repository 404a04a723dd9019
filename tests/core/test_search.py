"""The real table, searched exhaustively: no world is stuck, no two rows hold at once, every row and state is used.

Each search bounds the sessions and processes alive at once, not how many come after one another. `python -m
tests.core.search` runs bigger ones by hand.
"""

from __future__ import annotations

from collections import Counter

import pytest

from states.snapshot import State
from states.table import TRANSITIONS
from tests.core.scopes import SCOPES
from tests.core.search import FAIR, SILENT, Graph, explored, stuck
from tests.core.watching import spelt


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    """All searches; every step of them was checked: `search.check`, `watching.watched`."""
    return {name: explored(scope) for name, scope in SCOPES.items()}


def test_every_step_is_sound(graphs: dict[str, Graph]) -> None:
    """Invariants hold, sessions are neither lost nor doubled, no two rows hold at once, no opportunity is missed."""
    for name, graph in graphs.items():
        assert len(graph.edges) == len(graph.worlds), "the search came to its end"
        print(f"{name}: {len(graph.worlds)} worlds, {sum(map(len, graph.edges))} edges, {graph.seconds:.1f} s")


@pytest.mark.parametrize("name", SCOPES)
def test_no_world_is_stuck(graphs: dict[str, Graph], name: str) -> None:
    """Where workers do what they are told, memory comes and someone resumes, all sessions end and the lane rests."""
    _nothing(graphs[name], stuck(graphs[name], FAIR))


def test_silent_workers_stop_nothing(graphs: dict[str, Graph]) -> None:
    """Where no worker says another word and each dies only when it is killed, time alone brings every lane to rest."""
    graph = graphs["one session, with everything that may befall it"]
    _nothing(graph, stuck(graph, SILENT))


def test_every_row_is_used(graphs: dict[str, Graph]) -> None:
    """No row of the table is dead."""
    taken: Counter[int] = Counter()
    for graph in graphs.values():
        taken.update(graph.taken)
    assert [spelt(row) for place, row in enumerate(TRANSITIONS) if not taken[place]] == []


def test_every_state_is_used(graphs: dict[str, Graph]) -> None:
    """No state of a lane is out of reach."""
    seen = {lane.state for graph in graphs.values() for world in graph.worlds for lane in world.lanes.values()}
    assert seen == set(State)


def test_every_command_is_refused_somewhere(graphs: dict[str, Graph]) -> None:
    """The searches come to worlds in which what is asked for cannot be done."""
    refused: Counter[str] = Counter()
    for graph in graphs.values():
        refused.update(graph.refused)
    assert {"Queued", "Cancel", "Swap"} <= refused.keys()


def _nothing(graph: Graph, numbers: list[int]) -> None:
    stories = "\n".join(f"{graph.story(number)}\n    {graph.worlds[number]}" for number in numbers[:3])
    assert not numbers, f"{len(numbers)} of {len(graph.worlds)} worlds are stuck, first:\n{stories}"
