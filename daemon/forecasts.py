"""Listens to decisions: predicts runs as they begin, holds them and handovers against what came. Decides nothing.

Nothing is written between a session's last item and the next one's first: what is heard then is only remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from daemon.predictions import Predictions
from daemon.stories import HandoverChecked, PredictionChecked, fields
from states import handovers, hindsight, policy
from states.decision import Decision
from states.effects import Promote
from states.estimate import lead_s
from states.events import Committed, Exited, Quiesced
from states.hindsight import Span
from states.notes import (
    HandoverCompleted,
    MemoryWaited,
    SessionCancelled,
    SessionFailed,
    SessionFinished,
    SessionPaused,
    SessionQueued,
    SessionStarted,
    StandbyAdvanced,
    StandbyStarted,
    WorkerExited,
)
from states.snapshot import Lane, Phase, Worker, find, profile_key

Tell = Callable[[PredictionChecked | HandoverChecked, int], None]


@dataclass
class _Standby:
    """What is remembered of a worker until it has taken over."""

    left: Span | None = None  # of the session before it, when its preparation began
    held_back: str | None = None
    memory_waited_s: float = 0.0
    promoted_at: float | None = None
    recorded_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Ending:
    """The decision with which a session's last item was known, and how its lane and its worker were before."""

    decision: Decision
    lane: Lane
    worker: Worker

    @property
    def ended_at(self) -> float:
        """Its last item; of one whose worker was lost, when that was seen."""
        event = self.decision.event
        return event.ended_at if isinstance(event, Quiesced) else event.at


