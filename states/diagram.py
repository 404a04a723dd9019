"""The table as a mermaid state diagram. Reads the table, draws nothing else."""

from __future__ import annotations

from states.snapshot import State
from states.table import TRANSITIONS


def mermaid() -> str:
    """The moves between states, each with the triggers that cause it."""
    edges: dict[tuple[State, State], list[str]] = {}
    for row in TRANSITIONS:
        for source in row.from_:
            if row.to is None or row.to is source:
                continue
            causes = edges.setdefault((source, row.to), [])
            causes += [trigger.value for trigger in row.on if trigger.value not in causes]
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE.value}"]
    order = list(State)
    for source, to in sorted(edges, key=lambda pair: (order.index(pair[0]), order.index(pair[1]))):
        lines.append(f"    {source.value} --> {to.value}: {', '.join(edges[source, to])}")
    return "\n".join(lines) + "\n"
