"""What the daemon's record holds, decision by decision: the rules of daemon/recording.py and store.py, in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from states import notes as told
from states.decision import Decision
from states.effects import Promote
from states.snapshot import find
from states.work import Profile, Session
from tests.simulation.laws import must


@dataclass(frozen=True, slots=True)
class Found:
    """A worker that was started and not seen to end."""

    generation: int
    session: str
    lane: str
    promoted: bool = False


class Record:
    """Live sessions, workers, what was learned. `ended` keeps how a session's last life ended, and where."""

    def __init__(self) -> None:
        self.live: dict[str, Session] = {}
        self.workers: dict[int, Found] = {}
        self.ended: dict[str, Session] = {}
        self.profiles: dict[str, Profile] = {}
        self.held: set[str] = set()
        self.generation = 0

    def apply(self, decision: Decision) -> None:
        """Keep one decision."""
        for note in decision.notes:
            self._note(note)
        told_of = {id(note.session) for note in decision.notes if isinstance(note, told.SessionQueued)}
        if decision.before.queue is not decision.after.queue:
            known = told_of | {id(session) for session in decision.before.queue}
            for session in decision.after.queue:
                if id(session) not in known:
                    self._change(session.name)
                    self.live[session.name] = session
        for effect in decision.effects:
            if isinstance(effect, Promote) and (found := find(decision.after, effect.generation)):
                self._change(found[1].session.name, begun=True)
                if effect.generation in self.workers:
                    self.workers[effect.generation] = replace(self.workers[effect.generation], promoted=True)
        self.generation = decision.after.generation

    def queue(self) -> tuple[Session, ...]:
        """As a new daemon takes it up: sessions that a worker had come back as queued, at their recorded cursor."""
        return tuple(sorted(self.live.values(), key=lambda session: session.rank))

    def _note(self, note: told.Note) -> None:
        match note:
            case told.SessionQueued(session=session):
                self.live[session.name] = session
            case told.SessionMoved():
                self._change(note.session, order=note.order)
            case told.CancelAsked():
                self._change(note.session, cancelled=True)
            case told.SessionStarted():
                self._change(note.session, cursor=note.cursor)
                if note.total is not None:
                    self._change(note.session, total=note.total)
            case told.SessionAdopted() | told.SessionCommitted():
                self._change(note.session, cursor=note.cursor)
            case told.SessionRetried():
                self._change(note.session)
            case told.StandbyReady(total=total) if total is not None:
                self._change(note.session, total=total)
            case told.SessionFinished() | told.SessionFailed() | told.SessionCancelled():
                self._change(note.session)
                if isinstance(note, told.SessionFinished) and (found := self.workers.get(note.generation)):
                    # its process goes on for a while: it is nobody's, also when a session of that name comes again
                    self.workers[note.generation] = replace(found, session="")
                self.ended[note.session] = self.live.pop(note.session)
            case told.ProfileLearned():
                self.profiles[note.key] = note.profile
            case told.LaneHeld():
                (self.held.add if note.held else self.held.discard)(note.lane)
            case _:
                pass

    def _change(self, name: str, **fields: object) -> None:
        must(name in self.live, "record", f"a decision tells of {name}, and no live session of that name is recorded")
        self.live[name] = replace(self.live[name], **fields)  # type: ignore[arg-type]
