"""What the daemon's readings of a GPU cost: the share of a core in quiet, at the start of a wait, and later in it.

`python bench/readings.py`: a real daemon on the tests' stand-in NVML, on any host with a C compiler. NVIDIA's driver
has a cost of its own on top: bench/gpu.py measures that.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

from gpu_house import CARD, GIB, gpu_house, stranger  # noqa: E402

from bench.house import cpu_s  # noqa: E402


def share(pid: int, seconds: float) -> str:
    """The share of a core that the process takes during these seconds."""
    began, before = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return f"{100 * (cpu_s(pid) - before) / (time.monotonic() - began):.2f} % of a core"


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder, gpu_house(Path(folder), CARD) as house:
        pid = house.batond.process.pid
        time.sleep(3)  # it has just started
        print("in quiet                 ", share(pid, 20))
        with stranger(house.gpus, 6 * GIB):
            house.batond.submit(house.program("a", 5))
            time.sleep(0.5)
            print("in the first seconds     ", share(pid, 2))
            time.sleep(1.5)
            print("later in the same wait   ", share(pid, 30))
        house.all_done(a=40)


if __name__ == "__main__":
    main()
