"""The record of a stretch of time as spans: what each lane did, whom it had, when no daemon was there. Pure.

Made from what the socket's `timeline` gives. Times are microseconds since 1970, UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias

import msgspec

from daemon.results import Life, Sample, TimelinePiece, TimelineResult

Note: TypeAlias = Mapping[str, Any]
ENDS: Final = {"session.finished": "done", "session.failed": "failed", "session.cancelled": "cancelled"}


class Role(Enum):
    """What a worker is to its lane, for a while."""

    ACTIVE = "active"
    STANDBY = "standby"
    RETIRING = "retiring"


@dataclass
class Span:
    """One worker in one role, from `begin` to `end`.

    `open`: it goes on at the stretch's end. A standby that is prepared in several steps has a span for each; `ready`:
    it is prepared as far as `tier`, and waits. `outcome`: what became of the session at the end of its active span;
    `told`: what else is known of it, as the log names it.
    """

    lane: str
    role: Role
    session: str
    generation: int
    begin: int
    end: int
    open: bool = False
    tier: str | None = None
    ready: bool = False
    outcome: str | None = None
    told: dict[str, Any] = field(default_factory=dict)


@dataclass
class StateSpan:
    """A lane in one state. `cause`: the event that brought it there, None for what was so at the beginning."""

    lane: str
    state: str
    begin: int
    end: int
    cause: str | None = None
    open: bool = False


@dataclass(frozen=True)
class Handover:
    """A handover as it was completed; `told` are the fields of `handover.completed`."""

    lane: str
    at: int
    told: Note

    @property
    def gap_us(self) -> int:
        """Last item of the old session to first item of the new one."""
        return max(0, round(float(self.told["gap_s"]) * 1e6))


@dataclass(frozen=True)
class Timeline:
    """All of it. `absent`: when no daemon was there, as far as the record can tell."""

    since: int
    until: int
    lanes: tuple[str, ...]
    spans: tuple[Span, ...]
    states: tuple[StateSpan, ...]
    handovers: tuple[Handover, ...]
    samples: tuple[Sample, ...]
    absent: tuple[tuple[int, int], ...]

    @property
    def sessions(self) -> int:
        """How many sessions computed something: one that came back after a swap, a crash or a retry is one still.

        A session whose name was done before is another one.
        """
        runs: dict[str, Span] = {}  # by session: the latest
        count = 0
        for run in sorted((span for span in self.spans if span.role is Role.ACTIVE), key=lambda span: span.begin):
            before = runs.get(run.session)
            count += before is None or (before.outcome == "done" and before.generation != run.generation)
            runs[run.session] = run
        return count

    def after(self, since: int) -> Timeline:
        """The same, of what did not end before."""
        return replace(
            self,
            since=since,
            spans=tuple(span for span in self.spans if span.end >= since),
            states=tuple(span for span in self.states if span.end >= since),
            handovers=tuple(each for each in self.handovers if each.at >= since),
            samples=tuple(each for each in self.samples if micros(each.ts) >= since),
            absent=tuple((begin, end) for begin, end in self.absent if end >= since),
        )

    def only(self, lane: str) -> Timeline:
        """The same, of one lane."""
        return replace(
            self,
            lanes=(lane,),
            spans=tuple(span for span in self.spans if span.lane == lane),
            states=tuple(span for span in self.states if span.lane == lane),
            handovers=tuple(each for each in self.handovers if each.lane == lane),
            samples=tuple(each for each in self.samples if each.lane == lane),
        )


def micros(at: datetime) -> int:
    """Microseconds since 1970."""
    return round(at.timestamp() * 1e6)


def build(stretch: TimelineResult, pieces: Iterable[TimelinePiece]) -> Timeline:
    """The spans of a stretch."""
    lives: list[Life] = []
    samples: list[Sample] = []
    building: _Building | None = None
    for piece in pieces:
        lives += piece.lives
        building = building or (_Building(lives) if piece.decisions or piece.samples else None)
        for decision in piece.decisions:
            assert building is not None, "made with the first decisions"
            building.take(micros(decision.ts), msgspec.json.decode(decision.notes))
        samples += piece.samples
    building = building or _Building(lives)
    return building.finish(micros(stretch.since), micros(stretch.until), samples)


class _Building:
    """Takes the decisions in their order; the daemons' lives all come before them."""

    def __init__(self, lives: Iterable[Life]) -> None:
        self._lives = [(micros(life.began_at), micros(life.seen_at), life.ended) for life in lives]
        self._life = 0  # the one that the latest decision belongs to
        self._last_seen: dict[int, int] = {}  # by life: when its latest decision was
        self._spans: list[Span] = []
        self._states: dict[str, list[StateSpan]] = {}
        self._handovers: list[Handover] = []
        self._workers: dict[int, Span] = {}  # by generation: its open span
        self._begun: dict[int, Span] = {}  # by generation: its active span
        self._queued: dict[str, int] = {}
        self._waited: dict[str, float] = {}  # by session: for memory, while nobody computed
        self._unclaimed: dict[int, Span] = {}  # by generation: ended with its daemon, and perhaps adopted later

    def take(self, at: int, notes: Iterable[Note]) -> None:
        """One decision's notes."""
        while self._life + 1 < len(self._lives) and self._is_over(at):
            self._end_life()
        self._last_seen[self._life] = at
        for note in notes:
            self._take(at, note)

    def finish(self, since: int, until: int, samples: list[Sample]) -> Timeline:
        """Close what is open, cut everything to the stretch."""
        while self._life + 1 < len(self._lives):
            self._end_life()
        end = until
        if self._lives and self._lives[-1][2]:
            end = min(until, self._lives[-1][1])
        moved = [state for states in self._states.values() for state in states]
        for span in self._workers.values():
            span.end, span.open = max(span.begin, end), end == until
        for state in moved:
            if state.open:
                state.end, state.open = max(state.begin, end), end == until
        moved += [replace(state, open=state.end == until) for state in self._idle(since, end, samples)]
        moved.sort(key=lambda state: state.begin)
        spans = tuple(span for span in self._spans if since <= span.end and span.begin <= until)
        states = tuple(state for state in moved if since <= state.end and state.begin <= until)
        for span in spans:
            span.begin = max(span.begin, since)
        for state in states:
            state.begin = max(state.begin, since)
        lanes = {s.lane for s in spans} | {s.lane for s in states} | {s.lane for s in samples}
        return Timeline(
            since=since,
            until=until,
            lanes=tuple(sorted(lanes)),
            spans=spans,
            states=states,
            handovers=tuple(each for each in self._handovers if since <= each.at <= until),
            samples=tuple(samples),
            absent=tuple(
                (max(since, a), min(until, b)) for a, b in self._absent(end, until) if b > since and a < until
            ),
        )

    def _idle(self, since: int, end: int, samples: list[Sample]) -> Iterator[StateSpan]:
        """Of each lane that a daemon saw and told nothing of: without a session it did nothing.

        Only where its device could be read at last: one that could not may have been lost.
        """
        ends = [*(self._life_end(number) for number in range(len(self._lives) - 1)), end]
        for begin, gone in zip([began for began, _, _ in self._lives] or [since], ends, strict=True):
            latest = {sample.lane: sample for sample in samples if begin <= micros(sample.ts) <= gone}
            for lane, sample in latest.items():
                told = any(state.begin < gone and state.end > begin for state in self._states.get(lane, []))
                if sample.total_bytes and not told:
                    yield StateSpan(lane, "Idle", begin, gone)

    def _absent(self, end: int, until: int) -> Iterator[tuple[int, int]]:
        for number, (began, _, _) in enumerate(self._lives[1:]):
            if (gone := self._life_end(number)) < began:  # else the clock was set back in between
                yield gone, began
        if end < until:
            yield end, until

    def _life_end(self, number: int) -> int:
        return max(self._lives[number][1], self._last_seen.get(number, 0))

    def _is_over(self, at: int) -> bool:
        """Whether the life ended before that decision: it could be of the next, and is later than all of this one's.

        Or earlier: the clock was set back, so that both were there at some times, and time goes on within a life.
        """
        began, seen, _ = self._lives[self._life]
        went_back = at < max(began, self._last_seen.get(self._life, 0))
        return at >= self._lives[self._life + 1][0] and (at >= seen or went_back)

    def _end_life(self) -> None:
        """What was open ends with its daemon, as far as the record knows; a session that is adopted later goes on."""
        end = self._life_end(self._life)
        for span in self._workers.values():
            span.end = max(span.begin, end)
            self._unclaimed[span.generation] = span
        self._workers.clear()
        self._life += 1
        for states in self._states.values():
            if states[-1].open:
                states[-1].end, states[-1].open = max(states[-1].begin, end), False
            began = self._lives[self._life][0]
            states.append(StateSpan(states[-1].lane, "Idle", began, began, open=True))

    def _take(self, at: int, note: Note) -> None:
        generation = note.get("generation", -1)
        match note["event"]:
            case "session.queued":
                self._queued[note["session"]] = at
            case "lane.moved":
                self._move(at, note)
            case "standby.started":
                self._open(at, note, Role.STANDBY, tier=note["tier"], told=_kept(note, _NEED))
            case "standby.advanced" if span := self._workers.get(generation):
                told = {**span.told, **_kept(note, _NEED)}
                self._open(at, note, Role.STANDBY, tier=note["tier"], told=told)
            case "standby.ready" if span := self._workers.get(generation):
                told = {**span.told, "prepared_s": note["seconds"]}
                self._open(at, note, Role.STANDBY, tier=note["tier"], ready=True, told=told)
            case "session.started":
                span = self._open(at, note, Role.ACTIVE, told=_kept(note, ("attempt", "cursor", "total")))
                if (queued := self._queued.get(note["session"])) is not None:
                    span.told["queued_s"] = (at - queued) / 1e6
                if (waited := self._waited.pop(note["session"], None)) is not None:
                    span.told["waited_for_memory_s"] = waited
                self._begun[generation] = span
            case "session.adopted":
                self._adopt(at, note)
            case "memory.waited":
                self._waited[note["session"]] = note["waited_s"]
            case "handover.completed":
                self._hand_over(at, note)
            case "session.finished" | "session.failed" | "session.cancelled" | "session.retried" | "session.committed":
                self._conclude(note)
            case "standby.discarded":
                self._close(at, generation, outcome="discarded", reason=note["reason"])
            case "worker.exited":
                self._close(at, generation)

    def _open(
        self,
        at: int,
        note: Note,
        role: Role,
        *,
        tier: str | None = None,
        ready: bool = False,
        told: dict[str, Any],
    ) -> Span:
        """The worker is in this role from now on, and in no other."""
        self._close(at, note["generation"])
        span = Span(note["lane"], role, note["session"], note["generation"], at, at, tier=tier, ready=ready, told=told)
        self._spans.append(span)
        self._workers[span.generation] = span
        return span

    def _close(self, at: int, generation: int, outcome: str | None = None, **told: Any) -> None:
        span = self._workers.pop(generation, None)
        if span is not None:
            span.end = max(span.begin, at)
            span.outcome = span.outcome or outcome
            span.told.update(told)

    def _adopt(self, at: int, note: Note) -> None:
        generation = note["generation"]
        span = self._unclaimed.pop(generation, None)
        if span is not None and span.role is Role.ACTIVE:
            self._workers[generation] = span  # it was never interrupted
            span.told["adopted"] = True
        else:
            self._begun[generation] = self._open(at, note, Role.ACTIVE, told=_kept(note, ("cursor",)))

    def _move(self, at: int, note: Note) -> None:
        lane = note["lane"]
        states = self._states.setdefault(lane, [])
        if not states:
            since = at - max(0, round(note["waited_s"] * 1e6))
            began = self._lives[self._life][0] if self._lives else since
            states.append(StateSpan(lane, note["from"], min(at, max(since, began)), at))
        elif states[-1].open:
            states[-1].end, states[-1].open = max(states[-1].begin, at), False
            if states[-1].cause is None:  # what a daemon begins with, it does not tell
                states[-1].state = note["from"]
        states.append(StateSpan(lane, note["to"], at, at, note["cause"], open=True))
        if note["cause"] == "Quiesced":
            self._retire(at, lane)

    def _retire(self, at: int, lane: str) -> None:
        """The active worker has computed its last item; it commits, and exits."""
        for span in [s for s in self._workers.values() if s.lane == lane and s.role is Role.ACTIVE]:
            note = {"lane": lane, "session": span.session, "generation": span.generation}
            self._open(at, note, Role.RETIRING, told={})

    def _hand_over(self, at: int, note: Note) -> None:
        """The old and the new worker have told their times: the new one began that long after the old one's end.

        The daemon heard of it later.
        """
        handover = Handover(note["lane"], at, note)
        begun = self._begun.get(note["generation"])
        old = next(
            (s for s in reversed(self._spans) if s.session == note["from_session"] and s.role is Role.ACTIVE), None
        )
        if begun is not None and old is not None and old.end + handover.gap_us < begun.begin:
            prepared = next(
                (s for s in reversed(self._spans) if s.generation == begun.generation and s is not begun), None
            )
            begin = old.end + handover.gap_us
            if prepared is not None and prepared.end == begun.begin:
                begin = max(begin, prepared.begin)
                prepared.end = begin
            begun.begin = begin
            handover = replace(handover, at=begin)
        self._handovers.append(handover)

    def _conclude(self, note: Note) -> None:
        """What became of a session's run; what became of it in the queue is none of an earlier run's."""
        if note["lane"] is None:
            return
        event, session = note["event"], note["session"]
        generation = note.get("generation") or self._latest(session)
        span = self._begun.get(generation) or self._workers.get(generation) or self._unclaimed.get(generation)
        if span is None:
            return
        outcome = ENDS.get(event) or ("tried again" if event == "session.retried" else "handed back")
        if event in ENDS or span.outcome is None:
            span.outcome = outcome
        span.told.update(_kept(note, ("items", "errors", "reason", "kind", "item")))
        if event in ("session.committed", "session.cancelled") and note.get("cursor") is not None:
            span.told["items"] = note["cursor"]

    def _latest(self, session: str) -> int:
        """The latest worker of a session, where the event does not name it."""
        known = (*self._workers.values(), *self._begun.values())
        return max((span.generation for span in known if span.session == session), default=-1)


_NEED: Final = ("need_bytes", "free_bytes", "lead_s", "beside", "held_back")


def _kept(note: Note, names: Iterable[str]) -> dict[str, Any]:
    return {name: note[name] for name in names if note.get(name) is not None}
