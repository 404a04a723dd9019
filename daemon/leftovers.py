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

from daemon.processes import started
from daemon.records import WorkerRecord
from daemon.store import Store
from daemon.stories import WorkerFound

DRAIN_WAIT_S: Final = 60.0
KILL_WAIT_S: Final = 10.0


async def end(store: Store, tell: Callable[[WorkerFound], None]) -> None:
    """Wait until every recorded worker is gone; kill the ones that do not go."""
    records = store.workers()
    await asyncio.gather(*(_end(record, tell) for record in records))
    for record in records:
        store.worker_gone(record.generation)


async def _end(record: WorkerRecord, tell: Callable[[WorkerFound], None]) -> None:
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if started(record.pid) != record.started:
            return  # another process has its number now
        tell(WorkerFound(record.session, record.generation, record.pid, "waited for: it commits and ends by itself"))
        if await _gone(pidfd, DRAIN_WAIT_S):
            return
        tell(WorkerFound(record.session, record.generation, record.pid, "killed: it did not end by itself"))
        with suppress(ProcessLookupError):
            os.killpg(record.pid, signal.SIGKILL)
        await _gone(pidfd, KILL_WAIT_S)
    finally:
        os.close(pidfd)


async def _gone(pidfd: int, timeout_s: float) -> bool:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
