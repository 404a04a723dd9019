"""How much of the host a process gets beside others: lowered while it prepares, raised when it is to compute.

Knows no session. Priorities are a thread's, so a change goes to every thread of every process given.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import threading
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

_LOWEST: Final = 19
_OOM_STANDBY: Final = 500  # of 1000: when the host runs out of memory, the standby dies and not the running session
_SYS_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "ppc64le": 273, "s390x": 282, "riscv64": 30}.get(
    platform.machine()
)
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_NORMAL: Final = 0  # class "none": as the CPU priority says
_IOPRIO_IDLE: Final = 3 << 13
_INITIAL_NAMESPACE: Final = "cgroup:[4026531835]"  # PROC_CGROUP_INIT_INO of the kernel
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Method(Enum):
    """How the CPU share of a process is lowered on this host. Each of them can be undone here."""

    AUTOGROUP = "autogroup"  # one figure for a process session; needs no privilege in either direction
    BOTH = "autogroup and SCHED_IDLE"  # a thread that wakes takes a core that only idle ones use for a free one
    IDLE = "SCHED_IDLE"
    NICE = "nice"
    NONE = "none"  # nothing here could be undone again


def probe() -> Method:
    """The best method that has an effect here and an unprivileged way back, tried on a scratch thread."""
    found: list[Method] = []
    thread = threading.Thread(target=lambda: found.append(_probe_here()), name="priority-probe")
    thread.start()
    thread.join()
    of_threads = found[0] if found else Method.NONE
    if autogroup_counts():
        return Method.BOTH if of_threads is Method.IDLE else Method.AUTOGROUP
    return of_threads


def autogroup_counts() -> bool:
    """Whether this process's autogroup has any say: the scheduler asks it only outside of cgroups that share the CPU.

    A service, or a container, mostly is inside of one: then its figure can be written, and means nothing.
    """
    with suppress(OSError):
        enabled = Path("/proc/sys/kernel/sched_autogroup_enabled").read_text().strip() == "1"
        if enabled and Path("/proc/self/autogroup").exists():
            namespace = os.readlink("/proc/self/ns/cgroup")  # noqa: PTH115 - a name, no path
            memberships = Path("/proc/self/cgroup").read_text()
            return not shares_cpu(memberships, Path("/sys/fs/cgroup"), whole=namespace == _INITIAL_NAMESPACE)
    return False


def shares_cpu(memberships: str, mounted: Path, *, whole: bool) -> bool:
    """Whether a process with these lines of /proc/PID/cgroup is in a cgroup that gets its own share of the CPU.

    mounted: where the hierarchies are. whole: `/` is the host's root, and not that of a cgroup namespace.
    """
    for line in memberships.splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):  # version 1
            root = next((mounted / name for name in (controllers, "cpu") if (mounted / name).is_dir()), None)
            if path != "/":
                return True
            # A namespace calls its own root `/` too; only the host's has this file.
            return not (whole or (root is not None and (root / "release_agent").exists()))
        if controllers == "":  # version 2, where a group takes part only if the controller is on in its parent
            group = mounted / path.lstrip("/")
            if any((each / "cpu.weight").exists() for each in (group, *group.parents) if each.is_relative_to(mounted)):
                return True
    return False


def _probe_here() -> Method:
    """Tries both on the calling thread, which may stay at the bottom for ever: it must have nothing else to do."""
    me = threading.get_native_id()
    for method in (Method.NICE, Method.IDLE):
        with suppress(OSError):
            _set_thread(me, method, low=True)
            _set_thread(me, method, low=False)
            if method is Method.NICE:  # who may come back from 19 may come back from SCHED_IDLE, where it is known
                with suppress(OSError):
                    _set_thread(me, Method.IDLE, low=True)
                    _set_thread(me, Method.IDLE, low=False)
                    return Method.IDLE
            return method
    return Method.NONE


def apply(leader: int, members: tuple[int, ...], method: Method, *, low: bool) -> bool:
    """Lower or raise the process session of `leader`, and all threads of its `members`.

    False where the kernel asks to come back later: it allows ten changes of an autogroup a second in all.
    A process that ended meanwhile is passed over.
    """
    for pid in members:
        seen: set[int] = set()
        while new := _threads(pid) - seen:  # one that was started meanwhile may have inherited what is changed here
            for tid in new:
                _set_io(tid, low=low)
                if method in (Method.IDLE, Method.BOTH, Method.NICE):
                    with suppress(OSError):  # gone; that it may be done was probed
                        _set_thread(tid, method, low=low)
            seen |= new
        _set_oom(pid, low=low)
    return method not in (Method.AUTOGROUP, Method.BOTH) or _set_autogroup(leader, low=low)


def _set_autogroup(pid: int, *, low: bool) -> bool:
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(_LOWEST if low else 0))
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def _set_thread(tid: int, method: Method, *, low: bool) -> None:
    if method in (Method.IDLE, Method.BOTH):
        os.sched_setscheduler(tid, os.SCHED_IDLE if low else os.SCHED_OTHER, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, tid, _LOWEST if low else 0)


def _set_io(tid: int, *, low: bool) -> None:
    """Failure is silent: an I/O class is a courtesy, and on most disks' schedulers has no effect at all."""
    if _SYS_IOPRIO_SET is not None:
        _libc.syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, tid, _IOPRIO_IDLE if low else _IOPRIO_NORMAL)


def _set_oom(pid: int, *, low: bool) -> None:
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    with suppress(OSError):  # gone
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(max(_OOM_STANDBY, int(own))) if low else own)


def _threads(pid: int) -> set[int]:
    try:
        return {int(name) for name in os.listdir(f"/proc/{pid}/task")}  # noqa: PTH208 - names are all it takes
    except OSError:
        return set()
