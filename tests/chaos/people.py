"""What people do at the control socket while all goes wrong: submit, cancel, swap, pause. Waits for no answer long."""

from __future__ import annotations

import json
import random
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tests.chaos.sessions import Author, Session

ANSWER_S: Final = 5.0
SUBMIT_S: Final = 90.0  # its model is looked into by a process of its own, at the lowest priority


class Answered(Enum):
    """What came back."""

    DONE = "done"
    REFUSED = "refused"
    NOTHING = "nothing"  # no daemon, or it was gone before it answered: it may have been done


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon said: its result, or why not."""

    how: Answered
    result: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def ask(address: Path, method: str, timeout_s: float = ANSWER_S, **params: Any) -> Answer:
    """One request on a connection of its own."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout_s)
            client.connect(str(address))
            client.sendall(json.dumps(request).encode() + b"\n")
            with client.makefile("rb") as lines:
                line = lines.readline()
    except OSError as error:
        return Answer(Answered.NOTHING, reason=str(error))
    if not line.endswith(b"\n"):
        return Answer(Answered.NOTHING, reason="cut off")
    answer = json.loads(line)
    if "error" in answer:
        return Answer(Answered.REFUSED, reason=answer["error"]["message"])
    return Answer(Answered.DONE, answer["result"])


@dataclass
class Books:
    """What was asked of the daemon, and what it said to it. Filled by the threads that ask."""

    submitted: dict[str, Session] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)  # to the submission, by session
    cancels: set[str] = field(default_factory=set)  # asked for, whatever came of it
    commands: int = 0


class People:
    """Ask from threads of their own, so that a daemon that does not answer holds nobody else up."""

    def __init__(self, address: Path, folder: Path, author: Author) -> None:
        self.books = Books()
        self._address = address
        self._folder = folder
        self._author = author
        self._pool = ThreadPoolExecutor(6, "person")
        self._submitting: Future[None] | None = None
        self._looking: Future[Answer] | None = None
        self._resuming = False
        self._resumed: Future[Answer] | None = None
        self.seen: Answer | None = None  # the last status

    def stock(self, wanted: int) -> None:
        """Submit until so many sessions are live; one submission at a time."""
        if self.submitting:
            return
        if self.live is not None and self.live < wanted:
            self.seen = None  # it is not true any more
            self._submitting = self._pool.submit(self._submit)

    def look(self) -> None:
        """Ask for the status, where no such question is under way."""
        if self._looking is not None and not self._looking.done():
            return
        if self._looking is not None:
            self.seen = self._looking.result()
        self._looking = self._pool.submit(ask, self._address, "status")

    @property
    def submitting(self) -> bool:
        """Whether a submission is under way: it may take long, as its model is looked into."""
        return self._submitting is not None and not self._submitting.done()

    def forget(self) -> None:
        """Let no earlier status count, nor one that was asked for already."""
        self.seen = self._looking = None

    @property
    def live(self) -> int | None:
        """How many sessions have not ended, as the last status had it; None: there was no answer."""
        if self.seen is None or self.seen.how is not Answered.DONE:
            return None
        status = self.seen.result
        workers = [lane[part] for lane in status["lanes"] for part in ("active", "standby") if lane[part]]
        return len(status["queue"]) + len(workers) + sum(len(lane["retiring"]) for lane in status["lanes"])

    @property
    def at_rest(self) -> bool:
        """Whether nothing is queued, and no worker is left, as the last status had it."""
        leaving = self.seen.result["lanes"] if self.live == 0 and self.seen is not None else [{"leaving": True}]
        return not any(lane["leaving"] for lane in leaving)

    def resume(self) -> None:
        """Have the lane let go, whatever it takes: a daemon that is down, or too busy, is asked again."""
        self.books.commands += 1
        self._resuming = True

    def work(self) -> None:
        """Ask again what must be answered."""
        if self._resumed is not None and self._resumed.done():
            self._resuming = self._resuming and self._resumed.result().how is not Answered.DONE
            self._resumed = None
        if self._resuming and self._resumed is None:
            self._resumed = self._pool.submit(ask, self._address, "resume")

    def do(self, method: str, **params: Any) -> None:
        """Ask for something, and do not wait."""
        self.books.commands += 1
        self._pool.submit(ask, self._address, method, **params)

    def cancel(self, rng: random.Random) -> bool:
        """Cancel some session that is live; False where none is known."""
        names = self._live_names()
        if not names:
            return False
        name = rng.choice(names)
        self.books.cancels.add(name)
        self.do("cancel", names=[name])
        return True

    def move(self, rng: random.Random) -> bool:
        """Give some queued session the first place; False where none is known."""
        names = self._live_names()
        if not names:
            return False
        self.do("move", name=rng.choice(names), first=True)
        return True

    def close(self) -> None:
        """Wait for what is under way."""
        self._pool.shutdown(wait=True)

    def _live_names(self) -> list[str]:
        if self.seen is None or self.seen.how is not Answered.DONE:
            return []
        status = self.seen.result
        parts = [lane[part] for lane in status["lanes"] for part in ("active", "standby") if lane[part]]
        return [session["name"] for session in status["queue"]] + [worker["session"] for worker in parts]

    def _submit(self) -> None:
        session = self._author.next()
        self.books.submitted[session.name] = session
        answer = ask(self._address, "submit", SUBMIT_S, text=session.text, base=str(self._folder))
        self.books.answers[session.name] = answer
