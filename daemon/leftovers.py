"""Workers of a daemon that was killed: waited for, then ended, so that no two ever write one output.

Such a worker sees its channel end: it finishes its batch, commits and exits by itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psutil

from daemon.records import WorkerRecord
from daemon.store import Store
from daemon.stories import WorkerFound

DRAIN_WAIT_S: Final = 60.0
KILL_WAIT_S: Final = 10.0
SAME_START_S: Final = 0.02  # two readings of one process's start time differ by less: the kernel counts in 10 ms


async def end(store: Store, tell: Callable[[WorkerFound], None]) -> None:
    """Wait until every recorded worker is gone; kill the ones that do not go."""
    living = [(record, process) for record in store.workers() if (process := _find(record)) is not None]
    for record, _ in living:
        tell(WorkerFound(record.session, record.generation, record.pid, "waited for until it has committed"))
    if living:
        await _gone([process for _, process in living], DRAIN_WAIT_S)
    for record, process in living:
        if process.is_running():
            tell(WorkerFound(record.session, record.generation, record.pid, "killed: it did not end by itself"))
            with suppress(ProcessLookupError):
                os.killpg(record.pid, signal.SIGKILL)
    if living:
        await _gone([process for _, process in living], KILL_WAIT_S)
    for record in store.workers():
        store.worker_gone(record.generation)


def _find(record: WorkerRecord) -> psutil.Process | None:
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.started) <= SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


async def _gone(processes: list[psutil.Process], timeout_s: float) -> None:
    await asyncio.to_thread(psutil.wait_procs, processes, timeout_s)
