"""The processes below a shim: adopted, waited for, ended together; and what is said of one that failed. No protocol."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import Final

PR_SET_CHILD_SUBREAPER: Final = 36
TAIL_BYTES: Final = 4096
# By signal, what is not the program's own fault, and so may be tried again. Any other is, and so is a status.
FAILURE_BY_SIGNAL: Final = {
    signal.SIGKILL: "memory",
    signal.SIGTERM: "internal",
    signal.SIGINT: "internal",
    signal.SIGHUP: "internal",
}


def adopt() -> None:
    """Become the parent of every orphan below this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def failure(status: int) -> tuple[str, str]:
    """The protocol's kind and the reason, of a program that ended with `status`: a code, or -N for signal N."""
    if status >= 0:
        return "program", f"the program exited with status {status}"
    kind = FAILURE_BY_SIGNAL.get(signal.Signals(-status), "program")
    reason = f"the program was killed by {signal.Signals(-status).name}"
    return kind, reason + (", as the kernel does when memory runs out" if kind == "memory" else "")


def wake_on_child() -> int:
    """The read end of a pipe that SIGCHLD writes to. SIGTERM is noted there too: it is for the program."""
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not SIG_IGN: the program would inherit that
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    return wake_r


def kill_descendants() -> None:
    """End all that the program left running. Orphans come to this process, so they are its children now."""
    while True:
        try:
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        except ProcessLookupError:
            continue


def _children() -> list[int]:
    """Zombies included. A look at every process: /proc/PID/task/TID/children is not in every kernel."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # that one ended meanwhile, so it is no child of ours
            if int(stat.read_bytes().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(stat.parent.name))
    return found


def cannot_start(argv: list[str], error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.filename != argv[0]:
        return f"cannot start {argv[0]!r}: the folder {error.filename} does not exist; set cwd"
    if isinstance(error, FileNotFoundError):
        return f"cannot start {argv[0]!r}: there is no such program; put it on PATH or give its whole path in run"
    return f"cannot start {argv[0]!r}: {error.strerror}"


def exit_status(status: int) -> int:
    """A shell's way to say a signal in an exit status."""
    return status if status >= 0 else 128 - status


def last_line(start: int) -> str:
    """The last line that the program left in its log, which is this process's standard error."""
    try:
        with open("/proc/self/fd/2", "rb") as log:  # noqa: PTH123 - a descriptor's name, reopened for reading
            size = log.seek(0, os.SEEK_END)
            log.seek(max(start, size - TAIL_BYTES) if size >= start else max(0, size - TAIL_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:  # a terminal or a pipe: not the daemon's log file
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:400]


def peak_bytes_of_children() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
