"""What is below a real process is found: children of its threads, and theirs."""

from __future__ import annotations

import asyncio
import sys

import psutil
import pytest

from daemon.processes import descendants
from tests.shell.crew_scene import in_loop

FAMILY = """
import os, signal, sys, threading

def fork(then):
    pid = os.fork()
    if pid == 0:
        then()
        os.write(1, b".")
        signal.pause()

fork(lambda: fork(lambda: None))
thread = threading.Thread(target=lambda: (fork(lambda: None), signal.pause()))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("listed", [True, False])
@in_loop
async def test_all_below_a_process_are_found_those_of_its_threads_too(listed: bool) -> None:
    """With the kernel's lists of children, and on one that keeps none."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", FAMILY, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert await child.stdout.readexactly(3) == b"..."
    found = descendants(child.pid, listed=listed)
    assert len(found) == 3
    assert {psutil.Process(pid).ppid() for pid in found} - set(found) == {child.pid}
    for each in (child.pid, *found):
        psutil.Process(each).kill()
    await child.wait()
    assert descendants(child.pid, listed=listed) == ()
