"""Which recorded workers of a daemon that was killed are still there: by number and start, with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.adoption import found_alive
from daemon.processes import Process, started
from daemon.store import Store
from tests.shell.crew_scene import in_loop

STAYS = "import sys; print('up', flush=True); sys.stdin.read()"


class Nursery:
    """Processes as a daemon leaves them: each leads its own session, and is on record."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, generation: int, *, age_ticks: int = 0) -> subprocess.Popen[str]:
        """A process that is up and on record; `age_ticks`: the record is of an earlier process of its number."""
        process = subprocess.Popen(
            [sys.executable, "-c", STAYS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        ticks = started(process.pid)
        assert ticks is not None
        self.store.worker_started(generation, f"s{generation}", "cpu", process.pid, ticks - age_ticks)
        return process

    def found(self) -> list[tuple[int, Process]]:
        return [(record.generation, process) for record, process in found_alive(self.store.workers())]


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    made = Nursery(Store.open(tmp_path / "state"))
    yield made
    made.store.close()
    for process in made.processes:
        process.kill()
        process.communicate()


@in_loop
async def test_one_that_lives_is_found_and_its_end_seen(nursery: Nursery) -> None:
    """By pidfd: it is not our child, so that it ended is all there is to know."""
    worker = nursery.start(7)
    ((generation, process),) = nursery.found()
    assert (generation, process.pid) == (7, worker.pid)
    assert not process.exited.done()
    worker.communicate()  # its input ends, and so does it
    assert await process.exited is None


@in_loop
async def test_one_that_was_found_can_be_killed(nursery: Nursery) -> None:
    """With its group: no two may ever write one output."""
    worker = nursery.start(7)
    ((_, process),) = nursery.found()
    process.signal_group(signal.SIGKILL)
    assert await process.exited is None
    assert worker.wait() == -signal.SIGKILL


@in_loop
async def test_another_process_with_its_number_is_nobody(nursery: Nursery) -> None:
    """The record is of one that started earlier: a stranger is neither waited for nor killed."""
    stranger = nursery.start(3, age_ticks=1)
    assert nursery.found() == []
    assert stranger.poll() is None


@in_loop
async def test_one_that_is_gone_is_not_found(nursery: Nursery) -> None:
    """Nobody has its number; the others are found all the same."""
    gone, stays = nursery.start(4), nursery.start(5)
    gone.communicate()
    ((generation, process),) = nursery.found()
    assert (generation, process.pid) == (5, stays.pid)
    stays.communicate()
    await process.exited
