"""One started process and its process group: seen by pidfd, signalled, waited for. Starts none; knows no session.

Every process here leads a process session of its own (setsid), so its pid is also its group's number.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from daemon.remains import Remains

LEFT_POLL_S: Final = 0.005  # the first look at what a dead worker left; each next one twice as late
LEFT_POLL_CAP_S: Final = 0.2
STATUS_TIMEOUT_S: Final = 2.0  # for the parent of a process that is dead to say how it ended


class CannotStartError(Exception):
    """Why there is no process: one line."""


class Process:
    """A living process. `exited` gives its exit status: a code, −N for signal N, None where nobody could wait for it.

    That comes when all that the process left running is gone too: until then it may write what the next one writes.
    `pid` and `started` (clock ticks since boot) are its identity; None: it was gone before it could be looked at.
    """

    def __init__(self, pid: int, pidfd: int, *, reap: Callable[[], int] | None = None) -> None:
        """Watch `pid`, taking over `pidfd`. `reap` waits for our own child; None: its parent calls `report`."""
        self.pid = pid
        self.started = started(pid)
        self._pidfd = pidfd
        self._reap = reap
        self._loop = asyncio.get_running_loop()
        self._status_timer: asyncio.TimerHandle | None = None
        self._orphan = False
        self._reported = False
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(pidfd, self._died)

    def __repr__(self) -> str:
        return f"<process {self.pid}>"

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group; none when they are gone."""
        if self._reported:
            self._sweep(number)
            return
        try:
            signal.pidfd_send_signal(self._pidfd, 0)  # a zombie still holds its number; one that is reaped does not
        except ProcessLookupError:
            self._sweep(number)
            return
        _kill_group(self.pid, number)

    def group(self) -> tuple[int, ...]:
        """The process and its descendants, as far as they live."""
        if self.started is None or started(self.pid) != self.started:
            return ()
        return (self.pid, *descendants(self.pid))

    def report(self, status: int | None) -> None:
        """The parent says how the process ended. Only the first report counts."""
        if self._reported:
            return
        self._reported = True
        if self._status_timer is not None:
            self._status_timer.cancel()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        in_order = status is not None and status >= 0  # so was a shim, and it has ended all that was below it
        self._tell(status, Remains(self.pid, self.started, strays=not in_order), LEFT_POLL_S)

    def orphaned(self) -> None:
        """The parent is gone: nobody will say how the process ends. Only that it ended will be seen."""
        self._orphan = True
        if self._status_timer is not None and not self._reported:
            self._lost()

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._reap is not None:
            _kill_group(self.pid, signal.SIGKILL)  # before it is reaped: until then the group's number is surely ours
            self.report(self._reap())
        elif self._orphan:
            self._lost()
        else:
            self._status_timer = self._loop.call_later(STATUS_TIMEOUT_S, self._lost)

    def _lost(self) -> None:
        self.report(None)

    def _tell(self, status: int | None, left: Remains, again_s: float) -> None:
        """Say how it ended, once nothing is left of it: without a limit, as of the process itself."""
        if self.exited.done():  # nobody waits any more
            return
        if left.end():
            self.exited.set_result(status)
        else:
            self._loop.call_later(again_s, self._tell, status, left, min(2 * again_s, LEFT_POLL_CAP_S))

    def _sweep(self, number: signal.Signals) -> None:
        """Signal what is left of the group of a leader that is gone.

        The kernel gives no new process the number of a group that has members. So if a process has it, the
        group was empty, and the number is somebody else's now; if none has it, who is in the group is ours.
        """
        if not psutil.pid_exists(self.pid):
            _kill_group(self.pid, number)


def _kill_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # empty; or a member that changed its user, and is out of reach
        os.killpg(group, number)


_CHILDREN_ARE_LISTED: Final = Path("/proc/thread-self/children").exists()


def descendants(pid: int, *, listed: bool = _CHILDREN_ARE_LISTED) -> tuple[int, ...]:
    """The living processes below this one.

    By the kernel's own lists of children, where it keeps them (CONFIG_PROC_CHILDREN). Without, psutil reads every
    process of the host, and the daemon is deaf meanwhile. In such a list a process may be missing when a sibling of it
    ends just then (proc(5)): so each is read again until nothing new is in it.
    """
    if not listed:
        with suppress(psutil.Error):  # it is gone
            return tuple(child.pid for child in psutil.Process(pid).children(recursive=True))
        return ()
    found: list[int] = []
    parents = [pid]
    while parents:
        parent, known = parents.pop(), set[int]()
        while new := _children(parent) - known:
            known |= new
        found += known
        parents += known
    return tuple(found)


def _children(pid: int) -> set[int]:
    """Of all the process's threads."""
    folder = f"/proc/{pid}/task"
    found: set[int] = set()
    try:
        threads = os.listdir(folder)  # noqa: PTH208 - names are all it takes
    except OSError:  # it is gone
        return found
    for thread in threads:
        with suppress(OSError):  # this one is
            found.update(map(int, Path(folder, thread, "children").read_bytes().split()))
    return found


def signal_name(number: int) -> str:
    """As people call it."""
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")


def started(pid: int) -> int | None:
    """When the process started, in clock ticks since the host's boot; None when it is gone.

    With the pid it is an identity for as long as the host is up. The epoch would not do: clocks are set.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])  # field 22 of proc(5), counted after the name
