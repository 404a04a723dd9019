"""A disk of the workers' log files that is full, really: what they could not write is told to be lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
NAMESPACE: Final = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
LIFE: Final = """
import asyncio, json, subprocess, sys
from pathlib import Path
from daemon.transcript import Transcript

async def life(folder):
    told = []
    logs = folder / "logs"
    logs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", logs], check=True)
    ballast = logs / "ballast"
    transcript = Transcript(lambda name: logs / f"{name}.log", told.append, folder / "kept", wanted=False)

    def fill():
        try:
            with ballast.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        except OSError:
            pass

    transcript.begin("a", "cpu", 1)
    transcript._tick()
    counts = [len(told)]
    fill()
    transcript._tick()
    transcript._tick()
    counts.append(len(told))
    ballast.unlink()
    transcript._tick()
    fill()
    transcript.ended(1)
    counts.append(len(told))
    print(json.dumps([counts, [(each.event, each.session, each.folder) for each in told]]))

asyncio.run(life(Path(sys.argv[1])))
"""


def test_a_full_disk_of_log_files_is_told_once_and_again_after_there_was_room(tmp_path: Path) -> None:
    """Whether output is wanted in the log or not: the file is the only place that it has."""
    try:
        subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", tmp_path], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", LIFE, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts, told = json.loads(done.stdout)
    assert counts == [0, 1, 2]
    assert told == [["output.lost", "a", str(tmp_path / "logs")]] * 2
