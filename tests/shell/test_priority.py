"""Priorities of real processes and threads: lowered, raised, and only where there is a way back."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from daemon import priority
from states.events import Ready
from tests.shell.crew_scene import Scene, in_loop, program_of


def autogroup_text(pid: int) -> str:
    """Its group and nice value; empty for what was never in a process session of its own, as pid 1's children."""
    return Path(f"/proc/{pid}/autogroup").read_text()


def autogroup(pid: int) -> int:
    return int(autogroup_text(pid).split()[-1])


def policies(pid: int) -> set[int]:
    """The scheduling policies of its threads."""
    return {os.sched_getscheduler(thread.id) for thread in psutil.Process(pid).threads()}


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.mark.skipif(not priority.autogroup_counts(), reason="needs CONFIG_SCHED_AUTOGROUP")
@pytest.mark.parametrize("raised_by", ["raise_priority", "go"])
@in_loop
async def test_a_standby_is_at_the_bottom_until_it_is_raised_or_told_to_go(tmp_path: Path, raised_by: str) -> None:
    own_oom = oom_score(os.getpid())
    before = autogroup_text(os.getpid())
    async with Scene(tmp_path) as scene:
        scene.fake(1, "--stall-at", "0", low=True)
        await scene.fact(Ready, 1)
        shim = scene.alive(1).pid
        program = program_of(shim)
        await scene.until(lambda: autogroup(shim) == autogroup(program) == 19)
        lowered = {os.SCHED_IDLE if scene.crew.method is priority.Method.BOTH else os.SCHED_OTHER}
        await scene.until(lambda: policies(shim) | policies(program) == lowered)
        assert psutil.Process(shim).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        assert psutil.Process(program).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        assert oom_score(program) == max(500, own_oom)
        assert autogroup_text(os.getpid()) == before, "it is of another process session"
        getattr(scene.crew, raised_by)(1)
        await scene.until(lambda: autogroup(shim) == autogroup(program) == 0)
        await scene.until(lambda: policies(shim) | policies(program) == {os.SCHED_OTHER})
        await scene.until(lambda: psutil.Process(program).ionice().ioclass == psutil.IOPRIO_CLASS_NONE)
        assert psutil.Process(shim).ionice().ioclass == psutil.IOPRIO_CLASS_NONE
        assert oom_score(program) == own_oom


@in_loop
async def test_every_thread_is_lowered_and_raised(tmp_path: Path) -> None:
    """As root, or with RLIMIT_NICE: elsewhere the probe says that there is no way back, and nothing is done."""
    method = priority._probe_here()
    if method is not priority.Method.IDLE:
        pytest.skip("no way back from SCHED_IDLE for this user")
    code = (
        "import threading, signal\nfor _ in range(3): threading.Thread(target=signal.pause).start()\nprint(flush=True)"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", code, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()
    threads = [thread.id for thread in psutil.Process(child.pid).threads()]
    assert len(threads) == 4
    for low, policy in ((True, os.SCHED_IDLE), (False, os.SCHED_OTHER)):
        assert priority.apply(child.pid, (child.pid,), priority.Method.IDLE, low=low)
        assert {os.sched_getscheduler(thread) for thread in threads} == {policy}
    for low, nice in ((True, 19), (False, 0)):
        assert priority.apply(child.pid, (child.pid,), priority.Method.NICE, low=low)
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {nice}
    child.kill()
    await child.wait()


def cgroups(folder: Path, *files: str) -> Path:
    """A stand-in for /sys/fs/cgroup with these files."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("")
    return folder


@pytest.mark.parametrize(
    ("memberships", "files", "whole", "shares"),
    [
        ("0::/", ["cgroup.procs"], True, False),  # the host's own root
        ("0::/system.slice/batond.service", ["system.slice/batond.service/cpu.weight"], True, True),
        ("0::/system.slice/batond.service", ["system.slice/cpu.weight"], True, True),  # its slice's share is its own
        ("0::/system.slice/batond.service", ["system.slice/batond.service/cgroup.procs"], True, False),
        ("0::/", ["cpu.weight"], False, True),  # a container's root is none
        ("3:cpuset:/x\n1:cpu:/", ["cpu/release_agent"], True, False),
        ("3:cpuset:/x\n1:cpu:/", [], True, False),  # nothing is mounted, and nothing needs to be
        ("4:cpu,cpuacct:/system.slice\n0::/", ["cpu,cpuacct/release_agent"], True, True),
        ("1:cpu:/\n0::/", ["cpu/release_agent"], False, False),
        ("1:cpu:/\n0::/", ["cpu/tasks"], False, True),
        ("7:cpuset:/a\n0::/", [], True, False),
    ],
)
def test_an_autogroup_counts_outside_of_cgroups_only(
    tmp_path: Path, memberships: str, files: list[str], whole: bool, shares: bool
) -> None:
    assert priority.shares_cpu(memberships, cgroups(tmp_path, *files), whole=whole) is shares


def test_the_probe_leaves_this_process_as_it_was() -> None:
    before = (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
    priority.probe()
    assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == before
