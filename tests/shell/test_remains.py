"""What is left of a worker whose own process is gone: real processes in groups, in sessions of their own, marked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from daemon.adoption import found_alive
from daemon.processes import Process, started
from daemon.records import WorkerRecord
from daemon.remains import MARK, Remains
from daemon.sessionfile import SessionSpec
from states.events import Exited, Progress, Ready
from tests.shell.crew_scene import Scene, in_loop

# A leader that starts one more process of the given kind, says its number, and lives on.
LEADER = """
import os, subprocess, sys
from pathlib import Path
ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
marked = {"BATON_SHIM": f"{os.getpid()}.{ticks}"} if "marked" in sys.argv else {}
child = subprocess.Popen([sys.executable, "-S", "-c", sys.argv[1]], env=os.environ | marked, stdout=subprocess.PIPE,
                         start_new_session="apart" in sys.argv)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
LIVES = "import signal; print(flush=True)\nwhile True: signal.pause()"
LARGE = "import signal; held = bytearray(384 << 20); held[::4096] = b'x' * len(held[::4096]); print(flush=True)\n" + (
    "while True: signal.pause()"
)


class Leader:
    """A process that leads a process session, and the other one that it started."""

    def __init__(self, code: str, *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", LEADER, code, *how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.pid = self.process.pid
        self.other = int(self.process.stdout.readline())
        self.ticks = started(self.pid)

    def record(self) -> WorkerRecord:
        assert self.ticks is not None
        return WorkerRecord(generation=7, session="s", lane="cpu", pid=self.pid, started=self.ticks, promoted=True)

    def end(self) -> None:
        for pid in (self.pid, self.other):
            if living(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


def living(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sleeper(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"], env=os.environ | environment, start_new_session=True)


@pytest.fixture
def leaders() -> Iterator[list[Leader]]:
    made: list[Leader] = []
    yield made
    for leader in made:
        leader.end()


def watched(leader: Leader) -> Process:
    return Process(leader.pid, os.pidfd_open(leader.pid), reap=leader.process.wait)


@in_loop
async def test_an_exit_is_told_when_the_whole_group_is_gone(leaders: list[Leader]) -> None:
    """A process that is killed takes a while to give its memory back, and may be in the midst of a write."""
    leaders.append(leader := Leader(LARGE))
    process = watched(leader)
    leader.process.kill()
    assert await process.exited == -signal.SIGKILL
    assert not living(leader.other)


@pytest.mark.parametrize("how", [("apart", "marked"), ("marked",)])
@in_loop
async def test_what_left_the_group_of_a_shim_that_was_killed_is_known_by_its_mark(
    leaders: list[Leader], how: tuple[str, ...]
) -> None:
    leaders.append(leader := Leader(LARGE, *how))
    process = watched(leader)
    leader.process.kill()
    assert await process.exited == -signal.SIGKILL
    assert not living(leader.other)


@in_loop
async def test_another_s_are_left_alone(leaders: list[Leader]) -> None:
    """Of a shim with the same number that started at another time, and of one that is nobody's."""
    leaders.append(leader := Leader(LIVES))
    other = sleeper({MARK: f"{leader.pid}.1"})
    try:
        process = watched(leader)
        leader.process.kill()
        await process.exited
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@in_loop
async def test_one_that_is_nobody_s_child_here_takes_its_group_along(leaders: list[Leader]) -> None:
    """An adopted worker, when its new parent has not waited for it yet: as a zombie it still has its number."""
    leaders.append(leader := Leader(LIVES))
    process = Process(leader.pid, os.pidfd_open(leader.pid))
    process.orphaned()
    leader.process.kill()
    assert await process.exited is None
    assert not living(leader.other)
    assert leader.process.poll() is not None, "only now it is waited for"


@pytest.mark.parametrize("reaped", [False, True])
@pytest.mark.parametrize("how", [(), ("apart", "marked")])
def test_what_a_worker_left_that_died_unwatched_is_gone_before_its_session_begins_anew(
    leaders: list[Leader], how: tuple[str, ...], reaped: bool
) -> None:
    leaders.append(leader := Leader(LARGE, *how))
    record = leader.record()
    leader.process.kill()
    if reaped:
        leader.process.wait()
    else:
        os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert found_alive([record]) == []
    assert not living(leader.other)


def test_a_group_whose_number_is_somebody_else_s_now_is_left_alone(leaders: list[Leader]) -> None:
    """The kernel gives a number anew only when the group is empty: who is in it is the new one's."""
    leaders.append(leader := Leader(LIVES))
    assert leader.ticks is not None
    assert Remains(leader.pid, leader.ticks - 1, strays=True).end()
    assert living(leader.pid)
    assert living(leader.other)


@pytest.mark.parametrize("prepare", [True, False])
@in_loop
async def test_the_exit_of_a_killed_shim_is_told_when_its_program_is_gone(tmp_path: Path, prepare: bool) -> None:
    async with Scene(tmp_path) as scene:
        shim = (await scene.running(1, "--items", "100000", "--grandchild", str(tmp_path / "pid"), prepare=prepare)).pid
        await scene.fact(Progress, 1)
        left = [int((tmp_path / "pid").read_text()), *(child.pid for child in psutil.Process(shim).children())]
        os.kill(shim, signal.SIGKILL)
        exited = await scene.fact(Exited, 1)
        assert exited.status == -signal.SIGKILL
        assert [pid for pid in left if living(pid)] == []


@in_loop
async def test_a_kill_takes_what_left_the_group_too(tmp_path: Path) -> None:
    """The shim, which would have ended it, is killed with its program."""
    script = "(setsid sh -c 'echo $$ > stray.part; mv stray.part stray; exec sleep 1000' &); exec sleep 1000"
    async with Scene(tmp_path) as scene:
        scene.start(SessionSpec(name="s", run=("sh", "-c", script), cwd=str(tmp_path)))
        await scene.fact(Ready, 1)
        scene.crew.go(1)
        await scene.until((tmp_path / "stray").exists)
        stray = int((tmp_path / "stray").read_text())
        assert os.getpgid(stray) == stray != scene.alive().pid
        assert (await scene.end(1)).status == -signal.SIGKILL
        assert not living(stray)
