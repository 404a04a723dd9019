"""Builds the stand-in NVML library, writes what its GPUs are, and runs Python with it. Asserts nothing.

    gpus = nvml_stand_in.build(folder)                      # None where there is no C compiler
    gpus.show(Gpu(0, 16 * GIB, temperature=40), "lag 0.5")  # whole or not at all; any process sees it at its next call
    gpus.claim(pid, 2 * GIB)                                # that process holds memory of GPU 0 until it ends
    gpus.claims()                                           # who holds what: of the living, and of the dead
    monkeypatch.setenv(...) or subprocess(env=gpus.environment())    # for a daemon that is to see these GPUs

Every line that `show` takes is told in fake_nvml.c. Sessions that claim memory themselves: gpu_program.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def uuid(index: int, mig: int | None = None) -> str:
    """What the stand-in calls a GPU, or one of its MIG instances."""
    if mig is None:
        return f"GPU-00000000-0000-0000-0000-{index:012d}"
    return f"MIG-00000000-0000-0000-{index:04d}-{mig:012d}"


@dataclass(frozen=True)
class Gpu:
    """One GPU as it is to be. Bytes. `used` is nobody's in particular; `status` is what its memory answers.

    A figure that is left out is not supported, but for the capability (8.6). `migs`: number, total and used of each.
    """

    index: int
    total: int
    used: int = 0
    status: int = 0
    name: str | None = None
    capability: str | None = None
    temperature: int | None = None
    utilisation: int | None = None
    reasons: int | None = None
    migs: tuple[tuple[int, int, int], ...] = ()

    def lines(self) -> Iterator[str]:
        """As the state file has it."""
        yield f"gpu {self.index} {self.total} {self.used} {self.status}"
        for number, total, used in self.migs:
            yield f"mig {self.index} {number} {total} {used}"
        for key in ("name", "capability", "temperature", "utilisation", "reasons"):
            if (value := getattr(self, key)) is not None:
                yield f"{key} {self.index} {value}"


@dataclass(frozen=True)
class Claim:
    """Memory of one device that a process holds, or held until it ended (`gone`)."""

    uuid: str
    pid: int
    size: int
    gone: bool


@dataclass(frozen=True)
class StandIn:
    """A folder with `libnvidia-ml.so.1` in it, the file its figures come from, and the claims on its memory."""

    folder: Path

    @property
    def state(self) -> Path:
        """The file of figures: see fake_nvml.c."""
        return self.folder / "gpus"

    def show(self, *what: Gpu | str) -> None:
        """Have these GPUs, and these other lines of the file, from now on; claims stay."""
        lines = [line for each in what for line in (each.lines() if isinstance(each, Gpu) else (each,))]
        _replace(self.state, "".join(f"{line}\n" for line in lines))

    def claim(self, pid: int, size: int, device: str = uuid(0), kind: str = "compute") -> None:
        """Let that process hold so much of the device, in place of what it held. kind: compute, graphics or mps."""
        self._claims.mkdir(exist_ok=True)
        _replace(self._claims / f"{device}.{pid}", f"{size} {kind}\n")

    def release(self, pid: int, device: str = uuid(0)) -> None:
        """Take back what that process holds of the device, or held."""
        for name in (f"{device}.{pid}", f"{device}.{pid}.gone"):
            (self._claims / name).unlink(missing_ok=True)

    def claims(self) -> list[Claim]:
        """Of every device; in no order."""
        found: list[Claim] = []
        for path in self._claims.glob("[GM]*.*") if self._claims.is_dir() else ():
            device, pid, *gone = path.name.split(".")
            try:
                found.append(Claim(device, int(pid), int(path.read_text().split()[0]), bool(gone)))
            except (FileNotFoundError, ValueError):  # it was renamed or removed, or is being written
                continue
        return found

    @property
    def _claims(self) -> Path:
        return self.folder / "claims"

    def environment(self) -> dict[str, str]:
        """For a process that is to find the stand-in and not NVIDIA's library."""
        return {**os.environ, **self.variables()}

    def variables(self) -> dict[str, str]:
        """What of that environment is the stand-in's own."""
        return {"LD_LIBRARY_PATH": str(self.folder), "FAKE_NVML": str(self.state)}

    def run(self, code: str) -> Any:
        """What `code` prints, as JSON, run by this interpreter with the stand-in; `gpus` is this very object in it."""
        prelude = (
            "import json, pathlib\nfrom tests.nvml_stand_in import Gpu, StandIn, uuid\n"
            f"gpus = StandIn(pathlib.Path({str(self.folder)!r}))\n"
        )
        done = subprocess.run(
            (sys.executable, "-c", prelude + code),
            env=self.environment(),
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    partial.rename(path)


def build(folder: Path) -> StandIn | None:
    """The library, compiled into `folder`; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "libnvidia-ml.so.1"
    source = str(HERE / "fake_nvml.c")
    subprocess.run(
        (compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), source), check=True
    )
    return StandIn(folder)
