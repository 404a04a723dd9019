"""Runs sessions the ways people run them without batond, and reads what they left. Compares nothing.

`scripts`: `python a.py && python b.py`. `spooler`: the same scripts by task-spooler, one at a time. `one_process`: one
process that loads the next model when the last is done. `thread`: one that loads it in a thread meanwhile, which is
the usual advice.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from bench.figures import OUT, ROOT
from bench.samples import Sample

TOOLS: Final = OUT.parent / "tools"
PACKAGE: Final = "task-spooler"

Job = tuple[Sample, int]  # a model, and how many items


@dataclass(frozen=True)
class Run:
    """What one way of running some sessions came to."""

    seconds: float  # from the first command to the end of the last
    sessions: tuple[dict[str, Any], ...]  # as competitor.py tells them, in their order

    @property
    def gaps_s(self) -> list[float]:
        """From the last item of each to the first one of the next."""
        return [after["began"] - before["ended"] for before, after in itertools.pairwise(self.sessions)]

    @property
    def late(self) -> int:
        """How often the next model was not loaded when a session had ended."""
        return sum(after["loaded"][1] > before["ended"] for before, after in itertools.pairwise(self.sessions))


def scripts(jobs: Sequence[Job]) -> Run:
    """`python a.py && python b.py && …`."""
    return _run(jobs, lambda ledger: _sh(" && ".join(shlex.join(_script(ledger, job)) for job in jobs)))


def one_process(jobs: Sequence[Job]) -> Run:
    """One process, the next model loaded after the last is done."""
    return _run(jobs, lambda ledger: _sh(shlex.join([*_script(ledger, *jobs), "--next", "after"])))


def thread(jobs: Sequence[Job], after: float = 0.0) -> Run:
    """One process, the next model loaded in a thread while the last still computes, from this share of it on."""
    more = ["--next", "thread", "--after", str(after)]
    return _run(jobs, lambda ledger: _sh(shlex.join([*_script(ledger, *jobs), *more])))


def spooler(jobs: Sequence[Job]) -> Run:
    """The scripts, queued in task-spooler. Raises FileNotFoundError where that is not to be had."""
    tsp = find_spooler()

    def queued(ledger: Path) -> None:
        environment = {**os.environ, "TS_SOCKET": str(ledger.parent / "tsp"), "TMPDIR": str(ledger.parent)}
        try:
            for job in jobs:
                subprocess.run([tsp, *_script(ledger, job)], env=environment, cwd=ROOT, check=True, capture_output=True)
            subprocess.run([tsp, "-w"], env=environment, check=True, capture_output=True)  # the last one queued
        finally:
            subprocess.run([tsp, "-K"], env=environment, check=True, capture_output=True)

    return _run(jobs, queued)


def find_spooler(*, fetch: bool = False) -> str:
    """The command. fetch: where the host has none, unpacked from Debian's package, without installing it."""
    found = shutil.which("tsp") or shutil.which("tsp", path=str(TOOLS / "usr" / "bin"))
    if fetch and found is None and shutil.which("apt-get") is not None:
        TOOLS.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=TOOLS, check=False, capture_output=True)
        for package in TOOLS.glob(f"{PACKAGE}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(TOOLS)], check=True)
        found = shutil.which("tsp", path=str(TOOLS / "usr" / "bin"))
    if found is None:
        raise FileNotFoundError(f"there is no tsp here; install {PACKAGE}")
    return found


Rivals: TypeAlias = dict[str, Callable[[Sequence[Job]], Run]]
RIVALS: Final[Rivals] = {
    "scripts": scripts,
    "spooler": spooler,
    "one_process": one_process,
    "thread": thread,
}


def available(*names: str, fetch: bool = True) -> Rivals:
    """Those of these ways, or all of them, that can be had here: the spooler may be missing."""
    chosen = {name: RIVALS[name] for name in names or RIVALS}
    if "spooler" in chosen:
        try:
            find_spooler(fetch=fetch)
        except FileNotFoundError as error:
            print(f"left out: {error}", file=sys.stderr)
            del chosen["spooler"]
    return chosen


def _script(ledger: Path, *jobs: Job) -> list[str]:
    what = [f"{sample.path}={items}" for sample, items in jobs]
    return [sys.executable, "-m", "bench.competitor", "--ledger", str(ledger), *what]


def _sh(command: str) -> None:
    ran = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise RuntimeError(f"{command}: status {ran.returncode}: {ran.stderr[-2000:]}")


def _run(jobs: Sequence[Job], act: Callable[[Path], None]) -> Run:
    with tempfile.TemporaryDirectory(prefix="batond-bench-") as folder:
        ledger = Path(folder) / "ledger.jsonl"
        began = time.monotonic()
        act(ledger)
        seconds = time.monotonic() - began
        sessions = tuple(json.loads(line) for line in ledger.read_text().splitlines())
    assert len(sessions) == len(jobs), f"{len(sessions)} of {len(jobs)} sessions ended"
    return Run(seconds, sessions)
