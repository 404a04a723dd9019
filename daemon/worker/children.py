"""The processes below a shim: adopted, waited for, ended together; and what is said of one that failed. No protocol."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
MARK: Final = "BATON_SHIM"  # in the environment of all that a shim starts; daemon/remains.py looks for it
TAIL_BYTES: Final = 4096
# By signal, what is not the program's own fault, and so may be tried again. Any other is, and so is a status.
FAILURE_BY_SIGNAL: Final[dict[int, str]] = {
    signal.SIGKILL: "internal",
    signal.SIGTERM: "internal",
    signal.SIGINT: "internal",
    signal.SIGHUP: "internal",
}


def adopt() -> None:
    """Become the parent of every orphan below this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(argv: list[str], *, cwd: str | None, environment: dict[str, str], channel_fd: int) -> int:
    """Start a program in this process's group, with `channel_fd` as its BATON_FD; its pid. Raises OSError.

    It does not outlive this process: the kernel kills it (not what runs with another user's rights: an exec of such a
    program undoes that). What it starts itself the daemon ends then, by group and mark.
    """
    child = subprocess.Popen(
        argv,
        cwd=cwd,
        env={**environment, "BATON_FD": str(channel_fd), MARK: mark()},
        pass_fds=(channel_fd,),
        preexec_fn=_dying_with(os.getpid()),  # safe: this process has one thread
    )
    child.returncode = 0  # it is waited for here, with all that it may orphan: subprocess is not to wait for it
    return child.pid


def _dying_with(parent: int) -> Callable[[], None]:
    prctl = ctypes.CDLL(None).prctl

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before: that signal will not come
            os.kill(os.getpid(), signal.SIGKILL)

    return bind


def mark() -> str:
    """This process and no other, for as long as the host is up: its number, and the tick it started in."""
    stat = Path("/proc/self/stat").read_bytes()
    return f"{os.getpid()}.{int(stat.rpartition(b')')[2].split()[19])}"  # field 22 of proc(5), counted after the name


def buried() -> dict[int, int]:
    """Every child that has ended, and was waited for now: how, a code or −N for signal N."""
    ended: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def failure(status: int, oom_kills: int) -> tuple[str, str]:
    """The protocol's kind and the reason, of a program that ended with `status`: a code, or -N for signal N.

    oom_kills: how many processes the kernel has ended for lack of memory while the program ran.
    """
    if status >= 0:
        return "program", f"the program exited with status {status}"
    reason = f"the program was killed by {_signal_name(-status)}"
    if status == -signal.SIGKILL and oom_kills > 0:
        return "memory", f"{reason}, and the kernel has ended processes for lack of memory meanwhile"
    return FAILURE_BY_SIGNAL.get(-status, "program"), reason


def oom_kills() -> int:
    """How many processes of this host the kernel has ended so far because memory, or a cgroup's share of it, ran out.

    Source: `oom_kill` of /proc/vmstat, since Linux 4.13; 0 where it does not say.
    """
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


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
    """End all that the program left running. Orphans come to this process, so they are its children now.

    Returns when they are gone: until then they may write. One with another user's rights is out of reach, and left.
    """
    while True:
        killed = False
        for pid in _children():
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed = True
        if not killed:
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


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
