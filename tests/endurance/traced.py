"""The daemon with its heaps measured: each `SIGUSR1` writes what they hold; by-hand diagnosis, nothing is asserted.

Started by `Marathon(trace=…)`. Where allocations are traced (slow, and it makes the process larger), what is held now
and was not at the first look is written too, by line of code and by type.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sqlite3
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

from daemon.__main__ import main

REPORT, FRAMES = "BATOND_TRACE", "BATOND_TRACE_FRAMES"  # in the environment
LINES = 25


class _Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *(
                "arena",
                "ordblks",
                "smblks",
                "hblks",
                "hblkhd",
                "usmblks",
                "fsmblks",
                "uordblks",
                "fordblks",
                "keepcost",
            ),
        )
    )


class Trace:
    """What is held, look by look."""

    def __init__(self, report: Path) -> None:
        self._report = report
        self._first: tracemalloc.Snapshot | None = None
        self._objects: Counter[str] = Counter()
        self._sqlite = ctypes.CDLL(sys.modules["_sqlite3"].__file__)
        self._sqlite.sqlite3_memory_used.restype = ctypes.c_int64
        self._malloc = ctypes.CDLL(None).mallinfo2
        self._malloc.restype = _Heap
        report.write_text("")

    def look(self, *_: object) -> None:
        """Write it down."""
        gc.collect()
        heap = self._malloc()
        figures = {
            "python blocks": sys.getallocatedblocks(),
            "sqlite KiB": self._sqlite.sqlite3_memory_used() >> 10,
            "malloc in use KiB": (heap.uordblks + heap.hblkhd) >> 10,
            "malloc free KiB": heap.fordblks >> 10,
            "objects": len(gc.get_objects()),
        }
        lines = ["  ".join(f"{name} {value}" for name, value in figures.items())]
        if tracemalloc.is_tracing():
            lines += self._allocations()
        with self._report.open("a") as report:
            report.write("\n".join(lines) + "\n")

    def _allocations(self) -> list[str]:
        own = tracemalloc.Filter(inclusive=False, filename_pattern=tracemalloc.__file__)
        now = tracemalloc.take_snapshot().filter_traces((own,))
        objects = Counter(type(each).__name__ for each in gc.get_objects())
        if self._first is None:
            self._first, self._objects = now, objects
            return []
        lines = [str(each) for each in now.compare_to(self._first, "lineno")[:LINES]]
        for each in now.compare_to(self._first, "traceback")[:3]:
            lines += ["", f"{each.size_diff} bytes in {each.count_diff} blocks", *each.traceback.format()]
        return [*lines, "", *map(str, (objects - self._objects).most_common(LINES))]


if __name__ == "__main__":
    assert sqlite3.sqlite_version  # imported: its library is the one that is asked
    trace = Trace(Path(os.environ[REPORT]))
    if int(os.environ.get(FRAMES, "0")):
        tracemalloc.start(int(os.environ[FRAMES]))
    signal.signal(signal.SIGUSR1, trace.look)
    main()
