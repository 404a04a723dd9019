"""What runs in the lab's process: plays what comes on standard input until nothing more comes. Draws nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import sys
import tempfile
from pathlib import Path

import psutil

from tests.fuzz.lab import SIZE, Play, Vitals


def _make(name: str) -> Play:
    if name == "control":
        from tests.fuzz.control import ControlPlay

        return ControlPlay()
    from tests.fuzz.workers import WorkerPlay

    return WorkerPlay()


def _vitals(loop: asyncio.AbstractEventLoop) -> Vitals:
    gc.collect()
    process = psutil.Process()
    return Vitals(
        process.memory_info().rss >> 10, process.num_fds(), len(asyncio.all_tasks(loop)), process.num_threads()
    )


def main() -> None:
    """Serve, and play."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints, prints to standard error
    loop = asyncio.new_event_loop()
    play = _make(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="batond-fuzz-") as folder:
        loop.run_until_complete(play.start(Path(folder)))
        while len(size := sys.stdin.buffer.read(SIZE.size)) == SIZE.size:
            example = pickle.loads(sys.stdin.buffer.read(SIZE.unpack(size)[0]))
            answer: object = loop.run_until_complete(play.rest() if example is None else play.play(example))
            if example is None:
                answer = _vitals(loop)
            data = pickle.dumps(answer)
            out.write(SIZE.pack(len(data)) + data)
            out.flush()
        loop.run_until_complete(play.close())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


if __name__ == "__main__":
    main()
