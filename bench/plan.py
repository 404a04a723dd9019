"""How long a plan of a long queue takes, and for how long it holds the daemon's loop. Acted workers, real record.

    python -m bench.plan

Times of the loop are processor time of its thread: what other programs do on the machine is not in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.shell.control_stage import Line, Stage, ended, submit

AT_ONCE = 500
QUEUED = 10_000
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("why", {}),
    ("why", {"name": f"s{QUEUED - 1}"}),
    ("plan", {"limit": 50}),
    ("plan", {"limit": 1000}),
)


class Beat:
    """Turns of the daemon's event loop, timed."""

    def __init__(self) -> None:
        self.turns: list[float] = []

    async def start(self) -> None:
        self._task = asyncio.ensure_future(self._beat())

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _beat(self) -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            self.turns.append(time.thread_time() - began)


def main() -> None:
    beat = Beat()
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage, Line(stage.path) as line:
        for name in ("a", "b", "c"):  # so that something is learned
            submit(line, name)
            stage.until(ended(name))
        stage.crew.frozen = True
        for first in range(0, QUEUED, AT_ONCE):
            submit(line, *(f"s{number}" for number in range(first, first + AT_ONCE)))
        stage.run(beat.start)
        for method, params in ASKED:
            time.sleep(0.5)
            beat.turns.clear()
            began = time.perf_counter()
            line.socket.settimeout(60.0)
            line.ask(method, **params)
            took = time.perf_counter() - began
            time.sleep(0.5)  # the turn in which it was answered is counted, too
            print(f"{method} {params}: {took:.2f} s; longest turn {max(beat.turns) * 1000:.1f} ms")
        stage.run(beat.stop)


if __name__ == "__main__":
    main()
