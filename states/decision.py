"""The answer of the core to one event. A record, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from states.effects import Effect
from states.events import Event
from states.notes import Note
from states.snapshot import World


@dataclass(frozen=True, slots=True)
class Decision:
    """What `step` made of an event: the world before and after, what is told of it, what is asked for.

    `refused` is why a command cannot be carried out; then `after` is `before` and nothing is asked for.
    """

    before: World
    after: World
    event: Event
    notes: tuple[Note, ...] = ()
    effects: tuple[Effect, ...] = ()
    refused: str | None = None

    @property
    def matters(self) -> bool:
        """Whether it is to be recorded, logged, and followed by a look at what has become possible."""
        return bool(self.notes or self.effects or self.refused)
