"""The diagram says what the table says: every move, every cause, and nothing else."""

from __future__ import annotations

import re

from states.diagram import mermaid
from states.snapshot import State
from states.table import TRANSITIONS

EDGE = re.compile(r"    (\w+) --> (\w+): (.+)")


def drawn() -> dict[tuple[str, str], list[str]]:
    """What a reader of the diagram sees."""
    first, start, *lines = mermaid().splitlines()
    assert first == "stateDiagram-v2"
    assert start == "    [*] --> Idle"
    edges: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        edge = EDGE.fullmatch(line)
        assert edge, line
        assert (edge[1], edge[2]) not in edges, f"drawn twice: {line}"
        edges[edge[1], edge[2]] = edge[3].split(", ")
    return edges


def test_every_move_of_the_table_is_drawn_with_its_causes() -> None:
    """Each row that leaves a state is an arrow from each state it leaves, with each of its triggers once."""
    moves: dict[tuple[str, str], set[str]] = {}
    for row in TRANSITIONS:
        for source in row.from_:
            if row.to is not None and row.to is not source:
                moves.setdefault((source.value, row.to.value), set()).update(each.value for each in row.on)
    assert {edge: set(causes) for edge, causes in drawn().items()} == moves
    assert all(len(causes) == len(set(causes)) for causes in drawn().values())


def test_every_state_can_be_reached_and_left() -> None:
    """No state of the code is missing from the picture, and none is a trap."""
    edges = drawn()
    assert {to for _, to in edges} == {source for source, _ in edges} == {state.value for state in State}


def test_the_diagram_is_steady() -> None:
    """The same text each time, in the order of the states: a generated document that does not flicker."""
    assert mermaid() == mermaid()
    order = [state.value for state in State]
    places = [(order.index(source), order.index(to)) for source, to in drawn()]
    assert places == sorted(places)
