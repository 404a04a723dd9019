"""A process that the hostile peers are let loose in: it plays one example after another, and says what came of each.

In a process of its own, so that its memory and its descriptors are those of the server (and of a small client), not
those of whoever draws the examples. `child` is what runs there; they speak pickle over its standard input and output.
"""

from __future__ import annotations

import asyncio
import pickle
import select
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE_TIMEOUT_S = 120.0
SIZE = struct.Struct("!I")


@dataclass
class Outcome:
    """What came of an example. `problem`: which promise was broken, None for none."""

    frames: int = 0
    sent_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    problem: str | None = None

    def add(self, other: Outcome) -> None:
        """Count the other in."""
        self.frames += other.frames
        self.sent_bytes += other.sent_bytes
        self.kinds += other.kinds
        self.answers += other.answers


@dataclass(frozen=True)
class Vitals:
    """What the lab's process holds, at rest."""

    rss_kib: int
    descriptors: int
    tasks: int
    threads: int


class Play(Protocol):
    """A server, and how an example is played against it."""

    async def start(self, folder: Path) -> None:
        """Begin to serve."""

    async def play(self, example: Any) -> Outcome:
        """Play one example; leaves the server at rest."""

    async def rest(self) -> None:
        """Wait until everybody who is to be hung up on has been."""

    async def close(self) -> None:
        """Serve no more."""


class Broken(Exception):  # noqa: N818 - a promise that was broken, not an error of the lab
    """Says which."""


async def eventually(holds: Callable[[], bool], otherwise: Callable[[], str], timeout_s: float = 20.0) -> None:
    """Wait until it holds; looked at now and then, for want of anybody who tells. `otherwise`: what is wrong then."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    pause = 0.0
    while not holds():
        if asyncio.get_running_loop().time() > deadline:
            raise Broken(f"{otherwise()}, after {timeout_s:.0f} s")
        await asyncio.sleep(pause)
        pause = min(0.01, pause + 0.0005)


class Lab:
    """`with Lab("control") as lab: lab.play(example)`."""

    def __init__(self, play: str) -> None:
        self._play = play
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def play(self, example: object) -> Outcome:
        """Play it; a lab that died, or does not answer, is a problem too."""
        outcome = self._ask(example)
        assert isinstance(outcome, Outcome)
        return outcome

    def vitals(self) -> Vitals:
        """What it holds now."""
        found = self._ask(None)
        assert isinstance(found, Vitals)
        return found

    def close(self) -> None:
        """End it; the next example starts another."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            self._process = None

    def _ask(self, example: object) -> object:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        data = pickle.dumps(example)
        try:
            process.stdin.write(SIZE.pack(len(data)) + data)
            process.stdin.flush()
            if not select.select([process.stdout], [], [], EXAMPLE_TIMEOUT_S)[0]:
                process.kill()
                self.close()
                raise AssertionError(f"the lab does not answer after {EXAMPLE_TIMEOUT_S:.0f} s")
            size = process.stdout.read(SIZE.size)
            if len(size) == SIZE.size:
                return pickle.loads(process.stdout.read(SIZE.unpack(size)[0]))
        except BrokenPipeError:
            pass
        self.close()
        raise AssertionError("the lab died; its standard error tells")

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.child", self._play],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self._process
