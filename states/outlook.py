"""What is predicted of the queue, as values: a moment, how it is meant, a run. No arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from states.hindsight import Span
from states.work import Tier


class Bound(Enum):
    """How a predicted time is meant."""

    ABOUT = "about"
    EARLIEST = "earliest"  # something that comes before it takes a time that is not known
    LATEST = "latest"  # another lane, whose session's end is not known, may take some of the work
    UNKNOWN = "unknown"  # it waits for an end that cannot be predicted: only the order is known


@dataclass(frozen=True, slots=True)
class Moment:
    """A predicted time: monotonic seconds, None where it is not known, and its margin (see `hindsight`)."""

    at: float | None
    margin_s: float | None
    bound: Bound


@dataclass(frozen=True, slots=True)
class Planned:
    """One run of a session, as it is expected.

    `prepare_at`: its preparation begins; `ready_at`: it is prepared; `swap_at`: the session before it on the lane has
    computed its last item (None: there is none); `start`: its first item; `end`: its last. `tier`: how far it is
    prepared at the swap (None: not at all, or nothing is swapped). `gap_s`: what handovers of that tier took there.
    `unknown`: what would have to be known for better times, in words.
    """

    session: str
    generation: int
    lane: str | None
    prepare_at: float | None
    ready_at: float | None
    swap_at: Moment | None
    start: Moment
    end: Moment
    tier: Tier | None
    gap: Span | None
    items: int | None
    unknown: tuple[str, ...]
