"""One run of a story with a death in it, from the first daemon to the last process; and the choice of the points."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from daemon.wire import Refusal
from tests.crashpoints.judge import Reference, Rows, count, problems, refer
from tests.crashpoints.lives import BrokenError, Lives, Passed
from tests.crashpoints.stories import SETTINGS, Script, Story

TRIES: Final = 3  # the order of what happens at once differs: a point may be missed


@dataclass(frozen=True)
class Fall:
    """Where the daemon dies: at `points`, one a life. late: the second begins when the first one's workers ended."""

    points: tuple[str, ...]
    late: bool = False

    def __str__(self) -> str:
        return (", then, when its workers had ended, " if self.late else ", then ").join(self.points)


NOWHERE: Final = Fall(())
GOING: Final = ("after record session.started long, Swapping>Running",)
FIRSTS: Final = (NOWHERE, Fall(GOING), Fall(GOING, late=True))  # what goes before the life in which a point is chosen


@dataclass(frozen=True)
class Outcome:
    """What came of one run."""

    fall: Fall
    died: Sequence[str]
    problems: Sequence[str]
    sessions: int
    adopted: int
    rows: Rows
    seconds: float
    log: str = ""

    @property
    def hit(self) -> bool:
        """Whether the daemon died at every point that was chosen."""
        return len(self.died) == len(self.fall.points)


@dataclass(frozen=True)
class Undisturbed:
    """A story's run without the death in question: what it left, and the points that its last counted life passed."""

    first: Fall
    reference: Reference
    points: Sequence[Passed]
    seconds: float


def survey(story: Story, first: Fall = NOWHERE) -> Undisturbed:
    """Play a story with no death but the first ones, which must come; count the points of the life after them."""
    for _ in range(TRIES):
        with _Stage(story, replace(first, points=(*first.points, ""))) as stage:
            stage.play()
            lives = stage.script.lives
            reference = refer(story, lives)
            wrong = list(problems(story, stage.script, reference))
            if wrong:
                raise BrokenError(f"the undisturbed run itself is wrong: {wrong}\n{stage.log()}")
            if len(lives.deaths) == len(first.points):
                return Undisturbed(first, reference, lives.passed(len(first.points)), stage.seconds)
    raise BrokenError(f"in {TRIES} runs no daemon came to {first}")


def trial(story: Story, fall: Fall, reference: Reference) -> Outcome:
    """Play a story in which the daemon dies; again where it did not come to the point."""
    outcome = _trial(story, fall, reference)
    for _ in range(TRIES - 1):
        if outcome.hit or outcome.problems:
            break
        outcome = _trial(story, fall, reference)
    return outcome


def _trial(story: Story, fall: Fall, reference: Reference) -> Outcome:
    with _Stage(story, fall) as stage:
        wrong: list[str] = []
        try:
            stage.play()
            wrong += problems(story, stage.script, reference)
        except (BrokenError, Refusal) as broken:
            wrong.append(str(broken))
        record = stage.script.lives.record()
        return Outcome(
            fall=fall,
            died=[death.name for death in stage.script.lives.deaths],
            problems=wrong,
            sessions=len(record.sessions),
            adopted=len(record.told("session.adopted")),
            rows=count(story, stage.script.lives, reference),
            seconds=stage.seconds,
            log=stage.log() if wrong else "",
        )


class _Stage:
    """A folder, a daemon in it, and a client; nothing of them is there afterwards."""

    def __init__(self, story: Story, fall: Fall) -> None:
        self._story = story
        self._fall = fall

    def __enter__(self) -> _Stage:
        self._began = time.monotonic()
        self._folder = Path(tempfile.mkdtemp(prefix="batond-"))
        fall, options = self._fall, self._story.options
        lives = Lives(self._folder, fall.points, *options, settings=SETTINGS, late=fall.late)
        self.script = Script(lives)
        return self

    def play(self) -> None:
        """All of it, until no process is left."""
        lives = self.script.lives
        lives.start()
        self._story.play(self.script)
        lives.finish()
        lives.until_none_is_left()

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.monotonic() - self._began

    def log(self) -> str:
        """What the daemons said."""
        return self.script.lives.told_so_far()

    def __exit__(self, *_: object) -> None:
        self.script.lives.close()
        shutil.rmtree(self._folder)


def trials(story: Story, falls: Iterable[Fall], reference: Reference, jobs: int) -> Iterator[Outcome]:
    """One trial for each, `jobs` side by side, each in its own folder; in the order in which they end."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(trial, story, each, reference) for each in falls]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)  # who is interrupted waits for what has begun, and for no more


def choose(surveys: Iterable[Undisturbed], *, every: bool) -> list[Fall]:
    """Every point, or few: examples of all kinds. Of the later surveys only what no earlier one has.

    That is, with every point, all up to the last one of a kind that is new: what a life begins with.
    """
    chosen: list[Fall] = []
    covered: set[str] = set()
    for each in surveys:
        names = [point.name for point in _new(each.points, covered)] if every else _cover(each.points, covered)
        chosen += [replace(each.first, points=(*each.first.points, name)) for name in names]
        covered |= {kind for point in each.points for kind in point.kinds}
    return chosen


def _new(points: Sequence[Passed], covered: set[str]) -> Sequence[Passed]:
    last = max((place for place, point in enumerate(points) if not covered.issuperset(point.kinds)), default=-1)
    return points[: last + 1]


def _cover(points: Sequence[Passed], covered: Iterable[str]) -> list[str]:
    """Few points that are examples of every kind, those apart that are covered already: the richest first."""
    wanted = {kind for point in points for kind in point.kinds} - set(covered)
    chosen: list[str] = []
    while wanted:
        best = max(points, key=lambda point: len(wanted.intersection(point.kinds)))  # of equals the first
        wanted -= set(best.kinds)
        chosen.append(best.name)
    return chosen
