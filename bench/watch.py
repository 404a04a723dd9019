"""What `batonctl watch` costs: one on a terminal, its share of a core; ten of them, what they add to the daemon's.

`python -m bench.watch`: about two minutes.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from bench.figures import ROOT, Figures, run
from bench.house import House, cpu_s, house, stand_in

WATCHERS: Final = 10
QUEUED: Final = 2000
SIZES: Final = {"80x24": (80, 24), "200x60": (200, 60)}
BUSY: Final = ("--item-ms", "20", "--commit-every", "100")  # what is shown of it changes at every look
SETTLE_S: Final = 4.0  # a watcher's own start


def measure(*, small: bool) -> Figures:
    """The cost of looking on, at a session that computes and a long queue."""
    seconds, queued, settle_s = (0.5, 20, 1.0) if small else (20.0, QUEUED, SETTLE_S)
    with house("--launcher", "exec") as daemon:
        daemon.submit("\n".join(stand_in(f"s{n}", daemon.folder, *BUSY, items=10**6) for n in range(queued)))
        daemon.event("session.started")
        figures: Figures = {"queued": queued, "watcher_core_percent": {}}
        for name, (columns, rows) in SIZES.items():
            with watching(daemon, columns, rows) as pid:
                time.sleep(settle_s)
                figures["watcher_core_percent"][name] = share(pid, seconds)
        alone = share(daemon.pid, seconds)
        with ExitStack() as watchers:
            for _ in range(WATCHERS):
                watchers.enter_context(watching(daemon, *SIZES["80x24"]))
            time.sleep(settle_s)
            watched = share(daemon.pid, seconds)
        figures["daemon_core_percent"] = {"alone": alone, f"with_{WATCHERS}_watchers": watched}
    return figures


def share(pid: int, seconds: float) -> float:
    """Per cent of a core that a process takes during these seconds."""
    began, used = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return round(100 * (cpu_s(pid) - used) / (time.monotonic() - began), 2)


@contextmanager
def watching(daemon: House, columns: int, rows: int) -> Iterator[int]:
    """A watcher on a terminal of that size that is read as fast as it is written; its process."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = (sys.executable, "-m", "daemon.cli", "--socket", str(daemon.socket), "watch")
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment)
    os.close(theirs)
    reader = threading.Thread(target=_drain, args=(ours,), daemon=True)
    reader.start()
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()
        reader.join()
        os.close(ours)


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # EIO: the other end is closed, which is how a terminal ends
        pass


if __name__ == "__main__":
    run("watch", measure, takes="about two minutes")
