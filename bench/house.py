"""A real daemon to measure: its commands over one open line, what it uses of the host. Measures nothing itself."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import nvml_stand_in
from tests.e2e.batond import Batond, Event, stand_in
from tests.nvml_stand_in import Gpu

__all__ = ["Event", "House", "Line", "cpu_s", "house", "memory_mb", "stand_in"]

GIB = 1 << 30
HASTE = "[limits]\nbackoff_s = 0.1\n"


class House(Batond):
    """A daemon below one folder. Its log is not held against the schema: that is a test's, and takes its time."""

    def _conform(self) -> None:
        pass

    @property
    def pid(self) -> int:
        """The daemon's own process."""
        return self.process.pid

    def line(self) -> Line:
        """A client's connection."""
        return Line(self.socket)

    def handovers(self) -> list[Event]:
        """What it told of each handover."""
        return self.told("handover.completed")


class Line:
    """One client that asks and waits."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self._answers = self.socket.makefile("rb")

    def ask(self, method: str, **params: Any) -> Any:
        """The result of a method. Raises RuntimeError with what was refused."""
        self.socket.sendall(request(method, **params))
        return result(self._answers.readline())

    def raw(self, line: bytes) -> bytes:
        """The line that comes back for a line."""
        self.socket.sendall(line)
        return self._answers.readline()

    def close(self) -> None:
        """Hang up."""
        self._answers.close()
        self.socket.close()


def request(method: str, **params: Any) -> bytes:
    """A request as it stands on the socket."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n"


def result(line: bytes) -> Any:
    """What an answer holds."""
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"], answer["error"].get("data"))
    return answer["result"]


@contextmanager
def house(*options: str, gpus: int = 0, settings: str = "") -> Iterator[House]:
    """A running daemon in a folder of its own; with so many stand-in GPUs, else on the processor."""
    with tempfile.TemporaryDirectory(prefix="batond-bench-") as name:
        folder = Path(name)
        kept = dict(os.environ)
        try:
            if gpus:
                stand_ins = nvml_stand_in.build(folder)
                if stand_ins is None:
                    sys.exit("bench: stand-in GPUs need a C compiler; install one")
                stand_ins.show(*(Gpu(index, 16 * GIB) for index in range(gpus)))
                os.environ.update(stand_ins.variables())
            daemon = House(folder, *options, settings=HASTE + settings)
            with daemon:
                yield daemon
        finally:
            os.environ.clear()
            os.environ.update(kept)


def cpu_s(pid: int) -> float:
    """Seconds of processor that all threads of a process have used. Source: schedstat of proc(5), nanoseconds.

    (The ticks of `stat` are 10 ms: too coarse for what is nearly idle.) Threads that end meanwhile are not counted.
    """
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_mb(pid: int) -> dict[str, float]:
    """Resident and proportional memory of a process, in MB (1,000,000 bytes)."""
    found: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, value = line.partition(":")
        if key in ("Rss", "Pss", "Private_Dirty"):
            found[f"{key.lower()}_mb"] = round(int(value.split()[0]) * 1024 / 1e6, 1)
    return found
