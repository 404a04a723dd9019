"""Sessions' log files: appended to by every attempt, trimmed under their writers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from daemon import workers as workers_module
from daemon import worklogs
from daemon.sessionfile import SessionSpec
from states.events import Exited, Ready
from tests.shell.crew_scene import Scene, in_loop


@in_loop
async def test_all_attempts_append_to_one_log(tmp_path: Path) -> None:
    async with Scene(tmp_path) as scene:
        for generation in (1, 2):
            run = ("sh", "-c", f"echo out {generation}; echo err {generation} >&2")
            scene.start(SessionSpec(name="s", run=run, cwd=str(tmp_path)), generation)
            await scene.fact(Ready, generation)
            scene.crew.go(generation)
            assert (await scene.fact(Exited, generation)).status == 0
        assert scene.crew.log_path("s").read_text() == "out 1\nerr 1\nout 2\nerr 2\n"


@in_loop
async def test_a_log_is_trimmed_under_a_worker_that_writes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "TRIM_INTERVAL_S", 0.05)
    code = "import time\nfor n in range(60): print('x' * 1000, n, flush=True); time.sleep(0.01)\nprint('the end')"
    cuts: list[tuple[str, int]] = []
    async with Scene(tmp_path, log_limit_bytes=20_000) as scene:
        scene.crew.trimmed = lambda session, cut_bytes: cuts.append((session, cut_bytes))
        scene.start(SessionSpec(name="s", run=(sys.executable, "-S", "-c", code), cwd=str(tmp_path)))
        await scene.fact(Ready, 1)
        scene.crew.go(1)
        assert (await scene.fact(Exited, 1)).status == 0
        lines = scene.crew.log_path("s").read_text().splitlines()
    assert sum(len(line) + 1 for line in lines) <= 20_000
    assert lines[-1] == "the end"
    assert all(len(line) > 1000 for line in lines[:-1]), "whole lines, and no hole in the file"
    numbers = [int(line.split()[1]) for line in lines[:-1]]
    assert numbers == sorted(numbers)
    assert cuts, "whoever reads the file is told"
    assert all(session == "s" and cut_bytes >= 10_000 for session, cut_bytes in cuts)


def test_trimming_keeps_the_newest_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert worklogs.trim(log, 10) == 0
    log.write_text("".join(f"{n:03}\n" for n in range(100)))
    assert worklogs.trim(log, 400) == 0
    assert worklogs.trim(log, 100) == 4 * 88
    assert log.read_text() == "".join(f"{n:03}\n" for n in range(88, 100))
