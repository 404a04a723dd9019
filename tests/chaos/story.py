"""A run from beginning to end: sessions are submitted, faults come, faults stop, all is drained. Judges nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.chaos import processes
from tests.chaos.faults import Faults
from tests.chaos.lives import ROOT, Lives
from tests.chaos.people import Books, People
from tests.chaos.place import Place
from tests.chaos.plan import NEEDS_DISKS, draw
from tests.chaos.sessions import Author
from tests.chaos.stage import Stage

TURN_S: Final = 0.01
LOOK_S: Final = 0.5
MODELS_S: Final = 10.0  # to make the models; on a host that takes longer, faults come as much more seldom
WANTED_LIVE: Final = 4
LAST_SUBMIT_S: Final = 6.0  # before the faults stop: what is left then is drained, and that takes its time
DRAIN_S: Final = 300.0
RESUME_S: Final = 3.0
START_S: Final = 60.0
REST_S: Final = 1.5  # with nothing changing in what the daemon holds
ORPHANS_S: Final = 20.0  # for what was told to end to be gone


class CannotRunError(Exception):
    """The run cannot begin: one line."""


@dataclass
class Outcome:
    """What a run left, besides its files."""

    seed: int
    seconds: float
    books: Books
    slowness: float = 1.0
    faults: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    not_possible: dict[str, str] = field(default_factory=dict)
    handovers: int = 0
    adoptions: int = 0
    daemon_restarts: int = 0
    ended_by_itself: list[str] = field(default_factory=list)
    refused_to_start: list[str] = field(default_factory=list)
    drained: bool = False
    drain_seconds: float = 0.0
    exit_status: int | None = None
    orphans: list[str] = field(default_factory=list)
    descriptors_before: Counter[str] = field(default_factory=Counter)
    descriptors_after: Counter[str] = field(default_factory=Counter)
    rss: dict[str, int] = field(default_factory=dict)


class Story:
    """One run in one place."""

    def __init__(self, place: Place, seed: int, seconds: float, gap_s: float, show: Callable[[str], None]) -> None:
        """gap_s: between two faults. show: given a line of how it stands, in every turn; it prints what it likes."""
        self._place, self._seconds, self._show = place, seconds, show
        self._gap_s = gap_s
        self._lives = Lives(place)
        self._stage = Stage(place)
        self._seed = seed
        self._look_at = 0.0

    def run(self) -> Outcome:
        """All of it. Raises CannotRunError."""
        self._lives.start()
        try:
            return self._run()
        finally:
            self._lives.stop()
            for found in processes.all_of(self._place.run):
                with suppress(ProcessLookupError):
                    os.kill(found.pid, signal.SIGKILL)

    def _run(self) -> Outcome:
        began = time.monotonic()
        rates = self._models()
        slowness = max(1.0, (time.monotonic() - began) / MODELS_S)
        self._people = People(self._place.control, self._place.run, Author(self._seed, self._place, rates))
        self._faults = Faults(self._place, self._lives, self._stage, self._people)
        outcome = Outcome(self._seed, self._seconds, self._people.books, slowness)
        try:
            self._live(outcome)
        finally:
            self._faults.end()  # where it was interrupted: nothing ends on a full disk
        self._finish(outcome)
        return outcome

    def _live(self, outcome: Outcome) -> None:
        """From a daemon at rest to one at rest."""
        self._until(lambda: self._people.at_rest, START_S, "the daemon did not answer within {:.0f} s")
        outcome.descriptors_before = self._rest()
        outcome.rss["at_start"] = processes.memory_bytes(self._lives.pid or 0, "VmRSS")
        self._chaos(outcome)
        self._drain(outcome)
        outcome.descriptors_after = self._rest()
        outcome.rss["at_end"] = processes.memory_bytes(self._lives.pid or 0, "VmRSS")
        outcome.rss["peak"] = processes.memory_bytes(self._lives.pid or 0, "VmHWM")

    def _models(self) -> dict[str, float]:
        """Have them made; seconds of one call of each."""
        folder, errors = self._place.models, self._place.logs / "models.err"
        with errors.open("wb") as err:
            done = subprocess.run(
                [sys.executable, "-m", "tests.chaos.models", str(folder)],
                cwd=ROOT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
                stdout=err,
                stderr=err,
                check=False,
            )
        if done.returncode != 0:
            raise CannotRunError(f"cannot make the models: status {done.returncode}; see {errors}")
        rates: dict[str, float] = json.loads((folder / "rates.json").read_text())
        return rates

    def _chaos(self, outcome: Outcome) -> None:
        """Sessions and faults, until the time is over."""
        if self._place.why_no_disks:
            outcome.not_possible = dict.fromkeys(sorted(NEEDS_DISKS), self._place.why_no_disks)
        began = time.monotonic()
        drawn = draw(self._seed, self._seconds, self._gap_s * outcome.slowness)
        mishaps = [mishap for mishap in drawn if mishap.kind not in outcome.not_possible]
        while (now := time.monotonic() - began) < self._seconds:
            while mishaps and mishaps[0].at <= now:
                self._faults.begin(mishaps.pop(0))
            if now < self._seconds - LAST_SUBMIT_S:
                self._people.stock(WANTED_LIVE)
            self._turn(now)
        outcome.faults, outcome.missed = self._faults.done, self._faults.missed

    def _drain(self, outcome: Outcome) -> None:
        """No fault any more: everything comes to its end by itself."""
        self._faults.end()
        began = time.monotonic()
        self._people.resume()
        settled, resumed = False, began
        while time.monotonic() - began < DRAIN_S and not (settled and self._people.at_rest):
            self._turn(self._seconds + time.monotonic() - began)
            if time.monotonic() - resumed > RESUME_S:  # a `pause` may have lain unread in a daemon's socket till now
                resumed = time.monotonic()
                self._people.resume()
            if not settled and not self._people.submitting:
                settled = True
                self._people.forget()
        outcome.drained = self._people.at_rest
        outcome.drain_seconds = time.monotonic() - began

    def _finish(self, outcome: Outcome) -> None:
        """Stop the daemon, and see what is left of all."""
        self._people.close()
        outcome.daemon_restarts = self._lives.restarts
        outcome.exit_status = self._lives.stop()
        self._follow()
        outcome.handovers, outcome.adoptions = self._stage.handovers, self._stage.adoptions
        outcome.ended_by_itself = self._lives.ended_by_itself
        outcome.refused_to_start = self._lives.refused_to_start
        until = time.monotonic() + ORPHANS_S
        while (left := list(processes.all_of(self._place.run))) and time.monotonic() < until:
            time.sleep(LOOK_S)
        outcome.orphans = [str(found) for found in left]

    # One turn

    def _turn(self, now: float) -> None:
        events = self._follow()
        self._lives.keep_alive()
        self._faults.work(events)
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._people.look()
            self._people.work()
        ended = Counter(self._stage.ended.values())
        self._show(
            f"{now:5.0f} s  {self._stage.handovers} handovers; sessions: {ended['finished']} done, "
            f"{ended['cancelled']} cancelled, {ended['failed']} failed, {self._people.live} live; "
            f"{sum(self._faults.done.values())} faults, the last: {self._faults.last or 'none'}"
        )
        time.sleep(TURN_S)

    def _follow(self) -> list[dict[str, object]]:
        events = self._lives.news()
        for event in events:
            self._stage.take(event)
        return events

    def _until(self, holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        until = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > until:
                raise CannotRunError(otherwise.format(seconds) + f"; see {self._place.logs}")
            self._turn(0.0)

    def _rest(self) -> Counter[str]:
        """What the daemon holds once that changes no more."""
        until, since = time.monotonic() + START_S, time.monotonic()
        held: Counter[str] = Counter()
        while time.monotonic() < until and time.monotonic() - since < REST_S:
            pid = self._lives.pid
            now = processes.descriptors(pid) if pid is not None else Counter()
            if now != held:
                held, since = now, time.monotonic()
            time.sleep(LOOK_S / 5)
        return held
