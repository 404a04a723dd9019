"""A real daemon on stand-in GPUs: sessions that hold their memory, what their ledger proves. Asserts no timing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from batond import HASTE, ROOT, TIMEOUT_S, Batond

from tests import gpu_program, nvml_stand_in
from tests.nvml_stand_in import Gpu, StandIn

GIB = 1 << 30
PROGRAM = ROOT / "tests" / "gpu_program.py"
CARD = Gpu(0, 8 * GIB)
FOR_EVER = 1_000_000  # items: until it is cancelled
EARLY_S = 100_000.0  # a lead: the next one is prepared as soon as it fits

Line = dict[str, Any]


class GpuHouse:
    """The daemon, the GPUs that it sees, and the ledger that all of its sessions write."""

    def __init__(self, batond: Batond, gpus: StandIn) -> None:
        self.batond = batond
        self.gpus = gpus
        self.path = batond.folder / "ledger.jsonl"
        self.path.touch()

    def program(self, name: str, gib: float, *flags: str, items: int = 40, **keys: Any) -> str:
        """A `[[session]]` table: a program that holds so much of its device from before it is ready until it ends.

        It states that as its `memory`, where the keys do not say otherwise.
        """
        command = [sys.executable, str(PROGRAM), "--name", name, "--ledger", str(self.path), "--prepare"]
        command += ["--items", str(items), "--bytes", str(int(gib * GIB)), *flags]
        table = {"name": name, "run": command, "prepare": True, "memory": f"{gib}GiB"} | keys
        return "[[session]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())

    def ledger(self, what: str | None = None, name: str | None = None) -> list[Line]:
        """The ledger so far; only what is asked for."""
        return [
            line
            for line in gpu_program.lines(self.path)
            if what in (None, line["what"]) and name in (None, line["name"])
        ]

    def claim(self, name: str) -> Line:
        """The one claim of a session that was started once: how much, of which device, and what was free before."""
        (claim,) = self.ledger("claim", name)
        return claim

    def items(self, name: str) -> list[int]:
        """Its items, as its output would have them: 0, 1, 2, … where nothing was lost or counted twice."""
        return gpu_program.items(self.ledger(), name)

    def computed(self, name: str, count: int) -> None:
        """Wait until a session has computed so many items."""
        wait(lambda: len(self.items(name)) >= count, f"{name} has computed {count} items")

    def lane(self, name: str = "gpu0") -> dict[str, Any]:
        """What `status` tells of a lane."""
        (lane,) = (lane for lane in self.batond.ctl("status")["lanes"] if lane["name"] == name)
        assert isinstance(lane, dict)
        return lane

    def moved(self, lane: str, state: str, times: int = 1) -> None:
        """Wait until a lane has come to a state so often."""
        self.batond.event("lane.moved", times=times, lane=lane, to=state)

    def all_done(self, **items: int) -> None:
        """Wait for the end of these sessions; all are done, each item exactly once, and none was out of memory."""
        self.batond.ended(*items)
        for name, count in items.items():
            assert self.batond.told("session.finished", session=name), f"{name} is not done"
            assert self.items(name) == list(range(count))
        assert self.ledger("oom") == []


@contextmanager
def gpu_house(folder: Path, *cards: Gpu | str, settings: str = "", limits: str = "") -> Iterator[GpuHouse]:
    """The whole of it in one folder, with these GPUs; skips the test where there is no C compiler.

    limits: keys of `[limits]` beside those that make tests quick.
    """
    gpus = nvml_stand_in.build(folder)
    if gpus is None:
        pytest.skip("needs a C compiler")
    gpus.show(*(cards or (CARD,)))
    with pytest.MonkeyPatch.context() as patch:
        for key, value in gpus.variables().items():
            patch.setenv(key, value)
        with Batond(folder, "--launcher", "exec", settings=f"{HASTE}{limits}\n{settings}") as batond:
            yield GpuHouse(batond, gpus)


@contextmanager
def stranger(gpus: StandIn, size: int) -> Iterator[int]:
    """A process of nobody's that holds memory of GPU 0; its pid."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        gpus.claim(process.pid, size)
        yield process.pid
    finally:
        process.communicate(b"")


def wait(holds: Callable[[], object], what: str) -> None:
    """Wait until this holds."""
    until = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < until, f"it did not come to be that {what}"
        time.sleep(0.02)
