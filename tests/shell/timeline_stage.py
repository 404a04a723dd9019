"""A stretch of a recorded life, read and built as `batonctl timeline` does it. Asserts nothing."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from daemon.ctl.timeline_spans import Role, Span, Timeline, build
from daemon.results import Sample, TimelinePiece, TimelineResult
from tests.shell.recorded_life import GIB, START, Life

DAY = timedelta(days=1)


def pieces(life: Life, since: datetime, until: datetime) -> list[TimelinePiece]:
    """What the socket says, as a client decodes it."""
    told = life.store.past.pieces(since, until)
    return [msgspec.json.decode(msgspec.json.encode(piece), type=TimelinePiece) for piece in told]


def timeline(life: Life, since: datetime = START, until: datetime | None = None) -> Timeline:
    """The stretch; without `until`, up to the life's now."""
    end = until or life.wall
    return build(TimelineResult(since=since, until=end, now=life.wall), pieces(life, since, end))


def spans(made: Timeline, session: str) -> list[tuple[Role, bool, str | None, bool]]:
    """A session's spans in their order: role, whether ready, what became of it, whether it goes on."""
    return [(span.role, span.ready, span.outcome, span.open) for span in of(made, session)]


def of(made: Timeline, session: str) -> list[Span]:
    """A session's spans in their order."""
    return sorted((span for span in made.spans if span.session == session), key=lambda span: (span.begin, span.end))


def sample(at: datetime, lane: str = "cpu", *, used: int = 0, **bytes_: int) -> Sample:
    """A sample of a device of 8 GiB, of which so many are taken."""
    figures = dict.fromkeys(("active_bytes", "standby_bytes", "retiring_bytes", "foreign_bytes", "wanted_bytes"), 0)
    return Sample(ts=at, lane=lane, total_bytes=8 * GIB, free_bytes=8 * GIB - used, **{**figures, **bytes_})