class Forecasts:
    """The listener. `heard` is called with each decision once it is recorded, before it is acted on."""

    def __init__(self, kept: Predictions, note: Callable[[Callable[[], None]], None], tell: Tell) -> None:
        """note: carries out a write, and tells where it failed. tell: with the number of the decision."""
        self._kept = kept
        self._note = note
        self._tell = tell
        self._standbys: dict[int, _Standby] = {}
        self._endings: dict[str, _Ending] = {}  # by lane
        self._submitted: dict[str, float] = {}  # to this daemon, by session: when
        self._paused: set[int] = set()  # generations whose run says nothing of the model's speed

    def heard(self, decision: Decision, seq: int | None, recorded_at: float) -> None:
        """Remember, predict, hold against. seq: its number in the record, None where it is not in it."""
        event = decision.event
        if isinstance(event, Quiesced | Exited) and (found := find(decision.before, event.generation)):
            lane, worker = found
            if worker is lane.active:
                self._endings[lane.name] = _Ending(decision, lane, worker)
        for effect in decision.effects:
            if isinstance(effect, Promote):
                standby = self._standbys.setdefault(effect.generation, _Standby())
                standby.promoted_at, standby.recorded_at = event.at, recorded_at
        if isinstance(event, Committed):
            self._run_over(decision, event)
        if decision.notes and seq is not None:
            self._hear_notes(decision, seq)

    def _hear_notes(self, decision: Decision, seq: int) -> None:
        for note in decision.notes:
            match note:
                case SessionQueued(reason="submitted"):
                    self._submitted[note.session.name] = decision.event.at
                case SessionCancelled() | SessionFailed():
                    self._submitted.pop(note.session, None)
                case StandbyStarted():
                    self._remember(decision, note)
                case StandbyAdvanced():
                    if note.generation in self._standbys and note.held_back is not None:
                        self._standbys[note.generation].held_back = note.held_back
                case MemoryWaited():
                    standby = decision.after.lanes[note.lane].standby
                    if standby is not None and standby.session.name == note.session:
                        self._standbys.setdefault(standby.generation, _Standby()).memory_waited_s += note.waited_s
                case SessionPaused():
                    self._paused.add(note.generation)
                case SessionStarted():
                    self._note(lambda note=note: self._begun(decision, note))  # type: ignore[misc]
                case SessionFinished():
                    self._submitted.pop(note.session, None)
                    self._note(lambda note=note: self._finished(note, seq))  # type: ignore[misc]
                case HandoverCompleted():
                    self._note(lambda note=note: self._handed_over(decision, note, seq))  # type: ignore[misc]
                case WorkerExited():
                    self._standbys.pop(note.generation, None)
                    self._paused.discard(note.generation)
                case _:
                    pass

    def _remember(self, decision: Decision, note: StandbyStarted) -> None:
        left = policy.remaining(decision.after.lanes[note.lane], decision.event.at)
        known = self._standbys.setdefault(note.generation, _Standby())
        known.left = None if left is None or note.beside is None else hindsight.from_pace(left)
        known.held_back = note.held_back

    def _begun(self, decision: Decision, note: SessionStarted) -> None:
        found = find(decision.after, note.generation)
        if found is None:
            return
        lane, worker = found
        model = profile_key(worker.session, lane)
        runs = self._kept.learned((model,), ()).runs[model]
        items = worker.total if worker.total is not None else hindsight.total(worker.session, runs)
        predicted = hindsight.run_length(runs, items, worker.start)
        at = datetime.now(UTC)
        self._kept.begin(note.generation, note.session, note.lane, model, note.cursor, predicted, at)

    def _run_over(self, decision: Decision, event: Committed) -> None:
        """Its last item is computed and durable: how long it took is known, whether or not it was at its end."""
        found = find(decision.after, event.generation)
        worker = None if found is None else found[1]
        if worker is None or worker.phase is not Phase.COMMITTED or worker.generation in self._paused:
            return
        if worker.began_at is None or worker.ended_at is None:
            return
        done, start, seconds = worker.done, worker.start, worker.ended_at - worker.began_at

        def keep() -> None:  # one that was adopted has begun where its run did, not where it was found
            run = self._kept.run(worker.generation)
            items = done - (start if run is None else run.cursor)
            self._kept.end(worker.generation, items, seconds, finished=worker.settled)

        self._note(keep)

    def _finished(self, note: SessionFinished, seq: int) -> None:
        run = self._kept.run(note.generation)
        if run is None or run.predicted_s is None or run.seconds is None:
            return
        error_s = run.seconds - run.predicted_s
        self._tell(
            PredictionChecked(
                session=note.session,
                lane=note.lane,
                generation=note.generation,
                predicted_s=run.predicted_s,
                margin_s=run.margin_s,
                run_s=run.seconds,
                error_s=error_s,
                within=None if run.margin_s is None else abs(error_s) <= run.margin_s,
            ),
            seq,
        )

    def _handed_over(self, decision: Decision, note: HandoverCompleted, seq: int) -> None:
        found = find(decision.after, note.generation)
        if found is None or found[1].began_at is None:
            return
        lane, worker = found
        known = self._standbys.pop(note.generation, None) or _Standby()
        ending = self._endings.pop(note.lane, None)
        began_at = found[1].began_at
        ended_at = began_at - note.gap_s
        if ending is not None and abs(ended_at - ending.ended_at) > 1e-6:
            ending = None  # this one was before an earlier handover, or was not seen
        told_at = None if ending is None else ending.decision.event.at
        submitted_at = self._submitted.get(note.session)
        gap = hindsight.expected(self._kept.learned((), (note.lane,)).gaps.get((note.lane, note.tier), ()))
        promoted_at = known.promoted_at
        checked = HandoverChecked(
            lane=note.lane,
            session=note.session,
            generation=note.generation,
            gap_s=note.gap_s,
            gap_predicted_s=None if gap is None else gap.seconds,
            gap_margin_s=None if gap is None else gap.margin_s,
            lead_s=note.lead_s,
            lead_predicted_s=None if known.left is None else known.left.seconds,
            lead_margin_s=None if known.left is None else known.left.margin_s,
            told_s=None if told_at is None else max(0.0, told_at - ended_at),
            waited_s=None if told_at is None or promoted_at is None else max(0.0, promoted_at - told_at),
            recorded_s=None if promoted_at is None else max(0.0, known.recorded_at - promoted_at),
            begun_s=None if promoted_at is None else began_at - known.recorded_at,
            memory_waited_s=known.memory_waited_s,
            lead_next_s=lead_s(decision.after.profiles.get(profile_key(worker.session, lane))),
            held_back=known.held_back,
            **_beginning(ending, worker),
            queued_s=None if submitted_at is None else ended_at - submitted_at,
        )
        self._kept.keep_handover(seq, {**fields(note), **fields(checked)})
        self._tell(checked, seq)


def _beginning(ending: _Ending | None, worker: Worker) -> dict[str, str | None]:
    """What ended the old session early, and why nothing was prepared for this one, as fields of `HandoverChecked`."""
    if ending is None:
        return {}
    early = handovers.ended_early(ending.decision, ending.lane, ending.worker)
    nothing = handovers.unprepared(ending.decision, ending.lane, ending.worker, worker.session)
    return {"ended_by": early, "unprepared": nothing}
