"""A crew with a real nursery, and all it tells, for tests. Asserts only that what is waited for comes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import psutil

from daemon.nursery import Nursery
from daemon.sessionfile import DeviceAssignment, SessionSpec
from daemon.workers import Alive, Crew
from states.effects import Force, StartStandby
from states.events import Event, Exited, Ready
from states.work import Session, Tier

TIMEOUT_S = 180.0  # generous: the machine may be busy with anything
FAKE_WORKER = str(Path(__file__).parents[1] / "fake_worker.py")
CPU = DeviceAssignment(kind="cpu")

Fact = TypeVar("Fact", bound=Event)


Test = Callable[..., Coroutine[Any, Any, None]]


def in_loop(test: Test) -> Callable[..., None]:
    """The test in an event loop of its own, and for a bounded time."""

    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), TIMEOUT_S))

    return run


def program_of(shim: int) -> int:
    """The one process below a shim."""
    (program,) = psutil.Process(shim).children()
    return program.pid


class Scene:
    """`async with Scene(folder) as scene`: at the end every worker is killed, and its exit waited for."""

    def __init__(self, folder: Path, *, use_fork_server: bool = False, log_limit_bytes: int = 1 << 20) -> None:
        self.folder = folder
        self.facts: list[Event] = []
        self.said: list[str] = []
        self._changed = asyncio.Event()
        self.nursery = Nursery(folder / "nursery", say=self.said.append, use_fork_server=use_fork_server)
        self.crew = Crew(self.nursery, self._post, folder / "logs", log_limit_bytes=log_limit_bytes)
        self._started: set[int] = set()

    def _post(self, event: Event) -> None:
        self.facts.append(event)
        self._changed.set()

    async def __aenter__(self) -> Scene:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.crew.kill_all()
        for generation in self._started:
            await self.fact(Exited, generation)
        self.crew.close()
        self.nursery.close()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; looked at after each fact, and now and then."""
        async with asyncio.timeout(TIMEOUT_S):
            while not holds():
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), 0.02)
                except TimeoutError:
                    continue

    async def fact(self, kind: type[Fact], generation: int, ok: Callable[[Fact], bool] = lambda _: True) -> Fact:
        """The first fact of that kind of that worker; waited for."""
        found: list[Fact] = []

        def look() -> bool:
            found.extend(f for f in self.of(generation) if isinstance(f, kind) and ok(f))
            return bool(found)

        try:
            await self.until(look)
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} of {generation} in {self.facts}") from None
        return found[0]

    def of(self, generation: int) -> list[Event]:
        """All that was told of one worker."""
        return [fact for fact in self.facts if getattr(fact, "generation", None) == generation]

    def names(self, generation: int) -> list[str]:
        """The kinds of facts of one worker, progress left out."""
        names = [type(fact).__name__ for fact in self.of(generation)]
        return [name for name in names if name != "Progress"]

    def start(self, spec: SessionSpec, generation: int = 1, *, low: bool = False, cursor: int = 0) -> None:
        session = Session(spec.name, order=0.0, cursor=cursor)
        self._started.add(generation)
        order = StartStandby("cpu", generation, session, Tier.WARM, low_priority=low)
        self.crew.start(order, spec, CPU, resume=cursor > 0)

    def fake(self, generation: int = 1, *flags: str, prepare: bool = True, low: bool = False, cursor: int = 0) -> None:
        """Start the stand-in program."""
        run = (sys.executable, "-S", FAKE_WORKER, *flags)
        self.start(
            SessionSpec(name="s", run=run, prepare=prepare, cwd=str(self.folder)), generation, low=low, cursor=cursor
        )

    async def running(self, generation: int = 1, *flags: str, prepare: bool = True, low: bool = False) -> Alive:
        """Start the stand-in program, and tell it to go once it is ready."""
        self.fake(generation, *flags, prepare=prepare, low=low)
        await self.fact(Ready, generation)
        self.crew.go(generation)
        return self.alive(generation)

    def alive(self, generation: int = 1) -> Alive:
        return next(worker for worker in self.crew.alive() if worker.generation == generation)

    async def end(self, generation: int = 1) -> Exited:
        """Kill it, and wait for its exit."""
        self.crew.end(generation, Force.KILL)
        return await self.fact(Exited, generation)
