"""Builds the stand-in NVML library, and runs Python with it in place of NVIDIA's. Asserts nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class StandIn:
    """A folder with `libnvidia-ml.so.1` in it, and the file its figures come from."""

    folder: Path

    @property
    def state(self) -> Path:
        """The file of figures: see fake_nvml.c."""
        return self.folder / "gpus"

    def environment(self) -> dict[str, str]:
        """For a process that is to find the stand-in and not NVIDIA's library."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "FAKE_NVML": str(self.state)}

    def run(self, code: str) -> Any:
        """What `code` prints, as JSON, run by this interpreter with the stand-in; `state` is the file of figures."""
        command = (sys.executable, "-c", f"import json, pathlib\nstate = pathlib.Path({str(self.state)!r})\n{code}")
        done = subprocess.run(
            command, env=self.environment(), cwd=HERE.parent, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def build(folder: Path) -> StandIn | None:
    """The library, compiled into `folder`; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "libnvidia-ml.so.1"
    source = str(HERE / "fake_nvml.c")
    subprocess.run((compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), source), check=True)
    return StandIn(folder)
