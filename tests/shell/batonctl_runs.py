"""Runs of the real `batonctl`. Asserts that none shows a traceback, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from daemon import views
from tests.shell.control_stage import PATIENCE_S, Stage, session_file

BATONCTL = (sys.executable, "-m", "daemon.cli")


def environment(path: Path | None, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("BATON_SOCKET", "NO_COLOR", "COLUMNS")}
    return kept | ({"BATON_SOCKET": str(path)} if path else {}) | {"PYTHONWARNINGS": "error", "TERM": "xterm"} | more


def batonctl(
    stage: Stage | Path | None, *arguments: str, text: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    path = stage.path if isinstance(stage, Stage) else stage
    done = subprocess.run(
        (*BATONCTL, *arguments),
        input=text,
        capture_output=True,
        text=True,
        env=environment(path, **more),
        timeout=PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def out(stage: Stage, *arguments: str, text: str = "") -> str:
    done = batonctl(stage, *arguments, text=text)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def submitted(stage: Stage, *names: str, **keys: str) -> str:
    return out(stage, "submit", "-", text=session_file(*names, **keys))


def ended(stage: Stage, name: str) -> None:
    stage.until(lambda world: name not in views.live_names(world))
