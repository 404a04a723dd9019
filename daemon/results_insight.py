"""What `why`, `plan` and `explain` answer: their fields, once. Data only; `wire` says which method gives which."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

from msgspec import Struct

BoundWord: TypeAlias = Literal["about", "earliest", "latest", "unknown"]


class Because(Struct, frozen=True, kw_only=True):
    """Why one thing is as it is: in a sentence, then the figures behind it, one a line.

    `state`: of the lane, or of the session. `since`: when that began; `until`: when time alone will change it.
    """

    about: Literal["lane", "session"]
    name: str
    state: str
    reason: str
    details: tuple[str, ...]
    since: datetime | None = None
    until: datetime | None = None


class WhyResult(Struct, frozen=True, kw_only=True):
    """The answers: of a name that a lane and a session share, both."""

    answers: tuple[Because, ...]


class PlanMoment(Struct, frozen=True, kw_only=True):
    """A predicted time; nine in ten lie within `margin_s` of it, before or after. null: not known.

    `bound`: `about` that time; at the `earliest` then, for what comes before it takes a time that is not known; at the
    `latest` then, for another lane may take some of the work; `unknown`: it waits for an end that cannot be predicted.
    """

    at: datetime | None
    margin_s: float | None
    bound: BoundWord


class PlanRun(Struct, frozen=True, kw_only=True):
    """One run of a session, as it is predicted. `running`: it has begun; `submitted`: by this very request, in thought.

    `prepare_at` and `ready_at`: its preparation begins and is done. `swap_at`: the one before it on the lane has
    computed its last item; null where there is none. `start` and `end`: its first item and its last. `tier`: how far it
    is prepared at the swap (`none`: not at all). `gap_s`: what earlier handovers of that tier took on that lane, with
    `gap_margin_s`. `unknown`: what would have to be known for better times. `lane` is null where only the order is
    known.
    """

    session: str
    lane: str | None
    running: bool
    submitted: bool
    prepare_at: datetime | None
    ready_at: datetime | None
    swap_at: PlanMoment | None
    start: PlanMoment
    end: PlanMoment
    tier: str | None
    gap_s: float | None
    gap_margin_s: float | None
    items: int | None
    unknown: tuple[str, ...]


class PlanWaiting(Struct, frozen=True, kw_only=True):
    """A session that begins nowhere as things stand, and why."""

    session: str
    reason: str
    submitted: bool


class PlanScore(Struct, frozen=True, kw_only=True):
    """How the predictions held: of the last `judged` sessions (20 at the most), `within` ended within their margin."""

    judged: int
    within: int


class PlanView(Struct, frozen=True, kw_only=True):
    """The queue's predicted future, as of `now`: the runs that go on, then those to come, in the order they begin.

    `skipped` of them are left out here. `planned`: how many of the `queued` sessions begin in what was looked at;
    `more`: there are others after that, to be asked for by `skip`. `hurried`: it stopped early, for it took too long.
    """

    now: datetime
    runs: tuple[PlanRun, ...]
    waiting: tuple[PlanWaiting, ...]
    queued: int
    planned: int
    skipped: int
    more: bool
    hurried: bool
    score: PlanScore


class PlanResult(PlanView, frozen=True, kw_only=True):
    """The queue's future as it is."""


class RunView(Struct, frozen=True, kw_only=True):
    """One run of a session against what was predicted when it began. null: not known, or not over.

    `predicted_s` and `run_s`: from its first item to its last; nine in ten lie within `margin_s`. `finished`: the
    session reached its end with it. `cursor`: the items before it, `items`: those in it.
    """

    lane: str
    begun_at: datetime
    cursor: int
    predicted_s: float | None
    margin_s: float | None
    items: int | None
    run_s: float | None
    finished: bool


class Handover(Struct, frozen=True, kw_only=True):
    """One handover: its figures as `handover.completed` and `handover.checked` have them, and in words.

    `because`: what the gap was spent on, what would remove the largest part of it, and how the predictions held.
    """

    seq: int
    ts: datetime
    lane: str
    from_session: str
    session: str
    generation: int
    tier: str
    gap_s: float
    gap_predicted_s: float | None
    gap_margin_s: float | None
    lead_s: float
    lead_predicted_s: float | None
    lead_margin_s: float | None
    lead_next_s: float
    idle_standby_s: float
    device_waited_s: float
    memory_waited_s: float
    preparing_s: float
    draining_s: float
    swapping_s: float
    told_s: float | None
    waited_s: float | None
    recorded_s: float | None
    begun_s: float | None
    held_back: str | None
    unprepared: str | None = None
    ended_by: str | None = None
    queued_s: float | None = None
    because: tuple[str, ...] = ()


class ExplainResult(Struct, frozen=True, kw_only=True):
    """The handovers asked for."""

    handovers: tuple[Handover, ...]
