"""The real daemon, and a SIGKILL to itself at a chosen point. Wrapped from outside: what it does is not changed.

`python -m tests.crashpoints.daemon_that_dies PASSED DEATH POINT <batond's options>`: every point that is passed becomes
a line of the file PASSED; at the one called POINT the process writes the file DEATH and kills itself ("": at none).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from daemon.__main__ import main
from daemon.adoption import Reception
from daemon.control import ControlServer
from daemon.loop import Loop
from daemon.perform import Performer
from daemon.records import Loaded
from daemon.sessionfile import SessionSpec
from daemon.store import Store
from states.decision import Decision
from states.effects import Effect, Promote, StartStandby
from states.notes import LaneMoved, Note, ProfileLearned, SessionQueued

BEFORE: Final = "before"
AFTER: Final = "after"


class Passage:
    """The points as they are passed. A name that comes again gets its number behind it."""

    def __init__(self, passed: Path, death: Path, chosen: str) -> None:
        self._passed = os.open(passed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._death = death
        self._chosen = chosen
        self._times: Counter[str] = Counter()
        self.told: list[int] = []  # the generations that were told to go
        self.method = ""  # the command in hand

    @contextmanager
    def around(self, what: str, *kinds: str) -> Iterator[None]:
        """The two points around one act. kinds: what it is an example of."""
        self._pass(BEFORE, what, kinds)
        yield
        self._pass(AFTER, what, kinds)

    def _pass(self, when: str, what: str, kinds: tuple[str, ...]) -> None:
        self._times[f"{when} {what}"] += 1
        times = self._times[f"{when} {what}"]
        name = f"{when} {what}" + (f" ({times})" if times > 1 else "")
        line = {"name": name, "kinds": [f"{when} {kind}" for kind in kinds]}
        os.write(self._passed, json.dumps(line).encode() + b"\n")
        if name == self._chosen:
            # Nothing here survives but what other processes see: written in one piece, no sync is needed for that.
            self._death.write_text(json.dumps({"name": name, "at": time.monotonic(), "told": self.told}))
            os.kill(os.getpid(), signal.SIGKILL)


def main_with(passage: Passage) -> None:
    """Be batond, with a point before and after each thing that it leaves to the world."""
    _record(passage)
    _effects(passage)
    _workers(passage)
    _beginning(passage)
    _replies(passage)
    main()


def _record(passage: Passage) -> None:
    record = Store.record

    def wrapped(store: Store, decision: Decision, at: datetime, specs: Mapping[str, SessionSpec] | None = None) -> int:
        words, kinds = _of_decision(decision)
        with passage.around(f"record {', '.join(words)}", *(f"record {kind}" for kind in kinds)):
            return record(store, decision, at, specs)

    setattr(Store, "record", wrapped)  # noqa: B010 - as a plain assignment a type checker refuses it


def _of_decision(decision: Decision) -> tuple[list[str], list[str]]:
    """What a decision tells of, with names and without. One that tells nothing goes by its event."""
    notes = [note for note in decision.notes if not isinstance(note, ProfileLearned)]
    if decision.refused is not None or not notes:
        word = "refused" if decision.refused is not None else "ProfileLearned" if decision.notes else ""
        event = type(decision.event).__name__
        return [f"{event} {word}".rstrip()], [event]
    return [_word(note) for note in notes], list(dict.fromkeys(note.event for note in notes))


def _word(note: Note) -> str:
    if isinstance(note, LaneMoved):
        return f"{note.from_state}>{note.to_state}"
    session = note.session.name if isinstance(note, SessionQueued) else getattr(note, "session", None)
    return f"{note.event} {session}" if session else note.event


def _effects(passage: Passage) -> None:
    perform = Performer.__call__

    def wrapped(performer: Performer, effect: Effect) -> None:
        kind = f"effect {type(effect).__name__}"
        with passage.around(f"{kind} {_session(performer, effect)}", kind):
            perform(performer, effect)
            if isinstance(effect, Promote):
                passage.told.append(effect.generation)

    setattr(Performer, "__call__", wrapped)  # noqa: B010 - as above


def _session(performer: Performer, effect: Effect) -> str:
    if isinstance(effect, StartStandby):
        return effect.session.name
    living = performer._crew._living.get(effect.generation)
    return "of one that is gone" if living is None else living.session


def _workers(passage: Passage) -> None:
    started, gone = Store.worker_started, Store.worker_gone
    names: dict[int, str] = {}

    def noted(store: Store, generation: int, session: str, lane: str, pid: int, at: int) -> None:
        names[generation] = session
        with passage.around(f"note of the process of {session}", "note of a process"):
            started(store, generation, session, lane, pid, at)

    def forgotten(store: Store, generation: int) -> None:
        with passage.around(f"note of the end of {names.get(generation, 'a worker found')}", "note of an end"):
            gone(store, generation)

    setattr(Store, "worker_started", noted)  # noqa: B010 - as above
    setattr(Store, "worker_gone", forgotten)  # noqa: B010 - as above


def _beginning(passage: Passage) -> None:
    load, listen, begin = Store.load, Reception.open, Loop.start

    def loaded(store: Store) -> Loaded:
        with passage.around("reading the record", "reading the record"):
            return load(store)

    def listening(reception: Reception) -> None:
        with passage.around("listening for workers", "listening for workers"):
            listen(reception)

    def begun(loop: Loop) -> None:
        with passage.around("the first decision", "the first decision"):
            begin(loop)

    setattr(Store, "load", loaded)  # noqa: B010 - as above
    setattr(Reception, "open", listening)  # noqa: B010 - as above
    setattr(Loop, "start", begun)  # noqa: B010 - as above


def _replies(passage: Passage) -> None:
    """For one client at a time."""
    call: Callable[..., Awaitable[Any]] = ControlServer._call
    write: Callable[..., Awaitable[None]] = ControlServer._write

    async def called(server: ControlServer, request: Any, *rest: Any, **more: Any) -> Any:
        passage.method = request.method
        return await call(server, request, *rest, **more)

    async def written(server: ControlServer, writer: Any, data: bytes) -> None:
        with passage.around(f"reply to {passage.method}", f"reply to {passage.method}"):
            await write(server, writer, data)

    setattr(ControlServer, "_call", called)  # noqa: B010 - as above
    setattr(ControlServer, "_write", written)  # noqa: B010 - as above


if __name__ == "__main__":
    _program, _passed, _death, _chosen, *_options = sys.argv
    sys.argv = [_program, *_options]
    main_with(Passage(Path(_passed), Path(_death), _chosen))
