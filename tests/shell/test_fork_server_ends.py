"""The ends that a fork server can come to while it imports, by real processes: its own, and its daemon's."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from daemon.launchers import ForkServer
from daemon.nursery import Nursery
from tests.shell.crew_scene import TIMEOUT_S, in_loop
from tests.shell.test_nursery import gone, until

SLOW = "tests.shell.slow_to_import"


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FATAL_TWICE_TALLY", str(tmp_path / "tally"))
    return tmp_path / "tally"


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "slow"
    folder.mkdir()
    monkeypatch.setenv("SLOW_TO_IMPORT_FOLDER", str(folder))
    return folder


def deaths(tally: Path) -> int:
    return tally.stat().st_size


def die(tally: Path) -> None:
    tally.write_text("x")


def go(folder: Path) -> None:
    (folder / "go").touch()


def importing(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in folder.glob("importing-*")]


@in_loop
async def test_a_fork_server_that_dies_while_it_imports_is_started_again(tmp_path: Path, tally: Path) -> None:
    said: list[str] = []
    nursery = Nursery(tmp_path / "n", say=said.append, preload=("tests.shell.fatal_twice",))
    await nursery.warm()
    assert nursery.server_pid is not None
    assert nursery.forks
    assert said == []
    assert deaths(tally) == 2
    nursery.close()


@in_loop
async def test_deaths_while_importing_count_with_the_others(tmp_path: Path, tally: Path) -> None:
    die(tally)  # it dies once while it imports, and twice afterwards
    said: list[str] = []
    nursery = Nursery(tmp_path / "n", say=said.append, preload=("tests.shell.fatal_twice",))
    for _ in range(2):
        await nursery.warm()
        pid = nursery.server_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: nursery.server_pid is None)
    await nursery.warm()
    assert not nursery.forks
    assert said == [
        "cannot use the fork server: it died 3 times; each worker imports TensorFlow itself, which takes seconds"
    ]


@in_loop
async def test_what_is_wrong_for_good_is_not_tried_again(tmp_path: Path, slow: Path) -> None:
    go(slow)
    nursery = Nursery(tmp_path / "n", say=print, preload=(SLOW, "tests.shell.no_such_module"))
    await nursery.warm()
    assert not nursery.forks
    assert len(importing(slow)) == 1


@in_loop
async def test_a_nursery_that_closes_ends_the_server_that_still_imports(tmp_path: Path, slow: Path) -> None:
    said: list[str] = []
    nursery = Nursery(tmp_path / "n", say=said.append, preload=(SLOW,))
    warming = asyncio.create_task(nursery.warm())
    await until(lambda: bool(importing(slow)))
    (pid,) = importing(slow)
    nursery.close()
    await until(lambda: gone(pid))
    await asyncio.wait_for(warming, TIMEOUT_S)  # who waited for it is told
    assert said == []
    assert len(importing(slow)) == 1, "no other was started"


@in_loop
async def test_whoever_stops_waiting_for_the_import_leaves_no_server_behind(tmp_path: Path, slow: Path) -> None:
    nursery = Nursery(tmp_path / "n", say=print, preload=(SLOW,))
    warming = asyncio.create_task(nursery.warm())
    await until(lambda: bool(importing(slow)))
    (pid,) = importing(slow)
    warming.cancel()
    await asyncio.wait([warming])
    nursery.close()
    await until(lambda: gone(pid))


@in_loop
async def test_a_start_given_up_before_the_process_is_there_leaves_none(tmp_path: Path, slow: Path) -> None:
    before = _servers(slow)
    for turns in range(8):
        starting = asyncio.create_task(ForkServer((SLOW,), tmp_path / "log").start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
    await until(lambda: _servers(slow) <= before)


def _servers(folder: Path) -> set[int]:
    """The fork servers of this test, by what is in their environment."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"SLOW_TO_IMPORT_FOLDER={folder}".encode() in (
                entry / "environ"
            ).read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:  # gone meanwhile, or another user's
            continue
    return found - {os.getpid()}


DAEMON = """
import asyncio, sys
from pathlib import Path
from daemon.nursery import Nursery
async def main():
    nursery = Nursery(Path(sys.argv[1]), say=print, preload=(sys.argv[2],))
    await nursery.warm()
asyncio.run(main())
"""


@in_loop
async def test_a_server_whose_daemon_was_killed_while_it_imported_ends_at_the_latest_when_it_has(
    tmp_path: Path, slow: Path
) -> None:
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", DAEMON, str(tmp_path / "n"), SLOW)
    await until(lambda: bool(importing(slow)))
    (pid,) = importing(slow)
    daemon.kill()
    await daemon.wait()
    go(slow)
    await until(lambda: gone(pid))
